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

#[cfg(feature = "sqlite")]
mod restore;
mod rules;

#[cfg(feature = "sqlite")]
pub(super) use restore::Restoring;

use super::kept::{Kept, Purse};
use super::prefixes::Prefixes;
use super::shard_set::ShardSet;
use super::{
    Begun, ChannelInfo, Deliver, Joined, NewEvent, Now, Published, Read, Reading, Store,
    StoreError, Wish,
};
use crate::core::browse::{Bookmark, Leaf, Listing};
use crate::core::history::Past;
use crate::proto::event::Event;
use crate::proto::name::{Alias, ChannelName, ShardId};
use crate::proto::position::{Epoch, Position};

/// Locks that the channels are spread over. A power of two.
const SEGMENTS: usize = 256;

/// A channel without subscribers, by name or by pattern, of whose events nothing is kept, is freed
/// after this long without an event or a reading, in milliseconds.
pub const IDLE_MS: u64 = 60_000;

/// The most channels without subscribers by name in one segment, 1,048,576 in all. The least recently
/// used are freed beyond, so that whoever publishes under ever fresh names fills no memory.
/// Channels with subscribers are bounded by the limit on subscriptions.
const IDLE_MAX: usize = 4_096;

/// How many channels are freed at once, so that looking at all of them is paid by as many fresh
/// ones.
const IDLE_FREED: usize = IDLE_MAX / 8;

/// Channels of one answer to whoever lists those that are keyed.
const LISTED_MAX: usize = 512;

/// After a look at so many the answer may have none.
const LOOKED_MAX: usize = 4_096;

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
    /// The last event, subscription or reading, node milliseconds.
    used_ms: u64,
    /// It was restored from elsewhere, and is let go by whoever did that.
    durable: bool,
    /// What is kept of its events, where something is.
    kept: Option<Box<Kept>>,
}

/// The channels behind one lock. `idle` is how many of them have no subscribers. Beyond
/// [`IDLE_MAX`] there are none but those that patterns need and that had subscribers.
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
    /// used of those that nobody has by pattern either: whoever has one must not see it begin
    /// again.
    fn make_room(&mut self, prefixes: &Prefixes) {
        if self.idle < IDLE_MAX {
            return;
        }
        let mut used = Vec::new();
        for channel in &mut self.channels {
            let nobodys = channel.subscribers == 0 && !channel.durable;
            if nobodys && channel.by_pattern(prefixes).is_empty() {
                used.push(channel.used_ms);
            }
        }
        let excess = (self.idle - IDLE_MAX + IDLE_FREED).min(used.len());
        if excess == 0 {
            return;
        }
        let (older, last_ms, _) = used.select_nth_unstable(excess - 1);
        let last_ms = *last_ms;
        // Many were used in the same millisecond: of those only as many as needed.
        let mut ties = excess - older.iter().filter(|used_ms| **used_ms < last_ms).count();
        self.retain(|channel| {
            if channel.durable || !channel.by_pattern(prefixes).is_empty() {
                return true;
            }
            match channel.used_ms.cmp(&last_ms) {
                Less => false,
                Equal if ties > 0 => {
                    ties -= 1;
                    false
                }
                Equal | Greater => true,
            }
        });
    }

    /// The first channels after the number `after` that have that prefix, and the newest events of
    /// some keys; and whether there may be others. Counts in `looked` at how many it has looked.
    fn keyed(
        &self,
        prefix: &str,
        after: u64,
        looked: &mut usize,
    ) -> (Vec<(ChannelName, Alias)>, bool) {
        // Those with the lowest numbers so far, the highest of them on top.
        let mut found = BinaryHeap::new();
        *looked += self.channels.len();
        for channel in &self.channels {
            if channel.alias.0 > after
                && channel.kept.as_ref().is_some_and(|kept| kept.has_keys())
                && channel.name.as_str().starts_with(prefix)
            {
                found.push((channel.alias.0, &channel.name));
                if found.len() > LISTED_MAX {
                    found.pop();
                }
            }
        }
        let found = found.into_sorted_vec();
        let most = found.len() == LISTED_MAX;
        (found.into_iter().map(|(alias, name)| (name.clone(), Alias(alias))).collect(), most)
    }

    /// Frees the channels without subscribers that `keep` does not want.
    fn retain(&mut self, mut keep: impl FnMut(&mut Channel) -> bool) {
        let before = self.channels.len();
        self.channels.retain(|channel| channel.subscribers > 0 || keep(channel));
        self.idle -= before - self.channels.len();
    }
}

