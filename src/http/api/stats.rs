//! One JSON picture of the node.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::core::hub::SlowState;
use crate::core::metrics::{Counter, Snapshot};
use crate::http::answer::{Response, json};
use crate::proto::close::CloseReason;
use crate::shard::limits::Crowd;
use crate::shard::{Limits, Node, SlowPeer};

/// `GET /api/v1/stats`.
pub(crate) async fn answer(node: &Arc<Node>) -> Response {
    let (snapshots, slowest) = node.stats_and_slowest().await;
    let mut total: Option<Snapshot> = None;
    let mut shards = Vec::with_capacity(snapshots.len());
    for (index, snapshot) in snapshots.iter().enumerate() {
        let mut shard = picture(snapshot);
        shard.insert("shard".into(), index.into());
        shards.push(Value::Object(shard));
        match &mut total {
            Some(total) => total.add(snapshot),
            None => total = Some(snapshot.clone()),
        }
    }
    let stats = json!({
        "node": node.options().node_name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": node.uptime().as_secs_f64(),
        "time_ms": node.unix_ms(),
        "draining": node.draining(),
        "full": node.full(),
        "channels": node.channel_count(),
        "rooms": node.rooms().len(),
        "memory_limit": node.memory().limit(),
        "limits": limits(node.limits()),
        "store": store(node),
        "total": total.as_ref().map(picture),
        "slowest": slowest.iter().map(slow).collect::<Vec<_>>(),
        "shards": shards,
    });
    json(StatusCode::OK, &stats)
}

/// What counts against which limit; 0 is without one.
fn limits(limits: &Limits) -> Value {
    let crowd = |of: Crowd| json!({"count": of.all, "of": of.distinct, "limit": of.max});
    json!({
        "connections": {"count": limits.open(), "limit": limits.connections_max()},
        "strangers": limits.strangers(),
        "per_ip": crowd(limits.nets()),
        "per_user": crowd(limits.users()),
    })
}

/// How the store does.
fn store(node: &Node) -> Value {
    let Some(log) = node.durable() else { return json!({"kind": "memory", "up": true}) };
    let fault = log.fault();
    json!({
        "kind": "sqlite",
        "up": fault.is_none(),
        "fault": fault,
        "waiting_events": log.waiting(),
        "faulty_channels": log.faulty(),
    })
}

/// One of the slowest connections.
fn slow(peer: &SlowPeer) -> Value {
    let client = &peer.client;
    json!({
        "client": client.author.client.to_string(),
        "user": client.author.user,
        "ip": peer.ip,
        "shard": peer.shard.0,
        "state": client.state.as_str(),
        "oldest_ms": client.oldest_ms,
        "full_ms": client.full_ms,
        "queued_bytes": client.queued_bytes,
        "queued_events": client.queued_events,
        "dropped": client.dropped,
        "subscriptions": client.subscriptions,
    })
}

fn picture(snapshot: &Snapshot) -> Map<String, Value> {
    let gauges = snapshot.gauges;
    let mut picture = Map::new();
    picture.insert("connections".into(), gauges.connections.into());
    picture.insert("subscriptions".into(), gauges.subscriptions.into());
    picture.insert("queue_bytes".into(), gauges.queue_bytes.into());
    picture.insert("queue_memory".into(), gauges.queue_memory.into());
    let slow = SlowState::ALL.iter().zip(gauges.slow_consumers);
    let slow = slow.map(|(state, count)| (state.as_str().to_owned(), count.into()));
    picture.insert("slow_consumers".into(), Value::Object(slow.collect()));
    picture.insert("mailbox_depth".into(), gauges.mailbox_depth.into());
    picture.insert("counters".into(), counters(snapshot).into());
    let closed = CloseReason::CODES.iter().zip(snapshot.closed);
    picture.insert("closed".into(), nonzero(closed.map(|(code, count)| (*code, count))));
    picture.insert("errors".into(), nonzero(snapshot.errors()));
    picture
}

/// Counters by family; those with a label as an object.
fn counters(snapshot: &Snapshot) -> Map<String, Value> {
    let mut families = Map::new();
    for (counter, name, label, _) in Counter::ALL {
        let count = snapshot.counter(*counter);
        match label {
            None => {
                families.insert((*name).into(), count.into());
            }
            Some((_, value)) => {
                let family = families.entry(*name).or_insert_with(|| Map::new().into());
                if let Value::Object(family) = family {
                    family.insert((*value).into(), count.into());
                }
            }
        }
    }
    families
}

fn nonzero(counts: impl Iterator<Item = (&'static str, u64)>) -> Value {
    let some = counts.filter(|(_, count)| *count > 0);
    Value::Object(some.map(|(name, count)| (name.to_owned(), count.into())).collect())
}
