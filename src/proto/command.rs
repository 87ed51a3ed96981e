//! What a client may ask. Borrowed from the bytes it came in.

use super::rate::Rate;

/// One message of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// Repeated in the answer. Without it, a success of `publish` is not answered.
    pub id: Option<u64>,
    /// What is asked.
    pub command: Command<'a>,
}

/// What is asked. Channel names are as the client wrote them, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    /// A token for this connection.
    Auth,
    /// The kept events of a channel.
    History(History<'a>),
    /// Answered with `pong`.
    Ping,
    /// Who is on a channel.
    Presence,
    /// An event for a channel.
    Publish(Publish<'a>),
    /// A question to the application.
    Request,
    /// A short-lived value shown to a channel.
    Signal,
    /// Begin to receive a channel.
    Subscribe(Subscribe<'a>),
    /// Stop receiving a channel.
    Unsubscribe {
        /// Which.
        channel: &'a str,
    },
}

/// The fields of `publish`.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish<'a> {
    /// Where to.
    pub channel: &'a str,
    /// The JSON value, token for token as it came.
    pub data: &'a [u8],
    /// The label whose latest event is remembered.
    pub key: Option<&'a str>,
    /// Whether the publisher wants its own event back.
    pub echo: bool,
    /// What makes a retry harmless.
    pub message_id: Option<&'a str>,
}

/// The fields of `subscribe`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe<'a> {
    /// Which channel.
    pub channel: &'a str,
    /// The epoch and offset after which events are wanted.
    pub since: Option<(&'a str, u64)>,
    /// The slow-consumer policy asked for, by its name on the wire.
    pub slow: Option<&'a str>,
    /// How often events are wanted at most; `None` for each as it comes.
    pub max_rate: Option<Rate>,
    /// Whether the newest event of each key is wanted first, where they are kept.
    pub snapshot: bool,
}

/// The fields of `history`.
#[derive(Debug, Clone, PartialEq)]
pub struct History<'a> {
    /// Of which channel.
    pub channel: &'a str,
    /// The epoch and offset after which events are wanted; without them the newest are.
    pub since: Option<(&'a str, u64)>,
    /// How many at most.
    pub limit: usize,
    /// Whether they are wanted from the head backwards.
    pub reverse: bool,
}

/// Events of one `history` where the command does not say, and at most.
pub const HISTORY_LIMIT: usize = 100;
/// See [`HISTORY_LIMIT`].
pub const HISTORY_LIMIT_MAX: usize = 1_000;
