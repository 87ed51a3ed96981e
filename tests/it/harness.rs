//! Starts the real program on a free port, and speaks to it through fastwebsockets, a client that
//! is not ours. Nothing here sleeps to let something happen: it waits for what should happen.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, mpsc};
use std::time::{Duration, Instant};

use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) use crate::kid::{Kid, finished};
use crate::raw::{Answer, handshake_request, http, join, sum};
use crate::starting::Starting;
use crate::way::{Io, Way};

/// How long anything that must happen may take. Long, so that a busy machine fails nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// The one place of the tests that reads the clock.
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `ready` gives a value; fails with `what` after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A path of its own for every call.
pub(crate) fn scratch(suffix: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{count}{suffix}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A command of the program, without this shell's settings.
pub(crate) fn weir(args: &[&str]) -> Command {
    let mut command = Command::new(WEIR);
    command.args(args);
    without_settings(&mut command);
    command
}

fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
}

/// Takes all descriptors that this process may have: some tests need more than the usual 1,024.
fn take_all_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        setrlimit(Resource::Nofile, files).unwrap();
    });
}

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    log: PathBuf,
    /// Its configuration file, where it has one.
    config: Option<PathBuf>,
    /// Where it listens; of several, the first.
    pub(crate) addr: SocketAddr,
    /// All of where it listens, in the order of its settings.
    pub(crate) addrs: Vec<SocketAddr>,
}

impl Gateway {
    /// One with the embedded defaults.
    pub(crate) fn start() -> Self {
        Self::configured("")
    }

    /// One with a configuration file of this text.
    pub(crate) fn configured(toml: &str) -> Self {
        Self::started(Command::new(WEIR), "127.0.0.1:0", toml)
    }

    /// One of this build of the program, with a configuration file of this text.
    pub(crate) fn of(program: &str, toml: &str) -> Self {
        Self::started(Command::new(program), "127.0.0.1:0", toml)
    }

    /// One that listens on these addresses, with a configuration file of this text.
    pub(crate) fn listening(addresses: &str, toml: &str) -> Self {
        Self::started(Command::new(WEIR), addresses, toml)
    }

    /// One whose process has at most `files` descriptors.
    pub(crate) fn with_files(files: u32, toml: &str) -> Self {
        Self::under(&format!("ulimit -n {files}"), toml)
    }

