//! `fanout`: one publisher, many subscribers; throughput, latency from when each event was due, and
//! whether everything came or was told.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::Conduct;
use crate::engine::crew::{Crew, Result as CrewResult};
use crate::engine::lasts::Lasts;
use crate::engine::publisher::{self, Feed, Published};
use crate::engine::shared::{Phase, Total};
use crate::engine::wanted::{Subscribing, Wanted};
use crate::fault::{Count, Invalid, RunError};
use crate::process;
use crate::report::{Fanout, Report, UntilLast};
use crate::scenario::common::{Connecting, hold};
use crate::scenario::drain::{End, calm, drain};
use crate::scenario::moment::{Stretch, ratio};

/// The times of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// The most that what is under way may take at the end.
    pub(crate) drain: Duration,
    /// The largest p99 of the generator's own lateness.
    pub(crate) late_max: Duration,
}

/// A run in which one publisher feeds the connections.
#[derive(Debug)]
pub(crate) struct Fed {
    pub(crate) report: Report,
    pub(crate) done: CrewResult,
    /// At the end of the run.
    pub(crate) total: Total,
    /// Events per channel.
    pub(crate) sent: Vec<u64>,
}

/// Publishes and receives.
pub(crate) fn run(
    connecting: &Connecting,
    subscribing: Subscribing,
    feed: Feed,
    times: Times,
) -> Result<Report, RunError> {
    let measured = |crew: &Crew| {
        hold(crew, times.duration);
    };
    Ok(measure("fanout", connecting, subscribing, (feed, times), measured)?.report)
}

/// Publishes and receives; what is measured lasts as long as `during`.
pub(crate) fn measure(
    name: &'static str,
    connecting: &Connecting,
    subscribing: Subscribing,
    (feed, times): (Feed, Times),
    during: impl FnOnce(&Crew),
) -> Result<Fed, RunError> {
    let server_before = connecting.server_pid.and_then(process::sample);
    let verify = subscribing.verify;
    let crew = connecting.open(subscribing)?;
    let (wanted, shared) = (crew.wanted.clone(), crew.shared.clone());
    if wanted.subscribing.foreign.as_ref().is_some_and(|foreign| foreign.expect.is_none()) {
        // Nobody says when the subscriptions stand.
        clock::sleep(SECOND / 2);
    }
    let publisher = publisher::start(wanted.clone(), shared.clone(), feed)
        .map_err(|fault| connecting.server_error(fault))?;
    let (stretch, end) = flow(connecting, &crew, times, during);
    let own = process::own();
    let total = shared.total();
    let broken = crew.broken();
    let mut done = crew.stop();
    let feeder = publisher.join().map_err(|_| {
        RunError::Machine("the publisher thread panicked; please report it".to_owned())
    })?;
    let mut report = connecting.report(name, wanted.threads, &done);
    report.sizes.extend(feed.sizes());
    report.invalidate(broken);
    connecting.book_server(&stretch, server_before, &mut report);
    report.client = stretch.client(own.rss_bytes);
    stretch.check_reserve(feed.rate > 0.0, &mut report);
    report.invalidate(stretch.check_rate(stretch.published(), feed.rate, times.late_max));
    let starts = done.starts();
    let renewed = starts.iter().filter(|start| start.renewed).count();
    if renewed > 0 {
        report.notes.push(format!(
            "the numbering of {renewed} channels began anew (another epoch): their end was not \
             checked"
        ));
    }
    // What lies between two epochs is owed to nobody; nor does anybody know what is owed where
    // clients come and go, or ask for less.
    let is_open = wanted.subscribing.conduct.is_moving() || wanted.is_throttled() || renewed > 0;
    let expected = if is_open { 0 } else { expected(&wanted, &feeder) };
    report.fanout = Some(figures(&stretch, &feeder, &done, (total, expected)));
    check_conduct(&mut report, &done, total);
    guard(&mut report, &feeder, is_open);
    Stretch::check_lateness((&feeder.lateness, &done.latency), times.late_max, &mut report);
    report.invalidate(end.invalid());
    if verify {
        // Where a channel ends is known only when all was published and all had time to arrive.
        let is_known = end == End::Known && feeder.errors == 0 && feeder.fault.is_none();
        if !is_known {
            report.notes.push("the end of the channels was not checked".to_owned());
        }
        let heads = starts.iter().zip(&feeder.sent).map(|(start, sent)| start.head(*sent));
        let heads: Vec<_> = heads.collect();
        report.verdict = Some(done.verdict(&starts, is_known.then_some(&heads)));
    }
    Ok(Fed { report, done, total, sent: feeder.sent })
}

