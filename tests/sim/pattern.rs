//! Connections subscribe to patterns and leave them.

use weir::core::hub::{Join, Left};
use weir::proto::name::ShardId;
use weir::proto::push::Push;
use weir::store::memory::Memory;
use weir::store::{Now, Store};

use crate::client::Answer;
use crate::model::Head;
use crate::world::{CHANNELS, KEYS, World};

impl World {
    pub(crate) fn subscribe_pattern(&mut self, index: usize, pattern: &'static str) {
        let policy = self.policy(index);
        let max_rate = self.rate();
        let prefix = pattern.trim_end_matches('*');
        let under = || CHANNELS.into_iter().filter(|channel| channel.starts_with(prefix));
        let connection = &mut self.connections[index];
        if connection.ending {
            return;
        }
        let before = connection.policies.insert(pattern, policy);
        connection.rates.insert(pattern, max_rate);
        for channel in under() {
            connection.client.asks(channel, policy, self.keys_max >= KEYS);
        }
        let (shard, seat) = (&mut self.shards[connection.shard], connection.seat);
        let updated = shard.hub.has_pattern(seat, prefix);
        self.store.subscribe_prefix(prefix, shard.id).unwrap();
        let position = (shard.in_hand.len() + self.mailboxes.depth(shard.id)) as u64;
        let join = Join { policy, position, keys_max: self.keys_max, max_rate };
        let which = (seat, prefix);
        let outcome = shard.hub.subscribe_pattern(which, join, &mut shard.net, self.now_ms);
        let snapshot = self.rng.u8(0..3) > 0 && self.keep.keys > 0 && !updated;
        if snapshot {
            shard.hub.browse(seat, prefix);
        }
        let shard = connection.shard;
        self.rerate(index);
        let mut heads = Vec::new();
        for channel in under() {
            let have = self.store.find(channel);
            let (alias, offset) = have.map_or((0, 0), |have| (have.alias.0, have.head.offset));
            let dead = self.logs.lives.get(channel).and_then(|lives| lives.last()).copied();
            let dead = dead.filter(|life| *life != alias);
            heads.push(Head { channel, alias, offset, dead });
        }
        let push = Push::SubscribedPattern { id: None, pattern, updated };
        self.answer(index, &push, Answer::Pattern { heads, snapshot });
        if let Some(before) = before.filter(|_| !outcome.overflowed.is_empty()) {
            // What was held back was under the policy before.
            self.connections[index].policies.insert(pattern, before);
        }
        self.settle(shard, outcome);
    }

    pub(crate) fn unsubscribe_pattern(&mut self, index: usize, pattern: &'static str) {
        let prefix = pattern.trim_end_matches('*');
        let connection = &mut self.connections[index];
        let shard = &mut self.shards[connection.shard];
        let which = (connection.seat, prefix);
        let ended = shard.hub.unsubscribe_pattern(which, &mut shard.net, self.now_ms);
        let Some((last, outcome)) = ended else { return };
        if last {
            self.store.unsubscribe_prefix(prefix, shard.id);
        }
        let shard = connection.shard;
        let policy = connection.policies.remove(pattern);
        connection.rates.remove(pattern);
        self.rerate(index);
        let push = Push::Unsubscribed { id: None, channel: pattern, why: None };
        self.answer(index, &push, Answer::Plain("unsubscribed"));
        if let Some(policy) = policy.filter(|_| !outcome.overflowed.is_empty()) {
            // What it has held back was under its own policy.
            self.connections[index].policies.insert(pattern, policy);
        }
        self.settle(shard, outcome);
    }
}

/// Tells the store what a seat has left.
pub(crate) fn leave(store: &Memory, shard: ShardId, (left, last): (Left<'_>, bool), now: Now) {
    match left {
        Left::Channel(channel) => store.unsubscribe(channel.as_str(), shard, last, now),
        Left::Prefix(prefix) if last => store.unsubscribe_prefix(prefix, shard),
        Left::Prefix(_) => {}
    }
}
