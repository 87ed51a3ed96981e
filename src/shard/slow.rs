//! The slowest connections of a node, for people.

use std::net::IpAddr;

use super::local::Shard;
use super::mailbox::Order;
use super::node::Node;
use crate::core::hub::{SLOWEST, SlowClient};
use crate::core::metrics::Snapshot;
use crate::proto::name::ShardId;

/// A slow connection, and where it is.
#[derive(Debug, Clone)]
pub struct SlowPeer {
    /// Its shard.
    pub shard: ShardId,
    /// Its client's address, where that is still known.
    pub ip: Option<IpAddr>,
    /// What its hub knows.
    pub client: SlowClient,
}

impl Node {
    /// As [`Node::stats`]; and the slowest connections, at most [`SLOWEST`], the slowest first.
    pub async fn stats_and_slowest(&self) -> (Vec<Snapshot>, Vec<SlowPeer>) {
        let answers = self.ask(Order::StatsAndSlowest).await;
        let (mut stats, slowest): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        self.add_unsharded(&mut stats);
        let mut slowest: Vec<SlowPeer> = slowest.into_iter().flatten().collect();
        slowest.sort_by_key(|one| std::cmp::Reverse(one.client.rank()));
        slowest.truncate(SLOWEST);
        (stats, slowest)
    }
}

impl Shard {
    /// The slowest connections of the shard.
    pub(super) fn slowest(&self) -> Vec<SlowPeer> {
        let now_ns = self.node.clock().node_ns();
        let found = self.hub.borrow().slowest(now_ns);
        let with_ip = |client: SlowClient| {
            let ip = self.socket(client.seat).and_then(|socket| socket.ip());
            SlowPeer { shard: self.id, ip, client }
        };
        found.into_iter().map(with_ip).collect()
    }
}
