//! `self-test`: what this generator itself can receive, from a blaster that does nothing else.

use std::time::Duration;

use crate::blaster::{Blast, Blaster};
use crate::engine::shared::Phase;
use crate::fault::{Invalid, RunError};
use crate::process;
use crate::report::{Fanout, Report};
use crate::scenario::common::{Connecting, Subscribing, client, hold, ratio};
use crate::target::Target;

/// Receives from the blaster for `duration` after `warmup`.
pub(crate) fn run(
    mut connecting: Connecting,
    subscribing: Subscribing,
    blast: Blast,
    times: (Duration, Duration),
) -> Result<Report, RunError> {
    let cannot = |error| RunError::Machine(format!("cannot start the blaster: {error}"));
    let verify = subscribing.verify;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let sizes = [("payload_bytes", blast.payload_bytes as f64), ("batch", blast.batch as f64)];
    let blaster = Blaster::start(blast).map_err(cannot)?;
    connecting.target = Target::local(blaster.address());
    let crew = connecting.open(subscribing)?;
    blaster.fire();
    crew.shared.enter(Phase::Warm);
    hold(&crew, times.0);
    crew.shared.enter(Phase::Measure);
    let from = connecting.moment(&crew.shared);
    hold(&crew, times.1);
    let to = connecting.moment(&crew.shared);
    let broken = crew.broken();
    let own = process::own();
    let threads = crew.wanted.threads;
    let mut done = crew.stop();
    let mut report = connecting.report("self-test", threads, &done);
    report.sizes.extend(sizes);
    report.invalidate(broken);
    report.client = client(own.rss_bytes, (from, to));
    let delivered = to.total.delivered - from.total.delivered;
    if delivered == 0 {
        report.invalidate(Some(Invalid::Nothing));
    }
    let nanos = to.at - from.at;
    let per_second = |count: u64| ratio(count.saturating_mul(crate::clock::SECOND), nanos);
    report.fanout = Some(Fanout {
        seconds: ratio(nanos, crate::clock::SECOND),
        channels: 1,
        published: 0,
        published_per_second: 0.0,
        delivered,
        delivered_per_second: per_second(delivered),
        events_per_read: ratio(delivered, to.total.reads - from.total.reads),
        megabytes_per_second: per_second(to.total.bytes - from.total.bytes) / 1e6,
        expected_total: to.total.delivered,
        delivered_total: to.total.delivered,
        told_total: 0,
        latency: done.latency.summary(),
        lateness: None,
        held_back: 0,
        stalls: 0,
    });
    if verify {
        // Frames under way are cut off at the end, so only what came is judged.
        report.verdict = Some(done.verdict(None));
    }
    Ok(report)
}
