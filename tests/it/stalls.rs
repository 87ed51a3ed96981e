//! One client that floods its shard, and a bystander on the same shard whose pings are timed: what
//! one asks for is done in pieces, and the sockets of the others are looked at in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;

use crate::harness::{Client, Gateway, now};
use crate::raw::{Raw, masked};

/// The most that a ping of a bystander may take. Some ten times what was seen in a debug build on
/// two busy cores; each of the floods here took longer before it was cut up, up to half a minute.
const WORST: Duration = Duration::from_secs(2);

/// Messages of 16 MiB; a client that takes its answers is never held for them.
const LARGE: &str = "shards = 1\n[limits]\nmessage_bytes = \"16MiB\"\nqueue_bytes = \"16MiB\"\n";

const PING: &str = r#"{"type":"ping"}"#;

/// A client that pings, and waits for each pong, until it is told to stop.
struct Bystander {
    stop: Arc<AtomicBool>,
    pings: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    fn watch(gateway: &Gateway) -> Self {
        let mut raw = Raw::websocket(gateway);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let pings = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) || took.is_empty() {
                let begun = now();
                raw.send(&masked(0x89, b"?"));
                assert_eq!(raw.frame(), Some((0x8A, b"?".to_vec())));
                took.push(begun.elapsed());
            }
            took
        });
        Self { stop, pings }
    }

    /// Fails where one of its pings took too long.
    fn fine(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.pings.join().unwrap();
        took.sort_unstable();
        let worst = *took.last().unwrap();
        eprintln!("{what}: {} pings, the worst took {worst:?}", took.len());
        assert!(worst < WORST, "{what}: of {} pings the worst took {worst:?}", took.len());
    }
}

/// Sends `bytes` from a thread of its own, as fast as they are taken.
fn sender(raw: &Raw, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut raw = Raw(raw.0.try_clone().unwrap());
    std::thread::spawn(move || raw.send(&bytes))
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 8 + 1_024);
    let mut state = Compress::new(Compression::best(), false);
    state.compress_vec(text, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
    out.truncate(out.len() - 4);
    out
}

