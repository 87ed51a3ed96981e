//! Everything Weir tells a client, but for events (see `event`).

use std::sync::Arc;

use super::close::CloseReason;
use super::error::{CommandError, ErrorCode};
use super::event::Event;
use super::name::ClientId;
use super::position::Position;
use super::room::RoomPush;

/// One message to one client.
#[derive(Debug)]
pub enum Push<'a> {
    /// The connection will close; sent before the close frame.
    Disconnect {
        /// Why: gives code, reason and whether to come back.
        reason: CloseReason,
        /// How long to wait before coming back.
        retry_after_ms: Option<u64>,
    },
    /// A command failed.
    Error(&'a CommandError),
    /// What a room tells, and its answers.
    Room(RoomPush<'a>),
    /// The answer to `signal`.
    Ok {
        /// The command's id.
        id: u64,
    },
    /// Events that this client will not get.
    Lagged {
        /// Of which channel.
        channel: &'a str,
        /// What was lost.
        hole: Hole,
        /// How old the oldest lost event is, in milliseconds.
        age_ms: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// The command's id.
        id: Option<u64>,
    },
    /// The answer to `history`.
    History {
        /// The command's id.
        id: Option<u64>,
        /// The channel.
        channel: &'a str,
        /// Its head.
        position: Position,
        /// The events, in the order that was asked for.
        events: &'a [Arc<Event>],
    },
    /// The answer to `publish`.
    Published {
        /// The command's id.
        id: u64,
        /// The channel.
        channel: &'a str,
        /// The event's place.
        position: Position,
        /// Whether it was published before, under the same `message_id`.
        duplicate: bool,
    },
    /// The answer to `subscribe`.
    Subscribed {
        /// The command's id.
        id: Option<u64>,
        /// The channel.
        channel: &'a str,
        /// The head; events after it follow.
        position: Position,
        /// The node's number for the channel.
        alias: u64,
        /// Whether nothing was missed; `None` when `since` was not given.
        recovered: Option<bool>,
        /// Whether the channel was subscribed already, and only its options changed.
        updated: bool,
        /// What others show there, each an object without its first brace; `None` where nothing
        /// may be shown.
        signals: Option<&'a [&'a [u8]]>,
    },
    /// The answer to `subscribe` with a pattern.
    SubscribedPattern {
        /// The command's id.
        id: Option<u64>,
        /// The pattern.
        pattern: &'a str,
        /// Whether it was subscribed already, and only its options changed.
        updated: bool,
    },
    /// The answer to `unsubscribe`, or the end of a subscription by the server.
    Unsubscribed {
        /// The command's id.
        id: Option<u64>,
        /// The channel.
        channel: &'a str,
        /// Why the server has ended it, where it has.
        why: Option<(ErrorCode, &'a str)>,
    },
    /// The first message of a connection, and the answer to `auth`.
    Welcome {
        /// The command's id.
        id: Option<u64>,
        /// The connection's id.
        client: ClientId,
        /// Who its token says it is; `None` for the anonymous.
        user: Option<&'a str>,
        /// The name of this node.
        node: &'a str,
        /// How often the server pings, in milliseconds.
        ping_ms: u64,
        /// The largest message a client may send, in bytes.
        message_bytes: usize,
        /// How the connection ended that the client says it had before.
        last: Option<Last>,
    },
}

/// Why the server has closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Gives code and reason.
    pub reason: CloseReason,
    /// Events that it did not get, all its life.
    pub dropped: u64,
}

/// A range of events that were dropped from a subscriber's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first dropped offset.
    pub from: u64,
    /// The last dropped offset.
    pub to: u64,
    /// How many events were dropped.
    pub dropped: u64,
}
