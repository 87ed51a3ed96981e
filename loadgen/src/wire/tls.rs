//! TLS from the client's side, as bytes: what came from a socket goes in, what it says in plain and
//! what is to be sent come out. Sockets are read and written elsewhere.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, WriteTraffic,
};
use rustls::{ClientConfig, HandshakeKind, InvalidMessage};

use crate::fault::Fault;

/// What most handshake messages fit into.
const HANDSHAKE_BYTES: usize = 2 << 10;
/// The most that a record has in plain, and more than what encryption adds to each.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_EXTRA: usize = 64;

/// What goes wrong with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// It came to an end that it should not have.
    Failed(String),
    /// What the server sends is none.
    NotSpoken,
    /// The server speaks it, and was not spoken to so.
    Spoken,
    /// The server's certificate is not of anybody who is trusted.
    Untrusted(String),
}

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(why) = &error {
            return Self::Untrusted(why.to_string());
        }
        let no_tls = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        if error == no_tls { Self::NotSpoken } else { Self::Failed(error.to_string()) }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "TLS with the server failed: {why}"),
            Self::NotSpoken => f.write_str(
                "what answers there does not speak TLS: its address may begin with ws://",
            ),
            Self::Spoken => {
                f.write_str("what answers there speaks TLS: its address begins with wss://")
            }
            Self::Untrusted(why) => write!(
                f,
                "the server's certificate is not trusted ({why}): --cacert FILE names whose \
                 certificates are, --insecure takes any"
            ),
        }
    }
}

/// TLS of one connection. Invariant: `rest` is what was read and does not make a whole record.
pub(crate) struct Session {
    inner: UnbufferedClientConnection,
    rest: Vec<u8>,
    ended: bool,
}

/// Without what is secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a handshake: the hello goes behind `out`.
    pub(crate) fn begin(
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
        out: &mut Vec<u8>,
    ) -> Result<Self, Fault> {
        let inner = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
        let mut session = Self { inner, rest: Vec::new(), ended: false };
        session.take(&mut [], &mut Vec::new(), out)?;
        Ok(session)
    }

    /// What was read before and was no whole record: it belongs in front of the next `input`.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Whether hands are shaken, so that something may be said.
    pub(crate) fn is_shaken(&self) -> bool {
        !self.inner.is_handshaking()
    }

    /// Whether the server has said that nothing follows.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether an earlier session was taken up, once hands are shaken.
    pub(crate) fn is_resumed(&self) -> bool {
        self.inner.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The version and the cipher suite, as their specifications call them.
    pub(crate) fn spoken(&self) -> (String, String) {
        let version = self.inner.protocol_version().map(|version| format!("{version:?}"));
        let suite = self.inner.negotiated_cipher_suite();
        let suite = suite.map(|suite| format!("{:?}", suite.suite()));
        (version.unwrap_or_default(), suite.unwrap_or_default())
    }

    /// Reads `input`, which begins with the rest: what it says in plain goes behind `plain`, what is
    /// to be answered behind `out`.
    ///
    /// Also with an error, `plain` has what was good before it.
    pub(crate) fn take(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut used = 0;
        loop {
            let status = self.inner.process_tls_records(&mut input[used..]);
            let mut discard = status.discard;
            let mut waits = false;
            match status.state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, out)?,
                // Whoever has `out` sends it before anything else.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.ended = true,
                ConnectionState::BlockedHandshake
                | ConnectionState::Closed
                | ConnectionState::ReadEarlyData(_)
                | ConnectionState::WriteTraffic(_)
                | _ => waits = true,
            }
            used += discard;
            if waits {
                break;
            }
        }
        self.rest.clear();
        if used < input.len() {
            self.rest.extend_from_slice(&input[used..]);
        } else {
            // Thousands of connections rest at the end of a record.
            self.rest = Vec::new();
        }
        Ok(())
    }

    /// Puts `plain` behind `out` as the server gets it.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        loop {
            // With the rest, because it remembers where in there it stopped.
            match self.inner.process_tls_records(&mut self.rest).state? {
                ConnectionState::WriteTraffic(traffic) => return encrypt(traffic, plain, out),
                ConnectionState::EncodeTlsData(data) => encode(data, out)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.ended = true,
                ConnectionState::BlockedHandshake
                | ConnectionState::Closed
                | ConnectionState::ReadEarlyData(_)
                | ConnectionState::ReadTraffic(_)
                | _ => return Err(Fault::Ended),
            }
        }
    }
}

/// Puts a handshake message behind `out`.
fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Fault> {
    append(out, HANDSHAKE_BYTES, |room| {
        data.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Short::By(size),
            EncodeError::AlreadyEncoded => Short::Never(error.to_string()),
        })
    })
}

/// Puts records behind `out`.
fn encrypt<D>(
    mut traffic: WriteTraffic<'_, D>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let records = plain.len().div_ceil(RECORD_BYTES);
    append(out, plain.len() + records * RECORD_EXTRA, |room| {
        traffic.encrypt(plain, room).map_err(|error| match error {
            EncryptError::InsufficientSize(size) => Short::By(size),
            EncryptError::EncryptExhausted => Short::Never(error.to_string()),
        })
    })
}

