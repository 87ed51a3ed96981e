//! One accepted socket: HTTP until it ends or becomes a WebSocket, which the shard then adopts.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::address::Serves;
use super::answer::Response;
use super::arrival::Arrival;
use super::listen::{Busy, Doors, HttpOptions, arrived, turn_away};
use super::tls::TlsKeys;
use super::wire::Wire;
use super::{head, proxies, route};
use crate::core::metrics::Counter;
use crate::proto::ws::deflate::Agreed;
use crate::shard::{Guest, Stream};

/// How long and how much is read behind our last answer, so that a reset does not overtake it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Where a connection came in, and from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// Its peer, or the client that a proxy of the PROXY protocol speaks for. Never IPv4 in the
    /// clothes of IPv6; whoever comes by a socket in the file system is 127.0.0.1.
    pub(super) ip: IpAddr,
    /// The socket's own peer.
    pub(super) from: IpAddr,
    /// What is served where it came in.
    pub(super) serves: Serves,
    /// Whether it came by TCP: with TLS, where that is spoken.
    pub(super) tcp: bool,
}

/// Whose a connection is.
pub(super) struct Origin {
    /// Where it came in, and from.
    pub(super) source: Source,
    /// What it counts as.
    pub(super) arrival: Arrival,
}

/// One HTTP connection, as its routes see it.
pub(super) struct Peer {
    pub(super) doors: Rc<Doors>,
    /// Where it comes from: the client, or a proxy that speaks HTTP for clients.
    pub(super) source: Source,
    /// Who asks what is answered now, or was last: the peer itself, or the client that a believed
    /// proxy names.
    pub(super) client: Cell<IpAddr>,
    /// What its connection counts as.
    pub(super) arrival: Arrival,
    /// Taken once a handshake was answered with 101.
    pub(super) guest: Cell<Option<Guest>>,
    /// Set where that handshake was one for the echo, with what was agreed about compression.
    pub(super) echo: Cell<Option<Option<Agreed>>>,
    /// The number of the request that is answered, or was last; the first is 1.
    number: Cell<u64>,
    /// The number of the first head that others may cut elsewhere.
    bad_head: Rc<Cell<Option<u64>>>,
    /// The last request of this connection, while the node drains: it counts until its answer is
    /// written and the connection has ended.
    pub(super) last: Cell<Option<Busy>>,
}

impl Peer {
    /// Whether the body of the request that is answered may end elsewhere than hyper thinks.
    pub(super) fn is_doubtful(&self) -> bool {
        self.bad_head.get().is_some_and(|bad| bad <= self.number.get())
    }
}

/// An answer, there or to come. Handshakes are answered without a future of their own.
pub(super) enum Answer {
    Later(Pin<Box<dyn Future<Output = Response>>>),
    Ready(Option<Response>),
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Later(future) => future.as_mut().poll(cx).map(Ok),
            Self::Ready(answer) => answer.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it))),
        }
    }
}

/// Answers the requests of one connection.
struct Routes(Rc<Peer>);

impl Service<Request<Incoming>> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.0.number.set(self.0.number.get() + 1);
        let options = self.0.doors.options();
        self.0.client.set(options.proxies.client(self.0.source.ip, request.headers()));
        route::answer(&self.0, request)
    }
}

/// Counts a socket among those that speak HTTP, while it does.
struct Open(Rc<Doors>);

