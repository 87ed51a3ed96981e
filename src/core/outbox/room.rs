//! Drops what has no room, the oldest or the newest of a channel, and keeps the account of it.

use std::cell::Cell;
use std::rc::Rc;

use super::item::{GAP_BYTES, Gap, Item, Slice};
use super::tally::Tally;
use super::{Outbox, OutboxLimit};
use crate::core::account::Charge;
use crate::core::run::Run;
use crate::proto::name::Alias;
use crate::proto::push::Hole;

impl Outbox {
    /// Queues a slice, and drops as many of the oldest queued events of its channel (and where
    /// that is not enough, of its own oldest) as the limits ask for. Returns how many went.
    pub fn push_dropping_oldest(&mut self, mut slice: Slice, limit: OutboxLimit) -> u64 {
        let alias = slice.run.alias();
        self.count_lane();
        let (mut dropped, gap) =
            if self.has_droppable(alias) { self.drop_oldest(&slice, limit) } else { (0, None) };
        // What is still too much is the new events' own oldest part.
        let own = slice.from;
        let mut over = self.over(&slice, limit);
        while slice.from < slice.to && !over.is_none() {
            slice.from += 1;
            over = self.over(&slice, limit);
        }
        if slice.from > own {
            dropped += u64::from(slice.from - own);
            let lost = Slice { run: Rc::clone(&slice.run), from: own, to: slice.from };
            self.widen_last(gap, &lost);
        }
        let (bytes, events) = (slice.bytes(), slice.events());
        self.append(slice, bytes, events);
        self.check();
        dropped
    }

    /// Queues as many of the slice's first frames as have room; the others go. Returns how many.
    pub fn push_dropping_newest(&mut self, mut slice: Slice, limit: OutboxLimit) -> u64 {
        self.count_lane();
        let room = limit.bytes.saturating_sub(self.bytes);
        let by_bytes = slice.run.frame_at(slice.run.start(slice.from) + room);
        let events = limit.events.saturating_sub(self.events);
        let by_events = slice.from.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        let upto = by_bytes.min(by_events).clamp(slice.from, slice.to);
        let lost = Slice { run: Rc::clone(&slice.run), from: upto, to: slice.to };
        slice.to = upto;
        let (bytes, events) = (slice.bytes(), slice.events());
        self.append(slice, bytes, events);
        if lost.from < lost.to {
            self.widen_last(None, &lost);
        }
        self.check();
        u64::from(lost.to - lost.from)
    }

    /// Begins the tally of a lane that overflows.
    fn count_lane(&mut self) {
        if self.tally.is_none() {
            self.tally = Some(Box::new(Tally::of(&self.data)));
        }
    }

    /// What would be too much with `slice`.
    fn over(&self, slice: &Slice, limit: OutboxLimit) -> Over {
        Over {
            bytes: (self.bytes + slice.bytes()).saturating_sub(limit.bytes),
            events: (self.events + slice.events()).saturating_sub(limit.events),
        }
    }

    /// Whether a channel has more in the lane than a frame on its way.
    fn has_droppable(&self, alias: Alias) -> bool {
        let slices = self.tally.as_ref().map_or(0, |tally| tally.slices(alias));
        let begun = match self.data.front() {
            Some(Item::Slice(front)) => {
                self.cut > 0 && front.run.alias() == alias && front.from + 1 == front.to
            }
            Some(_) | None => false,
        };
        slices > usize::from(begun)
    }

