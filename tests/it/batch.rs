//! `?batch=1`: several events of a channel in one text frame, and everything else as without.

use std::io::BufRead;
use std::process::Stdio;

use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Kid, wait_for, weir};
use crate::raw::{Raw, handshake_request};

/// A frame has at most that many bytes of text, where it has several events.
const FRAME_MAX: usize = 16 * 1024;

/// One shard: what one frame of a publisher brings is fanned out together.
const ONE_SHARD: &str = "shards = 1\n";

/// A query, the headers of a handshake, and words of the refusal where it is refused.
type Asking<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

/// So many publishes, as one frame has them; `more` is added to each.
fn publishes(count: u64, more: &str) -> String {
    let line = |n| format!(r#"{{"type":"publish","id":{n},"channel":"room:1","data":{n}{more}}}"#);
    (1..=count).map(line).collect::<Vec<_>>().join("\n")
}

/// The messages of a text frame. Where there are several, all are events of one channel.
fn lines(text: &str) -> Vec<Value> {
    let messages: Vec<Value> =
        text.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    if messages.len() > 1 {
        assert!(text.len() <= FRAME_MAX, "{} bytes", text.len());
        let of_room = |it: &Value| it["type"] == "event" && it["channel"] == "room:1";
        assert!(messages.iter().all(of_room), "{text}");
    }
    messages
}

/// Goal: who asks for what there is not is told so before the upgrade.
#[test]
fn a_batch_is_asked_for_with_1_and_not_in_binary() {
    let gateway = Gateway::start();
    let bin = ("Sec-WebSocket-Protocol", "weir.v1.bin");
    let gzip = ("Sec-WebSocket-Protocol", "weir.v1.json+gzip");
    let cases: [Asking<'_>; 8] = [
        ("?batch=2", &[], Some("batch is 1")),
        ("?batch=", &[], Some("batch is 1")),
        ("?batch=true", &[], Some("batch is 1")),
        ("?batch=1", &[bin], Some("weir.v1.bin")),
        ("?batch=0", &[bin], None),
        ("?batch=0", &[], None),
        ("?x=2&batch=1", &[], None),
        ("?batch=1", &[gzip], None),
    ];
    for (query, headers, refused) in cases {
        let mut raw = Raw::open(gateway.addr);
        let request = handshake_request(gateway.addr, headers);
        raw.send(request.replacen("/ws", &format!("/ws{query}"), 1).as_bytes());
        let answer = raw.answer();
        match refused {
            None => assert_eq!(answer.status, 101, "{query}: {}", answer.head),
            Some(words) => {
                assert_eq!(answer.error(400), "bad_request", "{query}");
                assert!(answer.text().contains(words), "{query}: {}", answer.text());
            }
        }
    }
}

/// Goal: events that leave together share frames of bounded size, in order and each once; who has
/// not asked gets each in a frame of its own.
#[test]
fn events_of_one_tick_share_frames() {
    let gateway = Gateway::configured(ONE_SHARD);
    let mut taker = Client::connect_with(gateway.addr, "?batch=1", None);
    let mut plain = Client::connect(&gateway);
    let mut publisher = Client::connect(&gateway);
    taker.subscribe("room:1");
    plain.subscribe("room:1");
    let (mut frames, mut largest, mut offset) = (0, 0, 0);
    for _ in 0..5 {
        publisher.send_text(&publishes(600, r#","key":"cpu0""#));
        (0..600).for_each(|_| drop(publisher.expect("published")));
        (1..=600).for_each(|n| assert_eq!(plain.expect("event")["offset"], offset + n));
        let until = offset + 600;
        while offset < until {
            let text = taker.next_text();
            frames += 1;
            largest = largest.max(text.len());
            for event in lines(&text) {
                offset += 1;
                assert_eq!(event["offset"], offset, "{event}");
                assert_eq!(
                    (&event["data"], &event["key"]),
                    (&json!((offset - 1) % 600 + 1), &json!("cpu0"))
                );
            }
        }
    }
    assert!(frames <= 300, "{frames} frames for 3,000 events");
    assert!(largest > FRAME_MAX / 2, "{largest} bytes: the bound was not reached");
    taker.expect_nothing();
}

/// Goal: answers come in the order of their commands and alone in their frames, own events that
/// are not wanted are not there, and what shares a frame with them is.
#[test]
fn answers_and_hidden_events_are_as_without() {
    let gateway = Gateway::configured(ONE_SHARD);
    let mut taker = Client::connect_with(gateway.addr, "?batch=1", None);
    let mut other = Client::connect_with(gateway.addr, "?batch=1", None);
    taker.subscribe("room:1");
    other.subscribe("room:1");
    let hidden = |n: u64| n.is_multiple_of(3);
    let line = |n: u64| {
        let echo = if hidden(n) { r#","echo":false"# } else { "" };
        format!(r#"{{"type":"publish","id":{n},"channel":"room:1","data":{n}{echo}}}"#)
    };
    taker.send_text(&(1..=300).map(line).collect::<Vec<_>>().join("\n"));
    let (mut answers, mut events, mut shared) = (0, Vec::new(), 0);
    while answers < 300 || events.len() < 200 {
        let messages = lines(&taker.next_text());
        shared += usize::from(messages.len() > 1);
        for message in messages {
            if message["type"] == "published" {
                answers += 1;
                assert_eq!(
                    (&message["id"], &message["offset"]),
                    (&json!(answers), &json!(answers))
                );
            } else {
                events.push(message["offset"].as_u64().unwrap());
            }
        }
    }
    assert_eq!(events, (1..=300).filter(|n| !hidden(*n)).collect::<Vec<_>>());
    taker.expect_nothing();
    let (mut seen, mut frames) = (0, 0);
    while seen < 300 {
        frames += 1;
        for message in lines(&other.next_text()) {
            seen += 1;
            assert_eq!(message["offset"], seen);
        }
    }
    assert!(frames < 100, "{frames}: nothing was joined, and the test proves nothing: {shared}");
}

/// Goal: what a stalled reader has lost is told to the event, whole frames or not.
#[test]
fn what_is_lost_is_told_exactly() {
    for slow in ["drop_oldest", "drop_newest", "latest"] {
        let gateway =
            Gateway::configured(&format!("{ONE_SHARD}[limits]\nqueue_bytes = \"64KiB\"\n"));
        let mut publisher = Client::connect(&gateway);
        let mut healthy = Client::connect(&gateway);
        healthy.subscribe("room:1");
        let mut stalled = Client::connect_with(gateway.addr, "?batch=1", Some(4096));
        let join = json!({"type": "subscribe", "channel": "room:1", "slow": slow});
        assert_eq!(stalled.ask(join)["type"], "subscribed");
        let pad = format!(r#","key":"k","x":"{}""#, "x".repeat(200));
        let (mut head, rounds) = (0, 120);
        for _ in 0..rounds {
            publisher.send_text(&publishes(200, &pad));
            for _ in 0..200 {
                head += 1;
                assert_eq!(healthy.expect("event")["offset"], head);
                publisher.expect("published");
            }
        }
        let (mut told, mut dropped, mut shared) = (0, 0, 0);
        while told < head {
            let messages = lines(&stalled.next_text());
            shared += usize::from(messages.len() > 1);
            for message in messages {
                if message["type"] == "lagged" {
                    assert_eq!(message["from"], told + 1, "{slow}: {message}");
                    let to = message["to"].as_u64().unwrap();
                    assert_eq!(message["dropped"], to - told, "{slow}: {message}");
                    dropped += to - told;
                    told = to;
                } else if message["snapshot"] != true {
                    told += 1;
                    assert_eq!(message["offset"], told, "{slow}: {message}");
                }
            }
        }
        assert!(shared > 0 && dropped > 0, "{slow}: {shared} frames shared, {dropped} dropped");
    }
}

/// Goal: under permessage-deflate a frame of several events is compressed as one.
#[test]
fn a_batch_is_compressed_as_a_whole() {
    let gateway = Gateway::configured(ONE_SHARD);
    let mut raw = Raw::open(gateway.addr);
    let offer = ("Sec-WebSocket-Extensions", "permessage-deflate");
    let request = handshake_request(gateway.addr, &[offer]);
    raw.send(request.replacen("/ws", "/ws?batch=1", 1).as_bytes());
    assert!(raw.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.json()["type"], "welcome");
    raw.ask(r#"{"type":"subscribe","channel":"room:1"}"#);
    let mut publisher = Client::connect(&gateway);
    publisher.send_text(&publishes(300, ""));
    let (mut offset, mut wire, mut plain, mut compressed) = (0, 0, 0, 0);
    while offset < 300 {
        let (first, mut message) = raw.frame().unwrap();
        wire += message.len();
        if first == 0xC1 {
            compressed += 1;
            message.extend([0, 0, 0xFF, 0xFF]);
            let mut out = Vec::with_capacity(1 << 16);
            let mut state = Decompress::new(false);
            state.decompress_vec(&message, &mut out, FlushDecompress::Sync).unwrap();
            message = out;
        } else {
            assert_eq!(first, 0x81);
        }
        plain += message.len();
        for event in lines(std::str::from_utf8(&message).unwrap()) {
            offset += 1;
            assert_eq!(event["offset"], offset);
        }
    }
    assert!(compressed > 0 && wire * 3 < plain, "{compressed} frames, {wire} for {plain} bytes");
}

/// Goal: `weir sub` prints each event of such a frame on a line of its own.
#[test]
fn sub_reads_what_its_address_asks_for() {
    let gateway = Gateway::configured(ONE_SHARD);
    let url = format!("{}?batch=1", gateway.url());
    let mut command = weir(&["sub", "room:1", "--format", "data", "--count", "200", "--url", &url]);
    let kid = Kid::start(command.stdout(Stdio::piped()));
    wait_for("its subscription", || (gateway.metric("weir_subscriptions") > 0.5).then_some(()));
    Client::connect(&gateway).send_text(&publishes(200, ""));
    let lines: Vec<String> = kid.stdout().lines().map(Result::unwrap).collect();
    assert_eq!(kid.ended().code(), Some(0));
    assert_eq!(lines, (1..=200).map(|n| n.to_string()).collect::<Vec<_>>());
}
