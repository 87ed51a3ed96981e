//! Private descriptor tables: a thread that leaves the process's table has the descriptor limit
//! for itself (unshare(2), CLONE_FILES), and its system calls skip the shared table's counting.
#![expect(unsafe_code, reason = "unshare(CLONE_FILES) has no safe wrapper")]

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;

/// Descriptors that are not connections: the runtime's, the listener, logs, files.
pub const RESERVE: u64 = 64;

/// Raises the soft descriptor limit to the hard one and returns it.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current != limit.maximum {
        // Refused only where the kernel's own ceiling is lower; then the old limit stands.
        if setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).is_err()
        {
            return limit.current.unwrap_or(u64::MAX);
        }
    }
    hard
}

/// Whether threads may have tables of their own here; tried on a thread that then ends.
///
/// # Errors
///
/// As [`separate`]; a container's seccomp profile may say EPERM.
pub fn try_separate() -> io::Result<()> {
    let trial = std::thread::Builder::new().name("unshare".to_owned()).spawn(separate)?;
    trial.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Gives the calling thread a descriptor table of its own, a copy of the process's.
///
/// Call it before the thread opens anything, and build the thread's runtime before it and on
/// another thread, so that wake-ups from outside name the same descriptor in every table.
///
/// # Errors
///
/// What unshare(2) says; EPERM and ENOMEM are possible.
pub fn separate() -> io::Result<()> {
    // SAFETY: after this call descriptors opened by other threads mean nothing on this thread
    // and the other way round. A shard's sockets are opened, used and closed on its own thread
    // only; the descriptors that are used across threads (wake-up eventfds, standard streams)
    // were opened before, so they are in every table under the same number, and nobody closes
    // them while threads run.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }.map_err(io::Error::from)
}
