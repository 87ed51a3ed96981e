//! What the configuration says about who reaches the gateway, and how: addresses, TLS and proxies.

use std::sync::Arc;

use super::check::Check;
use super::key::Key;
use super::value::Value;
use crate::http::{ListenAddress, Proxies, TlsKeys};

impl Check<'_> {
    /// Where clients are taken in; `guarded` where they all need a token.
    pub(super) fn listen(&mut self, guarded: bool) -> Vec<ListenAddress> {
        let problem = "is not loopback, and without auth.required whoever reaches it may \
             come in: listen on 127.0.0.1, set auth.required = true, or say --insecure if \
             the network is yours";
        self.addresses(Key::Listen, (!guarded).then_some(problem))
    }

    /// Where the rest is, if that is elsewhere; `guarded` where there are keys of the API.
    pub(super) fn admin_listen(
        &mut self,
        listen: &[ListenAddress],
        guarded: bool,
    ) -> Vec<ListenAddress> {
        let problem = "is not loopback, and without auth.api_keys_file nobody elsewhere may ask \
             there: listen on 127.0.0.1, set auth.api_keys_file, or say --insecure if the network \
             is yours";
        let addresses = self.addresses(Key::AdminListen, (!guarded).then_some(problem));
        for address in &addresses {
            // Port 0 is another each time.
            let free = address.tcp().is_some_and(|address| address.port() == 0);
            if !free && listen.iter().any(|other| other.is_same(address)) {
                let problem = format!("has \"{address}\", which stands in listen already");
                self.fault(Key::AdminListen, &problem);
            }
        }
        addresses
    }

    /// The addresses of a list; one that others reach has the problem `exposed`.
    fn addresses(&mut self, key: Key, exposed: Option<&str>) -> Vec<ListenAddress> {
        let Value::List(texts) = self.value(key) else { return Vec::new() };
        if texts.is_empty() && key == Key::Listen {
            self.fault(key, "is empty, must have an address and a port at least");
        }
        let exposed = exposed.filter(|_| !self.raw.insecure);
        let verb = if texts.len() > 1 { "has" } else { "is" };
        let mut addresses: Vec<ListenAddress> = Vec::with_capacity(texts.len());
        for text in &texts {
            let address: ListenAddress = match text.parse() {
                Ok(address) => address,
                Err(right) => {
                    self.fault(key, &format!("{verb} {text:?}, {right}"));
                    continue;
                }
            };
            if addresses.iter().any(|other| other.is_same(&address)) {
                self.fault(key, &format!("has {text:?}, which stands there already"));
                continue;
            }
            if let Some(problem) = exposed.filter(|_| !address.is_local()) {
                self.fault(key, &format!("{text:?} {problem}"));
            }
            addresses.push(address);
        }
        addresses
    }

    /// Whose word is taken about where a client comes from.
    pub(super) fn trusted_proxies(&mut self) -> Proxies {
        let Value::List(texts) = self.value(Key::HttpTrustedProxies) else {
            return Proxies::default();
        };
        match Proxies::parse(texts.iter().map(String::as_str)) {
            Ok(proxies) if proxies.is_everybody() => {
                self.fault(
                    Key::HttpTrustedProxies,
                    "trusts every address, so that each client may say it is any other: name the \
                     proxies",
                );
                Proxies::default()
            }
            Ok(proxies) => proxies,
            Err(bad) => {
                let right = "a proxy is an address or a network, like \"10.0.0.7\" or \
                     \"10.0.0.0/8\"";
                self.fault(Key::HttpTrustedProxies, &format!("has {bad:?}, {right}"));
                Proxies::default()
            }
        }
    }

    /// What TLS is spoken with.
    pub(super) fn tls(&mut self) -> Option<Arc<TlsKeys>> {
        let [cert_path, key_path] = [Key::TlsCert, Key::TlsKey].map(|key| self.text(key));
        if cert_path.is_empty() != key_path.is_empty() {
            let (set, missing) = if cert_path.is_empty() {
                (Key::TlsKey, "tls.cert")
            } else {
                (Key::TlsCert, "tls.key")
            };
            self.fault(set, &format!("is set, and TLS needs both: set {missing}, too"));
            return None;
        }
        let cert = self.file_at(Key::TlsCert, cert_path);
        let key = self.file_at(Key::TlsKey, key_path);
        let ((cert_path, cert), (key_path, key)) = (cert?, key?);
        match TlsKeys::parse(&cert, &key) {
            Ok(keys) => Some(Arc::new(keys)),
            Err(bad) => {
                let (at, path) = if bad.is_of_key() {
                    (Key::TlsKey, key_path)
                } else {
                    (Key::TlsCert, cert_path)
                };
                self.fault(at, &format!("names {path:?}, which {bad}"));
                None
            }
        }
    }
}
