//! The ways a peer can break RFC 6455, and the close code and text each of them earns.

use std::fmt;

/// How a peer broke RFC 6455. Its stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A close code that may not be sent.
    CloseCode,
    /// A close frame with one byte: neither empty nor a code.
    CloseLength,
    /// A close reason that is not UTF-8.
    CloseReason,
    /// A continuation frame where no message is under way.
    Continuation,
    /// A control frame without FIN.
    ControlFragmented,
    /// A control frame with more than 125 bytes.
    ControlLength,
    /// A compressed message that is corrupt, or cut off.
    Deflate,
    /// A new message inside a fragmented one.
    Interleaved,
    /// A length that a shorter form would have held.
    LongLength,
    /// A masked frame from a server.
    Masked,
    /// A reserved bit without an extension that gives it a meaning.
    ReservedBits,
    /// An opcode that RFC 6455 reserves.
    ReservedOpcode,
    /// A message over the limit, or a length that no message can have.
    TooBig,
    /// An unmasked frame from a client.
    Unmasked,
    /// A text message that is not UTF-8.
    Utf8,
}

impl ProtocolError {
    /// The code of the close frame that answers it.
    pub fn close_code(self) -> u16 {
        match self {
            Self::CloseCode
            | Self::CloseLength
            | Self::Continuation
            | Self::ControlFragmented
            | Self::ControlLength
            | Self::Interleaved
            | Self::LongLength
            | Self::Masked
            | Self::ReservedBits
            | Self::ReservedOpcode
            | Self::Unmasked => 1002,
            Self::CloseReason | Self::Deflate | Self::Utf8 => 1007,
            Self::TooBig => 1009,
        }
    }

    /// The reason text of that close frame.
    pub fn text(self) -> &'static str {
        match self {
            Self::CloseCode => "close code not allowed",
            Self::CloseLength => "close frame of one byte",
            Self::CloseReason => "close reason is not UTF-8",
            Self::Continuation => "continuation without a message",
            Self::ControlFragmented => "control frame fragmented",
            Self::ControlLength => "control frame over 125 bytes",
            Self::Deflate => "compressed message is corrupt",
            Self::Interleaved => "message inside a fragmented message",
            Self::LongLength => "length not in its shortest form",
            Self::Masked => "frame from a server is masked",
            Self::ReservedBits => "reserved bit set",
            Self::ReservedOpcode => "opcode is reserved",
            Self::TooBig => "message too big",
            Self::Unmasked => "frame from a client is not masked",
            Self::Utf8 => "text is not UTF-8",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ProtocolError {}
