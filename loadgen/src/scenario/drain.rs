//! The end of a run in which events flow: who was away comes back, and what is under way arrives.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::Conduct;
use crate::engine::crew::Crew;
use crate::engine::shared::Total;
use crate::engine::wanted::Wanted;
use crate::fault::Invalid;

/// What is left must go on arriving; after this long without anything the run is over.
pub(crate) const DRAIN_QUIET: u64 = 2 * SECOND;
/// The same where the last event may wait for the longest interval there is.
const DRAIN_QUIET_THROTTLED: u64 = 11 * SECOND;
/// When the time is up, what has not come for this long is not under way any more.
const STILL: u64 = SECOND / 2;
/// When all is there, something that nobody owes may still come.
const REST: u64 = SECOND / 5;

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All has come, or what has not come will not.
    Known,
    /// Events still arrived when the time was up.
    Moving,
    /// The time was up before anybody could know.
    Unknown,
}

impl End {
    /// When the time is up: `quiet` after the last arrival, of which there were `some` meanwhile.
    fn at_last(is_all: bool, quiet: u64, some: bool) -> Self {
        match (is_all || quiet >= STILL, some) {
            (true, _) => Self::Known,
            (false, true) => Self::Moving,
            (false, false) => Self::Unknown,
        }
    }

    /// Why the figures do not hold, where they do not.
    pub(crate) fn invalid(self) -> Option<Invalid> {
        match self {
            Self::Known => None,
            Self::Moving => Some(Invalid::StillArriving),
            Self::Unknown => Some(Invalid::DrainTooShort),
        }
    }
}

/// The moment at which a time that begins now is up.
pub(crate) fn end_of(time: Duration) -> u64 {
    clock::now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2))
}

/// Sleeps a duration in steps, while `stands`; says whether it did to the end.
pub(crate) fn hold(time: Duration, stands: impl Fn() -> bool) -> bool {
    let end = end_of(time);
    while clock::now() < end && stands() {
        clock::sleep((end - clock::now().min(end)).min(SECOND / 20));
    }
    stands()
}

/// Waits until those who are away are back and served, or nothing more can be hoped for.
pub(crate) fn calm(crew: &Crew, limit: Duration) {
    let end = end_of(limit);
    let served = matches!(crew.wanted.subscribing.conduct, Conduct::Cut(_))
        && crew.wanted.subscribing.subscriptions > 0;
    while clock::now() < end && crew.broken().is_none() {
        // Until each thread has seen it, one of them may still cut somebody.
        let is_calm = crew.shared.is_calm();
        let total = crew.shared.total();
        if is_calm && total.back >= total.cut && (!served || total.served >= total.cut) {
            return;
        }
        clock::sleep(SECOND / 500);
    }
}

/// Waits until all is there, nothing more comes, or the time is up.
pub(crate) fn drain(crew: &Crew, limit: Duration) -> End {
    let (start, end) = (clock::now(), end_of(limit));
    let (mut seen, mut moved_at) = (arrived(&crew.shared.total()), start);
    let mut some = false;
    let over = if crew.wanted.is_throttled() { DRAIN_QUIET_THROTTLED } else { DRAIN_QUIET };
    loop {
        clock::sleep(SECOND / 100);
        let is_settled = crew.shared.is_settled();
        let total = crew.shared.total();
        let now = clock::now();
        if arrived(&total) != seen {
            (seen, moved_at, some) = (arrived(&total), now, true);
        }
        let quiet = now - moved_at;
        let sent = crew.shared.published.load(Ordering::Relaxed);
        let is_all = is_settled && is_all(&crew.wanted, sent, &total) && quiet > REST;
        if is_all || is_settled && quiet > over || crew.broken().is_some() {
            return End::Known;
        }
        if now > end {
            return End::at_last(is_all, quiet, some);
        }
    }
}

/// Everything that has come, been told or shown, or ended.
fn arrived(total: &Total) -> u64 {
    let slow = total.slow_delivered.saturating_add(total.slow_told);
    let all = total.delivered.saturating_add(total.told);
    let shown = total.shown.saturating_add(total.slow_shown);
    all.saturating_add(slow).saturating_add(shown).saturating_add(total.slow_gone)
}

/// Whether everybody has what was sent, the slow too. Whole rounds over the channels: an upper bound
/// that is exact when they divide.
fn is_all(wanted: &Wanted, sent: u64, total: &Total) -> bool {
    let due =
        |seats: u64| u128::from(sent) * u128::from(seats) / u128::from(wanted.subscribing.channels);
    let (seats, slow) = (wanted.seats(), wanted.slow());
    let slow_got = total.slow_delivered.saturating_add(total.slow_told);
    let slow_due = due(u64::from(slow) * u64::from(wanted.subscribing.subscriptions));
    total.unshown == 0
        && u128::from(total.delivered.saturating_add(total.told)) >= due(seats)
        && (total.slow_gone >= u64::from(slow) || u128::from(slow_got) >= slow_due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::conduct::Slow;
    use crate::engine::ledger::tests::{subscribing, with};
    use crate::engine::wanted::Subscribing;

    #[test]
    fn nothing_is_over_while_the_slow_may_still_read() {
        let slow = Slow { share: 0.5, bytes_per_second: 0, buffer_bytes: 0 };
        // Two connections of two seats each on three channels, one of them slow.
        let subscribing = Subscribing { conduct: Conduct::Slow(slow), ..subscribing(true) };
        let wanted = with(subscribing);
        let total = |delivered, slow_delivered, slow_told, slow_gone| {
            let rest = Total::default();
            Total { delivered, slow_delivered, slow_told, slow_gone, ..rest }
        };
        for (total, all) in [
            (total(20, 20, 0, 0), true),
            (total(20, 12, 8, 0), true),
            (total(20, 19, 0, 0), false),
            (total(20, 5, 0, 1), true),
            (total(19, 20, 0, 0), false),
        ] {
            assert_eq!(is_all(&wanted, 30, &total), all, "{total:?}");
        }
    }

    #[test]
    fn when_the_time_is_up_the_last_arrival_decides() {
        assert_eq!(End::at_last(true, 0, true), End::Known, "nothing is missing");
        assert_eq!(End::at_last(false, STILL, true), End::Known, "what is missing never comes");
        assert_eq!(End::at_last(false, STILL, false), End::Known);
        assert_eq!(End::at_last(false, STILL - 1, true), End::Moving);
        assert_eq!(End::at_last(false, SECOND / 10, false), End::Unknown);
        assert_eq!(End::Known.invalid(), None);
    }
}
