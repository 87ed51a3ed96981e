//! `publish`: what a server takes in from many publishers, and how long each event takes from when
//! it was due to its acknowledgement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::ingest::{self, Ingested, Job};
use crate::engine::lane::Via;
use crate::engine::shared::{Phase, Shared};
use crate::fault::{Invalid, RunError};
use crate::latency::Latency;
use crate::machine;
use crate::process;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::drain;
use crate::scenario::fanout::Times;
use crate::scenario::moment::{Stretch, ratio};
use crate::sections::Publish;
use crate::series::Sampler;
use crate::verdict::{Kind, Verdict};

/// Publishes, and waits for the last acknowledgement.
pub(crate) fn run(connecting: &Connecting, job: Job, times: Times) -> Result<Report, RunError> {
    machine::one_table(job.publishers)?;
    connecting.check_pid()?;
    let server_before = connecting.server_pid.and_then(process::sample);
    let (job, shared) = (Arc::new(job), Arc::new(Shared::new(job_threads(connecting))));
    let opened_at = clock::now();
    let sampler = Sampler::start(Arc::clone(&shared), connecting.server_pid);
    let threads =
        ingest::start(Arc::clone(&job), &shared).map_err(|fault| connecting.server_error(fault))?;
    let opening_ns = clock::now() - opened_at;
    shared.expect_senders(job.threads);
    shared.enter(Phase::Warm);
    hold(&shared, times.warmup);
    shared.enter(Phase::Measure);
    let from = connecting.moment(&shared);
    hold(&shared, times.duration);
    let stretch = Stretch { from, to: connecting.moment(&shared) };
    shared.enter(Phase::Drain);
    answers(&shared, times.drain);
    let own = process::own();
    shared.enter(Phase::Stop);
    let marks = sampler.map(Sampler::finish).unwrap_or_default();
    let mut all = Vec::new();
    for thread in threads {
        all.push(thread.join().map_err(|_| {
            RunError::Machine("a publisher thread panicked; please report it".to_owned())
        })?);
    }
    let mut report = connecting.blank("publish", job.threads);
    report.sizes.extend(job.sizes());
    report.series = marks.series(all.iter().map(|done: &Ingested| &done.slices), opened_at);
    report.connect.ready = u64::from(job.publishers);
    report.connect.seconds = ratio(opening_ns, SECOND);
    report.connect.per_second = ratio(report.connect.ready * SECOND, opening_ns);
    connecting.book_server(&stretch, server_before, &mut report);
    report.client = stretch.client(own.rss_bytes);
    stretch.check_reserve(job.rate > 0.0, &mut report);
    let rate = stretch.check_rate(stretch.published(), job.rate, times.late_max);
    report.invalidate(rate);
    guard(&mut report, &shared, (&all, times.late_max));
    if job.verify {
        report.verdict = Some(verdict(&all));
    }
    let (figures, latency) = figures(&job, &stretch, &shared, all);
    report.sections.publish = Some(figures);
    report.distributions.extend(latency.distribution("latency"));
    Ok(report)
}

fn job_threads(connecting: &Connecting) -> u32 {
    connecting.threads.unwrap_or(1).min(connecting.connections)
}

/// Holds for a duration, while all publishers stand.
fn hold(shared: &Shared, time: Duration) {
    drain::hold(time, || shared.total().lost == 0);
}

/// Waits until what was due is sent and answered.
fn answers(shared: &Shared, limit: Duration) {
    let end = drain::end_of(limit);
    while clock::now() < end && shared.total().lost == 0 {
        let (is_settled, total) = (shared.is_settled(), shared.total());
        if is_settled && total.delivered + total.told >= shared.published.load(Ordering::Relaxed) {
            return;
        }
        clock::sleep(SECOND / 500);
    }
}

fn figures(
    job: &Job,
    stretch: &Stretch,
    shared: &Shared,
    all: Vec<Ingested>,
) -> (Publish, Latency) {
    let (mut latency, mut lateness) = (Latency::new(), Latency::new());
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for done in all {
        latency.merge(&done.latency);
        lateness.merge(&done.lateness);
        for (code, count) in done.refusals {
            *refusals.entry(code).or_default() += count;
        }
    }
    let (total, accepted) = (shared.total(), stretch.delivered());
    let (via, window, batch) = match job.style.via {
        Via::WebSocket => ("websocket", job.style.window, 1),
        Via::HttpJson => ("http_json", 1, 1),
        Via::HttpNdjson => ("http_ndjson", job.style.batch, job.style.batch),
    };
    let figures = Publish {
        via,
        seconds: ratio(stretch.nanos(), SECOND),
        publishers: job.publishers,
        channels: job.channels,
        window,
        batch,
        rate: job.rate,
        accepted,
        accepted_per_second: stretch.per_second(accepted),
        latency: latency.summary(),
        lateness: lateness.summary(),
        sent_total: shared.published.load(Ordering::Relaxed),
        accepted_total: total.delivered,
        refused_total: total.told,
        refusals,
    };
    (figures, latency)
}

/// Finds the reasons to throw the run away.
fn guard(report: &mut Report, shared: &Shared, (all, late_max): (&[Ingested], Duration)) {
    let sum = |part: fn(&Ingested) -> u64| all.iter().map(part).sum::<u64>();
    let lost = sum(|done| done.lost);
    if lost > 0 {
        report
            .invalidate(Some(Invalid::ConnectionsLost { lost, why: shared.fault.get().cloned() }));
    }
    let unanswered = sum(|done| done.unanswered);
    if unanswered > 0 {
        report.invalidate(Some(Invalid::Unanswered { commands: unanswered }));
    }
    let unsent = sum(|done| done.unsent);
    if unsent > 0 {
        report.invalidate(Some(Invalid::Unsent { events: unsent }));
    }
    let (mut lateness, mut latency) = (Latency::new(), Latency::new());
    for done in all {
        lateness.merge(&done.lateness);
        latency.merge(&done.latency);
    }
    Stretch::check_lateness((&lateness, &latency), late_max, report);
    if shared.total().delivered == 0 {
        report.invalidate(Some(Invalid::NothingAccepted));
    }
}

/// The offsets of a channel must be given once each, without holes.
fn verdict(all: &[Ingested]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut channels: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for done in all {
        for (channel, offsets) in &done.offsets {
            channels.entry(*channel).or_default().extend(offsets);
        }
    }
    for (channel, mut offsets) in channels {
        offsets.sort_unstable();
        for pair in offsets.windows(2) {
            match pair[1] - pair[0] {
                0 => verdict.add(None, Some(channel), (Kind::AcknowledgedTwice, pair[1], pair[1])),
                1 => {}
                _ => verdict.add(
                    None,
                    Some(channel),
                    (Kind::NotAcknowledged, pair[0] + 1, pair[1] - 1),
                ),
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_given_twice_or_never_are_named() {
        let done = |offsets: &[u64]| Ingested {
            latency: Latency::new(),
            lateness: Latency::new(),
            slices: crate::series::Slices::new(),
            refusals: BTreeMap::new(),
            lost: 0,
            unanswered: 0,
            unsent: 0,
            offsets: BTreeMap::from([(7, offsets.to_vec())]),
        };
        assert_eq!(verdict(&[done(&[1, 4, 2]), done(&[3, 5])]).violations, 0);
        let bad = verdict(&[done(&[1, 2]), done(&[2, 5])]);
        let kinds: Vec<_> = bad.listed.iter().map(|v| (v.kind, v.from, v.to)).collect();
        assert_eq!(kinds, [(Kind::AcknowledgedTwice, 2, 2), (Kind::NotAcknowledged, 3, 4)]);
    }
}
