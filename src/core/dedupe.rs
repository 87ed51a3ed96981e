//! Retries: which offset an event got that a publisher sends again.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// How long an id is remembered at least, in milliseconds of the node's clock.
pub const WINDOW_MS: u64 = 120_000;

/// Ids of a channel that are remembered whatever their age, while there is memory for them.
pub const LAST: usize = 1_024;

/// Ids of a channel that are remembered at most.
pub const MOST: usize = 65_536;

/// One id, and when it came.
#[derive(Debug)]
struct Seen {
    id: Box<str>,
    offset: u64,
    at_ms: u64,
}

/// The ids of a channel's last events.
///
/// Invariant: `table` has the number of each of `seen`, which are counted from `first`.
#[derive(Debug, Default)]
pub struct Dedupe {
    seen: VecDeque<Seen>,
    first: u64,
    table: HashTable<u64>,
    hasher: RandomState,
    bytes: usize,
}

impl Dedupe {
    /// The offset that the event of that id got.
    pub fn find(&self, id: &str) -> Option<u64> {
        let found = self.table.find(self.hasher.hash_one(id), |number| {
            self.at(*number).is_some_and(|seen| *seen.id == *id)
        });
        Some(self.at(*found?)?.offset)
    }

    /// Remembers an id that is not known.
    pub fn put(&mut self, id: Box<str>, offset: u64, now_ms: u64) {
        let number = self.first + self.seen.len() as u64;
        let (first, seen, hasher) = (self.first, &self.seen, &self.hasher);
        self.table.insert_unique(hasher.hash_one(&*id), number, |number| {
            hasher.hash_one(place(first, *number).and_then(|at| seen.get(at)).map_or("", |s| &s.id))
        });
        self.bytes += size(&id);
        self.seen.push_back(Seen { id, offset, at_ms: now_ms });
        self.forget(now_ms);
        while self.seen.len() > MOST {
            self.pop();
        }
    }

    /// Forgets the ids that are too old at `now_ms`, but for the last ones.
    pub fn forget(&mut self, now_ms: u64) {
        self.forget_beyond(LAST, now_ms);
    }

    /// Forgets all ids that are too old at `now_ms`, and gives back their room.
    pub fn forget_old(&mut self, now_ms: u64) {
        self.forget_beyond(0, now_ms);
        if self.seen.is_empty() {
            *self = Self::default();
        }
    }

    fn forget_beyond(&mut self, count: usize, now_ms: u64) {
        let old = |seen: &Seen| now_ms.saturating_sub(seen.at_ms) > WINDOW_MS;
        while self.seen.len() > count && self.seen.front().is_some_and(old) {
            self.pop();
        }
    }

    /// Whether nothing is remembered that is younger than the window at `now_ms`.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.seen.back().is_none_or(|last| now_ms.saturating_sub(last.at_ms) > WINDOW_MS)
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Forgets the oldest id. Returns the memory given back; 0 when there is none.
    pub fn shed(&mut self) -> usize {
        let before = self.bytes;
        self.pop();
        before - self.bytes
    }

    /// What it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    fn at(&self, number: u64) -> Option<&Seen> {
        self.seen.get(place(self.first, number)?)
    }

    fn pop(&mut self) {
        let Some(seen) = self.seen.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        self.bytes -= size(&seen.id);
        let hash = self.hasher.hash_one(&*seen.id);
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
    }
}

fn place(first: u64, number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(first)?).ok()
}

fn size(id: &str) -> usize {
    size_of::<Seen>() + size_of::<u64>() + 1 + id.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dedupe: &mut Dedupe, ids: std::ops::Range<u64>, now_ms: u64) {
        for n in ids {
            dedupe.put(format!("id-{n}").into(), n, now_ms);
        }
    }

    #[test]
    fn an_id_is_known_while_it_is_young_or_among_the_last() {
        let mut dedupe = Dedupe::default();
        put(&mut dedupe, 0..3_000, 0);
        assert_eq!((dedupe.find("id-0"), dedupe.find("id-2999")), (Some(0), Some(2_999)));
        dedupe.forget(WINDOW_MS);
        assert_eq!(dedupe.find("id-0"), Some(0), "as old as the window");
        dedupe.forget(WINDOW_MS + 1);
        assert_eq!(dedupe.find("id-1975"), None);
        assert_eq!(dedupe.find("id-1976"), Some(1_976), "one of the last 1,024");
        assert!(dedupe.is_over(WINDOW_MS + 1) && !dedupe.is_over(WINDOW_MS));
        assert_eq!(dedupe.table.len(), dedupe.seen.len());
        put(&mut dedupe, 3_000..3_001, 10 * WINDOW_MS);
        assert_eq!((dedupe.seen.len(), dedupe.find("id-1976")), (LAST, None), "a day later too");
    }

    #[test]
    fn where_memory_is_short_the_old_go() {
        let mut dedupe = Dedupe::default();
        put(&mut dedupe, 0..100, 0);
        put(&mut dedupe, 100..200, 50);
        dedupe.forget_old(WINDOW_MS + 1);
        assert_eq!((dedupe.find("id-99"), dedupe.find("id-100")), (None, Some(100)));
        dedupe.forget_old(WINDOW_MS + 51);
        assert!(dedupe.is_empty() && dedupe.memory() == 0);
        put(&mut dedupe, 0..3, 0);
        assert_eq!(dedupe.find("id-2"), Some(2));
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let mut dedupe = Dedupe::default();
        put(&mut dedupe, 0..70_000, 0);
        assert_eq!(dedupe.seen.len(), MOST);
        assert_eq!(dedupe.find(&format!("id-{}", 70_000 - MOST - 1)), None);
        assert_eq!(dedupe.find("id-69999"), Some(69_999));
        let all: usize = dedupe.seen.iter().map(|seen| size(&seen.id)).sum();
        assert_eq!(dedupe.memory(), all);
        for n in 70_000 - MOST as u64..70_000 {
            assert_eq!(dedupe.find(&format!("id-{n}")), Some(n));
        }
    }
}
