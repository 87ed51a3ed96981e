//! The newest event of each key of a channel, as its store keeps it: in chunks that readers share.
//! Whoever asks gets references to them; a publish that changes one which is shared makes a copy of
//! that one.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::history::{Chunk, Newest};
use crate::proto::event::{Event, Payload};

/// A key, by its hash, and where its newest event is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    offset: u64,
}

/// The newest event of each key. Events without a key are not kept.
///
/// Invariants: `table` names every event of `chunks`, each of which has another key; a chunk is
/// under an offset that is none behind its first and behind all of those before it; no chunk is
/// empty; `bytes` is the sum of what the events take.
#[derive(Debug, Default)]
pub struct Keyed {
    table: HashTable<Entry>,
    hasher: RandomState,
    chunks: BTreeMap<u64, Arc<Chunk>>,
    bytes: usize,
}

impl Keyed {
    /// Sees an event, which is newer than all before it. Its key is forgotten where it says `null`;
    /// beyond `keys_max` the least recently published key goes. Returns the memory that was taken,
    /// or given back.
    pub fn put(&mut self, event: &Arc<Event>, keys_max: usize) -> isize {
        let Some(key) = event.key.as_deref() else { return 0 };
        let before = self.bytes;
        let hash = self.hasher.hash_one(key);
        let removes = is_tombstone(&event.payload);
        // What is found is taken at once: both need a walk to the chunk, and most keys are known.
        let (chunks, mut taken) = (&mut self.chunks, None);
        let same = |entry: &Entry| {
            if entry.hash == hash {
                taken = take(chunks, entry.offset, |old| old.key.as_deref() == Some(key));
            }
            taken.is_some()
        };
        match self.table.find_entry(hash, same) {
            Ok(mut found) => {
                if removes {
                    found.remove();
                } else {
                    found.get_mut().offset = event.offset;
                }
                self.settle(taken);
            }
            Err(_) if removes => {}
            Err(_) => {
                if self.table.len() >= keys_max.max(1) {
                    self.shed();
                }
                let entry = Entry { hash, offset: event.offset };
                self.table.insert_unique(hash, entry, |entry| entry.hash);
            }
        }
        if !removes {
            self.bytes += size(event);
            self.append(event);
        }
        let (after, before) = (isize::try_from(self.bytes), isize::try_from(before));
        after.unwrap_or(isize::MAX) - before.unwrap_or(isize::MAX)
    }

    /// Adds an event behind all others.
    fn append(&mut self, event: &Arc<Event>) {
        if let Some(mut last) = self.chunks.last_entry()
            && last.get().as_newest().is_some_and(Newest::has_room)
            && let Some(newest) = Arc::make_mut(last.get_mut()).as_newest_mut()
        {
            return newest.push(event);
        }
        self.chunks.insert(event.offset, Arc::new(Chunk::newest(event)));
    }

    /// An event was taken out of a chunk, which becomes one with the next where little is left.
    fn settle(&mut self, taken: Option<Taken>) {
        let Some(Taken { event, sparse }) = taken else { return };
        self.bytes -= size(&event);
        if let Some(first) = sparse {
            self.merge(first);
        }
    }

    /// Makes the chunk of which little is left one with the next, or lets go of it.
    #[cold]
    fn merge(&mut self, first: u64) {
        let newest = self.chunks.get(&first).and_then(|chunk| chunk.as_newest());
        if newest.is_some_and(|newest| newest.live() == 0) {
            self.chunks.remove(&first);
            return;
        }
        let behind = (Bound::Excluded(first), Bound::Unbounded);
        if let Some(newest) = newest
            && let Some((next, other)) = self.chunks.range(behind).next()
            && other.as_newest().is_some_and(|other| newest.merges(other))
            && let next = *next
            && let Some(other) = self.chunks.remove(&next)
            && let Some(chunk) = self.chunks.get_mut(&first)
            && let (Some(newest), Some(other)) =
                (Arc::make_mut(chunk).as_newest_mut(), other.as_newest())
        {
            newest.append(other);
        }
    }

