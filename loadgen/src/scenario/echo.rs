//! `echo`: connections ask and are answered; the time from when a request was due to its answer.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::{Conduct, Echo};
use crate::engine::crew::Crew;
use crate::engine::shared::Phase;
use crate::engine::wanted::Subscribing;
use crate::fault::{Count, Invalid, RunError};
use crate::latency::Latency;
use crate::process;
use crate::report::Report;
use crate::scenario::common::{Connecting, hold};
use crate::scenario::drain::{DRAIN_QUIET, end_of};
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
        crew.shared.expect_senders(crew.wanted.threads);
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
    let (mut latency, lateness) = (Latency::new(), done.lateness());
    let (mut sent_total, mut unanswered) = (0, 0);
    for book in &done.books {
        latency.merge(&book.answers);
        sent_total += book.requests;
        unanswered += book.unanswered;
    }
    report.distributions.extend(latency.distribution("latency"));
    let answered = stretch.delivered();
    report.invalidate(stretch.check_rate(answered, rate, times.late_max));
    report.invalidate(Count::Unanswered.of(unanswered));
    report.invalidate((answered == 0).then_some(Invalid::NothingAnswered));
    let unsent = done.books.iter().map(|book| book.unsent).sum();
    report.invalidate(Count::Unsent.of(unsent));
    let strangers = done.books.iter().map(|book| book.strangers).sum();
    report.invalidate(Count::Strangers.of(strangers));
    Stretch::check_lateness((&lateness, &latency), times.late_max, &mut report);
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

/// Waits until all is asked and answered, or no answer has come for a while: what is missing then
/// never comes.
fn drain(crew: &Crew, limit: Duration) {
    let end = end_of(limit);
    let (mut seen, mut moved_at) = (0, clock::now());
    while clock::now() < end && crew.broken().is_none() {
        let is_settled = crew.shared.is_settled();
        let total = crew.shared.total();
        if total.delivered != seen || !is_settled {
            (seen, moved_at) = (total.delivered, clock::now());
        }
        if is_settled && (total.open == 0 || clock::now() - moved_at > DRAIN_QUIET) {
            return;
        }
        clock::sleep(SECOND / 200);
    }
}
