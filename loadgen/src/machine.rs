//! The limits of this machine, found before the run: descriptors per table and source ports.
//! Also the one system call that is unsafe.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::fault::RunError;

/// Descriptors that are not connections: standard streams, epoll, listeners, reports.
const SPARE_DESCRIPTORS: u64 = 64;

/// Connections from one source address that leave the default port range half empty.
const PORTS_PER_SOURCE: u32 = 14_000;

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
    lay_out(connections, threads, sources, descriptors_max())
}

fn lay_out(
    connections: u32,
    threads: Option<u32>,
    sources: Option<u8>,
    limit: u64,
) -> Result<Layout, RunError> {
    let room = limit.saturating_sub(SPARE_DESCRIPTORS).max(1);
    let needed = u32::try_from(u64::from(connections).div_ceil(room)).unwrap_or(u32::MAX);
    let threads = threads.unwrap_or(needed).max(1);
    if threads < needed {
        return Err(RunError::Machine(format!(
            "{connections} connections need {needed} threads under the limit of {limit} descriptors \
             each: use --threads {needed}, or raise the limit (ulimit -n)"
        )));
    }
    let wanted = connections.div_ceil(PORTS_PER_SOURCE).min(200);
    let sources = sources.unwrap_or(u8::try_from(wanted).unwrap_or(200));
    Ok(Layout { threads, private_tables: needed > 1, sources })
}

/// Whether `connections` fit into the one descriptor table of this process.
pub(crate) fn one_table(connections: u32) -> Result<(), RunError> {
    let (limit, wanted) = (descriptors_max(), u64::from(connections) + SPARE_DESCRIPTORS);
    if wanted <= limit {
        return Ok(());
    }
    Err(RunError::Machine(format!(
        "{connections} publishers need {wanted} descriptors and the limit is {limit}: use fewer, or \
         raise the limit (ulimit -n)"
    )))
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

    #[test]
    fn more_connections_than_descriptors_take_more_threads() {
        let small = lay_out(1_000, None, None, 20_000).expect("fits");
        assert_eq!(small, Layout { threads: 1, private_tables: false, sources: 1 });
        let large = lay_out(100_000, None, None, 20_000).expect("fits");
        assert_eq!(large, Layout { threads: 6, private_tables: true, sources: 8 });
        let refused = lay_out(100_000, Some(2), None, 20_000).expect_err("too few threads");
        assert!(refused.to_string().contains("--threads 6"), "{refused}");
    }
}
