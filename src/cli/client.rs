//! A client of a gateway: connects, reads, writes, answers pings. Does not reconnect.

use crate::cli::args::{To, Token};
use crate::proto::dialect::bin;
use crate::proto::format::Subprotocol;
use crate::proto::gzip;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, Role, WebSocket};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming as Body;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Empty as NoInput, Join, ReadHalf, Sink, WriteHalf, join};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// How long connecting may take, and the gateway's first word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages read ahead of the command.
const READ_AHEAD: usize = 64;

/// The largest message a gateway may send.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Where a gateway is: `ws://HOST[:PORT][/PATH]`, or `wss://` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    /// Host and port, to connect to.
    authority: String,
    path: String,
}

impl Url {
    fn scheme(&self) -> &'static str {
        if self.secure { "wss" } else { "ws" }
    }

    /// The host, as certificates name it.
    fn name(&self) -> &str {
        let name = self.authority.rsplit_once(':').map_or(&*self.authority, |(name, _)| name);
        name.trim_start_matches('[').trim_end_matches(']')
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str = "an address is like ws://127.0.0.1:8080/ws";
        let secure = text.starts_with("wss://");
        let rest = text.strip_prefix(if secure { "wss://" } else { "ws://" }).ok_or(RIGHT)?;
        let (host, path) = rest.find('/').map_or((rest, "/ws"), |at| rest.split_at(at));
        let default = if secure { "443" } else { "80" };
        let port_at = host.rfind(':').filter(|at| !host[*at..].contains(']'));
        let (name, port) = port_at.map_or((host, default), |at| (&host[..at], &host[at + 1..]));
        let legal = !name.is_empty() && !text.contains(|c: char| !c.is_ascii_graphic());
        if !legal || name.contains('@') || port.parse::<u16>().is_err() {
            return Err(RIGHT);
        }
        Ok(Self { secure, authority: format!("{name}:{port}"), path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may have a token in it.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme(), self.authority)
    }
}

/// What is wrong with a connection to a gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the connection to the gateway broke: {0}")]
    Broken(#[from] fastwebsockets::WebSocketError),
    #[error("the gateway closed the connection{0}")]
    Closed(String),
    #[error("failed to connect to {url}: {error}{}", hint(error))]
    Connect { url: Url, error: io::Error },
    #[error("{url} does not speak HTTP: {error}")]
    Http { url: Url, error: hyper::Error },
    #[error("{url} is not a Weir: {found}")]
    NotWeir { url: Url, found: String },
    /// An error the gateway answered a command with.
    #[error("{0}")]
    Refusal(String),
    #[error("{url} refused the connection: {status}{}", body_text(body))]
    Refused { url: Url, status: StatusCode, body: String },
    #[error("{0} did not answer within 10 s")]
    Silent(Url),
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "; is the gateway running?"
    } else if matches!(
        error.get_ref().and_then(|error| error.downcast_ref()),
        Some(rustls::Error::InvalidCertificate(_))
    ) {
        "; SSL_CERT_FILE may name a file with the certificate of whoever has signed it"
    } else {
        ""
    }
}

fn body_text(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

/// The fields of a message that a command looks at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: Option<u64>,
    pub(super) channel: Option<String>,
    pub(super) epoch: Option<String>,
    pub(super) offset: Option<u64>,
    pub(super) alias: Option<u64>,
    pub(super) recovered: Option<bool>,
    pub(super) code: Option<serde_json::Value>,
    pub(super) message: Option<String>,
    /// Of a `welcome`: the most bytes that one message to the gateway may have.
    pub(super) max_message: Option<usize>,
}

impl Head {
    /// `code: message` of an `error`.
    pub(super) fn error(&self) -> String {
        let code = self.code.as_ref().and_then(serde_json::Value::as_str).unwrap_or("error");
        format!("{code}: {}", self.message.as_deref().unwrap_or_default())
    }
}

/// A message of the gateway: its text and what it says at its head.
pub(super) struct Message {
    pub(super) text: String,
    pub(super) head: Head,
}

enum Incoming {
    Message(Message),
    Ping(Vec<u8>),
}

/// A connection to a gateway that has said `welcome`.
pub(super) struct Client {
    incoming: mpsc::Receiver<Result<Incoming, ClientError>>,
    writer: WebSocket<Join<NoInput, WriteHalf<TokioIo<Upgraded>>>>,
    /// The most bytes of a message that the gateway takes.
    pub(super) max_message: usize,
}

