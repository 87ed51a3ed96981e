//! A channel's sequence: who gives offsets, and who hears of an event.

#[cfg(test)]
mod conformance;
mod deliver;
mod durable;
mod entry;
mod kept;
pub mod memory;
mod prefixes;
pub mod rooms;
mod shard_set;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use deliver::{Deliver, Tell};
pub use durable::{Answered, Durable, Loading, Ticket, Told};
pub use entry::{
    Begun, ChannelInfo, Joined, NewEvent, Now, Published, Read, Reading, StoreError, Wish,
};

use crate::core::browse::{Bookmark, Leaf, Listing};
use crate::proto::name::{Alias, ShardId};

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
/// 6. Whoever names a place since which every event is still kept gets all of them, up to the head
///    that it is told; there is no event between these and those that are delivered.
/// 7. What is kept of a channel's events is what the last event on it said, at least: the last ones
///    that are young enough, and the newest of each key. Less only where memory is short.
/// 8. An event with the `message_id` of one that was published on the channel less than
///    [`crate::core::dedupe::WINDOW_MS`] ago is not published again, nor one with an id of the last
///    [`crate::core::dedupe::LAST`] that had one. Less only where memory is short.
/// 9. Whoever reads the newest events of the channels of a prefix, after it has subscribed to that
///    prefix, gets of each channel the newest of each key, and not one that was published after the
///    head that it is told with it.
///
/// What is said to be durable ([`crate::core::policy::Keep::durable`]) lives elsewhere as well, and
/// is made here by whoever reads it there: until then it is [`StoreError::Unloaded`]. [`Durable`]
/// has the way of its events.
///
/// Not promised: any order between channels.
pub trait Store: Send + Sync {
    /// Appends an event and delivers it to every shard that has subscribers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the event was not taken.
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, StoreError>;

    /// Counts a subscription of a shard, and tells the head, and what came before it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the channel cannot be read.
    fn subscribe(
        &self,
        channel: &str,
        shard: ShardId,
        wish: Wish<'_>,
        now: Now,
    ) -> Result<Begun, StoreError>;

    /// Reads events of a channel that are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the channel cannot be read.
    fn read(&self, channel: &str, reading: Reading<'_>, now: Now) -> Result<Read, StoreError>;

    /// Channels with that prefix of which the newest event of each key is kept, some at a time: as
    /// [`crate::core::browse::Shelf::list`] has it.
    fn keyed(&self, prefix: &str, from: Bookmark) -> Listing;

    /// The newest event of each key of a channel after that offset, the oldest of them; `None`
    /// where there are no more, or the channel is not the one of that number.
    fn leaf(&self, channel: &str, alias: Alias, after: u64) -> Option<Leaf>;

    /// Memory of all that is kept, in bytes.
    fn kept_bytes(&self) -> usize;

    /// Ends a subscription; `last` says that the shard has no other on this channel.
    fn unsubscribe(&self, channel: &str, shard: ShardId, last: bool, now: Now);

    /// A shard has subscribers from here on of every channel whose name begins with `prefix`, which
    /// [`crate::proto::name::pattern_prefix`] has found. Once is enough for a shard.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the events of such channels cannot be had.
    fn subscribe_prefix(&self, prefix: &str, shard: ShardId) -> Result<(), StoreError>;

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
