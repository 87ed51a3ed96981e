//! `publish`: what a server takes in from many publishers, and how long each event takes from when
//! it was due to its acknowledgement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::ingest::{self, Acknowledged, Ingested, Job};
use crate::engine::lane::Via;
use crate::engine::shared::{Phase, Shared};
use crate::fault::{Count, Invalid, RunError};
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
        let is_whole = all.iter().all(|done| done.unanswered == 0 && done.lost == 0);
        let (verdict, renewed) = verdict(&all, is_whole);
        if renewed > 0 {
            report
                .notes
                .push(format!("the numbering of {renewed} channels began anew (another epoch)"));
        }
        report.verdict = Some(verdict);
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
    let via = match job.style.via {
        Via::WebSocket => "websocket",
        Via::HttpJson => "http_json",
        Via::HttpNdjson => "http_ndjson",
    };
    let (window, batch) = job.style.bounds();
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
    report.invalidate(Count::Unanswered.of(unanswered));
    let (total, sent) = (shared.total(), shared.published.load(Ordering::Relaxed));
    let answered = total.delivered.saturating_add(total.told).saturating_add(unanswered);
    report.invalidate(Count::Unaccounted.of(sent.abs_diff(answered)));
    report.invalidate(Count::Unsent.of(sum(|done| done.unsent)));
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

/// On a channel that is new, offsets are given from 1 on, once each and without holes. `is_whole` when
/// every event was answered: then nothing may be behind them either.
fn verdict(all: &[Ingested], is_whole: bool) -> (Verdict, u64) {
    let (mut verdict, mut renewed) = (Verdict::default(), 0);
    let mut channels: BTreeMap<u32, Acknowledged> = BTreeMap::new();
    for done in all {
        for (channel, part) in &done.acknowledged {
            channels.entry(*channel).or_default().add(part.count, &part.offsets);
        }
    }
    for (channel, acknowledged) in channels {
        renewed += u64::from(acknowledged.offsets.len() > 1);
        let mut add = |kind, from, to| verdict.add(None, Some(channel), (kind, from, to));
        let numbered: usize = acknowledged.offsets.values().map(Vec::len).sum();
        if numbered as u64 != acknowledged.count {
            add(Kind::Unnumbered, 1, acknowledged.count.abs_diff(numbered as u64));
        }
        for mut offsets in acknowledged.offsets.into_values() {
            offsets.sort_unstable();
            let mut before = 0;
            for offset in offsets {
                match offset.checked_sub(before) {
                    Some(1) => {}
                    None | Some(0) => add(Kind::AcknowledgedTwice, offset, offset),
                    // Events that nobody has answered yet may have these.
                    Some(_) if !is_whole => {}
                    Some(_) => add(Kind::NotAcknowledged, before + 1, offset - 1),
                }
                before = offset;
            }
        }
    }
    (verdict, renewed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(epoch: &str, offsets: &[u64]) -> Ingested {
        let mut acknowledged = Acknowledged::default();
        acknowledged.add(offsets.len() as u64, &BTreeMap::from([(epoch.into(), offsets.to_vec())]));
        Ingested { acknowledged: BTreeMap::from([(7, acknowledged)]), ..Ingested::new() }
    }

    fn kinds(all: &[Ingested]) -> Vec<(Kind, u64, u64)> {
        let (verdict, _) = verdict(all, true);
        verdict.listed.iter().map(|v| (v.kind, v.from, v.to)).collect()
    }

    #[test]
    fn offsets_given_twice_or_never_are_named() {
        assert_eq!(kinds(&[done("e", &[1, 4, 2]), done("e", &[3, 5])]), []);
        let bad = kinds(&[done("e", &[1, 2]), done("e", &[2, 5])]);
        assert_eq!(bad, [(Kind::AcknowledgedTwice, 2, 2), (Kind::NotAcknowledged, 3, 4)]);
        assert_eq!(kinds(&[done("e", &[3, 4])]), [(Kind::NotAcknowledged, 1, 2)], "the first is 1");
        assert_eq!(kinds(&[done("e", &[0])]), [(Kind::AcknowledgedTwice, 0, 0)], "no offset is 0");
        let (open, _) = verdict(&[done("e", &[3])], false);
        assert_eq!(open.violations, 0, "1 and 2 may be unanswered");
    }

    #[test]
    fn each_epoch_counts_from_one() {
        let all = [done("e", &[1, 2]), done("f", &[1, 2, 3])];
        assert_eq!((kinds(&all), verdict(&all, true).1), (vec![], 1));
    }

    #[test]
    fn acknowledgements_without_offsets_are_violations() {
        let mut some = done("e", &[1, 2]);
        some.acknowledged.entry(7).or_default().count = 5;
        assert_eq!(kinds(&[some]), [(Kind::Unnumbered, 1, 3)]);
    }
}
