//! RFC 6455 frames from the client's side: reads unmasked server frames, writes masked ones.
//! A message in fragments is read as one frame once its last one is there; a control frame between
//! them is read before it.

use std::fmt;

/// The largest payload that is read.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// `None` for the continuation of a message.
    fn from_bits(bits: u8) -> Result<Option<Self>, FrameError> {
        match bits {
            0x0 => Ok(None),
            0x1 => Ok(Some(Self::Text)),
            0x2 => Ok(Some(Self::Binary)),
            0x8 => Ok(Some(Self::Close)),
            0x9 => Ok(Some(Self::Ping)),
            0xA => Ok(Some(Self::Pong)),
            _ => Err(FrameError::UnknownOpcode),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// Why a frame is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    BadControlFrame,
    LongLength,
    Masked,
    ReservedBits,
    Stray,
    TooBig,
    Unfinished,
    UnknownOpcode,
}

impl FrameError {
    /// Whether the server breaks RFC 6455; otherwise it is this program that cannot read it.
    pub(crate) fn is_breach(self) -> bool {
        self != Self::TooBig
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadControlFrame => "a control frame is fragmented or longer than 125 bytes",
            Self::LongLength => "a length takes more bytes than it needs",
            Self::Masked => "a server frame is masked",
            Self::ReservedBits => "reserved bits are set and no extension was agreed",
            Self::Stray => "a fragment continues no message",
            Self::TooBig => "a message of more than 16 MiB",
            Self::Unfinished => "a message begins before the one in fragments has ended",
            Self::UnknownOpcode => "the opcode is unknown",
        })
    }
}

/// One whole message or control frame at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: Opcode,
    /// By permessage-deflate: the payload is to be inflated.
    pub(crate) is_deflated: bool,
    pub(crate) payload: &'a [u8],
}

/// One frame as it stands on the wire.
struct Piece<'a> {
    /// `None` for the continuation of a message.
    opcode: Option<Opcode>,
    is_last: bool,
    is_deflated: bool,
    payload: &'a [u8],
    /// With its header.
    len: usize,
}

/// Reads the message or control frame at the front of `input`, and how many bytes it takes.
/// Fragments are joined in `joined`; otherwise the payload is where it was read to.
///
/// A control frame that stands between the fragments at the front is put before them, in `input`
/// too, and read first. `Ok(None)` means "call again with more bytes". Nothing is consumed.
#[inline]
pub(crate) fn next<'a>(
    input: &'a mut [u8],
    joined: &'a mut Vec<u8>,
) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
    read::<false>(input, joined)
}

/// The same where permessage-deflate was agreed on. Apart, so that nobody else pays for it.
pub(crate) fn next_deflated<'a>(
    input: &'a mut [u8],
    joined: &'a mut Vec<u8>,
) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
    read::<true>(input, joined)
}

#[inline]
fn read<'a, const DEFLATES: bool>(
    input: &'a mut [u8],
    joined: &'a mut Vec<u8>,
) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
    if input.first().is_some_and(|first| first & 0x80 == 0) {
        put_control_first::<DEFLATES>(input)?;
    }
    let input = &*input;
    let Some(first) = piece::<DEFLATES>(input)? else { return Ok(None) };
    let opcode = first.opcode.ok_or(FrameError::Stray)?;
    if first.is_last {
        let Piece { is_deflated, payload, len, .. } = first;
        return Ok(Some((Frame { opcode, is_deflated, payload }, len)));
    }
    join(input, (opcode, &first), joined)
}

/// The length of the header and the payload, where `frame` is a text message in one frame.
pub(crate) fn whole_text(frame: &[u8]) -> Option<(usize, &[u8])> {
    let piece = piece::<false>(frame).ok().flatten()?;
    let is_whole = piece.is_last && piece.opcode == Some(Opcode::Text) && piece.len == frame.len();
    is_whole.then_some((piece.len - piece.payload.len(), piece.payload))
}

/// Puts the first control frame between the fragments of the message at the front before them: it
/// must not wait until the message is whole.
#[cold]
#[inline(never)]
fn put_control_first<const DEFLATES: bool>(input: &mut [u8]) -> Result<(), FrameError> {
    let mut used = 0;
    while let Some(piece) = piece::<DEFLATES>(&input[used..])? {
        let (is_last, len) = (piece.is_last, piece.len);
        if piece.opcode.is_some_and(Opcode::is_control) {
            input[..used + len].rotate_right(len);
            return Ok(());
        }
        used += len;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Joins the fragments of the message that `first` begins. Apart, so that whole messages, which
/// nearly all are, do not pay for it.
#[cold]
#[inline(never)]
fn join<'a>(
    input: &'a [u8],
    (opcode, first): (Opcode, &Piece<'a>),
    joined: &'a mut Vec<u8>,
) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
    joined.clear();
    joined.extend_from_slice(first.payload);
    let mut used = first.len;
    loop {
        let Some(next) = piece::<true>(&input[used..])? else { return Ok(None) };
        if next.opcode.is_some() {
            return Err(FrameError::Unfinished);
        }
        if joined.len() + next.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooBig);
        }
        joined.extend_from_slice(next.payload);
        used += next.len;
        if next.is_last {
            let is_deflated = first.is_deflated;
            return Ok(Some((Frame { opcode, is_deflated, payload: joined }, used)));
        }
    }
}

