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
    Auth {
        /// The token.
        token: Secret<'a>,
    },
    /// The kept events of a channel.
    History(History<'a>),
    /// Answered with `pong`.
    Ping,
    /// Who is on a channel.
    Presence {
        /// Which.
        channel: &'a str,
    },
    /// An event for a channel.
    Publish(Publish<'a>),
    /// A question to the application.
    Request(Call<'a>),
    /// A short-lived value shown to a channel.
    Signal(Signal<'a>),
    /// Begin to receive a channel.
    Subscribe(Subscribe<'a>),
    /// Stop receiving a channel.
    Unsubscribe {
        /// Which.
        channel: &'a str,
    },
}

/// A text that must not be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<'a>(pub &'a str);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
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

/// The fields of `signal`.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal<'a> {
    /// To which channel.
    pub channel: &'a str,
    /// Which of the client's signals there; 1 to [`SIGNAL_NAME_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// The JSON value, token for token as it came; `None` ends the signal.
    pub data: Option<&'a [u8]>,
    /// For how long it holds, in milliseconds; at most [`SIGNAL_TTL_MS_MAX`].
    pub ttl_ms: u64,
}

/// The fields of `request`.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<'a> {
    /// What is asked of the application.
    pub method: &'a str,
    /// The JSON value that goes with it.
    pub data: Option<&'a [u8]>,
}

/// The longest name of a signal, in bytes.
pub const SIGNAL_NAME_BYTES_MAX: usize = 64;

/// How long a signal holds where the command does not say, and at most, in milliseconds.
pub const SIGNAL_TTL_MS: u64 = 5_000;
/// See [`SIGNAL_TTL_MS`].
pub const SIGNAL_TTL_MS_MAX: u64 = 60_000;

/// The longest name of a method, in bytes.
pub const METHOD_BYTES_MAX: usize = 255;

/// Events of one `history` where the command does not say, and at most.
pub const HISTORY_LIMIT: usize = 100;
/// See [`HISTORY_LIMIT`].
pub const HISTORY_LIMIT_MAX: usize = 1_000;
