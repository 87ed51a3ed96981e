//! `connect`: handshakes a second and how long each takes. `idle`: what holding them costs.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::fault::RunError;
use crate::process;
use crate::report::{Idle, Report};
use crate::scenario::common::{Connecting, Subscribing, hold};
use crate::scenario::moment::{Moment, Stretch, ratio};

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
    let mut report =
        connecting.report(if opening { "connect" } else { "idle" }, threads, &crew.stop());
    report.invalidate(broken);
    connecting.book_server(&stretch, server_before, &mut report);
    report.client = stretch.client(own.rss_bytes);
    if opening {
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
        report.idle = Some(Idle {
            seconds: ratio(stretch.nanos(), SECOND),
            client_bytes_per_connection: grown(own_before.rss_bytes, own.rss_bytes),
            server_bytes_per_connection: server_before
                .zip(stretch.from.server)
                .map(|(before, after)| grown(before.rss_bytes, after.rss_bytes)),
        });
    }
    Ok(report)
}