#[inline]
fn piece<const DEFLATES: bool>(input: &[u8]) -> Result<Option<Piece<'_>>, FrameError> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    let is_deflated = DEFLATES && first & 0x70 != 0;
    if first & 0x70 != 0 && !(DEFLATES && may_be_deflated(*first)) {
        return Err(FrameError::ReservedBits);
    }
    let opcode = Opcode::from_bits(first & 0x0F)?;
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (len, len_size, len_min) = match second & 0x7F {
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
        return Err(FrameError::LongLength);
    }
    let is_last = first & 0x80 != 0;
    if opcode.is_some_and(Opcode::is_control) && (!is_last || len > 125) {
        return Err(FrameError::BadControlFrame);
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooBig);
    }
    let Some(payload) = rest.get(len_size..len_size + len) else { return Ok(None) };
    Ok(Some(Piece { opcode, is_last, is_deflated, payload, len: 2 + len_size + len }))
}

/// Whether what has reserved bits is the first frame of a compressed message: the first bit alone,
/// and of no continuation or control frame.
#[cold]
fn may_be_deflated(first: u8) -> bool {
    first & 0x70 == 0x40 && matches!(first & 0x0F, 0x1 | 0x2)
}

/// A fixed mask: RFC 6455 wants it unpredictable to guard proxies, of which loopback has none.
const MASK: [u8; 4] = [0x5A, 0x13, 0xC7, 0x2E];

