//! `Sec-WebSocket-Extensions` of strangers: no panic, and an answer that keeps what was offered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proto::ws::deflate::{Wish, negotiate};

fuzz_target!(|data: (Vec<&str>, u8, bool, u8)| {
    let (lines, client_window_bits, client_alone, server_window_bits) = data;
    let wish = Wish { client_window_bits, client_alone, server_window_bits };
    let Some(agreed) = negotiate(lines.iter().copied(), wish) else { return };
    let offered = lines.iter().any(|line| line.to_ascii_lowercase().contains("permessage-deflate"));
    assert!(offered, "nothing is agreed on that was not offered");
    assert!((8..=15).contains(&agreed.client_window_bits));
    assert!((8..=15).contains(&agreed.server_window_bits));
    assert!(agreed.client_alone || !client_alone, "what is wished for is asked for");
    // The answer is an offer that would be taken as it is.
    let answer = agreed.to_string();
    let again = negotiate([answer.as_str()], Wish::default()).expect("the answer is sound");
    assert_eq!(again.server_window_bits, agreed.server_window_bits);
    assert_eq!(again.client_alone, agreed.client_alone);
});