impl Client {
    /// Connects and waits for `welcome`. To be called within a `LocalSet`.
    pub(super) async fn connect(to: &To, speaks: Subprotocol) -> Result<Self, ClientError> {
        let To { url, token } = to;
        let silent = |_| ClientError::Silent(url.clone());
        let upgraded = upgrade(url, token.as_ref(), speaks);
        let stream = timeout(CONNECT_TIMEOUT, upgraded).await.map_err(silent)??;
        let (read, write) = tokio::io::split(stream);
        // Reading and writing are two sockets over the halves of one stream: a read that is
        // given up loses its place in the frame, so it lives in a task of its own.
        let mut reader = WebSocket::after_handshake(join(read, tokio::io::sink()), Role::Client);
        reader.set_auto_pong(false);
        reader.set_auto_close(false);
        reader.set_max_message_size(MESSAGE_BYTES_MAX);
        let mut writer = WebSocket::after_handshake(join(tokio::io::empty(), write), Role::Client);
        writer.set_writev(false);
        let (sender, incoming) = mpsc::channel(READ_AHEAD);
        let reader = FragmentCollector::new(reader);
        let from = Origin { url: url.clone(), speaks, channels: HashMap::new() };
        spawn_local(read_all(reader, from, sender));
        let mut client = Self { incoming, writer, max_message: usize::MAX };
        let first = timeout(CONNECT_TIMEOUT, client.next()).await.map_err(silent)??;
        if first.head.kind != "welcome" {
            let found = format!("its first word is {:?}", first.head.kind);
            return Err(ClientError::NotWeir { url: url.clone(), found });
        }
        client.max_message = first.head.max_message.unwrap_or(usize::MAX);
        Ok(client)
    }

    /// Waits for the next message and answers pings meanwhile. Safe to give up.
    pub(super) async fn next(&mut self) -> Result<Message, ClientError> {
        loop {
            match self.incoming.recv().await {
                Some(Ok(Incoming::Message(message))) => return Ok(message),
                Some(Ok(Incoming::Ping(payload))) => {
                    self.write(Frame::pong(Payload::Owned(payload))).await?;
                }
                Some(Err(error)) => return Err(error),
                None => return Err(ClientError::Closed(String::new())),
            }
        }
    }

    /// Sends a command, and waits for its answer, which is a message of that kind.
    pub(super) async fn ask(
        &mut self,
        command: &serde_json::Value,
        kind: &str,
    ) -> Result<String, ClientError> {
        self.send(command.to_string().into_bytes()).await?;
        loop {
            let message = self.next().await?;
            if message.head.kind == "error" {
                return Err(ClientError::Refusal(message.head.error()));
            }
            if message.head.kind == kind {
                return Ok(message.text);
            }
        }
    }

