//! Where a store hands its events to, and rooms what they tell.

use std::sync::Arc;

use crate::core::notice::Notice;
use crate::proto::event::Event;
use crate::proto::name::ShardId;

/// Takes events on their way to a shard.
pub trait Deliver: Send + Sync {
    /// Puts `event` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool;
}

/// Takes what rooms tell on its way to a shard.
pub trait Tell: Send + Sync {
    /// Puts `notice` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn tell(&self, shard: ShardId, notice: Arc<Notice>) -> bool;
}
