//! A run: the frames of one channel's events of one batch in one form, laid end to end once for a
//! shard and shared by all subscribers that speak it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

mod joined;
mod part;
mod pin;

pub use joined::JOINED_BYTES_MAX;
use part::Part;
pub use pin::Pin;

use super::account::{Account, Charge};
use crate::proto::encoder::Encoder;
use crate::proto::event::Event;
use crate::proto::format::{Compression, Format};
use crate::proto::large::Large;
use crate::proto::name::{Alias, ChannelName, ClientId};
use recall::Recalled;

mod recall;
mod spare;

/// A run closes at this many bytes.
///
/// A queue keeps the whole run of each of its slices in memory. What that comes to for a queue
/// with `bytes` in `events`: at most [`PINNED_TIMES`] times `bytes`, or [`PINNED_BYTES_MIN`] for
/// each event where that is more; and one run of this size, twice over for the room that it grew
/// by, for the slice in front, which is being written. Slices of which that would not be true,
/// because most of their run is hidden, dropped or before their position, get a run of their own.
pub const RUN_BYTES_MAX: usize = 128 * 1024;

/// A slice shares a run that takes at most that many times its own bytes.
pub const PINNED_TIMES: usize = 4;

/// And one that takes no more than this, whatever the slice has.
pub const PINNED_BYTES_MIN: usize = 1_024;

/// Where a run ends and the next begins.
#[derive(Debug, Clone, Copy)]
pub struct RunLimit {
    /// A run has at most that many bytes, unless it is one frame.
    pub bytes: usize,
    /// And at most that many frames.
    pub frames: usize,
}

/// No limit: one frame fits every run.
const ANY: RunLimit = RunLimit { bytes: usize::MAX, frames: usize::MAX };

/// Where a frame ends, and how much later than the first its event was taken.
#[derive(Debug, Clone, Copy)]
struct Frame {
    end: u32,
    later_ms: u32,
}

/// Frames of events of one channel: of consecutive ones, or of those that conflation has left.
///
/// Invariants: the ends of `frames` do not decrease and the last of them is `bytes.len()`. Events
/// that share one WebSocket frame have the same end: its bytes are those of the first of them, and
/// no slice begins or ends between them. Frame `i` is the event with offset `first_offset + i`, or `offsets[i]` where there are any, which
/// are increasing and as many as the frames. A large event has a run of its own: its bytes are
/// `large`, and `bytes` is empty.
#[derive(Debug)]
pub struct Run {
    channel: ChannelName,
    alias: Alias,
    /// The form of every frame.
    format: Format,
    first_offset: u64,
    bytes: Vec<u8>,
    /// The one frame, where that is of a large event: what most of it is made of is shared.
    large: Option<Arc<Large>>,
    frames: Vec<Frame>,
    /// Frames that one client asked not to see, by index.
    hidden: Vec<(u32, ClientId)>,
    /// Of each frame, in a conflated run.
    offsets: Vec<u64>,
    /// Since when the first event waits, node clock: since it was taken, or asked for.
    taken_ns: u64,
    /// When the run was laid out, node clock.
    made_ns: u64,
    /// When the first event was taken, node clock.
    first_ns: u64,
    /// Its memory, while it has frames that may wait for somebody.
    charge: Charge,
    /// The last parts of it that queues have made, while they have them.
    parts: RefCell<Vec<Part>>,
}

impl Run {
    /// Where its memory counts.
    pub(super) fn account(&self) -> &Account {
        self.charge.account()
    }

    /// The channel of every frame.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The channel's number.
    pub fn alias(&self) -> Alias {
        self.alias
    }

