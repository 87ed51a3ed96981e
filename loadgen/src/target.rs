//! The server that is measured: a `ws://` or `wss://` address on this machine, and the first connection to it,
//! which finds out in a sentence whether it can be measured at all.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rustls::pki_types::ServerName;

use crate::clock;
use crate::fault::Fault;
use crate::stream::Stream;
use crate::trust::{Reuse, Tls, Trust};
use crate::wire::handshake::{self, Offer};

/// Where to connect to. Invariant: the address is loopback.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// As written, for the `Host` header.
    host: String,
    path: String,
    /// Whether it is a `wss://` address.
    is_secure: bool,
    /// How TLS is spoken there, once that is known.
    pub(crate) tls: Option<Tls>,
    /// The subprotocol that is asked for.
    pub(crate) format: Format,
    /// Whether permessage-deflate is.
    pub(crate) deflate: bool,
    /// What the connections say they are, one after the other; of nobody, where there is none.
    pub(crate) tokens: Tokens,
}

/// Tokens for connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tokens(Arc<[String]>);

impl Tokens {
    /// The token of connection `index`.
    fn of(&self, index: u32) -> Option<&str> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.get(index.checked_rem(len)? as usize).map(String::as_str)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A token, or `@FILE` with one on each line.
impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = match text.strip_prefix('@') {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| format!("{path} cannot be read: {error}"))?,
            None => text.to_owned(),
        };
        let tokens = lines.split_ascii_whitespace().map(str::to_owned);
        let tokens: Vec<String> = tokens.collect();
        let is_token = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        if tokens.is_empty() || !tokens.iter().all(is_token) {
            return Err("must be a token, or @FILE with one on each line".into());
        }
        Ok(Self(tokens.into()))
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Json,
    /// `weir.v1.bin`.
    Bin,
    /// `weir.v1.json+gzip`.
    #[value(name = "json+gzip")]
    Gzip,
}

impl Format {
    /// Its name in the handshake; the default needs none.
    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Json => None,
            Self::Bin => Some("weir.v1.bin"),
            Self::Gzip => Some("weir.v1.json+gzip"),
        }
    }
}

impl Target {
    /// A target on this machine, for servers that were started here.
    pub(crate) fn local(address: SocketAddr) -> Self {
        Self::new(address, (address.to_string(), "/ws".to_owned()), false)
    }

    fn new(address: SocketAddr, (host, path): (String, String), is_secure: bool) -> Self {
        let (format, tokens) = (Format::Json, Tokens::default());
        Self { address, host, path, is_secure, tls: None, format, deflate: false, tokens }
    }

    /// Whether TLS is spoken there.
    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The same; where TLS is spoken, with whom to trust. The certificate must be that of `name`, or
    /// of the address.
    pub(crate) fn trusting(
        self,
        trust: &Trust,
        name: Option<ServerName<'static>>,
        reuse: Reuse,
    ) -> Result<Self, String> {
        if !self.is_secure {
            return Ok(self);
        }
        let named = match self.host.strip_prefix("localhost:") {
            Some(_) => ServerName::try_from("localhost").map_err(|error| error.to_string())?,
            None => ServerName::from(self.address.ip()),
        };
        let tls = Tls::new(trust, name.unwrap_or(named), reuse)?;
        Ok(Self { tls: Some(tls), ..self })
    }

    /// The same, with tokens.
    pub(crate) fn bearing(self, tokens: Tokens) -> Self {
        Self { tokens, ..self }
    }

    /// The same, with another subprotocol, and compressed if asked for.
    pub(crate) fn speaking(self, format: Format, deflate: bool) -> Self {
        Self { format, deflate, ..self }
    }

    /// The address as a person writes it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.host, self.path)
    }

    /// What the `Host` header says.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// What is offered with the upgrade.
    pub(crate) fn offer(&self) -> Offer {
        Offer { subprotocol: self.format.subprotocol(), deflate: self.deflate }
    }

    /// The bytes by which connection `index` asks for the upgrade.
    pub(crate) fn request(&self, index: u32) -> Vec<u8> {
        handshake::request(&self.host, &self.path, self.offer(), self.tokens.of(index))
    }

    /// Whether the server may put several messages into one frame (`?batch=1`).
    pub(crate) fn is_batched(&self) -> bool {
        self.path.split(['?', '&']).skip(1).any(|pair| pair == "batch=1")
    }

    /// Opens one WebSocket, waiting at most `limit` in all; bytes behind the handshake are
    /// returned with it.
    pub(crate) fn dial(&self, limit: Duration) -> Result<(Stream, Vec<u8>), Fault> {
        let left = countdown(limit);
        let opened = self.open(&left).and_then(|stream| self.upgrade(stream, &left));
        opened.map_err(|fault| silent_for(limit, fault))
    }

    /// Opens a connection, over TLS where that is spoken, waiting at most `limit` in all.
    pub(crate) fn connect(&self, limit: Duration) -> Result<Stream, Fault> {
        self.open(&countdown(limit)).map_err(|fault| silent_for(limit, fault))
    }

    fn open(&self, left: &impl Fn() -> Result<Duration, Fault>) -> Result<Stream, Fault> {
        let stream = TcpStream::connect_timeout(&self.address, left()?)?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => Stream::shake(stream, tls, left),
            None => Ok(Stream::Plain(stream)),
        }
    }

    fn upgrade(
        &self,
        mut stream: Stream,
        left: &impl Fn() -> Result<Duration, Fault>,
    ) -> Result<(Stream, Vec<u8>), Fault> {
        stream.tcp().set_write_timeout(Some(left()?))?;
        stream.write_all(&self.request(0))?;
        let mut head = Vec::new();
        let mut chunk = [0; 2048];
        loop {
            stream.tcp().set_read_timeout(Some(left()?))?;
            let read = match stream.read(&mut chunk) {
                // Linux does not go on with a read that has a limit where a process was stopped.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                return Err(Fault::Ended);
            }
            head.extend_from_slice(&chunk[..read]);
            if let Some(len) = handshake::answer(&head, self.offer())? {
                return Ok((stream, head.split_off(len)));
            }
        }
    }
}

