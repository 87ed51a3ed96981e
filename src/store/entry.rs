//! What goes into a store and what comes back.

use std::borrow::Cow;
use std::sync::Arc;

use crate::core::history::Past;
use crate::core::policy::Keep;
use crate::proto::encoder::Frames;
use crate::proto::event::{Author, Payload};
use crate::proto::name::{Alias, ChannelName, ClientId, ShardId};
use crate::proto::position::Position;

/// An event before it has a place.
#[derive(Debug)]
pub struct NewEvent<'a> {
    /// Where to: a name that [`crate::proto::name::check_channel`] passed.
    pub channel: Cow<'a, str>,
    /// Its label inside the channel.
    pub key: Option<Box<str>>,
    /// What is published.
    pub payload: Payload,
    /// Who published it; `None` for the HTTP API.
    pub from: Option<Arc<Author>>,
    /// The one client that does not want to see it.
    pub hidden_from: Option<ClientId>,
    /// What makes a retry of it harmless.
    pub message_id: Option<Cow<'a, str>>,
    /// What is kept of the channel's events.
    pub keep: Keep,
    /// What was made of its frames already, where it is large.
    pub frames: Frames,
}

impl<'a> NewEvent<'a> {
    /// An event of nobody for everybody, of which nothing is kept.
    pub fn new(channel: Cow<'a, str>, payload: Payload) -> Self {
        let (key, from, hidden_from, message_id) = (None, None, None, None);
        let (keep, frames) = (Keep::default(), Frames::default());
        Self { channel, key, payload, from, hidden_from, message_id, keep, frames }
    }

    /// Memory of what it carries, and of what was made of that.
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.frames.bytes()
    }

    /// The same, with nothing borrowed, to be taken later.
    pub fn into_owned(self) -> NewEvent<'static> {
        let channel = Cow::Owned(self.channel.into_owned());
        let message_id = self.message_id.map(|id| Cow::Owned(id.into_owned()));
        NewEvent { channel, message_id, ..self }
    }
}

/// The clocks at the moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// The node's monotonic clock in nanoseconds.
    pub node_ns: u64,
}

impl Now {
    /// The node's monotonic clock in milliseconds.
    pub fn node_ms(self) -> u64 {
        self.node_ns / 1_000_000
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place.
    pub position: Position,
    /// It was published before, under the same `message_id`: this is the place that it got then.
    pub duplicate: bool,
    /// A shard whose mailbox is beyond its bound: whoever publishes should wait for it.
    pub crowded: Option<ShardId>,
}

/// Where a subscription begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The channel's name, shared.
    pub channel: ChannelName,
    /// The node's number for it.
    pub alias: Alias,
    /// The head at that moment: the events after it will be delivered.
    pub head: Position,
}

/// What a subscription wants of the time before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// All events after this place, if none of them is missing.
    pub since: Option<(&'a str, u64)>,
    /// The newest event of each key, unless it gets all that it has missed.
    pub snapshot: bool,
    /// It recovers at most this many events.
    pub recovery_max: u64,
    /// What is kept of the channel's events.
    pub keep: Keep,
}

/// How a subscription begins.
#[derive(Debug)]
pub struct Begun {
    /// Where.
    pub joined: Joined,
    /// Whether it gets everything after the place that it named; `None` when it named none.
    pub recovered: Option<bool>,
    /// What it is to get before the events after the head.
    pub past: Option<Past>,
}

/// What is read of a channel's past.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// The events after this place; without one the newest.
    pub since: Option<(&'a str, u64)>,
    /// At most so many events.
    pub limit: usize,
    /// From the head backwards, and no further than `since`.
    pub reverse: bool,
    /// At most so many bytes of payload, unless it is one event.
    pub bytes: usize,
    /// What is kept of the channel's events.
    pub keep: Keep,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// The channel's head.
    pub head: Position,
    /// The events, in the order that was asked for; `None` when the place that was named is of
    /// another life of the channel, or beyond its head.
    pub events: Option<Vec<Arc<crate::proto::event::Event>>>,
}

/// One channel as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its name.
    pub channel: ChannelName,
    /// Subscriptions on this node.
    pub subscribers: u32,
    /// The number of its last event.
    pub offset: u64,
}

/// Why the store has not done what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot do its work now.
    #[error("the store is away")]
    Away,
    /// The file refuses this one durable channel for now, to be read or written; others go on.
    #[error("this channel cannot be read or written on disk now; the gateway's log says why")]
    Faulty,
    /// More waits to be kept than it holds.
    #[error("more events wait for the disk than this node holds")]
    Crowded,
    /// The channel is durable and not in memory: it has to be loaded first.
    #[error("the channel is not loaded")]
    Unloaded,
    /// There are as many channels as it can have, and none that nobody needs.
    #[error("this node has as many channels as it holds: publish on one that is there")]
    Full,
}
