//! TLS beside plain, on the real program over real sockets: what an idle connection takes of its
//! memory, and what a delivery to each of many subscribers takes of its CPU. Prints both, and fails
//! where TLS exceeds what it may.
//!
//! The gateway is a process of its own, so its CPU and memory are the kernel's figures for it. It is
//! told of events over a socket without TLS, so that only the subscribers differ. Each kind runs three
//! times, in turns; the medians count.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// The most bytes of memory that an idle connection may take with TLS.
const IDLE_BYTES_MAX: f64 = 20.0 * 1024.0;

/// The most CPU that a delivery may take with TLS, in that of a plain one.
const CPU_MAX: f64 = 3.0;

/// About 128 bytes, as telemetry has it.
const DATA: &str = r#"{"host":"host-7","cpu":[12.5,88.25,3.75,41.0],"mem":7340032,"load":1.75,"up":123456,"note":"all work and no play makes Jack dull"}"#;

/// What is measured.
#[derive(Clone, Copy)]
struct Size {
    idle: u32,
    subscribers: u32,
    /// Events a second.
    rates: &'static [u32],
    seconds: u32,
    rounds: usize,
}

const WHOLE: Size =
    Size { idle: 5_000, subscribers: 1_000, rates: &[20, 200, 1_000], seconds: 5, rounds: 3 };
const QUICK: Size = Size { idle: 50, subscribers: 20, rates: &[50], seconds: 1, rounds: 1 };

/// What was counted of deliveries, by all clients.
static DELIVERED: AtomicU64 = AtomicU64::new(0);

/// A gateway in a process of its own.
struct Gateway {
    child: Child,
    addr: SocketAddr,
    socket: PathBuf,
    tls: Option<Arc<ClientConfig>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.socket).ok();
    }
}

/// A certificate in the folder, and the client that trusts it.
fn certify(folder: &Path) -> Arc<ClientConfig> {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    fs::write(folder.join("tls.crt"), cert.pem()).expect("room on the disk");
    fs::write(folder.join("tls.key"), key.serialize_pem()).expect("room on the disk");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("its own certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

impl Gateway {
    fn start(folder: &Path, tls: Option<Arc<ClientConfig>>) -> Self {
        let mut toml = "[limits]\nqueue_bytes = \"64MiB\"\nqueue_events = 100000\n\
                        [http]\nping = \"10m\"\n"
            .to_owned();
        if tls.is_some() {
            let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name));
            toml.push_str(&format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n"));
        }
        let file = folder.join("weir.toml");
        fs::write(&file, toml).expect("room on the disk");
        let socket = folder.join("weir.sock");
        let listen = format!("127.0.0.1:0,unix:{}", socket.display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--shards", "1", "--listen", &listen, "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = lines.next().expect("it says where it listens").expect("text");
        let addr = line.split_once("://").and_then(|(_, addr)| addr.parse().ok());
        Self { child, addr: addr.expect("an address"), socket, tls }
    }

    /// A subscriber with its hands shaken.
    async fn dial(&self) -> Box<dyn Io> {
        let tcp = TcpStream::connect(self.addr).await.expect("it listens");
        match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let name = ServerName::IpAddress(self.addr.ip().into());
                Box::new(connector.connect(name, tcp).await.expect("it speaks TLS"))
            }
        }
    }

    /// Time that its threads had on a CPU, in nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it lives");
        let times = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        times.sum()
    }

    /// Resident memory of its process, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib = line.trim().split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("a number") * 1024
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Sends the handshake, and reads its answer and the welcome behind it.
async fn upgrade(stream: &mut (impl Io + ?Sized)) {
    let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it is read");
    stream.flush().await.expect("it is read");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let mut frames = Frames::default();
    while frames.count == 0 {
        frames.take(&[stream.read_u8().await.expect("a welcome")]);
    }
}

/// A message as one frame of a client. A mask of zeros leaves it as it is.
fn frame(text: &str) -> Vec<u8> {
    let length = match u8::try_from(text.len()) {
        Ok(short @ ..126) => vec![0x80 | short],
        Ok(_) | Err(_) => {
            let long = u16::try_from(text.len()).expect("a short message").to_be_bytes();
            [&[0x80 | 126], &long[..]].concat()
        }
    };
    [&[0x81], &length[..], &[0; 4], text.as_bytes()].concat()
}

/// Sends a message.
async fn send(stream: &mut (impl Io + ?Sized), text: &str) {
    stream.write_all(&frame(text)).await.expect("it is read");
    stream.flush().await.expect("it is read");
}

/// Counts the frames of a stream, and reads nothing of them.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the payload yet to come.
    left: usize,
    count: u64,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                (bytes, self.left) = (&bytes[here..], self.left - here);
                self.count += u64::from(self.left == 0);
                continue;
            }
            (self.head, bytes) = (std::mem::take(&mut self.head), rest);
            self.head.push(*first);
            let long = match self.head.get(1) {
                None => continue,
                Some(126) => 2,
                Some(127) => 8,
                Some(_) => 0,
            };
            if self.head.len() < 2 + long {
                continue;
            }
            let big =
                |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            self.left = if long == 0 { usize::from(self.head[1]) } else { big(&self.head[2..]) };
            self.head.clear();
            self.count += u64::from(self.left == 0);
        }
    }
}

