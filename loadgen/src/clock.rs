//! The only place that reads a clock: `CLOCK_MONOTONIC` in nanoseconds, the same for every process
//! of the machine, so that a mark in an event can be read by another program.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// One second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Nanoseconds on the monotonic clock.
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds of CPU that the calling thread has used.
pub(crate) fn thread_cpu() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

/// A monotonic time is never negative.
fn nanos(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A length of time as the kernel wants it.
pub(crate) fn timespec(nanos: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(nanos / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % SECOND).unwrap_or(0),
    }
}

/// Sleeps, with the precision of the thread's timer slack.
pub(crate) fn sleep(nanos: u64) {
    std::thread::sleep(std::time::Duration::from_nanos(nanos));
}
