//! Frames: their headers both ways, and whole frames to send. Messages are `message.rs`.

use super::error::ProtocolError;
use super::mask::unmask;

/// The longest header: two bytes, a length of eight, a mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// The bit of a compressed message's first frame.
const RSV1: u8 = 0x40;

/// The longest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0x0,
    /// Text, or its first fragment.
    Text = 0x1,
    /// Bytes, or their first fragment.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or nothing.
    Pong = 0xA,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(ProtocolError::ReservedOpcode),
        }
    }

    /// Whether it is close, ping or pong.
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The header of a frame that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// Whether RSV1 says that its message is compressed. Only where that was negotiated.
    pub deflated: bool,
    /// The key of the payload; zeros, which change nothing, from a server.
    pub mask: [u8; 4],
    /// Bytes of payload behind the header.
    pub payload_len: usize,
}

/// Reads a client's header from the front of `input`, with its own length in bytes.
///
/// `Ok(None)` means "call again with more bytes". Nothing is consumed. `payload_len_max` is for
/// data frames; control frames have a limit of their own.
///
/// # Errors
///
/// What is wrong with the header, as soon as the bytes that show it are there.
#[inline]
pub fn parse_client(
    input: &[u8],
    payload_len_max: usize,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    parse_client_with(input, payload_len_max, None)
}

/// As [`parse_client`], for a client that may compress where `deflated_len_max` is there: it
/// limits the payload of a frame that says so.
///
/// # Errors
///
/// As [`parse_client`].
#[inline]
pub fn parse_client_with(
    input: &[u8],
    payload_len_max: usize,
    deflated_len_max: Option<usize>,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    let [first, second, ..] = input else { return Ok(None) };
    let masked = second & 0x80 != 0;
    // RSV1 stands on the first frame of a data message alone, RFC 7692, section 6.
    let (allowed, max) = match deflated_len_max {
        Some(max) if first & RSV1 != 0 && matches!(first & 0x0F, 0x1 | 0x2) => (RSV1, max),
        Some(_) | None => (0, payload_len_max),
    };
    let fault = ProtocolError::Unmasked;
    let Some((header, size)) = parse(input, max, allowed, masked.then_some(()).ok_or(fault))?
    else {
        return Ok(None);
    };
    let Some(mask) = input.get(size..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    Ok(Some((Header { mask: *mask, ..header }, size + 4)))
}

/// Reads a server's header from the front of `input`, with its own length in bytes.
///
/// As [`parse_client`], but refuses what is masked.
///
/// # Errors
///
/// What is wrong with the header, as soon as the bytes that show it are there.
#[inline]
pub fn parse_server(
    input: &[u8],
    payload_len_max: usize,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    let [_, second, ..] = input else { return Ok(None) };
    let unmasked = second & 0x80 == 0;
    parse(input, payload_len_max, 0, unmasked.then_some(()).ok_or(ProtocolError::Masked))
}

/// The header up to its mask. `allowed` are the reserved bits that have a meaning here; `mask` is
/// what the mask bit amounts to.
///
/// Each check needs a prefix of what the next one needs, so a header that arrives in pieces gets
/// the same answer as one that arrives whole.
#[inline]
fn parse(
    input: &[u8],
    payload_len_max: usize,
    allowed: u8,
    mask: Result<(), ProtocolError>,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if first & 0x70 & !allowed != 0 {
        return Err(ProtocolError::ReservedBits);
    }
    let opcode = Opcode::from_bits(first & 0x0F)?;
    let fin = first & 0x80 != 0;
    mask?;
    let short = second & 0x7F;
    if opcode.is_control() {
        if !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        if usize::from(short) > CONTROL_BYTES_MAX {
            return Err(ProtocolError::ControlLength);
        }
    }
    let (len, len_size, len_min) = match short {
        126 => match rest.first_chunk() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2, 126),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8, 1 << 16),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, 0),
    };
    if len < len_min {
        return Err(ProtocolError::LongLength);
    }
    // A length with the top bit set is over every limit.
    let payload_len = usize::try_from(len).map_err(|_| ProtocolError::TooBig)?;
    if (payload_len > payload_len_max && !opcode.is_control()) || len >> 63 != 0 {
        return Err(ProtocolError::TooBig);
    }
    let deflated = first & RSV1 != 0;
    Ok(Some((Header { fin, opcode, deflated, mask: [0; 4], payload_len }, 2 + len_size)))
}

