//! Tokens: whether one is what a key of ours has signed, and what it says. Pure: the time is given.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::access::Template;
use super::bearer::Bearer;
use super::identity::Identity;

mod cache;
mod keys;
mod proof;
mod provider;

pub use cache::{Cache, Discarded, Seen};
pub use keys::{BadKey, Key, trimmed_secret};
pub use proof::Proof;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// By how much clocks may differ, in seconds.
pub const LEEWAY_S: u64 = 5;

/// The longest `info`, in bytes of JSON.
pub const INFO_BYTES_MAX: usize = 1024;

/// The longest `sub`, in bytes.
pub const USER_BYTES_MAX: usize = 255;

/// The longest claim that a rule may name, in bytes: no channel has a longer name.
pub const CLAIM_BYTES_MAX: usize = 255;

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// Meant for others.
    Audience,
    /// Without `sub` or `exp`, or with a claim of the wrong kind.
    Claims,
    /// Not valid yet.
    Early,
    /// Not valid any more. All else is right with it.
    Expired,
    /// Made by others.
    Issuer,
    /// No key for it: of that name, and for its algorithm.
    Key,
    /// Longer than [`TOKEN_BYTES_MAX`].
    Long,
    /// No token at all.
    Malformed,
    /// Signed by nobody whose key is here, or changed since.
    Signature,
}

impl BadToken {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Audience,
        Self::Claims,
        Self::Early,
        Self::Expired,
        Self::Issuer,
        Self::Key,
        Self::Long,
        Self::Malformed,
        Self::Signature,
    ];
}

/// What tokens are checked with.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
    issuer: Option<String>,
    audience: Option<String>,
}

/// Nothing of its keys.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Takes tokens that one of `keys` has signed; with an issuer and an audience, only those made
    /// by the one and for the other.
    pub fn new(keys: Vec<Key>, issuer: Option<String>, audience: Option<String>) -> Self {
        provider::install();
        Self { keys, issuer, audience }
    }

    /// Whether it takes long to check a token: where it says that a public key has signed it, and
    /// there is one for that.
    pub fn is_slow(&self, token: &str) -> bool {
        if token.len() > TOKEN_BYTES_MAX {
            return false;
        }
        let Ok(header) = jsonwebtoken::decode_header(token) else { return false };
        let secret = matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        !secret && self.keys.iter().any(|key| key.algorithms.contains(&header.alg))
    }

    /// Checks a token at `now_s`, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`BadToken`] says what is wrong with it. That is for counters: whoever brought it is told
    /// whether it has expired, and no more.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Bearer, BadToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BadToken::Long);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| BadToken::Malformed)?;
        if header.crit.is_some() {
            // Something that must be understood, and is not (RFC 7515, section 4.1.11).
            return Err(BadToken::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(BadToken::Malformed)?;
        let key = self.check_signature(&header, message, signature)?;
        let (_, payload) = message.split_once('.').ok_or(BadToken::Malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| BadToken::Malformed)?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&payload).map_err(|_| BadToken::Malformed)?;
        let mut bearer = self.check_claims(&claims, now_s)?;
        bearer.proof = Some(Box::new(Proof::new(
            key,
            &header,
            text(&claims, "iss"),
            texts(claims.get("aud")),
        )));
        Ok(bearer)
    }

    /// Nothing that the token says of itself is believed before one of our keys fits.
    fn check_signature(
        &self,
        header: &Header,
        message: &str,
        signature: &str,
    ) -> Result<&Key, BadToken> {
        let mut bad = BadToken::Key;
        let id = header.kid.as_deref();
        for key in self.keys.iter().filter(|key| key.is_for(id, header.alg)) {
            let checked =
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, header.alg);
            if matches!(checked, Ok(true)) {
                return Ok(key);
            }
            bad = BadToken::Signature;
        }
        Err(bad)
    }

    fn check_claims(&self, claims: &Map<String, Value>, now_s: u64) -> Result<Bearer, BadToken> {
        if self.issuer.as_deref().is_some_and(|own| text(claims, "iss") != Some(own)) {
            return Err(BadToken::Issuer);
        }
        if let Some(own) = self.audience.as_deref()
            && !texts(claims.get("aud")).any(|one| one == own)
        {
            return Err(BadToken::Audience);
        }
        let user = text(claims, "sub").filter(|user| (1..=USER_BYTES_MAX).contains(&user.len()));
        let user = user.ok_or(BadToken::Claims)?;
        let expires_s = seconds(claims.get("exp").ok_or(BadToken::Claims)?)?;
        let starts_s = claims.get("nbf").map_or(Ok(0), seconds)?;
        let identity = Identity { user: user.into(), info: info(claims)? };
        let bearer = Bearer {
            identity: Arc::new(identity),
            roles: texts(claims.get("role"))
                .chain(texts(claims.get("roles")))
                .map(Box::from)
                .collect(),
            claims: claims.iter().filter_map(named_text).collect(),
            channels: templates(claims, "channels")?,
            publish: templates(claims, "publish")?,
            expires_s,
            proof: None,
        };
        if starts_s > now_s.saturating_add(LEEWAY_S) {
            return Err(BadToken::Early);
        }
        if now_s >= expires_s.saturating_add(LEEWAY_S) {
            return Err(BadToken::Expired);
        }
        Ok(bearer)
    }
}

/// A claim that is a text.
fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

/// The texts of a claim that is one, or a list of them. Anything else is as if it were not there.
fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = claim.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let one = claim.and_then(Value::as_str);
    one.into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// A time, which may have a fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "beyond the ends it is the end"
)]
fn seconds(claim: &Value) -> Result<u64, BadToken> {
    let whole = claim.as_u64();
    whole.or_else(|| claim.as_f64().map(|seconds| seconds as u64)).ok_or(BadToken::Claims)
}

/// A claim that a channel's name may have in it, as its text.
fn named_text((name, value): (&String, &Value)) -> Option<(Box<str>, Box<str>)> {
    let text = match value {
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Null | Value::Number(_) | Value::Object(_) => return None,
    };
    (text.len() <= CLAIM_BYTES_MAX).then(|| (name.as_str().into(), text.into()))
}

/// What others are shown.
fn info(claims: &Map<String, Value>) -> Result<Option<Box<[u8]>>, BadToken> {
    let Some(info) = claims.get("info").filter(|info| !info.is_null()) else { return Ok(None) };
    let text = serde_json::to_vec(info).map_err(|_| BadToken::Claims)?;
    if text.len() > INFO_BYTES_MAX { Err(BadToken::Claims) } else { Ok(Some(text.into())) }
}

/// The patterns of a claim. One that is none spoils the token: whoever made it meant something.
fn templates(claims: &Map<String, Value>, name: &str) -> Result<Box<[Template]>, BadToken> {
    let list = match claims.get(name) {
        None | Some(Value::Null) => return Ok(Box::default()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(BadToken::Claims),
    };
    let read = |one: &Value| one.as_str().and_then(|text| Template::parse(text).ok());
    let templates: Option<Box<[Template]>> = list.iter().map(read).collect();
    templates.ok_or(BadToken::Claims)
}

/// Signs claims with a secret, for development.
///
/// # Errors
///
/// [`BadKey`] where the secret is none.
pub fn sign(claims: &Value, secret: &[u8]) -> Result<String, BadKey> {
    provider::install();
    let key = EncodingKey::from_secret(trimmed_secret(secret)?);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)
        .map_err(|_| BadKey::Malformed("the secret signs nothing"))
}

#[cfg(test)]
mod tests;
