//! The errors a client is told of: stable codes, and sentences for people.

use std::borrow::Cow;

/// A stable error code of the protocol (`docs/protocol.md`, errors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The message or one of its fields is not what the protocol asks for.
    BadRequest,
    /// The rules do not allow it.
    Forbidden,
    /// Our fault.
    Internal,
    /// A limit of the connection, such as its number of subscriptions.
    LimitExceeded,
    /// Presence, history or signals where they are off.
    NotEnabled,
    /// A command on a channel that needs a subscription first.
    NotSubscribed,
    /// The node cannot take the event now.
    Overloaded,
    /// More often than it may.
    RateLimited,
    /// A token that has ended.
    TokenExpired,
    /// Larger than a limit.
    TooLarge,
    /// No valid token.
    Unauthorized,
    /// The store is away.
    Unavailable,
    /// No channel or alias of that name.
    UnknownChannel,
    /// No application answers that request.
    UnknownMethod,
    /// A place of another life of the channel, or beyond its head.
    UnknownPosition,
}

impl ErrorCode {
    /// Every code, in the order of [`ErrorCode::index`].
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::Internal,
        Self::LimitExceeded,
        Self::NotEnabled,
        Self::NotSubscribed,
        Self::Overloaded,
        Self::RateLimited,
        Self::TokenExpired,
        Self::TooLarge,
        Self::Unauthorized,
        Self::Unavailable,
        Self::UnknownChannel,
        Self::UnknownMethod,
        Self::UnknownPosition,
    ];

    /// Its place in [`ErrorCode::ALL`], for counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::Internal => "internal",
            Self::LimitExceeded => "limit_exceeded",
            Self::NotEnabled => "not_enabled",
            Self::NotSubscribed => "not_subscribed",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::TokenExpired => "token_expired",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::UnknownChannel => "unknown_channel",
            Self::UnknownMethod => "unknown_method",
            Self::UnknownPosition => "unknown_position",
        }
    }
}

/// Why a command failed, as its client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// The command's `id`, when it had a readable one.
    pub id: Option<u64>,
    /// The stable code.
    pub code: ErrorCode,
    /// What was wrong and what would be right.
    pub message: Cow<'static, str>,
    /// When it pays to try again.
    pub retry_after_ms: Option<u32>,
}

impl CommandError {
    /// An error in answer to the command `id`.
    pub fn new(id: Option<u64>, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { id, code, message: message.into(), retry_after_ms: None }
    }
}
