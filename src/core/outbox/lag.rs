//! A subscription that lags under `latest`: nothing of its events is queued, only since where it
//! has missed them. When the socket has room, the hole is told, and the newest event of each key in
//! it is shown out of the table that all subscribers of the channel share.

use std::rc::Rc;

use super::item::{GAP_BYTES, Gap, Item, Slice, age_ms};
use super::lane::SHORT;
use super::{LANE_LAGGING, Outbox, SLICES_MAX};
use crate::core::account::Charge;
use crate::core::latest::{Frame, Latest};
use crate::core::run::Run;
use crate::proto::dialect::json;
use crate::proto::encoder::Encoder;
use crate::proto::format::Format;
use crate::proto::name::{Alias, ChannelName, ClientId};
use crate::proto::push::{Hole, Push};
use crate::proto::ws::frame;

/// Bytes of snapshots after which no more are put before a socket at once.
const SHOWN_BYTES: usize = 64 * 1024;

/// A hole that is not yet told. It ends with the last event of the channel.
#[derive(Debug, Clone, Copy)]
struct Missed {
    from: u64,
    /// When its first event was taken, node clock.
    taken_ns: u64,
    /// How many of its offsets were not for this client; how many frames were lost, where
    /// `conflated`.
    count: u64,
    /// How many of its events [`Outbox::lag`] has named as dropped, or a gap before it.
    counted: u64,
    /// The subscription is throttled: offsets between its frames are no loss.
    conflated: bool,
}

/// A subscription that lags, at its place in the lane.
#[derive(Debug)]
pub(super) struct Lag {
    channel: ChannelName,
    pub(super) alias: Alias,
    missed: Option<Missed>,
    /// What is left to show of the hole that was told: the newest events after the first of these
    /// offsets, up to the second.
    shown: Option<(u64, u64)>,
    /// Its memory.
    pub(super) charge: Charge,
}

/// There is one for each stalled subscriber.
const _: () = assert!(size_of::<Lag>() <= 112);

/// Who is shown something.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Its own events may be hidden from it.
    pub client: ClientId,
    /// The form that it speaks.
    pub format: Format,
    /// What makes the frames.
    pub encoder: &'a mut Encoder,
}

/// What became of a subscription that lags, once the lane was written up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It has missed nothing more, and is live again.
    CaughtUp,
    /// It waits behind what else is queued for its next hole to be told.
    Later,
    /// There is something to write.
    Ready {
        /// Whether the whole hole is told, so that the next event that is missed begins another.
        told: bool,
        /// Where the hole ends that was told last.
        upto: u64,
        /// Events of the hole that were not named as dropped before.
        dropped: u64,
    },
}

impl Outbox {
    /// Begins to lag with `slice`: everything of its channel leaves the lane, but a frame on its
    /// way and what is older than the offset `floor`, of which no table knows. Returns how many
    /// events went.
    pub fn lag(&mut self, slice: &Slice, floor: u64) -> u64 {
        let run = &slice.run;
        let alias = run.alias();
        let (mut from, mut taken_ns) = (run.offset(slice.from), run.event_ns(slice.from));
        let (mut dropped, mut told) = (slice.events() as u64, 0);
        let mut before = None;
        let mut next = self.tally().first(alias);
        while let Some(place) = next {
            next = self.tally().after(place);
            let Some(at) = self.index(place) else { break };
            let begun = at == 0 && self.cut > 0;
            let (first, ts, keep) = match self.data.get_mut(at) {
                Some(Item::Gap(gap)) if !begun && gap.hole.from >= floor => {
                    told += gap.hole.dropped;
                    (gap.hole.from, gap.taken_ns, false)
                }
                Some(Item::Slice(here)) => {
                    let run = Rc::clone(&here.run);
                    let known = run.after(floor.saturating_sub(1));
                    let upto = run.frame_from(known).max(here.droppable(begun)).min(here.to);
                    let keep = upto > here.from;
                    let lost = Slice { run, from: upto, to: std::mem::replace(&mut here.to, upto) };
                    if keep && at > 0 {
                        *here = here.clone().fit();
                    }
                    self.bytes -= lost.bytes();
                    self.events -= lost.events();
                    dropped += lost.events() as u64;
                    match lost.events() {
                        0 => (from, taken_ns, keep),
                        _ => (lost.run.offset(upto), lost.run.event_ns(upto), keep),
                    }
                }
                _ => (from, taken_ns, true),
            };
            if first < from {
                (from, taken_ns) = (first, ts);
            }
            if keep {
                before = Some(place);
            } else {
                self.take(before, place);
            }
        }
        let last = run.offset(slice.to.saturating_sub(1));
        let lost = dropped + told;
        let mut missed = Missed { from, taken_ns, count: lost, counted: lost, conflated: true };
        missed.count_frames(run.is_conflated(), last);
        let missed = Some(missed);
        let charge = Charge::new(run.account(), size_of::<Lag>());
        let lag = Lag { channel: run.channel().clone(), alias, missed, shown: None, charge };
        self.push_back(Item::Lag(Box::new(lag)));
        self.lags += 1;
        self.close_up();
        self.part();
        self.shrink();
        if self.data.len() <= SHORT {
            self.forget_tally();
        }
        self.check();
        dropped
    }