    /// One whose process begins behind a command of the shell, such as a limit.
    pub(crate) fn under(limit: &str, toml: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{limit} && exec \"$@\""), "bash", WEIR]);
        Self::started(command, "127.0.0.1:0", toml)
    }

    /// One that echoes on `/echo`, with a configuration file of this text.
    pub(crate) fn echoing(toml: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", "exec \"$@\" --echo", "bash", WEIR]);
        Self::started(command, "127.0.0.1:0", toml)
    }

    fn started(command: Command, listen: &str, toml: &str) -> Self {
        Self::spawned(command, listen, toml).started()
    }

    /// One that may yet have to read its settings.
    pub(crate) fn starting(toml: &str) -> Starting {
        Self::spawned(Command::new(WEIR), "127.0.0.1:0", toml)
    }

    fn spawned(mut command: Command, listen: &str, toml: &str) -> Starting {
        take_all_files();
        let log = scratch(".log");
        command.args(["serve", "--listen", listen, "--log-format", "json"]);
        let config = (!toml.is_empty()).then(|| scratch(".toml"));
        if let Some(path) = &config {
            fs::write(path, toml).unwrap();
            command.arg("--config").arg(path);
        }
        without_settings(&mut command);
        // A client answers, and reads again, only when its test comes to it, which may be late.
        for name in ["HTTP__PING", "LIMITS__SLOW_DISCONNECT"] {
            let (_, key) = name.split_once("__").unwrap();
            if !toml.contains(&key.to_lowercase()) {
                command.env(format!("WEIR_{name}"), "10m");
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads on to the end, so that the program never waits for its reader.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Of a socket it says the file, which is the test's own.
                if let Some((_, addr)) = line.split_once("://") {
                    sender.send(addr.parse().unwrap()).ok();
                }
            }
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let tcp = listen.split(',').filter(|one| !one.starts_with("unix:")).count();
        let gateway = Self { child, log, config, addr, addrs: vec![addr; tcp] };
        Starting::new(gateway, receiver)
    }

    /// The file of its settings, where it has one.
    pub(crate) fn config(&self) -> &Path {
        self.config.as_ref().unwrap()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The gateway's address as `weir pub --url` takes it.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.addr)
    }

    /// Sends a signal to this process.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Has it read its settings again, which are these; whether it has taken them. Those of the
    /// environment and of flags stay.
    pub(crate) fn reload(&self, toml: &str) -> bool {
        fs::write(self.config(), toml).unwrap();
        self.reload_files()
    }

    /// Has it read its settings again, whatever files they name.
    pub(crate) fn reload_files(&self) -> bool {
        let count = || {
            let log = self.log();
            let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
            (lines("the settings are in force"), lines("the old ones stay"))
        };
        let (taken, refused) = count();
        self.signal(Signal::HUP);
        wait_for("the settings to be taken or refused", || match count() {
            (now, _) if now > taken => Some(true),
            (_, now) if now > refused => Some(false),
            _ => None,
        })
    }

    /// Waits for the process's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for("the end of the gateway", || self.child.try_wait().unwrap())
    }

    /// A plain GET.
    pub(crate) fn get(&self, path: &str) -> Answer {
        http(self.addr, "GET", path, &[], b"")
    }

    /// A POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        http(self.addr, "POST", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// The sum of all samples of a metric whose name and labels begin with `prefix`.
    pub(crate) fn metric(&self, prefix: &str) -> f64 {
        sum(&self.get("/metrics").text(), prefix)
    }

    /// Its open files, over the tables of all threads: each shard may have one of its own. What is
    /// in several counts once, by what it is (`socket:[4711]`).
    pub(crate) fn files(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let tables = tasks.filter_map(|task| fs::read_dir(task.ok()?.path().join("fd")).ok());
        let files = tables.flatten().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.collect::<BTreeSet<_>>().len()
    }

    /// Open WebSockets, as it counts them.
    pub(crate) fn connections(&self) -> usize {
        let scrape = self.get("/metrics").text();
        let all = scrape.lines().filter(|line| line.starts_with("weir_connections{"));
        all.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    }

    /// Waits until it counts this many open WebSockets.
    pub(crate) fn wait_for_connections(&self, count: usize) {
        wait_for("the connections to be counted", || (self.connections() == count).then_some(()));
    }

    /// Waits until every shard has fanned out what was published so far. Answers to publishers and
    /// scrapes wait for no shard's mail.
    pub(crate) fn wait_for_mail(&self) {
        wait_for("the mailboxes to be empty", || {
            (self.metric("weir_mailbox_depth") < 0.5).then_some(())
        });
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("the gateway's last lines, newest first:\n{}", lines.join("\n"));
        }
    }
}

/// Waits for one future, with a limit.
fn limited<T>(runtime: &tokio::runtime::Runtime, what: &str, future: impl Future<Output = T>) -> T {
    let limit = async { tokio::time::timeout(PATIENCE, future).await };
    runtime.block_on(limit).unwrap_or_else(|_| panic!("waited {PATIENCE:?} for: {what}"))
}

/// What ended a connection, and what came before.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The close frame's code; `None` when the connection ended without one.
    pub(crate) code: Option<u16>,
    /// The close frame's reason.
    pub(crate) reason: String,
    /// The messages that were read until then.
    pub(crate) messages: Vec<Value>,
}

/// A WebSocket client over fastwebsockets. Blocking, so that a test reads from top to bottom.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    socket: WebSocket<Box<dyn Io>>,
    last_id: u64,
    /// The server-made id of this connection.
    pub(crate) id: String,
    /// The first message.
    pub(crate) welcome: Value,
}

impl Client {
    /// Connects and takes the welcome.
    pub(crate) fn connect(gateway: &Gateway) -> Self {
        Self::connect_with(gateway.addr, "", None)
    }

    /// Connects with a small receive buffer: not reading soon blocks the sender.
    pub(crate) fn connect_narrow(gateway: &Gateway) -> Self {
        Self::connect_with(gateway.addr, "", Some(4096))
    }

    /// Connects to one address of a gateway, with this query, and takes the welcome.
    pub(crate) fn connect_with(addr: SocketAddr, query: &str, buffer: Option<u32>) -> Self {
        Self::connect_by(&Way::Tcp(addr, buffer), query, &[])
    }

    /// Connects with this subprotocol, and takes the welcome.
    pub(crate) fn speaking(gateway: &Gateway, subprotocol: &str) -> Self {
        let headers = [("Sec-WebSocket-Protocol", subprotocol)];
        Self::connect_by(&Way::Tcp(gateway.addr, None), "", &headers)
    }

