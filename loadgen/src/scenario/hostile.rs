//! `hostile`: a fan-out, measured first as it is and then beside peers that mean no good: half-open
//! connections that are opened again whenever they are cut, and connections with garbage.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{self, SECOND};
use crate::engine::crew::Crew;
use crate::engine::hostile::{Hostile, Hostility};
use crate::engine::publisher::Feed;
use crate::engine::wanted::Subscribing;
use crate::fault::{Invalid, RunError};
use crate::report::Report;
use crate::scenario::common::{Connecting, hold};
use crate::scenario::fanout::{self, Times};
use crate::scenario::moment::ratio;
use crate::sections;

/// What half-open connections may take until nearly all of them stand, beyond twice what their rate
/// asks for.
const STAND_NS: u64 = 2 * SECOND;
/// That many hundredths of what was asked for must be there.
const ENOUGH: u64 = 95;

/// Publishes and receives twice, the second time beside the others.
pub(crate) fn run(
    connecting: &Connecting,
    subscribing: Subscribing,
    hostility: Hostility,
    (feed, times): (Feed, Times),
) -> Result<Report, RunError> {
    let held = |crew: &Crew| {
        hold(crew, times.duration);
    };
    let calm = fanout::measure("hostile", connecting, subscribing.clone(), (feed, times), held)?;
    let (half_open, rate) = (u64::from(hostility.half_open), hostility.garbage_rate);
    let open_rate = hostility.open_rate;
    let hostile = Hostile::start(hostility)?;
    let deeds = &hostile.deeds;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let by = clock::now() + ramp_ns(half_open, open_rate) + STAND_NS;
    while load(&deeds.open) * 100 < half_open * ENOUGH && clock::now() < by {
        clock::sleep(SECOND / 100);
    }
    let mut samples = Vec::new();
    let mut course = None;
    let watched = |crew: &Crew| {
        let (begun, before) =
            (clock::now(), [&deeds.cut, &deeds.garbage, &deeds.refused].map(load));
        let until = begun + u64::try_from(times.duration.as_nanos()).unwrap_or(u64::MAX / 2);
        while clock::now() < until && crew.broken().is_none() {
            samples.push(load(&deeds.open));
            clock::sleep(SECOND / 20);
        }
        let after = [&deeds.cut, &deeds.garbage, &deeds.refused].map(load);
        course = Some((clock::now() - begun, before, after));
    };
    let fed = fanout::measure("hostile", connecting, subscribing, (feed, times), watched)?;
    let (failed, ignored) = (load(&deeds.failed), load(&deeds.ignored));
    drop(hostile);

    let mut report = fed.report;
    let (nanos, before, after) = course.unwrap_or((1, [0; 3], [0; 3]));
    let [cut, garbage, refused] = [0, 1, 2].map(|at: usize| after[at] - before[at]);
    let count = (samples.len() as u64).max(1);
    let mean = (samples.iter().sum::<u64>() + count / 2) / count;
    let per_second = |count: u64| ratio(count.saturating_mul(SECOND), nanos);
    let (calm_latency, latency) = (calm.done.latency.summary(), fed.done.latency.summary());
    report.invalid.extend(calm.report.invalid);
    report.invalidate(too_few(half_open, mean));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate of the command line"
    )]
    let wanted = rate as u64;
    let got = garbage.saturating_mul(SECOND) / nanos.max(1);
    if got * 100 < wanted * ENOUGH {
        report.invalidate(Some(Invalid::ConnectRateNotReached { wanted, got }));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    report.sizes.extend([("half_open", half_open as f64), ("garbage_rate", rate)]);
    report.distributions.extend(calm.done.latency.distribution("latency_without"));
    report.sections.hostile = Some(sections::Hostile {
        half_open: mean,
        half_open_least: samples.into_iter().min().unwrap_or(0),
        cut_per_second: per_second(cut),
        garbage_per_second: per_second(garbage),
        refused_per_second: per_second(refused),
        ignored,
        failed,
        without: calm_latency,
        p99_ratio: latency.zip(calm_latency).map(|(it, calm)| it.p99_ms / calm.p99_ms),
        server_cores_without: calm.report.server.map(|server| server.cores),
    });
    Ok(report)
}

/// How long so many may take to be opened, at that rate: twice what they should.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "some seconds"
)]
fn ramp_ns(half_open: u64, open_rate: f64) -> u64 {
    (2.0 * half_open as f64 / open_rate.max(1.0) * SECOND as f64) as u64
}

/// Whether far fewer stood than were asked for.
fn too_few(wanted: u64, got: u64) -> Option<Invalid> {
    (got * 100 < wanted * ENOUGH).then_some(Invalid::HalfOpenNotReached { wanted, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_hold_them_makes_the_run_invalid() {
        assert_eq!(too_few(100, 95), None);
        let wanted = Some(Invalid::HalfOpenNotReached { wanted: 100, got: 94 });
        assert_eq!(too_few(100, 94), wanted);
        assert_eq!(too_few(0, 0), None, "none were asked for");
    }
}
