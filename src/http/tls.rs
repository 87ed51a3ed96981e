//! TLS as the listeners speak it: what a handshake needs, made of a certificate and its key, which can
//! be replaced while the gateway runs.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, Error, HandshakeKind, InconsistentKeys, ProtocolVersion, RootCertStore,
    ServerConfig,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// The one protocol that is offered inside of TLS.
const ALPN: &[u8] = b"http/1.1";

/// Why a certificate or its key is not used; a sentence's end behind the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTls {
    /// The file of the certificate has none.
    #[error("has no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// The file of the key has none.
    #[error(
        "has no private key in PEM (-----BEGIN PRIVATE KEY-----, or the same of RSA or EC; not \
         encrypted)"
    )]
    NoKey,
    /// The first certificate of the file cannot be read.
    #[error("has a first certificate that cannot be read")]
    Certificate,
    /// The key cannot be used.
    #[error(
        "has a private key that cannot be used: RSA from 2048 bits, P-256, P-384 and Ed25519 are"
    )]
    Key,
    /// The certificate is of another key.
    #[error("has a private key that does not belong to the first certificate of tls.cert")]
    Mismatch,
    /// The certificate is not good any more.
    #[error("has a first certificate that expired {} ago: renew it", told(.0))]
    Expired(Duration),
    /// The certificate is not good yet.
    #[error("has a first certificate that begins to be valid in {} only: look at the clock", told(.0))]
    Early(Duration),
}

impl BadTls {
    /// Whether the key's file is to be changed, and not the certificate's.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::Key | Self::Mismatch)
    }
}

/// A time as people say it, rounded down.
fn told(time: &Duration) -> String {
    let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60);
    match (hours / 24, hours, minutes) {
        (2.., ..) => format!("{} days", hours / 24),
        (_, 2.., _) => format!("{hours} hours"),
        _ => format!("{minutes} minutes"),
    }
}

/// What TLS is spoken with. One for a gateway: all its shards and listeners share it.
pub struct TlsKeys {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

/// The certificate that the next handshake shows, with its key.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl TlsKeys {
    /// What the text of two files in PEM makes: a certificate, with those that it was signed by
    /// behind it, and its private key.
    ///
    /// # Errors
    ///
    /// [`BadTls`] says which of the two is not right, and why.
    pub fn parse(cert: &[u8], key: &[u8]) -> Result<Self, BadTls> {
        let provider = Arc::new(ring::default_provider());
        let pair = pair(cert, key, &provider)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
        let resolver = Arc::<Current>::clone(&current);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| BadTls::Key)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are resumed by tickets, whose keys change by themselves every six hours: nothing
        // is kept of a client that has gone, and it may come back to another shard. A ticketer
        // fails only where the system gives no random bytes; then every handshake is a whole one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!(%error, "sessions of TLS cannot be resumed"),
        }
        Ok(Self { config: Arc::new(config), current })
    }

    /// From here on handshakes show the certificate of `fresh`. Open connections, and the tickets of
    /// those that have gone, stay good.
    pub fn replace(&self, fresh: &Self) {
        let pair = Arc::clone(&fresh.current.0.read());
        *self.current.0.write() = pair;
    }

    /// Shakes hands. What costs is done in turn, one step of a handshake of `signing` after the
    /// other, and the rest of the shard goes on in between: a signature of RSA takes a millisecond,
    /// and as many as come at once would hold up every event behind them.
    ///
    /// # Errors
    ///
    /// Of the stream or of TLS; `TimedOut` where its turn has not come within `patience`. Then
    /// nothing was signed: who is served late, and gives up before it is done, would only keep the
    /// next from being served in time.
    pub(super) async fn accept<S>(
        &self,
        stream: S,
        signing: &Arc<Semaphore>,
        patience: Duration,
    ) -> io::Result<Box<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let Ok(turn) = tokio::time::timeout(patience, signing.acquire()).await else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        let mut goes_on = false;
        let mut answered = hello.into_stream_with(Arc::clone(&self.config), |session| {
            // A second hello is what is signed for then; in TLS 1.2 a key is yet to be agreed on.
            goes_on = session.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest)
                || session.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        });
        tokio::task::yield_now().await;
        drop(turn);
        if goes_on {
            return in_turns(signing, &mut answered).await.map(Box::new);
        }
        answered.await.map(Box::new)
    }
}

