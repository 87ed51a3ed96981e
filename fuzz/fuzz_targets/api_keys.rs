//! Files of API keys: no panic, and a fault names its line and shows nothing that may be a key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::http::ApiKeys;

/// The shortest key.
const KEY_BYTES_MIN: usize = 32;

fuzz_target!(|text: &str| {
    let Err((line, problem)) = ApiKeys::parse(text) else { return };
    assert!(line <= text.lines().count(), "the line is there");
    let words = text.split(|one: char| one.is_whitespace() || one == ':');
    for word in words.filter(|word| word.len() >= KEY_BYTES_MIN && word.is_ascii()) {
        assert!(!problem.contains(word), "{problem}");
    }
});
