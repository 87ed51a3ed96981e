//! Random pushes, writes and purges: a reader gets every event, or is told of it, and in order.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::signals::news;
use super::*;
use crate::core::account::Account;
use crate::core::outbox::control::WRITTEN_BYTES;

/// Channels of the random tests.
const CHANNELS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Clear,
    Control(usize),
    /// One event in fragments.
    Large(usize, usize),
    Leave(usize),
    Purge(usize),
    /// With what a full lane does: whether the newest go.
    Push {
        channel: usize,
        frames: u64,
        size: usize,
        /// Events share a frame that has up to so many bytes of text.
        join: Option<usize>,
        newest: bool,
    },
    /// Another value of a signal of a channel, or its end.
    Signal {
        channel: usize,
        name: usize,
        end: bool,
    },
    Write(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Clear),
        3 => (1_usize..3).prop_map(Op::Control),
        1 => (40_usize..60).prop_map(Op::Control),
        4 => (0..CHANNELS, 1_usize..1_500).prop_map(|(channel, size)| Op::Large(channel, size)),
        1 => (0..CHANNELS).prop_map(Op::Leave),
        2 => (0..CHANNELS).prop_map(Op::Purge),
        16 => (0..CHANNELS, 0..6_usize, any::<bool>())
            .prop_map(|(channel, name, end)| Op::Signal { channel, name, end }),
        20 => push(),
        4 => Just(Op::Write(1)),
        8 => (1_usize..600).prop_map(Op::Write),
        2 => Just(Op::Write(usize::MAX)),
    ]
}

fn push() -> impl Strategy<Value = Op> {
    let size = prop_oneof![4 => 1_usize..220, 1 => 1_usize..1_000];
    let parts = (0..CHANNELS, 1_u64..7, size, prop::option::of(1_usize..1_200), any::<bool>());
    parts.prop_map(|(channel, frames, size, join, newest)| Op::Push {
        channel,
        frames,
        size,
        join,
        newest,
    })
}

/// What is due on one channel.
#[derive(Debug, Clone, Default)]
struct Due {
    /// The offsets up to here were delivered or told as lost.
    told: u64,
    /// The last offset queued.
    queued: u64,
    /// Up to there the queue was purged, each time: one more frame of that may come.
    purged: Vec<u64>,
}

impl Due {
    fn told(&mut self, from: u64, to: u64) {
        assert!(from <= to && to <= self.queued, "{from}..={to} of {self:?}");
        // It follows what was told, or what a purge took.
        assert!(from == self.told + 1 || self.purged.contains(&(from - 1)), "{from} of {self:?}");
        self.told = self.purged.last().map_or(to, |purged| to.max(*purged));
        self.purged.clear();
    }
}

/// The outbox under test, its reader, and what the reader has a right to.
#[derive(Default)]
struct Model {
    outbox: Outbox,
    reader: Reader,
    due: [Due; CHANNELS],
    controls: VecDeque<u64>,
    control_next: u64,
    /// One data frame was on its way when the oldest waiting control frame was queued.
    passing: bool,
    /// Events: handed to the kernel as counted, read, said to be dropped, told as dropped.
    sink: Sink,
    read: u64,
    dropped: u64,
    lagged: u64,
    purges: u64,
    signals: Signals,
}

/// What is shown, and what the reader sees of it.
#[derive(Default)]
struct Signals {
    account: Account,
    /// By channel and name.
    shown: BTreeMap<(u64, String), u64>,
    seen: BTreeMap<(u64, String), u64>,
    /// The last value of all.
    last: u64,
    /// The last value when a channel was left.
    left: [u64; CHANNELS],
}

impl Signals {
    fn put(&mut self, (channel, name, end): (usize, usize, bool)) -> Option<News> {
        let key = (channel as u64, format!("n{name}"));
        self.last += 1;
        let (begins, data) = if end {
            self.shown.remove(&key)?;
            (false, None)
        } else {
            (self.shown.insert(key.clone(), self.last).is_none(), Some(self.last))
        };
        Some(news((key.0, &key.1), data, begins, &self.account))
    }

    fn read(&mut self, (channel, name): (u64, String), value: Option<u64>) {
        match value {
            Some(value) if value > self.left[usize::try_from(channel).unwrap()] => {
                let before = self.seen.insert((channel, name), value);
                assert!(before < Some(value), "a newer value is not overtaken");
            }
            Some(_) => {}
            None => drop(self.seen.remove(&(channel, name))),
        }
    }

    fn leave(&mut self, channel: usize) {
        self.shown.retain(|(other, _), _| *other != channel as u64);
        self.seen.retain(|(other, _), _| *other != channel as u64);
        self.left[channel] = self.last;
    }
}

impl Model {
    fn write(&mut self, room: usize) {
        let wire = write(&mut self.outbox, room, &mut self.sink);
        for frame in self.reader.frames(&wire) {
            if let [Got::Signal(channel, name, value)] = &frame[..] {
                let first = std::mem::take(&mut self.passing);
                assert!(self.controls.is_empty() || first, "control frames go ahead of signals");
                self.signals.read((*channel, name.clone()), *value);
                continue;
            }
            if let [Got::Control(number)] = frame[..] {
                assert_eq!(Some(number), self.controls.pop_front(), "every control frame in order");
                self.passing = false;
                continue;
            }
            let first = std::mem::take(&mut self.passing);
            assert!(self.controls.is_empty() || first, "control frames go ahead");
            self.read(frame);
        }
    }

