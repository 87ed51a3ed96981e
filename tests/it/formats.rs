//! The dialects beside JSON text: `weir.v1.bin` and `weir.v1.json+gzip`, what clients send in them,
//! and every way to send it wrongly.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::deflate::deflated;
use crate::harness::{Client, Gateway};
use crate::raw::{Raw, handshake_request, masked};

const NAME: &str = "Sec-WebSocket-Protocol";
const BIN: (&str, &str) = (NAME, "weir.v1.bin");
const GZIP: (&str, &str) = (NAME, "weir.v1.json+gzip");

/// A binary frame, whole.
const BINARY: u8 = 0x82;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push(u8::try_from(value & 0x7F).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A publish: flags, a channel by name or number, and all that stands behind it.
fn publish(flags: u8, channel: Result<&str, u64>, rest: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0x02, flags];
    match channel {
        Ok(name) => {
            out.push(0);
            varint(name.len() as u64, &mut out);
            out.extend_from_slice(name.as_bytes());
        }
        Err(alias) => varint(alias, &mut out),
    }
    out.extend(rest.concat());
    out
}

fn send(raw: &mut Raw, message: &[u8]) {
    raw.send(&masked(BINARY, message));
}

/// What is sent to a connection, and the code of the error that comes back.
fn errors(raw: &mut Raw, cases: &[(&str, Vec<u8>, &str)]) {
    for (what, message, code) in cases {
        send(raw, message);
        let error = raw.json();
        assert_eq!(error["type"], "error", "{what}: {error}");
        assert_eq!(error["code"], *code, "{what}: {error}");
    }
    assert_eq!(raw.ask(r#"{"type":"ping"}"#)["type"], "pong", "it goes on");
}

#[test]
fn the_first_subprotocol_that_is_spoken_is_taken() {
    let all = Gateway::start();
    let off = Gateway::configured("[compression]\ngzip = false\n");
    for (gateway, offered, wanted) in [
        (&all, "weir.v1.json", Some("weir.v1.json")),
        (&all, "weir.v1.bin, weir.v1.json", Some("weir.v1.bin")),
        (&all, "mqtt, weir.v1.json+gzip, weir.v1.bin", Some("weir.v1.json+gzip")),
        (&off, "weir.v1.json+gzip, weir.v1.json", Some("weir.v1.json")),
        (&off, "weir.v1.bin", Some("weir.v1.bin")),
    ] {
        let (_, answer) = Raw::offering(gateway, &[(NAME, offered)]);
        assert_eq!(answer.header(NAME), wanted, "{offered}");
    }
    let (_, answer) = Raw::offering(&all, &[]);
    assert_eq!(answer.header(NAME), None, "nothing was offered");
    for (gateway, offered, spoken) in [
        (&all, "mqtt", "weir.v1.json, weir.v1.json+gzip and weir.v1.bin"),
        (&off, "weir.v1.json+gzip", "weir.v1.json and weir.v1.bin"),
    ] {
        let mut raw = Raw::open(gateway.addr);
        raw.send(handshake_request(gateway.addr, &[(NAME, offered)]).as_bytes());
        let answer = raw.answer();
        assert_eq!(answer.error(400), "bad_request");
        assert!(answer.text().contains(spoken), "{}", answer.text());
    }
}

#[test]
fn binary_publishes_reach_json_clients() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let (mut raw, _) = Raw::offering(&gateway, &[BIN]);
    let text = r#"{"n": 9007199254740993}"#;
    send(&mut raw, &publish(0x02, Ok("room:1"), &[text.as_bytes()]));
    assert_eq!(reader.expect("event")["data"], json!({"n": 9_007_199_254_740_993_u64}));
    send(&mut raw, &publish(0x00, Ok("room:1"), &[b"\x00\x01\x02"]));
    let event = reader.expect("event");
    assert_eq!((&event["data_b64"], &event["data"]), (&json!("AAEC"), &Value::Null));
    let key = [&[0x84, 0x01, 4][..], b"cpu0"].concat();
    send(&mut raw, &publish(0x0F, Ok("room:1"), &[&key, &gzip(text.as_bytes())]));
    let published = raw.json();
    assert_eq!(published["type"], "published");
    assert_eq!((&published["id"], &published["offset"]), (&json!(132), &json!(3)));
    let event = reader.expect("event");
    assert_eq!(
        (&event["key"], &event["data"]["n"]),
        (&json!("cpu0"), &json!(9_007_199_254_740_993_u64))
    );
    // Commands are text on such a connection too; a publish may be.
    let subscribed = raw.ask(r#"{"type":"subscribe","channel":"room:1"}"#);
    let alias = subscribed["alias"].as_u64().unwrap();
    send(&mut raw, &publish(0x12, Err(alias), &[b"\"by alias, without echo\""]));
    assert_eq!(reader.expect("event")["data"], "by alias, without echo");
    assert_eq!(raw.ask(r#"{"type":"ping"}"#)["type"], "pong", "no echo was asked for");
    raw.send(&masked(0x81, br#"{"type":"publish","channel":"room:1","data":5,"echo":false}"#));
    assert_eq!(reader.expect("event")["data"], 5);
    assert_eq!(gateway.metric("weir_commands_total{type=\"publish\"}"), 5.0);
}

#[test]
fn a_bad_binary_publish_is_answered_and_changes_nothing() {
    let gateway = Gateway::start();
    let (mut raw, _) = Raw::offering(&gateway, &[BIN]);
    let alias = raw.ask(r#"{"type":"subscribe","channel":"room:1"}"#)["alias"].as_u64().unwrap();
    let good = gzip(b"{}");
    let mut damaged = good.clone();
    damaged[12] ^= 0x40;
    let on = |flags, rest: &[&[u8]]| publish(flags, Err(alias), rest);
    let cases = [
        ("nothing", vec![], "bad_request"),
        ("a kind alone", vec![0x02], "bad_request"),
        ("an event", vec![0x01, 0x02, 1, 1, 1, b'1'], "bad_request"),
        ("a reserved flag", on(0x22, &[b"1"]), "bad_request"),
        ("another", on(0x42, &[b"1"]), "bad_request"),
        ("the last of them", on(0x82, &[b"1"]), "bad_request"),
        ("a varint of 11 bytes", [&[0x02, 0x02][..], &[0x80; 10], &[0]].concat(), "bad_request"),
        ("a varint of 65 bits", [&[0x02, 0x02][..], &[0xFF; 9], &[2]].concat(), "bad_request"),
        ("a cut varint", vec![0x02, 0x02, 0x80], "bad_request"),
        (
            "an alias that was never given",
            publish(0x02, Err(alias + 1), &[b"1"]),
            "unknown_channel",
        ),
        ("a name longer than the frame", vec![0x02, 0x02, 0, 9, b'a'], "bad_request"),
        ("a bad name", publish(0x02, Ok("a b"), &[b"1"]), "bad_request"),
        ("a key longer than the frame", on(0x06, &[&[200, 1, b'k']]), "bad_request"),
        ("a key that is not UTF-8", on(0x06, &[&[1, 0xFF, b'1']]), "bad_request"),
        ("an id of 0", on(0x0A, &[&[0, b'1']]), "bad_request"),
        ("data that is not JSON", on(0x02, &[b"{"]), "bad_request"),
        ("no data", on(0x02, &[]), "bad_request"),
        ("gzip that is none", on(0x03, &[b"{}"]), "bad_request"),
        ("gzip that is damaged", on(0x03, &[&damaged]), "bad_request"),
        ("gzip that is cut", on(0x03, &[&good[..good.len() - 1]]), "bad_request"),
        ("gzip with a tail", on(0x03, &[&good, b"x"]), "bad_request"),
        ("two members", on(0x03, &[&good, &good]), "bad_request"),
        ("a bomb", on(0x01, &[&gzip(&vec![0; 1 << 20])]), "too_large"),
        ("a bomb that lies", on(0x01, &[&lying(&gzip(&vec![0; 1 << 20]))]), "bad_request"),
    ];
    errors(&mut raw, &cases);
    let head = raw.ask(r#"{"type":"subscribe","channel":"room:1"}"#);
    assert_eq!(head["offset"], 0, "nothing was published");
    raw.ask(r#"{"type":"unsubscribe","channel":"room:1"}"#);
    errors(&mut raw, &[("an alias of before", on(0x02, &[b"1"]), "unknown_channel")]);

    let off = Gateway::configured("[compression]\ngzip = false\n");
    let (mut raw, _) = Raw::offering(&off, &[BIN]);
    let message = publish(0x03, Ok("room:1"), &[&good]);
    errors(&mut raw, &[("gzip where it is off", message, "bad_request")]);
}

/// A stream that says it holds one byte.
fn lying(stream: &[u8]) -> Vec<u8> {
    [&stream[..stream.len() - 4], &1_u32.to_le_bytes()].concat()
}

#[test]
fn gzip_holds_json_text_where_it_was_agreed() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let (mut raw, _) = Raw::offering(&gateway, &[GZIP]);
    let text = r#"{"type":"publish","id":1,"channel":"room:1","data":[1,2]}"#;
    send(&mut raw, &gzip(format!("{text}\n{text}").as_bytes()));
    for offset in 1..=2 {
        assert_eq!(raw.json()["offset"], offset);
        assert_eq!(reader.expect("event")["data"], json!([1, 2]));
    }
    assert_eq!(raw.ask(r#"{"type":"ping"}"#)["type"], "pong", "text is taken as well");
    assert!(gateway.metric("weir_compressed_bytes_total{kind=\"in\"}") > 0.0);
    let stream = gzip(text.as_bytes());
    let mut damaged = stream.clone();
    damaged[20] ^= 0x40;
    errors(
        &mut raw,
        &[
            ("no gzip", text.as_bytes().to_vec(), "bad_request"),
            ("nothing", vec![], "bad_request"),
            ("a cut stream", stream[..stream.len() - 9].to_vec(), "bad_request"),
            ("a damaged stream", damaged, "bad_request"),
            ("a tail", [&stream[..], b"\0"].concat(), "bad_request"),
            ("two members", [&stream[..], &stream[..]].concat(), "bad_request"),
            ("bytes that are not UTF-8", gzip(b"\"\xFF\""), "bad_request"),
            ("text that is not JSON", gzip(b"{"), "bad_request"),
        ],
    );
    let bomb = gzip(&vec![b' '; 1 << 20]);
    errors(&mut raw, &[("a bomb that lies", lying(&bomb), "bad_request")]);
    let (mut raw, _) = Raw::offering(&gateway, &[GZIP]);
    send(&mut raw, &bomb);
    assert_eq!(raw.close_code(), Some(1009));
    let (mut raw, _) = Raw::offering(&gateway, &[GZIP]);
    send(&mut raw, &gzip(&vec![b' '; 65_537]));
    assert_eq!(raw.close_code(), Some(1009), "larger than a message may be");
    let mut json = Raw::websocket(&gateway);
    errors(&mut json, &[("a binary frame where JSON is spoken", stream, "bad_request")]);
}

/// Goal: a line of a batch that is wrong costs itself alone, in whatever form the batch comes, and
/// also where the lines around it, or the whole batch, are worked on beside the shard.
#[test]
fn a_bad_line_in_the_middle_of_a_batch_costs_only_itself() {
    let toml = "shards = 1\n[limits]\nmessage_bytes = \"4MiB\"\nqueue_bytes = \"32MiB\"\n";
    let gateway = Gateway::configured(toml);
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let deflate = ("Sec-WebSocket-Extensions", "permessage-deflate");
    for pad in [10, 400_000] {
        let data = format!("\"{}\"", "0123456789".repeat(pad / 10));
        let good =
            |id| format!(r#"{{"type":"publish","channel":"room:1","id":{id},"data":{data}}}"#);
        let bad = [r#"{"type":"publish","channel":"room:1","data":"#, &data, "}}"].concat();
        let batch = [&good(1)[..], &bad, "[1,", "", &good(2), "\u{1}", &good(3)].join("\n");
        for (what, offer, message) in [
            ("plain", vec![], masked(0x81, batch.as_bytes())),
            ("permessage-deflate", vec![deflate], masked(0xC1, &deflated(batch.as_bytes()))),
            ("gzip", vec![GZIP], masked(BINARY, &gzip(batch.as_bytes()))),
        ] {
            let (mut raw, _) = Raw::offering(&gateway, &offer);
            raw.send(&message);
            for wanted in ["1", "bad_request", "bad_request", "2", "bad_request", "3"] {
                let answer = raw.json();
                let found = answer["code"].as_str().map(str::to_owned);
                let found = found.unwrap_or_else(|| answer["id"].to_string());
                assert_eq!(found, wanted, "{what}, {pad} bytes: {answer}");
            }
            for _ in 0..3 {
                assert_eq!(
                    reader.expect("event")["data"].as_str().map(str::len),
                    Some(pad),
                    "{what}"
                );
            }
        }
    }
}

/// Large messages are worked on elsewhere; nothing overtakes them on their connection.
#[test]
fn large_messages_keep_their_place() {
    let toml = "shards = 1\n[limits]\nmessage_bytes = \"4MiB\"\nqueue_bytes = \"32MiB\"\n";
    let gateway = Gateway::configured(toml);
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let large = format!("\"{}\"", "0123456789abcdef".repeat(100_000));
    let small = r#"{"type":"publish","channel":"room:1","data":0,"id":2}"#;
    let text = format!(r#"{{"type":"publish","channel":"room:1","id":1,"data":{large}}}"#);
    for (what, offer, message) in [
        ("JSON", vec![], masked(0x81, text.as_bytes())),
        (
            "a batch",
            vec![],
            masked(0x81, format!("{text}\n{{\"type\":\"ping\",\"id\":1}}").as_bytes()),
        ),
        ("gzip", vec![GZIP], masked(BINARY, &gzip(text.as_bytes()))),
        (
            "binary",
            vec![BIN],
            masked(BINARY, &publish(0x0A, Ok("room:1"), &[&[1], large.as_bytes()])),
        ),
        (
            "binary, gzip",
            vec![BIN],
            masked(BINARY, &publish(0x0B, Ok("room:1"), &[&[1], &gzip(large.as_bytes())])),
        ),
        (
            "opaque",
            vec![BIN],
            masked(BINARY, &publish(0x08, Ok("room:1"), &[&[1], &vec![7; 900_000]])),
        ),
    ] {
        let (mut raw, _) = Raw::offering(&gateway, &offer);
        raw.send(&[message, masked(0x81, small.as_bytes())].concat());
        let answers: &[u64] = if what == "a batch" { &[1, 1, 2] } else { &[1, 2] };
        for id in answers {
            let answer = raw.json();
            assert_eq!(answer["id"], *id, "{what}: {answer}");
        }
        let event = reader.expect("event");
        let bytes = if what == "opaque" { 1_200_000 } else { large.len() - 2 };
        let data = event["data"].as_str().or(event["data_b64"].as_str()).unwrap();
        assert_eq!(data.len(), bytes, "{what}");
        assert_eq!(reader.expect("event")["data"], 0, "{what}");
    }
}
