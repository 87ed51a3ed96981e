//! Large events: in fragments, the same for everybody in a format, made away from the shards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway};
use crate::raw::{Raw, http, masked, sum};
use crate::spoken::{FORMS, PROTOCOL, Speaker, encodings};

const ROOMY: &str = "[limits]\nmessage_bytes = \"16MiB\"\nqueue_bytes = \"64MiB\"\n";

/// The size of a fragment, its header included.
const FRAGMENT: usize = 64 * 1024;

/// So many lines of telemetry, some 60 bytes each.
fn telemetry(lines: usize) -> Value {
    let line =
        |n| json!({"host": "eu-1", "cpu": n * 7 % 101, "memory_bytes": n * 7_919, "up": true});
    (0..lines).map(line).collect()
}

fn publish(data: &Value) -> String {
    format!(r#"{{"type":"publish","id":1,"channel":"room:1","data":{data}}}"#)
}

/// Goal: in every format a large event comes whole, in fragments, and is made once for the process.
/// Method: clients of each on two shards, and three ways to publish.
#[test]
fn a_large_event_comes_in_fragments_in_every_format_and_is_made_once() {
    let gateway = Gateway::configured(&format!("shards = 2\n{ROOMY}"));
    let mut speakers: Vec<Speaker> =
        (0..28).map(|nth| Speaker::connect(&gateway, &FORMS[nth % FORMS.len()])).collect();
    for speaker in &mut speakers {
        speaker.subscribe("room:1", "drop_oldest");
    }
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let data = telemetry(4_000);
    let answer = Raw::websocket(&gateway).ask(&publish(&data));
    assert_eq!(answer["type"], "published", "{answer}");
    let posted =
        gateway.post("/api/v1/publish", &json!({"channel": "room:1", "data": data}).to_string());
    assert_eq!(posted.status, 200, "{}", posted.text());
    let path = "/api/v1/channels/room:1/events?key=k";
    let bytes = vec![7; 300_000];
    assert_eq!(http(gateway.addr, "PUT", path, &[], &bytes).status, 200);
    for speaker in &mut speakers {
        let name = speaker.form.name;
        for offset in 1..=2 {
            let (event, length, compressed) = speaker.next();
            assert!(event["offset"] == offset && event["data"] == data, "{name}");
            assert_eq!(compressed, name != "json", "{name}");
            let fragments = length.div_ceil(FRAGMENT);
            assert!((fragments + 1..=fragments + 3).contains(&speaker.fragments), "{name}");
        }
        let (event, ..) = speaker.next();
        let text = event["data_b64"].as_str().unwrap();
        assert!(event["key"] == "k" && text.len() == 400_000 && text.ends_with("BwcHBwcH"));
    }
    for _ in 1..=2 {
        assert!(client.next()["data"] == data, "as somebody else's client joins it");
    }
    for form in &FORMS {
        assert_eq!(encodings(&gateway, form), 3.0, "{}", form.name);
    }
    assert_eq!(sum(&gateway.get("/metrics").text(), "weir_event_encodings_total"), 21.0);
}

/// Goal: what waits is told of, or shown, as of small events.
#[test]
fn a_large_event_that_was_missed_is_shown_in_fragments() {
    let gateway = Gateway::configured(
        "[limits]\nmessage_bytes = \"4MiB\"\nqueue_bytes = \"4MiB\"\n[[namespace]]\nname = \"room\"\nslow = \"latest\"\n",
    );
    let mut publisher = Client::connect(&gateway);
    let (mut reader, _) = Raw::offering(&gateway, &[(PROTOCOL, "weir.v1.json")]);
    reader.ask(r#"{"type":"subscribe","channel":"room:1"}"#);
    let data = telemetry(40_000);
    for _ in 0..8 {
        publisher.ask(json!({"type": "publish", "channel": "room:1", "data": data}));
    }
    let (mut seen, mut shown) = (0, false);
    while seen < 8 {
        let (_, text, _) = reader.message().unwrap();
        let message: Value = serde_json::from_slice(&text).unwrap();
        if message["type"] == "lagged" {
            assert_eq!(message["from"], seen + 1, "{message}");
            seen = message["to"].as_u64().unwrap();
            shown = true;
            let (_, event, fragments) = reader.message().unwrap();
            let event: Value = serde_json::from_slice(&event).unwrap();
            assert!(fragments > 30);
            assert!(event["snapshot"] == true && event["offset"] == seen && event["data"] == data);
        } else {
            seen += 1;
            assert!(message["offset"] == seen && message["data"] == data);
        }
    }
    assert!(shown, "its queue never overflowed: the test proves nothing");
}

/// Goal: a large message among others in one frame is as good as alone, and keeps its place.
#[test]
fn a_large_message_among_the_lines_of_a_frame_is_carried_out_in_its_turn() {
    let gateway = Gateway::configured(ROOMY);
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let data = telemetry(8_000);
    let ping = |id| json!({"type": "ping", "id": id}).to_string();
    // The last one is large, and no publish.
    let mut long = json!({"type": "ping", "id": 5});
    long["unknown"] = data.clone();
    let small = publish(&json!(7));
    let lines = [
        ping(2),
        small.clone(),
        publish(&data),
        "{".into(),
        ping(3),
        publish(&data),
        small,
        ping(4),
        long.to_string(),
    ];
    let mut publisher = Raw::websocket(&gateway);
    publisher.send(&masked(0x81, lines.join("\n").as_bytes()));
    let mut answers = Vec::new();
    for _ in &lines {
        let answer = publisher.json();
        answers.push(match answer["type"].as_str().unwrap() {
            "pong" => answer["id"].as_u64().unwrap(),
            "published" => 100 + answer["offset"].as_u64().unwrap(),
            "error" => 0,
            other => panic!("{other}: {answer}"),
        });
    }
    assert_eq!(answers, [2, 101, 102, 0, 3, 103, 104, 4, 5]);
    for wanted in [&json!(7), &data, &data, &json!(7)] {
        assert!(reader.next()["data"] == *wanted);
    }
}

/// Goal: a client that has only some of a large event is answered its pings meanwhile, and what it
/// asks behind the event.
#[test]
fn a_pong_comes_between_the_fragments_and_an_answer_behind_them() {
    let gateway = Gateway::configured(ROOMY);
    let mut reader = Raw::narrow(&gateway);
    reader.ask(r#"{"type":"subscribe","channel":"room:1"}"#);
    let data = telemetry(100_000);
    Client::connect(&gateway).send_text(&publish(&data));
    let (first, _) = reader.frame().unwrap();
    assert_eq!(first, 0x01, "text that goes on");
    reader.send(&masked(0x81, br#"{"type":"ping","id":7}"#));
    reader.send(&masked(0x89, b"are you there"));
    let (mut after, mut ponged) = (0, None);
    loop {
        let (first, payload) = reader.frame().unwrap();
        match first {
            0x8A => {
                assert_eq!(payload, b"are you there");
                ponged = Some(after);
            }
            0x00 => after += 1,
            0x80 => break,
            0x89 => {}
            other => panic!("{other:#x} between fragments"),
        }
    }
    let ponged = ponged.expect("a pong before the end");
    assert!(after > 50 && ponged < after, "after {ponged} of {after} fragments");
    assert_eq!(reader.json(), json!({"type": "pong", "id": 7}));
}

/// A text of two letters without an order: as many places to look at as a compressor may.
fn hard(letters: usize) -> String {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if state >> 31 == 0 { 'a' } else { 'b' }
    };
    (0..letters).map(|_| next()).collect()
}

/// Goal: small events of one shard do not wait while it has a large one for somebody who wants it
/// compressed. Method: the hardest compression of a large event, and how long others waited for
/// theirs meanwhile: where the shard did it, one of them waited for nearly all of it.
#[test]
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
fn small_events_go_on_beside_one_that_is_compressed_for_long() {
    let gateway = Gateway::configured(&format!("shards = 1\n{ROOMY}[compression]\nlevel = 9\n"));
    let mut large = Speaker::connect(&gateway, &FORMS[1]);
    large.subscribe("room:1", "drop_oldest");
    let mut small = Raw::websocket(&gateway);
    small.ask(r#"{"type":"subscribe","channel":"small"}"#);
    let mut publisher = Raw::websocket(&gateway);
    let message = masked(0x81, publish(&json!(hard(300_000))).as_bytes());
    let begun = Instant::now();
    let publisher = std::thread::spawn(move || {
        publisher.send(&message);
        publisher.json()
    });
    large.raw.0.set_nonblocking(true).unwrap();
    let (mut longest, mut rounds) = (Duration::ZERO, 0);
    while large.raw.0.peek(&mut [0]).is_err() {
        let asked = Instant::now();
        small.send(&masked(0x81, br#"{"type":"publish","channel":"small","data":1}"#));
        assert_eq!(small.json()["type"], "event");
        longest = longest.max(asked.elapsed());
        rounds += 1;
    }
    let all = begun.elapsed();
    large.raw.0.set_nonblocking(false).unwrap();
    assert!(large.next().2, "compressed");
    assert_eq!(publisher.join().unwrap()["type"], "published");
    assert!(longest < all / 2 && rounds > 10, "{longest:?} of {all:?}, {rounds} rounds");
}
