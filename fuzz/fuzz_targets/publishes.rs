//! Binary messages and gzip streams of strangers: no panic, nothing beyond the bound, and what is
//! taken comes back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::dialect::bin::{encode_publish, parse_publish};
use weir::proto::event::Payload;
use weir::proto::gzip;

const BYTES_MAX: usize = 4_096;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(plain) = gzip::decompress(bytes, BYTES_MAX) {
        assert!(plain.len() <= BYTES_MAX, "the bound holds");
        assert_eq!(gzip::decompress(&gzip::compress(&plain, 1), BYTES_MAX), Ok(plain));
    }
    let Ok(publish) = parse_publish(bytes) else { return };
    assert!(publish.payload.len() < bytes.len(), "the payload is a part of the message");
    let mut written = Vec::new();
    encode_publish(&publish, &mut written);
    assert_eq!(parse_publish(&written).as_ref(), Ok(&publish), "what we write is read the same");
    let Ok(payload) = publish.open(BYTES_MAX) else { return };
    assert!(!publish.gzip || payload.len() <= BYTES_MAX, "the bound holds");
    match payload {
        Payload::Json(text) => {
            assert!(publish.json);
            let read = serde_json::from_slice::<serde::de::IgnoredAny>(&text);
            assert!(read.is_ok(), "what is taken is JSON");
        }
        Payload::Opaque(opaque) => {
            assert!(!publish.json && (publish.gzip || *opaque == *publish.payload));
        }
    }
});
