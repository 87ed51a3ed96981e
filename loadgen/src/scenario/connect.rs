//! `connect`: handshakes a second and how long each takes. `idle`: what holding them costs.

use std::time::Duration;

use crate::fault::RunError;
use crate::process;
use crate::report::{Idle, Report};
use crate::scenario::common::{Connecting, Subscribing, client, hold, ratio};

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
    let from = connecting.moment(&crew.shared);
    let own = process::own();
    if let Some(holding) = holding {
        hold(&crew, holding.hold);
    }
    let to = connecting.moment(&crew.shared);
    let broken = crew.broken();
    let mut report = connecting.report(
        if holding.is_some() { "idle" } else { "connect" },
        threads,
        &crew.stop(),
    );
    report.invalidate(broken);
    report.server = connecting.server(server_before, (from, to));
    if holding.is_some() {
        report.client = client(own.rss_bytes, (from, to));
        let ready = report.connect.ready;
        let grown = |before: u64, after: u64| ratio(after.saturating_sub(before), ready);
        report.idle = Some(Idle {
            seconds: ratio(to.at - from.at, crate::clock::SECOND),
            client_bytes_per_connection: grown(own_before.rss_bytes, own.rss_bytes),
            server_bytes_per_connection: server_before
                .zip(from.server)
                .map(|(before, after)| grown(before.rss_bytes, after.rss_bytes)),
        });
    }
    Ok(report)
}
