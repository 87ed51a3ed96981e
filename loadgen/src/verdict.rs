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
    /// While it is not 0, the account begins with what comes first, from here to `next`: a pattern
    /// does not say where.
    floor: u64,
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
    /// Under `latest`, the newest event of a key that was missed is never shown.
    NotShown,
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
    /// Under `latest`, the newest event of a key that was missed is shown only after later events.
    SnapshotLate,
    /// Under `latest`, an event is shown of whose key a newer one was missed.
    SnapshotStale,
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
            Self::NotShown => "hold newest events of keys that were missed and not shown",
            Self::NotSubscribed => "came without a subscription",
            Self::Recovered => "were said to be recovered, but not from where it was left",
            Self::RolledBack => "were there before, and the channel ends below them",
            Self::SinceIgnored => "were asked for with since, and the answer has no recovered",
            Self::Skipped => "neither came nor were told",
            Self::SnapshotAhead => "were shown before their time",
            Self::SnapshotAgain => "were shown twice",
            Self::SnapshotLate => "were shown behind later events",
            Self::SnapshotStale => "were shown although a newer event of their key was missed",
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
            *self = Self { stands: Stands::On, asked: false, shows: false, floor: 0, ..before };
            return None;
        }
        *self = Self { next, floor: 0, epoch, stands: Stands::On, asked: false, shows: true };
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

    /// A pattern stands that has this channel, of which at most `made` events were published: what
    /// comes behind them is owed, and of them nothing that came before.
    pub(crate) fn joined(&mut self, epoch: u32, made: u64) {
        let next = made.saturating_add(1);
        // Where nothing was published the account begins there.
        let floor = if made > 0 { self.next.max(1).min(next) } else { 0 };
        // What is kept of those may be shown.
        let shows = made > 0;
        *self = Self { next, floor, epoch, stands: Stands::On, asked: false, shows };
    }

    /// `since` is sent, with what [`Seat::position`] says.
    pub(crate) fn asks(&mut self) {
        self.asked = true;
    }

    /// Whether `since` waits for its answer.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
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
            (self.next, self.floor) = (offset.saturating_add(1), 0);
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
        if (self.floor..next).contains(&from) && self.floor > 0 {
            (self.next, self.floor) = (to.saturating_add(1), 0);
            return None;
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
#[path = "verdict_tests.rs"]
mod tests;
