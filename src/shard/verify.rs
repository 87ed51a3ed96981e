//! Tokens that are signed by a public key, whose signatures take a shard too long: they are checked
//! beside it, one after the other. A bound for those that wait, as for all that a stranger may ask,
//! and a share of it for each address: who floods a node with forged tokens keeps nobody else out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use foldhash::fast::RandomState;
use tokio::task::JoinHandle;

use super::limits::Net;
use super::local::{Local, Shard};
use super::tokens::NotTaken;
use crate::core::bearer::Bearer;
use crate::core::metrics::Counter;
use crate::core::token::{BadToken, Seen, Verifier};

/// Tokens of a shard that may wait to be checked: a tenth of a second of work, where each takes as
/// long as most do.
const WAITING_MAX: usize = 1_024;

/// Nor more than one in so many of the connections that there may be: each has a place among them,
/// and nobody has said yet who it is.
const WAITING_SHARE: usize = 4;

/// At least so many, so that there is one for a second address.
const WAITING_MIN: usize = 2;

/// A token that is yet to be checked, with what it is checked with.
pub struct Unchecked {
    pub(super) token: Box<str>,
    pub(super) now_s: u64,
    pub(super) check: Check,
}

/// What is known of a token while it is checked, and needed then.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) seen: Seen,
    /// What it is checked by.
    pub(super) verifier: Arc<Verifier>,
    /// Where it comes from; `None` is this machine.
    pub(super) from: Option<IpAddr>,
    /// Whether others may have been let in before it was checked.
    pub(super) late: bool,
}

/// How many wait, and of which address: this machine counts as one.
#[derive(Debug, Default)]
pub(super) struct Waiting(Rc<RefCell<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Option<Net>, usize, RandomState>,
}

/// One of those that wait, for as long as it does.
#[derive(Debug)]
struct Turn {
    counts: Rc<RefCell<Counts>>,
    net: Option<Net>,
}

impl Waiting {
    /// One more of an address, where at most `max` may wait. Of one address no more may wait than
    /// could wait beside them: one that floods has half, two have a third each. Where many have come
    /// one after the other there may be nothing left for the next, as soon as any of theirs is done
    /// there is.
    fn begin(&self, net: Option<Net>, max: usize) -> Option<Turn> {
        let mut counts = self.0.borrow_mut();
        let own = counts.of.get(&net).copied().unwrap_or_default();
        if own >= max.saturating_sub(counts.all) {
            return None;
        }
        counts.all += 1;
        counts.of.insert(net, own + 1);
        Some(Turn { counts: Rc::clone(&self.0), net })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        counts.all = counts.all.saturating_sub(1);
        match counts.of.get_mut(&self.net) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => {
                counts.of.remove(&self.net);
            }
        }
    }
}

/// A token that is being checked. Resolves to what has come of it.
#[derive(Debug)]
pub struct Verifying {
    work: JoinHandle<Result<Bearer, BadToken>>,
    check: Check,
    _turn: Turn,
}

/// What has come of a token: to be given to [`Local::verified`], where its metrics are.
#[derive(Debug)]
pub struct Verdict {
    check: Check,
    /// `None` where the work has come to nothing.
    result: Option<Result<Bearer, BadToken>>,
}

/// One that has not begun is not begun.
impl Drop for Verifying {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Future for Verifying {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Verdict> {
        let result = Pin::new(&mut self.work).poll(cx);
        result.map(|result| Verdict { check: self.check.clone(), result: result.ok() })
    }
}

impl Shard {
    /// Begins to check a token.
    ///
    /// # Errors
    ///
    /// [`NotTaken::Busy`] where as many as may wait do, in all or of its address.
    pub(super) fn verify(&self, unchecked: Unchecked) -> Result<Verifying, NotTaken> {
        let Unchecked { token, now_s, check } = unchecked;
        let share =
            self.node.limits().connections_max() / WAITING_SHARE / self.node.shards().max(1);
        let max = share.clamp(WAITING_MIN, WAITING_MAX);
        let Some(turn) = self.verifying.begin(check.from.map(Net::from), max) else {
            self.metrics.add(Counter::AuthBusy, 1);
            return Err(NotTaken::Busy);
        };
        let by = Arc::clone(&check.verifier);
        let work = tokio::task::spawn_blocking(move || by.verify(&token, now_s));
        Ok(Verifying { work, check, _turn: turn })
    }

    /// Who bears a token that was checked.
    ///
    /// # Errors
    ///
    /// As of [`Node::authenticate`](super::Node::authenticate).
    pub(super) fn verified(&self, verdict: Verdict) -> Result<Arc<Bearer>, NotTaken> {
        let Verdict { check, result } = verdict;
        match result {
            Some(result) => self.node.checked(&check, result, &self.metrics),
            None => Err(NotTaken::Busy),
        }
    }
}

impl Local {
    /// Begins to check a token.
    ///
    /// # Errors
    ///
    /// [`NotTaken::Busy`] where as many as may wait do, in all or of its address.
    pub fn verify(&self, unchecked: Unchecked) -> Result<Verifying, NotTaken> {
        self.0.verify(unchecked)
    }

    /// Who bears a token that was checked.
    ///
    /// # Errors
    ///
    /// Why it is not taken.
    pub fn verified(&self, verdict: Verdict) -> Result<Arc<Bearer>, NotTaken> {
        self.0.verified(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(last: u32) -> Option<Net> {
        Some(Net::V4(last))
    }

    /// As many of one address as may wait, one after the other.
    fn flood(waiting: &Waiting, net: Option<Net>) -> Vec<Turn> {
        std::iter::from_fn(|| waiting.begin(net, WAITING_MAX)).collect()
    }

    #[test]
    fn one_address_has_half_and_the_next_comes_as_soon_as_any_is_done() {
        let waiting = Waiting::default();
        let first = flood(&waiting, net(1));
        assert_eq!(first.len(), WAITING_MAX / 2);
        // This machine is one of them.
        let mut all = vec![flood(&waiting, None)];
        for last in 2..=10 {
            all.push(flood(&waiting, net(last)));
        }
        assert!(all.iter().all(|turns| !turns.is_empty()), "{all:?}");
        // Eleven have it all; what one of them gives back is for none of them.
        assert!(waiting.begin(net(11), WAITING_MAX).is_none());
        drop(all[0].pop());
        assert!((1..=10).all(|last| waiting.begin(net(last), WAITING_MAX).is_none()));
        let next = waiting.begin(net(11), WAITING_MAX);
        assert!(next.is_some() && waiting.begin(net(1), WAITING_MAX).is_none());
        drop(first);
        let again = flood(&waiting, net(1)).len();
        assert_eq!(again, WAITING_MAX / 4);
    }

    #[test]
    fn never_more_wait_than_may_and_each_gives_its_turn_back() {
        let waiting = Waiting::default();
        for max in [WAITING_MIN, 7, WAITING_MAX] {
            let all: Vec<_> = (0..5_000).filter_map(|n| waiting.begin(net(n), max)).collect();
            assert_eq!(all.len(), max);
            assert!(waiting.begin(None, max).is_none());
            drop(all);
            let counts = waiting.0.borrow();
            assert!(counts.all == 0 && counts.of.is_empty(), "{counts:?}");
        }
    }
}
