//! `/metrics`: the shards' counters as OpenMetrics text. Counters are added up over the shards;
//! gauges stand for each.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::answer::{self, Refusal, Response};
use crate::core::hub::SlowState;
use crate::core::metrics::{BOUNDS_BATCH, BOUNDS_US, Counter, Gauges, Histogram, Snapshot, Timing};
use crate::proto::close::CloseReason;
use crate::proto::error::ErrorCode;
use crate::shard::{Limits, Node};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A gauge of every shard: its name, its help text, and where its value stands.
type Gauge = (&'static str, &'static str, fn(&Gauges) -> u64);

const GAUGES: [Gauge; 6] = [
    ("connections", "Open WebSocket connections.", |gauges| gauges.connections),
    ("latest_bytes", "Memory of the newest events of keys.", |gauges| gauges.latest_bytes),
    ("mailbox_depth", "Events waiting in the mailbox.", |gauges| gauges.mailbox_depth),
    ("queue_bytes", "Bytes waiting in outbound queues.", |gauges| gauges.queue_bytes),
    ("queue_memory_bytes", "Memory of outbound queues.", |gauges| gauges.queue_memory),
    ("subscriptions", "Subscriptions of all connections.", |gauges| gauges.subscriptions),
];

/// What counts against limits, now: names and help texts.
const COUNTED: [(&str, &str); 6] = [
    ("places", "WebSockets that count against limits.connections, with those that shake hands."),
    ("strangers", "Of these, those that have yet to bring a token where one is required."),
    ("counted_by_ip", "Connections that count against limits.connections_per_ip."),
    ("counted_ips", "Addresses of these."),
    ("counted_by_user", "WebSockets that count against limits.connections_per_user."),
    ("counted_users", "Users of these."),
];

fn counted(limits: &Limits) -> [u64; COUNTED.len()] {
    let (nets, users) = (limits.nets(), limits.users());
    let all =
        [limits.open(), limits.strangers(), nets.all, nets.distinct, users.all, users.distinct];
    all.map(|count| count as u64)
}

/// `GET /metrics`.
pub(super) async fn answer(node: &Arc<Node>) -> Result<Response, Refusal> {
    let shards = node.stats().await;
    if shards.len() < node.shards() {
        // Sums without it would go back, and the figures of the others stand under its number.
        let message = "a shard has ended, or does not answer";
        return Err(Refusal::unavailable(ErrorCode::Unavailable, message));
    }
    let node = NodeGauges {
        channels: node.channel_count(),
        rooms: node.rooms().len() as u64,
        kept_bytes: node.store().kept_bytes() as u64,
        memory_limit: node.memory().limit() as u64,
        reloads: ReloadFigures::of(node),
        counted: counted(node.limits()),
        store: StoreGauges::of(node),
    };
    let text = write(Scrape::new(shards, node));
    Ok(answer::bytes(text.unwrap_or_default().into(), CONTENT_TYPE))
}

