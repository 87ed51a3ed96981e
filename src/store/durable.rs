//! The way of durable events: on disk first, and only then in the store, where they get delivered.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::{NewEvent, Now, Published, StoreError};
use crate::core::metrics::Histogram;
use crate::core::policy::Keep;
use crate::proto::name::{ChannelName, ClientId, ShardId};

/// Resolves when a channel is in memory, or cannot be.
pub type Loading = oneshot::Receiver<Result<(), StoreError>>;

/// Keeps events where a crash does not reach them.
///
/// An event that was taken here is given to the store, with its place, once it is safe, and then its
/// publisher is told: nobody sees or is told of an event that a crash takes back. The events of one
/// publisher on one channel keep their order. No call waits for anything.
pub trait Durable: Send + Sync {
    /// Takes an event of a durable channel; `told` hears what became of it. `true` when more waits
    /// than should: whoever publishes waits for its answers. Where that has not helped, nothing is
    /// taken ([`StoreError::Crowded`]).
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it was not taken; `told` then hears nothing.
    fn publish(&self, event: NewEvent<'static>, now: Now, told: Told) -> Result<bool, StoreError>;

    /// Brings a durable channel into the store, of which `keep` is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot.
    fn load(&self, channel: &str, keep: Keep) -> Result<Loading, StoreError>;

    /// Brings all channels with that prefix into the store of which the newest event of some key is
    /// kept, or as many as it holds.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot.
    fn load_prefix(&self, prefix: &str) -> Result<Loading, StoreError>;

    /// Whether they are all there. They stay as long as somebody has subscribed to the prefix who
    /// did that before this was asked.
    fn has_prefix(&self, prefix: &str) -> bool;

    /// Resolves when there is room for an event.
    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Why it cannot keep anything now; `None` while it can.
    fn fault(&self) -> Option<String>;

    /// Looks whether the disk still answers: one that hangs is a fault as well. To be called a few
    /// times a second.
    fn watch(&self, now: Now);

    /// Durable channels and patterns that could not be read or written lately, of those that somebody
    /// has asked for; the others go on.
    fn faulty(&self) -> u64;

    /// How long it took to make events safe, in microseconds, by batch.
    fn seconds(&self) -> Histogram;

    /// Events that wait to be safe.
    fn waiting(&self) -> u64;

    /// Keeps what was taken, and takes nothing any more. Waits for that, but not for ever: a disk
    /// that does not answer holds up no shutdown.
    fn close(&self);
}

/// Who is told what became of a durable event.
#[derive(Debug)]
pub enum Told {
    /// A connection, through its shard.
    Connection(Ticket),
    /// Somebody who waits. An event for which nobody waits any more is not published.
    Waiter(oneshot::Sender<Result<Published, StoreError>>),
}

/// A publish of a connection that is yet to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// The connection's shard.
    pub shard: ShardId,
    /// Its seat there, which somebody else may have by then.
    pub seat: usize,
    /// Who it is.
    pub client: ClientId,
    /// The `id` of its command, where it wants an answer.
    pub id: Option<u64>,
}

/// What became of it.
#[derive(Debug)]
pub struct Answered {
    /// Of which publish.
    pub ticket: Ticket,
    /// Where it is, or why it is nowhere.
    pub result: Result<(ChannelName, Published), StoreError>,
}
