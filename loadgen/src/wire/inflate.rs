//! permessage-deflate (RFC 7692) from the client's side: inflates messages that each stand for
//! themselves, which is what this program offers.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use crate::wire::frame::PAYLOAD_BYTES_MAX;

/// What the extension takes off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// Messages that are remembered. A gateway sends the same bytes to every subscriber, and equal bytes
/// are equal text: a comparison is a hundredth of what inflating costs.
const KEPT: usize = 4;
/// So much is set free at a time for text that grows.
const STEP_BYTES: usize = 64 << 10;

/// A message that was inflated.
#[derive(Debug, Default)]
struct Message {
    packed: Vec<u8>,
    text: Vec<u8>,
}

/// Inflates the messages of one thread. Its state is kept, for it is 40 KiB.
#[derive(Debug)]
pub(crate) struct Inflate {
    state: Decompress,
    kept: [Message; KEPT],
    /// The one that goes next.
    oldest: usize,
    bytes_max: usize,
}

/// Why a message is not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// It is no deflate stream, or one that does not end with the message.
    Corrupt,
    /// Its text is larger than the largest message that is read.
    TooBig,
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corrupt => "a compressed message that is no deflate stream",
            Self::TooBig => "a compressed message of more than 16 MiB",
        })
    }
}

impl Inflate {
    pub(crate) fn new() -> Self {
        Self::bounded(PAYLOAD_BYTES_MAX)
    }

    fn bounded(bytes_max: usize) -> Self {
        let kept = std::array::from_fn(|_| Message::default());
        Self { state: Decompress::new(false), kept, oldest: 0, bytes_max }
    }

    /// The text of a message.
    pub(crate) fn text(&mut self, packed: &[u8]) -> Result<&[u8], InflateError> {
        let known = self.kept.iter().position(|message| message.packed == packed);
        let at = match known.filter(|_| !packed.is_empty()) {
            Some(at) => at,
            None => self.inflate(packed)?,
        };
        Ok(&self.kept[at].text)
    }

    /// Inflates a message into the place of the oldest, and says where that is.
    #[cold]
    fn inflate(&mut self, packed: &[u8]) -> Result<usize, InflateError> {
        let at = self.oldest;
        self.oldest = (at + 1) % KEPT;
        let Message { packed: known, text } = &mut self.kept[at];
        known.clear();
        text.clear();
        self.state.reset(false);
        for part in [packed, &TAIL] {
            if feed(&mut self.state, part, text, self.bytes_max)? {
                break;
            }
        }
        known.extend_from_slice(packed);
        Ok(at)
    }
}

/// Inflates a part of a message; true when its stream has ended by itself.
fn feed(
    state: &mut Decompress,
    part: &[u8],
    text: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<bool, InflateError> {
    let mut used = 0;
    loop {
        // One byte more than may be, so that it shows.
        let room = (bytes_max + 1).saturating_sub(text.len()).min(STEP_BYTES);
        text.reserve(room);
        let (taken, made) = (state.total_in(), text.len());
        let status = state.decompress_vec(&part[used..], text, FlushDecompress::None);
        let status = status.map_err(|_| InflateError::Corrupt)?;
        if text.len() > bytes_max {
            return Err(InflateError::TooBig);
        }
        let taken = usize::try_from(state.total_in() - taken).unwrap_or(usize::MAX);
        used = used.saturating_add(taken);
        if status == Status::StreamEnd {
            // Nothing may stand behind it but what was taken off.
            return if used < part.len() && part != TAIL {
                Err(InflateError::Corrupt)
            } else {
                Ok(true)
            };
        }
        let is_full = text.len() == text.capacity();
        if used >= part.len() && !is_full {
            return Ok(false);
        }
        if taken == 0 && text.len() == made && !is_full {
            return Err(InflateError::Corrupt);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::DeflateEncoder;
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A message as a server sends it.
    fn pack(text: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(text.len() + 1_000);
        let mut state = Compress::new(Compression::fast(), false);
        state.compress_vec(text, &mut packed, FlushCompress::Sync).expect("memory");
        // A flush ends with an empty block, whose last four bytes are not sent.
        assert!(packed.ends_with(&TAIL));
        packed.truncate(packed.len() - TAIL.len());
        packed
    }

    #[test]
    fn a_message_comes_back_again_and_again() {
        let mut inflate = Inflate::new();
        for round in 0..3_u32 {
            for size in [0, 1, 100, 65_535, 65_536, 65_537, 1 << 20] {
                let text: Vec<u8> = (0..size)
                    .map(|n: u32| (n.wrapping_mul(n + round) % 251).to_le_bytes()[0])
                    .collect();
                let packed = pack(&text);
                assert_eq!(inflate.text(&packed), Ok(text.as_slice()), "{size} bytes");
                assert_eq!(inflate.text(&packed), Ok(text.as_slice()), "{size} bytes, known");
            }
        }
    }

    #[test]
    fn equal_bytes_are_inflated_once_and_no_others_are_taken_for_them() {
        let mut inflate = Inflate::new();
        let all: Vec<_> = (0..9).map(|n| pack(format!("text {n}").repeat(50).as_bytes())).collect();
        for packed in all.iter().chain(&all) {
            let before = inflate.oldest;
            let text = inflate.text(packed).expect("deflate").to_vec();
            assert_ne!(inflate.oldest, before, "more than are kept");
            assert_eq!(pack(&text), *packed);
            let oldest = inflate.oldest;
            assert_eq!(inflate.text(packed), Ok(text.as_slice()));
            assert_eq!(inflate.oldest, oldest, "known");
        }
    }

    #[test]
    fn a_stream_may_end_by_itself() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"the end").expect("memory");
        let mut packed = encoder.finish().expect("memory");
        let mut inflate = Inflate::new();
        assert_eq!(inflate.text(&packed), Ok(b"the end".as_slice()));
        packed.push(b'x');
        assert_eq!(inflate.text(&packed), Err(InflateError::Corrupt), "and nothing behind it");
    }

    #[test]
    fn what_is_no_stream_or_too_large_is_refused_and_forgotten() {
        let mut inflate = Inflate::bounded(1 << 20);
        let bomb = pack(&vec![b'x'; (1 << 20) + 1]);
        for _ in 0..2 {
            assert_eq!(inflate.text(&bomb), Err(InflateError::TooBig));
            assert_eq!(inflate.text(b"\xFF\xFF\xFF"), Err(InflateError::Corrupt));
        }
        assert!(inflate.kept.iter().all(|message| message.text.capacity() <= 3 << 20));
        let whole = pack(&vec![b'x'; 1 << 20]);
        assert_eq!(inflate.text(&whole).map(<[u8]>::len), Ok(1 << 20));
        let cut = pack(&(0..9_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        assert_eq!(inflate.text(&cut[..cut.len() / 2]), Err(InflateError::Corrupt), "cut short");
    }
}
