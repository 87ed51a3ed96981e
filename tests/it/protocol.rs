//! RFC 6455 as raw frames: what breaks it is closed with the code that fits, what is odd but
//! allowed is served, and nobody pays for a stranger's bytes with memory.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, now};
use crate::raw::{Raw, masked};

const PING: &[u8] = br#"{"type":"ping","id":1}"#;
const PONG: &[u8] = br#"{"type":"pong","id":1}"#;
const MIB: u64 = 1 << 20;

/// The close code that these bytes bring, written whole and then byte by byte.
fn closed_with(gateway: &Gateway, bytes: &[u8]) -> [Option<u16>; 2] {
    let mut whole = Raw::websocket(gateway);
    whole.send(bytes);
    let mut parts = Raw::websocket(gateway);
    for byte in bytes {
        parts.send(&[*byte]);
    }
    let begun = now();
    let codes = [whole.close_code(), parts.close_code()];
    // To the end of TCP, and a second for a machine that does other things as well.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    codes
}

#[test]
fn what_breaks_the_framing_is_closed_with_its_code() {
    let gateway = Gateway::start();
    let close = |payload: &[u8]| masked(0x88, payload);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked text", [&[0x81, 0x02][..], b"{}"].concat(), 1002),
        ("unmasked ping", vec![0x89, 0x00], 1002),
        ("RSV1", masked(0xC1, PING), 1002),
        ("RSV2", masked(0xA1, PING), 1002),
        ("RSV3", masked(0x91, PING), 1002),
        ("RSV1 on a ping", masked(0xC9, b""), 1002),
        ("opcode 3", masked(0x83, b""), 1002),
        ("opcode 7", masked(0x87, b"x"), 1002),
        ("opcode 11", masked(0x8B, b""), 1002),
        ("opcode 15", masked(0x8F, b"x"), 1002),
        ("a fragmented ping", masked(0x09, b""), 1002),
        ("a fragmented close", masked(0x08, b""), 1002),
        ("a ping of 126 bytes", masked(0x89, &[0; 126]), 1002),
        ("a pong of 65536 bytes", masked(0x8A, &[0; 65_536])[..14].to_vec(), 1002),
        ("a continuation of nothing", masked(0x80, PING), 1002),
        ("a text inside a text", [masked(0x01, b"{"), masked(0x81, b"}")].concat(), 1002),
        ("a binary inside a text", [masked(0x01, b"{"), masked(0x82, b"}")].concat(), 1002),
        ("a long form of a short length", vec![0x81, 0xFE, 0, 5, 1, 2, 3, 4], 1002),
        (
            "the longest form of a short one",
            vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4],
            1002,
        ),
        ("a close of one byte", close(&[3]), 1002),
        ("close code 0", close(&[0, 0]), 1002),
        ("close code 999", close(&999_u16.to_be_bytes()), 1002),
        ("close code 1004", close(&1004_u16.to_be_bytes()), 1002),
        ("close code 1005", close(&1005_u16.to_be_bytes()), 1002),
        ("close code 1006", close(&1006_u16.to_be_bytes()), 1002),
        ("close code 1015", close(&1015_u16.to_be_bytes()), 1002),
        ("close code 2999", close(&2999_u16.to_be_bytes()), 1002),
        ("close code 5000", close(&5000_u16.to_be_bytes()), 1002),
        ("a close reason that is not UTF-8", close(b"\x03\xe8\xff"), 1007),
        ("text that is not UTF-8", masked(0x81, b"{\"type\":\"\xff\"}"), 1007),
        ("a surrogate in UTF-8", masked(0x81, b"\xed\xa0\x80"), 1007),
        ("an overlong slash", masked(0x81, b"\xc0\xaf"), 1007),
        ("a cut character", masked(0x81, b"\xe2\x82"), 1007),
        (
            "a character cut at the last fragment",
            [masked(0x01, b"\xe2"), masked(0x80, b"\x82")].concat(),
            1007,
        ),
        ("bad bytes in the first of many fragments", masked(0x01, b"ab\xff"), 1007),
    ];
    for (what, bytes, code) in cases {
        assert_eq!(closed_with(&gateway, &bytes), [Some(code); 2], "{what}");
    }
    Client::connect(&gateway).expect_nothing();
    let broken = gateway.metric("weir_connections_closed_total{code=\"1002\"");
    assert!(broken >= 40.0, "{broken}");
}

