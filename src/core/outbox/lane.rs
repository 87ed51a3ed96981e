//! How things come into the data lane and leave it, so that its tally knows of it.

use std::collections::VecDeque;

use super::item::Item;
use super::lag::Lag;
use super::tally::{Place, Tally};
use super::{Aside, Outbox};
use crate::proto::name::Alias;

/// A lane of so many items is walked along sooner than a tally is made of it.
pub(super) const SHORT: usize = 8;

impl Outbox {
    // Every delivery passes here, and next to none has a tally.
    #[inline(always)]
    pub(super) fn push_back(&mut self, item: Item) {
        self.data.push_back(item);
        if self.aside.is_some() {
            self.note_last();
        }
    }

    #[cold]
    fn note_last(&mut self) {
        let tally = self.aside.as_mut().and_then(|aside| aside.tally.as_mut());
        if let (Some(tally), Some(last)) = (tally, self.data.back()) {
            tally.ends_with(last);
        }
    }

    pub(super) fn push_front(&mut self, item: Item) {
        if let Some(tally) = self.aside.as_mut().and_then(|aside| aside.tally.as_mut()) {
            tally.begins_with(&item);
        }
        self.data.push_front(item);
    }

    /// Takes the item in front, and the vacant places behind it.
    pub(super) fn pop_front(&mut self) -> Option<Item> {
        let first = self.pop_one();
        self.strip();
        first
    }

    fn pop_one(&mut self) -> Option<Item> {
        let tally = self.aside.as_mut().and_then(|aside| aside.tally.as_mut());
        if let (Some(tally), Some(first)) = (tally, self.data.front()) {
            tally.leaves(first);
        }
        self.data.pop_front()
    }

    /// Takes away the vacant places in front.
    pub(super) fn strip(&mut self) {
        while let Some(Item::Gone) = self.data.front() {
            self.pop_one();
        }
    }

    /// What each channel has in the lane.
    // A queue that overflows asks several times for each event; to make it is apart.
    #[inline(always)]
    pub(super) fn tally(&mut self) -> &mut Tally {
        let data = &self.data;
        let aside = self.aside.get_or_insert_with(empty_aside);
        aside.tally.get_or_insert_with(|| tally_of(data))
    }

    /// The same, where it is there.
    #[inline(always)]
    pub(super) fn known_tally(&self) -> Option<&Tally> {
        self.aside.as_ref()?.tally.as_ref()
    }

    pub(super) fn forget_tally(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.tally = None;
            self.tidy_aside();
        }
    }

    /// Where a place of the tally is in the lane.
    pub(super) fn index(&self, place: Place) -> Option<usize> {
        self.known_tally()?.index(place)
    }

    /// Takes the item at `place` out of the lane, and leaves the place vacant; `before` is the
    /// slice or gap of its channel before it. [`Outbox::close_up`] is to follow.
    pub(super) fn take(&mut self, before: Option<Place>, place: Place) -> Option<Item> {
        let at = self.index(place)?;
        let gone = std::mem::replace(self.data.get_mut(at)?, Item::Gone);
        self.tally().vacate(&gone, before, place);
        Some(gone)
    }

    /// Puts an item before the one at `at`. In the middle of a lane that costs a walk along it; a
    /// channel asks for that once, for its gap.
    pub(super) fn insert(&mut self, at: usize, item: Item) {
        if at < 2 {
            let first = if at == 1 { self.pop_front() } else { None };
            self.push_front(item);
            return first.into_iter().for_each(|first| self.push_front(first));
        }
        self.data.insert(at, item);
        self.forget_tally();
    }

    /// Closes the ranks where there are more vacant places than others. So an item that leaves
    /// costs no more than the few that close up for it.
    pub(super) fn close_up(&mut self) {
        self.strip();
        if 2 * self.vacant() > self.data.len() {
            self.data.retain(|item| !matches!(item, Item::Gone));
            self.forget_tally();
        }
        if self.data.is_empty() {
            self.forget_tally();
        }
    }

    /// Vacant places in the lane.
    pub(super) fn vacant(&self) -> usize {
        self.known_tally().map_or(0, |tally| tally.vacant())
    }

    /// The place of a subscription that lags.
    pub(super) fn lag_mut(&mut self, alias: Alias) -> Option<&mut Lag> {
        if self.lags == 0 {
            return None;
        }
        let at = if self.data.len() <= SHORT {
            let of = |item: &Item| matches!(item, Item::Lag(lag) if lag.alias == alias);
            self.data.iter().position(of)
        } else {
            let place = self.tally().lag(alias);
            place.and_then(|place| self.index(place))
        };
        match self.data.get_mut(at?) {
            Some(Item::Lag(lag)) => Some(lag),
            _ => None,
        }
    }
}

#[cold]
#[inline(never)]
fn empty_aside() -> Box<Aside> {
    Box::default()
}

#[cold]
#[inline(never)]
fn tally_of(lane: &VecDeque<Item>) -> Tally {
    Tally::of(lane)
}