impl Open {
    fn new(doors: Rc<Doors>) -> Self {
        doors.open.set(doors.open.get() + 1);
        Self(doors)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// Serves one socket to its end, or to its handshake.
///
/// What a connection needs once something has come of it stands in boxes of its own: the many that
/// may be silent cost a small task.
pub(super) async fn run(mut socket: TcpStream, mut origin: Origin, doors: Rc<Doors>) {
    let _open = Open::new(Rc::clone(&doors));
    if doors.options().proxies.believes(origin.source.ip) {
        match Box::pin(introduced(&mut socket, origin, &doors)).await {
            Some(found) => origin = found,
            None => return,
        }
    }
    let keys = if origin.source.tcp { doors.options().tls.clone() } else { None };
    match keys {
        Some(keys) => {
            if let Some(stream) = shake_hands(socket, &keys, &doors).await {
                Box::pin(secured(stream, origin, &doors)).await;
            }
        }
        None => serve(socket, origin, &doors, |socket, _| Ok(socket)).await,
    }
}

/// Reads whom a believed proxy speaks for; `None` where the connection is not gone on with.
async fn introduced(socket: &mut TcpStream, origin: Origin, doors: &Rc<Doors>) -> Option<Origin> {
    let limit = doors.options().header_timeout;
    match proxies::read_header(socket, limit).await {
        Ok(None) => Some(origin),
        Ok(Some(ip)) => {
            let source = Source { ip, ..origin.source };
            match arrived(doors, source) {
                Ok(arrival) => Some(Origin { source, arrival }),
                Err(answer) => {
                    turn_away(socket, source, doors, answer);
                    None
                }
            }
        }
        Err(error) => {
            doors.shard.metrics().add(Counter::ProxyHeadersBad, 1);
            let now = doors.shard.node().uptime();
            if doors.proxy_complaints.borrow_mut().is_due(now) {
                let ip = origin.source.ip;
                tracing::warn!("a connection from the proxy {ip} was closed: {error}");
            }
            None
        }
    }
}

/// Shakes hands in TLS, and counts how that ends.
async fn shake_hands(
    socket: TcpStream,
    keys: &TlsKeys,
    doors: &Doors,
) -> Option<Box<TlsStream<TcpStream>>> {
    let metrics = doors.shard.metrics();
    let limit = doors.options().header_timeout;
    let shaken = async {
        // Of a peer that says nothing there is nothing of TLS. Its socket would be called readable
        // once, as nobody has tried yet.
        socket.peek(&mut [0]).await?;
        Box::pin(keys.accept(socket, &doors.signing, limit / 2)).await
    };
    match tokio::time::timeout(limit, shaken).await {
        Ok(Ok(stream)) => {
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            metrics.add(if resumed { Counter::TlsResumed } else { Counter::TlsFull }, 1);
            return Some(stream);
        }
        Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
            metrics.add(Counter::TlsFailed, 1);
            tracing::debug!(%error, "a handshake of TLS failed");
        }
        Ok(Err(_)) | Err(_) => metrics.add(Counter::TlsTimeout, 1),
    }
    None
}

/// Serves what is inside of TLS.
async fn secured(stream: Box<TlsStream<TcpStream>>, origin: Origin, doors: &Rc<Doors>) {
    serve(*stream, origin, doors, |stream, early| {
        let (socket, session) = stream.into_inner();
        Stream::secure(socket, session, early)
    })
    .await;
}

/// Serves one stream to its end, or to its handshake; `opened` is what the shard then adopts.
async fn serve<S, T>(
    mut stream: S,
    origin: Origin,
    doors: &Rc<Doors>,
    opened: impl FnOnce(S, &mut Vec<u8>) -> io::Result<T>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    T: Into<Stream>,
{
    let HttpOptions { header_bytes, header_timeout, .. } = **doors.options();
    let first = head::read(&mut stream, header_bytes);
    let first = match tokio::time::timeout(header_timeout, first).await {
        Ok(Ok(first)) => first,
        Ok(Err(error)) => {
            tracing::trace!(%error, "a connection broke off before its first request");
            return;
        }
        Err(_) => {
            doors.shard.metrics().add(Counter::HttpCutHead, 1);
            return;
        }
    };
    if !first.is_empty() {
        return Box::pin(go_on(stream, first, origin, doors, opened)).await;
    }
    Box::pin(linger(stream)).await;
}

/// As [`serve`], once there is something to answer.
async fn go_on<S, T>(
    stream: S,
    first: Vec<u8>,
    origin: Origin,
    doors: &Rc<Doors>,
    opened: impl FnOnce(S, &mut Vec<u8>) -> io::Result<T>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    T: Into<Stream>,
{
    let Spoken { end, stream, rest: mut early } = speak(stream, first, origin, doors).await;
    match end {
        Ok(Next::Gateway(guest, client)) => match opened(stream, &mut early).map(Into::into) {
            Ok(stream) => {
                let stream = match client {
                    Some(client) => stream.from_client(client),
                    None => stream,
                };
                doors.shard.adopt(stream, early, guest);
            }
            Err(error) => tracing::debug!(%error, "a connection broke off at its handshake"),
        },
        Ok(Next::Echo(agreed)) => doors.shard.echo(stream, early, agreed),
        Ok(Next::Close) => linger(stream).await,
        Err(error) if error.is_parse() => linger(stream).await,
        Err(error) => tracing::trace!(%error, "an HTTP connection broke off"),
    }
}

/// What a socket is for when it has no more HTTP to speak.
#[derive(Debug)]
pub(super) enum Next {
    /// It is a WebSocket of the gateway, and of this client where a proxy speaks for it.
    Gateway(Guest, Option<IpAddr>),
    /// It is a WebSocket of the hidden echo, with what was agreed about compression.
    Echo(Option<Agreed>),
    /// It is to be closed.
    Close,
}

/// What is left of a connection that has spoken HTTP.
pub(super) struct Spoken<S> {
    /// How it ended: well, and what its stream is for from here on.
    pub(super) end: hyper::Result<Next>,
    pub(super) stream: S,
    /// What was read and not used. A copy, so that some few bytes do not keep hyper's whole buffer.
    rest: Vec<u8>,
}

/// Speaks HTTP, in which `first` came first. Over any stream, so that benches need no socket.
pub(super) async fn speak<S>(
    stream: S,
    first: Vec<u8>,
    origin: Origin,
    doors: &Rc<Doors>,
) -> Spoken<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Origin { source, arrival } = origin;
    let bad_head = Rc::new(Cell::new(None));
    let wire = Wire::new(stream, first, Rc::clone(&bad_head));
    let peer = Rc::new(Peer {
        doors: Rc::clone(doors),
        source,
        client: Cell::new(source.ip),
        arrival,
        guest: Cell::new(None),
        echo: Cell::new(None),
        number: Cell::new(0),
        bad_head,
        last: Cell::new(None),
    });
    let routes = Routes(Rc::clone(&peer));
    let mut http =
        peer.doors.builder(|builder| builder.serve_connection(TokioIo::new(wire), routes));
    let end = poll_fn(|cx| http.poll_without_shutdown(cx)).await;
    let parts = http.into_parts();
    let next = match peer.echo.take() {
        Some(agreed) => Next::Echo(agreed),
        None => {
            let client = peer.client.get();
            let client = (client != source.from).then_some(client);
            peer.guest.take().map_or(Next::Close, |guest| Next::Gateway(guest, client))
        }
    };
    let wire = parts.io.into_inner();
    let metrics = doors.shard.metrics();
    if let Some(code) = wire.unread {
        metrics.http_error(code);
    }
    let late = end.as_ref().is_err_and(hyper::Error::is_timeout);
    // Between two requests a connection may idle, and ends without blame.
    if late && (peer.number.get() == 0 || !parts.read_buf.is_empty()) {
        metrics.add(Counter::HttpCutHead, 1);
    }
    if wire.stalled {
        metrics.add(Counter::HttpCutUntaken, 1);
    }
    // hyper asks for 8 KiB at first: behind a long head it has not taken all that came before it.
    let rest = [&parts.read_buf[..], &wire.first].concat();
    Spoken { end: end.map(|()| next), stream: wire.socket, rest }
}

/// Ends our side and reads on a little.
///
/// A socket that is closed over unread bytes sends a reset, and the peer's kernel then throws
/// away an answer that it has not handed on.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    // With TLS our side ends with a word that the peer may not take.
    let drained = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut read = 0;
        poll_fn(|cx| {
            while read < LINGER_BYTES_MAX {
                match ready!(head::poll_some(&mut stream, cx, |_| {})) {
                    Ok(some @ 1..) => read += some,
                    Ok(_) | Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    };
    if tokio::time::timeout(LINGER, drained).await.is_err() {
        tracing::trace!("a peer kept its side open");
    }
}
