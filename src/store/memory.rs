//! The default store: everything in this process, gone at its end.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::{ChannelInfo, Deliver, Joined, NewEvent, Now, Published, Store, Unavailable};
use crate::proto::event::Event;
use crate::proto::name::{Alias, ChannelName, ShardId};
use crate::proto::position::{Epoch, Position};

/// Locks that the channels are spread over. A power of two.
const SEGMENTS: usize = 256;

/// A channel without subscribers is freed after this long without an event, in milliseconds.
pub const IDLE_MS: u64 = 60_000;

/// The shards that have subscribers of a channel: at most 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ShardSet(u128);

impl ShardSet {
    fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard.0;
    }

    fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << shard.0);
    }

    fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            u16::try_from(index).ok().filter(|index| *index < 128).map(ShardId)
        })
    }
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    alias: Alias,
    head: Position,
    subscribers: u32,
    shards: ShardSet,
    /// The last event or subscription, node milliseconds.
    used_ms: u64,
}

type Segment = HashTable<Box<Channel>>;

/// The memory store.
pub struct Memory {
    segments: Box<[Mutex<Segment>]>,
    hasher: RandomState,
    deliver: Arc<dyn Deliver>,
    aliases: AtomicU32,
    /// The segment that the next sweep looks at.
    swept: AtomicUsize,
}

impl Memory {
    /// An empty store that hands events to `deliver`.
    pub fn new(deliver: Arc<dyn Deliver>) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            deliver,
            aliases: AtomicU32::new(1),
            swept: AtomicUsize::new(0),
        }
    }

    fn segment(&self, hash: u64) -> &Mutex<Segment> {
        // The table inside uses the low bits and the top seven; these are in between.
        let index = usize::try_from(hash >> 40).unwrap_or_default() % SEGMENTS;
        &self.segments[index]
    }

    fn channel<'a>(&self, segment: &'a mut Segment, hash: u64, name: &str) -> &'a mut Channel {
        segment
            .entry(
                hash,
                |channel| channel.name.as_str() == name,
                |channel| self.hasher.hash_one(channel.name.as_str()),
            )
            .or_insert_with(|| {
                let alias = Alias(self.aliases.fetch_add(1, Ordering::Relaxed));
                let epoch = Epoch::from_seed(fastrand::u64(..));
                Box::new(Channel {
                    // The caller has checked the name.
                    name: ChannelName::from_checked(name),
                    alias,
                    head: Position { epoch, offset: 0 },
                    subscribers: 0,
                    shards: ShardSet::default(),
                    used_ms: 0,
                })
            })
            .into_mut()
    }
}

impl Store for Memory {
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, Unavailable> {
        let hash = self.hasher.hash_one(&*event.channel);
        let mut segment = self.segment(hash).lock();
        let channel = self.channel(&mut segment, hash, &event.channel);
        channel.head.offset += 1;
        channel.used_ms = now.node_ns / 1_000_000;
        let mut crowded = None;
        if channel.shards != ShardSet::default() {
            let event = Arc::new(Event {
                channel: channel.name.clone(),
                alias: channel.alias,
                offset: channel.head.offset,
                ts_ms: now.unix_ms,
                taken_ns: now.node_ns,
                key: event.key,
                from: event.from,
                hidden_from: event.hidden_from,
                payload: event.payload,
                json_frame: OnceLock::new(),
            });
            for shard in channel.shards.iter() {
                if self.deliver.deliver(shard, Arc::clone(&event)) {
                    crowded = Some(shard);
                }
            }
        }
        Ok(Published { position: channel.head, crowded })
    }

    fn subscribe(&self, name: &str, shard: ShardId, now: Now) -> Result<Joined, Unavailable> {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        let channel = self.channel(&mut segment, hash, name);
        channel.subscribers += 1;
        channel.shards.insert(shard);
        channel.used_ms = now.node_ns / 1_000_000;
        let (channel, alias, head) = (channel.name.clone(), channel.alias, channel.head);
        Ok(Joined { channel, alias, head })
    }

    fn unsubscribe(&self, name: &str, shard: ShardId, last: bool, now: Now) {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        if let Some(channel) = segment.find_mut(hash, |channel| channel.name.as_str() == name) {
            channel.subscribers = channel.subscribers.saturating_sub(1);
            channel.used_ms = now.node_ns / 1_000_000;
            if last {
                channel.shards.remove(shard);
            }
        }
    }

    fn find(&self, name: &str) -> Option<Joined> {
        let hash = self.hasher.hash_one(name);
        let segment = self.segment(hash).lock();
        let channel = segment.find(hash, |channel| channel.name.as_str() == name)?;
        let (name, alias, head) = (channel.name.clone(), channel.alias, channel.head);
        Some(Joined { channel: name, alias, head })
    }

    fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo> {
        let mut found = Vec::new();
        for segment in &self.segments {
            let segment = segment.lock();
            let wanted = segment.iter().filter(|channel| {
                let name = channel.name.as_str();
                name.starts_with(prefix) && after.is_none_or(|after| name > after)
            });
            found.extend(wanted.map(|channel| ChannelInfo {
                channel: channel.name.clone(),
                subscribers: channel.subscribers,
                offset: channel.head.offset,
            }));
        }
        found.sort_unstable_by(|a, b| a.channel.cmp(&b.channel));
        found.truncate(limit);
        found
    }

    fn channel_count(&self) -> u64 {
        self.segments.iter().map(|segment| segment.lock().len() as u64).sum()
    }

    fn sweep(&self, now: Now) {
        let index = self.swept.fetch_add(1, Ordering::Relaxed) % SEGMENTS;
        let before_ms = (now.node_ns / 1_000_000).saturating_sub(IDLE_MS);
        let mut segment = self.segments[index].lock();
        segment.retain(|channel| channel.subscribers > 0 || channel.used_ms >= before_ms);
        if segment.capacity() > 64 && segment.len() < segment.capacity() / 4 {
            segment.shrink_to_fit(|channel| self.hasher.hash_one(channel.name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl Deliver for Nobody {
        fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
            false
        }
    }

    #[test]
    fn keeps_the_contract() {
        crate::store::conformance::check(|deliver| Box::new(Memory::new(deliver)));
    }

    #[test]
    fn idle_channels_are_freed_and_come_back_with_another_epoch() {
        let store = Memory::new(Arc::new(Nobody));
        let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
        let busy = store.subscribe("busy", ShardId(0), now(0)).unwrap();
        let idle = store.subscribe("idle", ShardId(0), now(0)).unwrap();
        store.unsubscribe("idle", ShardId(0), true, now(0));
        for _ in 0..SEGMENTS {
            store.sweep(now(IDLE_MS));
        }
        assert_eq!(store.channel_count(), 2, "not idle for long enough");
        for _ in 0..SEGMENTS {
            store.sweep(now(IDLE_MS + 1));
        }
        assert_eq!(store.channel_count(), 1);
        let again = store.subscribe("idle", ShardId(0), now(IDLE_MS + 2)).unwrap();
        assert_ne!(again.head.epoch, idle.head.epoch);
        assert_ne!(again.alias, idle.alias);
        assert_eq!(store.find("busy").unwrap().head, busy.head);
    }

    #[test]
    fn a_set_of_shards_holds_every_index() {
        let mut set = ShardSet::default();
        for shard in [0, 1, 63, 64, 127] {
            set.insert(ShardId(shard));
        }
        set.remove(ShardId(1));
        let all: Vec<u16> = set.iter().map(|shard| shard.0).collect();
        assert_eq!(all, [0, 63, 64, 127]);
    }
}
