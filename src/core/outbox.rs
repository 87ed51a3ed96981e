//! The bounded outbound queue of one connection: a control lane that nothing is dropped from, and
//! a data lane of references to runs, with the holes that a policy tore standing where they are.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use super::run::Run;
use crate::proto::dialect::json;
use crate::proto::name::{Alias, ChannelName};
use crate::proto::push::{Hole, Push};
use crate::proto::ws::frame;

/// Slices handed to one write at most.
pub const SLICES_MAX: usize = 32;

/// The bounds of a data lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimit {
    /// Bytes waiting.
    pub bytes: usize,
    /// Events waiting.
    pub events: usize,
}

/// The data lane is at its bound: nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Frames `from..to` of a run.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Whose frames.
    pub run: Rc<Run>,
    /// The first.
    pub from: u32,
    /// The first that is not meant.
    pub to: u32,
}

impl Slice {
    fn bytes(&self) -> usize {
        self.run.size(self.from, self.to)
    }

    fn events(&self) -> usize {
        self.to.saturating_sub(self.from) as usize
    }
}

/// Dropped events of one channel, at their place in the lane.
#[derive(Debug)]
struct Gap {
    channel: ChannelName,
    alias: Alias,
    hole: Hole,
    /// When the oldest dropped event was taken, Unix time.
    ts_ms: u64,
    /// The `lagged` frame, once it is about to be written; cleared when the hole grows.
    frame: Vec<u8>,
}

#[derive(Debug)]
enum Item {
    Gap(Box<Gap>),
    /// Bytes that go out after everything queued before them, such as a close frame.
    Last(Box<[u8]>),
    Slice(Slice),
}

/// The queue of one connection.
///
/// Invariants: `bytes` and `events` are the sums over the slices, less what was written of the
/// front; neither limit is exceeded; `cut` bytes of the first frame of the front are written, and
/// that frame is finished before anything else.
#[derive(Debug, Default)]
pub struct Outbox {
    control: Vec<u8>,
    /// Bytes of `control` already written.
    control_from: usize,
    data: VecDeque<Item>,
    cut: usize,
    bytes: usize,
    events: usize,
}

/// What a write achieved, for the counters.
pub trait Delivered {
    /// `frames` events of `run` were handed to the kernel.
    fn delivered(&mut self, run: &Run, frames: u32);
}

impl Outbox {
    /// Bytes of events waiting.
    pub fn data_bytes(&self) -> usize {
        self.bytes
    }

    /// Events waiting.
    pub fn data_events(&self) -> usize {
        self.events
    }

    /// Bytes of answers and notices waiting.
    pub fn control_bytes(&self) -> usize {
        self.control.len() - self.control_from
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control_bytes() == 0 && self.data.is_empty()
    }

    /// The control lane's end, to append whole frames to.
    pub fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Queues a slice, or refuses it and stays as it was.
    ///
    /// # Errors
    ///
    /// [`Full`] when a limit would be exceeded.
    pub fn push(&mut self, slice: Slice, limit: OutboxLimit) -> Result<(), Full> {
        let (bytes, events) = (slice.bytes(), slice.events());
        if self.bytes + bytes > limit.bytes || self.events + events > limit.events {
            return Err(Full);
        }
        self.append(slice, bytes, events);
        Ok(())
    }

    fn append(&mut self, slice: Slice, bytes: usize, events: usize) {
        if events == 0 {
            return;
        }
        self.bytes += bytes;
        self.events += events;
        self.data.push_back(Item::Slice(slice));
        self.check();
    }

