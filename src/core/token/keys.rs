//! The keys that tokens are checked with, each bound to the algorithms of its kind.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::digest;
use serde::Deserialize;

/// The shortest secret, in bytes: as long as the shortest hash.
const SECRET_BYTES_MIN: usize = 32;

/// The smallest modulus of RSA, in bytes.
const RSA_BYTES_MIN: usize = 256;

/// Keys of one set.
const KEYS_MAX: usize = 64;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The names of key kinds in a PEM file, as DER writes them.
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Why a file has no keys; says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// A certificate where a key is wanted.
    #[error(
        "has a certificate, not a key: `openssl x509 -pubkey -noout` prints the key that is in it"
    )]
    Certificate,
    /// No block of PEM, or no key in a set.
    #[error("has no public key: {0}")]
    Empty(&'static str),
    /// A key of an algorithm that tokens are not signed with here.
    #[error("has a key of another kind than RSA, P-256, P-384 or Ed25519")]
    Kind,
    /// It is not what it should be.
    #[error("is not readable: {0}")]
    Malformed(&'static str),
    /// More than `KEYS_MAX`.
    #[error("has more than 64 keys")]
    Many,
    /// The half of a key that signs.
    #[error("has a private key: the gateway wants the public one, and nobody else the private")]
    Private,
    /// Too few bytes to be a secret.
    #[error("has a secret of {0} bytes, must be at least 32: `openssl rand -hex 32` makes one")]
    Short(usize),
    /// An RSA key that can be broken.
    #[error("has an RSA key of less than 2048 bits")]
    Weak,
}

/// A key, its name, and the algorithms it is for.
#[derive(Clone)]
pub struct Key {
    pub(super) id: Option<Box<str>>,
    pub(super) algorithms: Box<[Algorithm]>,
    pub(super) key: DecodingKey,
    /// Stands for the key in the proofs of tokens: its thumbprint.
    pub(super) mark: Arc<[u8; 32]>,
}

/// Nothing of the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    fn of(algorithms: &[Algorithm], key: DecodingKey) -> Self {
        let mark = Arc::new(thumbprint(&key));
        Self { id: None, algorithms: algorithms.into(), key, mark }
    }

    /// Whether it is to check a token that names that key, and is signed by that algorithm.
    pub(super) fn is_for(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let named = match (id, &self.id) {
            (Some(wanted), Some(id)) => *wanted == **id,
            (None, _) | (_, None) => true,
        };
        named && self.algorithms.contains(&algorithm)
    }

    /// A shared secret, without the white space around it.
    ///
    /// # Errors
    ///
    /// [`BadKey::Short`].
    pub fn secret(text: &[u8]) -> Result<Self, BadKey> {
        let secret = trimmed_secret(text)?;
        Ok(Self::of(HMAC, DecodingKey::from_secret(secret)))
    }

    /// The public keys of a PEM file, one or several.
    ///
    /// # Errors
    ///
    /// [`BadKey`] says what is wrong with the file.
    pub fn pem(text: &str) -> Result<Vec<Self>, BadKey> {
        let mut keys = Vec::new();
        for block in text.split("-----BEGIN ").skip(1) {
            let (label, rest) = block.split_once("-----").ok_or(NOT_PEM)?;
            let (body, _) = rest.split_once("-----END ").ok_or(NOT_PEM)?;
            match label {
                "PUBLIC KEY" => {}
                "CERTIFICATE" => return Err(BadKey::Certificate),
                _ if label.ends_with("PRIVATE KEY") => return Err(BadKey::Private),
                _ => return Err(BadKey::Malformed("it must be PEM of a PUBLIC KEY")),
            }
            let body: String = body.split_ascii_whitespace().collect();
            let der = STANDARD.decode(body).map_err(|_| NOT_PEM)?;
            keys.push(of_der(&der)?);
        }
        counted(keys, "it must be PEM, beginning with -----BEGIN PUBLIC KEY-----")
    }

    /// The keys of a JWK set that tokens may be signed with.
    ///
    /// # Errors
    ///
    /// [`BadKey`] says what is wrong with the set.
    pub fn set(text: &str) -> Result<Vec<Self>, BadKey> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(text)
            .map_err(|_| BadKey::Malformed("it must be a JWK set, {\"keys\":[...]}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(BadKey::Many);
        }
        let mut keys = Vec::new();
        for one in set.keys {
            // Sets have keys for other purposes, and of kinds to come.
            let Ok(jwk) = serde_json::from_value::<Jwk>(one) else { continue };
            keys.extend(of_jwk(&jwk)?);
        }
        counted(keys, "none in the set is one that signs tokens")
    }
}

/// The thumbprint of a key (RFC 7638): what it is made of, in whichever file it stands.
fn thumbprint(key: &DecodingKey) -> [u8; 32] {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let canonical = match (key.kind(), key.family()) {
        (DecodingKeyKind::RsaModulusExponent { n, e }, _) => {
            format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n))
        }
        (DecodingKeyKind::SecretOrDer(point), AlgorithmFamily::Ec) => {
            // Both halves behind a byte that says that both are there.
            let point = point.get(1..).unwrap_or_default();
            let (x, y) = point.split_at(point.len() / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y))
        }
        (DecodingKeyKind::SecretOrDer(x), AlgorithmFamily::Ed) => {
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x))
        }
        (DecodingKeyKind::SecretOrDer(k), AlgorithmFamily::Hmac | AlgorithmFamily::Rsa) => {
            format!(r#"{{"k":"{}","kty":"oct"}}"#, text(k))
        }
    };
    let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
    hash.as_ref().try_into().unwrap_or_default()
}

