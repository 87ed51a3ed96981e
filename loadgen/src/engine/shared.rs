//! What threads tell each other while a run goes on: the phase, and one line of counters each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::clock;
use crate::fault::Fault;
use crate::plan::Span;
use crate::process::RunQueue;

/// The parts of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connections open and subscribe.
    Open,
    /// Events flow, nothing is recorded.
    Warm,
    /// Latency is recorded.
    Measure,
    /// Events flow, nobody leaves any more, those who are away come back.
    Calm,
    /// The publisher has stopped; what is under way arrives.
    Drain,
    /// Threads end.
    Stop,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Open, Self::Warm, Self::Measure, Self::Calm, Self::Drain, Self::Stop];

    /// Its name in a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Warm => "warm",
            Self::Measure => "measure",
            Self::Calm => "calm",
            Self::Drain => "drain",
            Self::Stop => "stop",
        }
    }
}

/// Makes the counters of one thread, and their sum over all threads at one moment.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $sum:ident,)*) => {
        /// One thread's counters, on cache lines of their own. Written by that thread alone.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Tally {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// A sum over all threads at one moment.
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct Total {
            $(pub(crate) $name: u64,)*
        }

        impl Total {
            fn add(&mut self, tally: &Tally) {
                $(self.$name = self.$name.$sum(tally.$name.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    ready: saturating_add,
    /// Did not become ready.
    failed: saturating_add,
    /// Were ready and are gone.
    lost: saturating_add,
    /// Events received.
    delivered: saturating_add,
    /// Events told by `lagged`.
    told: saturating_add,
    /// Latest values that were shown again.
    shown: saturating_add,
    /// Subscriptions that are owed some, under `latest`.
    unshown: saturating_add,
    /// Requests that wait for their answers.
    open: saturating_add,
    /// Bytes read from sockets.
    bytes: saturating_add,
    /// What they are when they are inflated.
    unpacked: saturating_add,
    /// System calls that read something.
    reads: saturating_add,
    cpu_ns: saturating_add,
    /// How long the thread was ready to run and had no CPU.
    waited_ns: saturating_add,
    /// Events received by connections that are slow on purpose.
    slow_delivered: saturating_add,
    slow_told: saturating_add,
    slow_shown: saturating_add,
    /// Slow connections that have ended.
    slow_gone: saturating_add,
    /// Slow connections that the server has let go of, while they were not read.
    slow_hung: saturating_add,
    /// Connections that have left or were cut.
    cut: saturating_add,
    /// Of those, the ones that have their subscriptions again.
    back: saturating_add,
    /// Of those, the ones that have received an event since.
    served: saturating_add,
    /// Returns that failed and were tried again.
    retries: saturating_add,
    /// Acts that were due and found no connection to act on in time.
    skipped: saturating_add,
    /// When the last connection came back, and was served.
    last_back: max,
    last_served: max,
}

impl Total {
    /// Events received, by the slow too.
    pub(crate) fn received(&self) -> u64 {
        self.delivered.saturating_add(self.slow_delivered)
    }
}

impl Tally {
    /// Books what the calling thread has used of the CPU, and how long it has waited for it.
    pub(crate) fn book_cpu(&self, queue: &RunQueue) {
        self.cpu_ns.store(clock::thread_cpu(), Ordering::Relaxed);
        self.waited_ns.store(queue.waited(), Ordering::Relaxed);
    }
}

/// Everything that threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    phase: AtomicU8,
    /// When events were to begin: a thread that wakes up late is late.
    pub(crate) begun_at: AtomicU64,
    measured_from: AtomicU64,
    measured_until: AtomicU64,
    /// One per receiver thread.
    pub(crate) tallies: Vec<Tally>,
    /// Events that the publisher has handed over.
    pub(crate) published: AtomicU64,
    /// Events that the publisher has made, at least as many as the server can know of;
    /// [`u64::MAX`] when nobody counts.
    pub(crate) made: AtomicU64,
    /// CPU of the one publisher of a fan-out.
    pub(crate) publisher_ns: AtomicU64,
    /// How often all connections were to be cut, and when that was last said.
    pub(crate) storms: AtomicU64,
    pub(crate) storm_at: AtomicU64,
    /// Threads that may still send what was due while it was measured.
    unsettled: AtomicU64,
    /// Receiver threads that know that nobody leaves any more.
    calm: AtomicU64,
    /// What went wrong first.
    pub(crate) fault: OnceLock<Fault>,
}

impl Shared {
    pub(crate) fn new(threads: u32) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Open as u8),
            begun_at: AtomicU64::new(0),
            measured_from: AtomicU64::new(u64::MAX),
            measured_until: AtomicU64::new(u64::MAX),
            tallies: (0..threads).map(|_| Tally::default()).collect(),
            published: AtomicU64::new(0),
            made: AtomicU64::new(u64::MAX),
            publisher_ns: AtomicU64::new(0),
            storms: AtomicU64::new(0),
            storm_at: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            calm: AtomicU64::new(0),
            fault: OnceLock::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Stop)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let before = self.phase();
        let now = clock::now();
        match phase {
            Phase::Open => {}
            Phase::Warm => self.begun_at.store(now, Ordering::Relaxed),
            Phase::Measure => self.measured_from.store(now, Ordering::Relaxed),
            Phase::Calm | Phase::Drain | Phase::Stop if before == Phase::Measure => {
                self.measured_until.store(now, Ordering::Relaxed);
            }
            Phase::Calm | Phase::Drain | Phase::Stop => {}
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// So many threads send by plan; each says in the drain when nothing is left to send.
    pub(crate) fn expect_senders(&self, threads: u32) {
        self.unsettled.store(threads.into(), Ordering::Release);
    }

    /// A thread has sent all that was due while it was measured.
    pub(crate) fn settle(&self) {
        self.unsettled.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether all that was due while it was measured is sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) == 0
    }

    /// A receiver thread has seen [`Phase::Calm`], or what comes after it: it cuts nobody any more.
    pub(crate) fn grow_calm(&self) {
        self.calm.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether all of them have.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Acquire) >= self.tallies.len() as u64
    }

    /// What is measured, as far as it is known.
    pub(crate) fn span(&self) -> Span {
        Span {
            from: self.measured_from.load(Ordering::Relaxed),
            until: self.measured_until.load(Ordering::Relaxed),
        }
    }

    /// Keeps the first fault; later ones are only counted by their tallies.
    pub(crate) fn blame(&self, fault: Fault) {
        drop(self.fault.set(fault));
    }

    pub(crate) fn total(&self) -> Total {
        let mut total = Total::default();
        self.tallies.iter().for_each(|tally| total.add(tally));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_span_ends_once_with_the_phase() {
        let shared = Shared::new(1);
        shared.enter(Phase::Warm);
        assert!(!shared.span().has(clock::now()), "warm-up");
        shared.enter(Phase::Measure);
        let due = clock::now();
        assert!(shared.span().has(due));
        shared.enter(Phase::Calm);
        let span = shared.span();
        shared.enter(Phase::Drain);
        assert_eq!(shared.span(), span, "what comes later does not move it");
        assert!(span.has(due) && !span.has(clock::now()), "what is due after it");
    }
}
