//! Tests of the outbox: what a reader makes of the bytes, whatever was queued and however little
//! the kernel takes at a time.

mod fragments;
mod random;
mod signals;

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use std::rc::Rc;

use crate::proto::name::ChannelName;

use super::*;
use crate::core::run::{Press, RunLimit};
use crate::proto::event::{Event, Payload};
use crate::proto::format::{Compression, Format};
use crate::proto::large::Bodies;
use crate::proto::name::ClientId;
use crate::proto::ws::frame::{self, Opcode};

const ANY: RunLimit = RunLimit { bytes: usize::MAX, frames: usize::MAX };

/// An event of the channel `c<alias>` whose data are a text of `size` digits.
pub(in crate::core) fn event(alias: u64, offset: u64, size: usize) -> Arc<Event> {
    hidden_event(alias, offset, size, None)
}

/// As [`event`], and one client does not want to see it.
pub(in crate::core) fn hidden_event(
    alias: u64,
    offset: u64,
    size: usize,
    hidden_from: Option<ClientId>,
) -> Arc<Event> {
    Arc::new(Event {
        channel: channel(alias),
        alias: Alias(alias),
        offset,
        ts_ms: 1_000,
        taken_ns: 0,
        key: None,
        from: None,
        hidden_from,
        payload: Payload::Json(format!("\"{}\"", "7".repeat(size)).into_bytes().into()),
        json_frame: OnceLock::new(),
        frames: crate::proto::encoder::Frames::default(),
    })
}

/// As [`event`], with that key.
pub(in crate::core) fn keyed_event(alias: u64, offset: u64, key: Option<&str>) -> Arc<Event> {
    let mut event = event(alias, offset, 9);
    if let Some(event) = Arc::get_mut(&mut event) {
        event.key = key.map(Box::from);
    }
    event
}

/// The name that goes with an alias.
pub(in crate::core) fn channel(alias: u64) -> ChannelName {
    format!("c{alias}").parse().unwrap()
}

/// The runs in a data lane, in order.
pub(in crate::core) fn runs(outbox: &Outbox) -> Vec<Rc<Run>> {
    let slices = outbox.data.iter().filter_map(|item| match item {
        Item::Slice(slice) => Some(Rc::clone(&slice.run)),
        Item::Frame(_)
        | Item::Gap(_)
        | Item::Gone
        | Item::Lag(_)
        | Item::Last(_)
        | Item::Past(_)
        | Item::Recall(_) => None,
    });
    slices.collect()
}

/// What is on the account for a data lane, but for runs in `seen`, where its own are put.
pub(in crate::core) fn weight(outbox: &Outbox, seen: &mut BTreeSet<usize>) -> usize {
    let items = outbox.data.iter().map(|item| match item {
        Item::Gap(gap) => gap.charge.bytes(),
        Item::Lag(lag) => lag.charge.bytes(),
        Item::Slice(slice) if seen.insert(Rc::as_ptr(&slice.run).addr()) => slice.run.footprint(),
        Item::Frame(_)
        | Item::Gone
        | Item::Last(_)
        | Item::Past(_)
        | Item::Recall(_)
        | Item::Slice(_) => 0,
    });
    items.sum()
}

/// Items that a data lane has room for.
pub(in crate::core) fn lane_room(outbox: &Outbox) -> usize {
    outbox.data.capacity()
}

fn slice(alias: u64, offsets: std::ops::Range<u64>, size: usize) -> Slice {
    let mut press = Press::default();
    let mut run = press.begin(&event(alias, offsets.start, size), 0);
    for offset in offsets.start + 1..offsets.end {
        assert!(press.append(&mut run, &event(alias, offset, size), ANY));
    }
    let to = run.len();
    Slice { run, from: 0, to }
}

/// As [`slice`], and events share a frame as far as `max` bytes of text go.
fn joined(alias: u64, offsets: std::ops::Range<u64>, size: usize, max: usize) -> Slice {
    let Slice { run, from, to } = slice(alias, offsets, size);
    Slice { run: Press::default().join(&run, max), from, to }
}

/// One large event of so many bytes, in small fragments.
fn large(alias: u64, offset: u64, size: usize) -> Slice {
    let mut event = event(alias, offset, size);
    if let Some(event) = Arc::get_mut(&mut event) {
        let compression = Compression { threshold: usize::MAX, ..Compression::default() };
        event.frames = Bodies::new(&event.payload, &[Format::Json], compression, 0).into();
    }
    let run = Press::default().begin(&event, 0);
    assert!(run.large().is_some() && run.len() == 1);
    Slice { run, from: 0, to: 1 }
}