    /// Connects in some way, with this query and these headers, and takes the welcome.
    pub(crate) fn connect_by(way: &Way, query: &str, headers: &[(&str, &str)]) -> Self {
        let request = handshake_request(way.host(), headers);
        let request = request.replacen("/ws", &format!("/ws{query}"), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = limited(&runtime, "the handshake", async {
            let mut stream = way.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // Byte by byte: what follows the empty line belongs to the frames.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            stream
        });
        let mut socket = WebSocket::after_handshake(stream, Role::Client);
        socket.set_auto_close(false);
        let mut client =
            Self { runtime, socket, last_id: 0, id: String::new(), welcome: Value::Null };
        let welcome = client.next();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client.id = welcome["client"].as_str().unwrap().to_owned();
        client.welcome = welcome;
        client
    }

    /// Sends one text frame.
    pub(crate) fn send_text(&mut self, text: &str) {
        assert!(self.try_send_text(text), "the connection has ended");
    }

    /// The same; `false` where the connection has ended.
    pub(crate) fn try_send_text(&mut self, text: &str) -> bool {
        let frame = Frame::text(Payload::Borrowed(text.as_bytes()));
        let write = self.socket.write_frame(frame);
        limited(&self.runtime, "room for a frame", write).is_ok()
    }

    /// Sends one binary frame.
    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        let frame = Frame::binary(Payload::Borrowed(bytes));
        let write = self.socket.write_frame(frame);
        limited(&self.runtime, "room for a frame", write).unwrap();
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// The next message or close, which pings and pongs may interrupt; an error when the connection ended without a close.
    fn frame(&mut self) -> Result<(OpCode, Vec<u8>), String> {
        let mut begun = None;
        loop {
            let read = self.socket.read_frame();
            let frame = limited(&self.runtime, "a frame", read).map_err(|e| e.to_string())?;
            if let Some(message) = join(&mut begun, &frame) {
                return Ok(message);
            }
        }
    }

    /// The next message, as it was written.
    pub(crate) fn next_text(&mut self) -> String {
        let (opcode, payload) = self.frame().unwrap();
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(opcode, OpCode::Text, "wanted a message: {text}");
        text
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Value {
        let text = self.next_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next message; `None` where the connection ends.
    pub(crate) fn try_next(&mut self) -> Option<Value> {
        match self.frame() {
            Ok((OpCode::Text, payload)) => Some(serde_json::from_slice(&payload).unwrap()),
            Ok(_) | Err(_) => None,
        }
    }

    /// The next message, which has this type.
    pub(crate) fn expect(&mut self, wanted: &str) -> Value {
        let message = self.next();
        assert_eq!(message["type"], wanted, "{message}");
        message
    }

    /// Sends a command with an id of its own; its answer, which must come next.
    pub(crate) fn ask(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        self.send(&command);
        let answer = self.next();
        assert_eq!(answer["id"], json!(self.last_id), "{answer}");
        answer
    }

    fn ask_for(&mut self, wanted: &str, command: Value) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["type"], wanted, "{answer}");
        answer
    }

    /// Subscribes; the answer.
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        self.ask_for("subscribed", json!({"type": "subscribe", "channel": channel}))
    }

    /// Publishes on a channel that this client is not subscribed to; the answer.
    pub(crate) fn publish(&mut self, channel: &str, data: &Value) -> Value {
        self.ask_for("published", json!({"type": "publish", "channel": channel, "data": data}))
    }

    /// Shows that nothing is on its way here: a ping is answered next.
    pub(crate) fn expect_nothing(&mut self) {
        self.ask_for("pong", json!({"type": "ping"}));
    }

    /// Reads to the end of the connection.
    pub(crate) fn ended(&mut self) -> Ended {
        let mut messages = Vec::new();
        loop {
            match self.frame() {
                Ok((OpCode::Close, payload)) => {
                    let (code, reason) = match payload.split_first_chunk() {
                        Some((code, reason)) => (Some(u16::from_be_bytes(*code)), reason),
                        None => (Some(1005), &[][..]),
                    };
                    let reason = String::from_utf8(reason.to_vec()).unwrap();
                    let echo = self.socket.write_frame(Frame::close_raw(payload.into()));
                    limited(&self.runtime, "room for a close", echo).ok();
                    return Ended { code, reason, messages };
                }
                Ok((_, payload)) => messages.push(serde_json::from_slice(&payload).unwrap()),
                Err(_) => return Ended { code: None, reason: String::new(), messages },
            }
        }
    }

    /// Sends a close frame with this code; the code that comes back.
    pub(crate) fn close(&mut self, code: u16) -> Option<u16> {
        let write = self.socket.write_frame(Frame::close(code, b""));
        limited(&self.runtime, "room for a close", write).unwrap();
        self.ended().code
    }
}
