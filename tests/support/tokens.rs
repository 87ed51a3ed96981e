//! Tokens for tests: those that another implementation has made (tokens.py), and HS256 by hand, for
//! times that are near.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

/// What tokens.py has made.
pub(crate) fn made() -> Value {
    serde_json::from_str(include_str!("tokens.json")).unwrap()
}

/// A token of these claims, signed with the secret of tokens.json.
pub(crate) fn hs256(claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let made = made();
    let secret = made["secret"].as_str().unwrap().as_bytes();
    let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signed))
}

/// The time, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens end in real time")]
pub(crate) fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
