//! What a receiver thread brings home, and how connections are numbered over the threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::ledger::Ledger;
use crate::engine::secure::Shaken;
use crate::engine::wanted::Wanted;
use crate::latency::Latency;

/// What a thread brings home.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) ledger: Ledger,
    pub(crate) handshakes: Latency,
    pub(crate) ready: Latency,
    /// Commands that were answered with errors.
    pub(crate) refused: u64,
    /// Commands and requests without an answer.
    pub(crate) unanswered: u64,
    /// Requests that were due while it was measured and were never sent.
    pub(crate) unsent: u64,
    /// Answers that came to another connection than asked, or a second time.
    pub(crate) strangers: u64,
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// From when a command or request was due to its answer.
    pub(crate) answers: Latency,
    /// How late the generator itself was with requests, acts and returns.
    pub(crate) lateness: Latency,
    /// How late it was with the connections that its plan had due.
    pub(crate) opening_lateness: Latency,
    /// When the last connection of that plan was begun.
    pub(crate) last_begun: u64,
    /// From when a connection was due to come back until it had its subscriptions.
    pub(crate) back: Latency,
    /// The same until its first event.
    pub(crate) served: Latency,
    /// How slow connections ended, and how many did so.
    pub(crate) closes: BTreeMap<String, u64>,
    pub(crate) moves: Moves,
    pub(crate) shaken: Shaken,
    /// When the last connection became ready.
    pub(crate) last_ready: u64,
    pub(crate) id: u32,
    pub(crate) threads: u32,
}

/// Commands of `churn`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moves {
    pub(crate) subscribed: u64,
    pub(crate) unsubscribed: u64,
}

impl Books {
    /// The empty books of thread `id`, which has so many connections.
    pub(crate) fn new(wanted: &Arc<Wanted>, id: u32, connections: usize) -> Self {
        Self {
            ledger: Ledger::new(Arc::clone(wanted), connections),
            handshakes: Latency::new(),
            ready: Latency::new(),
            refused: 0,
            unanswered: 0,
            unsent: 0,
            strangers: 0,
            requests: 0,
            answers: Latency::new(),
            lateness: Latency::new(),
            opening_lateness: Latency::new(),
            last_begun: 0,
            back: Latency::new(),
            served: Latency::new(),
            closes: BTreeMap::new(),
            moves: Moves::default(),
            shaken: Shaken::default(),
            last_ready: 0,
            id,
            threads: wanted.threads,
        }
    }

    /// How many connections became ready.
    pub(crate) fn ready_count(&self) -> u64 {
        self.ready.count()
    }

    /// The channels ended at `heads`: what is missing is booked as violations.
    pub(crate) fn finish(&mut self, heads: &[Option<u64>]) {
        let (id, threads) = (self.id, self.threads);
        self.ledger.finish(heads, |at| number(at, id, threads));
    }
}

/// Connections are dealt to the threads one by one.
pub(crate) fn number(at: usize, id: u32, threads: u32) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX).saturating_mul(threads).saturating_add(id)
}