    /// Queues a slice, and drops as many of the oldest queued events of its channel (and where
    /// that is not enough, of its own oldest) as the limits ask for. Returns how many went.
    pub fn push_dropping_oldest(&mut self, mut slice: Slice, limit: OutboxLimit) -> u64 {
        let (mut bytes, mut events) = (slice.bytes(), slice.events());
        let mut dropped = 0;
        let mut at = 0;
        // The gap that the next dropped event of this channel belongs to.
        let mut gap = None;
        while at < self.data.len() {
            let over_bytes = (self.bytes + bytes).saturating_sub(limit.bytes);
            let over_events = (self.events + events).saturating_sub(limit.events);
            if over_bytes == 0 && over_events == 0 {
                break;
            }
            match self.visit(at, slice.run.alias(), gap, (over_bytes, over_events)) {
                Visit::Kept { gap: known } => {
                    gap = known;
                    at += 1;
                }
                Visit::Removed { events, gap: known } => {
                    dropped += events;
                    gap = known;
                }
                Visit::Trimmed { events } => {
                    dropped += events;
                    break;
                }
            }
        }
        // What is still too much is the new events' own oldest part.
        let own = slice.from;
        while slice.from < slice.to
            && (self.bytes + bytes > limit.bytes || self.events + events > limit.events)
        {
            bytes -= slice.run.size(slice.from, slice.from + 1);
            events -= 1;
            slice.from += 1;
        }
        if slice.from > own {
            dropped += u64::from(slice.from - own);
            let lost = Slice { run: Rc::clone(&slice.run), from: own, to: slice.from };
            self.widen(gap.or_else(|| self.last_gap(slice.run.alias())), self.data.len(), &lost);
        }
        self.append(slice, bytes, events);
        self.check();
        dropped
    }

    /// Looks at the item `at` on the way to make room in the channel `alias`.
    fn visit(
        &mut self,
        at: usize,
        alias: Alias,
        gap: Option<usize>,
        over: (usize, usize),
    ) -> Visit {
        let begun = at == 0 && self.cut > 0;
        match self.data.get(at) {
            Some(Item::Gap(here)) if here.alias == alias => {
                let hole = here.hole;
                match gap {
                    // Not the one that the slice before it has just left here.
                    Some(first) if first < at => {
                        if let Some(Item::Gap(first)) = self.data.get_mut(first) {
                            first.hole.to = hole.to;
                            first.hole.dropped += hole.dropped;
                            first.frame.clear();
                        }
                        self.data.remove(at);
                        Visit::Removed { events: 0, gap }
                    }
                    // A notice that is half written cannot grow.
                    _ => Visit::Kept { gap: (!begun).then_some(at) },
                }
            }
            Some(Item::Slice(here)) if here.run.alias() == alias => {
                let keep = u32::from(begun);
                let (first, end) = (here.from + keep, here.to);
                if first >= end {
                    return Visit::Kept { gap: None };
                }
                let upto = enough(&here.run, (first, end), over);
                let lost = Slice { run: Rc::clone(&here.run), from: first, to: upto };
                self.drop_slice(at, begun, gap, &lost)
            }
            Some(Item::Gap(_) | Item::Last(_) | Item::Slice(_)) | None => Visit::Kept { gap },
        }
    }

    /// Takes `lost`, the droppable front of the slice `at`, out of the lane.
    fn drop_slice(&mut self, at: usize, begun: bool, gap: Option<usize>, lost: &Slice) -> Visit {
        self.bytes -= lost.bytes();
        self.events -= lost.events();
        let events = u64::from(lost.to - lost.from);
        let whole = match self.data.get_mut(at) {
            Some(Item::Slice(here)) => {
                let whole = lost.to == here.to;
                if begun {
                    // The frame on its way stays alone; what follows the hole is put back behind.
                    let rest = Slice { run: Rc::clone(&here.run), from: lost.to, to: here.to };
                    here.to = lost.from;
                    if !whole {
                        self.data.insert(at + 1, Item::Slice(rest));
                    }
                    let gap = self.widen(None, at + 1, lost);
                    return if whole {
                        Visit::Kept { gap: Some(gap) }.counting(events)
                    } else {
                        Visit::Trimmed { events }
                    };
                }
                here.from = lost.to;
                whole
            }
            _ => false,
        };
        if whole {
            self.data.remove(at);
            let gap = self.widen(gap, at, lost);
            Visit::Removed { events, gap: Some(gap) }
        } else {
            self.widen(gap, at, lost);
            Visit::Trimmed { events }
        }
    }