impl Channel {
    /// One that nobody uses.
    fn new(name: ChannelName, alias: Alias, head: Position) -> Self {
        Self {
            name,
            alias,
            head,
            subscribers: 0,
            shards: ShardSet::default(),
            by_pattern: ShardSet::default(),
            generation: 0,
            used_ms: 0,
            durable: false,
            kept: None,
        }
    }

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
    purse: Arc<Purse>,
    aliases: AtomicU64,
    /// The segment that the next sweep looks at.
    swept: AtomicUsize,
}

impl Memory {
    /// An empty store that hands events to `deliver`, and keeps what it is told to.
    pub fn new(deliver: Arc<dyn Deliver>) -> Self {
        Self::bounded(deliver, usize::MAX)
    }

    /// As [`Memory::new`], and keeps less than it is told to where that takes more than `bytes`.
    pub fn bounded(deliver: Arc<dyn Deliver>, bytes: usize) -> Self {
        Self {
            purse: Arc::new(Purse::new(bytes)),
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

    fn alias(&self) -> Alias {
        Alias(self.aliases.fetch_add(1, Ordering::Relaxed))
    }

    /// The channel of that name; a fresh one is idle.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] where there is no room for a fresh one, [`StoreError::Unloaded`] where
    /// it has to be restored first.
    fn channel<'a>(
        &self,
        segment: &'a mut Segment,
        (hash, name): (u64, &str),
        durable: bool,
    ) -> Result<&'a mut Channel, StoreError> {
        if durable && segment.find(hash, name).is_none() {
            return Err(StoreError::Unloaded);
        }
        if segment.idle >= IDLE_MAX && segment.find(hash, name).is_none() {
            segment.make_room(&self.prefixes);
            if segment.idle >= IDLE_MAX {
                return Err(StoreError::Full);
            }
        }
        let (channels, idle) = (&mut segment.channels, &mut segment.idle);
        let channel = channels
            .entry(
                hash,
                |channel| channel.name.as_str() == name,
                |channel| self.hasher.hash_one(channel.name.as_str()),
            )
            .or_insert_with(|| {
                *idle += 1;
                let head = Position { epoch: Epoch::from_seed(fastrand::u64(..)), offset: 0 };
                // The caller has checked the name.
                Box::new(Channel::new(ChannelName::from_checked(name), self.alias(), head))
            })
            .into_mut();
        Ok(channel)
    }
}

impl Store for Memory {
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, StoreError> {
        let hash = self.hasher.hash_one(&*event.channel);
        let mut segment = self.segment(hash).lock();
        let channel = self.channel(&mut segment, (hash, &event.channel), event.keep.durable)?;
        channel.used_ms = now.node_ms();
        let (keep, message_id) = (event.keep, event.message_id);
        if let (Some(kept), Some(id)) = (&channel.kept, &message_id)
            && let Some(offset) = kept.published(id)
        {
            let position = Position { offset, ..channel.head };
            return Ok(Published { position, duplicate: true, crowded: None });
        }
        channel.head.offset += 1;
        let mut crowded = None;
        let shards = channel.shards.or(channel.by_pattern(&self.prefixes));
        let keeps = Kept::wants(keep, message_id.is_some()) || channel.kept.is_some();
        if keeps || !shards.is_empty() {
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
            if keeps {
                let kept = channel.kept.get_or_insert_with(|| Kept::new(&self.purse));
                kept.put(&event, keep, message_id.as_deref());
                if kept.is_empty() {
                    channel.kept = None;
                }
            }
            for shard in shards.iter() {
                if self.deliver.deliver(shard, Arc::clone(&event)) {
                    crowded = Some(shard);
                }
            }
        }
        Ok(Published { position: channel.head, duplicate: false, crowded })
    }

