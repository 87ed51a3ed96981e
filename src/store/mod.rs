//! A channel's sequence: who gives offsets, and who hears of an event.

#[cfg(test)]
mod conformance;
mod deliver;
mod entry;
pub mod memory;

pub use deliver::Deliver;
pub use entry::{ChannelInfo, Joined, NewEvent, Now, Published, Unavailable};

use crate::proto::name::ShardId;

/// Gives a channel its sequence.
///
/// Contract, checked for every implementation by `conformance`:
///
/// 1. Offsets in one channel and epoch start at 1 and have no gaps.
/// 2. Every shard that subscribed gets every event after the head it was told, in offset order,
///    once; a shard that left gets none.
/// 3. An event is delivered before its publisher is told its position.
/// 4. A channel with subscribers keeps its epoch and alias. One without may be freed, and begins
///    again with others: after a while without use, or sooner where there are too many.
///
/// Not promised: any order between channels.
pub trait Store: Send + Sync {
    /// Appends an event and delivers it to every shard that has subscribers.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the event was not taken.
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, Unavailable>;

    /// Counts a subscription of a shard, and tells the head.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the channel cannot be read.
    fn subscribe(&self, channel: &str, shard: ShardId, now: Now) -> Result<Joined, Unavailable>;

    /// Ends a subscription; `last` says that the shard has no other on this channel.
    fn unsubscribe(&self, channel: &str, shard: ShardId, last: bool, now: Now);

    /// What the channel is, when there is one.
    fn find(&self, channel: &str) -> Option<Joined>;

    /// At most `limit` living channels with that prefix, after the name `after`, by name.
    fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo>;

    /// How many channels live.
    fn channel_count(&self) -> u64;

    /// Frees channels that nobody has used for a while. To be called now and then; each call does
    /// a small part of the work.
    fn sweep(&self, now: Now);
}
