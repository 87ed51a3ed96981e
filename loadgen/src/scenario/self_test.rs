//! `self-test`: what this generator itself can receive, from a blaster that does nothing else.

use std::time::Duration;

use crate::blaster::{Blast, Blaster};
use crate::engine::shared::Phase;
use crate::engine::wanted::Subscribing;
use crate::fault::{Invalid, RunError};
use crate::machine;
use crate::process;
use crate::report::{Fanout, Report};
use crate::scenario::common::{Connecting, hold};
use crate::scenario::moment::{Stretch, ratio};
use crate::target::Target;

/// The share of its CPU from which on a receiver's ceiling is measured.
const MEASURED: f64 = 0.9;

/// Receives from the blaster for `duration` after `warmup`.
pub(crate) fn run(
    mut connecting: Connecting,
    subscribing: Subscribing,
    blast: Blast,
    times: (Duration, Duration),
) -> Result<Report, RunError> {
    machine::both_ends(connecting.connections)?;
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
    let stretch = Stretch { from, to: connecting.moment(&crew.shared) };
    let broken = crew.broken();
    let own = process::own();
    let threads = crew.wanted.threads;
    let mut done = crew.stop();
    let mut report = connecting.report("self-test", threads, &done);
    report.sizes.extend(sizes);
    report.invalidate(broken);
    report.client = stretch.client(own.rss_bytes);
    let delivered = stretch.delivered();
    ceiling(&mut report, &stretch);
    if delivered == 0 {
        report.invalidate(Some(Invalid::Nothing));
    }
    let Stretch { from, to } = &stretch;
    let per_second = |count| stretch.per_second(count);
    report.fanout = Some(Fanout {
        seconds: ratio(stretch.nanos(), crate::clock::SECOND),
        channels: 1,
        published: 0,
        published_per_second: 0.0,
        delivered,
        delivered_per_second: per_second(delivered),
        events_per_read: ratio(delivered, to.total.reads - from.total.reads),
        megabytes_per_second: per_second(to.total.bytes - from.total.bytes) / 1e6,
        // The blaster does not say how much it has sent.
        published_total: 0,
        expected_total: 0,
        delivered_total: to.total.delivered,
        told_total: 0,
        shown_total: 0,
        wire_bytes_per_delivery: None,
        inflated_bytes_per_delivery: None,
        latency: done.latency.summary(),
        until_last: None,
        lateness: None,
        held_back: 0,
        stalls: 0,
    });
    if verify {
        // Frames under way are cut off at the end, so only what came is judged.
        report.verdict = Some(done.verdict(&[], None));
    }
    Ok(report)
}

/// What one core of receivers takes. Measured only when a core was used up; otherwise it is said
/// to be an extrapolation.
fn ceiling(report: &mut Report, stretch: &Stretch) {
    let used = report.client.receiver_cores;
    if stretch.delivered() == 0 || used <= 0.0 {
        return;
    }
    report.client.ceiling_per_core = Some(stretch.per_second(stretch.delivered()) / used);
    let whole = f64::from(report.threads);
    if used < whole * MEASURED {
        report.notes.push(format!(
            "the ceiling is extrapolated: the blaster kept the receivers busy on {used:.2} of \
             {whole} cores"
        ));
    }
}
