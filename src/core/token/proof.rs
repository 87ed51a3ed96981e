//! What a token was taken by, so that it can be told whether it would be again when keys have
//! changed: the token itself is not kept.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, Header};

use super::{Key, Verifier};
use crate::core::bearer::Bearer;

/// What a token was taken by.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    /// Stands for the key that has signed it.
    mark: Arc<[u8; 32]>,
    /// The key that it names.
    id: Option<Box<str>>,
    algorithm: Algorithm,
    /// Who has made it. Not that claim of its bearer, which may be a number, or too long to be kept.
    issuer: Option<Box<str>>,
    /// Whom it is for.
    audience: Box<[Box<str>]>,
}

/// Nothing of the key, and nothing that the token says.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Proof {
    /// Of a token with that header, which `key` has signed.
    pub(super) fn new<'a>(
        key: &Key,
        header: &Header,
        issuer: Option<&str>,
        audience: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self {
            mark: Arc::clone(&key.mark),
            id: header.kid.as_deref().map(Box::from),
            algorithm: header.alg,
            issuer: issuer.map(Box::from),
            audience: audience.map(Box::from).collect(),
        }
    }
}

impl Verifier {
    /// Whether it would take the token that somebody has come with, as far as that depends on keys,
    /// issuer and audience. Somebody without a token needs none.
    pub fn takes(&self, bearer: &Bearer) -> bool {
        let Some(proof) = bearer.proof.as_deref() else { return true };
        let key = self
            .keys
            .iter()
            .any(|key| key.mark == proof.mark && key.is_for(proof.id.as_deref(), proof.algorithm));
        let made = self.issuer.as_deref().is_none_or(|own| proof.issuer.as_deref() == Some(own));
        let meant = |own: &str| proof.audience.iter().any(|one| **one == *own);
        key && made && self.audience.as_deref().is_none_or(meant)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::core::token::{Key, Verifier, sign};

    const ONE: &[u8] = b"01234567890123456789012345678901";
    const OTHER: &[u8] = b"a1234567890123456789012345678901";

    fn with(secrets: &[&[u8]], issuer: Option<&str>, audience: Option<&str>) -> Verifier {
        let keys = secrets.iter().map(|secret| Key::secret(secret).unwrap()).collect();
        Verifier::new(keys, issuer.map(str::to_owned), audience.map(str::to_owned))
    }

    /// What it says without the token is what it says of the token.
    #[test]
    fn a_token_is_still_taken_exactly_where_it_would_be() {
        let long = "l".repeat(300);
        let tokens = [
            json!({"sub": "u", "exp": 2000}),
            json!({"sub": "u", "exp": 2000, "iss": "i", "aud": "a"}),
            json!({"sub": "u", "exp": 2000, "iss": "j", "aud": ["a", "b"]}),
            json!({"sub": "u", "exp": 2000, "iss": ["i"], "aud": {"a": 1}}),
            json!({"sub": "u", "exp": 2000, "iss": 5, "aud": 5}),
            json!({"sub": "u", "exp": 2000, "iss": "", "aud": ""}),
            json!({"sub": "u", "exp": 2000, "iss": long, "aud": long}),
        ];
        let mut seen = [0, 0];
        for claims in tokens {
            for secret in [ONE, OTHER] {
                let token = sign(&claims, secret).unwrap();
                let bearer = with(&[ONE, OTHER], None, None).verify(&token, 0).unwrap();
                for secrets in [&[][..], &[ONE], &[OTHER], &[OTHER, ONE]] {
                    for issuer in [None, Some("i"), Some("j"), Some("5"), Some(""), Some(&*long)] {
                        for audience in [None, Some("a"), Some("b"), Some("5")] {
                            let verifier = with(secrets, issuer, audience);
                            let takes = verifier.takes(&bearer);
                            assert_eq!(takes, verifier.verify(&token, 0).is_ok(), "{claims}");
                            seen[usize::from(takes)] += 1;
                        }
                    }
                }
            }
        }
        assert!(seen[0] > 50 && seen[1] > 20, "{seen:?}");
    }

    #[test]
    fn a_key_counts_by_its_name_and_for_its_algorithms() {
        let made: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/support/tokens.json")).unwrap();
        let set = |jwks: &serde_json::Value| {
            Verifier::new(Key::set(&jwks.to_string()).unwrap(), None, None)
        };
        let before = set(&made["jwks"]);
        for (name, token) in made["named"].as_object().unwrap() {
            let bearer = before.verify(token.as_str().unwrap(), 1_780_000_000).unwrap();
            assert!(before.takes(&bearer), "{name}");
            let mut other = made["jwks"].clone();
            for key in other["keys"].as_array_mut().unwrap() {
                key["kid"] = json!("of another name");
            }
            let after = set(&other);
            assert!(after.verify(token.as_str().unwrap(), 1_780_000_000).is_err(), "{name}");
            assert!(!after.takes(&bearer), "{name}");
        }
    }

    /// A key is what it is made of, in whichever file it stands.
    #[test]
    fn a_key_that_moves_to_another_file_is_the_same_key() {
        use base64::Engine as _;
        let made: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/support/tokens.json")).unwrap();
        let secret = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(ONE);
        let hmac = json!({"keys": [{"kty": "oct", "k": secret}]}).to_string();
        let claims = json!({"sub": "u", "exp": 4_000_000_000_u64});
        let signed = sign(&claims, ONE).unwrap();
        let mut cases = vec![(vec![Key::secret(ONE).unwrap()], hmac, signed)];
        for (pem, id, algorithm) in [
            ("rsa", "rsa", "RS256"),
            ("p256", "p256", "ES256"),
            ("p384", "p384", "ES384"),
            ("ed", "ed", "EdDSA"),
        ] {
            let keys = Key::pem(made["pem"][pem].as_str().unwrap()).unwrap();
            let set = made["jwks"]["keys"].as_array().unwrap();
            let one = set.iter().find(|key| key["kid"] == id).unwrap();
            let token = made["good"][algorithm].as_str().unwrap().to_owned();
            cases.push((keys, json!({"keys": [one]}).to_string(), token));
        }
        for (from_file, set, token) in cases {
            let (one, other) = (
                Verifier::new(from_file, None, None),
                Verifier::new(Key::set(&set).unwrap(), None, None),
            );
            for (before, after) in [(&one, &other), (&other, &one)] {
                let bearer = before.verify(&token, 1_780_000_000).unwrap();
                assert!(after.takes(&bearer), "{set}");
            }
        }
    }
}
