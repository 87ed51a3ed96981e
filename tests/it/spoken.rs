//! Events in the format of each client: what it is on the wire, that it is made once, and that
//! slow readers are told the truth in every one.

use std::collections::HashMap;
use std::io::Read;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway};
use crate::raw::{Raw, masked, sum};
use crate::window;

pub(crate) const PROTOCOL: &str = "Sec-WebSocket-Protocol";
const EXTENSIONS: &str = "Sec-WebSocket-Extensions";

/// A way to speak: the name of its metric, the handshake, and the window of its deflate.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    protocol: &'static str,
    offer: Option<&'static str>,
    bits: u8,
}

const fn form(
    name: &'static str,
    protocol: &'static str,
    offer: Option<&'static str>,
    bits: u8,
) -> Form {
    Form { name, protocol, offer, bits }
}

const WIDE: Option<&str> = Some("permessage-deflate");
const NARROW: Option<&str> = Some("permessage-deflate; server_max_window_bits=12");

pub(crate) const FORMS: [Form; 7] = [
    form("json", "weir.v1.json", None, 15),
    form("json_deflate", "weir.v1.json", WIDE, 15),
    form("json_deflate_narrow", "weir.v1.json", NARROW, 12),
    form("json_gzip", "weir.v1.json+gzip", None, 15),
    form("bin", "weir.v1.bin", None, 15),
    form("bin_deflate", "weir.v1.bin", WIDE, 15),
    form("bin_deflate_narrow", "weir.v1.bin", NARROW, 12),
];

/// A client that speaks one of them.
pub(crate) struct Speaker {
    pub(crate) raw: Raw,
    pub(crate) form: &'static Form,
    channels: HashMap<u64, String>,
    /// The last message came in a binary frame.
    binary: bool,
    /// In how many frames it came.
    pub(crate) fragments: usize,
}

/// Reads a varint off the front.
fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a varint");
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

impl Speaker {
    pub(crate) fn connect(gateway: &Gateway, form: &'static Form) -> Self {
        Self::with(form, |headers| Raw::offering(gateway, headers).0)
    }

    fn with(form: &'static Form, open: impl FnOnce(&[(&str, &str)]) -> Raw) -> Self {
        let offer = form.offer.map(|offer| (EXTENSIONS, offer));
        let headers: Vec<_> = offer.into_iter().chain([(PROTOCOL, form.protocol)]).collect();
        Self { raw: open(&headers), form, channels: HashMap::new(), binary: false, fragments: 0 }
    }

    pub(crate) fn subscribe(&mut self, channel: &str, slow: &str) {
        let command = json!({"type": "subscribe", "channel": channel, "slow": slow});
        let answer = self.raw.ask(&command.to_string());
        assert_eq!(answer["type"], "subscribed", "{answer}");
        self.channels.insert(answer["alias"].as_u64().unwrap(), channel.to_owned());
    }

    /// The next message as JSON has it, whatever it came as; its length on the wire; and whether
    /// it was compressed.
    pub(crate) fn next(&mut self) -> (Value, usize, bool) {
        let (first, payload, fragments) = self.raw.message().expect("a message");
        self.fragments = fragments;
        let length = payload.len();
        let deflated = first & 0x40 != 0;
        let mut message = payload;
        if deflated {
            message = window::inflate(&message, self.form.bits)
                .unwrap_or_else(|error| panic!("{}: {error}", self.form.name));
        }
        let binary = first & 0xF == 2;
        self.binary = binary;
        assert_eq!(first & 0xB0, 0x80, "a whole frame");
        if binary && self.form.protocol == "weir.v1.bin" {
            let (value, gzipped) = self.event(&message);
            return (value, length, deflated || gzipped);
        }
        if binary {
            assert_eq!(self.form.name, "json_gzip");
            message = gunzip(&message);
        }
        (serde_json::from_slice(&message).unwrap(), length, deflated || binary)
    }

    fn event(&self, mut message: &[u8]) -> (Value, bool) {
        let (kind, flags) = (message[0], message[1]);
        message = &message[2..];
        let alias = varint(&mut message);
        let (offset, ts) = (varint(&mut message), varint(&mut message));
        let mut value = json!({"type": "event", "offset": offset, "ts": ts});
        value["channel"] = json!(self.channels[&alias]);
        if flags & 0x04 != 0 {
            let length = usize::try_from(varint(&mut message)).unwrap();
            let (key, rest) = message.split_at(length);
            value["key"] = json!(std::str::from_utf8(key).unwrap());
            message = rest;
        }
        if kind == 0x03 {
            value["snapshot"] = json!(true);
        }
        let gzipped = flags & 0x01 != 0;
        let payload = if gzipped { gunzip(message) } else { message.to_vec() };
        if flags & 0x02 != 0 {
            value["data"] = serde_json::from_slice(&payload).unwrap();
        } else {
            value["data_b64"] = json!(BASE64_STANDARD.encode(payload));
        }
        (value, gzipped)
    }
}