    fn read(&mut self, frame: Vec<Got>) {
        match frame[..] {
            [Got::Event(channel, first), ..] => {
                let events = (first..).map(|offset| Got::Event(channel, offset));
                assert!(events.zip(&frame).all(|(event, got)| event == *got), "{frame:?}");
                self.read += frame.len() as u64;
                let last = first + frame.len() as u64 - 1;
                self.due[usize::try_from(channel).unwrap()].told(first, last);
            }
            [Got::Lagged(channel, from, to, dropped)] => {
                assert_eq!(dropped, to - from + 1, "nothing was hidden");
                self.lagged += dropped;
                self.due[usize::try_from(channel).unwrap()].told(from, to);
            }
            _ => panic!("not queued: {frame:?}"),
        }
    }

    fn apply(&mut self, op: &Op, limit: OutboxLimit) {
        match *op {
            Op::Clear => {
                self.outbox.clear_data();
                (0..CHANNELS).for_each(|channel| self.forget(channel));
                (0..CHANNELS).for_each(|channel| self.signals.leave(channel));
            }
            Op::Control(frames) => self.push_control(frames),
            Op::Purge(channel) => {
                self.outbox.purge(Alias(channel as u64));
                self.forget(channel);
            }
            Op::Push { channel, frames, size, join, newest } => {
                let due = &mut self.due[channel];
                let offsets = due.queued + 1..due.queued + 1 + frames;
                due.queued += frames;
                let slice = match join {
                    None => slice(channel as u64, offsets, size),
                    Some(max) => joined(channel as u64, offsets, size, max),
                };
                self.push(slice, limit, newest);
            }
            Op::Large(channel, size) => {
                let due = &mut self.due[channel];
                due.queued += 1;
                let slice = large(channel as u64, due.queued, size);
                self.push(slice, limit, size % 2 == 0);
            }
            Op::Leave(channel) => {
                self.outbox.purge_signals(Alias(channel as u64));
                self.signals.leave(channel);
            }
            Op::Signal { channel, name, end } => {
                if let Some(news) = self.signals.put((channel, name, end))
                    && self.outbox.put_signal(&news, limit) == Fits::No
                {
                    // It is closed for that.
                    (0..CHANNELS).for_each(|all| self.apply(&Op::Leave(all), limit));
                }
            }
            Op::Write(room) => self.write(room),
        }
        assert!(self.outbox.signal_bytes() <= limit.bytes && self.outbox.signals() <= limit.events);
        let (waiting, kept) = (self.outbox.control_bytes(), self.outbox.control.len());
        assert!(kept < waiting + waiting.max(WRITTEN_BYTES), "{kept} for {waiting}");
        self.outbox.check();
        assert!(self.outbox.data_bytes() <= limit.bytes, "bytes");
        assert!(self.outbox.data_events() <= limit.events, "events");
    }

    fn push(&mut self, slice: Slice, limit: OutboxLimit, newest: bool) {
        if self.outbox.push(slice.clone(), limit).is_err() {
            self.dropped += match newest {
                true => self.outbox.push_dropping_newest(slice, limit),
                false => self.outbox.push_dropping_oldest(slice, limit),
            };
        }
    }

    fn push_control(&mut self, frames: usize) {
        if self.controls.is_empty() {
            self.passing = self.reader.is_within();
        }
        for _ in 0..frames {
            let text = format!("{:0>100}", self.control_next);
            frame::control(Opcode::Ping, text.as_bytes(), self.outbox.control());
            self.controls.push_back(self.control_next);
            self.control_next += 1;
        }
    }

    fn forget(&mut self, channel: usize) {
        self.purges += 1;
        let queued = self.due[channel].queued;
        self.due[channel].purged.push(queued);
    }

    fn finish(mut self, room: usize) {
        while !self.outbox.is_empty() {
            self.write(room);
        }
        assert!(!self.reader.is_within(), "the last message is whole");
        assert_eq!(self.controls, [0_u64; 0], "no control frame is lost");
        for due in self.due {
            assert_eq!(
                due.purged.last().copied().unwrap_or(due.told),
                due.queued,
                "all is accounted for"
            );
        }
        assert_eq!(self.sink.0, self.read, "the counters are right");
        assert!(self.lagged <= self.dropped && (self.purges > 0 || self.lagged == self.dropped));
        assert_eq!((self.outbox.data_bytes(), self.outbox.data_events()), (0, 0));
        assert_eq!(self.signals.seen, self.signals.shown, "the reader sees what is shown");
        assert_eq!(self.signals.account.bytes(), 0, "no signal is left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn every_event_is_delivered_or_told_as_lost(
        ops in prop::collection::vec(op(), 1..80),
        bytes in 150_usize..3_000,
        events in 1_usize..16,
        room in prop_oneof![Just(1_usize), 1_usize..500],
    ) {
        let mut model = Model::default();
        for op in &ops {
            model.apply(op, OutboxLimit { bytes, events });
        }
        model.finish(room);
    }
}
