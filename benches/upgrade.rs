//! The way from the bytes of a handshake to those of its 101, over a stream in memory. Ours is the
//! door itself: hyper, the watch over the head, every check, the answer.
//!
//! Beside it fastwebsockets (hyper as well), tokio-websockets (its own reader over httparse), and
//! the floor: httparse, four headers looked at, and the hash. None of them knows routes, hosts,
//! origins, time limits or a full node.
//!
//! `token` is the same with a token (HS256): none on a node that takes them, one that was seen
//! before, and one that was not, as when a node has just begun.

use std::hint::black_box;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_websockets::ServerBuilder;
use weir::core::outbox::OutboxLimit;
use weir::core::policy::{Policies, PolicyRule};
use weir::core::token::{self, Key, Verifier};
use weir::http::{Doors, HttpOptions};
use weir::proto::format::Compression;
use weir::proto::name::ShardId;
use weir::proto::ws::handshake::accept_key;
use weir::shard::{AuthOptions, LimitOptions, Local, Mailboxes, Node, NodeOptions};
use weir::store::memory::Memory;

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a program sends.
const PLAIN: &str = "GET /ws HTTP/1.1\r\nHost: localhost:8080\r\nUpgrade: websocket\r\n\
Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
Sec-WebSocket-Version: 13\r\n\r\n";

/// What a browser sends.
const BROWSER: &str = "GET /ws HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Upgrade\r\n\
Pragma: no-cache\r\nCache-Control: no-cache\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
Chrome/142.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: http://localhost:8080\r\n\
Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9\r\nCookie: theme=dark; session=0123456789abcdef0123456789abcdef\
\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// What tokens are signed with.
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The answer to the key in both.
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A client that has sent its handshake, and waits.
struct Client {
    request: &'static [u8],
    answer: Vec<u8>,
}

impl Client {
    fn new(request: &'static str) -> Self {
        Self { request: request.as_bytes(), answer: Vec::with_capacity(512) }
    }

    fn is_answered(&self) -> bool {
        self.answer.starts_with(b"HTTP/1.1 101 ")
            && self.answer.ends_with(b"\r\n\r\n")
            && self.answer.windows(ACCEPT.len()).any(|part| part == ACCEPT)
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.request.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.request.split_at(self.request.len().min(buf.remaining()));
        buf.put_slice(now);
        self.request = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The doors of a node with room.
fn doors() -> Rc<Doors> {
    let keys = vec![Key::secret(SECRET).expect("a secret")];
    let verifier = Verifier::new(keys, None, None);
    let options = NodeOptions {
        node_name: "bench".to_owned(),
        limits: LimitOptions { connections: 1_000, ..LimitOptions::default() },
        message_bytes: 65_536,
        subscriptions_max: 16,
        outbox: OutboxLimit { bytes: 1 << 20, events: 4_096 },
        memory_max: 1 << 30,
        ping_interval: Duration::from_secs(25),
        ping_timeout: Duration::from_secs(10),
        drain: Duration::from_secs(1),
        publish_timeout: Duration::from_secs(1),
        slow_disconnect: None,
        policies: Policies::new(PolicyRule::default(), []),
        auth: AuthOptions { required: false, verifier: Some(Arc::new(verifier)) },
        compression: Compression::default(),
    };
    let mailboxes = Arc::new(Mailboxes::new(1));
    let store = Memory::new(Arc::<Mailboxes>::clone(&mailboxes));
    let node = Arc::new(Node::new(options, Arc::new(store), mailboxes));
    let options = HttpOptions {
        echo: false,
        header_timeout: Duration::from_secs(10),
        header_bytes: 16_384,
        body_bytes: 1 << 20,
        keys: None,
        proxies: Arc::default(),
        tls: None,
        origins: Vec::new(),
    };
    let settings = Arc::new(ArcSwap::from_pointee(options));
    Rc::new(Doors::new(Local::new(ShardId(0), node), settings))
}

/// The rival on hyper.
async fn fastwebsockets(client: Client) -> Client {
    let answer = async |mut request: Request<Incoming>| -> Result<Response<Empty<Bytes>>, _> {
        fastwebsockets::upgrade::upgrade(&mut request).map(|(answer, _)| answer)
    };
    let http = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(client), service_fn(answer));
    let parts = http.without_shutdown().await.expect("a good handshake");
    parts.io.into_inner()
}

/// The rival with its own reader.
async fn tokio_websockets(client: Client) -> Client {
    let (_, stream) = ServerBuilder::new().accept(client).await.expect("a good handshake");
    stream.into_inner()
}

/// The floor.
fn by_hand(client: &mut Client) -> Option<()> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    if head.parse(client.request).ok()?.is_partial() || head.method != Some("GET") {
        return None;
    }
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value)
    };
    let is_upgrade = header("upgrade")?.eq_ignore_ascii_case(b"websocket")
        && header("connection")?.eq_ignore_ascii_case(b"upgrade")
        && header("sec-websocket-version")? == b"13";
    let accept = accept_key(header("sec-websocket-key")?).filter(|_| is_upgrade)?;
    let answer = &mut client.answer;
    answer.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n").ok()?;
    answer.write_all(b"Upgrade: websocket\r\nSec-WebSocket-Accept: ").ok()?;
    answer.write_all(&accept).ok()?;
    answer.write_all(b"\r\n\r\n").ok()
}