    /// Gives the slice in front, where it is a small part of its run, a run of its own; not where
    /// the run is shared by so many that their shares are smaller.
    pub(super) fn part(&mut self) {
        if let Some(Item::Slice(slice)) = self.data.front_mut() {
            let share = slice.run.footprint() / Rc::strong_count(&slice.run);
            if share > slice.bytes() + size_of::<Run>() {
                *slice = slice.clone().fit();
            }
        }
    }

    /// Gives back room that nothing needs while it lags.
    fn shrink(&mut self) {
        if self.data.is_empty() {
            self.forget_tally();
        }
        let keep = self.data.len().max(LANE_LAGGING);
        if self.data.capacity() > 2 * keep {
            self.data.shrink_to(keep);
        }
    }

    /// The frames of `run` from `first` on pass by a subscription that lags. Whether it has a hole
    /// that is not yet told.
    pub fn miss(&mut self, run: &Run, first: u32, client: ClientId) -> bool {
        let Some(lag) = self.lag_mut(run.alias()) else { return false };
        if run.is_conflated() {
            return lag.miss_conflated(run, first, client);
        }
        let mut from = first;
        let own = run.hidden().iter().filter(|(_, hidden_from)| *hidden_from == client);
        for (hidden, _) in own.filter(|(hidden, _)| *hidden >= first) {
            // The first that is meant for this client begins a hole; what is hidden before does
            // not.
            if lag.missed.is_none() && *hidden > from {
                lag.miss(run, from);
            }
            match &mut lag.missed {
                Some(missed) => missed.count += 1,
                None => from = hidden + 1,
            }
        }
        if lag.missed.is_none() && from < run.len() {
            lag.miss(run, from);
        }
        lag.missed.is_some()
    }

    /// The channel of the subscription that lags, when all that is queued before it is written.
    pub fn lagging(&self) -> Option<Alias> {
        match self.data.front() {
            Some(Item::Lag(lag)) => Some(lag.alias),
            Some(_) | None => None,
        }
    }

