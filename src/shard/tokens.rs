//! What tokens are checked with on this node, which of them it has checked already, and why one is
//! not taken.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::command::RETRY_MS;
use super::limits::{Limited, Limits, Net};
use super::node::Node;
use super::verify::{Check, Unchecked};
use crate::core::bearer::Bearer;
use crate::core::metrics::{Counter, Metrics};
use crate::core::ticket::{GRACE_MS, Ticket};
use crate::core::token::{BadToken, Cache, Discarded, Seen, Verifier};
use crate::proto::error::ErrorCode;

/// Tokens that are remembered.
const TOKENS_MAX: usize = 32_768;

/// What they may have of bytes together: as many where each has 2 KiB.
const TOKENS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct AuthOptions {
    /// Whether a client must bear a token.
    pub required: bool,
    /// What tokens are checked with; `None` takes none.
    pub verifier: Option<Arc<Verifier>>,
}

impl AuthOptions {
    /// The ticket of somebody whose token was verified. Where keys have changed meanwhile, so that
    /// it would not be any more, it ends soon: at a moment of its own, for there may be many.
    pub(super) fn ticket(&self, bearer: Arc<Bearer>, unix_ms: u64, now_ms: u64) -> Ticket {
        let takes = self.takes(&bearer);
        let ticket = Ticket::known(bearer, unix_ms, now_ms);
        if takes { ticket } else { ticket.ended_by(now_ms + fastrand::u64(0..=GRACE_MS)) }
    }

    /// Whether somebody who has come with a token could come with it.
    pub fn takes(&self, bearer: &Bearer) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.takes(bearer))
    }
}

/// The tokens that a node has taken, and by what: under one lock, so that none is remembered that
/// keys of before have let in.
#[derive(Debug)]
pub(super) struct Taken(Mutex<Known>);

#[derive(Debug)]
struct Known {
    verifier: Option<Arc<Verifier>>,
    cache: Cache,
}

impl Taken {
    /// None yet.
    pub(super) fn by(verifier: Option<Arc<Verifier>>) -> Self {
        Self(Mutex::new(Known { verifier, cache: no_tokens() }))
    }

    /// Does something that is short. What the cache has forgotten by that, which may be thousands, is
    /// freed when others may look again, and not by who has looked, where there is a thread for it.
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        let (result, discarded) = {
            let mut known = self.0.lock();
            (act(&mut known), known.cache.discarded())
        };
        if !discarded.is_empty() {
            free(discarded);
        }
        result
    }

    /// Who bears a token that was taken before, and what takes those that were not.
    fn find(&self, seen: Seen, now_s: u64) -> (Option<Arc<Bearer>>, Option<Arc<Verifier>>) {
        self.with(|known| (known.cache.find(seen, now_s), known.verifier.clone()))
    }

    /// Remembers who bears a token that `by` has taken. Whether it is taken now: keys may have
    /// changed while it was checked.
    fn keep(&self, seen: Seen, bearer: &Arc<Bearer>, by: &Arc<Verifier>) -> bool {
        self.with(|known| {
            let good = known
                .verifier
                .as_ref()
                .is_some_and(|verifier| Arc::ptr_eq(verifier, by) || verifier.takes(bearer));
            if good {
                known.cache.keep(seen, Arc::clone(bearer));
            }
            good
        })
    }

    /// Takes tokens by that from here on, and forgets those that it would not take. For as long as
    /// it looks at them none is known: they are verified again, and nobody waits.
    pub(super) fn change(&self, verifier: Option<Arc<Verifier>>) {
        let mut before = self.begin_change(verifier.clone());
        if let Some(verifier) = verifier {
            before.retain(|bearer| verifier.takes(bearer));
            self.end_change(before, &verifier);
        }
    }

    /// Takes tokens by that from here on. Returns those that were known.
    fn begin_change(&self, verifier: Option<Arc<Verifier>>) -> Cache {
        let mut known = self.0.lock();
        known.verifier = verifier;
        std::mem::replace(&mut known.cache, no_tokens())
    }

    /// Knows those again that `by` takes, if that is still what tokens are taken by.
    fn end_change(&self, before: Cache, by: &Arc<Verifier>) {
        let meanwhile = {
            let mut known = self.0.lock();
            if !known.verifier.as_ref().is_some_and(|verifier| Arc::ptr_eq(verifier, by)) {
                return;
            }
            std::mem::replace(&mut known.cache, before)
        };
        for (seen, bearer) in meanwhile {
            self.keep(seen, &bearer, by);
        }
    }
}

