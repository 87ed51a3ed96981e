//! Why a connection ends, and the one table between reasons, codes and labels.

use super::ws::ProtocolError;

/// Why a connection ended. Exactly one for each connection: the log line, the metric label and
/// the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// No token came in the time for one, where one is required.
    AuthTimeout,
    /// The user has as many connections as it may.
    ConnectionLimit,
    /// An operator ended it through the API.
    Disconnected,
    /// A panic in this connection's code.
    Internal,
    /// A message was not finished within 30 seconds.
    MessageTimeout,
    /// The client closed with a close frame.
    PeerClosed,
    /// All queues together took more memory than they may, and this one was among the fullest.
    Overloaded,
    /// No pong within the ping time-out.
    PingTimeout,
    /// The client broke RFC 6455.
    Protocol(ProtocolError),
    /// More than 100 commands in a minute that were more than it may send.
    RateLimited,
    /// The node is going away.
    Shutdown,
    /// The client did not read what it was sent.
    SlowConsumer,
    /// The socket failed or ended without a close frame.
    Socket,
    /// The token has ended, and no other came in the time for one.
    TokenExpired,
    /// More than 100 undecodable or bad messages in a minute.
    TooManyErrors,
    /// A bad token came, where one is required and no good one was there.
    Unauthorized,
}

impl CloseReason {
    /// The label values of `weir_connections_closed_total`, in the order of [`Self::index`].
    pub const CODES: [&'static str; 18] = [
        "4503", "1011", "1000", "4002", "1002", "1007", "1009", "4001", "4000", "1006", "4504",
        "1008", "4004", "4501", "4003", "4500", "4005", "4006",
    ];

    /// The place of this reason's code in [`Self::CODES`], for counters.
    pub fn index(self) -> usize {
        match self {
            Self::Disconnected => 0,
            Self::Internal => 1,
            Self::PeerClosed => 2,
            Self::PingTimeout => 3,
            Self::Protocol(error) => match error.close_code() {
                1007 => 5,
                1009 => 6,
                _ => 4,
            },
            Self::Shutdown => 7,
            Self::SlowConsumer => 8,
            Self::Socket => 9,
            Self::TooManyErrors => 10,
            Self::MessageTimeout => 11,
            Self::Overloaded => 12,
            Self::AuthTimeout => 13,
            Self::TokenExpired => 14,
            Self::Unauthorized => 15,
            Self::ConnectionLimit => 16,
            Self::RateLimited => 17,
        }
    }