    /// The newest event of each key, the oldest first; nothing when there is none.
    pub fn snapshot(&self) -> Vec<Arc<Chunk>> {
        self.chunks.values().map(Arc::clone).collect()
    }

    /// The chunks of those after that offset, the oldest first; the first may have others too.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = &Arc<Chunk>> {
        let first = self.chunks.range(..=offset).next_back().map_or(0, |(first, _)| *first);
        self.chunks.range(first..).map(|(_, chunk)| chunk).filter(move |c| c.last() > offset)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    /// Lets go of the least recently published key. Returns the memory given back; 0 when there is
    /// none.
    pub fn shed(&mut self) -> usize {
        let before = self.bytes;
        let oldest =
            self.chunks.first_key_value().and_then(|(_, chunk)| chunk.as_newest()?.oldest());
        if let Some(oldest) = oldest.cloned() {
            let hash = self.hasher.hash_one(oldest.key.as_deref().unwrap_or_default());
            if let Ok(found) = self.table.find_entry(hash, |entry| entry.offset == oldest.offset) {
                found.remove();
            }
            let taken = take(&mut self.chunks, oldest.offset, |_| true);
            self.settle(taken);
        }
        before - self.bytes
    }
}

/// An event that is in no chunk any more.
struct Taken {
    event: Arc<Event>,
    /// What its chunk is under, where little of that is left.
    sparse: Option<u64>,
}

/// Takes the event of that offset out of its chunk, where it is the one that `meant` says.
#[inline]
fn take(
    chunks: &mut BTreeMap<u64, Arc<Chunk>>,
    offset: u64,
    meant: impl FnOnce(&Event) -> bool,
) -> Option<Taken> {
    let (first, chunk) = chunks.range_mut(..=offset).next_back()?;
    let newest = chunk.as_newest()?;
    let at = newest.find(offset)?;
    if !newest.get(at).is_some_and(|event| meant(event)) {
        return None;
    }
    let newest = Arc::make_mut(chunk).as_newest_mut()?;
    let event = newest.take(at)?;
    Some(Taken { event, sparse: newest.is_sparse().then_some(*first) })
}

/// What a key takes: the event, its payload, a frame of it, which most have, all that was made of
/// a large one, and its places.
fn size(event: &Event) -> usize {
    let key = event.key.as_ref().map_or(0, |key| key.len());
    let places = size_of::<Entry>() + 2 * size_of::<(u64, Arc<Event>)>();
    size_of::<Event>() + places + key + event.payload.len() + event.bytes()
}

