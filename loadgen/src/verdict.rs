//! Promise 2 of the protocol, checked: per connection and channel every offset arrives in order
//! exactly once, or is told by `lagged`.

use std::fmt;

use serde::Serialize;

/// At most this many violations are listed per thread; all are counted.
const LISTED_MAX: usize = 100;

/// One subscription of one connection.
///
/// Invariant: while it stands, every offset below `next` (and above that of `subscribed`) has
/// arrived, was told, or was listed as a violation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seat {
    /// The offset that comes next; 0 before the first subscription.
    next: u64,
    /// The channel's epoch, as its books number it.
    epoch: u32,
    stands: Stands,
}

/// How a subscription stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stands {
    /// Events are owed, until the answer to the unsubscribe that is under way.
    Leaving,
    /// Nothing is owed.
    #[default]
    Off,
    /// Every event is owed.
    On,
}

/// How a promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// It came, or was told lost, although it had come or been told before.
    Again,
    /// It came before `subscribed`, or on a channel that was not asked for.
    NotSubscribed,
    /// `lagged` says another number of lost events than its offsets do.
    Miscounted,
    /// A later offset came first, or none at all.
    Skipped,
    /// A snapshot shows what is still to come.
    SnapshotAhead,
    /// It came although nobody published it.
    Unpublished,
}

/// One broken promise: the offsets `from` to `to` of one channel on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Violation {
    pub(crate) connection: u32,
    pub(crate) channel: u32,
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, channel, kind, from, to } = self;
        let how = match kind {
            Kind::Again => "came or were told twice",
            Kind::NotSubscribed => "came without a subscription",
            Kind::Miscounted => "were told with another number than theirs",
            Kind::Skipped => "neither came nor were told",
            Kind::SnapshotAhead => "were shown before their time",
            Kind::Unpublished => "were never published",
        };
        write!(f, "connection {connection}, channel {channel}: offsets {from} to {to} {how}")
    }
}

/// A broken promise before it is known whose: kind, first and last offset.
pub(crate) type Broken = (Kind, u64, u64);

impl Seat {
    /// The server says from where on it delivers: a new account begins. Where one stands already,
    /// what lies between is missing.
    pub(crate) fn subscribed(&mut self, offset: u64, epoch: u32) -> Option<Broken> {
        let before = *self;
        *self = Self { next: offset.saturating_add(1), epoch, stands: Stands::On };
        let stood = before.stands != Stands::Off && before.epoch == epoch;
        if stood && before.next <= offset {
            return Some((Kind::Skipped, before.next, offset));
        }
        None
    }

    /// The server says that it goes on where the subscription was left: the account goes on too.
    pub(crate) fn recovered(&mut self) {
        self.stands = Stands::On;
    }

    /// An unsubscribe is under way.
    pub(crate) fn leaving(&mut self) {
        self.stands = Stands::Leaving;
    }

    /// The subscription has ended, or its connection has: what did not come was told so.
    pub(crate) fn left(&mut self) {
        self.stands = Stands::Off;
    }

    pub(crate) fn stands(&self) -> Stands {
        self.stands
    }

    /// The last place that is accounted for: epoch and offset. `None` before any subscription.
    pub(crate) fn position(&self) -> Option<(u32, u64)> {
        Some((self.epoch, self.next.checked_sub(1)?))
    }

    /// A live event came.
    pub(crate) fn event(&mut self, offset: u64) -> Option<Broken> {
        if offset == self.next && offset != 0 && self.stands != Stands::Off {
            self.next = offset.saturating_add(1);
            return None;
        }
        self.advance(offset, offset)
    }

    /// A latest value was shown again; it must be older than what comes next.
    pub(crate) fn snapshot(&self, offset: u64) -> Option<Broken> {
        match self.next {
            _ if self.stands == Stands::Off => Some((Kind::NotSubscribed, offset, offset)),
            next if offset >= next => Some((Kind::SnapshotAhead, offset, offset)),
            _ => None,
        }
    }

    /// The server says that `from` to `to` will not come.
    pub(crate) fn lagged(&mut self, from: u64, to: u64) -> Option<Broken> {
        self.advance(from, to.max(from))
    }

    /// The last offset of the channel is `head`: what is still missing?
    pub(crate) fn finish(&self, head: u64) -> Option<Broken> {
        match self.next {
            _ if self.stands != Stands::On => None,
            next if next <= head => Some((Kind::Skipped, next, head)),
            next if next - 1 > head => Some((Kind::Unpublished, head + 1, next - 1)),
            _ => None,
        }
    }

    fn advance(&mut self, from: u64, to: u64) -> Option<Broken> {
        let next = self.next;
        if self.stands == Stands::Off {
            return Some((Kind::NotSubscribed, from, to));
        }
        self.next = next.max(to.saturating_add(1));
        if from > next {
            Some((Kind::Skipped, next, from - 1))
        } else if from < next {
            Some((Kind::Again, from, to.min(next - 1)))
        } else {
            None
        }
    }
}

/// The broken promises of one thread, or of all of them.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Verdict {
    /// How many promises were broken.
    pub(crate) violations: u64,
    /// How many offsets neither came nor were told.
    pub(crate) offsets_missing: u64,
    /// The first of them.
    pub(crate) listed: Vec<Violation>,
}