/// Sends `frame` so many times, and reads as many pongs.
fn flood(raw: &mut Raw, frame: &[u8], times: usize, pongs: usize) {
    let sender = sender(raw, frame.repeat(times));
    for _ in 0..times * pongs {
        assert_eq!(raw.frame().unwrap().1, br#"{"type":"pong"}"#);
    }
    sender.join().unwrap();
}

#[test]
fn small_messages_that_grow_do_not_hold_the_others_up() {
    let small = format!(r#"{{"type":"ping","x":[{}1]}}"#, "1,".repeat(30_000));
    // White space around a ping: 15 KiB that inflate to 12 MiB.
    let large = format!("{}{PING}", " ".repeat(12 << 20));
    for (limits, text, times) in [("shards = 1\n", small, 500), (LARGE, large, 5)] {
        let gateway = Gateway::configured(limits);
        let offer = ("Sec-WebSocket-Extensions", "permessage-deflate");
        let (mut raw, _) = Raw::offering(&gateway, &[offer]);
        let frame = masked(0xC1, &deflated(text.as_bytes()));
        assert!(frame.len() < 16 * 1024);
        let bystander = Bystander::watch(&gateway);
        flood(&mut raw, &frame, times, 1);
        bystander.fine(&format!("{times} messages of {} bytes", text.len()));
    }
}

#[test]
fn a_batch_is_carried_out_in_pieces() {
    let gateway = Gateway::configured(LARGE);
    let mut raw = Raw::websocket(&gateway);
    let lines = 300_000;
    let batch = masked(0x81, format!("{PING}\n").repeat(lines).as_bytes());
    let bystander = Bystander::watch(&gateway);
    flood(&mut raw, &batch, 1, lines);
    bystander.fine("a batch of pings whose answers are read");
    let lines = r#"{"type":"publish","channel":"a","data":1}"#.to_owned() + "\n";
    let batch = masked(0x81, lines.repeat(300_000).as_bytes());
    let bystander = Bystander::watch(&gateway);
    raw.send(&[batch, masked(0x89, b"!")].concat());
    assert_eq!(raw.frame(), Some((0x8A, b"!".to_vec())));
    bystander.fine("a batch of publishes without ids");
    let blank = masked(0x81, format!("{PING}\n{}\n{PING}", "\n".repeat(2 << 20)).as_bytes());
    let bystander = Bystander::watch(&gateway);
    flood(&mut raw, &blank, 1, 2);
    bystander.fine("a batch of empty lines");
}

/// Whatever a large message asks for, and wherever it stands in its frame.
#[test]
fn a_large_message_is_read_beside_the_shard() {
    let gateway = Gateway::configured(LARGE);
    let mut raw = Raw::websocket(&gateway);
    let large = format!(r#"{{"type":"ping","x":[{}1]}}"#, "1,".repeat(3 << 20));
    let broken = large.replacen(r#""ping","#, "\"ping\",\n", 1);
    for (what, text, pongs) in [
        ("a ping with a field of 6 MiB", large.clone(), 1),
        ("the same in two lines", broken, 1),
        ("the same before another message", format!("{large}\n{PING}"), 2),
        ("the same behind another message", format!("{PING}\n{large}"), 2),
    ] {
        let bystander = Bystander::watch(&gateway);
        flood(&mut raw, &masked(0x81, text.as_bytes()), 2, pongs);
        bystander.fine(what);
    }
    let asked = format!(
        r#"{{"type":"subscribe","channel":"room:1","id":7,"slow":"latest","x":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    let answer = raw.ask(&asked);
    assert_eq!((&answer["type"], &answer["id"]), (&json!("subscribed"), &json!(7)), "{answer}");
    let left = asked.replace("subscribe", "unsubscribe").replace(r#""slow":"latest","#, "");
    let answer = raw.ask(&left);
    assert_eq!((&answer["type"], &answer["id"]), (&json!("unsubscribed"), &json!(7)), "{answer}");
    let answer = raw.ask(&asked.replace("subscribe", "history"));
    assert_eq!((&answer["code"], &answer["id"]), (&json!("not_enabled"), &json!(7)), "{answer}");
}

/// A gzip stream says how much it holds; one that lies is not believed, and not inflated.
#[test]
fn a_gzip_stream_that_lies_is_refused_where_it_shows() {
    let gateway = Gateway::configured(LARGE);
    let offer = ("Sec-WebSocket-Protocol", "weir.v1.bin");
    let mut raws: Vec<_> = (0..4).map(|_| Raw::offering(&gateway, &[offer]).0).collect();
    let mut stream = weir::proto::gzip::compress(&vec![0; 15 << 20], 9);
    let end = stream.len() - 4;
    stream[end..].copy_from_slice(&1_u32.to_le_bytes());
    let message = [&b"\x02\x01\x00\x06room:1"[..], &stream].concat();
    let bystander = Bystander::watch(&gateway);
    // As many as one connection may be wrong.
    let frames = masked(0x82, &message).repeat(90);
    let senders: Vec<_> = raws.iter().map(|raw| sender(raw, frames.clone())).collect();
    for raw in &mut raws {
        (0..90).for_each(|_| assert_eq!(raw.json()["code"], "bad_request"));
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    bystander.fine("streams that hold more than they say");
}

/// Nothing is written in the turns of a shard whose members wait for their time.
#[test]
fn a_shard_that_writes_nothing_still_looks_at_its_sockets() {
    let gateway = Gateway::configured("shards = 1\n");
    let mut throttled = Client::connect(&gateway);
    let asked = json!({"type": "subscribe", "channel": "room:1", "max_rate": 0.1});
    assert_eq!(throttled.ask(asked)["type"], "subscribed");
    let lines: Vec<_> = (0..900)
        .map(|n| format!(r#"{{"type":"publish","channel":"room:1","key":"{}","data":1}}"#, n % 300))
        .collect();
    let frame = masked(0x81, lines.join("\n").as_bytes());
    let bystander = Bystander::watch(&gateway);
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let mut raw = Raw::websocket(&gateway);
            let frame = frame.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    raw.send(&frame);
                }
                raw.send(&masked(0x89, b"!"));
                assert_eq!(raw.frame(), Some((0x8A, b"!".to_vec())));
            })
        })
        .collect();
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    bystander.fine("eight publishers and one throttled reader");
}

/// How the rest of a batch is cut does not depend on whether its client was held in the middle.
#[test]
fn the_rest_of_a_batch_is_lines_wherever_its_client_was_held() {
    let gateway = Gateway::start();
    for lines in [1, 2_700, 2_731, 2_732, 2_760] {
        let mut raw = Raw::narrow(&gateway);
        let first = "{\"type\":\"ping\",\"id\":1}\n".repeat(lines);
        let frame = masked(0x81, format!("{first}{{\"type\":\"ping\",\n\"id\":7}}").as_bytes());
        let sender = sender(&raw, frame);
        for _ in 0..lines {
            assert_eq!(raw.json(), json!({"type": "pong", "id": 1}));
        }
        for _ in 0..2 {
            assert_eq!(raw.json()["code"], "bad_request", "the two last lines behind {lines}");
        }
        sender.join().unwrap();
    }
}