#[test]
fn what_is_odd_but_allowed_is_served() {
    let gateway = Gateway::start();
    let mut raw = Raw::websocket(&gateway);
    let every_byte: Vec<u8> = PING
        .iter()
        .enumerate()
        .flat_map(|(at, byte)| {
            let last = at + 1 == PING.len();
            let first = if last { 0x80 } else { 0x00 } | u8::from(at == 0);
            [masked(first, &[*byte]), masked(0x00, b"")].concat()[..if last { 7 } else { 13 }]
                .to_vec()
        })
        .collect();
    let cases: [(&str, Vec<u8>); 5] = [
        ("one frame", masked(0x81, PING)),
        ("two fragments", [masked(0x01, &PING[..9]), masked(0x80, &PING[9..])].concat()),
        ("empty fragments", [masked(0x01, b""), masked(0x00, PING), masked(0x80, b"")].concat()),
        ("every byte a fragment, empty ones between", every_byte),
        ("an unasked pong before", [masked(0x8A, b"hm"), masked(0x81, PING)].concat()),
    ];
    for (what, bytes) in cases {
        raw.send(&bytes);
        assert_eq!(raw.frame().unwrap(), (0x81, PONG.to_vec()), "{what}");
        for byte in bytes {
            raw.send(&[byte]);
        }
        assert_eq!(raw.frame().unwrap(), (0x81, PONG.to_vec()), "{what}, byte by byte");
    }
    raw.send(
        &[masked(0x01, &PING[..5]), masked(0x89, b"in between"), masked(0x80, &PING[5..])].concat(),
    );
    assert_eq!(raw.frame().unwrap(), (0x8A, b"in between".to_vec()));
    assert_eq!(raw.frame().unwrap(), (0x81, PONG.to_vec()));
    raw.send(&masked(0x89, &[7; 125]));
    assert_eq!(raw.frame().unwrap(), (0x8A, vec![7; 125]));
}

