//! The bounded outbound queue of one connection: a control lane that nothing is dropped from, a lane
//! of signals in which the newest of each waits, and a data lane of references to runs, with the
//! holes that a policy tore standing where they are.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

mod browse;
mod control;
mod item;
mod lag;
mod lane;
mod own;
mod past;
mod room;
mod signals;
mod tally;
mod write;

pub use browse::{Browse, Had, Leaf};
pub use item::Slice;
pub use lag::{Reader, Shown};
pub use signals::{Fits, News};

use item::Item;
use signals::Signals;
use tally::Tally;

use super::latest::Frame;
use super::run::Run;
use crate::proto::name::{Alias, ChannelName};

/// Slices handed to one write at most.
pub const SLICES_MAX: usize = 32;

/// Items that a data lane keeps room for however long it has been empty.
const LANE_KEPT: usize = 16;

/// Items that a data lane keeps room for while a subscription lags.
const LANE_LAGGING: usize = 2;

/// The bounds of a data lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimit {
    /// Bytes waiting.
    pub bytes: usize,
    /// Events waiting.
    pub events: usize,
}

/// The data lane is at its bound: the slice was not queued, and is given back.
#[derive(Debug)]
pub struct Full(pub Slice);

/// The queue of one connection.
///
/// Invariants: `bytes` and `events` are the sums over the slices, less what was written of the
/// front; neither limit is exceeded; `cut` bytes of the first frame of the front are written, and
/// that frame is finished before anything else, but for what may pass between the fragments of a
/// large event; the control lane begins with a whole frame, and holds little more than waits there;
/// every slice but the front [fits] its run; the front is not vacant; a tally is that of the data
/// lane.
///
/// [fits]: crate::core::run::RUN_BYTES_MAX
#[derive(Debug, Default)]
pub struct Outbox {
    control: Vec<u8>,
    /// Bytes of `control` already written.
    control_from: u32,
    /// Bytes of `control` that nobody asked for, since it was last empty.
    pushed: u32,
    /// Subscriptions that lag, in `data`.
    lags: u32,
    /// Things of the time before a subscription, in `data`.
    recalls: u32,
    data: VecDeque<Item>,
    cut: usize,
    bytes: usize,
    events: usize,
    /// There while one of the two is.
    aside: Option<Box<Aside>>,
}

/// What few queues have. Together, so that an idle one pays for one pointer.
#[derive(Debug, Default)]
struct Aside {
    /// Made where a channel is looked for in the data lane, gone when that is empty.
    tally: Option<Tally>,
    signals: Signals,
}

/// What a write achieved, for the counters.
pub trait Delivered {
    /// `frames` events of `run` were handed to the kernel.
    fn delivered(&mut self, run: &Run, frames: u32);

    /// The newest event of a key was handed to the kernel, for a subscriber who had missed it.
    fn shown(&mut self, frame: &Frame);