/// One frame as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::core) enum Got {
    /// A ping, with the number in its payload.
    Control(u64),
    /// An event of that channel with that offset.
    Event(u64, u64),
    /// The newest event of its key, of that channel with that offset.
    Shown(u64, u64),
    /// The range `from..=to` of that channel, and how many of it were dropped.
    Lagged(u64, u64, u64, u64),
    /// A close frame.
    Last,
    /// A signal of that channel with that name, and its value; without one its end.
    Signal(u64, String, Option<u64>),
}

/// Puts a byte stream together into frames.
#[derive(Default)]
pub(in crate::core) struct Reader {
    bytes: Vec<u8>,
    /// The fragments of a message that goes on.
    begun: Option<(Opcode, Vec<u8>)>,
}

impl Reader {
    /// Whether a frame or a message is on its way.
    fn is_within(&self) -> bool {
        !self.bytes.is_empty() || self.begun.is_some()
    }

    /// The messages and control frames that `bytes` complete. Panics on anything that is no whole frame of ours.
    pub(in crate::core) fn feed(&mut self, bytes: &[u8]) -> Vec<Got> {
        self.frames(bytes).into_iter().flatten().collect()
    }

    /// As [`Reader::feed`], frame by frame: a text frame may have several messages.
    fn frames(&mut self, bytes: &[u8]) -> Vec<Vec<Got>> {
        self.bytes.extend_from_slice(bytes);
        let mut got = Vec::new();
        while let Some((header, size)) = frame::parse_server(&self.bytes, 1 << 20).unwrap() {
            let end = size + header.payload_len;
            let Some(payload) = self.bytes.get(size..end) else { break };
            match (header.opcode, header.fin, &mut self.begun) {
                (Opcode::Continuation, fin, Some((opcode, message))) => {
                    message.extend_from_slice(payload);
                    if fin {
                        got.push(Self::read(*opcode, message));
                        self.begun = None;
                    }
                }
                (Opcode::Text, false, begun @ None) => {
                    *begun = Some((Opcode::Text, payload.to_vec()));
                }
                (opcode, fin, begun) => {
                    let control = matches!(opcode, Opcode::Ping | Opcode::Pong | Opcode::Close);
                    assert!(fin && (control || begun.is_none()), "{opcode:?} in a message");
                    got.push(Self::read(opcode, payload));
                }
            }
            self.bytes.drain(..end);
        }
        got
    }

    fn read(opcode: Opcode, payload: &[u8]) -> Vec<Got> {
        let number = || std::str::from_utf8(payload).unwrap().parse().unwrap();
        match opcode {
            Opcode::Ping => vec![Got::Control(number())],
            Opcode::Close => vec![Got::Last],
            Opcode::Text => payload.split(|byte| *byte == b'\n').map(Self::message).collect(),
            Opcode::Binary | Opcode::Continuation | Opcode::Pong => {
                panic!("nobody sends {opcode:?}")
            }
        }
    }

    fn message(text: &[u8]) -> Got {
        let value: serde_json::Value = serde_json::from_slice(text).unwrap();
        let number = |name: &str| value[name].as_u64().unwrap();
        let name = value["channel"].as_str().unwrap();
        let alias = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        match value["type"].as_str() {
            Some("event") if value["snapshot"] == true => Got::Shown(alias, number("offset")),
            Some("event") => Got::Event(alias, number("offset")),
            Some("lagged") => Got::Lagged(alias, number("from"), number("to"), number("dropped")),
            Some("signal") => {
                let name = value["name"].as_str().unwrap().to_owned();
                Got::Signal(alias, name, value["data"].as_u64())
            }
            other => panic!("nobody sends {other:?}"),
        }
    }
}

#[derive(Default)]
pub(in crate::core) struct Sink(u64);

impl Delivered for Sink {
    fn delivered(&mut self, _: &Run, frames: u32) {
        self.0 += u64::from(frames);
    }

    fn shown(&mut self, _: &Frame) {}
}

/// Hands at most `room` bytes to the kernel, which is `wire`.
fn write(outbox: &mut Outbox, room: usize, sink: &mut impl Delivered) -> Vec<u8> {
    let sole = outbox.sole().map(|bytes| bytes.as_ptr_range());
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let used = outbox.gather(|| 2_000, &mut slices);
    let (first, more) = (slices[0].as_ptr_range(), used > 1);
    assert!(sole.is_none_or(|sole| sole == first && !more), "what waits alone is what is gathered");
    let mut wire = Vec::new();
    for slice in &slices[..used] {
        wire.extend_from_slice(&slice[..slice.len().min(room - wire.len())]);
    }
    outbox.advance(wire.len(), sink);
    wire
}

/// Everything that waits, as a client reads it.
pub(in crate::core) fn drain(outbox: &mut Outbox) -> Vec<Got> {
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    while !outbox.is_idle() {
        got.extend(reader.feed(&write(outbox, usize::MAX, &mut Sink::default())));
    }
    assert_eq!(reader.bytes, b"", "half a frame");
    got
}

