//! Tokens that are signed by a public key, whose signatures take a shard too long: they are checked
//! beside it, one after the other. A bound for those that wait, as for all that a stranger may ask.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use super::auth::NotTaken;
use super::local::{Local, Shard};
use crate::core::bearer::Bearer;
use crate::core::metrics::Counter;
use crate::core::token::{BadToken, Seen, Verifier};

/// Tokens of a shard that may wait to be checked: a tenth of a second of work, where each takes as
/// long as most do.
const WAITING_MAX: usize = 1_024;

/// A token that is yet to be checked, with what it is checked with.
pub struct Unchecked {
    pub(super) token: Box<str>,
    pub(super) seen: Seen,
    pub(super) verifier: Arc<Verifier>,
    pub(super) now_s: u64,
}

/// How many wait: each has a share of it.
#[derive(Debug, Default)]
pub(super) struct Waiting(Rc<()>);

/// One of those that wait, for as long as it does.
#[derive(Debug)]
struct Turn(#[expect(dead_code, reason = "it is counted")] Rc<()>);

impl Waiting {
    fn begin(&self) -> Option<Turn> {
        (Rc::strong_count(&self.0) <= WAITING_MAX).then(|| Turn(Rc::clone(&self.0)))
    }
}

/// A token that is being checked. Resolves to what has come of it.
#[derive(Debug)]
pub struct Verifying {
    work: JoinHandle<Result<Bearer, BadToken>>,
    seen: Seen,
    verifier: Arc<Verifier>,
    _turn: Turn,
}

/// What has come of a token: to be given to [`Local::verified`], where its metrics are.
#[derive(Debug)]
pub struct Verdict {
    pub(super) seen: Seen,
    /// What it was checked by.
    pub(super) verifier: Arc<Verifier>,
    /// `None` where the work has come to nothing.
    pub(super) result: Option<Result<Bearer, BadToken>>,
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
        Pin::new(&mut self.work).poll(cx).map(|result| {
            let verifier = Arc::clone(&self.verifier);
            Verdict { seen: self.seen, verifier, result: result.ok() }
        })
    }
}

impl Shard {
    /// Begins to check a token.
    ///
    /// # Errors
    ///
    /// [`NotTaken::Busy`] where as many as may wait do.
    pub(super) fn verify(&self, unchecked: Unchecked) -> Result<Verifying, NotTaken> {
        let Some(turn) = self.verifying.begin() else {
            self.metrics.add(Counter::AuthBusy, 1);
            return Err(NotTaken::Busy);
        };
        let Unchecked { token, seen, verifier, now_s } = unchecked;
        let by = Arc::clone(&verifier);
        let work = tokio::task::spawn_blocking(move || by.verify(&token, now_s));
        Ok(Verifying { work, seen, verifier, _turn: turn })
    }

    /// Who bears a token that was checked.
    ///
    /// # Errors
    ///
    /// As of [`Node::authenticate`](super::Node::authenticate).
    pub(super) fn verified(&self, verdict: Verdict) -> Result<Arc<Bearer>, NotTaken> {
        let Verdict { seen, verifier, result } = verdict;
        match result {
            Some(result) => self.node.checked((seen, &verifier), result, &self.metrics),
            None => Err(NotTaken::Busy),
        }
    }
}

impl Local {
    /// Begins to check a token.
    ///
    /// # Errors
    ///
    /// [`NotTaken::Busy`] where as many as may wait do.
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

    #[test]
    fn as_many_wait_as_may_and_each_gives_its_turn_back() {
        let waiting = Waiting::default();
        let turns: Vec<_> = (0..WAITING_MAX).map(|_| waiting.begin()).collect();
        assert!(turns.iter().all(Option::is_some) && waiting.begin().is_none());
        drop(turns);
        assert!(waiting.begin().is_some());
        assert_eq!(Rc::strong_count(&waiting.0), 1);
    }
}