    /// `frames` events of the time before a subscription were handed to the kernel.
    fn recovered(&mut self, run: &Run, frames: u32) {
        self.delivered(run, frames);
    }
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

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control_bytes() == 0 && self.data.is_empty() && !self.has_signals()
    }

    /// Whether nothing waits that could be written: at most a subscription that lags is in front,
    /// whose events are first to be fetched.
    pub fn is_idle(&self) -> bool {
        self.control_bytes() == 0
            && !self.has_signals()
            && matches!(self.data.front(), None | Some(Item::Lag(_) | Item::Recall(_)))
    }

    /// Slices, notices and channels that lag, in the data lane.
    pub fn lane_len(&self) -> usize {
        self.data.len() - self.vacant()
    }

    /// Whether the data lane is longer than what it may keep room for while it is not used.
    pub fn is_long(&self) -> bool {
        self.data.len() > LANE_KEPT
    }

    /// Gives back the room of a data lane that is empty.
    pub fn rest(&mut self) {
        if self.data.is_empty() && self.data.capacity() > LANE_KEPT {
            self.data = VecDeque::new();
        }
    }

    /// Queues a slice, or refuses it and stays as it was.
    ///
    /// # Errors
    ///
    /// [`Full`] when a limit would be exceeded.
    pub fn push(&mut self, slice: Slice, limit: OutboxLimit) -> Result<(), Full> {
        let (bytes, events) = (slice.bytes(), slice.events());
        if self.bytes + bytes > limit.bytes || self.events + events > limit.events {
            return Err(Full(slice));
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
        self.push_back(Item::Slice(slice.fit()));
        self.check();
    }

    /// Takes everything of a channel out of the data lane, but a frame that is on its way. Returns
    /// how many events went.
    pub fn purge(&mut self, alias: Alias) -> u64 {
        let before = self.events;
        if self.recalls > 0 {
            // Which nobody has a list of, and few have any.
            self.purge_all(|other| other == alias);
            return before.saturating_sub(self.events) as u64;
        }
        self.purge_frames(alias);
        let (mut last, mut next) = (None, self.tally().first(alias));
        while let Some(place) = next {
            next = self.tally().after(place);
            let Some(at) = self.index(place) else { break };
            let begun = at == 0 && self.cut > 0;
            if let Some(Item::Slice(slice)) = self.data.get_mut(at) {
                let from = slice.droppable(begun);
                let to = std::mem::replace(&mut slice.to, from);
                let lost = Slice { run: Rc::clone(&slice.run), from, to };
                self.bytes -= lost.bytes();
                self.events -= lost.events();
            }
            if begun {
                last = Some(place);
            } else {
                self.take(last, place);
            }
        }
        if let Some(place) = self.tally().lag(alias) {
            self.take(None, place);
            self.lags -= 1;
        }
        self.close_up();
        self.check();
        before.saturating_sub(self.events) as u64
    }

    /// How many things are looked at when the queue of a subscription that ends is purged, beside
    /// its own.
    pub fn looks_of_purge(&self) -> usize {
        let lane = if self.recalls > 0 { self.data.len() } else { 0 };
        lane + self.signals()
    }

    /// Takes everything of the channels that are `gone` out of the data lane, likewise.
    pub fn purge_where(&mut self, gone: impl Fn(Alias, &ChannelName) -> bool) -> u64 {
        let before = self.events;
        let channels = self.data.iter().filter_map(|item| match item {
            // What is shown stands before its lag.
            Item::Frame(_) | Item::Gone | Item::Last(_) => None,
            Item::Gap(gap) => Some((gap.alias, &gap.channel)),
            Item::Lag(lag) => Some((lag.alias, lag.channel())),
            Item::Recall(recall) => recall.channel(),
            Item::Past(slice) | Item::Slice(slice) => {
                Some((slice.run.alias(), slice.run.channel()))
            }
        });
        let gone = channels.filter(|(alias, name)| gone(*alias, name)).map(|(alias, _)| alias);
        let gone: HashSet<Alias> = gone.collect();
        self.purge_all(|alias| gone.contains(&alias));
        before.saturating_sub(self.events) as u64
    }

    fn purge_all(&mut self, gone: impl Fn(Alias) -> bool) {
        let cut = self.cut;
        let mut first = true;
        self.data.retain_mut(|item| {
            let begun = std::mem::take(&mut first) && cut > 0;
            match item {
                Item::Frame(frame) => begun || !gone(frame.alias),
                Item::Gap(gap) => begun || !gone(gap.alias),
                Item::Gone => false,
                Item::Lag(lag) => !gone(lag.alias),
                Item::Recall(recall) => recall.channel().is_none_or(|(alias, _)| !gone(alias)),
                Item::Past(slice) | Item::Slice(slice) if gone(slice.run.alias()) => {
                    slice.to = slice.droppable(begun);
                    begun
                }
                Item::Last(_) | Item::Past(_) | Item::Slice(_) => true,
            }
        });
        self.recount();
    }

    /// Takes everything out of the data lane and that of signals, but a frame that is on its way.
    /// Returns the events that went.
    pub fn clear_data(&mut self) -> u64 {
        let before = self.events;
        self.clear_signals();
        self.data.truncate(usize::from(self.cut > 0));
        if let Some(Item::Past(slice) | Item::Slice(slice)) = self.data.front_mut() {
            slice.to = slice.droppable(true);
        }
        self.part();
        self.recount();
        before.saturating_sub(self.events) as u64
    }

    /// Queues bytes behind everything else.
    pub fn push_last(&mut self, bytes: Box<[u8]>) {
        self.push_back(Item::Last(bytes));
    }

    fn recount(&mut self) {
        self.forget_tally();
        (self.bytes, self.events) = self.sums();
        self.lags = self.count_lags();
        self.recalls = self.count_recalls();
    }

    fn count_recalls(&self) -> u32 {
        let past = |item: &&Item| matches!(item, Item::Past(_) | Item::Recall(_));
        u32::try_from(self.data.iter().filter(past).count()).unwrap_or(u32::MAX)
    }

    fn count_lags(&self) -> u32 {
        let lags = self.data.iter().filter(|item| matches!(item, Item::Lag(_))).count();
        u32::try_from(lags).unwrap_or(u32::MAX)
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

    fn check(&self) {
        debug_assert_eq!((self.bytes, self.events), self.sums(), "sums of the data lane");
        debug_assert_eq!(self.lags, self.count_lags(), "subscriptions that lag");
        debug_assert_eq!(self.recalls, self.count_recalls(), "what is before subscriptions");
        self.check_control();
        self.check_signals();
        debug_assert!(
            self.data.iter().skip(1).all(|item| match item {
                Item::Slice(slice) => slice.fits(),
                Item::Frame(_)
                | Item::Gap(_)
                | Item::Gone
                | Item::Lag(_)
                | Item::Last(_)
                | Item::Past(_)
                | Item::Recall(_) => true,
            }),
            "a queue pins little more than it counts"
        );
        debug_assert!(!matches!(self.data.front(), Some(Item::Gone)), "the front is not vacant");
        debug_assert!(
            self.data.len() > 100 || self.known_tally().is_none_or(|t| t.is_of(&self.data)),
            "the tally is of this lane"
        );
        debug_assert!(self.cut == 0 || !self.data.is_empty(), "a cut needs a frame");
    }
}

#[cfg(test)]
pub(super) mod tests;
