//! The newest event of each key of a channel, as its store keeps it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::history::{CHUNK_BYTES, CHUNK_EVENTS, Chunk};
use crate::proto::event::{Event, Payload};

/// No entry.
const NONE: u32 = u32::MAX;

/// A key and its newest event, in the list of all by age.
#[derive(Debug)]
struct Entry {
    event: Arc<Event>,
    older: u32,
    newer: u32,
}

/// The newest event of each key. Events without a key are not kept.
///
/// Invariants: `table` names every entry of `entries` by the hash of its key; the list from
/// `oldest` to `newest` has each once, in the order of offsets; `bytes` is the sum of what they
/// take.
#[derive(Debug)]
pub struct Keyed {
    entries: Slab<Entry>,
    table: HashTable<u32>,
    hasher: RandomState,
    oldest: u32,
    newest: u32,
    bytes: usize,
    /// What was last shown, until something changes.
    shown: Option<Vec<Arc<Chunk>>>,
}

impl Default for Keyed {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            table: HashTable::new(),
            hasher: RandomState::default(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            shown: None,
        }
    }
}

impl Keyed {
    /// Sees an event, which is newer than all before it. Its key is forgotten where it says `null`;
    /// beyond `keys_max` the least recently published key goes. Returns the memory that was taken,
    /// or given back.
    pub fn put(&mut self, event: &Arc<Event>, keys_max: usize) -> isize {
        let Some(key) = event.key.as_deref() else { return 0 };
        let before = self.bytes;
        self.shown = None;
        let hash = self.hasher.hash_one(key);
        let same = |entries: &Slab<Entry>, at: u32| {
            entries.get(at as usize).is_some_and(|entry| entry.event.key.as_deref() == Some(key))
        };
        let found = self.table.find(hash, |at| same(&self.entries, *at)).copied();
        match (found, is_tombstone(&event.payload)) {
            (Some(at), true) => self.remove(at),
            (None, true) => {}
            (Some(at), false) => {
                self.unlink(at);
                if let Some(entry) = self.entries.get_mut(at as usize) {
                    self.bytes = self.bytes + size(event) - size(&entry.event);
                    entry.event = Arc::clone(event);
                }
                self.link(at);
            }
            (None, false) => {
                if self.entries.len() >= keys_max.max(1) {
                    self.shed();
                }
                let entry = Entry { event: Arc::clone(event), older: NONE, newer: NONE };
                let at = u32::try_from(self.entries.insert(entry)).unwrap_or(NONE);
                self.bytes += size(event);
                self.link(at);
                let (entries, hasher) = (&self.entries, &self.hasher);
                self.table.insert_unique(hash, at, |at| {
                    let entry = entries.get(*at as usize);
                    hasher
                        .hash_one(entry.and_then(|entry| entry.event.key.as_deref()).unwrap_or(""))
                });
            }
        }
        let (after, before) = (isize::try_from(self.bytes), isize::try_from(before));
        after.unwrap_or(isize::MAX) - before.unwrap_or(isize::MAX)
    }

    /// The newest event of each key, the oldest first; nothing when there is none.
    pub fn snapshot(&mut self) -> Vec<Arc<Chunk>> {
        if self.shown.is_none() {
            let mut chunks = Vec::with_capacity(self.entries.len().div_ceil(CHUNK_EVENTS));
            let (mut part, mut bytes) = (Vec::new(), 0);
            for event in self.iter() {
                if part.len() == CHUNK_EVENTS || bytes > CHUNK_BYTES {
                    chunks.push(Arc::new(Chunk::snapshot(std::mem::take(&mut part).into())));
                    bytes = 0;
                }
                bytes += event.payload.len();
                part.push(Arc::clone(event));
            }
            if !part.is_empty() {
                chunks.push(Arc::new(Chunk::snapshot(part.into())));
            }
            self.shown = Some(chunks);
        }
        self.shown.clone().unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.newer;
            Some(&entry.event)
        })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    /// Lets go of the least recently published key. Returns the memory given back; 0 when there is
    /// none.
    pub fn shed(&mut self) -> usize {
        let before = self.bytes;
        self.shown = None;
        if self.oldest != NONE {
            self.remove(self.oldest);
        }
        before - self.bytes
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let Some(entry) = self.entries.try_remove(at as usize) else { return };
        self.bytes -= size(&entry.event);
        let hash = self.hasher.hash_one(entry.event.key.as_deref().unwrap_or(""));
        if let Ok(found) = self.table.find_entry(hash, |other| *other == at) {
            found.remove();
        }
    }

    /// Takes an entry out of the list.
    fn unlink(&mut self, at: u32) {
        let Some(entry) = self.entries.get(at as usize) else { return };
        let (older, newer) = (entry.older, entry.newer);
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    /// Puts an entry at the end of the list.
    fn link(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
        if let Some(entry) = self.entries.get_mut(at as usize) {
            (entry.older, entry.newer) = (older, NONE);
        }
    }
}

/// What an entry takes: the event, its key, its payload and the frame that was made of it.
fn size(event: &Event) -> usize {
    let key = event.key.as_ref().map_or(0, |key| key.len());
    size_of::<Event>() + size_of::<Entry>() + key + 2 * event.payload.len()
}

/// Whether an event takes its key back.
pub fn is_tombstone(payload: &Payload) -> bool {
    matches!(payload, Payload::Json(text) if **text == *b"null")
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn shown(keyed: &mut Keyed) -> Vec<u64> {
        let all = keyed.snapshot();
        let offsets = |chunk: &Arc<Chunk>| (0..chunk.len()).map(|at| chunk.offset(at)).collect();
        all.iter().flat_map(|chunk| -> Vec<u64> { offsets(chunk) }).collect()
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
                assert_eq!(shown(&mut keyed), wanted, "seed {seed}, offset {offset}");
                assert_eq!((keyed.len(), keyed.table.len()), (wanted.len(), wanted.len()));
                assert_eq!(keyed.memory(), usize::try_from(memory).unwrap());
            }
            while keyed.shed() > 0 {}
            assert!(keyed.is_empty() && keyed.memory() == 0 && keyed.snapshot().is_empty());
        }
    }

    #[test]
    fn events_without_a_key_are_not_kept() {
        let mut keyed = Keyed::default();
        assert_eq!(keyed.put(&keyed_event(1, 1, None), 10), 0);
        assert!(keyed.snapshot().is_empty());
    }
}
