//! Bytes on a TCP connection: handshakes, frames as they should not be, and HTTP.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use fastwebsockets::{Frame, OpCode};
use serde_json::Value;

use crate::harness::{Gateway, PATIENCE, now};

/// A valid handshake, with these headers added.
pub(crate) fn handshake_request(host: impl Display, headers: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request + "\r\n"
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 0 when the connection ended without an answer.
    pub(crate) status: u16,
    /// Status line and headers, as they came.
    pub(crate) head: String,
    /// The body, out of its chunks.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads one from all the bytes of a connection.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut answer = Self { status, head, body: bytes[end..].to_vec() };
        if answer.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.head, self.text()))
    }

    /// The error's code; fails unless the status is this one.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{} {:?}", self.head, self.text());
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        error["code"].as_str().unwrap().to_owned()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 2 + size + 2..];
    }
    body
}

/// One request on a connection of its own. A `Host` among `headers` replaces the usual one.
pub(crate) fn http(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str(&format!("Host: {addr}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut raw = Raw::open(addr);
    raw.send(head.as_bytes());
    raw.send(body);
    Answer::read(&raw.rest())
}

/// The sum of all samples in a scrape that begin with `prefix`; 0, and not -0, where none does.
pub(crate) fn sum(scrape: &str, prefix: &str) -> f64 {
    let lines = scrape.lines().filter(|line| line.starts_with(prefix));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |a, b| a + b)
}

/// A TCP connection that says what it likes.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// Connects.
    pub(crate) fn open(addr: SocketAddr) -> Self {
        Self::with(TcpStream::connect(addr).unwrap())
    }

    /// Connects from another address of this machine.
    pub(crate) fn open_from(addr: SocketAddr, from: Ipv4Addr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&addr.into())?;
        Ok(Self::with(socket.into()))
    }

    fn with(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Connects and shakes hands; the welcome is read.
    pub(crate) fn websocket(gateway: &Gateway) -> Self {
        Self::open(gateway.addr).upgraded(gateway)
    }

    /// As [`Raw::websocket`], with a small receive buffer, so that not reading soon blocks the
    /// sender.
    pub(crate) fn narrow(gateway: &Gateway) -> Self {
        Self::narrow_offering(gateway, &[])
    }

    /// As [`Raw::narrow`], with these headers in the handshake.
    pub(crate) fn narrow_offering(gateway: &Gateway, headers: &[(&str, &str)]) -> Self {
        let mut raw = Self::open_narrow(gateway.addr);
        raw.shake_hands(gateway, headers);
        raw
    }

    /// As [`Raw::open`], with a small receive buffer.
    pub(crate) fn open_narrow(addr: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::with(socket.into())
    }

    /// As [`Raw::websocket`], with these headers in the handshake; and its answer.
    pub(crate) fn offering(gateway: &Gateway, headers: &[(&str, &str)]) -> (Self, Answer) {
        let mut raw = Self::open(gateway.addr);
        let answer = raw.shake_hands(gateway, headers);
        (raw, answer)
    }

    fn upgraded(self, gateway: &Gateway) -> Self {
        let mut raw = self;
        raw.shake_hands(gateway, &[]);
        raw
    }

    fn shake_hands(&mut self, gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
        let raw = self;
        raw.send(handshake_request(gateway.addr, headers).as_bytes());
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let (first, welcome) = raw.frame().unwrap();
        assert_eq!(first, 0x81);
        assert!(welcome.starts_with(br#"{"type":"welcome""#));
        Answer::read(head.as_bytes())
    }

    /// The next message, which is JSON text.
    pub(crate) fn json(&mut self) -> Value {
        let (first, text) = self.frame().expect("a message");
        assert_eq!(first, 0x81, "{}", String::from_utf8_lossy(&text));
        serde_json::from_slice(&text).unwrap()
    }

    /// Sends one text frame and reads one message.
    pub(crate) fn ask(&mut self, text: &str) -> Value {
        self.send(&masked(0x81, text.as_bytes()));
        self.json()
    }

    /// Writes; a connection that has ended meanwhile is the reader's to judge.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).ok();
    }

    /// Writes with this limit; whether all of it was taken.
    pub(crate) fn send_within(&mut self, limit: Duration, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = now() + limit;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.0.set_write_timeout(Some(left))?;
            match self.0.write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The head of an HTTP answer, and not a byte more.
    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && self.0.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// The next HTTP answer of a connection that may stay open behind it.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head();
        let mut answer = Answer::read(head.as_bytes());
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        answer.body = match length {
            Some(length) => {
                let mut body = vec![0; length];
                self.0.read_exact(&mut body).unwrap();
                body
            }
            None if answer.status == 101 => Vec::new(),
            None => return Answer::read(&[head.as_bytes(), &self.rest()].concat()),
        };
        answer
    }

    /// Everything until the connection ends; fails when it does not end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection did not end: {error}, {} bytes", bytes.len()),
        }
        bytes
    }

    /// The next frame of the server: its first byte and its payload. `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let length = match head[1] {
            126 => {
                let mut bytes = [0; 2];
                self.0.read_exact(&mut bytes).ok()?;
                u64::from(u16::from_be_bytes(bytes))
            }
            127 => {
                let mut bytes = [0; 8];
                self.0.read_exact(&mut bytes).ok()?;
                u64::from_be_bytes(bytes)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0], payload))
    }

    /// The next message of the server: its first byte, with FIN, its payload, and how many frames it
    /// came in. Pings may come in between.
    pub(crate) fn message(&mut self) -> Option<(u8, Vec<u8>, usize)> {
        let (mut first, mut payload) = self.frame()?;
        let mut fragments = 1;
        while first & 0x80 == 0 {
            let (next, more) = self.frame()?;
            if next != 0x89 {
                assert_eq!(next & 0x7F, 0, "a continuation, that is not marked as compressed");
                first |= next & 0x80;
                payload.extend(more);
                fragments += 1;
            }
        }
        Some((first, payload, fragments))
    }

    /// Reads to the close frame, then to the end of the connection; the code. 1005 stands for a
    /// close without a code. `None` when the connection ended without a close frame.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.frame() {
            if first == 0x88 {
                assert!(self.rest().is_empty(), "nothing follows a close frame");
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                return Some(code);
            }
        }
        None
    }
}

/// Puts a frame to the fragments `begun`: gives the message that it completes, or a close. Pings
/// and pongs may come in between.
pub(crate) fn join(
    begun: &mut Option<(OpCode, Vec<u8>)>,
    frame: &Frame<'_>,
) -> Option<(OpCode, Vec<u8>)> {
    match (frame.opcode, begun.is_some()) {
        (OpCode::Ping | OpCode::Pong, _) => return None,
        (OpCode::Continuation, true) | (OpCode::Text | OpCode::Binary, false) => {}
        (opcode, within) => {
            assert!(opcode == OpCode::Close, "{opcode:?}, within a message: {within}");
            return Some((opcode, frame.payload.to_vec()));
        }
    }
    let (_, message) = begun.get_or_insert_with(|| (frame.opcode, Vec::new()));
    message.extend_from_slice(&frame.payload);
    begun.take_if(|_| frame.fin)
}

/// A masked frame. `first` is FIN, the reserved bits and the opcode.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
