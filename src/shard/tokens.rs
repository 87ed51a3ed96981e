//! What tokens are checked with on this node, which of them it has checked already, and why one is
//! not taken.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::command::RETRY_MS;
use super::limits::Limited;
use super::node::Node;
use super::verify::Unchecked;
use crate::core::bearer::Bearer;
use crate::core::metrics::{Counter, Metrics};
use crate::core::ticket::{GRACE_MS, Ticket};
use crate::core::token::{BadToken, Cache, Seen, Verifier};
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
        Self(Mutex::new(Known { verifier, cache: Cache::new(TOKENS_MAX, TOKENS_BYTES_MAX) }))
    }

    /// Who bears a token that was taken before, and what takes those that were not.
    fn find(&self, seen: Seen, now_s: u64) -> (Option<Arc<Bearer>>, Option<Arc<Verifier>>) {
        let mut known = self.0.lock();
        (known.cache.find(seen, now_s), known.verifier.clone())
    }

    /// Remembers who bears a token that `by` has taken. Whether it is taken now: keys may have
    /// changed while it was checked.
    fn keep(&self, seen: Seen, bearer: &Arc<Bearer>, by: &Arc<Verifier>) -> bool {
        let mut known = self.0.lock();
        let good = known
            .verifier
            .as_ref()
            .is_some_and(|verifier| Arc::ptr_eq(verifier, by) || verifier.takes(bearer));
        if good {
            known.cache.keep(seen, Arc::clone(bearer));
        }
        good
    }

    /// Takes tokens by that from here on, and forgets those that it would not take.
    pub(super) fn change(&self, verifier: Option<Arc<Verifier>>) {
        let mut known = self.0.lock();
        known.cache.retain(|bearer| verifier.as_ref().is_some_and(|it| it.takes(bearer)));
        known.verifier = verifier;
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
            return Found::Slow(Unchecked { token: token.into(), seen, verifier, now_s, from });
        }
        let result = verifier.verify(token, now_s);
        Found::Known(self.checked((seen, &verifier, from), result, metrics))
    }

    /// Whether what takes long to check is checked for an address.
    fn may_fail(&self, from: Option<IpAddr>, metrics: &Metrics) -> Result<(), NotTaken> {
        let Some(ip) = from else { return Ok(()) };
        let wait = self.limits().may_fail(ip.into(), self.clock().node_ns());
        wait.map_err(|wait| self.too_often(ip, wait, metrics))
    }

    /// Counts a bad token or key that came from an address.
    ///
    /// # Errors
    ///
    /// [`NotTaken::TooOften`] where there were too many of them.
    pub fn failed(&self, from: Option<IpAddr>, metrics: &Metrics) -> Result<(), NotTaken> {
        let Some(ip) = from else { return Ok(()) };
        let wait = self.limits().fail(ip.into(), self.clock().node_ns());
        wait.map_err(|wait| self.too_often(ip, wait, metrics))
    }

    fn too_often(&self, ip: IpAddr, wait: Duration, metrics: &Metrics) -> NotTaken {
        let limited = Limited::AuthFailures;
        metrics.add(limited.counter(), 1);
        self.limits().tell(limited, || Some(ip), self.clock().node_ns());
        NotTaken::TooOften(wait)
    }

    /// Who bears a token that was checked, with what it was checked by and where it came from, and
    /// counts that.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] is what may be told; the counter has the reason.
    pub(super) fn checked(
        &self,
        (seen, verifier, from): (Seen, &Arc<Verifier>, Option<IpAddr>),
        result: Result<Bearer, BadToken>,
        metrics: &Metrics,
    ) -> Result<Arc<Bearer>, NotTaken> {
        match result {
            Ok(bearer) => {
                let bearer = Arc::new(bearer);
                if !self.taken.keep(seen, &bearer, verifier) {
                    // Its key has gone meanwhile, which is no failure of its bearer.
                    metrics.add(Counter::AuthKey, 1);
                    return Err(NotTaken::Invalid);
                }
                metrics.add(Counter::TokensVerified, 1);
                Ok(bearer)
            }
            Err(bad) => {
                metrics.add(counter(bad), 1);
                let failed = self.failed(from, metrics);
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
