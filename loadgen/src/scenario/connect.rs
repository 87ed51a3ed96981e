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
use crate::series::Series;

/// The largest p99 of the generator's own lateness with a plan.
const LATE_MAX: Duration = Duration::from_millis(10);

/// Hardly any server keeps what it has to know of a connection in fewer bytes, and one that was used
/// before grows by so many for other reasons: Weir by 60 for each of 5,000 that came a second time.
const LEAST_BYTES: f64 = 128.0;
/// A server that grows so many times as much for the last connections as for the first ones had room
/// for the first ones. Tables that double make a smaller difference.
const UNEVEN: f64 = 4.0;

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
        let told = server.and_then(|(before, after)| {
            let midway = midway(&report.series, ready);
            per_connection(before.rss_bytes, midway, (ready, after.rss_bytes))
        });
        if server.is_some() && told.is_none() {
            let text = "what a connection costs the server is not measurable: it had memory from \
                before, so look at one that was just started";
            report.notes.push(text.to_owned());
        }
        report.idle = Some(Idle {
            seconds: ratio(stretch.nanos(), SECOND),
            client_bytes_per_connection: grown(own_before.rss_bytes, own.rss_bytes),
            server_bytes_per_connection: told,
        });
    }
    Ok(report)
}

/// How many connections were ready, and how large the server was, when about half of them were.
fn midway(series: &Series, ready: u64) -> Option<(u64, u64)> {
    let mut points = series.points.iter();
    let point = points.find(|point| point.ready * 2 >= ready)?;
    (point.ready < ready).then_some((point.ready, point.server_rss_bytes?))
}

/// What each connection has made a server grow, from `before` to `after`, where that can be known: a
/// server that was used before has room of its own for some of them, or for all.
fn per_connection(
    before: u64,
    midway: Option<(u64, u64)>,
    (ready, after): (u64, u64),
) -> Option<f64> {
    let each = ratio(after.saturating_sub(before), ready);
    let uneven = midway.is_some_and(|(early, size)| {
        let first = ratio(size.saturating_sub(before), early);
        let second = ratio(after.saturating_sub(size), ready.saturating_sub(early));
        first * UNEVEN < second
    });
    (each >= LEAST_BYTES && !uneven).then_some(each)
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
    fn a_server_with_memory_from_before_has_no_bytes_for_each_connection() {
        let each = |before, midway, after| per_connection(before, midway, (1_000, after));
        assert_eq!(each(1_000_000, None, 2_000_000), Some(1_000.0));
        assert_eq!(each(1_000_000, Some((500, 1_500_000)), 2_000_000), Some(1_000.0));
        // A table that doubles behind the middle.
        assert_eq!(each(1_000_000, Some((500, 1_300_000)), 2_000_000), Some(1_000.0));
        // Room for the first half.
        assert_eq!(each(1_000_000, Some((500, 1_000_000)), 1_500_000), None);
        assert_eq!(each(1_000_000, Some((500, 1_090_000)), 1_500_000), None);
        // Room for all, or nearly all, and a server that gave some back.
        assert_eq!(each(1_000_000, None, 1_000_000), None);
        assert_eq!(each(1_000_000, None, 1_040_000), None);
        assert_eq!(each(1_000_000, None, 900_000), None);
        assert_eq!(per_connection(1, None, (0, 1)), None, "nobody was ready");
    }

    #[test]
    fn connections_that_are_not_begun_when_due_make_the_run_invalid() {
        assert_eq!(rate_missed(1_000, SECOND, 1_000.0), None);
        assert_eq!(rate_missed(980, SECOND, 1_000.0), None, "ten may be late");
        let missed = Invalid::ConnectRateNotReached { wanted: 1_000, got: 500 };
        assert_eq!(rate_missed(1_000, 2 * SECOND, 1_000.0), Some(missed));
        assert_eq!(rate_missed(1, 0, 5.0), None);
    }
}