const ROOMY: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 1_000 };

#[test]
fn a_full_lane_refuses_and_stays_as_it_was() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 3, ..ROOMY };
    assert!(outbox.push(slice(1, 1..3, 9), limit).is_ok());
    let before = (outbox.data_bytes(), outbox.data_events());
    assert!(matches!(outbox.push(slice(1, 3..5, 9), limit), Err(Full(back)) if back.events() == 2));
    assert_eq!((outbox.data_bytes(), outbox.data_events()), before);
    let bytes = OutboxLimit { bytes: before.0 + 1, ..ROOMY };
    assert!(outbox.push(slice(1, 3..4, 9), bytes).is_err());
    assert_eq!(drain(&mut outbox), [Got::Event(1, 1), Got::Event(1, 2)]);
    assert!(outbox.is_empty());
}

#[test]
fn the_oldest_of_the_same_channel_go_and_others_stay() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 6, ..ROOMY };
    outbox.push(slice(1, 1..4, 9), limit).unwrap();
    outbox.push(slice(2, 1..3, 9), limit).unwrap();
    assert_eq!(outbox.push_dropping_oldest(slice(1, 4..7, 9), limit), 2);
    assert_eq!(outbox.data_events(), 6);
    let expected = [
        Got::Lagged(1, 1, 2, 2),
        Got::Event(1, 3),
        Got::Event(2, 1),
        Got::Event(2, 2),
        Got::Event(1, 4),
        Got::Event(1, 5),
        Got::Event(1, 6),
    ];
    assert_eq!(drain(&mut outbox), expected);
}

#[test]
fn several_whole_runs_go_as_one_range() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 4, ..ROOMY };
    for offset in 1..5 {
        outbox.push(slice(1, offset..offset + 1, 9), limit).unwrap();
    }
    assert_eq!(outbox.push_dropping_oldest(slice(1, 5..8, 9), limit), 3);
    let kept = (4..8).map(|offset| Got::Event(1, offset));
    let expected: Vec<Got> = std::iter::once(Got::Lagged(1, 1, 3, 3)).chain(kept).collect();
    assert_eq!(drain(&mut outbox), expected);
}

#[test]
fn with_nothing_of_its_own_queued_the_new_event_is_the_lagged_one() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 2, ..ROOMY };
    outbox.push(slice(2, 1..3, 9), limit).unwrap();
    for offset in 1..5 {
        assert_eq!(outbox.push_dropping_oldest(slice(1, offset..offset + 1, 9), limit), 1);
    }
    let expected = [Got::Event(2, 1), Got::Event(2, 2), Got::Lagged(1, 1, 4, 4)];
    assert_eq!(drain(&mut outbox), expected);
    let small = OutboxLimit { bytes: 100, ..ROOMY };
    assert_eq!(outbox.push_dropping_oldest(slice(1, 5..6, 500), small), 1, "larger than the queue");
    assert_eq!(drain(&mut outbox), [Got::Lagged(1, 5, 5, 1)]);
}

#[test]
fn the_newest_go_into_one_gap_at_the_end_of_the_lane() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 4, ..ROOMY };
    outbox.push(slice(1, 1..3, 9), limit).unwrap();
    outbox.push(slice(2, 1..2, 9), limit).unwrap();
    assert_eq!(outbox.push_dropping_newest(slice(1, 3..6, 9), limit), 2, "one has room");
    assert_eq!(outbox.push_dropping_newest(slice(1, 6..8, 9), limit), 2);
    assert_eq!(outbox.push_dropping_newest(slice(2, 2..4, 9), limit), 2, "a gap of its own");
    let mut sink = Sink::default();
    let first = write(&mut outbox, slice(1, 1..2, 9).bytes(), &mut sink);
    assert_eq!(Reader::default().feed(&first), [Got::Event(1, 1)]);
    assert_eq!(outbox.push_dropping_newest(slice(1, 8..10, 9), limit), 1, "room again");
    assert_eq!(outbox.push_dropping_newest(slice(2, 4..5, 9), limit), 1);
    let expected = [
        Got::Event(1, 2),
        Got::Event(2, 1),
        Got::Event(1, 3),
        Got::Lagged(1, 4, 7, 4),
        Got::Lagged(2, 2, 4, 3),
        Got::Event(1, 8),
        Got::Lagged(1, 9, 9, 1),
    ];
    assert_eq!(drain(&mut outbox), expected);
    let small = OutboxLimit { bytes: 100, ..ROOMY };
    assert_eq!(outbox.push_dropping_newest(slice(1, 10..11, 500), small), 1, "larger than all");
    assert_eq!(drain(&mut outbox), [Got::Lagged(1, 10, 10, 1)]);
}