#[test]
fn a_close_is_answered_and_ends_the_connection() {
    let gateway = Gateway::start();
    let mut subscriber = Client::connect(&gateway);
    subscriber.subscribe("late:1");
    for code in [1000_u16, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
        let mut raw = Raw::websocket(&gateway);
        let payload = [&code.to_be_bytes()[..], b"bye"].concat();
        // What follows a close is not read, neither as a command nor as a fault.
        let mut after = masked(0x81, br#"{"type":"publish","channel":"late:1","data":"late"}"#);
        after.extend([0xFF; 16]);
        raw.send(&[masked(0x88, &payload), after].concat());
        let answered = raw.close_code();
        assert!(answered == Some(code) || answered == Some(1000), "{code}: {answered:?}");
    }
    let mut raw = Raw::websocket(&gateway);
    raw.send(&masked(0x88, b""));
    assert!(matches!(raw.close_code(), Some(1000 | 1005)));
    let mut polite = Client::connect(&gateway);
    polite.publish("late:1", &json!("in time"));
    assert!(polite.close(1000).is_some());
    let event = subscriber.expect("event");
    assert_eq!((&event["data"], &event["offset"]), (&json!("in time"), &json!(1)));
    subscriber.expect_nothing();
}

#[test]
fn a_size_limit_holds_at_the_header() {
    let gateway = Gateway::start();
    let announce = |length: u64| {
        let mut raw = Raw::websocket(&gateway);
        raw.send(&[&[0x81, 0xFF][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat());
        raw
    };
    for _ in 0..100 {
        assert_eq!(announce(1 << 40).close_code(), Some(1009));
    }
    let rss = gateway.rss();
    for length in [65_537_u64, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1] {
        assert_eq!(announce(length).close_code(), Some(1009), "{length}");
    }
    assert!(
        matches!(announce(1 << 63).close_code(), Some(1002 | 1009)),
        "the highest bit is never set"
    );
    let full = format!(r#"{{"type":"ping","id":1,"pad":"{}"}}"#, "x".repeat(65_536 - 33));
    let full = &full[..full.len().min(65_536)];
    let mut raw = Raw::websocket(&gateway);
    raw.send(&masked(0x81, full.as_bytes()));
    assert!(raw.frame().unwrap().1.starts_with(b"{\"type\":\"pong\""), "{}", full.len());
    let grown = gateway.rss().saturating_sub(rss);
    assert!(grown < MIB, "grew by {grown}");
}

/// Announces the largest legal message three hundred times and sends none of them.
#[test]
fn promised_bytes_cost_nothing() {
    let gateway = Gateway::start();
    let promise = |_| {
        let mut raw = Raw::websocket(&gateway);
        raw.send(&[&[0x81, 0xFF][..], &65_536_u64.to_be_bytes(), &[1, 2, 3, 4]].concat());
        raw
    };
    drop((0..300).map(promise).collect::<Vec<_>>());
    gateway.wait_for_connections(0);
    let idle: Vec<_> = (0..300).map(|_| Raw::websocket(&gateway)).collect();
    let rss = gateway.rss();
    drop(idle);
    gateway.wait_for_connections(0);
    let held: Vec<_> = (0..300).map(promise).collect();
    Client::connect(&gateway).expect_nothing();
    let grown = gateway.rss().saturating_sub(rss);
    assert!(grown < MIB, "{} promises cost {grown} bytes", held.len());
}

/// Endless fragments of one byte, none, 4 KiB and 64 KiB, with pings between: cut at the limit.
#[test]
fn endless_fragments_end_at_the_limit() {
    let small = Gateway::configured("[limits]\nmessage_bytes = 65536\n");
    let large = "[limits]\nmessage_bytes = \"1MiB\"\nqueue_bytes = \"1MiB\"\n";
    let large = Gateway::configured(large);
    for (gateway, size, limit) in
        [(&small, 1_usize, 65_536), (&small, 4096, 65_536), (&large, 65_536, MIB)]
    {
        for _ in 0..20 {
            Raw::websocket(gateway).send(&masked(0x81, PING));
        }
        let rss = gateway.rss();
        let mut raw = Raw::websocket(gateway);
        let mut sent = 0_usize;
        let some = masked(0x00, &vec![b' '; size]).repeat((4096 / size).max(1));
        let some = [some, masked(0x89, b"p"), masked(0x00, b"")].concat();
        raw.send(&masked(0x01, b"{"));
        // Some megabytes fit into the kernel's buffers before the end is felt.
        while sent < 64 << 20 && raw.send_within(Duration::from_secs(10), &some).is_ok() {
            sent += size.max(4096);
        }
        assert!(sent < 64 << 20, "64 megabytes of fragments of {size} was taken");
        let grown = gateway.rss().saturating_sub(rss);
        // A message grows by doubling: for a moment it stands there twice.
        assert!(grown < 2 * limit + MIB, "fragments of {size}: grew by {grown}");
        // The close frame is lost when our own unread bytes reset the connection.
        assert!(matches!(raw_close(&mut raw), None | Some(1009)), "fragments of {size}");
    }
    // No reset here: exactly one byte too many, and nothing after it.
    let mut raw = Raw::websocket(&small);
    raw.send(&[masked(0x01, &[b' '; 65_000]), masked(0x00, &[b' '; 537])].concat());
    assert_eq!(raw.close_code(), Some(1009));
    assert!(small.metric("weir_connections_closed_total{code=\"1009\"") >= 3.0);
    assert!(large.metric("weir_connections_closed_total{code=\"1009\"") >= 1.0);
}

/// The close code, from a connection that may be reset at any byte.
fn raw_close(raw: &mut Raw) -> Option<u16> {
    while let Some((first, payload)) = raw.frame() {
        if first == 0x88 {
            return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        }
    }
    None
}

/// Two million pings, and not one pong read.
#[test]
fn pings_of_a_client_that_does_not_read_stay_bounded() {
    let gateway = Gateway::start();
    let mut bystander = Client::connect(&gateway);
    let mut warm = Raw::websocket(&gateway);
    warm.send(&masked(0x89, b"0123456789").repeat(1000));
    for _ in 0..1000 {
        assert_eq!(warm.frame().unwrap().0, 0x8A);
    }
    let rss = gateway.rss();
    let mut raw = Raw::websocket(&gateway);
    let pings = masked(0x89, b"0123456789").repeat(2000);
    let mut peak = 0;
    for _ in 0..1000 {
        let taken = raw.send_within(Duration::from_secs(2), &pings).is_ok();
        peak = peak.max(gateway.rss().saturating_sub(rss));
        if !taken {
            break; // No longer read, or ended: both are allowed.
        }
    }
    assert!(peak < MIB, "grew by {peak}");
    let asked = now();
    bystander.expect_nothing();
    assert!(asked.elapsed() < Duration::from_secs(5), "others notice nothing");
}

/// Publishes from a client that does not read its answers: it is not read any more.
#[test]
fn unread_answers_stop_the_reading() {
    let gateway = Gateway::start();
    let mut bystander = Client::connect(&gateway);
    drop(Raw::websocket(&gateway));
    let rss = gateway.rss();
    let mut raw = Raw::websocket(&gateway);
    let lines = "{\"type\":\"ping\",\"id\":123456789}\n".repeat(500);
    let frame = masked(0x81, lines.as_bytes());
    let mut stopped = false;
    for _ in 0..4000 {
        if raw.send_within(Duration::from_secs(2), &frame).is_err() {
            stopped = true;
            break;
        }
    }
    assert!(stopped, "sixty megabytes of commands were read from a client that reads nothing");
    let grown = gateway.rss().saturating_sub(rss);
    assert!(grown < 4 * MIB, "grew by {grown}");
    bystander.expect_nothing();
}

#[test]
fn a_silent_client_is_pinged_and_then_cut() {
    let gateway = Gateway::configured("[http]\nping = \"3s\"\nping_timeout = \"2500ms\"\n");
    // One that answers stays.
    let mut alive = Raw::websocket(&gateway);
    let alive = std::thread::spawn(move || {
        for _ in 0..2 {
            let (first, payload) = alive.frame().unwrap();
            assert_eq!(first, 0x89);
            alive.send(&masked(0x8A, &payload));
        }
        alive.send(&masked(0x81, PING));
        assert_eq!(alive.frame().unwrap(), (0x81, PONG.to_vec()));
    });
    let mut silent = Raw::websocket(&gateway);
    assert_eq!(silent.frame().unwrap().0, 0x89, "a ping comes");
    let (_, text) = silent.frame().unwrap();
    assert!(text.starts_with(br#"{"type":"disconnect","code":4002"#));
    assert_eq!(silent.close_code(), Some(4002));
    alive.join().unwrap();
}