fn write(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("weir");
    registry.register_collector(Box::new(scrape));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What one scrape tells.
#[derive(Debug)]
struct Scrape {
    shards: Vec<Snapshot>,
    total: Option<Snapshot>,
    node: NodeGauges,
}

/// What is of the node and of no shard.
#[derive(Debug)]
struct NodeGauges {
    channels: u64,
    rooms: u64,
    kept_bytes: u64,
    memory_limit: u64,
    reloads: ReloadFigures,
    counted: [u64; COUNTED.len()],
    store: StoreGauges,
}

/// How often settings were read again.
#[derive(Debug)]
struct ReloadFigures {
    taken: u64,
    refused: u64,
    /// When those in force were read, Unix seconds.
    last_s: u64,
}

impl ReloadFigures {
    fn of(node: &Node) -> Self {
        let reloads = &node.reloads;
        let started_s = (node.unix_ms() / 1_000).saturating_sub(node.uptime().as_secs());
        let last_s = reloads.last_s().unwrap_or(started_s);
        Self { taken: reloads.taken(), refused: reloads.refused(), last_s }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Settings read again, by what became of them.";
        let mut metric =
            encoder.encode_descriptor("config_reloads", help, None, MetricType::Counter)?;
        for (result, count) in [("ok", self.taken), ("refused", self.refused)] {
            metric
                .encode_family(&[("result", result)])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "When the settings in force were read, in seconds since 1970.";
        let name = "config_last_reload_success_timestamp_seconds";
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&self.last_s)
    }
}

/// How the store of durable channels does; where there is none, as one that has nothing to do.
#[derive(Debug)]
struct StoreGauges {
    up: bool,
    waiting: u64,
    faulty: u64,
    seconds: Histogram,
}

impl StoreGauges {
    fn of(node: &Node) -> Self {
        let log = node.durable();
        Self {
            up: log.is_none_or(|log| log.fault().is_none()),
            waiting: log.map_or(0, |log| log.waiting()),
            faulty: log.map_or(0, |log| log.faulty()),
            seconds: log.map_or_else(Histogram::default, |log| log.seconds()),
        }
    }
}

impl Scrape {
    fn new(shards: Vec<Snapshot>, node: NodeGauges) -> Self {
        let mut rest = shards.iter();
        let mut total = rest.next().cloned();
        for shard in rest {
            if let Some(total) = &mut total {
                total.add(shard);
            }
        }
        Self { shards, total, node }
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encoder
            .encode_descriptor("build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        encoder
            .encode_descriptor("channels", "Living channels.", None, MetricType::Gauge)?
            .encode_gauge(&self.node.channels)?;
        let help = "Channels that show who has them, with somebody there.";
        encoder
            .encode_descriptor("rooms", help, None, MetricType::Gauge)?
            .encode_gauge(&self.node.rooms)?;
        let help = "What all outbound queues may take of memory together.";
        encoder
            .encode_descriptor("memory_limit_bytes", help, None, MetricType::Gauge)?
            .encode_gauge(&self.node.memory_limit)?;
        self.node.reloads.encode(&mut encoder)?;
        for ((name, help), count) in COUNTED.iter().zip(self.node.counted) {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&count)?;
        }
        let help = "Memory of kept events, keys and ids.";
        encoder
            .encode_descriptor("store_kept_bytes", help, None, MetricType::Gauge)?
            .encode_gauge(&self.node.kept_bytes)?;
        encoder
            .encode_descriptor("store_up", "Whether the store is there.", None, MetricType::Gauge)?
            .encode_gauge(&u64::from(self.node.store.up))?;
        let help = "Durable events that wait to be on disk.";
        encoder
            .encode_descriptor("store_waiting_events", help, None, MetricType::Gauge)?
            .encode_gauge(&self.node.store.waiting)?;
        let help = "Durable channels and patterns that could not be read or written lately.";
        encoder
            .encode_descriptor("store_faulty_channels", help, None, MetricType::Gauge)?
            .encode_gauge(&self.node.store.faulty)?;
        let help = "How long it took to have durable events on disk, by batch.";
        let bounds = BOUNDS_US.map(seconds);
        histogram_of(&mut encoder, "store_seconds", help, &self.node.store.seconds, &bounds)?;
        for (name, help, value) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (index, shard) in self.shards.iter().enumerate() {
                let label = [("shard", index)];
                metric.encode_family(&label)?.encode_gauge(&value(&shard.gauges))?;
            }
        }
        slow(&mut encoder, &self.shards)?;
        let Some(total) = &self.total else { return Ok(()) };
        counters(&mut encoder, total)?;
        histograms(&mut encoder, total)
    }
}

