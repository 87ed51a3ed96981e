//! The key of the opening handshake, RFC 6455, section 4.2.2. Not the HTTP around it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// What RFC 6455 appends to every key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
///
/// `None` unless `key` is the base64, padded and canonical, of exactly 16 bytes.
pub fn accept_key(key: &[u8]) -> Option<[u8; 28]> {
    // `decode_slice` may ask for room up to the next multiple of three.
    let mut nonce = [0; 18];
    if key.len() != 24 || STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    let len = STANDARD.encode_slice(digest, &mut accept).ok()?;
    (len == accept.len()).then_some(accept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_the_key_of_the_rfc() {
        let accept = accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            accept.as_ref().map(<[u8; 28]>::as_slice),
            Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..])
        );
    }

    #[test]
    fn refuses_what_is_not_base64_of_16_bytes() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ==\n",
            " dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25jZQAA",
            "dGhlIHNhbXBsZSBub25jZQA=",
            "dGhlIHNhbXBsZSBub25j",
            "dGhl-HNhbXBsZSBub25jZQ==",
            "========================",
        ] {
            assert_eq!(accept_key(key.as_bytes()), None, "{key:?}");
        }
        assert_eq!(accept_key(&[0xFF; 24]), None);
    }
}