    fn subscribe(
        &self,
        name: &str,
        shard: ShardId,
        wish: Wish<'_>,
        now: Now,
    ) -> Result<Begun, StoreError> {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        let channel = self.channel(&mut segment, (hash, name), wish.keep.durable)?;
        let first = channel.subscribers == 0;
        channel.subscribers += 1;
        channel.shards.insert(shard);
        channel.used_ms = now.node_ms();
        let head = channel.head;
        let joined = Joined { channel: channel.name.clone(), alias: channel.alias, head };
        let (recovered, past) = match &mut channel.kept {
            Some(kept) => kept.begin(head, wish, now),
            None => (Kept::nothing_missed(head, wish), None),
        };
        segment.idle -= usize::from(first);
        Ok(Begun { joined, recovered, past })
    }

    fn read(&self, name: &str, reading: Reading<'_>, now: Now) -> Result<Read, StoreError> {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        let channel = self.channel(&mut segment, (hash, name), reading.keep.durable)?;
        channel.used_ms = now.node_ms();
        let head = channel.head;
        let past = match &mut channel.kept {
            Some(kept) => kept.read(head, reading, now),
            None => Kept::read_nothing(head, reading),
        };
        drop(segment);
        // Unpacked without the lock.
        Ok(Read { head, events: past.map(|past| unpack(&past, reading)) })
    }

    fn keyed(&self, prefix: &str, from: Bookmark) -> Listing {
        let Bookmark { mut part, mut after } = from;
        let mut looked = 0;
        while let Some(segment) = self.segments.get(part as usize) {
            let (channels, most) = segment.lock().keyed(prefix, after, &mut looked);
            let more = Bookmark { part, after: channels.last().map_or(0, |(_, alias)| alias.0) };
            (part, after) = (part + 1, 0);
            let next = if most { more } else { Bookmark { part, after } };
            let last = part as usize >= self.segments.len() && !most;
            if !channels.is_empty() || looked >= LOOKED_MAX || last {
                return Listing { channels, next: (!last).then_some(next) };
            }
        }
        Listing::default()
    }

    fn leaf(&self, name: &str, alias: Alias, after: u64) -> Option<Leaf> {
        let hash = self.hasher.hash_one(name);
        let segment = self.segment(hash).lock();
        let channel = segment.find(hash, name).filter(|channel| channel.alias == alias)?;
        channel.kept.as_ref()?.leaf(channel.head, after)
    }

    fn kept_bytes(&self) -> usize {
        self.purse.bytes()
    }

    fn unsubscribe(&self, name: &str, shard: ShardId, last: bool, now: Now) {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        // Before it is idle itself, so that it is not what is freed. Where all are needed there is
        // one too many, as many as there are subscriptions to end.
        segment.make_room(&self.prefixes);
        let Segment { channels, idle } = &mut *segment;
        if let Some(channel) = channels.find_mut(hash, |channel| channel.name.as_str() == name)
            && channel.subscribers > 0
        {
            channel.subscribers -= 1;
            channel.used_ms = now.node_ms();
            if last {
                channel.shards.remove(shard);
            }
            *idle += usize::from(channel.subscribers == 0);
        }
    }

    fn subscribe_prefix(&self, prefix: &str, shard: ShardId) -> Result<(), StoreError> {
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
        let before_ms = (now.node_ms()).saturating_sub(IDLE_MS);
        let mut segment = self.segments[index].lock();
        for channel in &mut segment.channels {
            if let Some(kept) = &mut channel.kept {
                kept.sweep(now);
                if kept.is_empty() {
                    channel.kept = None;
                }
            }
        }
        segment.retain(|channel| {
            channel.used_ms >= before_ms
                || channel.durable
                || !channel.by_pattern(&self.prefixes).is_empty()
                || channel.kept.as_ref().is_some_and(|kept| kept.is_worth_a_channel(now))
        });
        let channels = &mut segment.channels;
        if channels.capacity() > 64 && channels.len() < channels.capacity() / 4 {
            channels.shrink_to_fit(|channel| self.hasher.hash_one(channel.name.as_str()));
        }
    }
}

/// The events of a reading, as many as it may have bytes.
fn unpack(past: &Past, reading: Reading<'_>) -> Vec<Arc<Event>> {
    let mut left = Some(reading.bytes);
    let fits = |event: &Arc<Event>| {
        let fits = left.is_some();
        left = left.and_then(|left| left.checked_sub(event.payload.len()));
        fits
    };
    if reading.reverse {
        past.events().rev().take_while(fits).collect()
    } else {
        past.events().take_while(fits).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