pub(crate) fn encodings(gateway: &Gateway, form: &Form) -> f64 {
    gateway.metric(&format!("weir_event_encodings_total{{format=\"{}\"}}", form.name))
}

/// Goal: an event is encoded and compressed once for each format, however many subscribers and
/// shards it has. Method: 1,000 connections on two shards, and the gateway's own counters.
#[test]
fn an_event_to_a_thousand_subscribers_is_made_once_for_each_format() {
    let gateway = Gateway::configured("shards = 2\n");
    let mut speakers: Vec<Speaker> =
        (0..1_000).map(|nth| Speaker::connect(&gateway, &FORMS[nth % FORMS.len()])).collect();
    for speaker in &mut speakers {
        speaker.subscribe("room:1", "drop_oldest");
    }
    let line = |n| json!({"host": "eu-1", "cpu": n % 7, "memory_bytes": 1_024 * n, "up": true});
    let numbers: Vec<Value> = (0..100).map(line).collect();
    let body = json!({"channel": "room:1", "data": numbers}).to_string();
    let posted = gateway.post("/api/v1/publish", &body);
    assert_eq!(posted.status, 200, "{}", posted.text());
    let mut lengths = HashMap::new();
    for speaker in &mut speakers {
        let (event, length, compressed) = speaker.next();
        assert_eq!((&event["offset"], &event["data"]), (&json!(1), &json!(numbers)));
        assert_eq!(compressed, speaker.form.name != "json", "{}", speaker.form.name);
        let before = lengths.insert(speaker.form.name, length).unwrap_or(length);
        assert_eq!(before, length, "{}: the same for everybody", speaker.form.name);
    }
    for form in &FORMS {
        assert_eq!(encodings(&gateway, form), 1.0, "{}", form.name);
        assert!(form.name == "json" || lengths[form.name] * 2 < lengths["json"], "{lengths:?}");
    }
    // Three times the text, twice the binary message, and its payload.
    let plain = gateway.metric("weir_compressed_bytes_total{kind=\"out_plain\"}");
    let most = 6 * lengths["json"];
    assert!(plain < most as f64 && plain > 0.9 * most as f64, "{plain}, and JSON has {lengths:?}");
    assert_eq!(gateway.metric("weir_events_delivered_total"), 1_000.0);
    assert_eq!(sum(&gateway.get("/metrics").text(), "weir_event_encodings_total"), 7.0);
}

#[test]
fn what_is_small_comes_as_it_is_and_opaque_bytes_come_to_everybody() {
    let gateway = Gateway::start();
    let mut speakers: Vec<Speaker> =
        FORMS.iter().map(|form| Speaker::connect(&gateway, form)).collect();
    for speaker in &mut speakers {
        speaker.subscribe("room:1", "drop_oldest");
    }
    let (mut publisher, _) = Raw::offering(&gateway, &[(PROTOCOL, "weir.v1.bin")]);
    let large = vec![7; 3_000];
    for payload in [&b"\x00\x01\x02"[..], &large] {
        let message = [&[0x02, 0x04, 0, 6][..], b"room:1", &[1, b'k'], payload].concat();
        publisher.send(&masked(0x82, &message));
    }
    for speaker in &mut speakers {
        for (offset, data) in [(1, "AAEC"), (2, &BASE64_STANDARD.encode(&large))] {
            let (event, _, compressed) = speaker.next();
            let name = speaker.form.name;
            assert_eq!(compressed, offset == 2 && name != "json", "{name}");
            assert_eq!((&event["offset"], &event["key"]), (&json!(offset), &json!("k")), "{name}");
            assert_eq!((&event["data_b64"], &event["channel"]), (&json!(data), &json!("room:1")));
        }
    }
    for form in &FORMS {
        let small = if matches!(form.name, "json" | "bin") { 2.0 } else { 1.0 };
        assert_eq!(encodings(&gateway, form), small, "{}", form.name);
    }
}

/// Goal: nobody is pointed further back than the window that was agreed. Method: messages that
/// repeat themselves at distances around the narrow one, read by clients that forget.
#[test]
fn no_message_points_past_the_window_of_its_reader() {
    let gateway = Gateway::start();
    let mut speakers: Vec<Speaker> =
        FORMS.iter().map(|form| Speaker::connect(&gateway, form)).collect();
    for speaker in &mut speakers {
        speaker.subscribe("room:1", "drop_oldest");
    }
    let mut publisher = Client::connect(&gateway);
    let mut rng = fastrand::Rng::with_seed(3);
    for distance in window::DISTANCES {
        let data = json!(window::twins(&mut rng, b"0123456789abcdef", distance));
        publisher.publish("room:1", &data);
        for speaker in &mut speakers {
            let (event, _, compressed) = speaker.next();
            assert_eq!(event["data"], data, "{} at {distance}", speaker.form.name);
            assert_eq!(compressed, speaker.form.name != "json", "{}", speaker.form.name);
        }
    }
}

