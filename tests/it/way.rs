//! Ways to a gateway: TCP, TLS on it, and the socket of a file; and certificates for the second.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};

use crate::harness::{PATIENCE, scratch};
use crate::raw::Answer;

/// A stream of bytes, whatever is under it.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How a client comes to a gateway.
pub(crate) enum Way {
    /// With a receive buffer of that many bytes; the kernel's own for `None`.
    Tcp(SocketAddr, Option<u32>),
    /// The same, with TLS on it.
    Tls(SocketAddr, Option<u32>, Arc<ClientConfig>),
    Unix(PathBuf),
}

impl Way {
    /// What the `Host` header says.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(addr, _) | Self::Tls(addr, ..) => addr.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Box<dyn Io> {
        match self {
            Self::Tcp(addr, buffer) => Box::new(tcp(*addr, *buffer).await),
            Self::Tls(addr, buffer, config) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let name = ServerName::IpAddress(addr.ip().into());
                Box::new(connector.connect(name, tcp(*addr, *buffer).await).await.unwrap())
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }
}

async fn tcp(addr: SocketAddr, buffer: Option<u32>) -> tokio::net::TcpStream {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.unwrap();
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let stream = socket.connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A certificate for the loopback with its key, in files; signed by itself.
pub(crate) struct Certified {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    der: CertificateDer<'static>,
}

impl Certified {
    /// One that is good for long.
    pub(crate) fn make() -> Self {
        Self::between(2020, 4000)
    }

    /// One that is good between these years.
    pub(crate) fn between(from: i32, to: i32) -> Self {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let pair = KeyPair::generate().unwrap();
        let made = params.self_signed(&pair).unwrap();
        let (cert, key) = (scratch(".crt"), scratch(".key"));
        fs::write(&cert, made.pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { cert, key, der: made.der().clone() }
    }

    /// The section of a configuration that names the two.
    pub(crate) fn toml(&self) -> String {
        format!("[tls]\ncert = {:?}\nkey = {:?}\n", self.cert, self.key)
    }

    /// A client that trusts this certificate alone. Its clones resume each other's sessions.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.client_offering(&["http/1.1"]))
    }

    /// The same, which offers these protocols inside.
    pub(crate) fn client_offering(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// A connection with TLS, that blocks.
pub(crate) type Blocking = StreamOwned<ClientConnection, TcpStream>;

/// Connects and shakes hands, behind these bytes.
pub(crate) fn handshake(
    addr: SocketAddr,
    before: &[u8],
    config: &Arc<ClientConfig>,
) -> io::Result<Blocking> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(before)?;
    shake_hands(stream, config)
}

/// Shakes hands on a connection.
pub(crate) fn shake_hands(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
) -> io::Result<Blocking> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(session, stream))
}

/// One request with TLS on a connection of its own, up to the end that the gateway tells.
pub(crate) fn https(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    (method, path): (&str, &str),
    body: &str,
) -> Answer {
    let mut stream = handshake(addr, b"", config).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut all = Vec::new();
    // An end without a word of TLS would be an error.
    stream.read_to_end(&mut all).unwrap();
    Answer::read(&all)
}
