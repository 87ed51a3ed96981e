//! The cryptography of tokens: what jsonwebtoken asks for, done by ring.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature as public;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For making JWKs of keys, which nobody here does.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes ring the cryptography of all tokens of this process. A program that embeds Weir and has
/// made another one that before keeps its own.
pub(super) fn install() {
    if PROVIDER.install_default().is_err() {
        // It is there, by an earlier call or by the program itself.
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an algorithm to come is for no key")]
fn hmac_of(algorithm: Algorithm) -> Result<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Ok(hmac::HMAC_SHA256),
        Algorithm::HS384 => Ok(hmac::HMAC_SHA384),
        Algorithm::HS512 => Ok(hmac::HMAC_SHA512),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an algorithm to come is for no key")]
fn rsa_of(algorithm: Algorithm) -> Option<&'static public::RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&public::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&public::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&public::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&public::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&public::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&public::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an algorithm to come is for no key")]
fn curve_of(algorithm: Algorithm) -> Option<&'static dyn public::VerificationAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Some(&public::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Some(&public::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Some(&public::ED25519),
        _ => None,
    }
}

/// Signs by HMAC alone: other keys are public here.
struct Secret(Algorithm, hmac::Key);

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if key.family() != AlgorithmFamily::Hmac {
        return Err(ErrorKind::UnsupportedAlgorithm.into());
    }
    let own = hmac::Key::new(hmac_of(*algorithm)?, key.as_bytes());
    Ok(Box::new(Secret(*algorithm, own)))
}

impl Signer<Vec<u8>> for Secret {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.1, message).as_ref().to_vec())
    }
}

impl JwtSigner for Secret {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

/// A key for one algorithm.
struct Checker(Algorithm, DecodingKey);

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // A public key must never be taken for a secret.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Checker(*algorithm, key.clone())))
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let Self(algorithm, key) = self;
        let checked = match (key.kind(), rsa_of(*algorithm), curve_of(*algorithm)) {
            (DecodingKeyKind::RsaModulusExponent { n, e }, Some(rsa), _) => {
                public::RsaPublicKeyComponents { n, e }.verify(rsa, message, signature)
            }
            (DecodingKeyKind::SecretOrDer(point), None, Some(curve)) => {
                public::UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
            (DecodingKeyKind::SecretOrDer(secret), None, None) => {
                let own = hmac_of(*algorithm).map_err(|_| Error::new())?;
                hmac::verify(&hmac::Key::new(own, secret), message, signature)
            }
            // A key of RSA is its two numbers here, and no other is.
            (DecodingKeyKind::RsaModulusExponent { .. }, None, _)
            | (DecodingKeyKind::SecretOrDer(_), Some(_), _) => return Err(Error::new()),
        };
        checked.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}
