//! What the configuration says about who may come in: the files of keys are read here, once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::check::Check;
use super::file;
use super::key::Key;
use crate::core::token::{BadKey, CLAIM_BYTES_MAX, Key as TokenKey, Verifier};
use crate::http::ApiKeys;
use crate::shard::AuthOptions;

/// Files beyond this are no keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Secrets of tokens and keys of the API have so many bytes at least.
const SECRET_BYTES_MIN: usize = 32;

/// Who else may read a file, in its mode.
const OTHERS_READ: u32 = 0o004;

impl Check<'_> {
    /// What tokens are checked with.
    pub(super) fn auth(&mut self) -> AuthOptions {
        let mut keys = Vec::new();
        let before = self.faults();
        keys.extend(self.keys_of(Key::AuthHmacSecretFile, |bytes| {
            TokenKey::secret(bytes).map(|key| vec![key])
        }));
        keys.extend(self.keys_of(Key::AuthPublicKeyFile, |bytes| TokenKey::pem(text(bytes)?)));
        keys.extend(self.keys_of(Key::AuthJwksFile, |bytes| TokenKey::set(text(bytes)?)));
        let readable = before == self.faults();
        let named = |text: String| (!text.is_empty()).then_some(text);
        let issuer = named(self.text(Key::AuthIssuer));
        let audience = named(self.text(Key::AuthAudience));
        if issuer.as_ref().is_some_and(|issuer| issuer.len() > CLAIM_BYTES_MAX) {
            let problem = format!("must have at most {CLAIM_BYTES_MAX} bytes");
            self.fault(Key::AuthIssuer, &problem);
        }
        let required = self.flag(Key::AuthRequired);
        if keys.is_empty() && readable {
            let files = "auth.hmac_secret_file, auth.public_key_file or auth.jwks_file";
            let given = [
                (Key::AuthRequired, required),
                (Key::AuthIssuer, issuer.is_some()),
                (Key::AuthAudience, audience.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                self.fault(
                    key,
                    &format!("is set, and no token is good without a key: set {files}"),
                );
            }
        }
        let verifier = (!keys.is_empty()).then(|| Verifier::new(keys, issuer, audience));
        AuthOptions { required, verifier: verifier.map(Arc::new) }
    }

    /// Whether no setting names a key of tokens: then no token is good.
    pub(super) fn is_keyless(&self) -> bool {
        let keys = [Key::AuthHmacSecretFile, Key::AuthPublicKeyFile, Key::AuthJwksFile];
        keys.into_iter().all(|key| self.raw.text(key).is_none())
    }

    /// What the HTTP API is asked with.
    pub(super) fn api_keys(&mut self) -> Option<ApiKeys> {
        let (path, bytes) = self.file(Key::AuthApiKeysFile)?;
        let read = text(&bytes).map_err(|bad| (0, bad.to_string())).and_then(ApiKeys::parse);
        match read {
            Ok(keys) => Some(keys),
            Err((line, problem)) => {
                let place = if line == 0 { path } else { format!("{path}:{line}") };
                self.fault(Key::AuthApiKeysFile, &format!("names {place:?}, which {problem}"));
                None
            }
        }
    }

    fn keys_of(
        &mut self,
        key: Key,
        read: impl Fn(&[u8]) -> Result<Vec<TokenKey>, BadKey>,
    ) -> Vec<TokenKey> {
        let Some((path, bytes)) = self.file(key) else { return Vec::new() };
        read(&bytes).unwrap_or_else(|bad| {
            self.fault(key, &format!("names {path:?}, which {bad}"));
            Vec::new()
        })
    }

    /// The file that a setting names, if it does, and what is in it.
    pub(super) fn file(&mut self, key: Key) -> Option<(String, Vec<u8>)> {
        let path = self.text(key);
        self.file_at(key, path)
    }

    /// The same, of a path that was read from the settings.
    pub(super) fn file_at(&mut self, key: Key, path: String) -> Option<(String, Vec<u8>)> {
        if path.is_empty() {
            return None;
        }
        match file::read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => {
                self.warn_of_readers(key, &path, &bytes);
                Some((path, bytes))
            }
            Err(_) if is_secret(&path) => {
                let problem = "cannot be read as a file, and may be the secret itself: name the file that has it";
                self.fault(key, problem);
                None
            }
            Err(problem) => {
                self.fault(key, &format!("names {path:?}, which {problem}"));
                None
            }
        }
    }

    /// Warns where a file that is secret can be read by anybody.
    fn warn_of_readers(&mut self, key: Key, path: &str, bytes: &[u8]) {
        // A set of public keys is no secret.
        let secret = matches!(key, Key::AuthApiKeysFile | Key::AuthHmacSecretFile | Key::TlsKey)
            || (key == Key::AuthJwksFile && memchr::memmem::find(bytes, b"\"oct\"").is_some());
        let mode = std::fs::metadata(path).map(|file| file.permissions().mode());
        if secret && mode.is_ok_and(|mode| mode & OTHERS_READ != 0) {
            let problem = format!(
                "names {path:?}, which every user of this machine may read: take that away with \
                 chmod o-r"
            );
            self.warn(key, &problem);
        }
    }
}

