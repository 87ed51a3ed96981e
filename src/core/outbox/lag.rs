//! A subscription that lags under `latest`: nothing of its events is queued, only since where it
//! has missed them. When the socket has room, the hole is told, and the newest event of each key in
//! it is shown out of the table that all subscribers of the channel share.

use std::cell::Cell;
use std::rc::Rc;

use super::item::{GAP_BYTES, Gap, Item, Slice};
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
    /// When its first event was taken, Unix time.
    ts_ms: u64,
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
        let (mut from, mut ts_ms) = (run.offset(slice.from), run.ts_ms(slice.from));
        let (mut dropped, mut told) = (slice.events() as u64, 0);
        let mut begun = self.cut > 0;
        self.data.retain_mut(|item| {
            let begun = std::mem::take(&mut begun);
            let (first, ts, keep) = match item {
                Item::Gap(gap) if gap.alias == alias && !begun => {
                    let hole = gap.hole.get();
                    if hole.from < floor {
                        return true;
                    }
                    told += hole.dropped;
                    (hole.from, gap.ts_ms, false)
                }
                Item::Slice(slice) if slice.run.alias() == alias => {
                    let run = &slice.run;
                    let known = run.after(floor.saturating_sub(1));
                    let upto = known.max(slice.from + u32::from(begun)).min(slice.to);
                    if upto == slice.to {
                        return true;
                    }
                    dropped += u64::from(slice.to - upto);
                    let first = (run.offset(upto), run.ts_ms(upto), upto > slice.from);
                    slice.to = upto;
                    first
                }
                Item::Frame(_) | Item::Gap(_) | Item::Lag(_) | Item::Last(_) | Item::Slice(_) => {
                    return true;
                }
            };
            if first < from {
                (from, ts_ms) = (first, ts);
            }
            keep
        });
        let last = run.offset(slice.to.saturating_sub(1));
        let lost = dropped + told;
        let mut missed = Missed { from, ts_ms, count: lost, counted: lost, conflated: true };
        missed.count_frames(run.is_conflated(), last);
        let missed = Some(missed);
        let charge = Charge::new(run.account(), size_of::<Lag>());
        let lag = Lag { channel: run.channel().clone(), alias, missed, shown: None, charge };
        self.part();
        self.data.push_back(Item::Lag(Box::new(lag)));
        self.shrink();
        self.recount();
        self.check();
        dropped
    }

    /// Gives slices that are a small part of their run a run of their own; the one in front not
    /// where the run is shared by so many that their shares are smaller.
    pub(super) fn part(&mut self) {
        for (at, item) in self.data.iter_mut().enumerate() {
            if let Item::Slice(slice) = item {
                let share = slice.run.footprint() / Rc::strong_count(&slice.run);
                if at > 0 || share > slice.bytes() + size_of::<Run>() {
                    *slice = slice.clone().fit();
                }
            }
        }
    }

    /// Gives back room that nothing needs while it lags.
    fn shrink(&mut self) {
        let keep = self.data.len().max(LANE_LAGGING);
        if self.data.capacity() > 2 * keep {
            self.data.shrink_to(keep);
        }
    }

    /// The frames of `run` from `first` on pass by a subscription that lags. Whether it has a hole
    /// that is not yet told.
    pub fn miss(&mut self, run: &Run, first: u32, client: ClientId) -> bool {
        let found = self.data.iter_mut().find_map(|item| match item {
            Item::Lag(lag) if lag.alias == run.alias() => Some(lag),
            Item::Frame(_) | Item::Gap(_) | Item::Lag(_) | Item::Last(_) | Item::Slice(_) => None,
        });
        let Some(lag) = found else { return false };
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
    pub fn show(&mut self, table: &mut Latest, reader: Reader<'_>, unix_ms: u64) -> Shown {
        let Reader { client, format, encoder } = reader;
        let Some(Item::Lag(mut lag)) = self.data.pop_front() else { return Shown::CaughtUp };
        self.lags -= 1;
        self.shrink();
        let mut frames = Vec::with_capacity(SLICES_MAX);
        let (mut bytes, mut dropped) = (0, 0);
        loop {
            if lag.shown.is_none() {
                match lag.tell(table.head(), unix_ms) {
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
                self.data.push_back(Item::Lag(lag));
                self.lags += 1;
                return Shown::Later;
            }
        }
        let (told, upto) = (lag.missed.is_none(), lag.shown.map_or(0, |(_, upto)| upto));
        self.data.push_front(Item::Lag(lag));
        self.lags += 1;
        for frame in frames.into_iter().rev() {
            self.data.push_front(Item::Frame(frame));
        }
        Shown::Ready { told, upto, dropped }
    }

    /// A subscription begins to be throttled, or ceases, when all up to the offset `head` was
    /// queued or missed. Where it lags, its losses are counted accordingly from there on.
    pub fn count_frames(&mut self, alias: Alias, conflated: bool, head: u64) {
        for item in &mut self.data {
            if let Item::Lag(lag) = item
                && lag.alias == alias
                && let Some(missed) = &mut lag.missed
            {
                missed.count_frames(conflated, head);
            }
        }
    }

    /// Takes back what was put before the lane and is not begun: a newer event may take its place
    /// until the socket has room again.
    pub fn withdraw(&mut self) {
        if !matches!(self.data.front(), Some(Item::Frame(_))) {
            return;
        }
        let lag = self.data.iter().position(|item| matches!(item, Item::Lag(_)));
        let begun = usize::from(self.cut > 0);
        let first = self.data.iter().skip(begun).find_map(|item| match item {
            Item::Frame(frame) => frame.offset,
            Item::Gap(_) | Item::Lag(_) | Item::Last(_) | Item::Slice(_) => None,
        });
        if let (Some(at), Some(first)) = (lag, first) {
            if let Some(Item::Lag(lag)) = self.data.get_mut(at)
                && let Some((after, _)) = &mut lag.shown
            {
                *after = first - 1;
            }
            let mut index = 0;
            self.data.retain(|item| {
                let shows = matches!(item, Item::Frame(frame) if frame.offset.is_some());
                index += 1;
                !shows || index <= begun
            });
        }
        self.shrink();
    }

    /// Ends the lagging of a channel that is left: its hole, up to the offset `head`, is told, and
    /// nothing is shown any more. Returns how many events of it were not named as dropped before.
    pub fn give_up(&mut self, alias: Alias, head: u64) -> u64 {
        self.give_up_where(|other| (other == alias).then_some(head))
    }

    /// Ends the lagging of every channel that has a `head`, likewise.
    pub fn give_up_where(&mut self, head: impl Fn(Alias) -> Option<u64>) -> u64 {
        let mut dropped = 0;
        self.data.retain_mut(|item| {
            let Item::Lag(lag) = item else { return true };
            let Some(head) = head(lag.alias) else { return true };
            let Some(missed) = lag.missed else { return false };
            let (channel, alias) = (lag.channel.clone(), lag.alias);
            let hole = Rc::new(Cell::new(missed.hole(head)));
            dropped += missed.uncounted(head);
            let (ts_ms, told, frame) = (missed.ts_ms, None, Vec::new());
            let charge = Charge::new(lag.charge.account(), GAP_BYTES);
            let gap = Gap { channel, alias, hole, ts_ms, told, frame, charge };
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
            Item::Frame(_) | Item::Gap(_) | Item::Last(_) | Item::Slice(_) => None,
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

    /// When the first event was taken that it has missed and is yet to be told of, Unix time.
    pub(super) fn missed_since(&self) -> Option<u64> {
        self.missed.map(|missed| missed.ts_ms)
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
        let (from, ts_ms) = (run.offset(from), run.ts_ms(from));
        let conflated = run.is_conflated();
        self.missed = Some(Missed { from, ts_ms, count: 0, counted: 0, conflated });
    }

    /// Makes the notice of what was missed up to `head`, all of which is to be shown; and says how
    /// many events of it were not named as dropped before.
    fn tell(&mut self, head: u64, unix_ms: u64) -> Option<(Frame, u64)> {
        let missed = self.missed.take()?;
        let age_ms = unix_ms.saturating_sub(missed.ts_ms);
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
