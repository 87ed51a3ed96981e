//! Where a store hands its events to.

use std::sync::Arc;

use crate::proto::event::Event;
use crate::proto::name::ShardId;

/// Takes events on their way to a shard.
pub trait Deliver: Send + Sync {
    /// Puts `event` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool;
}
