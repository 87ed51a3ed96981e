//! permessage-deflate on `/ws`: what is agreed, compressed messages in, and every way to send them
//! wrongly.

use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};

use crate::beside::unharmed;
use crate::harness::{Client, Gateway};
use crate::raw::{Raw, handshake_request, masked};
use crate::threats::ATTACKED;
use crate::{snapshot, window};

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
pub(crate) fn deflated(bytes: &[u8]) -> Vec<u8> {
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

/// A connection to the echo, and what it has agreed on about compression.
fn echo(gateway: &Gateway, query: &str, offer: &str) -> (Raw, Option<String>) {
    let mut raw = Raw::open(gateway.addr);
    let request = handshake_request(gateway.addr, &[(OFFER.0, offer)]);
    raw.send(request.replacen("/ws", &format!("/echo{query}"), 1).as_bytes());
    let answer = raw.answer();
    assert_eq!(answer.status, 101, "{}", answer.head);
    let agreed = answer.header("sec-websocket-extensions").map(str::to_owned);
    (raw, agreed)
}

/// Goal: the suite that speaks to the echo sees what clients of `/ws` see: the same terms, but that
/// a client may compress its messages together, and messages compressed within the same windows.
#[test]
fn the_echo_agrees_as_the_gateway_does_and_compresses_as_it_does() {
    let gateway = Gateway::echoing("");
    let offers = [
        "permessage-deflate",
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; server_max_window_bits=11, permessage-deflate",
        "permessage-deflate; server_max_window_bits=12",
        "permessage-deflate; server_max_window_bits=14",
        "permessage-deflate; server_max_window_bits=15",
        "permessage-deflate; what",
    ];
    let mut rng = fastrand::Rng::with_seed(3);
    let text = window::twins(&mut rng, b"0123456789abcdef", 8_000);
    for offer in offers {
        let (_, answer) = Raw::offering(&gateway, &[(OFFER.0, offer)]);
        let ws = answer.header("sec-websocket-extensions").map(str::to_owned);
        assert_eq!(echo(&gateway, "?alone=1", offer).1, ws, "{offer}");
        let (mut raw, agreed) = echo(&gateway, "", offer);
        let together = |agreed: String| agreed.replacen("; client_no_context_takeover", "", 1);
        let asked_for = offer.contains("client_no_context_takeover");
        let wanted = if asked_for { ws } else { ws.map(together) };
        assert_eq!(agreed, wanted, "{offer}");

        let bits = agreed.map_or(0, |agreed| match agreed.split_once("server_max_window_bits=") {
            Some((_, bits)) => bits.parse().unwrap(),
            None => 15,
        });
        raw.send(&masked(0x81, text.as_bytes()));
        let (first, payload) = raw.frame().unwrap();
        assert_eq!(first, if bits < 12 { 0x81 } else { 0xC1 }, "{offer}");
        let inflated = || window::inflate(&payload, bits).unwrap();
        let read = if bits < 12 { payload.clone() } else { inflated() };
        assert!(read == text.as_bytes(), "{offer}");
        // All windows from 12 to 14 bits are one.
        if (12..15).contains(&bits) {
            assert!(window::inflate(&payload, 12).is_ok_and(|it| it == read), "{offer}");
        }
    }
    let off = Gateway::echoing("[compression]\ndeflate = false\n");
    assert_eq!(echo(&off, "", OFFER.1).1, None);
}

/// Goal: `/echo` reads what points back to messages before, and `?alone=1` does not: there the
/// client was asked not to.
#[test]
fn only_the_echo_without_alone_keeps_what_was_said() {
    let gateway = Gateway::echoing("");
    let mut state = Compress::new(Compression::default(), false);
    let mut message = || {
        let mut out = Vec::with_capacity(2_000);
        state.compress_vec(&b"0123456789".repeat(50), &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        masked(TEXT, &out)
    };
    let (first, second) = (message(), message());
    for (query, closed) in [("", None), ("?alone=1", Some(1007))] {
        let (mut raw, _) = echo(&gateway, query, OFFER.1);
        for frame in [&first, &second, &masked(0x88, &1000_u16.to_be_bytes())] {
            raw.send(frame);
        }
        assert_eq!(raw.frame().map(|(first, _)| first), Some(TEXT));
        if closed.is_none() {
            assert_eq!(raw.frame().map(|(first, _)| first), Some(TEXT));
        }
        assert_eq!(raw.close_code(), closed.or(Some(1000)), "{query}");
    }
}

/// Goal: telemetry with all the digits of its numbers takes a quarter of its bytes, as the level
/// stands when nobody sets it.
#[test]
fn a_snapshot_of_a_dashboard_shrinks_to_a_quarter() {
    let gateway = Gateway::configured("shards = 1\n[limits]\nmessage_bytes = \"128KiB\"\n");
    let (mut raw, _) = Raw::offering(&gateway, &[OFFER]);
    raw.ask(r#"{"type":"subscribe","id":1,"channel":"room:1"}"#);
    let data = String::from_utf8(snapshot::snapshot()).unwrap();
    assert!((60_000..65_536).contains(&data.len()), "{} bytes", data.len());
    let mut publisher = Client::connect(&gateway);
    publisher.send_text(&format!(r#"{{"type":"publish","channel":"room:1","data":{data}}}"#));
    let (first, payload) = raw.frame().unwrap();
    assert_eq!(first, TEXT);
    let event: Value = serde_json::from_slice(&window::inflate(&payload, 15).unwrap()).unwrap();
    assert_eq!(event["data"], serde_json::from_str::<Value>(&data).unwrap());
    assert!(payload.len() * 4 <= data.len(), "{} of {} bytes", payload.len(), data.len());
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
    // A last block, and behind it what begins no other.
    let mut last = Vec::with_capacity(good.len() + 64);
    let mut state = Compress::new(Compression::default(), false);
    state.compress_vec(publish("x").as_bytes(), &mut last, FlushCompress::Finish).unwrap();
    let tail = [&last[..], &[0xFF; 5]].concat();
    let (front, back) = good.split_at(good.len() / 2);
    let cases: [(&str, Vec<u8>, u16); 12] = [
        ("RSV1 on a pong", masked(0xCA, b""), 1002),
        (
            "RSV1 again on what goes on with a compressed message",
            [masked(0x41, front), masked(0xC0, back)].concat(),
            1002,
        ),
        ("bytes behind a last block", masked(TEXT, &tail), 1007),
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
    let ends = unharmed(&gateway, ATTACKED, || {
        std::thread::scope(|scope| {
            let rest = &rest;
            let ends = bombs.into_iter().map(|mut raw| {
                scope.spawn(move || {
                    rest.chunks(1_000).for_each(|bytes| raw.send(&masked(0x00, bytes)));
                    raw.close_code()
                })
            });
            let ends: Vec<_> = ends.collect();
            ends.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
        })
    });
    assert!(ends.into_iter().all(|code| code == Some(1009)));
    assert!(gateway.metric("weir_connections_closed_total{code=\"1009\"") > MANY as f64 - 0.5);
    let more = gateway.rss_peak().saturating_sub(before);
    // A message and an inflater each, and what the connections and the health checks take.
    assert!(more <= MANY * (64 + 64) * 1024 + (2 << 20), "{more} bytes more than before");
}
