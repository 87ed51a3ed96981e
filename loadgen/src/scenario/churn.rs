//! `churn`: connections subscribe, unsubscribe and reconnect at a rate while events flow; each
//! subscription owes every event from its `subscribed` on.

use std::time::Duration;

use crate::engine::conduct::{Churn, Conduct};
use crate::engine::crew::Crew;
use crate::engine::publisher::Feed;
use crate::engine::wanted::Subscribing;
use crate::fault::{Invalid, RunError};
use crate::latency::Latency;
use crate::report::Report;
use crate::scenario::common::{Connecting, hold};
use crate::scenario::fanout::{self, Times};
use crate::scenario::moment::Stretch;
use crate::sections;

/// Publishes, receives, and acts at random.
pub(crate) fn run(
    connecting: &Connecting,
    mut subscribing: Subscribing,
    churn: Churn,
    (feed, times): (Feed, Times),
) -> Result<Report, RunError> {
    subscribing.conduct = Conduct::Churn(churn);
    let measured = |crew: &Crew| {
        hold(crew, times.duration);
    };
    let fed = fanout::measure("churn", connecting, subscribing, (feed, times), measured)?;
    let (mut answered, mut back) = (Latency::new(), Latency::new());
    let (mut subscribed, mut unsubscribed) = (0, 0);
    for book in &fed.done.books {
        answered.merge(&book.answers);
        back.merge(&book.back);
        subscribed += book.moves.subscribed;
        unsubscribed += book.moves.unsubscribed;
    }
    let mut report = fed.report;
    let lateness = fed.done.lateness();
    Stretch::check_lateness((&lateness, &answered), times.late_max, &mut report);
    let done = subscribed + unsubscribed + fed.total.back;
    report.invalidate(missed((fed.total.skipped, done), churn.rate, times.late_max));
    report.sizes.extend([("churn_rate", churn.rate), ("churn_reconnect", churn.reconnect)]);
    report.distributions.extend(answered.distribution("answered"));
    report.distributions.extend(back.distribution("until_back"));
    report.sections.churn = Some(sections::Churn {
        rate: churn.rate,
        subscribed,
        unsubscribed,
        reconnected: fed.total.back,
        skipped: fed.total.skipped,
        retries: fed.total.retries,
        lateness: lateness.summary(),
        answered: answered.summary(),
        back: back.summary(),
    });
    Ok(report)
}

/// Whether acts were left out; as many as are due in `late_max` may be under way at the end.
fn missed((missed, done): (u64, u64), rate: f64, late_max: Duration) -> Option<Invalid> {
    let due = missed.saturating_add(done);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let many = missed as f64 > due as f64 * 0.01 + rate * late_max.as_secs_f64() + 1.0;
    many.then_some(Invalid::ActsMissed { missed, due })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_that_were_left_out_make_the_run_invalid() {
        let check = |left, done, late| missed((left, done), 100.0, Duration::from_millis(late));
        assert_eq!(check(0, 500, 0), None);
        assert_eq!(check(6, 494, 0), None, "one in a hundred, and one");
        assert_eq!(check(7, 493, 0), Some(Invalid::ActsMissed { missed: 7, due: 500 }));
        assert_eq!(check(7, 493, 10), None, "one may be late");
    }
}
