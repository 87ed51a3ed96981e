//! What a receiver thread brings home, and how connections are numbered over the threads.

use crate::engine::ledger::Ledger;
use crate::latency::Latency;

/// What a thread brings home.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) ledger: Ledger,
    pub(crate) handshakes: Latency,
    pub(crate) ready: Latency,
    /// Commands that were answered with errors.
    pub(crate) refused: u64,
    /// When the last connection became ready.
    pub(crate) last_ready: u64,
    pub(crate) id: u32,
    pub(crate) threads: u32,
}

impl Books {
    /// How many connections became ready.
    pub(crate) fn ready_count(&self) -> u64 {
        self.ready.count()
    }

    /// The channels ended at `heads`: what is missing is booked as violations.
    pub(crate) fn finish(&mut self, heads: &[u64]) {
        let (id, threads) = (self.id, self.threads);
        self.ledger.finish(heads, |at| number(at, id, threads));
    }
}

/// Connections are dealt to the threads one by one.
pub(crate) fn number(at: usize, id: u32, threads: u32) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX).saturating_mul(threads).saturating_add(id)
}
