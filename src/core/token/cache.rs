//! Tokens that were verified, so that the same one is not verified again: a thousand clients that
//! come back at once bring a thousand tokens that the node has seen.

use std::collections::HashMap;
use std::collections::hash_map::IntoIter;
use std::iter::Chain;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ring::digest;

use super::LEEWAY_S;
use crate::core::bearer::Bearer;

/// Stands for a token: its SHA-256, and how long it is. The token itself is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    hash: [u8; 32],
    bytes: u32,
}

impl Seen {
    /// What stands for `token`.
    pub fn of(token: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let bytes = u32::try_from(token.len()).unwrap_or(u32::MAX);
        Self { hash: hash.as_ref().try_into().unwrap_or_default(), bytes }
    }
}

type Bearers = HashMap<Seen, Arc<Bearer>, RandomState>;

/// What a cache has forgotten, to be freed where nobody waits for that: thousands, or none.
#[derive(Debug)]
#[must_use]
pub struct Discarded(Bearers);

impl Discarded {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bearers by what stands for their tokens. Bounded, in tokens and in what these have of bytes, which
/// is what their claims take, more or less: when the younger half is full, the older half goes.
#[derive(Debug)]
pub struct Cache {
    young: Bearers,
    old: Bearers,
    /// What was forgotten, until somebody takes it.
    gone: Bearers,
    /// Of the tokens of the younger half.
    young_bytes: usize,
    /// Tokens of a half, and bytes.
    half: (usize, usize),
}

impl Cache {
    /// One for at most `tokens`, which have at most so many bytes, and one more.
    pub fn new(tokens: usize, bytes: usize) -> Self {
        let half = (tokens.div_ceil(2), bytes.div_ceil(2));
        let none = Bearers::default;
        Self { young: none(), old: none(), gone: none(), young_bytes: 0, half }
    }

    /// Who bears a token that was verified before and has not ended.
    pub fn find(&mut self, seen: Seen, now_s: u64) -> Option<Arc<Bearer>> {
        let bearer = match self.young.get(&seen) {
            Some(bearer) => Arc::clone(bearer),
            None => {
                let bearer = self.old.remove(&seen)?;
                self.keep(seen, Arc::clone(&bearer));
                bearer
            }
        };
        (now_s < bearer.expires_s.saturating_add(LEEWAY_S)).then_some(bearer)
    }

    /// Remembers who bears a token.
    pub fn keep(&mut self, seen: Seen, bearer: Arc<Bearer>) {
        let full = self.young.len() >= self.half.0 || self.young_bytes >= self.half.1;
        if full && !self.young.contains_key(&seen) {
            let young = std::mem::take(&mut self.young);
            self.gone = std::mem::replace(&mut self.old, young);
            self.young_bytes = 0;
        }
        if self.young.insert(seen, bearer).is_none() {
            self.young_bytes += seen.bytes as usize;
        }
    }

    /// What was forgotten for want of room since the last call: each time it is to be asked for, and
    /// freed when nobody waits.
    pub fn discarded(&mut self) -> Discarded {
        Discarded(std::mem::take(&mut self.gone))
    }

    /// Forgets those whose bearers are not `good` any more.
    pub fn retain(&mut self, good: impl Fn(&Bearer) -> bool) {
        self.young.retain(|_, bearer| good(bearer));
        self.old.retain(|_, bearer| good(bearer));
        self.young_bytes = self.young.keys().map(|seen| seen.bytes as usize).sum();
    }

    /// How many tokens are remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl IntoIterator for Cache {
    type Item = (Seen, Arc<Bearer>);
    type IntoIter = Chain<IntoIter<Seen, Arc<Bearer>>, IntoIter<Seen, Arc<Bearer>>>;

    /// The older half comes first.
    fn into_iter(self) -> Self::IntoIter {
        self.old.into_iter().chain(self.young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Freeing takes long where there are many, so that it is for who has asked.
    #[test]
    fn what_is_forgotten_is_handed_over_whole() {
        let mut cache = Cache::new(100, 1 << 20);
        let bearers: Vec<_> = (0..101).map(|i| Arc::new(Bearer::of(&i.to_string()))).collect();
        for (at, bearer) in bearers.iter().enumerate() {
            assert!(cache.discarded().is_empty(), "{at}");
            cache.keep(Seen::of(bearer.user()), Arc::clone(bearer));
        }
        let shared = || bearers.iter().filter(|one| Arc::strong_count(one) > 1).count();
        assert_eq!((cache.len(), shared()), (51, 101));
        let discarded = cache.discarded();
        assert_eq!(shared(), 101);
        drop(discarded);
        assert_eq!(shared(), 51);
        assert!(cache.discarded().is_empty());
    }

    #[test]
    fn what_was_used_lately_stays_and_the_rest_is_bounded() {
        let mut cache = Cache::new(100, 1 << 20);
        let seen = |i: u32| Seen::of(&i.to_string());
        let user = |i: u32| Arc::new(Bearer::of(&i.to_string()));
        for i in 0..10_000 {
            cache.keep(seen(i), user(i));
            assert_eq!(cache.find(seen(0), 0).as_deref().map(Bearer::user), Some("0"), "{i}");
            assert!(cache.len() <= 102);
        }
        assert!(cache.find(seen(9_999), 0).is_some());
        assert!(cache.find(seen(5_000), 0).is_none());
    }

    #[test]
    fn long_tokens_are_fewer() {
        let mut cache = Cache::new(1_000, 10_000);
        let seen = |i: u32| Seen::of(&format!("{i:01000}"));
        for i in 0..100 {
            for _ in 0..2 {
                cache.keep(seen(i), Arc::new(Bearer::of("u")));
            }
            assert!(cache.len() <= 10, "{}", cache.len());
            assert!(cache.find(seen(i.saturating_sub(1)), 0).is_some(), "{i}");
        }
        cache.retain(|_| false);
        for i in 0..10 {
            cache.keep(seen(i), Arc::new(Bearer::of("u")));
        }
        assert_eq!(cache.len(), 10, "there is room again");
    }

    #[test]
    fn what_is_not_good_any_more_is_forgotten() {
        let mut cache = Cache::new(4, 1 << 20);
        for user in ["a", "b", "a2", "b2"] {
            cache.keep(Seen::of(user), Arc::new(Bearer::of(user)));
        }
        cache.retain(|bearer| bearer.user().starts_with('a'));
        let known = ["a", "b", "a2", "b2"].map(|user| cache.find(Seen::of(user), 0).is_some());
        assert_eq!(known, [true, false, true, false]);
    }

    #[test]
    fn a_token_is_known_until_its_end() {
        let mut cache = Cache::new(10, 1 << 20);
        let seen = Seen::of("a.b.c");
        cache.keep(seen, Arc::new(Bearer { expires_s: 100, ..Bearer::of("u1") }));
        assert!(cache.find(seen, 100 + LEEWAY_S - 1).is_some());
        assert!(cache.find(seen, 100 + LEEWAY_S).is_none());
        assert!(cache.find(Seen::of("a.b.d"), 0).is_none());
    }
}
