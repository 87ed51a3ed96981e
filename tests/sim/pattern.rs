//! Connections subscribe to patterns and leave them.

use weir::core::hub::{Join, Left};
use weir::proto::name::ShardId;
use weir::proto::push::Push;
use weir::store::memory::Memory;
use weir::store::{Now, Store};

use crate::client::{Answer, Head};
use crate::world::{CHANNELS, KEYS, World};

impl World {
    pub(crate) fn subscribe_pattern(&mut self, index: usize, pattern: &'static str) {
        let policy = self.policy(index);
        let prefix = pattern.trim_end_matches('*');
        let under = || CHANNELS.into_iter().filter(|channel| channel.starts_with(prefix));
        let connection = &mut self.connections[index];
        if connection.ending {
            return;
        }
        connection.policies.insert(pattern, policy);
        for channel in under() {
            connection.client.asks(channel, policy, self.keys_max >= KEYS);
        }
        let (shard, seat) = (&mut self.shards[connection.shard], connection.seat);
        let updated = shard.hub.has_pattern(seat, prefix);
        self.store.subscribe_prefix(prefix, shard.id).unwrap();
        let position = (shard.in_hand.len() + self.mailboxes.depth(shard.id)) as u64;
        let join = Join { policy, position, keys_max: self.keys_max, max_rate: None };
        shard.hub.subscribe_pattern(seat, prefix, join);
        let mut heads = Vec::new();
        for channel in under() {
            let have = self.store.find(channel);
            let (alias, offset) = have.map_or((0, 0), |have| (have.alias.0, have.head.offset));
            let dead = self.logs.lives.get(channel).and_then(|lives| lives.last()).copied();
            let dead = dead.filter(|life| *life != alias);
            heads.push(Head { channel, alias, offset, dead });
        }
        let push = Push::SubscribedPattern { id: None, pattern, updated };
        self.answer(index, &push, Answer::Pattern(heads));
    }

    pub(crate) fn unsubscribe_pattern(&mut self, index: usize, pattern: &'static str) {
        let prefix = pattern.trim_end_matches('*');
        let connection = &mut self.connections[index];
        let shard = &mut self.shards[connection.shard];
        let Some((last, _)) = shard.hub.unsubscribe_pattern(connection.seat, prefix) else {
            return;
        };
        if last {
            self.store.unsubscribe_prefix(prefix, shard.id);
        }
        connection.policies.remove(pattern);
        let push = Push::Unsubscribed { id: None, channel: pattern };
        self.answer(index, &push, Answer::Plain("unsubscribed"));
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