    /// The form of every frame.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many frames.
    pub fn len(&self) -> u32 {
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The offset of frame `index`.
    pub fn offset(&self, index: u32) -> u64 {
        let offset = self.offsets.get(index as usize);
        offset.copied().unwrap_or(self.first_offset + u64::from(index))
    }

    /// Whether it has the newest events of keys only: what lies between its offsets is no loss.
    pub fn is_conflated(&self) -> bool {
        !self.offsets.is_empty()
    }

    /// The index of the first frame after `position`.
    pub fn after(&self, position: u64) -> u32 {
        let missed = (position + 1).saturating_sub(self.first_offset);
        if missed > 0 && self.is_conflated() {
            return self.conflated_after(position);
        }
        u32::try_from(missed).unwrap_or(u32::MAX).min(self.len())
    }

    #[cold]
    fn conflated_after(&self, position: u64) -> u32 {
        let index = self.offsets.partition_point(|offset| *offset <= position);
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Frames that one client asked not to see.
    pub fn hidden(&self) -> &[(u32, ClientId)] {
        &self.hidden
    }

    /// Since when the first event waits, in nanoseconds of the node's clock: since it was taken, or,
    /// where a rate has held it back, since it was due.
    pub fn taken_ns(&self) -> u64 {
        self.taken_ns
    }

    /// When the run was made, in nanoseconds of the node's clock.
    pub fn made_ns(&self) -> u64 {
        self.made_ns
    }

    /// When the event of frame `index` was taken, in nanoseconds of the node's clock; it may be a
    /// millisecond early.
    pub fn event_ns(&self, index: u32) -> u64 {
        let later_ms = self.frames.get(index as usize).map_or(0, |frame| frame.later_ms);
        self.first_ns + u64::from(later_ms) * 1_000_000
    }

    /// Where frame `index` begins.
    pub fn start(&self, index: u32) -> usize {
        match index.checked_sub(1) {
            Some(before) => {
                self.frames.get(before as usize).map_or(self.bytes.len(), |f| f.end as usize)
            }
            None => 0,
        }
    }

    /// The bytes of the frames `from..to`.
    pub fn slice(&self, from: u32, to: u32) -> &[u8] {
        self.bytes.get(self.start(from)..self.start(to)).unwrap_or_default()
    }

    /// As [`Run::slice`]; `None` where they are not in one piece, because the event is large.
    pub fn piece(&self, from: u32, to: u32) -> Option<&[u8]> {
        self.bytes.get(self.start(from)..self.start(to))
    }

    /// The frame of a large event.
    pub fn large(&self) -> Option<&Large> {
        self.large.as_deref()
    }

    /// How many bytes the frames `from..to` have.
    pub fn size(&self, from: u32, to: u32) -> usize {
        self.start(to).saturating_sub(self.start(from))
    }

    /// The index of the frame that holds byte `at` (its end when `at` is the end of all); of events
    /// that share one, the first.
    pub fn frame_at(&self, at: usize) -> u32 {
        let index = self.frames.partition_point(|frame| frame.end as usize <= at);
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Memory that it takes.
    pub fn footprint(&self) -> usize {
        size_of::<Self>()
            + self.bytes.capacity()
            + self.large.as_ref().map_or(0, |large| large.len())
            + self.frames.capacity() * size_of::<Frame>()
            + self.hidden.capacity() * size_of::<(u32, ClientId)>()
            + self.offsets.capacity() * size_of::<u64>()
    }

    /// Gives back room that was grown for another run's frames, and counts what is left.
    fn seal(&mut self) {
        fit(&mut self.bytes, 512);
        fit(&mut self.frames, 16);
        fit(&mut self.hidden, 8);
        fit(&mut self.offsets, 0);
        self.charge.set(self.footprint());
    }

    fn end(&self) -> usize {
        self.large.as_ref().map_or(self.bytes.len(), |large| large.len())
    }

    fn is_full(&self, max: RunLimit) -> bool {
        let full = self.bytes.len() >= max.bytes || self.frames.len() >= max.frames;
        full || self.large.is_some()
    }

    /// Whether the next frame may be one of `event`.
    fn takes(&self, event: &Event, max: RunLimit) -> bool {
        let follows = self.first_offset + self.frames.len() as u64 == event.offset;
        self.frames.is_empty() || (!self.is_full(max) && follows)
    }

    /// Appends an event, unless the run is full or the event does not follow the last one.
    fn push(&mut self, event: &Arc<Event>, max: RunLimit, encoder: &mut Encoder) -> bool {
        self.takes(event, max) && self.add(event, max, encoder)
    }

    /// Appends an event that need not follow the last one, unless the run is full.
    fn push_conflated(&mut self, event: &Arc<Event>, max: RunLimit, encoder: &mut Encoder) -> bool {
        if !self.frames.is_empty() && self.is_full(max) || !self.add(event, max, encoder) {
            return false;
        }
        self.offsets.push(event.offset);
        true
    }

    /// Begins with a large event, most of which was made elsewhere; `false` where it does not fit.
    #[cold]
    fn add_large(&mut self, event: &Arc<Event>, encoder: &mut Encoder) -> bool {
        if self.frames.is_empty() {
            self.large = event.large(self.format, encoder);
        }
        if self.frames.is_empty() && self.large.is_none() {
            event.append_frame(self.format, encoder, &mut self.bytes);
        }
        self.frames.is_empty()
    }

    #[inline]
    fn add(&mut self, event: &Arc<Event>, max: RunLimit, encoder: &mut Encoder) -> bool {
        self.begin_with(event);
        let before = self.bytes.len();
        if !event.is_large() {
            event.append_frame(self.format, encoder, &mut self.bytes);
        } else if !self.add_large(event, encoder) {
            return false;
        }
        if before > 0 && self.bytes.len() > max.bytes {
            // The next run begins with it, as it was encoded here.
            if self.format == Format::Json {
                event.keep_json_frame(self.bytes.get(before..).unwrap_or_default());
            }
            self.bytes.truncate(before);
            return false;
        }
        self.end_frame(event);
        true
    }

    /// Appends an event whose frame is made.
    fn add_frame(&mut self, event: &Event, frame: &[u8]) {
        self.begin_with(event);
        self.bytes.extend_from_slice(frame);
        self.end_frame(event);
    }

    #[inline]
    fn begin_with(&mut self, event: &Event) {
        if self.frames.is_empty() {
            self.first_offset = event.offset;
            self.taken_ns = event.taken_ns;
            self.first_ns = event.taken_ns;
        }
    }

    #[inline]
    fn end_frame(&mut self, event: &Event) {
        if let Some(client) = event.hidden_from {
            self.hidden.push((self.len(), client));
        }
        let later_ms = event.taken_ns.saturating_sub(self.first_ns) / 1_000_000;
        self.frames.push(Frame {
            end: u32::try_from(self.end()).unwrap_or(u32::MAX),
            later_ms: u32::try_from(later_ms).unwrap_or(u32::MAX),
        });
    }
}

/// Gives back room beyond what growing by doubling leaves, and beyond `least`.
fn fit<T>(vec: &mut Vec<T>, least: usize) {
    if vec.capacity() > least.max(2 * vec.len()) {
        vec.shrink_to(least);
    }
}

/// Makes runs and takes them back when the last subscriber has let go.
///
/// Invariant: `bytes` is the sum of the footprints of `issued`.
#[derive(Debug, Default)]
pub struct Press {
    issued: VecDeque<Rc<Run>>,
    bytes: usize,
    encoder: Encoder,
    account: Account,
    recalled: Recalled,
    pins: pin::Pins,
    /// The text under way that several events share, kept for its memory.
    text: Vec<u8>,
}

impl Press {
    /// One that has made nothing, and compresses as it is told.
    pub fn new(compression: Compression) -> Self {
        Self { encoder: Encoder::new(compression), ..Self::default() }
    }

    /// What makes the frames.
    pub fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// Where the memory of its runs counts, from their sealing on; that of spare ones too.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Begins a run with `event`, in plain JSON.
    pub fn begin(&mut self, event: &Arc<Event>, now_ns: u64) -> Rc<Run> {
        self.begin_in(Format::Json, event, now_ns)
    }

    /// Begins a run in that form.
    pub fn begin_in(&mut self, format: Format, event: &Arc<Event>, now_ns: u64) -> Rc<Run> {
        let mut run = self.take(&event.channel, event.alias, format);
        if let Some(fresh) = Rc::get_mut(&mut run) {
            fresh.made_ns = now_ns;
            fresh.push(event, ANY, &mut self.encoder);
        }
        run
    }

    /// Appends `event` to a run that nobody else holds; `false` when it has to begin another.
    pub fn append(&mut self, run: &mut Rc<Run>, event: &Arc<Event>, max: RunLimit) -> bool {
        Rc::get_mut(run).is_some_and(|run| run.push(event, max, &mut self.encoder))
    }

    /// Appends `event` to runs of the same events in different forms, or to none of them.
    pub fn append_to_all(
        &mut self,
        run: &mut Rc<Run>,
        others: &mut [Rc<Run>],
        event: &Arc<Event>,
        max: RunLimit,
    ) -> bool {
        if event.is_large() {
            return false;
        }
        let encoder = &mut self.encoder;
        let takes = std::iter::once(&*run).chain(&*others).all(|run| {
            let bytes = run.bytes.len() + event.frame(run.format, encoder).len();
            run.takes(event, max) && bytes <= max.bytes
        });
        takes && std::iter::once(run).chain(others).all(|run| self.append(run, event, max))
    }

    /// Lays the newest events of keys, in the order of their offsets, into as many runs as that
    /// takes. Their waiting is counted from `now_ns` on: until then it was asked for.
    pub fn lay<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Arc<Event>>,
        format: Format,
        now_ns: u64,
        max: RunLimit,
    ) -> Vec<Rc<Run>> {
        let mut runs: Vec<Rc<Run>> = Vec::new();
        for event in events {
            let last = runs.last_mut().and_then(Rc::get_mut);
            if last.is_some_and(|run| run.push_conflated(event, max, &mut self.encoder)) {
                continue;
            }
            let mut run = self.take(&event.channel, event.alias, format);
            if let Some(fresh) = Rc::get_mut(&mut run) {
                fresh.push_conflated(event, ANY, &mut self.encoder);
                (fresh.made_ns, fresh.taken_ns) = (now_ns, now_ns);
            }
            runs.push(run);
        }
        for run in &mut runs {
            self.seal(run);
        }
        runs
    }

    /// Ends a run: it takes little more memory than its frames need.
    pub fn seal(&mut self, run: &mut Rc<Run>) {
        if let Some(run) = Rc::get_mut(run) {
            run.seal();
        }
    }

    fn take(&mut self, channel: &ChannelName, alias: Alias, format: Format) -> Rc<Run> {
        // Old runs come back first; one that a slow reader pins goes to the end of the line.
        for _ in 0..self.issued.len().min(4) {
            let Some(mut run) = self.next() else { break };
            match Rc::get_mut(&mut run) {
                Some(free) => {
                    free.channel.clone_from(channel);
                    (free.alias, free.format) = (alias, format);
                    free.bytes.clear();
                    free.frames.clear();
                    free.hidden.clear();
                    free.charge.set(0);
                    free.offsets.clear();
                    free.parts = RefCell::default();
                    return run;
                }
                None => {
                    self.bytes += run.footprint();
                    self.issued.push_back(run);
                }
            }
        }
        Rc::new(Run {
            channel: channel.clone(),
            alias,
            format,
            first_offset: 0,
            bytes: Vec::new(),
            large: None,
            frames: Vec::new(),
            hidden: Vec::new(),
            offsets: Vec::new(),
            taken_ns: 0,
            made_ns: 0,
            first_ns: 0,
            charge: Charge::new(&self.account, 0),
            parts: RefCell::default(),
        })
    }
}

#[cfg(test)]
mod tests;
