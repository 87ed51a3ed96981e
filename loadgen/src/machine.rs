//! The limits of this machine, found before the run: descriptors per table and source ports.
//! Also the one system call that is unsafe.

use std::fs;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::clock::timespec;
use crate::fault::RunError;

/// Descriptors that are not connections: standard streams, epoll, listeners, reports.
const SPARE_DESCRIPTORS: u64 = 64;

/// Connections from one source address that leave the default port range half empty.
const PORTS_PER_SOURCE: u32 = 14_000;

/// What a connection takes at least, on both sides: two sockets of the kernel, and our share.
const BYTES_PER_CONNECTION: u64 = 8 << 10;

/// What limits a run.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Descriptors in one table.
    descriptors: u64,
    /// Files that the whole machine may have open; `None` when nobody says.
    files: Option<u64>,
    /// Ports that a source address has towards one server.
    ports: u32,
    /// Bytes that are free for use; `None` when nobody says.
    memory: Option<u64>,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let range = read("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| ports(&text));
        Self {
            descriptors: descriptors_max(),
            files: read("/proc/sys/fs/file-max").and_then(|text| text.trim().parse().ok()),
            ports: range.unwrap_or(28_000),
            memory: read("/proc/meminfo").and_then(|text| available(&text)),
        }
    }

    /// Says what there is too little of, and what to do.
    fn check(&self, connections: u32, sources: u8) -> Result<(), RunError> {
        let per_source = connections.div_ceil(u32::from(sources.max(1)));
        if per_source > self.ports {
            let (needed, ports) = (connections.div_ceil(self.ports), self.ports);
            return Err(RunError::Machine(format!(
                "{per_source} connections from one source address need more than its {ports} \
                 ports: use --sources {needed} or more (on 127.0.0.0/8), or widen \
                 net.ipv4.ip_local_port_range"
            )));
        }
        // The server's end of each connection is a file too.
        let wanted = u64::from(connections) * 2;
        if let Some(files) = self.files.filter(|files| *files < wanted) {
            return Err(RunError::Machine(format!(
                "{connections} connections are {wanted} open files on both sides and the machine \
                 allows {files}: use fewer, or raise fs.file-max"
            )));
        }
        let bytes = u64::from(connections) * BYTES_PER_CONNECTION;
        if let Some(memory) = self.memory.filter(|memory| *memory < bytes) {
            return Err(RunError::Machine(format!(
                "{connections} connections take at least {} MiB and {} MiB are free: use fewer, or \
                 make room",
                bytes >> 20,
                memory >> 20
            )));
        }
        Ok(())
    }
}

/// How many ports a range such as `32768 60999` has.
fn ports(range: &str) -> Option<u32> {
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some(last.checked_sub(first)? + 1)
}

/// The bytes that `/proc/meminfo` calls available.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// How the connections are laid over threads and source addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) threads: u32,
    /// Whether each thread needs a descriptor table of its own.
    pub(crate) private_tables: bool,
    /// How many source addresses are used; 0 leaves the choice to the kernel.
    pub(crate) sources: u8,
}

/// Lays out `connections`, or says what the machine lacks.
pub(crate) fn layout(
    connections: u32,
    threads: Option<u32>,
    sources: Option<u8>,
) -> Result<Layout, RunError> {
    fine_waits()?;
    lay_out(connections, threads, sources, &Machine::here())
}

fn lay_out(
    connections: u32,
    threads: Option<u32>,
    sources: Option<u8>,
    machine: &Machine,
) -> Result<Layout, RunError> {
    let limit = machine.descriptors;
    let room = limit.saturating_sub(SPARE_DESCRIPTORS).max(1);
    let needed = u32::try_from(u64::from(connections).div_ceil(room)).unwrap_or(u32::MAX);
    let threads = threads.unwrap_or(needed).max(1);
    if threads < needed {
        return Err(RunError::Machine(format!(
            "{connections} connections need {needed} threads under the limit of {limit} \
             descriptors each: use --threads {needed}, or raise the limit (ulimit -n)"
        )));
    }
    let wanted = connections.div_ceil(PORTS_PER_SOURCE).min(200);
    let sources = sources.unwrap_or(u8::try_from(wanted).unwrap_or(200));
    machine.check(connections, sources)?;
    Ok(Layout { threads, private_tables: needed > 1, sources })
}

