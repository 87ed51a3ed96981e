//! Finds where the plain part of a string ends.

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// How many bytes at the front of `text` stand for themselves in a string: everything before the
/// first quote, backslash or control character.
#[inline(always)]
pub(super) fn plain(text: &[u8]) -> usize {
    // Most strings are names of a few bytes: one word finds their end.
    match text.first_chunk::<8>().map(special_in) {
        Some(at @ 0..8) => at,
        Some(_) | None => plain_long(text),
    }
}

fn plain_long(text: &[u8]) -> usize {
    let mut at = 0;
    // Written so that the compiler makes one vector comparison of it.
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
        if chunk.iter().fold(false, |found, &byte| found | is_special(byte)) {
            break;
        }
        at += 32;
    }
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = special_in(chunk);
        at += found;
        if found < 8 {
            return at;
        }
    }
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len())
}

/// The place of the first special byte; 8 without one.
#[inline(always)]
fn special_in(chunk: &[u8; 8]) -> usize {
    let word = u64::from_le_bytes(*chunk);
    // The lowest high bit set is exact; those above it may be borrows.
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found = quote.wrapping_sub(ONES) & !quote
        | backslash.wrapping_sub(ONES) & !backslash
        | word.wrapping_sub(ONES * 0x20) & !word;
    (found & HIGHS).trailing_zeros() as usize / 8
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_byte_is_found_at_every_place() {
        for len in 0..80 {
            let text = vec![b'x'; len];
            assert_eq!(plain(&text), len);
            for (at, byte) in (0..len).flat_map(|at| (0..=255_u8).map(move |byte| (at, byte))) {
                let mut text = text.clone();
                text[at] = byte;
                assert_eq!(plain(&text), if is_special(byte) { at } else { len }, "{byte} at {at}");
            }
        }
    }
}