/// Goal: who has a channel by pattern alone knows no alias of it, and gets text.
#[test]
fn a_pattern_brings_text_where_binary_frames_are_spoken() {
    let gateway = Gateway::configured("[[namespace]]\nname = \"room\"\npatterns = true\n");
    let mut publisher = Client::connect(&gateway);
    for form in &FORMS {
        let mut speaker = Speaker::connect(&gateway, form);
        let answer = speaker.raw.ask(r#"{"type":"subscribe","channel":"room:*"}"#);
        assert_eq!(answer["pattern"], true, "{answer}");
        let data = json!("0123456789 ".repeat(300));
        publisher.publish("room:1", &data);
        let (event, _, compressed) = speaker.next();
        assert_eq!((&event["channel"], &event["data"]), (&json!("room:1"), &data));
        assert_eq!(compressed, !matches!(form.name, "json" | "bin"), "{}", form.name);
        assert_eq!(speaker.binary, form.name == "json_gzip", "{}", form.name);
        // By name as well, it comes once and as ever.
        speaker.subscribe("room:1", "drop_oldest");
        publisher.publish("room:1", &data);
        publisher.publish("room:2", &json!("next"));
        let (event, _, compressed) = speaker.next();
        assert_eq!((&event["channel"], &event["data"]), (&json!("room:1"), &data));
        assert_eq!(compressed, form.name != "json", "{}", form.name);
        let binary = form.protocol != "weir.v1.json";
        assert_eq!(speaker.binary, binary, "{}", form.name);
        assert_eq!(speaker.next().0["data"], "next");
        assert!(!speaker.binary, "{}", form.name);
    }
}

const ROUNDS: u64 = 90;
const BATCH: u64 = 40;
const EVENTS: u64 = ROUNDS * BATCH;

/// Publishes [`EVENTS`] events that do not shrink much, on `k0` to `k3`, each batch read by a
/// healthy client before the next is sent.
fn flood(gateway: &Gateway, channel: &str) {
    let mut healthy = Client::connect(gateway);
    healthy.subscribe(channel);
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..ROUNDS {
        let lines = (1..=BATCH).map(|n| {
            let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(1_000).collect();
            let data = json!({"n": round * BATCH + n, "pad": BASE64_STANDARD.encode(noise)});
            let key = format!("k{}", n % 4);
            json!({"type": "publish", "channel": channel, "key": key, "data": data}).to_string()
        });
        healthy.send_text(&lines.collect::<Vec<_>>().join("\n"));
        for n in 1..=BATCH {
            assert_eq!(healthy.expect("event")["offset"], round * BATCH + n);
        }
    }
}

/// Goal: of every offset a slow client gets the event, or is told in text that it does not, in
/// whichever format it reads; under `latest` it then sees the newest of each key.
#[test]
fn slow_readers_are_told_the_truth_in_every_format() {
    let gateway = Gateway::start();
    for slow in ["drop_oldest", "latest"] {
        let channel = format!("room:{slow}");
        let stalled = FORMS.iter().map(|form| {
            let mut one = Speaker::with(form, |headers| Raw::narrow_offering(&gateway, headers));
            one.subscribe(&channel, slow);
            one
        });
        let mut stalled: Vec<Speaker> = stalled.collect();
        flood(&gateway, &channel);
        for speaker in &mut stalled {
            let name = format!("{} under {slow}", speaker.form.name);
            let (mut told, mut lost, mut newest) = (0, 0, HashMap::new());
            while told < EVENTS || newest.len() < 4 || newest.values().any(|at| *at <= EVENTS - 4) {
                let (message, _, compressed) = speaker.next();
                let number = |field: &str| message[field].as_u64().unwrap();
                if message["type"] == "lagged" {
                    assert!(!compressed, "{name}: notices are text");
                    assert_eq!(number("from"), told + 1, "{name}");
                    assert_eq!(number("dropped"), number("to") - told, "{name}");
                    (told, lost) = (number("to"), lost + number("dropped"));
                    continue;
                }
                assert_eq!(message["data"]["n"], message["offset"], "{name}");
                let key = message["key"].as_str().unwrap().to_owned();
                newest.insert(key, number("offset"));
                if message["snapshot"] == true {
                    assert!(slow == "latest" && number("offset") <= told, "{name}");
                } else {
                    assert_eq!(number("offset"), told + 1, "{name}");
                    told += 1;
                }
            }
            assert!(lost > 0 && told == EVENTS, "{name}: it was slow, and {lost} are lost");
        }
    }
}
