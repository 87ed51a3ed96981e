//! `fanout`: one publisher, many subscribers; throughput, latency from when each event was due, and
//! whether everything came or was told.

use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::conduct::Conduct;
use crate::engine::crew::{Crew, Result as CrewResult};
use crate::engine::lasts::Lasts;
use crate::engine::publisher::{self, Feed, Published};
use crate::engine::shared::{Phase, Total, Wanted};
use crate::fault::{Invalid, RunError};
use crate::process::{self, MemoryPoint, Watch};
use crate::report::{Fanout, Report, UntilLast};
use crate::scenario::common::{Connecting, Subscribing, hold};
use crate::scenario::moment::{Stretch, ratio};

/// What is left must go on arriving; after this long without anything the run is over.
const DRAIN_QUIET: u64 = 2 * SECOND;

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
    /// The server's memory over the whole run, when its process is known.
    pub(crate) memory: Vec<MemoryPoint>,
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
    let watch = connecting.server_pid.map(Watch::start);
    let crew = connecting.open(subscribing)?;
    let (wanted, shared) = (crew.wanted.clone(), crew.shared.clone());
    if wanted.foreign.as_ref().is_some_and(|foreign| foreign.expect.is_none()) {
        // Nobody says when the subscriptions stand.
        clock::sleep(SECOND / 2);
    }
    let publisher = publisher::start(wanted.clone(), shared.clone(), feed)
        .map_err(|fault| connecting.server_error(fault))?;
    let at = connecting.moment(&crew.shared);
    let mut stretch = Stretch { from: at.clone(), to: at };
    let mut is_over = true;
    if crew.broken().is_none() {
        crew.shared.enter(Phase::Warm);
        hold(&crew, times.warmup);
        crew.shared.enter(Phase::Measure);
        stretch.from = connecting.moment(&crew.shared);
        during(&crew);
        stretch.to = connecting.moment(&crew.shared);
        crew.shared.enter(Phase::Calm);
        calm(&crew, times.drain);
        crew.shared.enter(Phase::Drain);
        is_over = drain(&crew, times.drain);
    }
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
    // What lies between two epochs is owed to nobody.
    let is_moving = wanted.conduct.is_moving() || renewed > 0;
    let expected = if is_moving { 0 } else { expected(&wanted, &feeder) };
    report.fanout = Some(figures(&stretch, &feeder, &done, (total, expected)));
    if let Some(fanout) = &mut report.fanout {
        fanout.channels = wanted.channels;
        fanout.until_last = wanted.until_last.then(|| until_last(&wanted, &done));
    }
    let away = total.cut - total.back;
    report.invalidate((away > 0).then(|| Invalid::NotBack { away, why: done.fault.clone() }));
    let unanswered = done.books.iter().map(|book| book.unanswered).sum();
    report.invalidate((unanswered > 0).then_some(Invalid::Unanswered { commands: unanswered }));
    guard(&mut report, &feeder, (feed, is_moving), times.late_max);
    report.invalidate((!is_over).then_some(Invalid::StillArriving));
    if verify {
        // Where a channel ends is known only when all was published and all had time to arrive.
        let is_known = is_over && feeder.errors == 0 && feeder.fault.is_none();
        let heads = starts.iter().zip(&feeder.sent).map(|(start, sent)| start.head(*sent));
        let heads: Vec<_> = heads.collect();
        report.verdict = Some(done.verdict(&starts, is_known.then_some(&heads)));
    }
    let memory = watch.map(Watch::stop).unwrap_or_default();
    Ok(Fed { report, done, total, sent: feeder.sent, memory })
}

/// Waits until those who are away are back and served, or nothing more can be hoped for.
fn calm(crew: &Crew, limit: Duration) {
    let end = clock::now() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let served = matches!(crew.wanted.conduct, Conduct::Cut(_)) && crew.wanted.subscriptions > 0;
    while clock::now() < end && crew.broken().is_none() {
        let total = crew.shared.total();
        if total.back >= total.cut && (!served || total.served >= total.cut) {
            return;
        }
        clock::sleep(SECOND / 500);
    }
}

fn sent(crew: &Crew) -> u64 {
    crew.shared.published.load(std::sync::atomic::Ordering::Relaxed)
}

