//! How many there are of each, for the whole node: connections of an address, or of a user. A count
//! is a guard: whatever becomes of the one who is counted, it is given back when that is dropped.
//!
//! Locked when somebody comes and when somebody goes, a sixty-fourth of it, and never in between.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Parts with a lock of their own. A power of two.
pub(super) const PARTS: usize = 64;

/// A table with room for fewer keeps it.
const ROOM_MIN: usize = 64;

/// The part of all keys whose hash ends in that.
pub(super) fn part_of<T>(parts: &[T; PARTS], hash: u64) -> &T {
    &parts[usize::try_from(hash % PARTS as u64).unwrap_or_default()]
}

/// How many there are of each.
pub struct Tally<K> {
    parts: [Mutex<HashMap<K, u32, RandomState>>; PARTS],
    hasher: RandomState,
    all: AtomicUsize,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            all: AtomicUsize::new(0),
        }
    }
}

impl<K: Clone + Eq + Hash> Tally<K> {
    /// Counts one more of `key`; `None` where there are `max` already. 0 is without a limit.
    pub fn count(self: &Arc<Self>, key: K, max: u32) -> Option<Counted<K>> {
        let mut part = part_of(&self.parts, self.hasher.hash_one(&key)).lock();
        match part.get_mut(&key) {
            Some(count) if max > 0 && *count >= max => return None,
            Some(count) => *count += 1,
            None => {
                part.insert(key.clone(), 1);
            }
        }
        drop(part);
        self.all.fetch_add(1, Ordering::Relaxed);
        Some(Counted { tally: Arc::clone(self), key })
    }

    fn give_back(&self, key: &K) {
        let mut part = part_of(&self.parts, self.hasher.hash_one(key)).lock();
        if let Some(count) = part.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                part.remove(key);
                if part.capacity() > ROOM_MIN && part.len() * 8 < part.capacity() {
                    part.shrink_to_fit();
                }
            }
        }
        drop(part);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are of `key`.
    pub fn of(&self, key: &K) -> u32 {
        let part = part_of(&self.parts, self.hasher.hash_one(key)).lock();
        part.get(key).copied().unwrap_or_default()
    }

    /// How many there are of all.
    pub fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Of how many there is any.
    pub fn distinct(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}

/// One of those that are counted, for as long as it is there.
pub struct Counted<K: Clone + Eq + Hash> {
    tally: Arc<Tally<K>>,
    key: K,
}

/// Not who it is.
impl<K: Clone + Eq + Hash> fmt::Debug for Counted<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl<K: Clone + Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        self.tally.give_back(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn there_are_as_many_of_each_as_there_may_be() {
        let tally = Arc::new(Tally::default());
        let one = tally.count("a", 2);
        let two = tally.count("a", 2);
        assert!(one.is_some() && two.is_some() && tally.count("a", 2).is_none());
        assert!(tally.count("b", 2).is_some(), "it is another");
        let three = tally.count("a", 0);
        assert!(three.is_some(), "0 is no limit");
        assert!(tally.count("a", 3).is_none());
        drop((one, two));
        assert_eq!((tally.of(&"a"), tally.all(), tally.distinct()), (1, 1, 1));
        drop(three);
        assert_eq!((tally.of(&"a"), tally.all(), tally.distinct()), (0, 0, 0));
    }

    #[test]
    fn a_panic_gives_its_count_back() {
        let tally = Arc::new(Tally::default());
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let _counted = tally.count(1, 1).unwrap();
            panic!("in a session");
        }));
        assert!(ended.is_err());
        assert!(tally.count(1, 1).is_some());
    }

    /// What a flood by many leaves behind.
    #[test]
    fn room_that_nobody_needs_is_given_back() {
        let tally = Arc::new(Tally::default());
        let flood: Vec<_> = (0..100_000).map(|key| tally.count(key, 1).unwrap()).collect();
        assert_eq!((tally.all(), tally.distinct()), (100_000, 100_000));
        drop(flood);
        let room: usize = tally.parts.iter().map(|part| part.lock().capacity()).sum();
        assert!(room <= PARTS * 2 * ROOM_MIN, "{room}");
    }
}
