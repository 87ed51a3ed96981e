//! Token buckets of many, for the whole node: who has come, or asked, how often. Bounded: a bucket
//! that is full is forgotten, and where a part has no more room, the one that is nearest to full.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::tally::{PARTS, part_of};
use crate::core::bucket::{Allowance, Bucket};

/// Buckets of a part: 65,536 of all, some 2 MiB. Only those who were there within the last two
/// seconds have one, and who owes something.
const PART_MAX: usize = 1_024;

/// Who has come how often.
pub struct Buckets<K> {
    parts: [Mutex<HashMap<K, Bucket, RandomState>>; PARTS],
    hasher: RandomState,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::default() }
    }
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Takes one out of the bucket of `key`, at `now_ns` of the node's clock.
    ///
    /// # Errors
    ///
    /// When there is one again.
    pub fn take(&self, key: K, allowance: Allowance, now_ns: u64) -> Result<(), Duration> {
        self.change(key, now_ns, |bucket| bucket.take(allowance, now_ns))
    }

    /// The same where there is none; see [`Bucket::owe`].
    ///
    /// # Errors
    ///
    /// When there is one again, but for this one.
    pub fn owe(&self, key: K, allowance: Allowance, now_ns: u64) -> Result<(), Duration> {
        self.change(key, now_ns, |bucket| bucket.owe(allowance, now_ns))
    }

    fn change(
        &self,
        key: K,
        now_ns: u64,
        change: impl FnOnce(&mut Bucket) -> Result<(), u64>,
    ) -> Result<(), Duration> {
        let mut part = part_of(&self.parts, self.hasher.hash_one(&key)).lock();
        if part.len() >= PART_MAX && !part.contains_key(&key) {
            make_room(&mut part, now_ns);
        }
        change(part.entry(key).or_default()).map_err(Duration::from_nanos)
    }

    /// Whether there is one in the bucket of `key` at `now_ns`, which stays there.
    ///
    /// # Errors
    ///
    /// When there is one again.
    pub fn look(&self, key: &K, allowance: Allowance, now_ns: u64) -> Result<(), Duration> {
        let part = part_of(&self.parts, self.hasher.hash_one(key)).lock();
        let bucket = part.get(key).copied().unwrap_or_default();
        bucket.look(allowance, now_ns).map_err(Duration::from_nanos)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Forgets what is as good as none; where that is little, also a quarter of all, those nearest to
/// full, so that this is not to be done for each who comes.
fn make_room<K: Clone + Eq + Hash>(part: &mut HashMap<K, Bucket, RandomState>, now_ns: u64) {
    part.retain(|_, bucket| !bucket.is_full(now_ns));
    if part.len() < PART_MAX / 2 {
        return;
    }
    let mut ends: Vec<u64> = part.values().map(|bucket| bucket.full_at()).collect();
    let (_, middle, _) = ends.select_nth_unstable(PART_MAX / 4);
    let middle = *middle;
    part.retain(|_, bucket| bucket.full_at() > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let buckets = Buckets::default();
        let allowance = Allowance::per_second(1).unwrap();
        for _ in 0..2 {
            assert_eq!(buckets.take("a", allowance, SECOND), Ok(()));
        }
        assert_eq!(buckets.take("a", allowance, SECOND), Err(Duration::from_secs(1)));
        assert_eq!(buckets.look(&"a", allowance, SECOND), Err(Duration::from_secs(1)));
        assert_eq!(buckets.look(&"b", allowance, SECOND), Ok(()));
        assert_eq!(buckets.len(), 1, "a look leaves nothing behind");
        assert_eq!(buckets.take("b", allowance, SECOND), Ok(()));
        assert_eq!(buckets.take("a", allowance, 2 * SECOND), Ok(()));
    }

    /// An address with a bucket that is empty stays known, however many come once.
    #[test]
    fn a_flood_of_many_takes_no_more_room_and_frees_no_culprit() {
        let buckets = Buckets::default();
        let allowance = Allowance::per_second(100).unwrap();
        while buckets.take(u64::MAX, allowance, SECOND).is_ok() {}
        for key in 0..500_000 {
            buckets.take(key, allowance, SECOND + key).unwrap();
        }
        assert!(buckets.len() <= PARTS * PART_MAX, "{}", buckets.len());
        assert!(buckets.take(u64::MAX, allowance, SECOND + 500_000).is_err());
        // A minute later all of that is forgotten.
        for key in 0..500_000 {
            buckets.take(key, allowance, 60 * SECOND + key * SECOND).unwrap();
        }
        assert!(buckets.len() <= PARTS * PART_MAX, "{}", buckets.len());
    }
}