fn upgrade(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let doors = doors();
    let mut group = c.benchmark_group("upgrade");
    for (name, request) in [("program", PLAIN), ("browser", BROWSER)] {
        group.bench_function(BenchmarkId::new("weir", name), |b| {
            b.iter(|| {
                let client = runtime.block_on(doors.upgrade(Client::new(black_box(request))));
                assert!(client.is_some_and(|client| client.is_answered()));
            });
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", name), |b| {
            b.iter(|| {
                let client = runtime.block_on(fastwebsockets(Client::new(black_box(request))));
                assert!(client.is_answered());
            });
        });
        group.bench_function(BenchmarkId::new("tokio-websockets", name), |b| {
            b.iter(|| {
                let client = runtime.block_on(tokio_websockets(Client::new(black_box(request))));
                assert!(client.is_answered());
            });
        });
        group.bench_function(BenchmarkId::new("by hand", name), |b| {
            b.iter(|| {
                let mut client = Client::new(black_box(request));
                assert!(by_hand(&mut client).is_some() && client.is_answered());
            });
        });
    }
    group.finish();
}

/// More tokens than a node remembers, in handshakes of a program.
fn requests() -> Vec<&'static str> {
    let of = |at: u32| {
        let claims = serde_json::json!({"sub": format!("user-{at}"), "exp": u64::from(u32::MAX)});
        let token = token::sign(&claims, SECRET).expect("a token");
        let end = format!("\r\nAuthorization: Bearer {token}\r\n\r\n");
        let request = PLAIN.trim_end().to_owned() + &end;
        &*Box::leak(request.into_boxed_str())
    };
    (0..40_000).map(of).collect()
}

fn tokens(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let doors = doors();
    let requests = requests();
    let ask = |request| {
        let client = runtime.block_on(doors.upgrade(Client::new(black_box(request))));
        assert!(client.is_some_and(|client| client.is_answered()));
    };
    let mut group = c.benchmark_group("token");
    group.bench_function("none", |b| b.iter(|| ask(PLAIN)));
    group.bench_function("seen before", |b| b.iter(|| ask(requests[0])));
    let mut next = requests.iter().cycle();
    group.bench_function("verified", |b| b.iter(|| ask(next.next().copied().unwrap_or(PLAIN))));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    upgrade(&mut criterion);
    tokens(&mut criterion);
    criterion.final_summary();
}