    /// Puts before the lane what its subscription in front has missed, or some of it.
    pub fn show(&mut self, table: &mut Latest, reader: Reader<'_>, now_ns: u64) -> Shown {
        let Reader { client, format, encoder } = reader;
        let Some(Item::Lag(mut lag)) = self.pop_front() else { return Shown::CaughtUp };
        self.lags -= 1;
        self.shrink();
        let mut frames = Vec::with_capacity(SLICES_MAX);
        let (mut bytes, mut dropped) = (0, 0);
        loop {
            if lag.shown.is_none() {
                match lag.tell(table.head(), now_ns) {
                    None => return Shown::CaughtUp,
                    Some((notice, more)) => {
                        dropped += more;
                        frames.push(Rc::new(notice));
                    }
                }
            }
            let Some((after, upto)) = &mut lag.shown else { return Shown::CaughtUp };
            // One place for the control lane.
            while frames.len() < SLICES_MAX - 1 && bytes < SHOWN_BYTES {
                let Some((event, frame)) = table.next((*after, *upto), format, encoder) else {
                    break;
                };
                *after = event.offset;
                if event.hidden_from != Some(client) {
                    bytes += frame.len();
                    frames.push(frame);
                }
            }
            if !frames.is_empty() {
                break;
            }
            lag.shown = None;
            if lag.missed.is_some() && !self.data.is_empty() {
                self.push_back(Item::Lag(lag));
                self.lags += 1;
                return Shown::Later;
            }
        }
        let (told, upto) = (lag.missed.is_none(), lag.shown.map_or(0, |(_, upto)| upto));
        self.push_front(Item::Lag(lag));
        self.lags += 1;
        self.put_frames(frames);
        Shown::Ready { told, upto, dropped }
    }

    /// A subscription begins to be throttled, or ceases, when all up to the offset `head` was
    /// queued or missed. Where it lags, its losses are counted accordingly from there on.
    pub fn count_frames(&mut self, alias: Alias, conflated: bool, head: u64) {
        if let Some(lag) = self.lag_mut(alias)
            && let Some(missed) = &mut lag.missed
        {
            missed.count_frames(conflated, head);
        }
    }

    /// Takes back what was put before the lane and is not begun: a newer event may take its place
    /// until the socket has room again.
    pub fn withdraw(&mut self) {
        if !matches!(self.data.front(), Some(Item::Frame(_))) {
            return;
        }
        let mut frames = self.take_frames();
        if let Some(Item::Lag(lag)) = self.data.front_mut() {
            let begun = usize::from(self.cut > 0);
            let first = frames.iter().skip(begun).find_map(|frame| frame.offset);
            if let (Some(first), Some((after, _))) = (first, &mut lag.shown) {
                *after = first - 1;
            }
            let mut index = 0;
            frames.retain(|frame| {
                index += 1;
                frame.offset.is_none() || index <= begun
            });
        }
        self.put_frames(frames);
        self.shrink();
    }

    /// Takes what was put before the lane, with what is begun of it.
    fn take_frames(&mut self) -> Vec<Rc<Frame>> {
        let mut frames = Vec::new();
        while let Some(Item::Frame(_)) = self.data.front() {
            if let Some(Item::Frame(frame)) = self.pop_front() {
                frames.push(frame);
            }
        }
        frames
    }

    fn put_frames(&mut self, frames: Vec<Rc<Frame>>) {
        for frame in frames.into_iter().rev() {
            self.push_front(Item::Frame(frame));
        }
    }

    /// Takes what is shown of a channel from before the lane, but a frame that is on its way.
    pub(super) fn purge_frames(&mut self, alias: Alias) {
        if matches!(self.data.front(), Some(Item::Frame(_))) {
            let begun = usize::from(self.cut > 0);
            let mut index = 0;
            let mut frames = self.take_frames();
            frames.retain(|frame| {
                index += 1;
                frame.alias != alias || index <= begun
            });
            self.put_frames(frames);
        }
    }

    /// Ends the lagging of every channel that has a `head`, for they are left: its hole, up to that
    /// offset, is told, and nothing is shown any more. Returns how many events of it were not named
    /// as dropped before.
    pub fn give_up_where(&mut self, head: impl Fn(Alias) -> Option<u64>) -> u64 {
        let mut dropped = 0;
        self.data.retain_mut(|item| {
            let Item::Lag(lag) = item else { return !matches!(item, Item::Gone) };
            let Some(head) = head(lag.alias) else { return true };
            let Some(missed) = lag.missed else { return false };
            let (channel, alias) = (lag.channel.clone(), lag.alias);
            let hole = missed.hole(head);
            dropped += missed.uncounted(head);
            let (taken_ns, told, frame) = (missed.taken_ns, None, Vec::new());
            let charge = Charge::new(lag.charge.account(), GAP_BYTES);
            let gap = Gap { channel, alias, hole, taken_ns, told, frame, charge };
            *item = Item::Gap(Box::new(gap));
            true
        });
        self.recount();
        dropped
    }