impl Verdict {
    /// Counts a violation, and lists it while there is room.
    pub(crate) fn add(&mut self, connection: u32, channel: u32, broken: Broken) {
        let (kind, from, to) = broken;
        self.violations += 1;
        if kind == Kind::Skipped {
            let missing = to.saturating_sub(from).saturating_add(1);
            self.offsets_missing = self.offsets_missing.saturating_add(missing);
        }
        if self.listed.len() < LISTED_MAX {
            self.listed.push(Violation { connection, channel, kind, from, to });
        }
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: Self) {
        self.violations += other.violations;
        self.offsets_missing = self.offsets_missing.saturating_add(other.offsets_missing);
        let room = LISTED_MAX.saturating_sub(self.listed.len());
        self.listed.extend(other.listed.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat_at(offset: u64) -> Seat {
        let mut seat = Seat::default();
        seat.subscribed(offset, 0);
        seat
    }

    #[test]
    fn in_order_exactly_once_is_no_violation() {
        let mut seat = seat_at(57);
        assert_eq!([58, 59, 60].map(|offset| seat.event(offset)), [None; 3]);
        assert_eq!(seat.finish(60), None);
    }

    #[test]
    fn what_is_told_is_no_violation() {
        let mut seat = seat_at(0);
        assert_eq!(seat.event(1), None);
        assert_eq!(seat.lagged(2, 5), None);
        assert_eq!(seat.snapshot(4), None, "the latest value of what was lost");
        assert_eq!(seat.event(6), None);
        assert_eq!(seat.lagged(7, 9), None);
        assert_eq!(seat.finish(9), None);
    }

    #[test]
    fn an_account_ends_when_the_subscription_is_left_and_goes_on_when_it_is_recovered() {
        let mut seat = seat_at(0);
        assert_eq!(seat.event(1), None);
        seat.leaving();
        assert_eq!((seat.event(2), seat.finish(9)), (None, None), "until it is answered");
        seat.left();
        assert_eq!((seat.stands(), seat.position()), (Stands::Off, Some((0, 2))));
        assert_eq!(seat.event(3), Some((Kind::NotSubscribed, 3, 3)));
        seat.recovered();
        assert_eq!(seat.event(5), Some((Kind::Skipped, 3, 4)), "recovered, but with a hole");
        seat.left();
        seat.subscribed(8, 1);
        assert_eq!((seat.event(9), seat.finish(9)), (None, None), "a new account");
        assert_eq!(Seat::default().position(), None);
    }

    #[test]
    fn a_second_subscribed_hides_no_hole() {
        let mut seat = seat_at(0);
        assert_eq!(seat.event(1), None);
        assert_eq!(seat.subscribed(4, 0), Some((Kind::Skipped, 2, 4)));
        assert_eq!((seat.subscribed(4, 0), seat.event(5)), (None, None), "nothing between");
        assert_eq!(seat.subscribed(90, 1), None, "another epoch counts anew");
        seat.left();
        assert_eq!(seat.subscribed(99, 1), None, "nothing was owed");
    }

    #[test]
    fn no_number_is_too_large() {
        let numbers = [0, 1, 7, u64::MAX - 1, u64::MAX];
        for nth in 0..numbers.len().pow(3) {
            let [a, b, c] = [1, 5, 25].map(|unit| numbers[nth / unit % 5]);
            let (mut seat, mut verdict) = (seat_at(a), Verdict::default());
            let broken = [
                seat.event(b),
                seat.lagged(b, c),
                seat.snapshot(c),
                seat.finish(c),
                seat.subscribed(c, 0),
                seat.event(a),
                seat.finish(b),
            ];
            broken.into_iter().flatten().for_each(|broken| verdict.add(0, 0, broken));
            let mut all = verdict.clone();
            all.merge(verdict);
        }
    }

    #[test]
    fn every_way_to_break_the_promise_is_named() {
        let mut seat = seat_at(0);
        assert_eq!(seat.event(3), Some((Kind::Skipped, 1, 2)), "a hole");
        assert_eq!(seat.event(3), Some((Kind::Again, 3, 3)), "twice");
        assert_eq!(seat.event(2), Some((Kind::Again, 2, 2)), "out of order");
        assert_eq!(seat.lagged(3, 5), Some((Kind::Again, 3, 3)), "told although it came");
        assert_eq!(seat.event(6), None, "the told ones are not missed again");
        assert_eq!(seat.lagged(9, 9), Some((Kind::Skipped, 7, 8)), "told too little");
        assert_eq!(seat.snapshot(10), Some((Kind::SnapshotAhead, 10, 10)));
        assert_eq!(seat.finish(12), Some((Kind::Skipped, 10, 12)), "the end is missing");
        assert_eq!(seat.finish(7), Some((Kind::Unpublished, 8, 9)));
        let mut early = Seat::default();
        assert_eq!(early.event(1), Some((Kind::NotSubscribed, 1, 1)));
        assert_eq!(early.event(0), Some((Kind::NotSubscribed, 0, 0)));
    }

    #[test]
    fn all_are_counted_and_the_first_are_listed() {
        let mut verdict = Verdict::default();
        for connection in 0..250 {
            verdict.add(connection, 0, (Kind::Skipped, 1, 2));
        }
        let mut all = Verdict::default();
        all.merge(verdict.clone());
        all.merge(verdict);
        assert_eq!((all.violations, all.offsets_missing, all.listed.len()), (500, 1000, 100));
    }
}
