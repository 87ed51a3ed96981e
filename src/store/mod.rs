//! A channel's sequence: who gives offsets, and who hears of an event.

#[cfg(test)]
mod conformance;
mod deliver;
mod entry;
pub mod memory;
mod prefixes;
mod shard_set;

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
///    again with others: after a while without use, or sooner where there are too many. One that
///    has them by prefix alone is not freed for want of use.
/// 5. A shard that subscribed to a prefix gets every event that is published thereafter on any
///    channel that begins with it, in offset order, and once, also where it has subscribed to the
///    channel, or to another prefix of it, as well.
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

    /// A shard has subscribers from here on of every channel whose name begins with `prefix`, which
    /// [`crate::proto::name::pattern_prefix`] has found. Once is enough for a shard.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the events of such channels cannot be had.
    fn subscribe_prefix(&self, prefix: &str, shard: ShardId) -> Result<(), Unavailable>;

    /// The last subscription of a shard to a prefix has ended.
    fn unsubscribe_prefix(&self, prefix: &str, shard: ShardId);

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