fn slow(encoder: &mut DescriptorEncoder<'_>, shards: &[Snapshot]) -> fmt::Result {
    let help = "Connections that are slow, each in one state.";
    let mut metric = encoder.encode_descriptor("slow_consumers", help, None, MetricType::Gauge)?;
    for (index, shard) in shards.iter().enumerate() {
        for (state, count) in SlowState::ALL.iter().zip(shard.gauges.slow_consumers) {
            let labels = [("shard", index.to_string()), ("state", state.as_str().to_owned())];
            metric.encode_family(&labels)?.encode_gauge(&count)?;
        }
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder<'_>, total: &Snapshot) -> fmt::Result {
    for family in Counter::ALL.chunk_by(|a, b| a.1 == b.1) {
        let Some((_, name, _, help)) = family.first() else { continue };
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (counter, _, label, _) in family {
            let count = total.counter(*counter);
            match label {
                None => metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?,
                Some(label) => metric
                    .encode_family(&[*label])?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?,
            }
        }
    }
    let closed = CloseReason::CODES.iter().copied().zip(total.closed);
    let help = "Connections ended, by close code.";
    by_code(encoder, "connections_closed", help, closed)?;
    by_code(encoder, "errors", "Errors told to clients, by code.", total.errors())
}

fn by_code(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (code, count) in counts {
        metric
            .encode_family(&[("code", code)])?
            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn histograms(encoder: &mut DescriptorEncoder<'_>, total: &Snapshot) -> fmt::Result {
    for (timing, name, help) in Timing::ALL {
        let histogram = &total.timings[timing as usize];
        histogram_of(encoder, name, help, histogram, &BOUNDS_US.map(seconds))?;
    }
    let help = "Events of one turn of a shard.";
    let bounds = BOUNDS_BATCH.map(|bound| (bound, bound as f64));
    histogram_of(encoder, "tick_batch_events", help, &total.batch, &bounds)
}

/// A bound in microseconds, and in seconds.
fn seconds(bound: u64) -> (u64, f64) {
    (bound, bound as f64 / 1e6)
}

fn histogram_of(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
    bounds: &[(u64, f64); 18],
) -> fmt::Result {
    let scale = bounds[0].1 / bounds[0].0 as f64;
    let ends = bounds.iter().map(|(_, bound)| *bound).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = ends.zip(histogram.buckets).collect();
    let count = histogram.buckets.iter().sum();
    let sum = histogram.sum as f64 * scale;
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::metrics::Metrics;
    use std::collections::HashSet;

    #[test]
    fn a_scrape_adds_counters_and_shows_gauges_by_shard() {
        let metrics = Metrics::default();
        metrics.add(Counter::Upgrades, 2);
        metrics.add(Counter::DroppedOldest, 3);
        metrics.time(Timing::Tick, 2_000, 1);
        let shard = metrics.snapshot(Gauges {
            connections: 5,
            slow_consumers: [3, 0, 0],
            ..Gauges::default()
        });
        let text = write(Scrape::new(
            vec![shard.clone(), shard],
            NodeGauges {
                channels: 7,
                rooms: 6,
                kept_bytes: 8,
                memory_limit: 9,
                reloads: ReloadFigures { taken: 3, refused: 4, last_s: 5 },
                counted: [1, 2, 3, 4, 5, 6],
                store: StoreGauges {
                    up: false,
                    waiting: 6,
                    faulty: 7,
                    seconds: Histogram::default(),
                },
            },
        ))
        .unwrap();
        for line in [
            concat!("weir_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "weir_channels 7",
            "weir_rooms 6",
            "weir_memory_limit_bytes 9",
            "weir_config_reloads_total{result=\"ok\"} 3",
            "weir_config_reloads_total{result=\"refused\"} 4",
            "weir_config_last_reload_success_timestamp_seconds 5",
            "weir_places 1",
            "weir_counted_users 6",
            "weir_store_kept_bytes 8",
            "weir_slow_consumers{shard=\"1\",state=\"full\"} 3",
            "weir_slow_consumers{shard=\"1\",state=\"blocked\"} 0",
            "weir_store_up 0",
            "weir_store_waiting_events 6",
            "weir_store_faulty_channels 7",
            "weir_store_seconds_count 0",
            "weir_errors_total{code=\"not_found\"} 0",
            "weir_connections{shard=\"0\"} 5",
            "weir_connections{shard=\"1\"} 5",
            "weir_upgrades_total 4",
            "weir_events_dropped_total{policy=\"drop_oldest\"} 6",
            "weir_connections_closed_total{code=\"4000\"} 0",
            "weir_errors_total{code=\"bad_request\"} 0",
            "weir_tick_seconds_sum 0.004",
            "weir_tick_seconds_count 2",
            "weir_tick_seconds_bucket{le=\"0.0025\"} 2",
            "weir_tick_seconds_bucket{le=\"+Inf\"} 2",
            "weir_tick_batch_events_bucket{le=\"1.0\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        // OpenMetrics: each family is described once, and each sample comes once.
        let what = |line: &str| line.rsplit_once(' ').map(|(what, _)| what.to_owned());
        let mut once = HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with("# HELP")) {
            assert!(what(line).is_none_or(|what| once.insert(what)), "{line} in\n{text}");
        }
    }
}
