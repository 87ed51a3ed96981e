//! `churn`: connections subscribe, unsubscribe and reconnect at a rate while events flow; each
//! subscription owes every event from its `subscribed` on.

use crate::engine::conduct::{Churn, Conduct};
use crate::engine::crew::Crew;
use crate::engine::publisher::Feed;
use crate::fault::RunError;
use crate::latency::Latency;
use crate::report::Report;
use crate::scenario::common::{Connecting, Subscribing, hold};
use crate::scenario::fanout::{self, Times};
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
        answered: answered.summary(),
        back: back.summary(),
    });
    Ok(report)
}
