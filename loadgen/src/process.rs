//! What `/proc` says about a process: resident memory and CPU time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde::Serialize;

use crate::clock::SECOND;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    pub(crate) rss_bytes: u64,
    /// User and system time of all threads.
    pub(crate) cpu_ns: u64,
    /// The part of it that the kernel worked for the process.
    pub(crate) system_ns: u64,
}

/// Reads one process; `None` when it is gone.
pub(crate) fn sample(pid: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (user_ns, system_ns) = cpu(&stat)?;
    Some(Sample { rss_bytes: rss(&status)?, cpu_ns: user_ns + system_ns, system_ns })
}

/// This process.
pub(crate) fn own() -> Sample {
    sample(std::process::id()).unwrap_or_default()
}

/// How long a thread was ready to run and had no CPU.
#[derive(Debug)]
pub(crate) struct RunQueue(Option<File>);

impl RunQueue {
    /// Of the calling thread, which alone may ask it.
    pub(crate) fn own() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// In all so far; 0 where the kernel does not say.
    pub(crate) fn waited(&self) -> u64 {
        let mut text = [0; 64];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        read.and_then(|read| std::str::from_utf8(text.get(..read)?).ok())
            .and_then(waited)
            .unwrap_or(0)
    }
}

/// The second number is the time in the queue.
fn waited(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A process's memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct MemoryPoint {
    /// Since the first connection was opened.
    pub(crate) seconds: f64,
    pub(crate) rss_bytes: u64,
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time. The name in parentheses may hold anything, so fields are counted behind
/// the last one.
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let tick = SECOND / rustix::param::clock_ticks_per_second().max(1);
    Some((times.next()?.ok()?.saturating_mul(tick), times.next()?.ok()?.saturating_mul(tick)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        let tick = SECOND / rustix::param::clock_ticks_per_second();
        assert_eq!(cpu(stat), Some((150 * tick, 50 * tick)));
        assert_eq!(rss("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!((cpu("7 (x"), rss("")), (None, None));
    }

    #[test]
    fn the_time_in_the_run_queue_is_read() {
        assert_eq!(
            (waited("5 59473 1\n"), waited("5"), waited("a b c")),
            (Some(59_473), None, None)
        );
        let queue = RunQueue::own();
        assert!(queue.waited() <= queue.waited(), "it only grows");
    }

    #[test]
    fn our_own_memory_is_not_zero() {
        assert!(own().rss_bytes > 0);
    }
}
