//! Values of strangers: no panic, and what is taken is JSON that is taken again as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::dialect::json::value;
use weir::proto::event::Payload;

fuzz_target!(|text: &[u8]| {
    let _: Result<Payload, &str> = value::take(text);
    if let Ok(Payload::Json(kept)) = value::check(text) {
        let read = serde_json::from_slice::<serde::de::IgnoredAny>(&kept);
        assert!(read.is_ok(), "what is taken is JSON");
        assert_eq!(value::check(&kept), Ok(Payload::Json(kept.clone())));
    }
});
