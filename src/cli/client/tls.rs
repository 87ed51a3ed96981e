//! The TLS of a client's connection: whom it trusts, and the handshake.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Shakes hands with the server of that name, which must have a certificate for it by somebody whom
/// the system trusts. `SSL_CERT_FILE` and `SSL_CERT_DIR` say whom else, as for other programs.
pub(super) async fn connect(name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let name = ServerName::try_from(name.to_owned()).map_err(bad)?;
    TlsConnector::from(Arc::new(config()?)).connect(name, stream).await
}

fn config() -> io::Result<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // The system's list may have some that nobody can read; the others are good.
    let (trusted, _) = roots.add_parsable_certificates(found.certs);
    if trusted == 0 {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(io::Error::other(format!("no certificate is trusted on this machine{why}")));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