    /// Whether a message waits already.
    pub(super) fn is_ready(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Sends one message, of JSON text.
    pub(super) async fn send(&mut self, text: Vec<u8>) -> Result<(), ClientError> {
        self.write(Frame::text(Payload::Owned(text))).await
    }

    /// Sends one binary message.
    pub(super) async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<(), ClientError> {
        self.write(Frame::binary(Payload::Owned(bytes))).await
    }

    /// Says goodbye. What the gateway says after it is nobody's concern.
    pub(super) async fn close(mut self) -> Result<(), ClientError> {
        self.write(Frame::close(1000, b"")).await
    }

    async fn write(&mut self, frame: Frame<'static>) -> Result<(), ClientError> {
        self.writer.write_frame(frame).await?;
        Ok(self.writer.flush().await?)
    }
}

type Reader = FragmentCollector<Join<ReadHalf<TokioIo<Upgraded>>, Sink>>;

/// Where messages come from.
struct Origin {
    url: Url,
    speaks: Subprotocol,
    /// The channels of aliases.
    channels: HashMap<u64, String>,
}

/// Reads until the connection ends or nobody listens.
async fn read_all(
    mut reader: Reader,
    mut from: Origin,
    sender: mpsc::Sender<Result<Incoming, ClientError>>,
) {
    loop {
        let (all, end) = match read(&mut reader, &mut from).await {
            Ok(all) => (all, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let last = end.is_some();
        for incoming in all.into_iter().map(Ok).chain(end.map(Err)) {
            if sender.send(incoming).await.is_err() {
                return;
            }
        }
        if last {
            return;
        }
    }
}

/// Reads one frame: what is of interest in it. A text frame has several messages where the address
/// asks for that, with `?batch=1`.
async fn read(reader: &mut Reader, from: &mut Origin) -> Result<Vec<Incoming>, ClientError> {
    let frame = reader.read_frame().await?;
    match frame.opcode {
        OpCode::Text => {
            let text = String::from_utf8_lossy(&frame.payload);
            text.split('\n').map(|line| from.message(Some(line.to_owned()))).collect()
        }
        OpCode::Binary => {
            let text = from.text(&frame.payload);
            Ok(vec![from.message(text)?])
        }
        OpCode::Ping => Ok(vec![Incoming::Ping(frame.payload.to_vec())]),
        OpCode::Close => Err(ClientError::Closed(close_text(&frame.payload))),
        OpCode::Continuation | OpCode::Pong => Ok(Vec::new()),
    }
}

impl Origin {
    /// A message of that text.
    fn message(&mut self, text: Option<String>) -> Result<Incoming, ClientError> {
        let head = text.as_ref().and_then(|text| serde_json::from_str::<Head>(text).ok());
        let (Some(text), Some(head)) = (text, head) else {
            let found = "its messages are not the protocol's".to_owned();
            return Err(ClientError::NotWeir { url: self.url.clone(), found });
        };
        if let (Some(alias), Some(channel)) = (head.alias, &head.channel) {
            self.channels.insert(alias, channel.clone());
        }
        Ok(Incoming::Message(Message { text, head }))
    }

    /// The JSON that a binary message stands for.
    fn text(&self, bytes: &[u8]) -> Option<String> {
        match self.speaks {
            Subprotocol::Bin => event_text(bytes, &self.channels),
            Subprotocol::Json => None,
            Subprotocol::JsonGzip => {
                String::from_utf8(gzip::decompress(bytes, MESSAGE_BYTES_MAX).ok()?).ok()
            }
        }
    }
}

/// The JSON of a binary event, as clients of JSON get it.
fn event_text(bytes: &[u8], channels: &HashMap<u64, String>) -> Option<String> {
    let event = bin::parse_event(bytes)?;
    let payload = match event.gzip {
        true => gzip::decompress(event.payload, MESSAGE_BYTES_MAX).ok()?,
        false => event.payload.to_vec(),
    };
    let channel = json!(channels.get(&event.alias)?);
    let mut text = format!("{{\"type\":\"event\",\"channel\":{channel}");
    text.push_str(&format!(",\"offset\":{},\"ts\":{}", event.offset, event.ts_ms));
    if let Some(key) = event.key {
        text.push_str(&format!(",\"key\":{}", json!(key)));
    }
    if event.kind == bin::Kind::Snapshot {
        text.push_str(",\"snapshot\":true");
    }
    if event.json {
        text.push_str(&format!(",\"data\":{}}}", std::str::from_utf8(&payload).ok()?));
    } else {
        text.push_str(&format!(",\"data_b64\":\"{}\"}}", BASE64_STANDARD.encode(&payload)));
    }
    Some(text)
}

/// A close frame's code and reason, for people.
fn close_text(payload: &[u8]) -> String {
    let Some((code, reason)) = payload.split_first_chunk() else { return String::new() };
    let code = u16::from_be_bytes(*code);
    format!(": {code} {}", String::from_utf8_lossy(reason)).trim_end().to_owned()
}

/// Connects and shakes hands.
async fn upgrade(
    url: &Url,
    token: Option<&Token>,
    speaks: Subprotocol,
) -> Result<TokioIo<Upgraded>, ClientError> {
    let connect = |error| ClientError::Connect { url: url.clone(), error };
    let stream = TcpStream::connect(&url.authority).await.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    if url.secure {
        let stream = tls::connect(url.name(), stream).await.map_err(connect)?;
        shake_hands(stream, url, token, speaks).await
    } else {
        shake_hands(stream, url, token, speaks).await
    }
}

async fn shake_hands<S>(
    stream: S,
    url: &Url,
    token: Option<&Token>,
    speaks: Subprotocol,
) -> Result<TokioIo<Upgraded>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let http = |error| ClientError::Http { url: url.clone(), error };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    spawn_local(async move {
        // Its error is the answer's error too.
        drop(connection.with_upgrades().await);
    });
    let mut request = Request::get(&url.path);
    if let Some(token) = token.and_then(Token::text) {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .header(HOST, &url.authority)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_KEY, fastwebsockets::handshake::generate_key())
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_PROTOCOL, speaks.name())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)
        .map_err(|error| ClientError::Connect { url: url.clone(), error })?;
    let mut response = sender.send_request(request).await.map_err(http)?;
    check_answer(url, &mut response).await?;
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(http)
}

/// Refuses what is no 101 to a WebSocket, with what it says instead.
async fn check_answer(url: &Url, response: &mut Response<Body>) -> Result<(), ClientError> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let url = url.clone();
    if !status.is_client_error() && !status.is_server_error() {
        return Err(ClientError::NotWeir { url, found: format!("it answers {status}") });
    }
    let body = match Limited::new(response.body_mut(), 4096).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    Err(ClientError::Refused { url, status, body })
}

mod tls;

#[cfg(test)]
mod tests;
