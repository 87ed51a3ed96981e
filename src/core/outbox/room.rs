//! Drops what has no room, the oldest or the newest of a channel, and keeps the account of it.

use std::rc::Rc;

use super::item::{GAP_BYTES, Gap, Item, Slice};
use super::tally::Place;
use super::{Outbox, OutboxLimit};
use crate::core::account::Charge;
use crate::core::run::Run;
use crate::proto::push::Hole;

impl Outbox {
    /// Queues a slice, and drops as many of the oldest queued events of its channel (and where
    /// that is not enough, of its own oldest) as the limits ask for. Returns how many went.
    pub fn push_dropping_oldest(&mut self, mut slice: Slice, limit: OutboxLimit) -> u64 {
        self.tally();
        let mut dropped = self.drop_oldest(&slice, limit);
        // What is still too much is the new events' own oldest part.
        let own = slice.from;
        let mut over = self.over(&slice, limit);
        while slice.from < slice.to && !over.is_none() {
            slice.from = slice.run.frame_end(slice.from);
            over = self.over(&slice, limit);
        }
        if slice.from > own {
            dropped += u64::from(slice.from - own);
            let lost = Slice { run: Rc::clone(&slice.run), from: own, to: slice.from };
            self.widen_last(&lost);
        }
        let (bytes, events) = (slice.bytes(), slice.events());
        self.append(slice, bytes, events);
        self.close_up();
        self.check();
        dropped
    }

    /// Queues as many of the slice's first frames as have room; the others go. Returns how many.
    pub fn push_dropping_newest(&mut self, mut slice: Slice, limit: OutboxLimit) -> u64 {
        self.tally();
        let room = limit.bytes.saturating_sub(self.bytes);
        let by_bytes = slice.run.frame_at(slice.run.start(slice.from) + room);
        let events = limit.events.saturating_sub(self.events);
        let by_events = slice.from.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        let upto = slice.run.frame_upto(by_bytes.min(by_events)).clamp(slice.from, slice.to);
        let lost = Slice { run: Rc::clone(&slice.run), from: upto, to: slice.to };
        slice.to = upto;
        let (bytes, events) = (slice.bytes(), slice.events());
        self.append(slice, bytes, events);
        if lost.from < lost.to {
            self.widen_last(&lost);
        }
        self.check();
        u64::from(lost.to - lost.from)
    }

    /// What would be too much with `slice`.
    fn over(&self, slice: &Slice, limit: OutboxLimit) -> Over {
        Over {
            bytes: (self.bytes + slice.bytes()).saturating_sub(limit.bytes),
            events: (self.events + slice.events()).saturating_sub(limit.events),
        }
    }

    /// Drops queued events of the channel of `slice`, oldest first, until that has room or none
    /// are left. Returns how many went.
    fn drop_oldest(&mut self, slice: &Slice, limit: OutboxLimit) -> u64 {
        let alias = slice.run.alias();
        let mut dropped = 0;
        // What of the channel was last passed by, and where the gap is that the next loss widens.
        let (mut before, mut gap) = (None, None);
        let mut next = self.tally().first(alias);
        while let Some(place) = next {
            let over = self.over(slice, limit);
            if over.is_none() {
                break;
            }
            next = self.tally().after(place);
            match self.visit(place, (before, gap), over) {
                Visit::Kept { gap: known } => (before, gap) = (Some(place), known),
                Visit::Removed { events } => dropped += events,
                Visit::Became { events, gap: known } => {
                    dropped += events;
                    (before, gap) = (Some(known), Some(known));
                }
                Visit::Trimmed { events } => {
                    dropped += events;
                    break;
                }
            }
        }
        dropped
    }

