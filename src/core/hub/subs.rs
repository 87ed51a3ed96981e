//! What one seat has by name, and what it has by pattern: lists in the order of what is looked up.
//! A client decides how long they are, so nothing that it can ask for walks along one to find a
//! thing in it.

use super::pattern::PatternSub;
use super::seat::Sub;
use crate::proto::name::Alias;

/// One thing in a [`Subs`].
pub(super) trait ByKey: Copy {
    /// By what it is looked up.
    type Key: Ord;

    /// That of this one.
    fn key(&self) -> Self::Key;
}

impl ByKey for Sub {
    type Key = Alias;

    #[inline]
    fn key(&self) -> Alias {
        self.alias
    }
}

impl ByKey for PatternSub {
    type Key = u32;

    #[inline]
    fn key(&self) -> u32 {
        self.pattern
    }
}

/// Subscriptions of one seat.
///
/// Invariant: their keys increase.
#[derive(Debug)]
pub(super) struct Subs<T>(Vec<T>);

impl<T> Default for Subs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: ByKey> Subs<T> {
    fn find(&self, key: T::Key) -> Result<usize, usize> {
        // Most seats have one, and most channels are newer than all that the seat has.
        match self.0.last() {
            None => Err(0),
            Some(last) if last.key() < key => Err(self.0.len()),
            Some(last) if last.key() == key => Ok(self.0.len() - 1),
            Some(_) => self.0.binary_search_by(|sub| sub.key().cmp(&key)),
        }
    }

    #[inline]
    pub(super) fn get(&self, key: T::Key) -> Option<&T> {
        self.0.get(self.find(key).ok()?)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: T::Key) -> Option<&mut T> {
        let at = self.find(key).ok()?;
        self.0.get_mut(at)
    }

    #[inline]
    pub(super) fn has(&self, key: T::Key) -> bool {
        self.find(key).is_ok()
    }

    /// Adds one whose key none has yet.
    pub(super) fn insert(&mut self, sub: T) {
        if self.0.is_empty() {
            // Most connections have one subscription: no room for four.
            self.0.reserve_exact(1);
        }
        let at = self.find(sub.key());
        debug_assert!(at.is_err(), "it is there once");
        let (Ok(at) | Err(at)) = at;
        self.0.insert(at, sub);
    }

    /// Takes the one with that key away.
    pub(super) fn remove(&mut self, key: T::Key) {
        if let Ok(at) = self.find(key) {
            self.0.remove(at);
        }
    }
}

impl<T> std::ops::Deref for Subs<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for Subs<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_was_added_is_found_whatever_comes_and_goes() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut subs, mut model) = (Subs::default(), BTreeMap::new());
            for member in 0..200 {
                let key = Alias(rng.u64(0..40));
                if rng.bool() {
                    subs.remove(key);
                    model.remove(&key);
                } else if model.insert(key, member).is_none() {
                    subs.insert(Sub { alias: key, member, rate: None });
                } else {
                    subs.get_mut(key).unwrap().member = member;
                }
                for key in (0..41).map(Alias) {
                    assert_eq!(subs.get(key).map(|sub| sub.member), model.get(&key).copied());
                    assert_eq!(subs.has(key), model.contains_key(&key), "seed {seed}");
                }
                assert_eq!(subs.len(), model.len());
            }
        }
    }
}
