//! What the policy `latest` owes: behind a loss, the newest event of each key that was missed.
//!
//! The publisher deals its keys in turn, so the newest events of a loss are its last ones, as many
//! as there are keys.

use std::collections::{BTreeSet, HashMap};

use crate::verdict::{Broken, Kind};

/// A gateway keeps the newest events of so many keys (`max_keys` of its defaults); of more, nothing
/// is owed.
const KEYS_MAX: u64 = 10_000;

/// What one subscription was told to have missed, and was not shown yet.
#[derive(Debug, Default)]
struct Hole {
    /// The last offset that was told.
    to: u64,
    owed: BTreeSet<u64>,
}

/// The holes of one thread's subscriptions, by seat.
#[derive(Debug)]
pub(super) struct Holes {
    /// Keys that a channel's events take turns with; events without keys are one key of their own.
    keys: u64,
    open: HashMap<usize, Hole>,
    /// Holes of which something is still to be shown.
    unshown: u64,
}

impl Holes {
    pub(super) fn new(keys: u64) -> Self {
        Self { keys: keys.max(1), open: HashMap::new(), unshown: 0 }
    }

    /// How many subscriptions wait to be shown something.
    pub(super) fn unshown(&self) -> u64 {
        self.unshown
    }

    /// `from` to `to` are told lost, to a subscription whose last offset is `last`. Where no event
    /// came since the last loss, this one goes on with it (a rate may have left out what lies
    /// between); before any other, all must have been shown.
    pub(super) fn told(
        &mut self,
        seat: usize,
        (from, to): (u64, u64),
        last: u64,
    ) -> Option<Broken> {
        let hole = self.open.entry(seat).or_default();
        let waited = !hole.owed.is_empty();
        let broken = if last == hole.to { None } else { hole.unshown() };
        if broken.is_some() {
            hole.owed.clear();
        }
        let newest = to.saturating_sub(self.keys.min(KEYS_MAX) - 1);
        // What has a newer event of its key behind it is not owed any more.
        hole.owed = hole.owed.split_off(&newest);
        hole.owed.extend(from.max(newest)..=to);
        hole.to = to;
        self.unshown += u64::from(!waited);
        broken
    }

    /// The event at `offset` is shown, to a subscription whose last offset is `last`.
    pub(super) fn shown(&mut self, seat: usize, offset: u64, last: u64) -> Option<Broken> {
        let hole = self.open.get_mut(&seat)?;
        if hole.owed.remove(&offset) {
            self.unshown -= u64::from(hole.owed.is_empty());
            return (last != hole.to).then_some((Kind::SnapshotLate, offset, offset));
        }
        // With more keys than are kept nobody can say what is owed below.
        let is_stale = self.keys <= KEYS_MAX && offset <= hole.to.saturating_sub(self.keys);
        is_stale.then_some((Kind::SnapshotStale, offset, offset))
    }

    /// A subscription has begun anew or ended: nothing more is owed.
    pub(super) fn forget(&mut self, seat: usize) {
        if let Some(hole) = self.open.remove(&seat) {
            self.unshown -= u64::from(!hole.owed.is_empty());
        }
    }

    /// Nothing more comes: what is still owed?
    pub(super) fn finish(&self, seat: usize) -> Option<Broken> {
        self.open.get(&seat)?.unshown()
    }
}

impl Hole {
    fn unshown(&self) -> Option<Broken> {
        let (first, last) = self.owed.first().zip(self.owed.last())?;
        Some((Kind::NotShown, *first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAT: usize = 3;

    #[test]
    fn without_keys_the_newest_event_of_a_loss_is_owed() {
        let mut holes = Holes::new(0);
        assert_eq!(holes.told(SEAT, (5, 9), 4), None);
        assert_eq!((holes.unshown(), holes.finish(SEAT)), (1, Some((Kind::NotShown, 9, 9))));
        assert_eq!(holes.shown(SEAT, 8, 9), Some((Kind::SnapshotStale, 8, 8)));
        assert_eq!(holes.shown(SEAT, 9, 9), None);
        assert_eq!((holes.unshown(), holes.finish(SEAT)), (0, None));
    }

    #[test]
    fn of_each_key_that_was_missed_the_newest_is_owed() {
        let mut holes = Holes::new(3);
        assert_eq!(holes.told(SEAT, (5, 9), 4), None);
        assert_eq!([7, 8, 9].map(|offset| holes.shown(SEAT, offset, 9)), [None; 3]);
        assert_eq!(holes.finish(SEAT), None);
        assert_eq!(holes.told(SEAT, (20, 21), 19), None, "two of the three keys");
        assert_eq!(holes.shown(SEAT, 21, 21), None);
        assert_eq!(holes.finish(SEAT), Some((Kind::NotShown, 20, 20)));
    }

    #[test]
    fn a_loss_that_goes_on_owes_a_key_once_and_its_newest() {
        let mut holes = Holes::new(3);
        holes.told(SEAT, (5, 9), 4);
        assert_eq!(holes.shown(SEAT, 7, 9), None);
        assert_eq!(holes.told(SEAT, (10, 11), 9), None, "9 is owed still, 8 has a newer one");
        assert_eq!(holes.shown(SEAT, 8, 11), Some((Kind::SnapshotStale, 8, 8)));
        assert_eq!([9, 10].map(|offset| holes.shown(SEAT, offset, 11)), [None; 2]);
        assert_eq!(holes.finish(SEAT), Some((Kind::NotShown, 11, 11)));
    }

    #[test]
    fn a_loss_goes_on_over_what_a_rate_has_left_out() {
        let mut holes = Holes::new(2);
        holes.told(SEAT, (5, 9), 4);
        assert_eq!(holes.told(SEAT, (15, 16), 9), None, "10 to 14 were not asked for");
        assert_eq!([15, 16].map(|offset| holes.shown(SEAT, offset, 16)), [None; 2]);
        assert_eq!(holes.finish(SEAT), None);
    }

    #[test]
    fn what_was_not_shown_before_the_next_loss_never_will_be() {
        let mut holes = Holes::new(0);
        holes.told(SEAT, (5, 9), 4);
        assert_eq!(holes.told(SEAT, (12, 12), 11), Some((Kind::NotShown, 9, 9)));
        assert_eq!((holes.shown(SEAT, 12, 12), holes.unshown()), (None, 0));
        holes.told(SEAT, (20, 20), 19);
        assert_eq!(holes.shown(SEAT, 20, 21), Some((Kind::SnapshotLate, 20, 20)), "21 has come");
    }

    #[test]
    fn a_subscription_that_ends_is_owed_nothing() {
        let mut holes = Holes::new(0);
        holes.told(SEAT, (5, 9), 4);
        holes.forget(SEAT);
        assert_eq!((holes.unshown(), holes.finish(SEAT), holes.shown(SEAT, 1, 1)), (0, None, None));
    }

    #[test]
    fn hostile_numbers_cost_no_more_than_the_keys_that_are_kept() {
        let mut holes = Holes::new(u64::MAX);
        assert_eq!(holes.told(SEAT, (1, u64::MAX), 0), None);
        assert_eq!(holes.open[&SEAT].owed.len() as u64, KEYS_MAX);
        assert_eq!(holes.shown(SEAT, 7, u64::MAX), None, "too many keys to know");
        let kept = u64::MAX - KEYS_MAX + 1;
        assert_eq!(holes.told(SEAT, (1, 1), 0), Some((Kind::NotShown, kept, u64::MAX)));
    }
}
