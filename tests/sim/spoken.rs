//! How clients speak, and what a frame is to one of them: decoded, it is the same for all.

use fastrand::Rng;
use serde_json::{Value, json};
use weir::proto::dialect::bin::{self, Kind};
use weir::proto::dialect::json;
use weir::proto::encoder::Frames;
use weir::proto::event::{Event, Payload};
use weir::proto::format::{Compression, Format};
use weir::proto::gzip;
use weir::proto::large::Bodies;
use weir::proto::ws::frame::{self, Opcode};

use crate::window;

/// What the shards of a world compress: nearly nothing, or nearly all.
pub(crate) fn compression(rng: &mut Rng) -> Compression {
    Compression { threshold: rng.usize(0..200), ..Compression::default() }
}

/// The bytes that a queue of a world holds; in some worlds large events, too.
pub(crate) fn queue_bytes(rng: &mut Rng) -> usize {
    if rng.u8(0..16) == 0 { rng.usize(LARGE..8 * LARGE) } else { rng.usize(200..4_000) }
}

/// What stands around a number in a world with queues of that size: nearly nothing, or white space
/// that repeats itself further back than a narrow window reaches.
fn space(rng: &mut Rng, queue_bytes: usize) -> String {
    if queue_bytes < LARGE || rng.u8(0..8) > 0 {
        return " ".repeat(rng.usize(0..3));
    }
    let distance = window::DISTANCES[rng.usize(0..3)];
    window::twins(rng, b" \t\r\n", distance)
}

/// Queues of so many bytes hold what [`space`] makes.
const LARGE: usize = 10_000;

/// What the next client speaks; every other speaks plain JSON. And whether it takes several events
/// in one text frame.
pub(crate) fn form(rng: &mut Rng) -> (Format, bool) {
    let other = Format::ALL[rng.usize(0..Format::ALL.len())];
    let format = if rng.bool() { Format::Json } else { other };
    (format, format.base() == Format::Json && rng.bool())
}

/// The length of the longest of an event's frames, without making one that the event keeps.
pub(crate) fn frame_bytes(event: &Event) -> usize {
    let mut text = Vec::new();
    json::encode_event(event, &mut text);
    let fragments = if event.is_large() { 64 + text.len() / 20 } else { 0 };
    frame::text(&text).len() + fragments
}

/// The first message in `bytes`, or close, when all its fragments are there: its opcode, whether it
/// is compressed, itself, and where it ends.
pub(crate) fn message(bytes: &[u8]) -> Option<(Opcode, bool, Vec<u8>, usize)> {
    let (opcode, deflated, first, mut end, mut fin) = frame(bytes)?;
    let mut message = first.to_vec();
    while !fin {
        let (next, marked, more, size, last) = frame(&bytes[end..])?;
        assert_eq!((next, marked), (Opcode::Continuation, false), "within a message");
        message.extend_from_slice(more);
        end += size;
        fin = last;
    }
    Some((opcode, deflated, message, end))
}

/// What the next event carries; some are large, for these worlds, and come in small fragments.
pub(crate) fn payload(number: u64, rng: &mut Rng, queue_bytes: usize) -> (Payload, Frames) {
    let large = rng.u8(..) < 24;
    let spaces = " ".repeat(if large { rng.usize(0..600) } else { 0 });
    let text = format!("{number}{spaces}{}", space(rng, queue_bytes));
    let payload = Payload::Json(text.into_bytes().into());
    let compression = Compression { threshold: 0, ..Compression::default() };
    let frames = if large {
        Bodies::new(&payload, &Format::ALL, compression, 0).into()
    } else {
        Frames::default()
    };
    (payload, frames)
}

/// The first frame in `bytes`, when it is there: its opcode, whether it is compressed, its payload,
/// where it ends, and whether its message ends there too.
fn frame(bytes: &[u8]) -> Option<(Opcode, bool, &[u8], usize, bool)> {
    let (head, rest) = bytes.split_at(bytes.len().min(10));
    let mut head = head.to_vec();
    let deflated = head.first().is_some_and(|first| first & 0x40 != 0);
    if let Some(first) = head.first_mut() {
        *first &= 0xBF;
    }
    let (header, size) = frame::parse_server(&head, 1 << 20).unwrap()?;
    let end = size + header.payload_len;
    let whole = end <= head.len() + rest.len();
    whole.then(|| (header.opcode, deflated, &bytes[size..end], end, header.fin))
}

/// The messages of a text frame: one, or events of one channel where the client takes several.
pub(crate) fn messages(text: &[u8], batch: bool) -> Vec<Value> {
    let lines = text.split(|byte| *byte == b'\n').map(serde_json::from_slice);
    let messages: Vec<Value> = lines.map(Result::unwrap).collect();
    let of = &messages[0]["channel"];
    let alike = messages.iter().all(|one| one["type"] == "event" && one["channel"] == *of);
    assert!(messages.len() == 1 || batch && alike, "{messages:?}");
    messages
}

/// A message out of permessage-deflate, by a client that knows no more than its own window.
pub(crate) fn inflate(message: &[u8], format: Format) -> Vec<u8> {
    let bits = match format {
        Format::BinDeflate | Format::JsonDeflate => 15,
        Format::BinDeflateNarrow | Format::JsonDeflateNarrow => 12,
        Format::Bin | Format::Json | Format::JsonGzip => panic!("{format:?} was not agreed on"),
    };
    window::inflate(message, bits).unwrap_or_else(|error| panic!("{format:?}: {error}"))
}

/// A binary message as JSON has it. `name` knows the channel of an alias.
pub(crate) fn binary(message: &[u8], format: Format, name: impl Fn(u64) -> String) -> Value {
    if format == Format::JsonGzip {
        return serde_json::from_slice(&gzip::decompress(message, 1 << 20).unwrap()).unwrap();
    }
    let spoken = matches!(format, Format::Bin | Format::BinDeflate | Format::BinDeflateNarrow);
    assert!(spoken, "{format:?} has no binary frames");
    let event = bin::parse_event(message).expect("an event");
    assert!(event.json);
    let data = match event.gzip {
        true => gzip::decompress(event.payload, 1 << 20).unwrap(),
        false => event.payload.to_vec(),
    };
    let data: Value = serde_json::from_slice(&data).unwrap();
    let snapshot = event.kind == Kind::Snapshot;
    let (channel, offset) = (name(event.alias), event.offset);
    json!({
        "type": "event",
        "channel": channel,
        "offset": offset,
        "key": event.key,
        "snapshot": snapshot,
        "data": data,
    })
}
