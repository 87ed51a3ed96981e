//! The default store: everything in this process, gone at its end.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::prefixes::Prefixes;
use super::shard_set::ShardSet;
use super::{ChannelInfo, Deliver, Joined, NewEvent, Now, Published, Store, Unavailable};
use crate::proto::event::Event;
use crate::proto::name::{Alias, ChannelName, ShardId};
use crate::proto::position::{Epoch, Position};

/// Locks that the channels are spread over. A power of two.
const SEGMENTS: usize = 256;

/// A channel without subscribers, by name or by pattern, is freed after this long without an event,
/// in milliseconds.
pub const IDLE_MS: u64 = 60_000;

/// The most channels without subscribers by name in one segment, 1,048,576 in all. The least recently
/// used are freed beyond, so that whoever publishes under ever fresh names fills no memory.
/// Channels with subscribers are bounded by the limit on subscriptions.
const IDLE_MAX: usize = 4_096;

/// How many channels are freed at once, so that looking at all of them is paid by as many fresh
/// ones.
const IDLE_FREED: usize = IDLE_MAX / 8;

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    alias: Alias,
    head: Position,
    subscribers: u32,
    shards: ShardSet,
    /// The shards that have it by pattern, as of this generation of the prefixes.
    by_pattern: ShardSet,
    generation: u64,
    /// The last event or subscription, node milliseconds.
    used_ms: u64,
}

/// The channels behind one lock. `idle` is how many of them have no subscribers, at most
/// [`IDLE_MAX`] whenever the lock is free.
#[derive(Debug, Default)]
struct Segment {
    channels: HashTable<Box<Channel>>,
    idle: usize,
}

impl Segment {
    fn find(&self, hash: u64, name: &str) -> Option<&Channel> {
        self.channels.find(hash, |channel| channel.name.as_str() == name).map(|found| &**found)
    }

    /// Makes room for one more idle channel, where there is none, by freeing the least recently
    /// used.
    fn make_room(&mut self) {
        if self.idle < IDLE_MAX {
            return;
        }
        let excess = self.idle - IDLE_MAX + IDLE_FREED;
        let idle = self.channels.iter().filter(|channel| channel.subscribers == 0);
        let mut used: Vec<u64> = idle.map(|channel| channel.used_ms).collect();
        let (older, last_ms, _) = used.select_nth_unstable(excess - 1);
        let last_ms = *last_ms;
        // Many were used in the same millisecond: of those only as many as needed.
        let mut ties = excess - older.iter().filter(|used_ms| **used_ms < last_ms).count();
        self.retain(|channel| match channel.used_ms.cmp(&last_ms) {
            Less => false,
            Equal if ties > 0 => {
                ties -= 1;
                false
            }
            Equal | Greater => true,
        });
    }

    /// Frees the channels without subscribers that `keep` does not want.
    fn retain(&mut self, mut keep: impl FnMut(&mut Channel) -> bool) {
        let before = self.channels.len();
        self.channels.retain(|channel| channel.subscribers > 0 || keep(channel));
        self.idle -= before - self.channels.len();
    }
}

impl Channel {
    /// The shards that have it by pattern.
    fn by_pattern(&mut self, prefixes: &Prefixes) -> ShardSet {
        // Under the lock of the segment: a shard that has changed from a name to a pattern, or
        // back, is always in one of the two sets.
        if self.generation != prefixes.generation() {
            (self.by_pattern, self.generation) = prefixes.of(self.name.as_str());
        }
        self.by_pattern
    }
}

/// The memory store.
pub struct Memory {
    segments: Box<[Mutex<Segment>]>,
    prefixes: Prefixes,
    hasher: RandomState,
    deliver: Arc<dyn Deliver>,
    aliases: AtomicU64,
    /// The segment that the next sweep looks at.
    swept: AtomicUsize,
}

