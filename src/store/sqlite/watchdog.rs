//! The watchdog of the thread that writes: it finds, from outside that thread, that the disk does not
//! answer. A read or a sync that hangs returns no error that anybody could see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// How long one step of the thread may take, in milliseconds. The largest is the commit of a batch: 16
/// MiB of events, or one that is larger, each twice where the newest of its key is kept beside the
/// past, and all of it again where the log goes into the file. A disk that serves at all takes a second
/// or two for them. And it is what a publisher over HTTP waits where nothing else is set.
pub(super) const HANG_MS: u64 = 5_000;

/// How long the thread must go on after that, in milliseconds, with a step in each look, before the
/// disk counts as well again: one on which every read takes many seconds answers now and then.
const WELL_MS: u64 = 1_000;

/// What counts at most of the time between two looks, in milliseconds: where the whole process was
/// stopped, it is not the disk that has not answered.
const LOOK_MS: u64 = 1_000;

/// Counts the steps of one thread, and looks whether they go on.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// Steps that were begun. Written by the watched thread alone.
    steps: AtomicU64,
    /// It has work, and does not wait for some.
    busy: AtomicBool,
    hung: AtomicBool,
    seen: Mutex<Seen>,
}

/// What the last look has found.
#[derive(Debug, Default)]
struct Seen {
    steps: u64,
    at_ms: u64,
    /// How long it has been the same step.
    still_ms: u64,
    /// How long each look has found another one.
    well_ms: u64,
}

/// What a look finds that the last one did not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The thread has not moved for [`HANG_MS`].
    Hung,
    /// It has moved again, for [`WELL_MS`], or has nothing to do.
    Answered,
}

impl Watchdog {
    /// The thread begins a step, which should not take long.
    pub(super) fn step(&self) {
        self.count();
        self.busy.store(true, Ordering::Relaxed);
    }

    /// The thread waits for work.
    pub(super) fn rest(&self) {
        self.count();
        self.busy.store(false, Ordering::Relaxed);
    }

    fn count(&self) {
        // One thread writes it: no exchange is needed.
        self.steps.store(self.steps.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether the last look has found that the thread does not move.
    pub(super) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    /// Looks whether the thread moves. To be called a few times a second.
    pub(super) fn look(&self, now_ms: u64) -> Option<Change> {
        let mut seen = self.seen.lock();
        let steps = self.steps.load(Ordering::Relaxed);
        let passed_ms = now_ms.saturating_sub(seen.at_ms).min(LOOK_MS);
        seen.at_ms = now_ms;
        let busy = self.busy.load(Ordering::Relaxed);
        if steps == seen.steps && busy {
            seen.still_ms += passed_ms;
            seen.well_ms = 0;
        } else {
            (seen.steps, seen.still_ms) = (steps, 0);
            seen.well_ms += passed_ms;
        }
        let was = self.is_hung();
        let hung = if was { busy && seen.well_ms < WELL_MS } else { seen.still_ms >= HANG_MS };
        self.hung.store(hung, Ordering::Relaxed);
        match (was, hung) {
            (false, true) => Some(Change::Hung),
            (true, false) => Some(Change::Answered),
            (false, false) | (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_does_not_end_is_found_and_so_is_its_end() {
        let dog = Watchdog::default();
        let mut now_ms = 1_000_000;
        let mut looks = |dog: &Watchdog, times: u64| -> Vec<Change> {
            let mut look = || {
                now_ms += 100;
                dog.look(now_ms)
            };
            (0..times).filter_map(|_| look()).collect()
        };
        assert_eq!(looks(&dog, 1_000), [], "it has not begun");
        dog.step();
        assert_eq!(looks(&dog, 1 + HANG_MS / 100 - 1), []);
        assert!(!dog.is_hung());
        assert_eq!(looks(&dog, 1_000), [Change::Hung], "once");
        assert!(dog.is_hung());
        // A step now and then is no disk that answers.
        for _ in 0..10 {
            dog.step();
            assert_eq!(looks(&dog, 40), []);
        }
        for _ in 0..9 {
            dog.step();
            assert_eq!(looks(&dog, 1), []);
        }
        assert!(dog.is_hung(), "not yet");
        dog.step();
        assert_eq!(looks(&dog, 1), [Change::Answered]);
        assert!(!dog.is_hung());
        dog.step();
        assert_eq!(looks(&dog, 1_000), [Change::Hung]);
        dog.rest();
        assert_eq!(looks(&dog, 1), [Change::Answered], "it has done all that it had to");
        dog.step();
        // It moves, however slowly; and it may rest as long as it likes.
        for _ in 0..10 {
            assert_eq!(looks(&dog, 40), []);
            dog.step();
        }
        dog.rest();
        assert_eq!(looks(&dog, 1_000), []);
    }

    #[test]
    fn a_process_that_was_stopped_is_no_disk_that_hangs() {
        let dog = Watchdog::default();
        dog.step();
        assert_eq!(dog.look(1_000_000), None);
        assert_eq!(dog.look(2_000_000), None, "a stop of a thousand seconds counts as one");
        assert_eq!(dog.look(2_003_900), None);
        assert!(!dog.is_hung());
    }
}