/// Something done to an outbox with half a frame written.
type Act = fn(&mut Outbox);

#[test]
fn a_frame_on_its_way_is_finished_whatever_happens() {
    let cases: [(&str, Act, &[Got]); 4] = [
        (
            "drop",
            |outbox| {
                let limit = OutboxLimit { events: 2, ..ROOMY };
                assert_eq!(outbox.push_dropping_oldest(slice(1, 4..5, 9), limit), 2);
            },
            &[Got::Event(1, 1), Got::Lagged(1, 2, 3, 2), Got::Event(1, 4)],
        ),
        ("purge", |outbox| assert_eq!(outbox.purge(Alias(1)), 2), &[Got::Event(1, 1)]),
        ("clear", |outbox| assert_eq!(outbox.clear_data(), 2), &[Got::Event(1, 1)]),
        (
            "control",
            |outbox| frame::control(Opcode::Ping, b"7", outbox.control()),
            &[Got::Event(1, 1), Got::Control(7), Got::Event(1, 2), Got::Event(1, 3)],
        ),
    ];
    for (name, act, expected) in cases {
        let mut outbox = Outbox::default();
        outbox.push(slice(1, 1..4, 9), ROOMY).unwrap();
        let (mut reader, mut sink) = (Reader::default(), Sink::default());
        assert_eq!(reader.feed(&write(&mut outbox, 5, &mut sink)), []);
        act(&mut outbox);
        let mut got = Vec::new();
        while !outbox.is_empty() {
            got.extend(reader.feed(&write(&mut outbox, 1, &mut sink)));
        }
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_notice_that_is_half_written_does_not_grow() {
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 1, ..ROOMY };
    outbox.push(slice(1, 1..2, 9), limit).unwrap();
    outbox.push_dropping_oldest(slice(1, 2..3, 9), limit);
    let (mut reader, mut sink) = (Reader::default(), Sink::default());
    assert_eq!(reader.feed(&write(&mut outbox, 3, &mut sink)), []);
    outbox.push_dropping_oldest(slice(1, 3..4, 9), limit);
    let mut got = Vec::new();
    while !outbox.is_empty() {
        got.extend(reader.feed(&write(&mut outbox, 4, &mut sink)));
    }
    assert_eq!(got, [Got::Lagged(1, 1, 1, 1), Got::Lagged(1, 2, 2, 1), Got::Event(1, 3)]);
    assert_eq!(sink.0, 1);
}

#[test]
fn the_last_bytes_go_out_behind_all_that_was_queued() {
    let mut outbox = Outbox::default();
    outbox.push(slice(1, 1..2, 9), ROOMY).unwrap();
    let mut close = Vec::new();
    frame::close(4001, "shutdown", &mut close);
    outbox.push_last(close.into_boxed_slice());
    frame::control(Opcode::Ping, b"1", outbox.control());
    assert_eq!(drain(&mut outbox), [Got::Control(1), Got::Event(1, 1), Got::Last]);
}

#[test]
fn a_notice_says_how_old_its_oldest_event_is_when_it_is_written() {
    let mut press = Press::default();
    let aged = |offset| {
        let mut event = event(1, offset, 9);
        let aged = Arc::get_mut(&mut event).unwrap();
        // Somebody has set the clock of the machine back meanwhile; the node's goes on.
        (aged.taken_ns, aged.ts_ms) = (offset * 1_000_000_000, 3_600_000 / offset);
        event
    };
    let mut run = press.begin(&aged(1), 0);
    assert!((2..5).all(|offset| press.append(&mut run, &aged(offset), ANY)));
    let mut outbox = Outbox::default();
    let limit = OutboxLimit { events: 2, ..ROOMY };
    // The first event of the run is another's: the oldest dropped one is the second.
    let slice = |from, to| Slice { run: Rc::clone(&run), from, to };
    outbox.push(slice(1, 3), limit).unwrap();
    outbox.push_dropping_oldest(slice(3, 4), limit);
    let age = |outbox: &mut Outbox, room, now_ms: u64| {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.gather(|| now_ms * 1_000_000, &mut slices);
        assert!(used > 0);
        let text = String::from_utf8_lossy(&slices[0]).into_owned();
        outbox.advance(room, &mut Sink::default());
        let (_, age) = text.split_once("\"age_ms\":").expect("a notice");
        age.trim_end_matches('}').parse::<u64>().expect("a number")
    };
    assert_eq!(age(&mut outbox, 0, 2_100), 100, "nothing of it is taken");
    assert_eq!(age(&mut outbox, 0, 2_100), 100);
    assert_eq!(age(&mut outbox, 3, 9_000), 7_000, "told again");
    assert_eq!(age(&mut outbox, 1, 9_999), 7_000, "a frame on its way stays as it is");
}
