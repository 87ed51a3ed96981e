//! What each channel has in the data lane of a queue that overflows: so that the next event of a
//! channel which has nothing there finds its place without a walk along the lane.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::item::{Item, Slice};
use crate::proto::name::Alias;
use crate::proto::push::Hole;

/// What one channel has in the lane.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Queued {
    slices: usize,
    /// The hole of its gap, where that is the last of it in the lane.
    gap: Option<Rc<Cell<Hole>>>,
}

/// What every channel has in the lane.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally(HashMap<Alias, Queued, RandomState>);

impl Tally {
    /// The tally of a lane.
    pub(super) fn of(lane: &VecDeque<Item>) -> Self {
        let mut tally = Self::default();
        for item in lane {
            match item {
                Item::Gap(gap) => tally.ends_with_gap(gap.alias, &gap.hole),
                Item::Frame(_) | Item::Lag(_) | Item::Last(_) | Item::Past(_) | Item::Recall(_) => {
                }
                Item::Slice(slice) => tally.ends_with(slice),
            }
        }
        tally
    }

    /// How many slices a channel has.
    pub(super) fn slices(&self, alias: Alias) -> usize {
        self.0.get(&alias).map_or(0, |queued| queued.slices)
    }

    /// The hole of a channel's gap, where that is the last of it in the lane.
    pub(super) fn last_gap(&self, alias: Alias) -> Option<&Rc<Cell<Hole>>> {
        self.0.get(&alias)?.gap.as_ref()
    }

    /// A slice was put at the end of the lane.
    pub(super) fn ends_with(&mut self, slice: &Slice) {
        let queued = self.0.entry(slice.run.alias()).or_default();
        queued.slices += 1;
        queued.gap = None;
    }

    /// A gap was put at the end of the lane, or is the last that is left of its channel.
    pub(super) fn ends_with_gap(&mut self, alias: Alias, hole: &Rc<Cell<Hole>>) {
        self.0.entry(alias).or_default().gap = Some(Rc::clone(hole));
    }

    /// A slice was parted in two.
    pub(super) fn parted(&mut self, alias: Alias) {
        self.0.entry(alias).or_default().slices += 1;
    }

    /// An item left the lane.
    pub(super) fn left(&mut self, item: &Item) {
        let alias = match item {
            Item::Gap(gap) => gap.alias,
            Item::Frame(_) | Item::Lag(_) | Item::Last(_) | Item::Past(_) | Item::Recall(_) => {
                return;
            }
            Item::Slice(slice) => slice.run.alias(),
        };
        let Some(queued) = self.0.get_mut(&alias) else { return };
        match item {
            Item::Gap(gap) => drop(queued.gap.take_if(|last| Rc::ptr_eq(last, &gap.hole))),
            Item::Frame(_)
            | Item::Lag(_)
            | Item::Last(_)
            | Item::Past(_)
            | Item::Recall(_)
            | Item::Slice(_) => {
                queued.slices = queued.slices.saturating_sub(1);
            }
        }
        if queued.slices == 0 && queued.gap.is_none() {
            self.0.remove(&alias);
        }
    }
}