/// Says how much of `limit` is left, from now on; then that the server is silent.
fn countdown(limit: Duration) -> impl Fn() -> Result<Duration, Fault> {
    let end = clock::now().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    move || match end.saturating_sub(clock::now()) {
        0 => Err(Fault::Silent { limit }),
        // A socket's limits are in microseconds, and one of nothing would be no limit.
        left => Ok(Duration::from_nanos(left.max(1_000_000))),
    }
}

/// A server that is silent was so for `limit`.
fn silent_for(limit: Duration, fault: Fault) -> Fault {
    if matches!(fault, Fault::Silent { .. }) { Fault::Silent { limit } } else { fault }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let (is_secure, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("must start with ws:// or wss://".into()),
        };
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/ws"),
        };
        if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7F) {
            return Err("the path holds characters that no URL may hold".into());
        }
        let numeric = match host.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => host.to_owned(),
        };
        let address: SocketAddr =
            numeric.parse().map_err(|_| "must be ws://IP:PORT/PATH, as ws://127.0.0.1:8080/ws")?;
        if !address.ip().is_loopback() {
            return Err("only 127.0.0.0/8 and [::1] may be loaded".into());
        }
        Ok(Self::new(address, (host.to_owned(), path.to_owned()), is_secure))
    }
}

/// The address that connection `index` comes from: ports are counted per pair of addresses.
pub(crate) fn source(target: &Target, sources: u8, index: u32) -> Option<Ipv4Addr> {
    match target.address.ip() {
        IpAddr::V4(_) if sources > 0 => {
            let last = 2 + index % u32::from(sources);
            Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + last))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loaded() {
        for url in [
            "ws://127.0.0.1:80/ws",
            "ws://127.9.9.9:80",
            "ws://[::1]:80/",
            "ws://localhost:1/a?b=1",
        ] {
            assert!(url.parse::<Target>().is_ok(), "{url}");
        }
        for url in [
            "ws://10.0.0.1:80/",
            "ws://0.0.0.0:80/",
            "ws://example.com:80/",
            "http://127.0.0.1:80/",
            "ws://127.0.0.1/",
            "ws://[::2]:80/",
            "ws://127.0.0.1:80/a b",
            "",
            "ws://127.0.0.1:99999/",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }

    #[test]
    fn the_address_keeps_path_and_batching() {
        let target: Target = "ws://localhost:9/ws?x=1&batch=1".parse().expect("valid");
        assert_eq!(target.url(), "ws://localhost:9/ws?x=1&batch=1");
        assert!(target.is_batched());
        let plain: Target = "ws://localhost:9".parse().expect("valid");
        assert_eq!(plain.url(), "ws://localhost:9/ws");
        assert!(!plain.is_batched());
    }

    #[test]
    fn connections_take_one_token_after_the_other() {
        let path = std::env::temp_dir().join(format!("weir-tokens-{}", std::process::id()));
        std::fs::write(&path, "a.b.c\n\nd.e.f\n").expect("a file");
        let tokens = format!("@{}", path.display()).parse::<Tokens>();
        std::fs::remove_file(&path).expect("it is there");
        let target: Target = "ws://127.0.0.1:9".parse().expect("valid");
        let target = target.bearing(tokens.expect("valid"));
        let says = |index| {
            let request = String::from_utf8(target.request(index)).expect("text");
            let line = request.lines().find_map(|line| line.strip_prefix("Authorization: "));
            line.map(str::to_owned)
        };
        let wanted = ["a.b.c", "d.e.f", "a.b.c"].map(|token| Some(format!("Bearer {token}")));
        assert_eq!([0, 1, 2].map(says), wanted);
        for bad in ["", " ", "@/no/such/file"] {
            assert!(bad.parse::<Tokens>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn source_addresses_begin_at_two_and_wrap() {
        let target: Target = "ws://127.0.0.1:9".parse().expect("valid");
        let last = |index| source(&target, 3, index).map(|ip| ip.octets()[3]);
        assert_eq!([0, 1, 2, 3].map(last), [Some(2), Some(3), Some(4), Some(2)]);
        assert_eq!(source(&target, 0, 5), None);
    }
}
