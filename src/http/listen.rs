//! The accept loop of one shard. Hands each socket to a task of its own and never spins when the
//! process has no descriptors left.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};

use super::address::Serves;
use super::arrival::Arrival;
use super::connection::{self, Origin, Source};
use super::head;
use super::keys::ApiKeys;
use super::proxies::Proxies;
use super::tls::TlsKeys;
use crate::core::metrics::Counter;
use crate::proto::error::ErrorCode;
use crate::shard::Local;

/// How long the loop rests when the process or the machine lacks descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Accepts between two turns of the shard's other work.
const ACCEPTS_PER_TURN: u32 = 32;

/// Sockets of one shard that speak HTTP at the same time; WebSockets do not count.
const HTTP_CONNECTIONS_MAX: usize = 16_384;

/// How long the end of a drain waits for requests that are being answered, if clients have left so
/// much of its time.
const FINISH: Duration = Duration::from_secs(3);

/// The smallest buffer hyper takes; a smaller `header_bytes` still holds for whole heads.
const BUFFER_BYTES_MIN: usize = 8192;

/// What the answer to a socket beyond [`HTTP_CONNECTIONS_MAX`] is.
const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
content-type: application/json\r\ncontent-length: 70\r\nconnection: close\r\n\r\n\
{\"error\":{\"code\":\"overloaded\",\"message\":\"too many HTTP connections\"}}\n";

/// The limits of the doors.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// How long a request's head may take, and how long a kept connection may idle.
    pub header_timeout: Duration,
    /// The longest request head, in bytes.
    pub header_bytes: usize,
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// Values of `Origin` that browsers may open WebSockets from, beside the same origin; `*` is
    /// any.
    pub origins: Vec<String>,
    /// Who may use the API; `None` answers this machine alone.
    pub keys: Option<Arc<ApiKeys>>,
    /// Who is believed about where a client comes from.
    pub proxies: Arc<Proxies>,
    /// What TLS is spoken with on every address of TCP; `None` speaks none.
    pub tls: Option<Arc<TlsKeys>>,
    /// Whether `/echo` sends every message back, for conformance tests.
    pub echo: bool,
}

/// What every connection of a shard shares.
#[doc(hidden)]
pub struct Doors {
    pub(super) shard: Local,
    settings: Arc<ArcSwap<HttpOptions>>,
    /// What begins connections, and the options that it goes by.
    builder: RefCell<(Arc<HttpOptions>, http1::Builder)>,
    /// Sockets that speak HTTP now.
    pub(super) open: Cell<usize>,
    /// Requests that are being answered.
    busy: Cell<usize>,
    /// Rings when the last of them is.
    quiet: Notify,
    /// Of what proxies say that cannot be read.
    pub(super) proxy_complaints: RefCell<Complaints>,
    /// One handshake of TLS signs at a time.
    pub(super) signing: Arc<Semaphore>,
}

/// Counts a request among those that are being answered.
pub(super) struct Busy(Rc<Doors>);

impl Busy {
    pub(super) fn new(doors: &Rc<Doors>) -> Self {
        doors.busy.set(doors.busy.get() + 1);
        Self(Rc::clone(doors))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
        if self.0.busy.get() == 0 {
            self.0.quiet.notify_one();
        }
    }
}

impl Doors {
    /// The doors of `shard`, without a listener.
    pub fn new(shard: Local, settings: Arc<ArcSwap<HttpOptions>>) -> Self {
        let options = settings.load_full();
        let builder = RefCell::new((Arc::clone(&options), builder_of(&options)));
        Self {
            shard,
            settings,
            builder,
            open: Cell::new(0),
            busy: Cell::new(0),
            quiet: Notify::new(),
            proxy_complaints: RefCell::default(),
            signing: Arc::new(Semaphore::new(1)),
        }
    }

    /// The limits as they are now.
    pub(super) fn options(&self) -> Guard<Arc<HttpOptions>> {
        self.settings.load()
    }

