//! A text frame's messages and the commands in them: no panic, no state between messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::dialect::json::{Parser, messages};

fuzz_target!(|frame: &str| {
    let mut used = Parser::new();
    let mut bytes = 0;
    for message in messages(frame.as_bytes()) {
        bytes += message.len();
        assert!(!message.trim_ascii().is_empty(), "what is empty is skipped");
        let again = used.parse(message).map(|request| format!("{request:?}"));
        let fresh = Parser::new().parse(message).map(|request| format!("{request:?}"));
        assert_eq!(again, fresh, "a parser forgets the message before");
        if fresh.is_ok() {
            let value = serde_json::from_slice::<serde::de::IgnoredAny>(message);
            assert!(value.is_ok(), "a command is JSON");
        }
    }
    assert!(bytes <= frame.len(), "messages are parts of the frame");
});
