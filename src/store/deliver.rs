//! Where a store hands its events to, and rooms what they tell.

use std::sync::Arc;

use super::durable::Answered;
use crate::core::notice::Notice;
use crate::proto::event::Event;
use crate::proto::name::ShardId;

/// Takes events on their way to a shard.
pub trait Deliver: Send + Sync {
    /// Puts `event` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool;

    /// Tells connections of `shard` what became of their durable events, which are delivered by then.
    fn answer(&self, shard: ShardId, answers: Vec<Answered>) {
        // Whoever takes events from nobody's connections has nobody to tell.
        drop((shard, answers));
    }
}

/// Takes what rooms tell on its way to a shard.
pub trait Tell: Send + Sync {
    /// Puts `notice` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn tell(&self, shard: ShardId, notice: Arc<Notice>) -> bool;

    /// How many notices the mailbox of `shard` was given so far.
    fn told(&self, shard: ShardId) -> u64;
}
