//! Processes that the suite starts: none outlives it, whatever happens.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clock::{self, SECOND};
use crate::fault::RunError;

/// The longest a gateway may take until it is ready, and until it has stopped.
const PATIENCE: u64 = 10 * SECOND;
/// Between two looks at a process.
const LOOK: u64 = SECOND / 50;

/// Notices that the suite itself is told to end.
#[derive(Debug)]
pub(crate) struct Interrupts(Arc<AtomicBool>);

impl Interrupts {
    /// From here on Ctrl-C and SIGTERM only show in [`Interrupts::check`]. A handler, and not a
    /// blocked signal, because children inherit what is blocked.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the handler.
    pub(crate) fn catch() -> Result<Self, RunError> {
        let told = Arc::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&told))
                .map_err(|error| RunError::Machine(format!("cannot wait for signals: {error}")))?;
        }
        Ok(Self(told))
    }

    fn check(&self) -> Result<(), RunError> {
        if self.0.load(Ordering::Relaxed) { Err(RunError::Interrupted) } else { Ok(()) }
    }
}

/// A process that is told to end, and then made to, when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned(Child);

impl Owned {
    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self, interrupts: &Interrupts) -> Result<ExitStatus, RunError> {
        loop {
            interrupts.check()?;
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => clock::sleep(LOOK),
                Err(error) => return Err(RunError::Machine(format!("cannot wait: {error}"))),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        let end = clock::now() + PATIENCE;
        while !self.has_ended() && clock::now() < end {
            clock::sleep(LOOK);
        }
        // An error means that it has ended in between.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a program; its output goes to a file.
pub(crate) fn start(command: &mut Command, output: &Path) -> Result<Owned, String> {
    let file = File::create(output).map_err(|error| format!("{}: {error}", output.display()))?;
    let child = command.stdin(Stdio::null()).stdout(file).spawn();
    let shown = command.get_program().display();
    child.map(Owned).map_err(|error| format!("cannot start {shown}: {error}"))
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Owned,
    address: SocketAddr,
}

impl Gateway {
    /// Starts `program serve` on a free port and waits until it is ready; what it says goes to
    /// `log`.
    pub(crate) fn start(
        program: &Path,
        shards: u32,
        config: Option<PathBuf>,
        log: PathBuf,
        interrupts: &Interrupts,
    ) -> Result<Self, RunError> {
        let no_port = |error| RunError::Machine(format!("there is no free port: {error}"));
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(no_port)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &address.to_string(), "--shards", &shards.to_string()]);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        // The measured gateway has the settings of its defaults and its run, not those of this shell.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("WEIR_")) {
                command.env_remove(name);
            }
        }
        let errors = log.with_extension("err");
        let file = File::create(&errors)
            .map_err(|error| RunError::Report { path: errors.display().to_string(), error })?;
        let process = start(command.stderr(file), &log).map_err(RunError::Gateway)?;
        let mut gateway = Self { process, address };
        gateway.wait_until_ready(&[&log, &errors], interrupts)?;
        Ok(gateway)
    }

    fn wait_until_ready(
        &mut self,
        logs: &[&Path],
        interrupts: &Interrupts,
    ) -> Result<(), RunError> {
        let end = clock::now() + PATIENCE;
        loop {
            interrupts.check()?;
            if self.process.has_ended() {
                let said = last_line(logs);
                return Err(RunError::Gateway(format!("the server ended at once: {said}")));
            }
            if is_ready(self.address) {
                return Ok(());
            }
            if clock::now() > end {
                let seconds = PATIENCE / SECOND;
                return Err(RunError::Gateway(format!(
                    "the server did not answer /readyz with 200 within {seconds} s: {}",
                    last_line(logs)
                )));
            }
            clock::sleep(LOOK);
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let limit = Duration::from_secs(1);
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut start = vec![0; 12];
        stream.read_exact(&mut start)?;
        Ok(start)
    };
    ask().is_ok_and(|start| start.ends_with(b" 200"))
}

/// The last thing that the server said.
fn last_line(logs: &[&Path]) -> String {
    let texts: Vec<String> =
        logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect();
    let mut lines = texts.iter().flat_map(|text| text.lines());
    lines.rfind(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned()
}
