//! `slow`: a share of the connections stalls or reads a trickle; what the others feel of it, what
//! the slow are told, and what it costs the server in memory.

use std::collections::BTreeMap;

use crate::engine::conduct::{Conduct, Slow};
use crate::engine::crew::Crew;
use crate::engine::publisher::Feed;
use crate::engine::wanted::Subscribing;
use crate::fault::RunError;
use crate::latency::Latency;
use crate::process::MemoryPoint;
use crate::report::Report;
use crate::scenario::common::{Connecting, hold};
use crate::scenario::fanout::{self, Times};
use crate::sections;

/// Publishes and receives, with a share of the connections slow until the end.
pub(crate) fn run(
    connecting: &Connecting,
    mut subscribing: Subscribing,
    slow: Slow,
    (feed, times): (Feed, Times),
) -> Result<Report, RunError> {
    let connections: Vec<u32> =
        (0..connecting.connections).filter(|connection| slow.has(*connection)).collect();
    if connections.is_empty() || connections.len() == connecting.connections as usize {
        return Err(RunError::Usage(format!(
            "--share {} of {} connections leaves nobody on one side",
            slow.share, connecting.connections
        )));
    }
    subscribing.conduct = Conduct::Slow(slow);
    let measured = |crew: &Crew| {
        hold(crew, times.duration);
    };
    let (channels, per_connection) = (subscribing.channels, subscribing.subscriptions);
    let fed = fanout::measure("slow", connecting, subscribing, (feed, times), measured)?;
    let (mut closes, mut ages): (BTreeMap<String, u64>, _) = (BTreeMap::new(), Latency::new());
    for book in &fed.done.books {
        ages.merge(&book.ledger.ages);
        for (why, count) in &book.closes {
            *closes.entry(why.clone()).or_default() += count;
        }
    }
    let mut expected_total = 0;
    for connection in &connections {
        for slot in 0..per_connection {
            let channel = (connection % channels + slot) % channels;
            expected_total += fed.sent.get(channel as usize).copied().unwrap_or(0);
        }
    }
    let mut report = fed.report;
    let points = report.series.points.iter().filter_map(|point| {
        Some(MemoryPoint { seconds: point.at_s, rss_bytes: point.server_rss_bytes? })
    });
    let memory = points.collect();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let pace = slow.bytes_per_second as f64;
    let buffer = f64::from(slow.buffer_bytes);
    report.sizes.extend([
        ("slow_share", slow.share),
        ("slow_bytes_per_second", pace),
        ("slow_buffer", buffer),
    ]);
    report.distributions.extend(ages.distribution("slow_age"));
    report.sections.slow = Some(sections::Slow {
        connections: connections.len() as u64,
        bytes_per_second: slow.bytes_per_second,
        expected_total,
        delivered_total: fed.total.slow_delivered,
        told_total: fed.total.slow_told,
        shown_total: fed.total.slow_shown,
        age: ages.summary(),
        dropped_early: fed.total.slow_hung,
        closes,
        memory,
    });
    Ok(report)
}