    /// Adds `lost` to the gap at `gap`, or makes one at `at`. Returns where it is.
    fn widen(&mut self, gap: Option<usize>, at: usize, lost: &Slice) -> usize {
        let (from, to) = (lost.run.offset(lost.from), lost.run.offset(lost.to.saturating_sub(1)));
        let dropped = u64::from(lost.to - lost.from);
        if let Some(index) = gap
            && let Some(Item::Gap(gap)) = self.data.get_mut(index)
        {
            gap.hole.to = to;
            gap.hole.dropped += dropped;
            gap.frame.clear();
            return index;
        }
        let gap = Gap {
            channel: lost.run.channel().clone(),
            alias: lost.run.alias(),
            hole: Hole { from, to, dropped },
            ts_ms: lost.run.ts_ms(),
            frame: Vec::new(),
        };
        self.data.insert(at, Item::Gap(Box::new(gap)));
        at
    }

    /// The gap of a channel when it is the last thing queued of it and may still grow.
    fn last_gap(&self, alias: Alias) -> Option<usize> {
        for (index, item) in self.data.iter().enumerate().rev() {
            match item {
                Item::Gap(gap) if gap.alias == alias => {
                    return (index > 0 || self.cut == 0).then_some(index);
                }
                Item::Slice(slice) if slice.run.alias() == alias => return None,
                Item::Gap(_) | Item::Last(_) | Item::Slice(_) => {}
            }
        }
        None
    }

    /// Takes everything of a channel out of the data lane, but a frame that is on its way.
    pub fn purge(&mut self, alias: Alias) {
        let cut = self.cut;
        let mut first = true;
        self.data.retain_mut(|item| {
            let begun = std::mem::take(&mut first) && cut > 0;
            match item {
                Item::Gap(gap) => gap.alias != alias || begun,
                Item::Slice(slice) if slice.run.alias() == alias => {
                    slice.to = if begun { slice.from + 1 } else { slice.from };
                    begun
                }
                Item::Last(_) | Item::Slice(_) => true,
            }
        });
        self.recount();
    }

    /// Takes everything out of the data lane, but a frame that is on its way. Returns the events
    /// that went.
    pub fn clear_data(&mut self) -> u64 {
        let before = self.events;
        self.data.truncate(usize::from(self.cut > 0));
        if let Some(Item::Slice(slice)) = self.data.front_mut() {
            slice.to = slice.from + 1;
        }
        self.recount();
        before.saturating_sub(self.events) as u64
    }

    /// Queues bytes behind everything else.
    pub fn push_last(&mut self, bytes: Box<[u8]>) {
        self.data.push_back(Item::Last(bytes));
    }

    fn recount(&mut self) {
        (self.bytes, self.events) = self.sums();
    }

    fn sums(&self) -> (usize, usize) {
        let mut sums = (0, 0);
        for item in &self.data {
            if let Item::Slice(slice) = item {
                sums.0 += slice.bytes();
                sums.1 += slice.events();
            }
        }
        if let Some(Item::Slice(_)) = self.data.front() {
            sums.0 -= self.cut;
        }
        sums
    }

    /// Encodes the notices that the next write will reach. `unix_ms` gives their age.
    fn write_notices(&mut self, unix_ms: impl Fn() -> u64) {
        for item in self.data.iter_mut().take(SLICES_MAX) {
            if let Item::Gap(gap) = item
                && gap.frame.is_empty()
            {
                let mut text = Vec::with_capacity(160);
                let age_ms = unix_ms().saturating_sub(gap.ts_ms);
                let channel = gap.channel.as_str();
                json::encode_push(&Push::Lagged { channel, hole: gap.hole, age_ms }, &mut text);
                frame::push_text(&text, &mut gap.frame);
            }
        }
    }

    /// All that waits, where that is one slice that no byte was written of: the usual case.
    pub fn sole(&self) -> Option<&[u8]> {
        match self.data.front() {
            Some(Item::Slice(slice))
                if self.data.len() == 1 && self.control.is_empty() && self.cut == 0 =>
            {
                Some(slice.run.slice(slice.from, slice.to))
            }
            Some(_) | None => None,
        }
    }

