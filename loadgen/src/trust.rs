//! Whom `wss://` trusts, and which sessions it takes up again: what every connection over TLS has in
//! common.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The one protocol that is asked for inside of TLS.
const ALPN: &[u8] = b"http/1.1";

/// Whose certificates are good.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Everybody's.
    Anybody,
    /// Those that are signed by one of this file, or are one of it and no CA's.
    File(PathBuf),
    /// Those that this machine trusts.
    System,
}

/// Which sessions a handshake takes up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// None: every handshake is a whole one.
    Never,
    /// A connection that comes back has the ticket of its last session.
    Own,
    /// All connections of a thread share what tickets there are.
    Shared,
}

/// How the connections of a run speak TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// Without sessions to take up.
    pub(crate) config: Arc<ClientConfig>,
    /// Whose certificate it must be. A name is told to the server (SNI), an address is not.
    pub(crate) name: ServerName<'static>,
    pub(crate) reuse: Reuse,
}

impl Tls {
    /// Speaks to `name`, whom `trust` must know.
    ///
    /// # Errors
    ///
    /// A sentence for people: which file or which store of certificates cannot be used, and why.
    pub(crate) fn new(
        trust: &Trust,
        name: ServerName<'static>,
        reuse: Reuse,
    ) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be spoken: {error}"))?;
        let builder = match trust {
            Trust::Anybody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }))
            }
            Trust::File(path) => builder.with_root_certificates(roots_of(path)?),
            Trust::System => builder.with_root_certificates(roots_here()?),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name, reuse })
    }
}

/// The certificates of a file in PEM.
fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let text = std::fs::read(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate
            .map_err(|error| format!("{shown} is not PEM: {error}"))
            .and_then(|one| roots.add(one).map_err(|error| format!("{shown}: {error}")));
        added?;
    }
    if roots.is_empty() {
        return Err(format!("{shown} has no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(roots)
}

/// The certificates that this machine trusts; those that cannot be read are left out.
fn roots_here() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no certificates that it trusts".to_owned());
    }
    Ok(roots)
}

/// Trusts everybody. That a server has the key of the certificate it shows is still checked, so that
/// a handshake costs what it costs else.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join(format!("weir-trust-{}", std::process::id()));
        let said = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            roots_of(&path).map(|roots| roots.len())
        };
        let empty = said("no PEM at all").expect_err("no certificate");
        assert!(empty.contains("has no certificate in PEM"), "{empty}");
        let broken = said("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        assert!(broken.is_err_and(|said| said.contains("weir-trust-")));
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
        assert_eq!(said(&one.cert.pem()), Ok(1));
        std::fs::remove_file(&path).expect("it is there");
        assert!(roots_of(&path).is_err_and(|said| said.contains("cannot be read")));
    }
}