    /// Begins a connection, whose heads have the limits of now.
    pub(super) fn builder<T>(&self, begin: impl FnOnce(&http1::Builder) -> T) -> T {
        let options = self.options();
        let mut made = self.builder.borrow_mut();
        if !Arc::ptr_eq(&made.0, &options) {
            *made = (Arc::clone(&options), builder_of(&options));
        }
        begin(&made.1)
    }

    /// Whether one more socket may speak HTTP.
    fn has_room(&self) -> bool {
        self.open.get() < HTTP_CONNECTIONS_MAX
    }

    /// Speaks HTTP over any stream until it ends, or has been answered with 101: then gives it
    /// back. For benches.
    pub async fn upgrade<S>(self: &Rc<Self>, mut stream: S) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (ip, serves) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Serves::All);
        let source = Source { ip, from: ip, serves, tcp: true };
        let origin = Origin { source, arrival: Arrival::of(self, Some(ip)).ok()? };
        let header_bytes = self.options().header_bytes;
        let first = head::read(&mut stream, header_bytes).await.ok()?;
        let spoken = connection::speak(stream, first, origin, self).await;
        matches!(spoken.end, Ok(connection::Next::Gateway(..))).then_some(spoken.stream)
    }
}

fn builder_of(options: &HttpOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Without a timer the header time-out does nothing.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_header_size(options.header_bytes)
        .max_buf_size(options.header_bytes.max(BUFFER_BYTES_MIN));
    builder
}

/// A socket that a shard listens on.
pub struct Listener {
    /// The socket.
    pub socket: Listening,
    /// What is served there.
    pub serves: Serves,
}

/// A socket that is listened on.
pub enum Listening {
    /// Of an address and a port.
    Tcp(TcpListener),
    /// Of a file.
    Unix(UnixListener),
}

/// A connection that has come in.
struct Accepted {
    socket: TcpStream,
    source: Source,
}

impl Listener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (socket, peer) = ready!(listener.poll_accept(cx))?;
                // Not every kernel hands the option down from the listener.
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::trace!(%error, "a socket takes no TCP_NODELAY");
                }
                let source = self.source(peer.ip().to_canonical(), true);
                Poll::Ready(Ok(Accepted { socket, source }))
            }
            Listening::Unix(listener) => {
                let (socket, _) = ready!(listener.poll_accept(cx))?;
                let source = self.source(Ipv4Addr::LOCALHOST.into(), false);
                Poll::Ready(as_tcp(socket).map(|socket| Accepted { socket, source }))
            }
        }
    }

    fn source(&self, ip: IpAddr, tcp: bool) -> Source {
        Source { ip, from: ip, serves: self.serves, tcp }
    }
}

/// The same stream of bytes under the type of a TCP stream. Nothing that is asked of a connection
/// is different for the two: bytes are read, written and shut, and whether that may go on is told.
/// So a connection need not ask which it is, at every write.
fn as_tcp(socket: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(OwnedFd::from(socket.into_std()?).into())
}

/// The sockets that one shard listens on, one for each address.
struct Listeners {
    all: Vec<Listener>,
    /// Which is asked first: the one behind the last that had something, so that a busy address
    /// keeps nobody waiting on another.
    first: usize,
}

