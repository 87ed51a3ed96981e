//! The plan of an open-loop run: when each event is due, whatever the server does.

use crate::clock::SECOND;

/// A fixed-rate plan. Open loop: a slow server does not slow the plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    start: u64,
    /// Events a second; above 0.
    rate: f64,
}

impl Plan {
    /// A plan that begins at `start` on the monotonic clock.
    pub(crate) fn new(start: u64, rate: f64) -> Self {
        Self { start, rate }
    }

    /// When event `n` should leave, whether or not it does.
    pub(crate) fn due(self, n: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, far below 2^63"
        )]
        #[expect(clippy::cast_precision_loss, reason = "a nanosecond in a hundred days")]
        let after = (n as f64 / self.rate * SECOND as f64) as u64;
        self.start + after
    }

    /// How many events are due before `until`, and by `now`.
    pub(crate) fn due_before(self, until: u64, now: u64) -> u64 {
        let mut due = self.due_by(now.min(until.saturating_sub(1)));
        // Both sides are rounded.
        while due > 0 && self.due(due - 1) >= until {
            due -= 1;
        }
        due
    }

    /// How many events are due by `now`.
    pub(crate) fn due_by(self, now: u64) -> u64 {
        let Some(elapsed) = now.checked_sub(self.start) else { return 0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, far below 2^63"
        )]
        #[expect(clippy::cast_precision_loss, reason = "a nanosecond in a hundred days")]
        let whole = (elapsed as f64 * self.rate / SECOND as f64) as u64;
        whole + 1
    }
}

/// The time that is measured, by when events were due: what was due in it counts whenever it comes,
/// and what was due before it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    /// The first moment that is no longer measured; the end of time while it goes on.
    pub(crate) until: u64,
}

impl Span {
    /// Whether what was due at `due` counts.
    pub(crate) fn has(self, due: u64) -> bool {
        self.from <= due && due < self.until
    }
}

/// Latency as a client feels it: from when the event was due, not from when we got round to
/// sending it.
pub(crate) fn latency(due: u64, received: u64) -> u64 {
    received.saturating_sub(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_charged_to_every_event_that_was_due_in_it() {
        let plan = Plan::new(5 * SECOND, 10.0);
        let end_of_stall = 6 * SECOND;
        let charged: Vec<u64> =
            (0..3).map(|n| latency(plan.due(n), end_of_stall) / 1_000_000).collect();
        assert_eq!(charged, [1000, 900, 800]);
    }

    #[test]
    fn what_was_due_while_it_was_measured_counts_whenever_it_comes() {
        let span = Span { from: 5, until: 9 };
        assert_eq!([4, 5, 8, 9].map(|due| span.has(due)), [false, true, true, false]);
    }

    #[test]
    fn what_is_due_before_the_end_is_counted_and_no_more() {
        let plan = Plan::new(1_000, 1_000.0);
        let until = plan.due(500);
        assert_eq!(plan.due_before(until, u64::MAX / 2), 500);
        assert_eq!(plan.due_before(until + 1, u64::MAX / 2), 501);
        assert_eq!(plan.due_before(until, plan.due(3)), 4, "not yet");
        assert_eq!(plan.due_before(1_000, u64::MAX / 2), 0);
    }

    #[test]
    fn what_is_due_agrees_with_when_it_is_due() {
        let plan = Plan::new(1_000, 1_000.0);
        assert_eq!(plan.due_by(999), 0, "before the start");
        assert_eq!(plan.due_by(1_000), 1, "the first leaves at the start");
        assert_eq!(plan.due_by(plan.due(1) - 1), 1);
        assert_eq!(plan.due_by(plan.due(500) + 1), 501);
    }
}