    /// Events that subscriptions which lag have missed, and that were not named as dropped yet;
    /// `head` knows the last offset of a channel.
    pub fn untold(&self, head: impl Fn(Alias) -> Option<u64>) -> u64 {
        let lags = self.data.iter().filter_map(|item| match item {
            Item::Lag(lag) => Some((lag.missed?, head(lag.alias)?)),
            Item::Frame(_)
            | Item::Gap(_)
            | Item::Gone
            | Item::Last(_)
            | Item::Past(_)
            | Item::Recall(_)
            | Item::Slice(_) => None,
        });
        lags.map(|(missed, head)| missed.uncounted(head)).sum()
    }

    /// Whether a subscription lags.
    pub fn has_lag(&self) -> bool {
        self.lags > 0
    }
}

impl Missed {
    fn hole(self, head: u64) -> Hole {
        let dropped = if self.conflated { self.count } else { self.others(head) };
        Hole { from: self.from, to: head, dropped }
    }

    fn uncounted(self, head: u64) -> u64 {
        self.hole(head).dropped.saturating_sub(self.counted)
    }

    /// The offsets up to `head` that are not in the count.
    fn others(self, head: u64) -> u64 {
        (head + 1).saturating_sub(self.from).saturating_sub(self.count)
    }

    fn count_frames(&mut self, conflated: bool, head: u64) {
        if std::mem::replace(&mut self.conflated, conflated) != conflated {
            self.count = self.others(head);
        }
    }
}

impl Lag {
    pub(super) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The first offset that is missed and not shown.
    pub(super) fn begins(&self) -> Option<u64> {
        let shown = self.shown.map(|(after, _)| after + 1);
        shown.or(self.missed.map(|missed| missed.from))
    }

    /// When the first event was taken that it has missed and is yet to be told of, node clock.
    pub(super) fn missed_since(&self) -> Option<u64> {
        self.missed.map(|missed| missed.taken_ns)
    }

    /// As [`Outbox::miss`], of a throttled subscription: its frames are counted.
    fn miss_conflated(&mut self, run: &Run, first: u32, client: ClientId) -> bool {
        let (mut from, mut meant) = (first, run.len() - first);
        for (own, _) in run.hidden().iter().filter(|(at, own)| *at >= first && *own == client) {
            meant -= 1;
            if *own == from {
                from += 1;
            }
        }
        if self.missed.is_none() && meant > 0 {
            self.miss(run, from);
        }
        if let Some(missed) = &mut self.missed {
            missed.count += u64::from(meant);
        }
        self.missed.is_some()
    }

    fn miss(&mut self, run: &Run, from: u32) {
        let (from, taken_ns) = (run.offset(from), run.event_ns(from));
        let conflated = run.is_conflated();
        self.missed = Some(Missed { from, taken_ns, count: 0, counted: 0, conflated });
    }

    /// Makes the notice of what was missed up to `head`, all of which is to be shown; and says how
    /// many events of it were not named as dropped before.
    fn tell(&mut self, head: u64, now_ns: u64) -> Option<(Frame, u64)> {
        let missed = self.missed.take()?;
        let age_ms = age_ms(missed.taken_ns, now_ns);
        let (channel, hole) = (self.channel.as_str(), missed.hole(head));
        let mut text = Vec::with_capacity(160);
        json::encode_push(&Push::Lagged { channel, hole, age_ms }, &mut text);
        self.shown = Some((missed.from - 1, head));
        let bytes = frame::text(&text).into_boxed_slice();
        let (alias, offset, large) = (self.alias, None, None);
        let notice = Frame { alias, offset, taken_ns: 0, bytes, large };
        Some((notice, missed.uncounted(head)))
    }
}
