//! The WebSocket decoder: no panic, and the same result wherever the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::ws::ProtocolError;
use weir::proto::ws::message::{Decoder, Message};

const MESSAGE_BYTES_MAX: usize = 4_096;

/// What a stream brought, and how it broke.
type Outcome = (Vec<String>, Option<ProtocolError>);

fn decode(pieces: impl Iterator<Item = Vec<u8>>) -> Outcome {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for mut piece in pieces {
        let mut input = piece.as_mut_slice();
        loop {
            match decoder.next(&mut input, MESSAGE_BYTES_MAX) {
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
        assert!(
            decoder.carried() <= MESSAGE_BYTES_MAX + 125 + 14,
            "no more than the limit is held"
        );
    }
    (seen, None)
}

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (size, bytes) = data;
    let whole = decode(std::iter::once(bytes.clone()));
    let pieces = bytes.chunks(usize::from(size).max(1)).map(<[u8]>::to_vec);
    assert_eq!(decode(pieces), whole, "cut every {size} bytes");
});
