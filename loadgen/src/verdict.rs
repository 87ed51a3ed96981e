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
    /// `since` was sent, and its answer must say whether it recovered.
    asked: bool,
    /// Latest values may be shown: something was subscribed to or lost.
    shows: bool,
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

/// What `subscribed` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// As the books number it.
    pub(crate) epoch: u32,
    pub(crate) offset: u64,
    /// Only where `since` was sent.
    pub(crate) recovered: Option<bool>,
}

/// How a promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Two publishes were acknowledged with one offset.
    AcknowledgedTwice,
    /// It came, or was told lost, although it had come or been told before.
    Again,
    /// `subscribed` names an offset that is not there yet.
    Ahead,
    /// `lagged` does not say which events were lost.
    Malformed,
    /// `lagged` says another number of lost events than its offsets do.
    Miscounted,
    /// An offset between, before or behind the others was acknowledged to nobody.
    NotAcknowledged,
    /// It came before `subscribed`, or on a channel that was not asked for.
    NotSubscribed,
    /// `recovered` is true for another epoch, for a lower offset, or for nothing that was asked.
    Recovered,
    /// The channel's last offset is lower than it was, in the same epoch.
    RolledBack,
    /// `since` was sent, and `subscribed` does not say whether it recovered.
    SinceIgnored,
    /// A later offset came first, or none at all.
    Skipped,
    /// A snapshot shows what is still to come.
    SnapshotAhead,
    /// A key's latest value is shown twice for one subscribe or one loss.
    SnapshotAgain,
    /// A snapshot comes where nothing was subscribed to or lost.
    SnapshotUnasked,
    /// So many publishes were acknowledged without an offset.
    Unnumbered,
    /// It came although nobody published it.
    Unpublished,
}

impl Kind {
    /// What happened to the offsets.
    fn how(self) -> &'static str {
        match self {
            Self::AcknowledgedTwice => "were acknowledged twice",
            Self::Again => "came or were told twice",
            Self::Ahead => "were subscribed to before they were published",
            Self::Malformed => "were told lost without all of from, to and dropped in their order",
            Self::Miscounted => "were told with another number than theirs",
            Self::NotAcknowledged => "were acknowledged to nobody",
            Self::NotSubscribed => "came without a subscription",
            Self::Recovered => "were said to be recovered, but not from where it was left",
            Self::RolledBack => "were there before, and the channel ends below them",
            Self::SinceIgnored => "were asked for with since, and the answer has no recovered",
            Self::Skipped => "neither came nor were told",
            Self::SnapshotAhead => "were shown before their time",
            Self::SnapshotAgain => "were shown twice",
            Self::SnapshotUnasked => "were shown again for no reason",
            Self::Unnumbered => "(so many) were acknowledged without their number",
            Self::Unpublished => "were never published",
        }
    }
}

/// One broken promise: the offsets `from` to `to` of one channel on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Violation {
    /// Absent where the channel broke it towards all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection: Option<u32>,
    /// Absent where its name is none of this run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<u32>,
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, channel, kind, from, to } = self;
        if let Some(connection) = connection {
            write!(f, "connection {connection}, ")?;
        }
        match channel {
            Some(channel) => write!(f, "channel {channel}: ")?,
            None => f.write_str("a channel of another name: ")?,
        }
        write!(f, "offsets {from} to {to} {}", kind.how())
    }
}

/// A broken promise before it is known whose: kind, first and last offset.
pub(crate) type Broken = (Kind, u64, u64);

impl Seat {
    /// The server says from where on it delivers. With `recovered` the account goes on where it was
    /// left; otherwise a new one begins, and where one stands already, what lies between is missing.
    /// In one epoch an account never goes back.
    pub(crate) fn subscribed(&mut self, place: Place) -> Option<Broken> {
        let Place { epoch, offset, recovered } = place;
        let before = *self;
        let known = before.epoch == epoch && before.next > 0;
        let next = offset.saturating_add(1);
        if recovered == Some(true) && known && before.asked && next >= before.next {
            *self = Self { stands: Stands::On, asked: false, shows: false, ..before };
            return None;
        }
        *self = Self { next, epoch, stands: Stands::On, asked: false, shows: true };
        if known && next < before.next {
            self.next = before.next;
            return Some((Kind::RolledBack, next, before.next - 1));
        }
        if recovered == Some(true) {
            return Some((Kind::Recovered, offset, offset));
        }
        if before.asked && recovered.is_none() {
            return Some((Kind::SinceIgnored, before.next.min(offset), offset));
        }
        (known && before.stands != Stands::Off && before.next <= offset).then_some((
            Kind::Skipped,
            before.next,
            offset,
        ))
    }

    /// `since` is sent, with what [`Seat::position`] says.
    pub(crate) fn asks(&mut self) {
        self.asked = true;
    }

    /// An unsubscribe is under way.
    pub(crate) fn leaving(&mut self) {
        self.stands = Stands::Leaving;
    }

    /// The subscription has ended, or its connection has: what did not come was told so.
    pub(crate) fn left(&mut self) {
        self.stands = Stands::Off;
        self.asked = false;
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
        let kind = match self.next {
            _ if self.stands == Stands::Off => Kind::NotSubscribed,
            next if offset >= next => Kind::SnapshotAhead,
            _ if !self.shows => Kind::SnapshotUnasked,
            _ => return None,
        };
        Some((kind, offset, offset))
    }

