//! gzip in one shot, both ways: one member, nothing behind it, never more than asked for.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

/// Why a gzip stream was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GzipError {
    /// Not gzip, damaged, cut off, or followed by something.
    #[error("the gzip stream is damaged, or not one whole member")]
    Corrupt,
    /// More comes out than the limit.
    #[error("the gzip stream holds too much")]
    TooBig,
}

/// One member around `bytes`, at a level of 0 to 9. Equal input gives equal output.
pub fn compress(bytes: &[u8], level: u32) -> Vec<u8> {
    let room = Vec::with_capacity(bytes.len() / 2 + 64);
    let mut encoder = GzEncoder::new(room, Compression::new(level.min(9)));
    let done = encoder.write_all(bytes).and_then(|()| encoder.try_finish());
    debug_assert!(done.is_ok(), "a vector takes everything");
    encoder.finish().unwrap_or_default()
}

/// How many bytes a stream says that it holds, modulo 2^32. One that holds another number is
/// corrupt.
pub fn says(stream: &[u8]) -> usize {
    let bytes = stream.last_chunk().copied().map_or(0, u32::from_le_bytes);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What the one member of `stream` holds, at most `max` bytes.
///
/// # Errors
///
/// [`GzipError`]; the memory taken stays near `max` whatever the stream says, and no more than it
/// [says](says) is inflated.
pub fn decompress(stream: &[u8], max: usize) -> Result<Vec<u8>, GzipError> {
    let max = max.min(u32::MAX as usize);
    let most = max.min(says(stream));
    let mut decoder = GzDecoder::new(stream);
    let mut bytes = Vec::with_capacity(stream.len().saturating_mul(3).min(most));
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let read = decoder.by_ref().take(limit).read_to_end(&mut bytes);
    if bytes.len() > most {
        return Err(if most < max { GzipError::Corrupt } else { GzipError::TooBig });
    }
    match read {
        Ok(_) if decoder.into_inner().is_empty() => Ok(bytes),
        Ok(_) | Err(_) => Err(GzipError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bomb_is_refused_within_its_limit() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..256 {
            encoder.write_all(&zeros).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 300_000);
        assert_eq!(decompress(&bomb, 64 * 1024), Err(GzipError::TooBig));
    }

    #[test]
    fn a_stream_that_holds_more_than_it_says_is_not_inflated_further() {
        let mut stream = compress(&[b' '; 100_000], 9);
        let end = stream.len() - 4;
        for (says, max, wanted) in [
            (1_u32, 1_000_000, GzipError::Corrupt),
            (99_999, 100_000, GzipError::Corrupt),
            (100_001, 100_000, GzipError::Corrupt),
            (1, 1, GzipError::TooBig),
            (100_000, 99_999, GzipError::TooBig),
        ] {
            stream[end..].copy_from_slice(&says.to_le_bytes());
            assert_eq!(decompress(&stream, max), Err(wanted), "{says} of {max}");
        }
    }

    #[test]
    fn only_one_whole_member_is_taken() {
        let stream = compress(b"{\"a\":1}", 6);
        assert_eq!(decompress(&stream, 7), Ok(b"{\"a\":1}".to_vec()));
        assert_eq!(decompress(&stream, 6), Err(GzipError::TooBig));
        for end in 0..stream.len() {
            assert_eq!(decompress(&stream[..end], 100), Err(GzipError::Corrupt), "cut at {end}");
        }
        for tail in [&b"\0"[..], b"x", &stream] {
            let longer = [&stream, tail].concat();
            assert_eq!(decompress(&longer, 100), Err(GzipError::Corrupt), "{tail:x?}");
        }
        assert_eq!(decompress(b"{\"a\":1}", 100), Err(GzipError::Corrupt));
    }

    proptest! {
        #[test]
        fn bytes_round_trip(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            level in 0..=9_u32,
        ) {
            let stream = compress(&bytes, level);
            prop_assert_eq!(decompress(&stream, bytes.len()), Ok(bytes));
        }

        #[test]
        fn damage_never_panics_and_is_never_taken_for_the_original(
            bytes in prop::collection::vec(any::<u8>(), 1..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut stream = compress(&bytes, 6);
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            // Time and system of the head and the bits behind the last block mean nothing.
            if let Ok(read) = decompress(&stream, 10_000) {
                prop_assert_eq!(read, bytes);
            }
        }
    }
}
