//! permessage-deflate on `/ws`: what is agreed, compressed messages in, and every way to send them
//! wrongly.

use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;

use crate::harness::{Client, Gateway, now};
use crate::raw::{Raw, masked};
use crate::threats::PAUSE;

const OFFER: (&str, &str) = ("Sec-WebSocket-Extensions", "permessage-deflate");

/// A text frame, whole and compressed.
const TEXT: u8 = 0xC1;

/// What is always said: neither side remembers anything of a message.
const ALONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Deflate blocks that end with a flush.
fn flushed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut state = Compress::new(Compression::default(), false);
    state.compress_vec(bytes, &mut out, FlushCompress::Sync).unwrap();
    out
}

/// The payload of a compressed message.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flushed(bytes);
    assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
    out.truncate(out.len() - 4);
    out
}

fn publish(data: &str) -> String {
    format!(r#"{{"type":"publish","channel":"room:1","data":"{data}"}}"#)
}

#[test]
fn sound_offers_are_taken_and_nonsense_is_declined() {
    let gateway = Gateway::start();
    let agreed = |rest: &str| Some(format!("{ALONE}{rest}"));
    for (offer, wanted) in [
        ("permessage-deflate", agreed("")),
        ("permessage-deflate; client_max_window_bits", agreed("")),
        ("permessage-deflate; server_max_window_bits=12", agreed("; server_max_window_bits=12")),
        ("permessage-deflate; server_max_window_bits=8", agreed("; server_max_window_bits=8")),
        ("permessage-deflate; mode=7, permessage-deflate", agreed("")),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", agreed("")),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; what", None),
        ("permessage-deflate; \"", None),
        ("x-webkit-deflate-frame", None),
        (";;;,,,===", None),
    ] {
        let (mut raw, answer) = Raw::offering(&gateway, &[(OFFER.0, offer)]);
        assert_eq!(answer.header("sec-websocket-extensions").map(str::to_owned), wanted, "{offer}");
        assert_eq!(raw.ask(r#"{"type":"ping"}"#), json!({"type": "pong"}), "{offer}");
    }
    let off = Gateway::configured("[compression]\ndeflate = false\n");
    let (mut raw, answer) = Raw::offering(&off, &[OFFER]);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    raw.send(&masked(TEXT, &deflated(b"{}")));
    assert_eq!(raw.close_code(), Some(1002));
}

#[test]
fn compressed_messages_are_read_however_they_are_cut() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let (mut raw, _) = Raw::offering(&gateway, &[OFFER]);
    let text = publish(&"0123456789".repeat(300));
    let whole = deflated(text.as_bytes());
    let (first, rest) = whole.split_at(whole.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);
    raw.send(&masked(TEXT, &whole));
    // Fragments, with a ping between them, and a message that is not compressed.
    raw.send(&[masked(0x41, first), masked(0x89, b"!"), masked(0x00, second)].concat());
    assert_eq!(raw.frame(), Some((0x8A, b"!".to_vec())));
    raw.send(&[masked(0x80, third), masked(0x81, text.as_bytes())].concat());
    // Byte by byte.
    masked(TEXT, &whole).chunks(7).for_each(|bytes| raw.send(bytes));
    // Two in one piece; the second is a batch.
    let batch = [&text, "\n", &text].concat();
    let both = [masked(TEXT, &whole), masked(TEXT, &deflated(batch.as_bytes()))].concat();
    raw.send(&both);
    for n in 1..=7 {
        let event = reader.expect("event");
        assert_eq!(event["offset"], n);
        assert_eq!(event["data"], "0123456789".repeat(300));
    }
    let pong = raw.ask(r#"{"type":"ping"}"#);
    assert_eq!(pong["type"], "pong", "answers come as they are");
    let compressed = gateway.metric("weir_compressed_bytes_total{kind=\"in\"}");
    assert_eq!(compressed, (4 * whole.len() + deflated(batch.as_bytes()).len()) as f64);
    let plain = gateway.metric("weir_compressed_bytes_total{kind=\"in_plain\"}");
    assert_eq!(plain, 6.0 * text.len() as f64 + 1.0);
}

#[test]
fn a_message_that_is_compressed_wrongly_ends_its_connection() {
    let gateway = Gateway::start();
    let good = deflated(publish("x").as_bytes());
    let cut = &good[..good.len() / 2];
    let mut turned = good.clone();
    turned[0] ^= 0x06;
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("RSV1 on a continuation", [masked(0x01, b"{"), masked(0xC0, b"}")].concat(), 1002),
        ("RSV1 on a ping", masked(0xC9, b""), 1002),
        ("RSV1 on a close", masked(0xC8, b""), 1002),
        ("RSV2", masked(0xA1, b"{}"), 1002),
        ("bytes that are no deflate", masked(TEXT, &[0xFF; 40]), 1007),
        ("a block of a reserved type", masked(TEXT, &turned), 1007),
        ("a stream cut short", masked(TEXT, cut), 1007),
        ("text that is not UTF-8", masked(TEXT, &deflated(b"\"\xFF\"")), 1007),
        ("a header that is too long", masked(TEXT, &[0; 200_000]), 1009),
    ];
    for (what, bytes, code) in cases {
        let (mut raw, _) = Raw::offering(&gateway, &[OFFER]);
        raw.send(&bytes);
        assert_eq!(raw.close_code(), Some(code), "{what}");
    }
    let mut raw = Raw::websocket(&gateway);
    raw.send(&masked(TEXT, &good));
    assert_eq!(raw.close_code(), Some(1002), "RSV1 where nothing was negotiated");
}

/// One GiB of zeros in one MiB, against the 64 KiB that a message has: as one frame, which is too
/// long by its header, and as many, of which the first or one behind it grows too large.
#[test]
fn a_bomb_is_closed_with_1009_and_takes_no_memory() {
    let gateway = Gateway::configured("shards = 1\n");
    let mebibyte = flushed(&vec![0; 1 << 20]);
    let bomb = mebibyte.repeat(1 << 10);
    let frames = |bytes: usize| -> Vec<u8> {
        let first = masked(0x42, &bomb[..bytes]);
        let rest = bomb[bytes..].chunks(bytes).flat_map(|bytes| masked(0x00, bytes));
        first.into_iter().chain(rest).collect()
    };
    // What a connection and an inflater cost is there before.
    let (mut raw, _) = Raw::offering(&gateway, &[OFFER]);
    raw.send(&masked(TEXT, &deflated(publish(&"x".repeat(60_000)).as_bytes())));
    assert_eq!(raw.ask(r#"{"type":"ping"}"#)["type"], "pong");
    drop(raw);
    let before = gateway.rss();
    for bytes in [bomb.len(), 60_000, 1_000, 100] {
        let (mut raw, _) = Raw::offering(&gateway, &[OFFER]);
        let frames = frames(bytes);
        raw.send(&frames[..frames.len().min(200_000)]);
        assert_eq!(raw.close_code(), Some(1009), "frames of {bytes}");
    }
    let more = gateway.rss_peak().saturating_sub(before);
    assert!(more <= 1 << 20, "{more} bytes more than before");
}

/// Goal: forty that grow at the same time take what forty messages may, and hold nobody up.
#[test]
fn forty_bombs_together_take_what_forty_messages_may() {
    const MANY: u64 = 40;
    let gateway = Gateway::configured("shards = 1\n");
    let mut healthy = Client::connect(&gateway);
    // Noise first, so that what has come is no longer kept as it came.
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(20_000).collect();
    let bulk = flushed(&[&noise[..], &[0; 40_000]].concat());
    let rest = flushed(&vec![0; 1 << 20]).repeat(100);
    assert_eq!(gateway.get("/healthz").status, 200);
    let before = gateway.rss();
    let mut bombs: Vec<_> = (0..MANY).map(|_| Raw::offering(&gateway, &[OFFER]).0).collect();
    for raw in &mut bombs {
        raw.send(&[masked(0x42, &bulk), masked(0x89, b"!")].concat());
        assert_eq!(raw.frame(), Some((0x8A, b"!".to_vec())));
    }
    let inflated = gateway.metric("weir_compressed_bytes_total{kind=\"in_plain\"}");
    assert_eq!(inflated, (MANY * 60_000) as f64, "each has nearly all that it may");
    std::thread::scope(|scope| {
        let rest = &rest;
        let ends = bombs.into_iter().map(|mut raw| {
            scope.spawn(move || {
                rest.chunks(1_000).for_each(|bytes| raw.send(&masked(0x00, bytes)));
                raw.close_code()
            })
        });
        let ends: Vec<_> = ends.collect();
        let mut asked = 0;
        while asked < 20 || !ends.iter().all(|end| end.is_finished()) {
            let begun = now();
            assert_eq!(gateway.get("/healthz").status, 200);
            healthy.publish("room:1", &json!(asked));
            assert!(begun.elapsed() < PAUSE, "{:?}", begun.elapsed());
            asked += 1;
        }
        for end in ends {
            assert_eq!(end.join().unwrap(), Some(1009));
        }
    });
    let more = gateway.rss_peak().saturating_sub(before);
    // A message and an inflater each, and what the connections and the health checks take.
    assert!(more <= MANY * (64 + 64) * 1024 + (2 << 20), "{more} bytes more than before");
}