/// Opens so many subscribers of one channel. Each then counts what it gets, for as long as it is
/// held.
async fn subscribe(gateway: &Gateway, count: u32) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..count {
        let mut stream = gateway.dial().await;
        upgrade(stream.as_mut()).await;
        send(stream.as_mut(), r#"{"type":"subscribe","channel":"bench:1"}"#).await;
        let mut frames = Frames::default();
        while frames.count == 0 {
            frames.take(&[stream.read_u8().await.expect("subscribed")]);
        }
        all.spawn_local(async move {
            let mut buffer = vec![0; 8 * 1024];
            loop {
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                assert!(read > 0, "a subscriber was cut off");
                let before = frames.count;
                frames.take(&buffer[..read]);
                DELIVERED.fetch_add(frames.count - before, Ordering::Relaxed);
            }
        });
    }
    all
}

/// Publishes so many events a second for some seconds, and waits until each of the subscribers had
/// all of them. Returns how many deliveries that were.
async fn publish(gateway: &Gateway, (rate, seconds): (u32, u32), subscribers: u32) -> u64 {
    let mut stream = UnixStream::connect(&gateway.socket).await.expect("it listens");
    upgrade(&mut stream).await;
    let (mut reader, mut writer) = stream.into_split();
    let answers = spawn_local(async move {
        let mut buffer = vec![0; 64 * 1024];
        while reader.read(&mut buffer).await.unwrap_or(0) > 0 {}
    });
    let text = format!(r#"{{"type":"publish","channel":"bench:1","data":{DATA}}}"#);
    let frame = frame(&text);
    // At most a hundred times a second.
    let at_once = rate.div_ceil(100);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * at_once / rate);
    let deliveries = u64::from(rate * seconds) * u64::from(subscribers);
    let before = DELIVERED.load(Ordering::Relaxed);
    for _ in 0..rate * seconds / at_once {
        ticks.tick().await;
        writer.write_all(&frame.repeat(at_once as usize)).await.expect("it is read");
    }
    let all = async {
        while DELIVERED.load(Ordering::Relaxed) - before < deliveries {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every delivery");
    answers.abort();
    deliveries
}

/// Bytes of memory that an idle subscriber takes.
async fn idle(folder: &Path, tls: Option<Arc<ClientConfig>>, count: u32) -> f64 {
    let gateway = Gateway::start(folder, tls);
    // What only the first ones cost.
    let first = subscribe(&gateway, count.div_ceil(10)).await;
    let before = gateway.memory();
    let all = subscribe(&gateway, count).await;
    let bytes = gateway.memory().saturating_sub(before);
    drop((first, all));
    bytes as f64 / f64::from(count)
}

/// Nanoseconds of the gateway's CPU for a delivery, at each of the rates.
async fn delivery(folder: &Path, tls: Option<Arc<ClientConfig>>, size: Size) -> Vec<f64> {
    let gateway = Gateway::start(folder, tls);
    let all = subscribe(&gateway, size.subscribers).await;
    let mut found = Vec::new();
    // What only the first events cost.
    publish(&gateway, (100, 1), size.subscribers).await;
    for rate in size.rates {
        let before = gateway.cpu_ns();
        let deliveries = publish(&gateway, (*rate, size.seconds), size.subscribers).await;
        found.push((gateway.cpu_ns() - before) as f64 / deliveries as f64);
    }
    drop(all);
    found
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures all of it; says what is beyond its bounds.
async fn measure(folder: &Path, size: Size) -> Vec<String> {
    let client = certify(folder);
    let kinds = [None, Some(client)];
    let mut faults = Vec::new();
    let mut bytes = [Vec::new(), Vec::new()];
    let mut cpu = [Vec::new(), Vec::new()];
    for round in 0..size.rounds {
        for turn in [round % 2, 1 - round % 2] {
            bytes[turn].push(idle(folder, kinds[turn].clone(), size.idle).await);
            cpu[turn].push(delivery(folder, kinds[turn].clone(), size).await);
        }
    }
    let [plain, secure] = bytes.map(median);
    println!(
        "bytes of memory for an idle subscriber, {} of them: {plain:.0} plain, {secure:.0} with \
         TLS",
        size.idle
    );
    if secure > IDLE_BYTES_MAX && size.rounds > 1 {
        faults.push(format!("{secure:.0} bytes for an idle subscriber: at most {IDLE_BYTES_MAX}"));
    }
    for (at, rate) in size.rates.iter().enumerate() {
        let of = |rounds: &[Vec<f64>]| median(rounds.iter().map(|found| found[at]).collect());
        let (plain, secure) = (of(&cpu[0]), of(&cpu[1]));
        let times = secure / plain;
        println!(
            "CPU for a delivery to one of {}, {rate} events/s: {plain:.0} ns plain, {secure:.0} ns \
             with TLS, {times:.2} times",
            size.subscribers
        );
        if times > CPU_MAX && size.rounds > 1 {
            faults.push(format!("{times:.2} times the CPU at {rate} events/s: at most {CPU_MAX}"));
        }
    }
    faults
}

/// With `--test`, as cargo's tests give it, a small round that shows that it runs.
fn main() -> ExitCode {
    let size = if std::env::args().any(|it| it == "--test") { QUICK } else { WHOLE };
    let folder = std::env::temp_dir().join(format!("weir-secure-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("room on the disk");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let faults = LocalSet::new().block_on(&runtime, measure(&folder, size));
    fs::remove_dir_all(&folder).ok();
    for fault in &faults {
        eprintln!("secure: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