/// Whether the name of a file that cannot be read may be a secret in its place, which no message is
/// to repeat: PEM, or what is as long as a secret and names no folder that is there.
fn is_secret(path: &str) -> bool {
    let folder = Path::new(path).parent();
    let named = folder.is_some_and(|it| !it.as_os_str().is_empty() && it.is_dir());
    path.contains("-----BEGIN") || (path.len() >= SECRET_BYTES_MIN && !named)
}

fn text(bytes: &[u8]) -> Result<&str, BadKey> {
    std::str::from_utf8(bytes).map_err(|_| BadKey::Malformed("it is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BadSetting, Machine, RawConfig};

    fn check(text: &str) -> Result<crate::Config, Vec<BadSetting>> {
        let machine = Machine { cores: 1, host: "h1".to_owned(), memory: 8 << 30 };
        RawConfig::parse(text, Path::new("w.toml"), &mut Vec::new()).check(&machine, Vec::new())
    }

    fn faults(text: &str) -> Vec<String> {
        let bad = check(text).err().unwrap_or_default();
        bad.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn secrets_are_kept_from_readers_and_from_messages() {
        let path = std::env::temp_dir().join(format!("weir-secret-{}.key", std::process::id()));
        std::fs::write(&path, format!("ops:{}", "k".repeat(40))).unwrap();
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            for key in ["hmac_secret_file", "api_keys_file"] {
                let warnings = check(&format!("auth.{key} = {path:?}\n")).ok().unwrap().warnings;
                assert_eq!(warnings.len(), usize::from(warned), "{key} {mode:o}: {warnings:?}");
                assert!(
                    warnings.iter().all(|one| one.problem.contains("chmod o-r")),
                    "{warnings:?}"
                );
            }
        }
        std::fs::remove_file(&path).unwrap();
        // One in the place of its file is not repeated.
        let pem = "-----BEGIN PRIVATE KEY-----\\nMC4CAQ/.\\n-----END PRIVATE KEY-----";
        for (key, value) in [
            ("hmac_secret_file", "gZ3/x5Lq8Wk0pT2vB7nR4sD9fH6jM1cY=="),
            ("hmac_secret_file", "/Z3gx5Lq8Wk0pT2v/7nR4sD9fH6jM1cY=="),
            ("hmac_secret_file", "a.secret.with.dots.in.it.and.no.folder"),
            ("api_keys_file", "ops:6f1c0b7a5d3e9f8241c7a6b5d4e3f2a1"),
            ("public_key_file", pem),
        ] {
            let found = faults(&format!("auth.{key} = \"{value}\"\n"));
            let wanted = format!("w.toml:1: auth.{key}: cannot be read as a file, and");
            assert!(found.len() == 1 && found[0].starts_with(&wanted), "{found:?}");
        }
        let gone = std::env::temp_dir().join("a-secret-that-is-not-there-of-the-gateway");
        let found = faults(&format!("auth.hmac_secret_file = {gone:?}\n"));
        assert!(found[0].contains(&format!("names {gone:?}, which")), "{found:?}");
    }
}