    /// The server says that `from` to `to` will not come.
    pub(crate) fn lagged(&mut self, from: u64, to: u64) -> Option<Broken> {
        self.shows = true;
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
    /// How many offsets neither came nor were told, or were acknowledged to nobody.
    pub(crate) offsets_missing: u64,
    /// The first of them.
    pub(crate) listed: Vec<Violation>,
}

impl Verdict {
    /// Counts a violation, and lists it while there is room.
    pub(crate) fn add(&mut self, connection: Option<u32>, channel: Option<u32>, broken: Broken) {
        let (kind, from, to) = broken;
        self.violations += 1;
        if matches!(kind, Kind::Skipped | Kind::NotAcknowledged) {
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
        seat.subscribed(at(offset));
        seat
    }

    fn at(offset: u64) -> Place {
        Place { epoch: 1, offset, recovered: None }
    }

    fn back(offset: u64, epoch: u32, recovered: bool) -> Place {
        Place { epoch, offset, recovered: Some(recovered) }
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
        assert_eq!((seat.stands(), seat.position()), (Stands::Off, Some((1, 2))));
        assert_eq!(seat.event(3), Some((Kind::NotSubscribed, 3, 3)));
        seat.asks();
        assert_eq!(seat.subscribed(back(9, 1, true)), None);
        assert_eq!(seat.event(5), Some((Kind::Skipped, 3, 4)), "recovered, but with a hole");
        seat.left();
        assert_eq!(seat.subscribed(back(8, 2, false)), None);
        assert_eq!((seat.event(9), seat.finish(9)), (None, None), "a new account");
        assert_eq!(Seat::default().position(), None);
    }

    #[test]
    fn a_second_subscribed_hides_no_hole() {
        let mut seat = seat_at(0);
        assert_eq!(seat.event(1), None);
        assert_eq!(seat.subscribed(at(4)), Some((Kind::Skipped, 2, 4)));
        assert_eq!((seat.subscribed(at(4)), seat.event(5)), (None, None), "nothing between");
        assert_eq!(seat.subscribed(back(90, 2, false)), None, "another epoch counts anew");
        seat.left();
        assert_eq!(seat.subscribed(back(99, 2, false)), None, "nothing was owed");
    }

    #[test]
    fn recovered_is_true_only_from_where_it_was_left() {
        for (place, broken) in [
            (back(5, 1, true), None),
            (back(3, 1, true), None),
            (back(5, 2, true), Some((Kind::Recovered, 5, 5))),
            (back(2, 1, true), Some((Kind::RolledBack, 3, 3))),
            (back(5, 1, false), None),
            (back(0, 2, false), None),
            (at(5), Some((Kind::SinceIgnored, 4, 5))),
        ] {
            let mut seat = seat_at(3);
            seat.left();
            seat.asks();
            assert_eq!(seat.subscribed(place), broken, "{place:?}");
        }
        assert_eq!(Seat::default().subscribed(back(1, 1, true)), Some((Kind::Recovered, 1, 1)));
        let mut living = seat_at(3);
        assert_eq!(living.subscribed(back(3, 1, true)), Some((Kind::Recovered, 3, 3)), "unasked");
    }

    #[test]
    fn a_channel_never_goes_back_in_its_epoch() {
        for leaves in [false, true] {
            let mut seat = seat_at(0);
            assert_eq!((1..=5).find_map(|offset| seat.event(offset)), None);
            if leaves {
                seat.left();
            }
            assert_eq!(seat.subscribed(at(2)), Some((Kind::RolledBack, 3, 5)));
            assert_eq!(seat.event(3), Some((Kind::Again, 3, 3)), "what came is not owed anew");
            assert_eq!(seat.event(6), None);
        }
    }

    #[test]
    fn a_snapshot_needs_a_subscribe_or_a_loss() {
        let mut seat = seat_at(7);
        assert_eq!(seat.snapshot(7), None);
        seat.left();
        seat.asks();
        assert_eq!(seat.subscribed(back(9, 1, true)), None);
        assert_eq!(seat.snapshot(7), Some((Kind::SnapshotUnasked, 7, 7)), "recovered");
        assert_eq!((seat.lagged(8, 9), seat.snapshot(8)), (None, None));
    }

    #[test]
    fn a_violation_names_what_is_known() {
        let violation = |connection, channel, kind| {
            Violation { connection, channel, kind, from: 1, to: 2 }.to_string()
        };
        assert_eq!(
            violation(Some(3), Some(4), Kind::Again),
            "connection 3, channel 4: offsets 1 to 2 came or were told twice"
        );
        assert_eq!(
            violation(None, Some(4), Kind::AcknowledgedTwice),
            "channel 4: offsets 1 to 2 were acknowledged twice"
        );
        let unknown = violation(Some(3), None, Kind::NotSubscribed);
        assert!(unknown.starts_with("connection 3, a channel of another name: "), "{unknown}");
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
                seat.subscribed(at(c)),
                seat.event(a),
                seat.finish(b),
            ];
            broken.into_iter().flatten().for_each(|broken| verdict.add(Some(0), None, broken));
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
            verdict.add(Some(connection), Some(0), (Kind::Skipped, 1, 2));
        }
        let mut all = Verdict::default();
        all.merge(verdict.clone());
        all.merge(verdict);
        assert_eq!((all.violations, all.offsets_missing, all.listed.len()), (500, 1000, 100));
    }
}