fn no_tokens() -> Cache {
    Cache::new(TOKENS_MAX, TOKENS_BYTES_MAX)
}

/// Beside the shard's thread, if this is one.
fn free(discarded: Discarded) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(|| drop(discarded));
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Too many wait to be checked.
    Busy,
    /// It was good, and has ended.
    Expired,
    /// Anything else. Whoever brought it is not told what.
    Invalid,
    /// No token is good here.
    NoKey,
    /// Too much that was bad came from its address: in so long something is looked at again.
    TooOften(Duration),
}

impl NotTaken {
    /// The code of what its bearer is told.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Busy => ErrorCode::Overloaded,
            Self::Expired => ErrorCode::TokenExpired,
            Self::Invalid | Self::NoKey => ErrorCode::Unauthorized,
            Self::TooOften(_) => ErrorCode::RateLimited,
        }
    }

    /// What its bearer is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::Busy => "too many tokens wait to be checked",
            Self::Expired => "the token has expired: get another one",
            Self::Invalid => "the token is not valid here",
            Self::NoKey => "this node has no key to check a token",
            Self::TooOften(_) => "too many bad tokens or keys of this address in a second",
        }
    }

    /// When its bearer may try again, where that may help.
    pub(super) fn retry_ms(self) -> Option<u32> {
        match self {
            Self::Busy => Some(RETRY_MS),
            Self::TooOften(wait) => {
                Some(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1))
            }
            Self::Expired | Self::Invalid | Self::NoKey => None,
        }
    }
}

/// What is known of a token.
pub enum Found {
    /// Who bears it, or why it is not taken.
    Known(Result<Arc<Bearer>, NotTaken>),
    /// It takes long to check it: not on a shard's thread.
    Slow(Unchecked),
}

impl Node {
    /// Finds out who bears a token that comes from an address, where that takes no time, and counts
    /// that.
    pub fn authenticate(&self, token: &str, from: Option<IpAddr>, metrics: &Metrics) -> Found {
        let now_s = self.clock().token_ms() / 1_000;
        let seen = Seen::of(token);
        let (found, verifier) = self.taken.find(seen, now_s);
        let Some(verifier) = verifier else {
            metrics.add(Counter::AuthNoKey, 1);
            return Found::Known(Err(NotTaken::NoKey));
        };
        if let Some(bearer) = found {
            metrics.add(Counter::TokensSeen, 1);
            return Found::Known(Ok(bearer));
        }
        if verifier.is_slow(token) {
            if let Err(too_often) = self.may_fail(from, metrics) {
                return Found::Known(Err(too_often));
            }
            let check = Check { seen, verifier, from, late: true };
            return Found::Slow(Unchecked { token: token.into(), now_s, check });
        }
        let result = verifier.verify(token, now_s);
        let check = Check { seen, verifier, from, late: false };
        Found::Known(self.checked(&check, result, metrics))
    }

    /// Whether what takes long to check is checked for an address.
    fn may_fail(&self, from: Option<IpAddr>, metrics: &Metrics) -> Result<(), NotTaken> {
        self.within(from, Limits::may_fail, metrics)
    }

    /// Counts a bad token or key that came from an address.
    ///
    /// # Errors
    ///
    /// [`NotTaken::TooOften`] where there were too many of them.
    pub fn failed(&self, from: Option<IpAddr>, metrics: &Metrics) -> Result<(), NotTaken> {
        self.within(from, Limits::fail, metrics)
    }