/// Whether `connections` fit into the one descriptor table of this process.
pub(crate) fn one_table(connections: u32) -> Result<(), RunError> {
    fine_waits()?;
    let (limit, wanted) = (descriptors_max(), u64::from(connections) + SPARE_DESCRIPTORS);
    if wanted <= limit {
        return Ok(());
    }
    Err(RunError::Machine(format!(
        "{connections} publishers need {wanted} descriptors and the limit is {limit}: use fewer, \
         or raise the limit (ulimit -n)"
    )))
}

/// Whether both ends of `connections` fit into the one descriptor table of this process.
pub(crate) fn both_ends(connections: u32) -> Result<(), RunError> {
    fits_both_ends(connections, descriptors_max())
}

fn fits_both_ends(connections: u32, limit: u64) -> Result<(), RunError> {
    let wanted = u64::from(connections) * 2 + SPARE_DESCRIPTORS;
    if wanted <= limit {
        return Ok(());
    }
    let most = limit.saturating_sub(SPARE_DESCRIPTORS) / 2;
    Err(RunError::Machine(format!(
        "{connections} connections with both ends in this process need {wanted} descriptors and \
         the limit is {limit}: use at most {most} connections, or raise the limit (ulimit -n)"
    )))
}

/// Whether the kernel waits for less than a millisecond (epoll_pwait2), which plans need.
fn fine_waits() -> Result<(), RunError> {
    let failed = |errno| {
        RunError::Machine(format!("this kernel has no epoll_pwait2 (Linux 5.11 has): {errno}"))
    };
    let poll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
    let mut events: Vec<Event> = Vec::with_capacity(1);
    match epoll::wait(&poll, spare_capacity(&mut events), Some(&timespec(0))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Raises the soft limit of descriptors to the hard one and returns it.
fn descriptors_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let Some(hard) = limit.maximum else { return u64::from(u32::MAX) };
    let raised = Rlimit { current: Some(hard), maximum: Some(hard) };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => hard,
        Err(_) => limit.current.unwrap_or(hard),
    }
}

/// Gives the calling thread a descriptor table of its own.
#[expect(unsafe_code, reason = "the system call is unsafe: descriptors stop being process-wide")]
pub(crate) fn own_table() -> std::io::Result<()> {
    // SAFETY: a receiver thread calls this before it opens anything. What it opens afterwards stays
    // in its own values, which are dropped on the same thread; what it had before is only copied.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Machine =
        Machine { descriptors: 20_000, files: None, ports: 28_232, memory: None };

    #[test]
    fn more_connections_than_descriptors_take_more_threads() {
        let small = lay_out(1_000, None, None, &LARGE).expect("fits");
        assert_eq!(small, Layout { threads: 1, private_tables: false, sources: 1 });
        let large = lay_out(100_000, None, None, &LARGE).expect("fits");
        assert_eq!(large, Layout { threads: 6, private_tables: true, sources: 8 });
        let refused = lay_out(100_000, Some(2), None, &LARGE).expect_err("too few threads");
        assert!(refused.to_string().contains("--threads 6"), "{refused}");
    }

    #[test]
    fn too_few_ports_files_or_bytes_are_named_with_what_to_do() {
        let refused = |machine: Machine, sources| {
            lay_out(100_000, None, sources, &machine).expect_err("too little").to_string()
        };
        for sources in [0, 1, 3] {
            let text = refused(LARGE, Some(sources));
            assert!(text.contains("use --sources 4 or more"), "{text}");
        }
        let text = refused(Machine { files: Some(199_999), ..LARGE }, None);
        assert!(text.contains("raise fs.file-max"), "{text}");
        let text = refused(Machine { memory: Some(500 << 20), ..LARGE }, None);
        assert!(text.contains("take at least 781 MiB and 500 MiB are free"), "{text}");
    }

    #[test]
    fn both_ends_of_a_connection_are_counted() {
        assert!(fits_both_ends(9_968, 20_000).is_ok());
        let refused = fits_both_ends(10_000, 20_000).expect_err("too many").to_string();
        assert!(refused.contains("use at most 9968 connections"), "{refused}");
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
        assert_eq!((ports("9 1"), ports("x")), (None, None));
        assert_eq!(available("MemFree: 1 kB\nMemAvailable:   12 kB\n"), Some(12 * 1024));
        let here = Machine::here();
        assert!(here.memory.is_some() && here.files.is_some(), "{here:?}");
    }
}
