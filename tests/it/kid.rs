//! A process of a test, which ends with it.

use std::io::{BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::harness::{PATIENCE, wait_for};

/// A child process with an end: killed when dropped, and when it lives longer than twice
/// [`PATIENCE`], so that whoever reads its output never waits for ever.
pub(crate) struct Kid {
    child: Arc<Mutex<Child>>,
    /// Whoever watches the time ends with it.
    _alive: mpsc::SyncSender<()>,
}

impl Kid {
    /// Starts it. What is piped may be taken.
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = Arc::new(Mutex::new(command.spawn().unwrap()));
        let (alive, gone) = mpsc::sync_channel(1);
        let watched = Arc::clone(&child);
        std::thread::spawn(move || {
            if gone.recv_timeout(2 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                watched.lock().kill().ok();
            }
        });
        Self { child, _alive: alive }
    }

    /// Its standard input, which was piped.
    pub(crate) fn stdin(&self) -> ChildStdin {
        self.child.lock().stdin.take().unwrap()
    }

    /// Its standard output, which was piped.
    pub(crate) fn stdout(&self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.lock().stdout.take().unwrap())
    }

    /// Waits for its end.
    pub(crate) fn ended(&self) -> ExitStatus {
        wait_for("the end of a command", || self.child.lock().try_wait().unwrap())
    }

    /// Waits for its end, and gives all that it wrote to what was piped and not taken.
    pub(crate) fn output(&self) -> Output {
        fn whole(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut from) = from {
                    from.read_to_end(&mut bytes).unwrap();
                }
                bytes
            })
        }
        let stdout = whole(self.child.lock().stdout.take());
        let stderr = whole(self.child.lock().stderr.take());
        let status = self.ended();
        Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        child.kill().ok();
        child.wait().ok();
    }
}

/// Runs a command to its end, within the time that a [`Kid`] has.
pub(crate) fn finished(command: &mut Command) -> Output {
    let kid =
        Kid::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    kid.output()
}