    fn within(
        &self,
        from: Option<IpAddr>,
        limit: impl FnOnce(&Limits, Net, u64) -> Result<(), Duration>,
        metrics: &Metrics,
    ) -> Result<(), NotTaken> {
        let Some(ip) = from else { return Ok(()) };
        let now_ns = self.clock().node_ns();
        limit(self.limits(), ip.into(), now_ns).map_err(|wait| {
            let limited = Limited::AuthFailures;
            metrics.add(limited.counter(), 1);
            self.limits().tell(limited, || Some(ip), now_ns);
            NotTaken::TooOften(wait)
        })
    }

    /// Who bears a token that was checked, and counts that.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] is what may be told; the counter has the reason.
    pub(super) fn checked(
        &self,
        check: &Check,
        result: Result<Bearer, BadToken>,
        metrics: &Metrics,
    ) -> Result<Arc<Bearer>, NotTaken> {
        match result {
            Ok(bearer) => {
                let bearer = Arc::new(bearer);
                if !self.taken.keep(check.seen, &bearer, &check.verifier) {
                    // Its key has gone meanwhile, which is no failure of its bearer.
                    metrics.add(Counter::AuthKey, 1);
                    return Err(NotTaken::Invalid);
                }
                metrics.add(Counter::TokensVerified, 1);
                Ok(bearer)
            }
            Err(bad) => {
                metrics.add(counter(bad), 1);
                let limit = if check.late { Limits::fail_late } else { Limits::fail };
                let failed = self.within(check.from, limit, metrics);
                if bad == BadToken::Expired {
                    // It has cost as much, and its bearer has to know.
                    return Err(NotTaken::Expired);
                }
                failed.and(Err(NotTaken::Invalid))
            }
        }
    }
}

fn counter(bad: BadToken) -> Counter {
    match bad {
        BadToken::Audience => Counter::AuthAudience,
        BadToken::Claims => Counter::AuthClaims,
        BadToken::Early => Counter::AuthEarly,
        BadToken::Expired => Counter::AuthExpired,
        BadToken::Issuer => Counter::AuthIssuer,
        BadToken::Key => Counter::AuthKey,
        BadToken::Long => Counter::AuthLong,
        BadToken::Malformed => Counter::AuthMalformed,
        BadToken::Signature => Counter::AuthSignature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::token::{Key, sign};

    fn verifier(secret: &[u8]) -> Arc<Verifier> {
        Arc::new(Verifier::new(vec![Key::secret(secret).unwrap()], None, None))
    }

    /// Its tokens stay known, also those that came meanwhile; and if it was not the last change,
    /// nothing comes back that the last one would not take.
    #[test]
    fn what_is_known_while_verifiers_change_is_what_the_last_one_takes() {
        let [one, other] = [[b'1'; 32], [b'2'; 32]];
        let taken = Taken::by(Some(verifier(&one)));
        let bring = |user: &str, secret: &[u8]| {
            let token = sign(&serde_json::json!({"sub": user, "exp": 2_000}), secret).unwrap();
            let by = taken.find(Seen::of(&token), 0).1.unwrap();
            let bearer = Arc::new(by.verify(&token, 0).unwrap());
            assert!(taken.keep(Seen::of(&token), &bearer, &by));
            Seen::of(&token)
        };
        let known = |seen| taken.find(seen, 0).0.is_some();
        let first = bring("u1", &one);
        let again = verifier(&one);
        let mut before = taken.begin_change(Some(Arc::clone(&again)));
        assert!(!known(first));
        let meanwhile = bring("u2", &one);
        before.retain(|bearer| again.takes(bearer));
        taken.end_change(before, &again);
        assert!(known(first) && known(meanwhile));

        let before = taken.begin_change(Some(Arc::clone(&again)));
        taken.change(Some(verifier(&other)));
        let last = bring("u3", &other);
        taken.end_change(before, &again);
        assert!(!known(first) && !known(meanwhile) && known(last));
        taken.change(None);
        assert!(!known(last));
    }
}