/// Why something was not written.
enum Short {
    By(InsufficientSizeError),
    Never(String),
}

/// Appends what `write` writes, which is about so many bytes.
fn append(
    out: &mut Vec<u8>,
    about: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Short>,
) -> Result<(), Fault> {
    let (start, mut room) = (out.len(), about);
    loop {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Short::By(size)) if size.required_size > room => room = size.required_size,
            Err(Short::By(_)) => {
                return Err(Fault::Tls(TlsFault::Failed("a record has no end".to_owned())));
            }
            Err(Short::Never(why)) => return Err(Fault::Tls(TlsFault::Failed(why))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Write};

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};

    use super::*;
    use crate::trust::{Reuse, Tls, Trust};

    /// How a server speaks TLS that gives tickets.
    pub(crate) fn serving(version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
        let key = PrivateKeyDer::try_from(one.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![one.cert.der().clone()], key)
            .expect("its key");
        config.ticketer = rustls::crypto::ring::Ticketer::new().expect("random bytes");
        Arc::new(config)
    }

    pub(crate) fn anybody() -> Tls {
        let name = ServerName::try_from("localhost").expect("a name");
        Tls::new(&Trust::Anybody, name, Reuse::Never).expect("TLS")
    }

    /// What the server has to send.
    fn said(server: &mut ServerConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("a vector");
        }
        bytes
    }

    /// Gives the server what is in `out`; what that says.
    fn tell(server: &mut ServerConnection, out: &mut Vec<u8>) -> Vec<u8> {
        let (mut bytes, mut heard) = (out.as_slice(), Vec::new());
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("a slice");
            server.process_new_packets().expect("good records");
            // It fails once nothing more is there.
            server.reader().read_to_end(&mut heard).ok();
        }
        out.clear();
        heard
    }

    /// Gives the client these bytes, cut into pieces of `size`.
    fn hear(session: &mut Session, bytes: &[u8], size: usize, out: &mut Vec<u8>) -> Vec<u8> {
        let mut plain = Vec::new();
        for piece in bytes.chunks(size) {
            let mut input = [session.rest(), piece].concat();
            session.take(&mut input, &mut plain, out).expect("good records");
        }
        plain
    }

    /// Both ends of a connection whose hands are shaken, with the server's bytes cut into pieces.
    pub(crate) fn shaken(
        config: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        size: usize,
    ) -> (Session, ServerConnection) {
        let mut out = Vec::new();
        let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
        let mut session = Session::begin(config, &anybody().name, &mut out).expect("a hello");
        while !session.is_shaken() {
            assert!(!out.is_empty(), "nobody says anything");
            tell(&mut server, &mut out);
            let bytes = said(&mut server);
            assert_eq!(hear(&mut session, &bytes, size, &mut out), b"");
        }
        tell(&mut server, &mut out);
        // Tickets may come behind it.
        let bytes = said(&mut server);
        assert_eq!(hear(&mut session, &bytes, size, &mut out), b"");
        (session, server)
    }

    /// The same of TLS 1.3, without tickets.
    fn fresh(size: usize) -> (Session, ServerConnection) {
        shaken(&anybody().config, &serving(&version::TLS13), size)
    }

    #[test]
    fn records_are_read_however_they_are_cut() {
        for size in [1, 2, 5, 1_000, 1 << 20] {
            let (mut session, mut server) = fresh(size);
            let text: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[0]).collect();
            server.writer().write_all(&text).expect("room");
            let bytes = said(&mut server);
            let mut out = Vec::new();
            assert!(hear(&mut session, &bytes, size, &mut out) == text, "cut at {size}");
            assert!(session.rest().is_empty() && !session.is_resumed());
            assert_eq!(session.spoken().0, "TLSv1_3");
        }
    }

    #[test]
    fn what_is_sealed_arrives_also_in_the_middle_of_a_record() {
        let (mut session, mut server) = fresh(1 << 20);
        let mut out = Vec::new();
        server.writer().write_all(b"half").expect("room");
        let bytes = said(&mut server);
        let (front, back) = bytes.split_at(bytes.len() - 3);
        assert_eq!(hear(&mut session, front, 1 << 20, &mut out), b"");
        let text = vec![b'x'; 100_000];
        session.seal(&text, &mut out).expect("it may say something");
        assert!(out.len() < text.len() + 7 * RECORD_EXTRA, "{}", out.len());
        assert!(tell(&mut server, &mut out) == text);
        assert_eq!(hear(&mut session, back, 1 << 20, &mut out), b"half");
        server.send_close_notify();
        let bytes = said(&mut server);
        hear(&mut session, &bytes, 1 << 20, &mut out);
        assert!(session.is_ended());
    }

    #[test]
    fn what_is_no_tls_is_a_sentence() {
        let (tls, mut out) = (anybody(), Vec::new());
        let mut session = Session::begin(&tls.config, &tls.name, &mut out).expect("a hello");
        let mut input = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        let fault = session.take(&mut input, &mut Vec::new(), &mut out);
        assert_eq!(fault, Err(Fault::Tls(TlsFault::NotSpoken)));
    }
}