/// Waits until all is there, nothing more comes, or the time is up; the last is no end.
fn drain(crew: &Crew, limit: Duration) -> bool {
    let end = clock::now() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let (mut seen, mut moved_at) = (0, clock::now());
    // Whole rounds over the channels: an upper bound that is exact when they divide.
    let seats = crew.wanted.seats();
    loop {
        clock::sleep(SECOND / 100);
        let total = crew.shared.total();
        let Total { delivered, told, .. } = total;
        let slow = total.slow_delivered.saturating_add(total.slow_told);
        let slow = slow.saturating_add(total.slow_gone);
        let (now, got) = (clock::now(), delivered.saturating_add(told));
        if got.saturating_add(slow) != seen {
            (seen, moved_at) = (got.saturating_add(slow), now);
        }
        let due = u128::from(sent(crew)) * u128::from(seats) / u128::from(crew.wanted.channels);
        let is_all = u128::from(got) >= due && now - moved_at > SECOND / 5;
        if is_all || now - moved_at > DRAIN_QUIET || crew.broken().is_some() {
            return true;
        }
        if now > end {
            return false;
        }
    }
}

/// Deliveries that the whole run owes.
fn expected(wanted: &Wanted, feeder: &Published) -> u64 {
    let mut expected = 0;
    for connection in (0..wanted.connections).filter(|c| !wanted.conduct.is_slow(*c)) {
        for slot in 0..wanted.subscriptions {
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
    let delivered = stretch.delivered();
    let (total, expected_total) = whole;
    Fanout {
        seconds: ratio(stretch.nanos(), SECOND),
        channels: 0,
        published: stretch.published(),
        published_per_second: per_second(stretch.published()),
        delivered,
        delivered_per_second: per_second(delivered),
        events_per_read: ratio(delivered, to.total.reads - from.total.reads),
        megabytes_per_second: per_second(to.total.bytes - from.total.bytes) / 1e6,
        published_total: feeder.sent.iter().sum(),
        expected_total,
        delivered_total: total.delivered,
        told_total: total.told,
        latency: done.latency.summary(),
        until_last: None,
        lateness: feeder.lateness.summary(),
        held_back: feeder.held_back,
        stalls: feeder.stalls,
    }
}

/// How long the last subscriber waited for each event.
fn until_last(wanted: &Wanted, done: &CrewResult) -> UntilLast {
    let mut seats = vec![0_u64; wanted.channels as usize];
    for connection in 0..wanted.connections {
        for slot in 0..wanted.subscriptions {
            seats[wanted.channel(connection, slot) as usize] += 1;
        }
    }
    let mut lasts = Lasts::default();
    done.books.iter().for_each(|book| lasts.merge(&book.ledger.lasts));
    let (latency, incomplete) = lasts.until_last(&seats);
    UntilLast { complete: latency.count(), incomplete, latency: latency.summary() }
}

/// Finds the reasons to throw the run away.
fn guard(
    report: &mut Report,
    feeder: &Published,
    (feed, is_moving): (Feed, bool),
    late_max: Duration,
) {
    let mut reasons = Vec::new();
    if let Some(fault) = &feeder.fault {
        reasons.push(Invalid::PublisherLost(fault.clone()));
    }
    if feeder.errors > 0 {
        let first = feeder.first_error.clone();
        reasons.push(Invalid::PublishRefused { errors: feeder.errors, first });
    }
    let max_ns = u64::try_from(late_max.as_nanos()).unwrap_or(u64::MAX);
    let p99_ns = feeder.lateness.at(0.99);
    if feed.rate > 0.0 && p99_ns > max_ns {
        reasons.push(Invalid::GeneratorLate { p99_ns, max_ns });
    }
    if let Some(fanout) = &report.fanout {
        let got = fanout.delivered_total.saturating_add(fanout.told_total);
        if got != fanout.expected_total && !is_moving {
            let deliveries = fanout.expected_total.abs_diff(got);
            reasons.push(Invalid::Missing { deliveries });
        }
        if fanout.delivered == 0 {
            reasons.push(Invalid::Nothing);
        }
    }
    for reason in reasons {
        report.invalidate(Some(reason));
    }
}
