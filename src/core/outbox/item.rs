//! What stands in a data lane.

use std::rc::Rc;

use super::lag::Lag;
use super::past::Recall;
use crate::core::account::Charge;
use crate::core::latest::Frame;
use crate::core::run::{PINNED_BYTES_MIN, PINNED_TIMES, Run};
use crate::proto::dialect::json;
use crate::proto::large::Large;
use crate::proto::name::{Alias, ChannelName};
use crate::proto::push::{Hole, Push};
use crate::proto::ws::frame;

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
    pub(super) fn bytes(&self) -> usize {
        self.run.size(self.from, self.to)
    }

    /// Whether its run takes no more memory than a queue may pin for it.
    pub(super) fn fits(&self) -> bool {
        self.from == 0 && self.to == self.run.len()
            || self.run.footprint() <= PINNED_BYTES_MIN.max(PINNED_TIMES * self.bytes())
    }

    /// The same frames, in a run of their own where this one takes too much memory for them.
    #[inline]
    pub(super) fn fit(self) -> Self {
        if self.from == 0 && self.to == self.run.len() {
            return self;
        }
        self.fit_part()
    }

    fn fit_part(self) -> Self {
        if self.fits() {
            return self;
        }
        let run = self.run.part(self.from, self.to);
        Self { from: 0, to: run.len(), run }
    }

    /// The first of them that may be dropped; where a frame of it is on its way (`begun`), the
    /// first behind that frame.
    pub(super) fn droppable(&self, begun: bool) -> u32 {
        if begun { self.run.frame_end(self.from) } else { self.from }
    }

    pub(super) fn events(&self) -> usize {
        self.to.saturating_sub(self.from) as usize
    }
}

/// Dropped events of one channel, at their place in the lane.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) channel: ChannelName,
    pub(super) alias: Alias,
    pub(super) hole: Hole,
    /// When the oldest dropped event was taken, node clock.
    pub(super) taken_ns: u64,
    /// What `frame` tells: the hole, and its age in milliseconds.
    pub(super) told: Option<(Hole, u64)>,
    /// The `lagged` frame, as it was last about to be written.
    pub(super) frame: Vec<u8>,
    /// Its memory.
    pub(super) charge: Charge,
}

/// What a gap takes of memory before its notice is encoded.
pub(super) const GAP_BYTES: usize = size_of::<Gap>();

impl Gap {
    /// Adds a later hole.
    pub(super) fn widen(&mut self, more: Hole) {
        self.hole.to = more.to;
        self.hole.dropped += more.dropped;
    }

    /// Encodes the notice as it is true at `now_ns`.
    pub(super) fn tell(&mut self, now_ns: u64) {
        let (hole, age_ms) = (self.hole, age_ms(self.taken_ns, now_ns));
        if self.told == Some((hole, age_ms)) {
            return;
        }
        self.told = Some((hole, age_ms));
        let mut text = Vec::with_capacity(160);
        let channel = self.channel.as_str();
        json::encode_push(&Push::Lagged { channel, hole, age_ms }, &mut text);
        self.frame.clear();
        frame::push_text(&text, &mut self.frame);
        self.charge.set(GAP_BYTES + self.frame.capacity());
    }
}

/// How old at `now_ns` what was taken at `taken_ns` is, in milliseconds; both on the node's clock,
/// which nobody sets.
pub(super) fn age_ms(taken_ns: u64, now_ns: u64) -> u64 {
    now_ns.saturating_sub(taken_ns) / 1_000_000
}

/// One thing in the lane.
#[derive(Debug)]
pub(super) enum Item {
    /// A notice or an event that is shown to those who lag.
    Frame(Rc<Frame>),
    Gap(Box<Gap>),
    /// Nothing: what was here has left the lane, and the ranks are not closed yet. Never in front.
    Gone,
    /// Events that are not queued, because the subscription lags.
    Lag(Box<Lag>),
    /// Events of the time before a subscription, which count against no bound.
    Past(Slice),
    /// What of that is yet to be fetched.
    Recall(Box<Recall>),
    /// Bytes that go out after everything queued before them, such as a close frame.
    Last(Box<[u8]>),
    Slice(Slice),
}

impl Item {
    /// Its channel, but for what is shown to one that lags.
    pub(super) fn alias(&self) -> Option<Alias> {
        match self {
            Self::Gap(gap) => Some(gap.alias),
            Self::Lag(lag) => Some(lag.alias),
            Self::Slice(slice) => Some(slice.run.alias()),
            Self::Past(slice) => Some(slice.run.alias()),
            Self::Recall(recall) => recall.channel().map(|(alias, _)| alias),
            Self::Frame(_) | Self::Gone | Self::Last(_) => None,
        }
    }

    /// The first offset of its channel that it has, or names as lost.
    pub(super) fn begins(&self) -> Option<u64> {
        match self {
            Self::Gap(gap) => Some(gap.hole.from),
            Self::Lag(lag) => lag.begins(),
            Self::Past(slice) | Self::Slice(slice) => Some(slice.run.offset(slice.from)),
            Self::Frame(_) | Self::Gone | Self::Last(_) | Self::Recall(_) => None,
        }
    }

    /// All its bytes, where they are in one piece: not those of a large event.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => &frame.bytes,
            Self::Gap(gap) => &gap.frame,
            Self::Gone | Self::Lag(_) | Self::Recall(_) => &[],
            Self::Last(bytes) => bytes,
            Self::Past(slice) | Self::Slice(slice) => slice.run.slice(slice.from, slice.to),
        }
    }

    /// The large event that this is.
    pub(super) fn large(&self) -> Option<&Large> {
        match self {
            Self::Frame(frame) => frame.large.as_deref(),
            Self::Past(slice) | Self::Slice(slice) => slice.run.large(),
            Self::Gap(_) | Self::Gone | Self::Lag(_) | Self::Last(_) | Self::Recall(_) => None,
        }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        match self.as_bytes() {
            [] => self.large().map_or(0, Large::len),
            bytes => bytes.len(),
        }
    }

    /// Where a frame ends of which `cut` bytes of its first event are a part, or do end it; and
    /// where that event ends.
    pub(super) fn boundary(&self, cut: usize) -> (usize, usize) {
        match self.large() {
            Some(large) => (large.boundary(cut), large.len()),
            None => {
                let end = self.split().0.len();
                (end, end)
            }
        }
    }

    /// The first frame, and what follows it; of what is in one piece. Of events that share a frame
    /// the first has all its bytes.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Frame(_)
            | Self::Gap(_)
            | Self::Gone
            | Self::Lag(_)
            | Self::Last(_)
            | Self::Recall(_) => (self.as_bytes(), &[]),
            Self::Past(slice) | Self::Slice(slice) => {
                let second = slice.from + 1;
                (slice.run.slice(slice.from, second), slice.run.slice(second, slice.to))
            }
        }
    }
}