    /// Looks at a slice or gap on the way to make room in its channel. `before` is the one before
    /// it, and `gap` the one that is directly before it as the client reads.
    fn visit(
        &mut self,
        place: Place,
        (before, gap): (Option<Place>, Option<Place>),
        over: Over,
    ) -> Visit {
        let Some(at) = self.index(place) else { return Visit::Kept { gap } };
        let begun = at == 0 && self.cut > 0;
        match self.data.get_mut(at) {
            Some(Item::Gap(here)) => {
                let hole = here.hole;
                if let Some(first) = gap {
                    self.take(before, place);
                    self.widen(first, hole);
                    return Visit::Removed { events: 0 };
                }
                // A notice that is half written cannot grow.
                Visit::Kept { gap: (!begun).then_some(place) }
            }
            Some(Item::Slice(here)) => {
                let (first, end) = (here.droppable(begun), here.to);
                if first >= end {
                    return Visit::Kept { gap: None };
                }
                let upto = enough(&here.run, (first, end), over);
                let lost = Slice { run: Rc::clone(&here.run), from: first, to: upto };
                self.bytes -= lost.bytes();
                self.events -= lost.events();
                if begun {
                    return self.part_front(&lost);
                }
                self.drop_slice((at, place), (before, gap), &lost)
            }
            Some(
                Item::Frame(_)
                | Item::Gone
                | Item::Lag(_)
                | Item::Last(_)
                | Item::Past(_)
                | Item::Recall(_),
            )
            | None => Visit::Kept { gap },
        }
    }

    /// Takes `lost` out of the slice in front, of which a frame is on its way: that stays alone,
    /// and what follows the hole stands behind it.
    fn part_front(&mut self, lost: &Slice) -> Visit {
        let events = lost.events() as u64;
        let Some(Item::Slice(mut front)) = self.pop_front() else {
            return Visit::Trimmed { events };
        };
        let whole = lost.to == front.to;
        if !whole {
            let rest = Slice { run: Rc::clone(&front.run), from: lost.to, to: front.to };
            self.push_front(Item::Slice(rest.fit()));
        }
        front.to = lost.from;
        self.push_front(Item::Gap(Box::new(gap_of(lost))));
        self.push_front(Item::Slice(front));
        if whole {
            Visit::Became { events, gap: self.tally().place(1) }
        } else {
            Visit::Trimmed { events }
        }
    }

    /// Takes `lost`, the front of the slice that is there, out of the lane.
    fn drop_slice(
        &mut self,
        (at, place): (usize, Place),
        (before, gap): (Option<Place>, Option<Place>),
        lost: &Slice,
    ) -> Visit {
        let events = lost.events() as u64;
        let Some(item) = self.data.get_mut(at) else { return Visit::Trimmed { events } };
        if let Item::Slice(here) = item
            && lost.to < here.to
        {
            here.from = lost.to;
            *here = here.clone().fit();
            match gap {
                Some(gap) => self.widen(gap, hole(lost)),
                None => self.insert(at, Item::Gap(Box::new(gap_of(lost)))),
            }
            return Visit::Trimmed { events };
        }
        if let Some(gap) = gap {
            self.take(before, place);
            self.widen(gap, hole(lost));
            return Visit::Removed { events };
        }
        // In the place of the slice, and as much a part of its channel.
        *item = Item::Gap(Box::new(gap_of(lost)));
        Visit::Became { events, gap: place }
    }

    /// Adds a later hole to the gap at `place`.
    fn widen(&mut self, place: Place, more: Hole) {
        let at = self.index(place);
        if let Some(Item::Gap(gap)) = at.and_then(|at| self.data.get_mut(at)) {
            gap.widen(more);
        }
    }

    /// Adds `lost` to the gap that is the last thing queued of its channel and may still grow, or
    /// makes one at the end.
    fn widen_last(&mut self, lost: &Slice) {
        let last = self.tally().last(lost.run.alias()).and_then(|place| self.index(place));
        let last = last.filter(|at| *at > 0 || self.cut == 0);
        if let Some(Item::Gap(gap)) = last.and_then(|at| self.data.get_mut(at)) {
            gap.widen(hole(lost));
            return;
        }
        self.push_back(Item::Gap(Box::new(gap_of(lost))));
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
        hole: hole(lost),
        taken_ns: lost.run.event_ns(lost.from),
        told: None,
        frame: Vec::new(),
        charge: Charge::new(lost.run.account(), GAP_BYTES),
    }
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
    run.frame_from(by_bytes.max(by_events)).clamp(first, end)
}

/// What became of an item on the way to make room.
enum Visit {
    /// It is a gap now, or one stands behind it.
    Became { events: u64, gap: Place },
    /// It stands where it was.
    Kept { gap: Option<Place> },
    /// It has left the lane.
    Removed { events: u64 },
    /// Some of it went, and there is room.
    Trimmed { events: u64 },
}