impl Listeners {
    /// The next connection of any. Loses nothing when it is dropped before.
    async fn accept(&mut self) -> io::Result<Accepted> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let (before, from) = self.all.split_at(self.first.min(self.all.len()));
        for (at, listener) in from.iter().chain(before).enumerate() {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                self.first = (self.first + at + 1) % self.all.len();
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

/// Accepts the connections of one shard on all its addresses until it is drained, and answers
/// what was asked before. The limits hold for the addresses together.
pub async fn serve(listeners: Vec<Listener>, shard: Local, settings: Arc<ArcSwap<HttpOptions>>) {
    let doors = Rc::new(Doors::new(shard.clone(), settings));
    let mut listeners = Listeners { all: listeners, first: 0 };
    let mut complaints = Complaints::default();
    let mut accepted: u32 = 0;
    let drained = shard.drained();
    tokio::pin!(drained);
    loop {
        let next = tokio::select! {
            biased;
            () = &mut drained => break,
            next = listeners.accept() => next,
        };
        match next {
            Ok(Accepted { socket, source }) if doors.has_room() => match arrived(&doors, source) {
                Ok(arrival) => {
                    let origin = Origin { source, arrival };
                    shard.spawn(connection::run(socket, origin, Rc::clone(&doors)));
                }
                Err(answer) => turn_away(&socket, source, &doors, answer),
            },
            Ok(Accepted { socket, source }) => {
                shard.metrics().add(Counter::RejectedOverloaded, 1);
                shard.metrics().error(ErrorCode::Overloaded);
                turn_away(&socket, source, &doors, CROWDED);
            }
            Err(error) => {
                shard.metrics().add(Counter::AcceptErrors, 1);
                complaints.tell(&error, shard.node().uptime());
                if !is_the_peers(&error) {
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
        accepted = accepted.wrapping_add(1);
        if accepted.is_multiple_of(ACCEPTS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
    drop(listeners);
    let finished = async {
        while doors.busy.get() > 0 {
            doors.quiet.notified().await;
        }
    };
    let patience = FINISH.min(shard.node().until_end());
    if tokio::time::timeout(patience, finished).await.is_err() {
        tracing::warn!("{} requests were cut off by the end of the drain", doors.busy.get());
    }
}

/// What a connection counts as. Whose it is that a proxy brings, is known later.
pub(super) fn arrived(doors: &Doors, source: Source) -> Result<Arrival, &'static [u8]> {
    if doors.options().proxies.believes(source.ip) {
        return Ok(Arrival::default());
    }
    // A peer of a socket in the file system is nobody's address, unless a proxy has named one.
    let known = source.tcp || source.ip != source.from;
    Arrival::of(doors, known.then_some(source.ip))
}

/// Answers without reading; whether the peer gets it is up to the kernel.
pub(super) fn turn_away(socket: &TcpStream, source: Source, doors: &Doors, answer: &[u8]) {
    if source.tcp && doors.options().tls.is_some() {
        // Nothing can be said before hands are shaken.
        return;
    }
    if let Err(error) = socket.try_write(answer) {
        tracing::debug!(%error, "a connection beyond the limit went unanswered");
    }
}

/// Whether an accept failed for the one connection only, which is gone by then.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Keeps the log to one line a second, however often something fails.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// When the last line was written, in uptime.
    last: Option<Duration>,
}

impl Complaints {
    fn tell(&mut self, error: &io::Error, now: Duration) {
        if self.is_due(now) {
            tracing::warn!(%error, "failed to accept a connection");
        }
    }

    /// Whether another line may be written.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_sub(last) >= Duration::from_secs(1));
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written without a request is an answer all the same, to its last byte.
    #[test]
    fn whoever_is_turned_away_gets_a_whole_answer() {
        let text = std::str::from_utf8(CROWDED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1"), "{head}");
        let length = format!("\r\ncontent-length: {}\r\n", body.len());
        assert!(head.contains(&length), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], ErrorCode::Overloaded.as_str());
    }

    #[tokio::test]
    async fn a_busy_address_keeps_nobody_waiting_on_another() {
        let (mut all, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            all.push(Listener { socket: Listening::Tcp(listener), serves: Serves::All });
        }
        let dial = |to| std::net::TcpStream::connect(to).unwrap();
        let mut waiting: Vec<_> = (0..64).map(|_| dial(addresses[0])).collect();
        waiting.push(dial(addresses[1]));
        let mut listeners = Listeners { all, first: 0 };
        let mut accepted = Vec::new();
        for _ in &waiting {
            let Accepted { socket, .. } = listeners.accept().await.unwrap();
            accepted.push(socket.local_addr().unwrap());
        }
        let turn = accepted.iter().position(|address| *address == addresses[1]);
        assert!(turn.is_some_and(|turn| turn < 32), "{turn:?}");
    }
}
