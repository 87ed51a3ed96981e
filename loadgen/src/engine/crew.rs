//! The receiver threads of a run: started, waited for, stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crate::clock::{self, SECOND};
use crate::engine::books::Books;
use crate::engine::epochs::Start;
use crate::engine::shared::{Phase, Shared, Total};
use crate::engine::wanted::Wanted;
use crate::engine::worker::Worker;
use crate::fault::{Fault, Invalid, RunError};
use crate::latency::Latency;
use crate::series::{Sampler, Series};
use crate::verdict::{Kind, Verdict};

/// Running threads. Dropping them stops them.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<Option<Books>>>,
    sampler: Option<Sampler>,
    pub(crate) started: u64,
}

/// What all threads brought home.
#[derive(Debug)]
pub(crate) struct Result {
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) books: Vec<Books>,
    /// From the first connect to the last that became ready.
    pub(crate) opening_ns: u64,
    pub(crate) handshakes: Latency,
    pub(crate) ready: Latency,
    pub(crate) latency: Latency,
    pub(crate) refused: u64,
    /// Threads that ended by a panic: what they saw is lost.
    pub(crate) panicked: u64,
    pub(crate) series: Series,
    /// What went wrong first.
    pub(crate) fault: Option<Fault>,
}

impl Crew {
    /// Starts the threads; they open connections at once.
    pub(crate) fn start(wanted: Wanted) -> std::result::Result<Self, RunError> {
        let shared = Arc::new(Shared::new(wanted.threads));
        let wanted = Arc::new(wanted);
        let mut crew =
            Self { wanted, shared, threads: Vec::new(), sampler: None, started: clock::now() };
        for id in 0..crew.wanted.threads {
            let (wanted, shared) = (Arc::clone(&crew.wanted), Arc::clone(&crew.shared));
            let thread = std::thread::Builder::new()
                .name(format!("receiver-{id}"))
                .stack_size(256 << 10)
                .spawn(move || receive(id, wanted, shared))
                .map_err(|error| RunError::Machine(format!("cannot start a thread: {error}")))?;
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// Keeps the run's course, with the server's process if it is known.
    pub(crate) fn watch(&mut self, server_pid: Option<u32>) {
        self.sampler = Sampler::start(Arc::clone(&self.shared), server_pid);
    }

    /// Waits until every connection is ready or has failed, or nothing can be hoped for because as
    /// many as may be under way at once have failed since the last that became ready; bounded by
    /// each one's own limit.
    pub(crate) fn opened(&self, mut progress: impl FnMut(Total)) -> Total {
        let (mut ready, mut failed) = (0, 0);
        let wanted = u64::from(self.wanted.connections);
        let window = u64::from(self.wanted.inflight) * u64::from(self.wanted.threads);
        loop {
            let total = self.shared.total();
            if total.ready > ready {
                (ready, failed) = (total.ready, total.failed);
            }
            let is_hopeless = total.failed - failed >= window;
            if total.ready + total.failed >= wanted || is_hopeless || self.is_over() {
                return total;
            }
            progress(total);
            clock::sleep(SECOND / 2_000);
        }
    }

    /// Whether a thread has ended before it was told to.
    fn is_over(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Why the connections do not allow a result; `None` when all stand.
    pub(crate) fn broken(&self) -> Option<Invalid> {
        let total = self.shared.total();
        let missing = u64::from(self.wanted.connections).saturating_sub(total.ready);
        let (lost, why) = (total.lost, self.fault());
        match (missing, lost) {
            (0, 0) => None,
            (0, _) => Some(Invalid::ConnectionsLost { lost, why }),
            _ => Some(Invalid::NotOpened { missing, lost, why }),
        }
    }

    /// What went wrong first.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.shared.fault.get().cloned()
    }

    /// Ends the threads and takes their books.
    pub(crate) fn stop(mut self) -> Result {
        self.shared.enter(Phase::Stop);
        let marks = self.sampler.take().map(Sampler::finish).unwrap_or_default();
        let threads = std::mem::take(&mut self.threads);
        let (mut books, mut panicked) = (Vec::new(), 0);
        for thread in threads {
            match thread.join() {
                Ok(book) => books.extend(book),
                Err(_) => panicked += 1,
            }
        }
        let mut result = Result {
            wanted: Arc::clone(&self.wanted),
            opening_ns: 0,
            handshakes: Latency::new(),
            ready: Latency::new(),
            latency: Latency::new(),
            refused: 0,
            panicked,
            series: Series::default(),
            fault: self.fault(),
            books,
        };
        for book in &result.books {
            result.opening_ns = result.opening_ns.max(book.last_ready.saturating_sub(self.started));
            result.handshakes.merge(&book.handshakes);
            result.ready.merge(&book.ready);
            result.latency.merge(&book.ledger.latency);
            result.refused += book.refused;
        }
        let slices = result.books.iter().map(|book| &book.ledger.slices);
        result.series = marks.series(slices, self.started);
        result
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.enter(Phase::Stop);
    }
}

impl Result {
    /// How late the generator itself was with requests, acts and returns.
    pub(crate) fn lateness(&self) -> Latency {
        let mut lateness = Latency::new();
        self.books.iter().for_each(|book| lateness.merge(&book.lateness));
        lateness
    }

    /// Where each channel stood when it was subscribed to.
    pub(crate) fn starts(&self) -> Vec<Start> {
        let mut starts = vec![Start::default(); self.wanted.subscribing.channels as usize];
        for book in &self.books {
            for (start, base) in starts.iter_mut().zip(&book.ledger.bases) {
                start.merge(*base, &book.ledger.epochs);
            }
        }
        starts
    }

    /// Takes the verdict; with `heads`, also on what is missing up to the heads of the channels.
    pub(crate) fn verdict(&mut self, starts: &[Start], heads: Option<&[Option<u64>]>) -> Verdict {
        let mut verdict = Verdict::default();
        for (channel, start) in (0..).zip(starts) {
            if start.low < start.high {
                verdict.add(None, Some(channel), (Kind::Ahead, start.low + 1, start.high));
            }
        }
        for book in &mut self.books {
            if let Some(heads) = heads {
                book.finish(heads);
            }
            verdict.merge(std::mem::take(&mut book.ledger.verdict));
        }
        verdict
    }
}

fn receive(id: u32, wanted: Arc<Wanted>, shared: Arc<Shared>) -> Option<Books> {
    // A finer timer: waits are as long as they were asked for. Without it they are a little longer.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).ok();
    let mine = wanted.connections.div_ceil(wanted.threads);
    match Worker::new(id, wanted, Arc::clone(&shared)) {
        Ok(worker) => Some(worker.run()),
        Err(fault) => {
            shared.blame(fault);
            shared.tallies[id as usize].failed.store(u64::from(mine), Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ledger::tests::wanted;

    #[test]
    fn a_receiver_that_panics_is_counted() {
        let shared = Arc::new(Shared::new(1));
        let dies = std::thread::spawn(|| -> Option<Books> { panic!("on purpose") });
        let crew = Crew {
            wanted: Arc::new(wanted(false)),
            shared,
            threads: vec![dies],
            sampler: None,
            started: 0,
        };
        let result = crew.stop();
        assert_eq!((result.panicked, result.books.len()), (1, 0));
    }
}