    /// Drops queued events of the channel of `slice`, oldest first, until that has room or none
    /// are left. Returns how many went, and where the gap is that the next one belongs to.
    fn drop_oldest(&mut self, slice: &Slice, limit: OutboxLimit) -> (u64, Option<usize>) {
        let (mut dropped, mut at, mut gap) = (0, 0, None);
        while at < self.data.len() {
            let over = self.over(slice, limit);
            if over.is_none() {
                break;
            }
            match self.visit(at, slice.run.alias(), gap, over) {
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
        (dropped, gap)
    }

    /// Looks at the item `at` on the way to make room in the channel `alias`.
    fn visit(&mut self, at: usize, alias: Alias, gap: Option<usize>, over: Over) -> Visit {
        let begun = at == 0 && self.cut > 0;
        match self.data.get(at) {
            Some(Item::Gap(here)) if here.alias == alias => {
                let hole = here.hole.get();
                match gap {
                    // Not the one that the slice before it has just left here.
                    Some(first) if first < at => {
                        if let Some(Item::Gap(first)) = self.data.get(first) {
                            extend(&first.hole, hole);
                        }
                        self.remove(at);
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
            Some(_) | None => Visit::Kept { gap },
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
                        if let Some(tally) = &mut self.tally {
                            tally.parted(rest.run.alias());
                        }
                        self.data.insert(at + 1, Item::Slice(rest.fit()));
                    }
                    let gap = self.widen(None, at + 1, lost);
                    return if whole {
                        Visit::Kept { gap: Some(gap) }.counting(events)
                    } else {
                        Visit::Trimmed { events }
                    };
                }
                here.from = lost.to;
                if !whole {
                    *here = here.clone().fit();
                }
                whole
            }
            _ => false,
        };
        if whole {
            self.remove(at);
            let gap = self.widen(gap, at, lost);
            Visit::Removed { events, gap: Some(gap) }
        } else {
            self.widen(gap, at, lost);
            Visit::Trimmed { events }
        }
    }

    fn remove(&mut self, at: usize) {
        if let (Some(gone), Some(tally)) = (self.data.remove(at), &mut self.tally) {
            tally.left(&gone);
        }
    }

    /// Adds `lost` to the gap at `gap`, or makes one at `at`. Returns where it is.
    fn widen(&mut self, gap: Option<usize>, at: usize, lost: &Slice) -> usize {
        if let Some(index) = gap
            && let Some(Item::Gap(gap)) = self.data.get(index)
        {
            extend(&gap.hole, hole(lost));
            return index;
        }
        self.data.insert(at, Item::Gap(Box::new(gap_of(lost))));
        at
    }

    /// Adds `lost` to the gap at `gap`, or else to one that is the last thing queued of its
    /// channel and may still grow, or makes one at the end.
    fn widen_last(&mut self, gap: Option<usize>, lost: &Slice) {
        let alias = lost.run.alias();
        let last = self.tally.as_ref().and_then(|tally| tally.last_gap(alias));
        let begun = match self.data.front() {
            Some(Item::Gap(front)) if self.cut > 0 => Some(&front.hole),
            Some(_) | None => None,
        };
        if gap.is_none()
            && let Some(last) = last
            && begun.is_none_or(|begun| !Rc::ptr_eq(begun, last))
        {
            extend(last, hole(lost));
            return;
        }
        let at = self.widen(gap, self.data.len(), lost);
        if let (Some(Item::Gap(gap)), Some(tally)) = (self.data.get(at), &mut self.tally) {
            tally.ends_with_gap(alias, &gap.hole);
        }
    }
}

/// The hole that dropping `lost` leaves.
fn hole(lost: &Slice) -> Hole {
    let (from, to) = (lost.run.offset(lost.from), lost.run.offset(lost.to.saturating_sub(1)));
    Hole { from, to, dropped: u64::from(lost.to - lost.from) }
}

/// The gap that dropping `lost` leaves.
fn gap_of(lost: &Slice) -> Gap {
    Gap {
        channel: lost.run.channel().clone(),
        alias: lost.run.alias(),
        hole: Rc::new(Cell::new(hole(lost))),
        ts_ms: lost.run.ts_ms(lost.from),
        told: None,
        frame: Vec::new(),
        charge: Charge::new(lost.run.account(), GAP_BYTES),
    }
}

/// Adds a later hole of the same channel.
fn extend(hole: &Cell<Hole>, more: Hole) {
    let before = hole.get();
    hole.set(Hole { to: more.to, dropped: before.dropped + more.dropped, ..before });
}

/// What is beyond the limits.
#[derive(Debug, Clone, Copy)]
struct Over {
    bytes: usize,
    events: usize,
}

impl Over {
    fn is_none(self) -> bool {
        self.bytes == 0 && self.events == 0
    }
}

/// The first frame that may stay when `over` bytes and events must go.
fn enough(run: &Run, (first, end): (u32, u32), over: Over) -> u32 {
    let by_bytes = run.frame_at((run.start(first) + over.bytes).saturating_sub(1)) + 1;
    let by_events = first + u32::try_from(over.events).unwrap_or(u32::MAX - first);
    let by_bytes = if over.bytes == 0 { first } else { by_bytes };
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