/// Appends the header of an unmasked frame whose payload is `len` bytes.
pub fn header(opcode: Opcode, fin: bool, len: usize, out: &mut Vec<u8>) {
    push_header(opcode as u8 | if fin { 0x80 } else { 0 }, 0, len, out);
}

/// Appends the header of a whole unmasked message that is compressed to `len` bytes.
pub fn deflated_header(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    debug_assert!(!opcode.is_control(), "compressed control frame: {opcode:?}");
    push_header(opcode as u8 | 0x80 | RSV1, 0, len, out);
}

/// Appends the header of the first fragment of an unmasked message; `deflated` says that this is
/// compressed.
pub fn first_header(opcode: Opcode, deflated: bool, len: usize, out: &mut Vec<u8>) {
    debug_assert!(!opcode.is_control(), "control frame in fragments: {opcode:?}");
    push_header(opcode as u8 | if deflated { RSV1 } else { 0 }, 0, len, out);
}

fn push_header(first: u8, mask_bit: u8, len: usize, out: &mut Vec<u8>) {
    if let Ok(short) = u8::try_from(len)
        && short < 126
    {
        out.extend_from_slice(&[first, mask_bit | short]);
    } else if let Ok(medium) = u16::try_from(len) {
        let [high, low] = medium.to_be_bytes();
        out.extend_from_slice(&[first, mask_bit | 126, high, low]);
    } else {
        out.extend_from_slice(&[first, mask_bit | 127]);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

/// A whole unmasked text frame around `text`.
pub fn text(text: &[u8]) -> Vec<u8> {
    let header_len = match text.len() {
        0..126 => 2,
        126..0x1_0000 => 4,
        _ => 10,
    };
    // Exact, because events keep their frame for as long as they live.
    let mut frame = Vec::with_capacity(header_len + text.len());
    push_text(text, &mut frame);
    frame
}

/// Appends a whole unmasked text frame around `text`.
pub fn push_text(text: &[u8], out: &mut Vec<u8>) {
    header(Opcode::Text, true, text.len(), out);
    out.extend_from_slice(text);
}

/// Appends a whole unmasked control frame; `payload` is cut to 125 bytes.
pub fn control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(opcode.is_control(), "not a control frame: {opcode:?}");
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX, "control frame too long");
    let payload = payload.get(..CONTROL_BYTES_MAX).unwrap_or(payload);
    header(opcode, true, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a whole unmasked close frame; `reason` is cut to 123 bytes, between two characters.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let end = reason.floor_char_boundary(CONTROL_BYTES_MAX - 2);
    let reason = reason.get(..end).unwrap_or_default();
    header(Opcode::Close, true, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// How many bytes the unmasked frame has that `bytes` begin with: of them, or all.
pub fn unmasked_len(bytes: &[u8]) -> usize {
    let len = match *bytes {
        [_, 126, a, b, ..] => 4 + usize::from(u16::from_be_bytes([a, b])),
        [_, 127, ref rest @ ..] => rest.first_chunk().map_or(usize::MAX, |len| {
            usize::try_from(u64::from_be_bytes(*len)).unwrap_or(usize::MAX).saturating_add(10)
        }),
        [_, len, ..] => 2 + usize::from(len),
        _ => usize::MAX,
    };
    len.min(bytes.len())
}

/// How long the header of the unmasked frame is that `bytes` begin with.
pub fn unmasked_head_len(bytes: &[u8]) -> usize {
    match bytes.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        Some(_) | None => 2,
    }
}

/// Appends a whole masked frame, as a client sends it.
pub fn client_frame(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    push_header(opcode as u8 | 0x80, 0x80, payload.len(), out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(masked) = out.get_mut(start..) {
        unmask(masked, mask);
    }
}

#[cfg(test)]
mod tests;