/// The key of RSA of these numbers. They may have zeros in front, as DER has them and some write
/// them into sets.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, BadKey> {
    let [modulus, exponent] = [modulus, exponent].map(|number| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.get(zeros..).unwrap_or_default()
    });
    if modulus.len() < RSA_BYTES_MIN {
        return Err(BadKey::Weak);
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

const NOT_PEM: BadKey = BadKey::Malformed("its PEM is damaged");
const NOT_DER: BadKey = BadKey::Malformed("its key is damaged");

fn counted(keys: Vec<Key>, otherwise: &'static str) -> Result<Vec<Key>, BadKey> {
    match keys.len() {
        0 => Err(BadKey::Empty(otherwise)),
        1..=KEYS_MAX => Ok(keys),
        _ => Err(BadKey::Many),
    }
}

/// The secret of a file, without the white space around it.
///
/// # Errors
///
/// [`BadKey::Short`].
pub fn trimmed_secret(text: &[u8]) -> Result<&[u8], BadKey> {
    let secret = text.trim_ascii();
    let long = secret.len() >= SECRET_BYTES_MIN;
    if long { Ok(secret) } else { Err(BadKey::Short(secret.len())) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a kind to come signs no token here")]
fn of_jwk(jwk: &Jwk) -> Result<Option<Key>, BadKey> {
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| NOT_DER);
    let algorithms: &[Algorithm] = match &jwk.algorithm {
        _ if !signs => return Ok(None),
        AlgorithmParameters::EllipticCurve(it) => {
            match (&it.curve, bytes(&it.x)?.len(), bytes(&it.y)?.len()) {
                (EllipticCurve::P256, 32, 32) => &[Algorithm::ES256],
                (EllipticCurve::P384, 48, 48) => &[Algorithm::ES384],
                (EllipticCurve::P256 | EllipticCurve::P384, _, _) => return Err(NOT_DER),
                _ => return Ok(None),
            }
        }
        AlgorithmParameters::OctetKey(it) => {
            let length = bytes(&it.value)?.len();
            if length < SECRET_BYTES_MIN {
                return Err(BadKey::Short(length));
            }
            HMAC
        }
        AlgorithmParameters::OctetKeyPair(it)
            if it.curve == EllipticCurve::Ed25519 && bytes(&it.x)?.len() == 32 =>
        {
            &[Algorithm::EdDSA]
        }
        AlgorithmParameters::RSA(_) => RSA,
        _ => return Ok(None),
    };
    // What the key says of itself is all that it is for.
    let only = jwk.common.key_algorithm.map(Algorithm::try_from);
    let algorithms: Box<[Algorithm]> = match only {
        None => algorithms.into(),
        Some(Ok(only)) if algorithms.contains(&only) => [only].into(),
        Some(_) => return Ok(None),
    };
    let key = match &jwk.algorithm {
        AlgorithmParameters::RSA(it) => rsa(&bytes(&it.n)?, &bytes(&it.e)?)?,
        _ => DecodingKey::from_jwk(jwk).map_err(|_| NOT_DER)?,
    };
    let id = jwk.common.key_id.as_deref().map(Box::from);
    Ok(Some(Key { id, ..Key::of(&algorithms, key) }))
}

/// Reads a SubjectPublicKeyInfo (RFC 5280, section 4.1): a kind, its parameter, and a bit string.
fn of_der(der: &[u8]) -> Result<Key, BadKey> {
    let (info, after) = tagged(0x30, der).ok_or(NOT_DER)?;
    let (kind, bits) = tagged(0x30, info).ok_or(NOT_DER)?;
    let (oid, parameter) = tagged(0x06, kind).ok_or(NOT_DER)?;
    let (bits, rest) = tagged(0x03, bits).ok_or(NOT_DER)?;
    let (0, true, true) = (bits.first().copied().unwrap_or(1), rest.is_empty(), after.is_empty())
    else {
        return Err(NOT_DER);
    };
    let key = bits.get(1..).unwrap_or_default();
    let curve = tagged(0x06, parameter).map(|(curve, _)| curve);
    match (oid, curve, key.len()) {
        (OID_RSA, _, _) => {
            let (numbers, _) = tagged(0x30, key).ok_or(NOT_DER)?;
            let (modulus, rest) = tagged(0x02, numbers).ok_or(NOT_DER)?;
            let (exponent, rest) = tagged(0x02, rest).ok_or(NOT_DER)?;
            if !rest.is_empty() {
                return Err(NOT_DER);
            }
            Ok(Key::of(RSA, rsa(modulus, exponent)?))
        }
        (OID_EC, Some(OID_P256), 65) => {
            Ok(Key::of(&[Algorithm::ES256], DecodingKey::from_ec_der(key)))
        }
        (OID_EC, Some(OID_P384), 97) => {
            Ok(Key::of(&[Algorithm::ES384], DecodingKey::from_ec_der(key)))
        }
        (OID_ED25519, _, 32) => Ok(Key::of(&[Algorithm::EdDSA], DecodingKey::from_ed_der(key))),
        _ => Err(BadKey::Kind),
    }
}

/// The content of a value of that tag at the front, and what is behind it.
fn tagged(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7638, section 3.1.
    #[test]
    fn a_key_has_the_thumbprint_of_the_standard() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1\
                 L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4\
                 QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO\
                 pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csF\
                 Cur-kEgU8awapJzKnqDKgw";
        let zeros =
            URL_SAFE_NO_PAD.encode([&[0][..], &URL_SAFE_NO_PAD.decode(n).unwrap()].concat());
        for n in [n, &zeros] {
            let set = format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"RS256"}}]}}"#);
            let keys = Key::set(&set).unwrap();
            let mark = URL_SAFE_NO_PAD.encode(*keys[0].mark);
            assert_eq!(mark, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        }
    }
}
