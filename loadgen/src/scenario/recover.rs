//! `recover`: connections are cut at random and come back with `since`. `storm`: all are cut at
//! once. How long it takes until all are back and served, and whether what they missed came.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::{Conduct, Cut};
use crate::engine::crew::Crew;
use crate::engine::publisher::Feed;
use crate::engine::shared::Total;
use crate::engine::wanted::Subscribing;
use crate::fault::{Count, RunError};
use crate::latency::Latency;
use crate::report::Report;
use crate::scenario::common::{Connecting, hold};
use crate::scenario::fanout::{self, Fed, Times};
use crate::scenario::moment::{Stretch, ratio};
use crate::sections::{Recover, Round};

/// Rounds in which all connections are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storms {
    pub(crate) rounds: u32,
    /// The longest that a round may take.
    pub(crate) limit: Duration,
}

/// Publishes, receives and cuts; with `storms` all at once.
pub(crate) fn run(
    connecting: &Connecting,
    mut subscribing: Subscribing,
    (cut, storms): (Cut, Option<Storms>),
    (feed, times): (Feed, Times),
) -> Result<Report, RunError> {
    if !(0..connecting.connections).any(|connection| cut.has(connection)) {
        let text =
            format!("--share {} of {} connections cuts nobody", cut.share, connecting.connections);
        return Err(RunError::Usage(text));
    }
    subscribing.conduct = Conduct::Cut(cut);
    let mut rounds = Vec::new();
    let name = if storms.is_some() { "storm" } else { "recover" };
    let measured = |crew: &Crew| match storms {
        None => {
            hold(crew, times.duration);
        }
        Some(storms) => {
            for _ in 0..storms.rounds {
                rounds.push(storm(crew, (cut, storms.limit)));
                if !hold(crew, times.duration) {
                    return;
                }
            }
        }
    };
    let fed = fanout::measure(name, connecting, subscribing, (feed, times), measured)?;
    let lateness = fed.done.lateness();
    let (back, served) = returns(&fed);
    let recover = figures(&fed, (&back, &served), (rounds, &lateness));
    let mut report = fed.report;
    report.distributions.extend(back.distribution("until_back"));
    report.distributions.extend(served.distribution("until_served"));
    // A storm is no plan: all are due at once, and who is begun last is late.
    let late_max = if storms.is_some() { Duration::MAX } else { times.late_max };
    Stretch::check_lateness((&lateness, &back), late_max, &mut report);
    for Round { cut, served, .. } in &recover.rounds {
        report.invalidate(Count::NotServed.of(cut.saturating_sub(*served)));
    }
    if recover.skipped > 0 {
        report.notes.push(format!("{} cuts found no connection that was served", recover.skipped));
    }
    if recover.recovered_events == 0 && recover.cut > 0 {
        let text = "no subscription that had missed something was recovered, so recovery itself was \
                    not checked";
        report.notes.push(text.to_owned());
    }
    if cut.expects_recovered {
        report.invalidate(Count::NotRecovered.of(recover.recovered_false));
    }
    let rounds = storms.map_or(0.0, |storms| f64::from(storms.rounds));
    report.sizes.extend([
        ("cut_rate", cut.rate),
        ("cut_share", cut.share),
        ("away_seconds", ratio(cut.away_ns, SECOND)),
        ("storm_rounds", rounds),
    ]);
    report.sections.recover = Some(recover);
    Ok(report)
}

/// Cuts all that are to be cut, and waits until all are back and served.
fn storm(crew: &Crew, (cut, limit): (Cut, Duration)) -> Round {
    let before = crew.shared.total();
    let start = clock::now();
    let end = start + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let wanted = (0..crew.wanted.connections).filter(|connection| cut.has(*connection));
    let wanted = wanted.count() as u64;
    crew.shared.storm_at.store(start, Ordering::Relaxed);
    crew.shared.storms.fetch_add(1, Ordering::Release);
    loop {
        clock::sleep(SECOND / 1_000);
        let Total { cut, back, served, last_back, last_served, .. } = crew.shared.total();
        let (cut, back, served) = (cut - before.cut, back - before.back, served - before.served);
        let over = clock::now() > end || crew.broken().is_some();
        if over || (cut >= wanted && back >= cut && served >= cut) {
            let since = |at: u64| ratio(at.saturating_sub(start), SECOND);
            let (back_seconds, served_seconds) = (since(last_back), since(last_served));
            return Round { cut, back, served, back_seconds, served_seconds };
        }
    }
}

/// How long all took until they were back, and until they were served.
fn returns(fed: &Fed) -> (Latency, Latency) {
    let (mut back, mut served) = (Latency::new(), Latency::new());
    for book in &fed.done.books {
        back.merge(&book.back);
        served.merge(&book.served);
    }
    (back, served)
}

fn figures(
    fed: &Fed,
    (back, served): (&Latency, &Latency),
    (rounds, lateness): (Vec<Round>, &Latency),
) -> Recover {
    let (mut recovered_true, mut recovered_false, mut recovered_events) = (0, 0, 0);
    for book in &fed.done.books {
        recovered_true += book.ledger.recovered.0;
        recovered_false += book.ledger.recovered.1;
        recovered_events += book.ledger.owed;
    }
    Recover {
        cut: fed.total.cut,
        back: fed.total.back,
        served: fed.total.served,
        retries: fed.total.retries,
        skipped: fed.total.skipped,
        lateness: lateness.summary(),
        recovered_true,
        recovered_false,
        recovered_events,
        until_back: back.summary(),
        until_served: served.summary(),
        rounds,
    }
}
