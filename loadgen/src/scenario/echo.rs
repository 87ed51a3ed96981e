//! `echo`: connections ask and are answered; the time from when a request was due to its answer.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::{Conduct, Echo};
use crate::engine::crew::Crew;
use crate::engine::shared::Phase;
use crate::fault::{Invalid, RunError};
use crate::latency::Latency;
use crate::process;
use crate::report::Report;
use crate::scenario::common::{Connecting, Subscribing, hold};
use crate::scenario::fanout::Times;
use crate::scenario::moment::{Stretch, ratio};
use crate::sections;

/// Asks, and waits for the last answer.
pub(crate) fn run(
    connecting: &Connecting,
    mut subscribing: Subscribing,
    echo: Echo,
    times: Times,
) -> Result<Report, RunError> {
    let (rate, window) = (echo.rate, echo.window);
    subscribing.conduct = Conduct::Echo(echo);
    let server_before = connecting.server_pid.and_then(process::sample);
    let crew = connecting.open(subscribing)?;
    let at = connecting.moment(&crew.shared);
    let mut stretch = Stretch { from: at.clone(), to: at };
    if crew.broken().is_none() {
        crew.shared.enter(Phase::Warm);
        hold(&crew, times.warmup);
        crew.shared.enter(Phase::Measure);
        stretch.from = connecting.moment(&crew.shared);
        hold(&crew, times.duration);
        stretch.to = connecting.moment(&crew.shared);
        crew.shared.enter(Phase::Drain);
        drain(&crew, times.drain);
    }
    let own = process::own();
    let (broken, threads) = (crew.broken(), crew.wanted.threads);
    let answered_total = crew.shared.total().delivered;
    let done = crew.stop();
    let mut report = connecting.report("echo", threads, &done);
    report.sizes.extend([("rate", rate), ("window", if rate > 0.0 { 0.0 } else { window.into() })]);
    report.invalidate(broken);
    connecting.book_server(&stretch, server_before, &mut report);
    report.client = stretch.client(own.rss_bytes);
    stretch.check_reserve(rate > 0.0, &mut report);
    let (mut latency, mut lateness) = (Latency::new(), Latency::new());
    let (mut sent_total, mut unanswered) = (0, 0);
    for book in &done.books {
        latency.merge(&book.answers);
        lateness.merge(&book.lateness);
        sent_total += book.requests;
        unanswered += book.unanswered;
    }
    report.distributions.extend(latency.distribution("latency"));
    let answered = stretch.delivered();
    report.invalidate(stretch.check_rate(answered, rate, times.late_max));
    report.invalidate((unanswered > 0).then_some(Invalid::Unanswered { commands: unanswered }));
    report.invalidate((answered == 0).then_some(Invalid::NothingAnswered));
    let max_ns = u64::try_from(times.late_max.as_nanos()).unwrap_or(u64::MAX);
    let p99_ns = lateness.at(0.99);
    report.invalidate((p99_ns > max_ns).then_some(Invalid::GeneratorLate { p99_ns, max_ns }));
    report.sections.echo = Some(sections::Echo {
        seconds: ratio(stretch.nanos(), SECOND),
        rate,
        window,
        answered,
        answered_per_second: stretch.per_second(answered),
        latency: latency.summary(),
        lateness: lateness.summary(),
        sent_total,
        answered_total,
        refused_total: done.refused,
    });
    Ok(report)
}

/// Waits until no answer has come for a while; what is missing then never comes.
fn drain(crew: &Crew, limit: Duration) {
    let end = clock::now() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let (mut seen, mut moved_at) = (0, clock::now());
    while clock::now() < end && crew.broken().is_none() && clock::now() - moved_at < SECOND / 2 {
        let delivered = crew.shared.total().delivered;
        if delivered != seen {
            (seen, moved_at) = (delivered, clock::now());
        }
        clock::sleep(SECOND / 200);
    }
}