/// Whether an event takes its key back.
pub fn is_tombstone(payload: &Payload) -> bool {
    matches!(payload, Payload::Json(text) if **text == *b"null")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::history::CHUNK_EVENTS;
    use crate::core::outbox::tests::keyed_event;
    use std::collections::BTreeMap;
    use std::sync::OnceLock;

    fn null(offset: u64, key: &str) -> Arc<Event> {
        let like = keyed_event(1, offset, Some(key));
        Arc::new(Event {
            channel: like.channel.clone(),
            key: like.key.clone(),
            payload: Payload::Json(Box::from(&b"null"[..])),
            json_frame: OnceLock::new(),
            frames: crate::proto::encoder::Frames::default(),
            from: None,
            ..*like
        })
    }

    fn shown(keyed: &Keyed) -> Vec<u64> {
        let all = keyed.snapshot();
        let events = all.iter().flat_map(|chunk| (0..chunk.len()).filter_map(|at| chunk.event(at)));
        events.map(|event| event.offset).collect()
    }

    #[test]
    fn the_newest_of_each_key_is_kept_and_the_least_recent_goes() {
        let names = ["a", "b", "c", "d", "e"];
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let keys_max = rng.usize(1..5);
            let (mut keyed, mut model) = (Keyed::default(), BTreeMap::new());
            let mut memory = 0;
            for offset in 1..200 {
                let key = names[rng.usize(0..5)];
                let removes = rng.u8(0..4) == 0;
                let event =
                    if removes { null(offset, key) } else { keyed_event(1, offset, Some(key)) };
                memory += keyed.put(&event, keys_max);
                model.remove(key);
                if !removes {
                    if model.len() == keys_max {
                        let oldest = *model.iter().min_by_key(|(_, at)| **at).unwrap().0;
                        model.remove(oldest);
                    }
                    model.insert(key, offset);
                }
                let mut wanted: Vec<u64> = model.values().copied().collect();
                wanted.sort_unstable();
                assert_eq!(shown(&keyed), wanted, "seed {seed}, offset {offset}");
                assert_eq!((keyed.len(), keyed.table.len()), (wanted.len(), wanted.len()));
                assert_eq!(keyed.memory(), usize::try_from(memory).unwrap());
            }
            while keyed.shed() > 0 {}
            assert!(keyed.is_empty() && keyed.memory() == 0 && keyed.snapshot().is_empty());
        }
    }

    /// What readers have does not change, whatever is published; and little is in more chunks than
    /// it needs.
    #[test]
    fn chunks_are_shared_and_few() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut keyed = Keyed::default();
        let put = |keyed: &mut Keyed, offset: u64, key: usize| {
            keyed.put(&keyed_event(1, offset, Some(&key.to_string())), 1_000);
        };
        for offset in 1..=20_000 {
            put(&mut keyed, offset, rng.usize(0..1_000));
        }
        let before = shown(&keyed);
        let chunks = keyed.snapshot();
        assert!(before.len() > 900 && chunks.len() < before.len() / 16, "{}", chunks.len());
        assert!(Arc::ptr_eq(&chunks[0], &keyed.snapshot()[0]), "nothing is copied");
        for offset in 20_001..=30_000 {
            put(&mut keyed, offset, rng.usize(0..1_000));
        }
        let events = chunks.iter().flat_map(|c| (0..c.len()).filter_map(|at| c.event(at)));
        assert_eq!(events.map(|event| event.offset).collect::<Vec<_>>(), before);
        let after = before[before.len() / 2];
        let newest = shown(&keyed);
        let rest = keyed.after(after).flat_map(|c| (0..c.len()).filter_map(|at| c.event(at)));
        let rest: Vec<u64> = rest.map(|e| e.offset).filter(|offset| *offset > after).collect();
        assert_eq!(rest, newest.into_iter().filter(|at| *at > after).collect::<Vec<_>>());
        for offset in 30_001..=30_200 {
            put(&mut keyed, offset, 7);
        }
        let last = keyed.snapshot();
        assert!(last.iter().all(|chunk| chunk.len() <= CHUNK_EVENTS), "of one key alone, too");
    }

    #[test]
    fn a_million_keys_take_no_more_than_there_may_be() {
        const MAX: usize = 1_000;
        let mut keyed = Keyed::default();
        let mut most = 0;
        for offset in 1..=1_000_000 {
            keyed.put(&keyed_event(1, offset, Some(&offset.to_string())), MAX);
            most = most.max(keyed.bytes);
        }
        assert_eq!(shown(&keyed), (999_001..=1_000_000).collect::<Vec<_>>());
        assert_eq!((keyed.table.len(), keyed.bytes), (MAX, most), "none took more");
        let capacity = keyed.table.capacity();
        assert!(capacity < 4 * MAX, "{capacity}");
        assert!(keyed.chunks.len() <= MAX / 16, "{}", keyed.chunks.len());
    }

    #[test]
    fn events_without_a_key_are_not_kept() {
        let mut keyed = Keyed::default();
        assert_eq!(keyed.put(&keyed_event(1, 1, None), 10), 0);
        assert!(keyed.snapshot().is_empty());
    }
}
