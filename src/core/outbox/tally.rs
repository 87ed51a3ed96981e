//! Where each channel stands in the data lane of a queue that overflows: so that what comes for one
//! channel finds its own there without a walk along the lane.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::item::Item;
use crate::proto::name::Alias;

/// A place in the lane. It is found from the end, so it stays what it is whatever leaves the lane or
/// comes into it in front. It comes round after some 4,000 million others.
pub(super) type Place = u32;

/// What one channel has in the lane.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Own {
    /// The first and the last of its slices and gaps.
    ends: Option<(Place, Place)>,
    /// Where it lags.
    lag: Option<Place>,
}

/// What every channel has in the lane.
///
/// Invariants: `next` is as long as the lane; the last slice or gap of a channel has itself there.
#[derive(Debug, Default)]
pub(super) struct Tally {
    own: HashMap<Alias, Own, RandomState>,
    /// For each slice and gap: the next of its channel, or itself.
    next: VecDeque<Place>,
    /// The place behind the last.
    end: Place,
    /// How many places are vacant.
    vacant: usize,
}

impl Tally {
    /// The tally of a lane.
    pub(super) fn of(lane: &VecDeque<Item>) -> Self {
        let mut tally = Self::default();
        tally.next.reserve(lane.len());
        lane.iter().for_each(|item| tally.ends_with(item));
        tally
    }

    /// Memory that it takes.
    pub(super) fn footprint(&self) -> usize {
        // The table has a byte for each of its places, of which an eighth stays free.
        let places = self.own.capacity().div_ceil(7) * 8;
        size_of::<Self>()
            + places * (size_of::<(Alias, Own)>() + 1)
            + self.next.capacity() * size_of::<Place>()
    }

    /// How many places are vacant.
    pub(super) fn vacant(&self) -> usize {
        self.vacant
    }

    /// Where a place is in the lane.
    pub(super) fn index(&self, place: Place) -> Option<usize> {
        self.next.len().checked_sub(self.end.wrapping_sub(place) as usize)
    }

    /// The place that is there in the lane.
    pub(super) fn place(&self, index: usize) -> Place {
        let behind = self.next.len().saturating_sub(index);
        self.end.wrapping_sub(u32::try_from(behind).unwrap_or(u32::MAX))
    }

    /// The first slice or gap of a channel.
    pub(super) fn first(&self, alias: Alias) -> Option<Place> {
        self.own.get(&alias)?.ends.map(|(first, _)| first)
    }

    /// The last slice or gap of a channel.
    pub(super) fn last(&self, alias: Alias) -> Option<Place> {
        self.own.get(&alias)?.ends.map(|(_, last)| last)
    }

    /// The slice or gap of its channel that follows the one at `place`.
    pub(super) fn after(&self, place: Place) -> Option<Place> {
        let next = self.next.get(self.index(place)?).copied();
        next.filter(|next| *next != place)
    }

    /// Where a channel lags.
    pub(super) fn lag(&self, alias: Alias) -> Option<Place> {
        self.own.get(&alias)?.lag
    }

    /// The item was put at the end of the lane.
    pub(super) fn ends_with(&mut self, item: &Item) {
        let place = self.end;
        self.end = place.wrapping_add(1);
        self.next.push_back(place);
        self.enters(item, place, true);
    }

    /// The item was put in front of the lane.
    pub(super) fn begins_with(&mut self, item: &Item) {
        let place = self.place(0).wrapping_sub(1);
        self.next.push_front(place);
        self.enters(item, place, false);
    }

    /// Notes the item at `place`, which is the last of the lane, or the first.
    fn enters(&mut self, item: &Item, place: Place, last: bool) {
        match item {
            Item::Frame(_) | Item::Last(_) | Item::Past(_) | Item::Recall(_) => {}
            Item::Gap(_) | Item::Slice(_) => {
                let Some(own) = item.alias().map(|alias| self.own.entry(alias).or_default()) else {
                    return;
                };
                match own.ends {
                    None => own.ends = Some((place, place)),
                    Some((first, before)) if last => {
                        own.ends = Some((first, place));
                        self.link(before, place);
                    }
                    Some((behind, end)) => {
                        own.ends = Some((place, end));
                        self.link(place, behind);
                    }
                }
            }
            Item::Gone => self.vacant += 1,
            Item::Lag(lag) => self.own.entry(lag.alias).or_default().lag = Some(place),
        }
    }

    /// The item in front is about to leave the lane.
    pub(super) fn leaves(&mut self, item: &Item) {
        let place = self.place(0);
        match item {
            Item::Frame(_) | Item::Last(_) | Item::Past(_) | Item::Recall(_) => {}
            Item::Gap(_) | Item::Lag(_) | Item::Slice(_) => {
                self.vacate(item, None, place);
                self.vacant -= 1;
            }
            Item::Gone => self.vacant -= 1,
        }
        self.next.pop_front();
    }

    /// The item at `place` leaves it vacant; `before` is the slice or gap of its channel before it.
    pub(super) fn vacate(&mut self, item: &Item, before: Option<Place>, place: Place) {
        self.vacant += 1;
        let Some(alias) = item.alias() else { return };
        let next = self.after(place);
        let Some(own) = self.own.get_mut(&alias) else { return };
        if matches!(item, Item::Lag(_)) {
            own.lag = None;
        } else if let Some((first, last)) = own.ends {
            own.ends = match (before, next) {
                (None, None) => None,
                (None, Some(next)) => Some((next, last)),
                (Some(before), None) => {
                    own.ends = Some((first, before));
                    self.link(before, before);
                    return;
                }
                (Some(before), Some(next)) => {
                    self.link(before, next);
                    return;
                }
            };
        }
        if *own == Own::default() {
            self.own.remove(&alias);
        }
    }

    fn link(&mut self, place: Place, next: Place) {
        if let Some(link) = self.index(place).and_then(|at| self.next.get_mut(at)) {
            *link = next;
        }
    }

    /// Whether it is that of this lane.
    pub(super) fn is_of(&self, lane: &VecDeque<Item>) -> bool {
        let other = Self::of(lane);
        let same = |alias: &Alias| {
            let own = |tally: &Self| {
                let mut own = Vec::new();
                let mut next = tally.first(*alias);
                while let Some(place) = next {
                    own.push(tally.index(place));
                    next = tally.after(place);
                }
                let at = |place: Option<Place>| place.and_then(|place| tally.index(place));
                (own, at(tally.last(*alias)), at(tally.lag(*alias)))
            };
            own(self) == own(&other)
        };
        (self.next.len(), self.vacant, self.own.len())
            == (lane.len(), other.vacant, other.own.len())
            && other.own.keys().all(same)
    }
}
