//! The WebSocket decoder, with and without inflating: no panic, and the same result wherever the
//! stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::ws::ProtocolError;
use weir::proto::ws::deflate::{Inbound, Inflaters, Wish, negotiate};
use weir::proto::ws::message::{Decoder, Message};

const MESSAGE_BYTES_MAX: usize = 4_096;

/// What a stream brought, and how it broke.
type Outcome = (Vec<String>, Option<ProtocolError>);

/// What may be agreed: nothing, and messages that know of each other or not.
const OFFERS: [Option<&str>; 3] = [
    None,
    Some("permessage-deflate; client_max_window_bits=9"),
    Some("permessage-deflate; client_no_context_takeover"),
];

fn decoder(offer: Option<&str>) -> Decoder {
    let agreed = offer.and_then(|offer| negotiate([offer], Wish::default()));
    agreed.map_or_else(Decoder::new, |agreed| Decoder::inflating(Inbound::new(&agreed)))
}

fn decode(offer: Option<&str>, pieces: impl Iterator<Item = Vec<u8>>) -> Outcome {
    let (mut decoder, mut inflaters) = (decoder(offer), Inflaters::default());
    let mut seen = Vec::new();
    for mut piece in pieces {
        let mut input = piece.as_mut_slice();
        loop {
            match decoder.next_with(&mut input, MESSAGE_BYTES_MAX, &mut inflaters) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    if let Message::Text(text) = &message {
                        assert!(std::str::from_utf8(text).is_ok(), "text is UTF-8");
                    }
                    seen.push(format!("{message:?}"));
                    if matches!(message, Message::Close(_)) {
                        return (seen, None);
                    }
                }
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(input.is_empty(), "all of it was taken");
        // What is compressed is kept as it came until 16 KiB are there.
        let spool = if decoder.inflates() { 16 * 1024 } else { 0 };
        let most = MESSAGE_BYTES_MAX + 125 + 14 + spool;
        assert!(decoder.carried() <= most, "no more than the limit is held");
    }
    (seen, None)
}

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (size, bytes) = data;
    for offer in OFFERS {
        let whole = decode(offer, std::iter::once(bytes.clone()));
        let pieces = bytes.chunks(usize::from(size).max(1)).map(<[u8]>::to_vec);
        assert_eq!(decode(offer, pieces), whole, "cut every {size} bytes, {offer:?}");
    }
});
