//! Random pushes, writes and purges: a reader gets every event, or is told of it, and in order.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::core::outbox::control::WRITTEN_BYTES;

/// Channels of the random tests.
const CHANNELS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Clear,
    Control(usize),
    /// One event in fragments.
    Large(usize, usize),
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
    Write(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Clear),
        3 => (1_usize..3).prop_map(Op::Control),
        1 => (40_usize..60).prop_map(Op::Control),
        4 => (0..CHANNELS, 1_usize..1_500).prop_map(|(channel, size)| Op::Large(channel, size)),
        2 => (0..CHANNELS).prop_map(Op::Purge),
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
}

impl Model {
    fn write(&mut self, room: usize) {
        let wire = write(&mut self.outbox, room, &mut self.sink);
        for frame in self.reader.frames(&wire) {
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
            Op::Write(room) => self.write(room),
        }
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
