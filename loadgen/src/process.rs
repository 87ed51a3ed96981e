//! What `/proc` says about a process: resident memory and CPU time.

use std::fs;

use serde::Serialize;

use crate::clock::SECOND;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    pub(crate) rss_bytes: u64,
    /// User and system time of all threads.
    pub(crate) cpu_ns: u64,
}

/// Reads one process; `None` when it is gone.
pub(crate) fn sample(pid: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Sample { rss_bytes: rss(&status)?, cpu_ns: cpu(&stat)? })
}

/// This process.
pub(crate) fn own() -> Sample {
    sample(std::process::id()).unwrap_or_default()
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The name in parentheses may hold anything, so fields are counted behind the last one.
fn cpu(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(ticks * (SECOND / rustix::param::clock_ticks_per_second().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        let tick = SECOND / rustix::param::clock_ticks_per_second();
        assert_eq!(cpu(stat), Some(200 * tick));
        assert_eq!(rss("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!((cpu("7 (x"), rss("")), (None, None));
    }

    #[test]
    fn our_own_memory_is_not_zero() {
        assert!(own().rss_bytes > 0);
    }
}
