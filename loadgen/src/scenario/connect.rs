//! `connect`: handshakes a second and how long each takes. `idle`: what holding them costs.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::crew::Result as CrewResult;
use crate::engine::wanted::Subscribing;
use crate::fault::{Invalid, RunError};
use crate::latency::Latency;
use crate::process;
use crate::report::{Idle, Report};
use crate::scenario::common::{Connecting, hold};
use crate::scenario::moment::{Moment, Stretch, ratio};

/// The largest p99 of the generator's own lateness with a plan.
const LATE_MAX: Duration = Duration::from_millis(10);

/// What happens once the connections stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding {
    /// Before memory is looked at.
    pub(crate) settle: Duration,
    /// While CPU is counted.
    pub(crate) hold: Duration,
}

/// Opens, and holds if asked to.
pub(crate) fn run(
    connecting: &Connecting,
    subscribing: Subscribing,
    holding: Option<Holding>,
) -> Result<Report, RunError> {
    let own_before = process::own();
    let server_before = connecting.server_pid.and_then(process::sample);
    let crew = connecting.open(subscribing)?;
    let threads = crew.wanted.threads;
    if let Some(holding) = holding {
        hold(&crew, holding.settle);
    }
    let from = match holding {
        Some(_) => connecting.moment(&crew.shared),
        None => {
            // Threads book their CPU every 20 ms.
            clock::sleep(SECOND / 40);
            Moment::before(crew.started, threads, server_before)
        }
    };
    let own = process::own();
    if let Some(holding) = holding {
        hold(&crew, holding.hold);
    }
    let stretch = Stretch { from, to: connecting.moment(&crew.shared) };
    let opening = holding.is_none();
    let broken = crew.broken();
    let started = crew.started;
    let done = crew.stop();
    let mut report = connecting.report(if opening { "connect" } else { "idle" }, threads, &done);
    report.invalidate(broken);
    connecting.book_server(&stretch, server_before, &mut report);
    report.client = stretch.client(own.rss_bytes);
    if opening {
        stretch.check_reserve(connecting.rate > 0.0, &mut report);
        check_plan(connecting, &done, started, &mut report);
        let ready = report.connect.ready.saturating_mul(1_000);
        let (from, to) = (&stretch.from, &stretch.to);
        let client = to.total.cpu_ns.saturating_sub(from.total.cpu_ns);
        let server = from.server.zip(to.server);
        report.connect.client_cpu_us = (ready > 0).then(|| ratio(client, ready));
        report.connect.server_cpu_us = server
            .filter(|_| ready > 0)
            .map(|(from, to)| ratio(to.cpu_ns.saturating_sub(from.cpu_ns), ready));
    } else {
        let ready = report.connect.ready;
        let grown = |before: u64, after: u64| ratio(after.saturating_sub(before), ready);
        let server = server_before.zip(stretch.from.server);
        // A server that was used before has room of its own for these: its growth tells nothing.
        let told = server.filter(|(before, after)| after.rss_bytes > before.rss_bytes);
        if server.is_some() && told.is_none() {
            let text = "the server did not grow, so it had the memory from before: what a \
                connection costs shows on one that was just started";
            report.notes.push(text.to_owned());
        }
        report.idle = Some(Idle {
            seconds: ratio(stretch.nanos(), SECOND),
            client_bytes_per_connection: grown(own_before.rss_bytes, own.rss_bytes),
            server_bytes_per_connection: told
                .map(|(before, after)| grown(before.rss_bytes, after.rss_bytes)),
        });
    }
    Ok(report)
}

/// With a plan, whether connections were begun when they were due: by the generator, and by a server
/// that left it room to.
fn check_plan(connecting: &Connecting, done: &CrewResult, started: u64, report: &mut Report) {
    if connecting.rate == 0.0 {
        return;
    }
    let (mut lateness, mut last) = (Latency::new(), started);
    for book in &done.books {
        lateness.merge(&book.opening_lateness);
        last = last.max(book.last_begun);
    }
    report.connect.lateness = lateness.summary();
    Stretch::check_lateness((&lateness, &done.handshakes), LATE_MAX, report);
    let begun = lateness.count();
    let missed = rate_missed(begun, last - started, connecting.rate);
    report.invalidate(missed);
}

/// Whether `begun` connections in so many nanoseconds are fewer than the rate asks for.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn rate_missed(begun: u64, nanos: u64, rate: f64) -> Option<Invalid> {
    let seconds = nanos as f64 / SECOND as f64;
    let owed = rate * seconds * 0.99;
    (owed - begun as f64 > rate * LATE_MAX.as_secs_f64() + 1.0).then(|| {
        let got = ratio(begun.saturating_mul(SECOND), nanos) as u64;
        Invalid::ConnectRateNotReached { wanted: rate as u64, got }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_not_begun_when_due_make_the_run_invalid() {
        assert_eq!(rate_missed(1_000, SECOND, 1_000.0), None);
        assert_eq!(rate_missed(980, SECOND, 1_000.0), None, "ten may be late");
        let missed = Invalid::ConnectRateNotReached { wanted: 1_000, got: 500 };
        assert_eq!(rate_missed(1_000, 2 * SECOND, 1_000.0), Some(missed));
        assert_eq!(rate_missed(1, 0, 5.0), None);
    }
}