    /// The close code on the wire; `None` when there is no wire to write it to.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::AuthTimeout => Some(4501),
            Self::ConnectionLimit => Some(4005),
            Self::Disconnected => Some(4503),
            Self::Internal => Some(1011),
            Self::MessageTimeout => Some(1008),
            Self::Overloaded => Some(4004),
            Self::PeerClosed => Some(1000),
            Self::PingTimeout => Some(4002),
            Self::Protocol(error) => Some(error.close_code()),
            Self::RateLimited => Some(4006),
            Self::Shutdown => Some(4001),
            Self::SlowConsumer => Some(4000),
            Self::Socket => None,
            Self::TokenExpired => Some(4003),
            Self::TooManyErrors => Some(4504),
            Self::Unauthorized => Some(4500),
        }
    }

    /// The reason text of the close frame and of the `disconnect` push.
    pub fn text(self) -> &'static str {
        match self {
            Self::AuthTimeout => "auth_timeout",
            Self::ConnectionLimit => "connection_limit",
            Self::Disconnected => "disconnected_by_server",
            Self::Internal => "internal error",
            Self::MessageTimeout => "a message must be finished within 30 s",
            Self::Overloaded => "overloaded",
            Self::PeerClosed => "",
            Self::PingTimeout => "ping_timeout",
            Self::Protocol(error) => error.text(),
            Self::RateLimited => "rate_limited",
            Self::Shutdown => "shutdown",
            Self::SlowConsumer => "slow_consumer",
            Self::Socket => "connection lost",
            Self::TokenExpired => "token_expired",
            Self::TooManyErrors => "too_many_errors",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// Whether the client should come back: codes of 4500 and more say no.
    pub fn reconnect(self) -> bool {
        self.code().is_none_or(|code| code < 4500)
    }

    /// Whether it is the server that ends the connection, and has a code for it.
    pub fn is_ours(self) -> bool {
        self.code().is_some() && self != Self::PeerClosed
    }

    /// Whether a `disconnect` push goes before the close frame.
    ///
    /// Not where the client itself broke off or broke the framing.
    pub fn announced(self) -> bool {
        match self {
            Self::AuthTimeout
            | Self::ConnectionLimit
            | Self::Disconnected
            | Self::Internal
            | Self::MessageTimeout
            | Self::Overloaded
            | Self::PingTimeout
            | Self::RateLimited
            | Self::Shutdown
            | Self::SlowConsumer
            | Self::TokenExpired
            | Self::TooManyErrors
            | Self::Unauthorized => true,
            Self::PeerClosed | Self::Protocol(_) | Self::Socket => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every reason.
    fn all() -> Vec<CloseReason> {
        use CloseReason as R;
        use ProtocolError as P;
        let protocol = [
            P::CloseCode,
            P::CloseLength,
            P::CloseReason,
            P::Continuation,
            P::ControlFragmented,
            P::ControlLength,
            P::Deflate,
            P::Interleaved,
            P::LongLength,
            P::Masked,
            P::ReservedBits,
            P::ReservedOpcode,
            P::TooBig,
            P::Unmasked,
            P::Utf8,
        ];
        let others = [
            R::AuthTimeout,
            R::ConnectionLimit,
            R::RateLimited,
            R::TokenExpired,
            R::Unauthorized,
            R::Disconnected,
            R::Internal,
            R::MessageTimeout,
            R::Overloaded,
            R::PeerClosed,
            R::PingTimeout,
            R::Shutdown,
            R::SlowConsumer,
            R::Socket,
            R::TooManyErrors,
        ];
        protocol.map(R::Protocol).into_iter().chain(others).inspect(|one| known(*one)).collect()
    }

    /// Does not compile where [`all`] may lack one.
    fn known(reason: CloseReason) {
        use CloseReason as R;
        use ProtocolError as P;
        match reason {
            R::AuthTimeout
            | R::ConnectionLimit
            | R::RateLimited
            | R::TokenExpired
            | R::Unauthorized
            | R::Disconnected
            | R::Internal
            | R::MessageTimeout
            | R::Overloaded
            | R::PeerClosed
            | R::PingTimeout
            | R::Shutdown
            | R::SlowConsumer
            | R::Socket
            | R::TooManyErrors
            | R::Protocol(
                P::CloseCode
                | P::CloseLength
                | P::CloseReason
                | P::Continuation
                | P::ControlFragmented
                | P::ControlLength
                | P::Deflate
                | P::Interleaved
                | P::LongLength
                | P::Masked
                | P::ReservedBits
                | P::ReservedOpcode
                | P::TooBig
                | P::Unmasked
                | P::Utf8,
            ) => {}
        }
    }

    #[test]
    fn a_reason_has_the_same_code_everywhere() {
        for reason in all() {
            // 1006 is RFC 6455's number for a connection that ended without a close frame.
            let code = reason.code().unwrap_or(1006);
            assert_eq!(CloseReason::CODES[reason.index()], code.to_string(), "{reason:?}");
            assert_eq!(reason.reconnect(), code < 4500, "{reason:?}");
            let text = reason.text();
            assert_eq!(text.is_empty(), reason == CloseReason::PeerClosed, "{reason:?}");
            assert!(text.len() <= 123, "{reason:?}: a close frame has room for 123 bytes");
        }
        let used: BTreeSet<usize> = all().into_iter().map(CloseReason::index).collect();
        assert_eq!(used, (0..CloseReason::CODES.len()).collect(), "every code has a reason");
    }
}
