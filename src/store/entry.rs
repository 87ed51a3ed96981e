//! What goes into a store and what comes back.

use std::borrow::Cow;
use std::sync::Arc;

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
    /// What was made of its frames already, where it is large.
    pub frames: Frames,
}

impl NewEvent<'_> {
    /// The same, with nothing borrowed.
    pub fn into_owned(self) -> NewEvent<'static> {
        NewEvent { channel: Cow::Owned(self.channel.into_owned()), ..self }
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

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place.
    pub position: Position,
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

/// The store cannot do its work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is away")]
pub struct Unavailable;