    /// The bytes to write next, in order, as at most [`SLICES_MAX`] slices. Returns how many.
    pub fn gather<'a>(
        &'a mut self,
        unix_ms: impl Fn() -> u64,
        slices: &mut [IoSlice<'a>; SLICES_MAX],
    ) -> usize {
        self.write_notices(unix_ms);
        let mut count = 0;
        let mut add = |bytes: &'a [u8]| {
            if !bytes.is_empty()
                && let Some(slot) = slices.get_mut(count)
            {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
            count < SLICES_MAX
        };
        let mut items = self.data.iter();
        if self.cut > 0
            && let Some(front) = items.next()
        {
            // The frame on its way, then the control lane, then what follows that frame.
            let (first, rest) = front.split();
            add(first.get(self.cut..).unwrap_or_default());
            add(self.control.get(self.control_from..).unwrap_or_default());
            add(rest);
        } else {
            add(self.control.get(self.control_from..).unwrap_or_default());
        }
        for item in items {
            if !add(item.as_bytes()) {
                break;
            }
        }
        count
    }

    /// Takes `written` bytes off the front, in the order of [`Outbox::gather`].
    pub fn advance(&mut self, mut written: usize, sink: &mut impl Delivered) {
        if self.cut > 0 {
            let left = self.data.front().map_or(0, |front| front.split().0.len()) - self.cut;
            let step = written.min(left);
            written -= step;
            self.advance_front(step, sink);
        }
        if self.cut == 0 || self.data.is_empty() {
            let step = written.min(self.control_bytes());
            written -= step;
            self.control_from += step;
            if self.control_from == self.control.len() {
                self.control = Vec::new();
                self.control_from = 0;
            }
        }
        while written > 0 && !self.data.is_empty() {
            let left = self.data.front().map_or(0, |front| front.as_bytes().len()) - self.cut;
            let step = written.min(left);
            written -= step;
            self.advance_front(step, sink);
        }
        if self.data.is_empty() && self.data.capacity() > 16 {
            self.data = VecDeque::new();
        }
        self.check();
    }

    /// Takes `step` bytes, at most what is left of it, off the front item.
    fn advance_front(&mut self, step: usize, sink: &mut impl Delivered) {
        let Some(front) = self.data.front_mut() else { return };
        let done = match front {
            Item::Slice(slice) => {
                self.bytes -= step;
                let at = slice.run.start(slice.from) + self.cut + step;
                let frame = slice.run.frame_at(at).min(slice.to);
                let frames = frame - slice.from;
                self.events -= frames as usize;
                self.cut = at - slice.run.start(frame);
                if frames > 0 {
                    sink.delivered(&slice.run, frames);
                }
                slice.from = frame;
                slice.from == slice.to
            }
            Item::Gap(_) | Item::Last(_) => {
                self.cut += step;
                self.cut == front.as_bytes().len()
            }
        };
        if done {
            self.cut = 0;
            self.data.pop_front();
        }
    }

    fn check(&self) {
        debug_assert_eq!((self.bytes, self.events), self.sums(), "sums of the data lane");
        debug_assert!(self.control_from <= self.control.len(), "control cursor");
        debug_assert!(self.cut == 0 || !self.data.is_empty(), "a cut needs a frame");
    }
}

/// The first frame that may stay when `over` bytes and events must go.
fn enough(run: &Run, (first, end): (u32, u32), over: (usize, usize)) -> u32 {
    let by_bytes = run.frame_at((run.start(first) + over.0).saturating_sub(1)) + 1;
    let by_events = first + u32::try_from(over.1).unwrap_or(u32::MAX - first);
    let by_bytes = if over.0 == 0 { first } else { by_bytes };
    by_bytes.max(by_events).clamp(first, end)
}

/// What became of an item on the way to make room.
enum Visit {
    Kept { gap: Option<usize> },
    Removed { events: u64, gap: Option<usize> },
    Trimmed { events: u64 },
}

impl Visit {
    /// A removal of `events` that leaves the item where it is: the caller goes on behind it.
    fn counting(self, events: u64) -> Self {
        match self {
            Self::Kept { gap } => Self::Removed { events, gap },
            Self::Removed { .. } | Self::Trimmed { .. } => self,
        }
    }
}

impl Item {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Gap(gap) => &gap.frame,
            Self::Last(bytes) => bytes,
            Self::Slice(slice) => slice.run.slice(slice.from, slice.to),
        }
    }

    /// The first frame, and what follows it.
    fn split(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Gap(_) | Self::Last(_) => (self.as_bytes(), &[]),
            Self::Slice(slice) => {
                let second = slice.from + 1;
                (slice.run.slice(slice.from, second), slice.run.slice(second, slice.to))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
