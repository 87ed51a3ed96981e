//! Which parser serves which message: Weir's scanner, a simd-json tape, or serde_json's borrowed
//! raw values; and what it costs to write an event, beside serde_json.
//!
//! The rivals do less than `Parser`: they validate and find the fields, but check no field.

use std::hint::black_box;
use std::sync::{Arc, OnceLock};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use simd_json::{Buffers, Tape};
use weir::proto::dialect::json::{Parser, encode_event};
use weir::proto::event::{Author, Event, Payload};
use weir::proto::name::{Alias, ClientId};

/// A tape is filled, then the structural indexes give the ranges of the top-level fields.
struct TapeParser {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl TapeParser {
    fn new() -> Self {
        Self { scratch: Vec::new(), buffers: Buffers::new(1 << 17), tape: Tape::null() }
    }

    /// The sum of the lengths of the top-level values.
    fn parse(&mut self, text: &[u8]) -> Option<usize> {
        self.scratch.clear();
        self.scratch.extend_from_slice(text);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let filled = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        self.tape = tape.reset();
        filled.ok()?;
        let (mut depth, mut begin, mut lengths) = (0_usize, 0_usize, 0_usize);
        for &at in self.buffers.structural_indexes() {
            let at = usize::try_from(at).ok()?;
            match text.get(at) {
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => {
                    depth -= 1;
                    if depth == 0 {
                        lengths += at - begin;
                    }
                }
                Some(b':') if depth == 1 => begin = at + 1,
                Some(b',') if depth == 1 => lengths += at - begin,
                _ => {}
            }
        }
        Some(lengths)
    }
}

/// The borrowed message of serde_json.
#[derive(Deserialize)]
#[expect(dead_code, reason = "only read for its time")]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<u64>,
    channel: Option<&'a str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    key: Option<&'a str>,
    echo: Option<bool>,
}

/// About `bytes` of JSON as telemetry has it: names, numbers, short strings.
fn telemetry(bytes: usize) -> String {
    let mut data = "[".to_owned();
    let mut n = 0_u32;
    while data.len() + 64 < bytes {
        let comma = if n == 0 { "" } else { "," };
        data += &format!("{comma}{{\"name\":\"cpu{n}\",\"user\":{}.25,\"on\":true}}", n % 100);
        n += 1;
    }
    let pad = "x".repeat(bytes.saturating_sub(data.len() + 4));
    let comma = if n == 0 { "" } else { "," };
    data + comma + "\"" + &pad + "\"]"
}

fn messages() -> Vec<(&'static str, String)> {
    let publish = |data: &str| {
        format!(
            "{{\"type\":\"publish\",\"id\":7,\"channel\":\"telemetry:host-7\",\"data\":{data}}}"
        )
    };
    let prose = format!("\"{}\"", "All work and no play makes Jack a dull boy. ".repeat(1490));
    let numbers: Vec<String> =
        (0..8_000).map(|n: u32| (n * 12_345 % 9_999_991).to_string()).collect();
    vec![
        ("ping", r#"{"type":"ping","id":1}"#.to_owned()),
        ("subscribe", r#"{"type":"subscribe","id":1,"channel":"telemetry:host-7","since":{"epoch":"k3ZqAAAA","offset":57}}"#.to_owned()),
        ("publish 128 B", publish(&telemetry(128))),
        ("publish 1 KiB", publish(&telemetry(1 << 10))),
        ("publish 8 KiB", publish(&telemetry(8 << 10))),
        ("publish 64 KiB", publish(&telemetry(64 << 10))),
        ("publish 64 KiB prose", publish(&prose)),
        ("publish 64 KiB numbers", publish(&format!("[{}]", numbers.join(",")))),
    ]
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let (mut weir, mut tape) = (Parser::new(), TapeParser::new());
    for (name, text) in messages() {
        let text = text.as_bytes();
        assert!(weir.parse(text).is_ok() && tape.parse(text).is_some(), "{name}");
        group.throughput(Throughput::Bytes(u64::try_from(text.len()).unwrap_or(0)));
        group.bench_function(BenchmarkId::new("weir", name), |bencher| {
            bencher.iter(|| weir.parse(black_box(text)).is_ok());
        });
        group.bench_function(BenchmarkId::new("simd_json", name), |bencher| {
            bencher.iter(|| tape.parse(black_box(text)));
        });
        group.bench_function(BenchmarkId::new("serde_json", name), |bencher| {
            bencher.iter(|| serde_json::from_slice::<Message<'_>>(black_box(text)).is_ok());
        });
    }
    group.finish();
}

/// What serde_json is asked to write: the same fields in the same order.
#[derive(Serialize)]
struct EventText<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    channel: &'a str,
    offset: u64,
    ts: u64,
    key: &'a str,
    from: AuthorText<'a>,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct AuthorText<'a> {
    /// An id is formatted on both sides.
    client: Shown<'a, ClientId>,
    user: &'a str,
}

/// Anything as its `Display` has it.
struct Shown<'a, T>(&'a T);

impl<T: std::fmt::Display> Serialize for Shown<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

fn event(data: &str) -> Event {
    Event {
        channel: "telemetry:host-7".parse().expect("a good name"),
        alias: Alias(1),
        offset: 123_456,
        ts_ms: 1_732_153_200_123,
        taken_ns: 0,
        key: Some("cpu0".into()),
        from: Some(Arc::new(Author { client: ClientId(u64::MAX / 3), user: Some("u1".into()) })),
        hidden_from: None,
        payload: Payload::Json(data.as_bytes().into()),
        json_frame: OnceLock::new(),
        frames: weir::proto::encoder::Frames::default(),
    }
}

/// Writes what [`encode_event`] writes for [`event`].
fn serde_event(event: &Event, data: &RawValue, out: &mut Vec<u8>) {
    let author = event.from.as_deref().expect("an author");
    let text = EventText {
        kind: "event",
        channel: event.channel.as_str(),
        offset: event.offset,
        ts: event.ts_ms,
        key: event.key.as_deref().unwrap_or_default(),
        from: AuthorText {
            client: Shown(&author.client),
            user: author.user.as_deref().unwrap_or_default(),
        },
        data,
    };
    serde_json::to_writer(out, &text).expect("a vector takes everything");
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode_event");
    for (name, bytes) in [("128 B", 128), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)] {
        let data = telemetry(bytes);
        let event = event(&data);
        let raw: &RawValue = serde_json::from_str(&data).expect("JSON");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        encode_event(&event, &mut ours);
        serde_event(&event, raw, &mut theirs);
        assert_eq!(ours, theirs, "{name}: the same bytes");
        group.throughput(Throughput::Bytes(u64::try_from(ours.len()).unwrap_or(0)));
        group.bench_function(BenchmarkId::new("weir", name), |bencher| {
            bencher.iter(|| {
                ours.clear();
                encode_event(black_box(&event), &mut ours);
                black_box(ours.as_slice()).len()
            });
        });
        group.bench_function(BenchmarkId::new("serde_json", name), |bencher| {
            bencher.iter(|| {
                theirs.clear();
                serde_event(black_box(&event), black_box(raw), &mut theirs);
                black_box(theirs.as_slice()).len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, encode);
criterion_main!(benches);
