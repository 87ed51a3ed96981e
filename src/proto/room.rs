//! What clients are told of each other: who has a channel by name.

use super::name::ClientId;

/// One who has a channel by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The connection.
    pub client: ClientId,
    /// The identity in its token; `None` for the anonymous.
    pub user: Option<&'a str>,
    /// What its token says for others to see, a JSON value.
    pub info: Option<&'a [u8]>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
}

/// What a room tells, and its answers.
#[derive(Debug, Clone, Copy)]
pub enum RoomPush<'a> {
    /// A client has a channel by name from here on.
    Join {
        /// The channel.
        channel: &'a str,
        /// Who.
        member: Member<'a>,
    },
    /// A client has a channel by name no longer.
    Leave {
        /// The channel.
        channel: &'a str,
        /// Who.
        member: Member<'a>,
    },
    /// How many have a channel by name.
    Counts {
        /// The channel.
        channel: &'a str,
        /// Connections.
        clients: usize,
        /// Users that they have.
        users: usize,
        /// Whether joins and leaves follow from here on.
        listed: bool,
    },
    /// The answer to `presence`.
    Presence {
        /// The command's id.
        id: Option<u64>,
        /// The channel.
        channel: &'a str,
        /// Connections.
        clients: usize,
        /// Users that they have.
        users: usize,
        /// All of them, where they are not too many.
        members: &'a [Member<'a>],
    },
}