impl Memory {
    /// An empty store that hands events to `deliver`.
    pub fn new(deliver: Arc<dyn Deliver>) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            prefixes: Prefixes::default(),
            hasher: RandomState::default(),
            deliver,
            aliases: AtomicU64::new(1),
            swept: AtomicUsize::new(0),
        }
    }

    fn segment(&self, hash: u64) -> &Mutex<Segment> {
        // The table inside uses the low bits and the top seven; these are in between.
        let index = usize::try_from(hash >> 40).unwrap_or_default() % SEGMENTS;
        &self.segments[index]
    }

    /// The channel of that name; a fresh one is idle.
    fn channel<'a>(&self, segment: &'a mut Segment, hash: u64, name: &str) -> &'a mut Channel {
        if segment.idle >= IDLE_MAX && segment.find(hash, name).is_none() {
            segment.make_room();
        }
        let (channels, idle) = (&mut segment.channels, &mut segment.idle);
        channels
            .entry(
                hash,
                |channel| channel.name.as_str() == name,
                |channel| self.hasher.hash_one(channel.name.as_str()),
            )
            .or_insert_with(|| {
                *idle += 1;
                let alias = Alias(self.aliases.fetch_add(1, Ordering::Relaxed));
                let epoch = Epoch::from_seed(fastrand::u64(..));
                Box::new(Channel {
                    // The caller has checked the name.
                    name: ChannelName::from_checked(name),
                    alias,
                    head: Position { epoch, offset: 0 },
                    subscribers: 0,
                    shards: ShardSet::default(),
                    by_pattern: ShardSet::default(),
                    generation: 0,
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
        let shards = channel.shards.or(channel.by_pattern(&self.prefixes));
        if !shards.is_empty() {
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
                frames: event.frames,
            });
            for shard in shards.iter() {
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
        let first = channel.subscribers == 0;
        channel.subscribers += 1;
        channel.shards.insert(shard);
        channel.used_ms = now.node_ns / 1_000_000;
        let (channel, alias, head) = (channel.name.clone(), channel.alias, channel.head);
        segment.idle -= usize::from(first);
        Ok(Joined { channel, alias, head })
    }

    fn unsubscribe(&self, name: &str, shard: ShardId, last: bool, now: Now) {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        // Before it is idle itself, so that it is not what is freed.
        segment.make_room();
        let Segment { channels, idle } = &mut *segment;
        if let Some(channel) = channels.find_mut(hash, |channel| channel.name.as_str() == name)
            && channel.subscribers > 0
        {
            channel.subscribers -= 1;
            channel.used_ms = now.node_ns / 1_000_000;
            if last {
                channel.shards.remove(shard);
            }
            *idle += usize::from(channel.subscribers == 0);
        }
    }

    fn subscribe_prefix(&self, prefix: &str, shard: ShardId) -> Result<(), Unavailable> {
        self.prefixes.subscribe(prefix, shard);
        Ok(())
    }

    fn unsubscribe_prefix(&self, prefix: &str, shard: ShardId) {
        self.prefixes.unsubscribe(prefix, shard);
    }

    fn find(&self, name: &str) -> Option<Joined> {
        let hash = self.hasher.hash_one(name);
        let segment = self.segment(hash).lock();
        let channel = segment.find(hash, name)?;
        let (name, alias, head) = (channel.name.clone(), channel.alias, channel.head);
        Some(Joined { channel: name, alias, head })
    }

    fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo> {
        // The first names so far, the last of them on top: only what enters is cloned, and what a
        // caller costs is bounded by what it asked for.
        let mut found = BinaryHeap::new();
        for segment in &self.segments {
            for channel in &segment.lock().channels {
                let name = channel.name.as_str();
                if !name.starts_with(prefix) || after.is_some_and(|after| name <= after) {
                    continue;
                }
                if found.len() >= limit {
                    let last = found.peek();
                    if last.is_none_or(|(last, ..): &(ChannelName, _, _)| last.as_str() <= name) {
                        continue;
                    }
                    found.pop();
                }
                found.push((channel.name.clone(), channel.subscribers, channel.head.offset));
            }
        }
        let sorted = found.into_sorted_vec().into_iter();
        sorted
            .map(|(channel, subscribers, offset)| ChannelInfo { channel, subscribers, offset })
            .collect()
    }

    fn channel_count(&self) -> u64 {
        self.segments.iter().map(|segment| segment.lock().channels.len() as u64).sum()
    }

    fn sweep(&self, now: Now) {
        let index = self.swept.fetch_add(1, Ordering::Relaxed) % SEGMENTS;
        let before_ms = (now.node_ns / 1_000_000).saturating_sub(IDLE_MS);
        let mut segment = self.segments[index].lock();
        segment.retain(|channel| {
            channel.used_ms >= before_ms || !channel.by_pattern(&self.prefixes).is_empty()
        });
        let channels = &mut segment.channels;
        if channels.capacity() > 64 && channels.len() < channels.capacity() / 4 {
            channels.shrink_to_fit(|channel| self.hasher.hash_one(channel.name.as_str()));
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
    fn idle_channels_of_a_pattern_are_kept_while_it_is_there() {
        let store = Memory::new(Arc::new(Nobody));
        let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
        let sweep = |ms| (0..SEGMENTS).for_each(|_| store.sweep(now(ms)));
        for name in ["a:b/c", "a:b", "b:c"] {
            store.subscribe(name, ShardId(0), now(0)).unwrap();
            store.unsubscribe(name, ShardId(0), true, now(0));
        }
        store.subscribe_prefix("a:b/", ShardId(0)).unwrap();
        store.subscribe_prefix("a:", ShardId(1)).unwrap();
        sweep(2 * IDLE_MS);
        assert_eq!((store.channel_count(), store.find("b:c")), (2, None));
        store.unsubscribe_prefix("a:", ShardId(1));
        sweep(2 * IDLE_MS);
        assert_eq!((store.channel_count(), store.find("a:b")), (1, None));
        store.unsubscribe_prefix("a:b/", ShardId(0));
        sweep(2 * IDLE_MS);
        assert_eq!(store.channel_count(), 0);
    }

    #[test]
    fn fresh_names_without_end_are_bounded_and_cost_the_oldest() {
        let store = Memory::new(Arc::new(Nobody));
        let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
        let put = |name: String, ms| {
            let payload = crate::proto::event::Payload::Json(Box::from(&b"1"[..]));
            let channel = std::borrow::Cow::Owned(name);
            let event = NewEvent {
                channel,
                key: None,
                payload,
                from: None,
                hidden_from: None,
                frames: crate::proto::encoder::Frames::default(),
            };
            store.publish(event, now(ms)).unwrap().position
        };
        let hash = |name: &str| store.hasher.hash_one(name);
        // All of one segment, which the others are like.
        let first = store.segment(hash("used:0"));
        let mut names = (0_u64..).map(|n| format!("used:{n}"));
        let mut names =
            names.by_ref().filter(|name| std::ptr::eq(store.segment(hash(name)), first));
        let kept = store.subscribe("used:0", ShardId(0), now(0)).unwrap();
        assert_eq!(names.next().unwrap(), "used:0");
        let oldest = names.next().unwrap();
        put(oldest.clone(), 0);
        let loved = names.next().unwrap();
        let love = put(loved.clone(), 0);
        for ms in 1..3 * IDLE_MAX as u64 {
            // Eight in each millisecond.
            put(names.next().unwrap(), ms / 8);
            assert_eq!(put(loved.clone(), ms / 8).epoch, love.epoch, "what is used stays");
            assert!(first.lock().idle <= IDLE_MAX);
        }
        let segment = first.lock();
        assert_eq!(segment.channels.len(), segment.idle + 1);
        assert!(segment.idle > IDLE_MAX - IDLE_FREED, "no more than needed: {}", segment.idle);
        drop(segment);
        assert!(store.find(&oldest).is_none());
        assert_eq!(store.find("used:0"), Some(kept), "what is subscribed to stays");
    }

    #[test]
    fn the_end_of_many_subscriptions_is_bounded_too() {
        let store = Memory::new(Arc::new(Nobody));
        let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
        let first = store.segment(store.hasher.hash_one("used:0"));
        let here = |name: &String| std::ptr::eq(store.segment(store.hasher.hash_one(name)), first);
        let names: Vec<_> = (0_u64..)
            .map(|n| format!("used:{n}"))
            .filter(here)
            .take(IDLE_MAX + IDLE_FREED)
            .collect();
        for name in &names {
            store.subscribe(name, ShardId(0), now(0)).unwrap();
        }
        assert_eq!(first.lock().idle, 0);
        assert_eq!(first.lock().channels.len(), names.len());
        for (name, ms) in names.iter().zip(1..) {
            store.unsubscribe(name, ShardId(0), true, now(ms));
            // It does not count below zero either.
            store.unsubscribe(name, ShardId(0), true, now(ms));
            assert!(store.find(name).is_some(), "the last used is not the one to go");
        }
        assert!(first.lock().idle <= IDLE_MAX);
        assert!(store.find(&names[0]).is_none());
    }
}