/// Leads a run through its phases; says what was measured, and how it ended.
fn flow(
    connecting: &Connecting,
    crew: &Crew,
    times: Times,
    during: impl FnOnce(&Crew),
) -> (Stretch, End) {
    let at = connecting.moment(&crew.shared);
    let mut stretch = Stretch { from: at.clone(), to: at };
    if crew.broken().is_some() {
        return (stretch, End::Known);
    }
    crew.shared.enter(Phase::Warm);
    hold(crew, times.warmup);
    crew.shared.enter(Phase::Measure);
    stretch.from = connecting.moment(&crew.shared);
    during(crew);
    stretch.to = connecting.moment(&crew.shared);
    crew.shared.enter(Phase::Calm);
    calm(crew, times.drain);
    crew.shared.enter(Phase::Drain);
    (stretch, drain(crew, times.drain))
}

/// Whether everybody who left came back and was served, and every command was answered.
fn check_conduct(report: &mut Report, done: &CrewResult, total: Total) {
    let away = total.cut - total.back;
    report.invalidate((away > 0).then(|| Invalid::NotBack { away, why: done.fault.clone() }));
    if matches!(done.wanted.subscribing.conduct, Conduct::Cut(_))
        && done.wanted.subscribing.subscriptions > 0
    {
        let connections = total.back.saturating_sub(total.served);
        report.invalidate(Count::NotServed.of(connections));
    }
    let unanswered = done.books.iter().map(|book| book.unanswered).sum();
    report.invalidate(Count::Unanswered.of(unanswered));
}

/// Deliveries that the whole run owes.
fn expected(wanted: &Wanted, feeder: &Published) -> u64 {
    let mut expected = 0;
    for connection in (0..wanted.connections).filter(|c| !wanted.subscribing.conduct.is_slow(*c)) {
        for slot in 0..wanted.subscribing.subscriptions {
            let channel = wanted.channel(connection, slot) as usize;
            expected += feeder.sent.get(channel).copied().unwrap_or(0);
        }
    }
    expected
}

fn figures(
    stretch: &Stretch,
    feeder: &Published,
    done: &CrewResult,
    whole: (Total, u64),
) -> Fanout {
    let Stretch { from, to } = stretch;
    let per_second = |count| stretch.per_second(count);
    let bytes = to.total.bytes - from.total.bytes;
    // Less than before where a large message is nothing when it is inflated.
    let unpacked = to.total.unpacked.saturating_sub(from.total.unpacked);
    let got = to.total.received() - from.total.received();
    let for_each = |bytes| (got > 0).then(|| ratio(bytes, got));
    let delivered = stretch.delivered();
    let (total, expected_total) = whole;
    Fanout {
        seconds: ratio(stretch.nanos(), SECOND),
        channels: done.wanted.subscribing.channels,
        published: stretch.published(),
        published_per_second: per_second(stretch.published()),
        delivered,
        delivered_per_second: per_second(delivered),
        events_per_read: ratio(delivered, to.total.reads - from.total.reads),
        megabytes_per_second: per_second(bytes) / 1e6,
        wire_bytes_per_delivery: for_each(bytes),
        inflated_bytes_per_delivery: for_each(unpacked).filter(|_| done.wanted.target.deflate),
        published_total: feeder.sent.iter().sum(),
        expected_total,
        delivered_total: total.delivered,
        told_total: total.told,
        shown_total: total.shown,
        latency: done.latency.summary(),
        until_last: done.wanted.subscribing.until_last.then(|| until_last(&done.wanted, done)),
        lateness: feeder.lateness.summary(),
        held_back: feeder.held_back,
        stalls: feeder.stalls,
    }
}

/// How long the last subscriber waited for each event.
fn until_last(wanted: &Wanted, done: &CrewResult) -> UntilLast {
    let mut seats = vec![0_u64; wanted.subscribing.channels as usize];
    for connection in 0..wanted.connections {
        for slot in 0..wanted.subscribing.subscriptions {
            seats[wanted.channel(connection, slot) as usize] += 1;
        }
    }
    let mut lasts = Lasts::default();
    done.books.iter().for_each(|book| lasts.merge(&book.ledger.lasts));
    let (latency, incomplete) = lasts.until_last(&seats);
    UntilLast { complete: latency.count(), incomplete, latency: latency.summary() }
}

/// Finds the reasons to throw the run away.
fn guard(report: &mut Report, feeder: &Published, is_open: bool) {
    let mut reasons = Vec::new();
    if let Some(fault) = &feeder.fault {
        reasons.push(Invalid::PublisherLost(fault.clone()));
    }
    if feeder.errors > 0 {
        let first = feeder.first_error.clone();
        reasons.push(Invalid::PublishRefused { errors: feeder.errors, first });
    }
    reasons.extend(Count::Unsent.of(feeder.unsent));
    if let Some(fanout) = &report.fanout {
        let got = fanout.delivered_total.saturating_add(fanout.told_total);
        if got != fanout.expected_total && !is_open {
            let deliveries = fanout.expected_total.abs_diff(got);
            reasons.push(if got < fanout.expected_total {
                Invalid::Missing { deliveries }
            } else {
                Invalid::Surplus { deliveries }
            });
        }
        if fanout.delivered == 0 {
            reasons.push(Invalid::Nothing);
        }
    }
    for reason in reasons {
        report.invalidate(Some(reason));
    }
}