/// As `future`, of which each step takes a turn of `signing`, and leaves the next turn to others
/// that wait for one.
async fn in_turns<F: Future + Unpin>(signing: &Arc<Semaphore>, future: &mut F) -> F::Output {
    let mut turn = Box::pin(Arc::clone(signing).acquire_owned());
    poll_fn(|cx| {
        let held = ready!(turn.as_mut().poll(cx));
        let step = Pin::new(&mut *future).poll(cx);
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            drop(held);
        });
        turn.set(Arc::clone(signing).acquire_owned());
        step
    })
    .await
}

/// Without what is secret.
impl fmt::Debug for TlsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKeys").finish_non_exhaustive()
    }
}

/// The certificate and its key, checked.
fn pair(cert: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, BadTls> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|_| BadTls::NoCertificate)?;
    let first = chain.first().ok_or(BadTls::NoCertificate)?;
    check_dates(first, UnixTime::now(), provider)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadTls::NoKey)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        if matches!(error, Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            BadTls::Mismatch
        } else if matches!(error, Error::InvalidCertificate(_)) {
            BadTls::Certificate
        } else {
            BadTls::Key
        }
    })
}

/// Checks that `now` is within the certificate's time. Everything else of it is for its clients to
/// judge: nobody signed it that this machine need know.
fn check_dates(
    cert: &CertificateDer<'_>,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), BadTls> {
    let parsed = ParsedCertificate::try_from(cert).map_err(|_| BadTls::Certificate)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let nobody = RootCertStore::empty();
    let judged = verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms);
    let between = |from: UnixTime, to: UnixTime| {
        Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
    };
    match judged {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Err(BadTls::Expired(between(not_after, now)))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => Err(BadTls::Early(between(now, not_before))),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::NamedGroup;
    use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::LocalSet;

    fn made(from: i32, to: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn fault(cert: &str, key: &str) -> BadTls {
        TlsKeys::parse(cert.as_bytes(), key.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_certificate_with_its_key_is_taken() {
        let (cert, key) = made(2020, 4000);
        let keys = TlsKeys::parse(cert.as_bytes(), key.as_bytes()).unwrap();
        assert!(!format!("{keys:?}").contains("PRIVATE"));
        let (_, other) = made(2020, 4000);
        assert_eq!(fault(&cert, &other), BadTls::Mismatch);
        assert!(fault(&cert, &other).is_of_key());
    }

    #[test]
    fn what_is_no_certificate_or_key_is_named() {
        let (cert, key) = made(2020, 4000);
        for bad in ["", "hello", &key, &cert[..cert.len() / 2]] {
            assert_eq!(fault(bad, &key), BadTls::NoCertificate, "{bad}");
        }
        for bad in ["", "hello", &cert, &key[..key.len() / 2]] {
            assert_eq!(fault(&cert, bad), BadTls::NoKey, "{bad}");
        }
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(fault(junk, &key), BadTls::Certificate);
        let junk = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(fault(&cert, junk), BadTls::Key);
    }

    #[test]
    fn a_certificate_out_of_its_time_is_refused() {
        let (cert, key) = made(2019, 2020);
        let expired = fault(&cert, &key);
        assert!(expired.to_string().contains("expired "), "{expired}");
        assert!(expired.to_string().contains(" days ago"), "{expired}");
        let (cert, key) = made(3000, 4000);
        let early = fault(&cert, &key);
        assert!(matches!(early, BadTls::Early(_)), "{early}");
        for (seconds, wanted) in
            [(59, "0 minutes"), (7_199, "119 minutes"), (7_200, "2 hours"), (172_800, "2 days")]
        {
            assert_eq!(told(&Duration::from_secs(seconds)), wanted);
        }
    }

    fn keys() -> TlsKeys {
        let (cert, key) = made(2020, 4000);
        TlsKeys::parse(cert.as_bytes(), key.as_bytes()).unwrap()
    }

    /// A group that no server here knows, with the keys of one that it does.
    #[derive(Debug)]
    struct Foreign;

    impl SupportedKxGroup for Foreign {
        fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
            Ok(Box::new(ForeignKey(ring::kx_group::X25519.start()?)))
        }

        fn name(&self) -> NamedGroup {
            NamedGroup::secp521r1
        }
    }

    struct ForeignKey(Box<dyn ActiveKeyExchange>);

    impl ActiveKeyExchange for ForeignKey {
        fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
            self.0.complete(peer)
        }

        fn pub_key(&self) -> &[u8] {
            self.0.pub_key()
        }

        fn group(&self) -> NamedGroup {
            NamedGroup::secp521r1
        }
    }

    /// A client, and what it has begun with.
    struct Greeting {
        client: rustls::ClientConnection,
        near: DuplexStream,
        far: Option<DuplexStream>,
    }

    impl Greeting {
        /// A client that has said hello; `foreign` begins with a group that the server has not.
        async fn new(foreign: bool) -> Self {
            let mut provider = ring::default_provider();
            if foreign {
                provider.kx_groups.insert(0, &Foreign);
            }
            let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let mut config =
                builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
            config.alpn_protocols = vec![ALPN.to_vec()];
            let name = "localhost".try_into().unwrap();
            let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
            let (near, far) = tokio::io::duplex(1 << 16);
            let mut greeting = Self { client, near, far: Some(far) };
            greeting.write().await;
            greeting
        }

        async fn write(&mut self) {
            let mut hello = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut hello).unwrap();
            }
            self.near.write_all(&hello).await.unwrap();
        }

        /// Reads that another hello is wanted, and says it when all have got so far.
        async fn read_retry(&mut self) {
            let mut came = [0; 1024];
            while !self.client.wants_write() {
                let count = self.near.read(&mut came).await.unwrap();
                self.client.read_tls(&mut &came[..count]).unwrap();
                self.client.process_new_packets().unwrap();
            }
        }
    }

    /// Takes a byte of what has come; whether there was one.
    async fn is_answered(client: &mut DuplexStream) -> bool {
        tokio::select! {
            biased;
            read = client.read_u8() => read.is_ok(),
            () = std::future::ready(()) => false,
        }
    }

    /// All hellos are there before the first of them is answered; those too that are said again.
    #[tokio::test]
    async fn one_handshake_signs_in_a_turn() {
        const MANY: usize = 8;
        for again in [false, true] {
            let (keys, signing) = (Rc::new(keys()), Arc::new(Semaphore::new(1)));
            let mut clients = Vec::new();
            let turns = LocalSet::new();
            for _ in 0..MANY {
                let mut greeting = Greeting::new(again).await;
                let far = greeting.far.take().unwrap();
                clients.push((greeting, false));
                let (keys, signing) = (Rc::clone(&keys), Arc::clone(&signing));
                turns.spawn_local(async move {
                    keys.accept(far, &signing, Duration::from_secs(60)).await.map(drop)
                });
            }
            let looks = async {
                if again {
                    for (client, _) in &mut clients {
                        client.read_retry().await;
                    }
                    for (client, _) in &mut clients {
                        client.write().await;
                    }
                }
                let mut answered = 0;
                while answered < MANY {
                    let before = answered;
                    for (client, done) in clients.iter_mut().filter(|(_, done)| !done) {
                        *done = is_answered(&mut client.near).await;
                        answered += usize::from(*done);
                    }
                    assert!(answered <= before + 1, "{again}: {before} and then {answered}");
                    tokio::task::yield_now().await;
                }
            };
            turns.run_until(looks).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_too_long_for_its_turn_is_not_signed_for() {
        let (keys, signing) = (keys(), Arc::new(Semaphore::new(1)));
        let turn = signing.acquire().await.unwrap();
        let Greeting { near: mut client, far, .. } = Greeting::new(false).await;
        let far = far.unwrap();
        let late = keys.accept(far, &signing, Duration::from_secs(2)).await.map(drop).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"");
        drop(turn);
        // Whoever has gone is not waited for.
        let Greeting { near: mut client, far, .. } = Greeting::new(false).await;
        let far = far.unwrap();
        let served = keys.accept(far, &signing, Duration::from_secs(2));
        tokio::select! {
            _ = served => panic!("the client has not answered"),
            byte = client.read_u8() => assert_eq!(byte.unwrap(), 22, "a record of a handshake"),
        }
    }

    #[test]
    fn the_next_handshake_shows_what_was_replaced() {
        let [one, other] = [(); 2].map(|()| {
            let (cert, key) = made(2020, 4000);
            TlsKeys::parse(cert.as_bytes(), key.as_bytes()).unwrap()
        });
        let shown = |keys: &TlsKeys| keys.current.0.read().cert.clone();
        assert_ne!(shown(&one), shown(&other));
        one.replace(&other);
        assert_eq!(shown(&one), shown(&other));
    }
}
