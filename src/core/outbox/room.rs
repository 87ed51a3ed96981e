//! Makes room by dropping the oldest of a channel, and keeps the account of what went.

use std::rc::Rc;

use super::item::{Gap, Item, Slice};
use super::{Outbox, OutboxLimit};
use crate::core::run::Run;
use crate::proto::name::Alias;
use crate::proto::push::Hole;

impl Outbox {
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
            return index;
        }
        let gap = Gap {
            channel: lost.run.channel().clone(),
            alias: lost.run.alias(),
            hole: Hole { from, to, dropped },
            ts_ms: lost.run.ts_ms(lost.from),
            told: None,
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
