//! Frame headers, both ways.

/// How a client broke RFC 6455.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Larger than the limit.
    TooBig,
}

impl ProtocolError {
    /// The close code.
    pub fn close_code(self) -> u16 {
        1009
    }

    /// The reason text.
    pub fn text(self) -> &'static str {
        "message too big"
    }
}

/// A whole unmasked text frame around `text`.
pub fn text(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(0x81);
    frame.extend_from_slice(text);
    frame
}

/// Appends a whole unmasked text frame around `text`.
pub fn push_text(payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&text(payload));
}

/// Appends a whole close frame.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}