/// Appends a masked frame around `payload`.
pub(crate) fn push_client(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    push_header(opcode, payload.len(), 0x80, out);
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    let mut chunks = out[start..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(MASK) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(MASK) {
        *byte ^= mask;
    }
}

/// Appends an unmasked frame, as a server sends it.
pub(crate) fn push_server(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    push_header(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

#[expect(clippy::cast_possible_truncation, reason = "each length is checked by its match arm")]
fn push_header(opcode: Opcode, len: usize, mask_bit: u8, out: &mut Vec<u8>) {
    out.push(0x80 | opcode.bits());
    match len {
        0..126 => out.push(mask_bit | len as u8),
        126..65_536 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_only_when_its_last_byte_is_there() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
            let mut bytes = Vec::new();
            push_server(Opcode::Text, &payload, &mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(
                    next(&mut bytes[..cut], &mut Vec::new()),
                    Ok(None),
                    "{len} bytes cut at {cut}"
                );
            }
            let whole = bytes.len();
            bytes.extend_from_slice(b"\x81");
            let frame = Frame { opcode: Opcode::Text, is_deflated: false, payload: &payload };
            assert_eq!(next(&mut bytes, &mut Vec::new()), Ok(Some((frame, whole))), "{len} bytes");
        }
    }

    #[test]
    fn what_breaks_the_framing_is_named() {
        let cases: [(&[u8], FrameError); 9] = [
            (b"\xC1\x00", FrameError::ReservedBits),
            (b"\x81\x80", FrameError::Masked),
            (b"\x80\x00", FrameError::Stray),
            (b"\x01\x00\x81\x00", FrameError::Unfinished),
            (b"\x83\x00", FrameError::UnknownOpcode),
            (b"\x81\x7E\x00\x7D", FrameError::LongLength),
            (b"\x09\x00", FrameError::BadControlFrame),
            (b"\x89\x7E\x00\x7E", FrameError::BadControlFrame),
            (b"\x82\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", FrameError::TooBig),
        ];
        for (bytes, error) in cases {
            assert_eq!(next(&mut bytes.to_vec(), &mut Vec::new()), Err(error), "{bytes:02x?}");
        }
        let mut other = *b"HTTP/1.1 200 OK";
        assert_eq!(
            next(&mut other, &mut Vec::new()),
            Err(FrameError::ReservedBits),
            "no frame at all"
        );
    }

    #[test]
    fn only_the_first_frame_of_a_message_may_be_compressed_and_only_where_that_was_agreed_on() {
        for (bytes, expected) in [
            (b"\xC1\x01a".as_slice(), Ok(Some((true, b"a".as_slice(), 3)))),
            (b"\xC2\x01a", Ok(Some((true, b"a", 3)))),
            (b"\x81\x01a", Ok(Some((false, b"a", 3)))),
            (b"\x41\x01a\x80\x01b", Ok(Some((true, b"ab", 6)))),
            (b"\x41\x01a\xC0\x01b", Err(FrameError::ReservedBits)),
            (b"\xC9\x00", Err(FrameError::ReservedBits)),
            (b"\xE1\x00", Err(FrameError::ReservedBits)),
            (b"\xA1\x00", Err(FrameError::ReservedBits)),
        ] {
            let (mut input, mut joined) = (bytes.to_vec(), Vec::new());
            let found = next_deflated(&mut input, &mut joined)
                .map(|next| next.map(|(frame, len)| (frame.is_deflated, frame.payload, len)));
            assert_eq!(found, expected, "{bytes:02x?}");
            let refused = next(&mut bytes.to_vec(), &mut Vec::new()).is_err();
            assert_eq!(refused, bytes[0] & 0x40 != 0 || bytes[0] & 0x20 != 0, "{bytes:02x?}");
        }
        assert_eq!(whole_text(b"\xC1\x01a"), None, "no text before it is inflated");
    }

    #[test]
    fn a_message_in_fragments_is_one_message() {
        let mut bytes = *b"\x01\x02ab\x00\x00\x00\x01c\x80\x02de";
        for cut in 0..bytes.len() {
            assert_eq!(next(&mut bytes[..cut], &mut Vec::new()), Ok(None), "cut at {cut}");
        }
        let mut joined = b"of an earlier one".to_vec();
        let mut behind = [bytes.as_slice(), b"\x89\x00"].concat();
        let frame = Frame { opcode: Opcode::Text, is_deflated: false, payload: b"abcde" };
        assert_eq!(next(&mut behind, &mut joined), Ok(Some((frame, bytes.len()))));
        let mut endless = Vec::new();
        let part = vec![b'x'; 1 << 20];
        for nth in 0..17 {
            let start = endless.len();
            push_server(Opcode::Text, &part, &mut endless);
            endless[start] = u8::from(nth == 0);
        }
        assert_eq!(next(&mut endless, &mut Vec::new()), Err(FrameError::TooBig), "bounded");
    }

    #[test]
    fn a_control_frame_between_fragments_is_read_before_them_and_does_not_wait() {
        let bytes = b"\x01\x02ab\x89\x01p\x00\x01c\x8A\x01q\x80\x02de";
        // Cut behind the ping, behind the pong, and not at all.
        for (cut, expected) in [
            (6, [].as_slice()),
            (7, &[(Opcode::Ping, b"p".as_slice())]),
            (13, &[(Opcode::Ping, b"p"), (Opcode::Pong, b"q")]),
            (17, &[(Opcode::Ping, b"p"), (Opcode::Pong, b"q"), (Opcode::Text, b"abcde")]),
        ] {
            let (mut input, mut used, mut joined) = (bytes[..cut].to_vec(), 0, Vec::new());
            let mut found = Vec::new();
            while let Some((frame, len)) = next(&mut input[used..], &mut joined).expect("frames") {
                found.push((frame.opcode, frame.payload.to_vec()));
                used += len;
            }
            let expected: Vec<_> =
                expected.iter().map(|(opcode, payload)| (*opcode, payload.to_vec())).collect();
            assert_eq!(found, expected, "cut at {cut}");
            // What is left over goes on with the rest.
            let mut rest = [&input[used..], &bytes[cut..]].concat();
            if cut == 7 {
                let next = next(&mut rest, &mut joined).expect("frames").expect("whole");
                assert_eq!(
                    next.0,
                    Frame { opcode: Opcode::Pong, is_deflated: false, payload: b"q" }
                );
            }
        }
        assert_eq!(
            next(&mut b"\x01\x00\x88\x00".to_vec(), &mut Vec::new())
                .map(|next| { next.map(|(frame, len)| (frame.opcode, len)) }),
            Ok(Some((Opcode::Close, 2)))
        );
    }

    #[test]
    fn a_client_frame_is_masked_and_comes_back() {
        for len in [0_usize, 3, 4, 5, 125, 126, 65_536] {
            let payload = vec![b'x'; len];
            let mut bytes = Vec::new();
            push_client(Opcode::Text, &payload, &mut bytes);
            assert_eq!(bytes[1] & 0x80, 0x80, "the mask bit");
            let body = bytes.len() - len;
            assert_eq!(bytes[body - 4..body], MASK);
            let back: Vec<u8> = bytes[body..]
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(back, payload);
        }
    }
}
