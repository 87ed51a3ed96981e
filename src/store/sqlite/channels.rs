//! The channels in memory, as the writer knows them, and when they leave it.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;

use super::aside::Aside;
use super::whole::Whole;
use crate::core::policy::Keep;
use crate::proto::name::ChannelName;
use crate::proto::position::Position;
use crate::store::memory::{IDLE_MS, Memory};

/// Channels that one look finds to be unused, or not.
const LOOK: usize = 4_096;

/// How long it takes to look at all of them, in milliseconds; and where there are too many.
const ROUND_MS: u64 = 10_000;
const ROUND_FULL_MS: u64 = 1_000;

/// Channels in memory beyond which those that nobody has used for a second go.
const MANY: usize = 131_072;

/// A channel as the writer knows it, while it is in memory.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    /// Its row; `None` while nothing was published.
    pub(super) row: Option<i64>,
    /// The last event that is safe.
    pub(super) head: Position,
    /// The last one that the batch at hand has.
    pub(super) next: u64,
    /// What the last event or subscription said about it.
    pub(super) keep: Keep,
    /// The oldest event in the file, or a lower offset.
    pub(super) first: u64,
    /// Its rows, with those of the batch at hand.
    pub(super) rows: Rows,
    /// The same without them.
    pub(super) safe: Rows,
}

/// Rows that are counted, so that they are cut when there are too many.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    /// Of `ids`.
    pub(super) ids: u64,
    /// Of `latest`, those that are too many, at most.
    pub(super) keys: u64,
}

/// The channels in memory, by place and by name, and those that the file refuses.
#[derive(Default)]
pub(super) struct Channels {
    pub(super) all: Slab<Channel>,
    pub(super) places: HashMap<Box<str>, usize, RandomState>,
    /// Also of those that are not in memory.
    pub(super) aside: Aside,
    /// The place where the next look begins.
    cursor: usize,
    /// When that is, node milliseconds.
    look_ms: u64,
}

impl Channels {
    /// One that was just loaded. Its place.
    pub(super) fn insert(&mut self, name: &str, channel: Channel) -> usize {
        let place = self.all.insert(channel);
        self.places.insert(name.into(), place);
        place
    }

    /// Whether a channel is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// A prefix is whole without its channels that cannot be read, until their time has come: then
    /// whoever subscribes to it has them tried again.
    pub(super) fn try_again(&mut self, whole: &Whole, now_ms: u64) {
        for channel in self.aside.due(now_ms).filter(|channel| !self.has(channel)) {
            whole.forget(channel);
        }
        self.aside.forget(now_ms);
    }

    /// When some of them are looked at next.
    pub(super) fn look_ms(&self) -> u64 {
        self.look_ms
    }

    /// Lets go of some of those that nobody uses, but for those that `held` says. Each call looks
    /// at a part of them, so that none of it holds up events.
    pub(super) fn release(
        &mut self,
        memory: &Memory,
        whole: &Whole,
        held: impl Fn(&str) -> bool,
        now_ms: u64,
    ) {
        if now_ms < self.look_ms {
            return;
        }
        let many = self.all.len() > MANY;
        let (idle_ms, round_ms) = if many { (1_000, ROUND_FULL_MS) } else { (IDLE_MS, ROUND_MS) };
        let before_ms = now_ms.saturating_sub(idle_ms);
        let places = self.all.capacity();
        let end = places.min(self.cursor + LOOK);
        for place in self.cursor..end {
            let Some(channel) = self.all.get(place) else { continue };
            let name = channel.name.as_str();
            if !held(name) && memory.release(name, before_ms, || whole.forget(name)) {
                self.places.remove(name);
                self.all.remove(place);
            }
        }
        self.cursor = if end < places { end } else { 0 };
        let share = (LOOK as u64).min(places.max(1) as u64);
        self.look_ms = now_ms + round_ms * share / places.max(1) as u64;
    }
}
