//! Text that arrives in pieces: checked block by block, refused at the first byte that is wrong.

use super::error::ProtocolError;
use super::mask::unmask_ascii;

/// What is unmasked, moved and checked at once, so that each step finds it in the nearest cache. A
/// whole number of masks.
pub(super) const BLOCK_BYTES: usize = 8 * 1024;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(4));

/// Checks `fresh`, text behind whole characters. Returns how much of it is whole characters too:
/// all of it if it `ends` the text, else its last character may be cut.
///
/// # Errors
///
/// `fresh` is no text, whatever follows.
pub(super) fn check_front(fresh: &[u8], ends: bool) -> Result<usize, ProtocolError> {
    let cut = if ends { fresh.len() } else { last_start(fresh) };
    let (front, last) = fresh.split_at(cut);
    if simdutf8::basic::from_utf8(front).is_err() {
        return Err(ProtocolError::Utf8);
    }
    match std::str::from_utf8(last) {
        Ok(_) => Ok(fresh.len()),
        Err(cut) if cut.error_len().is_none() => Ok(front.len()),
        Err(_) => Err(ProtocolError::Utf8),
    }
}

/// Unmasks a whole text in place and checks it.
///
/// # Errors
///
/// It is no text.
pub(super) fn unmask_text(text: &mut [u8], mask: [u8; 4]) -> Result<(), ProtocolError> {
    let (mut checked, mut end) = (0, 0);
    while end < text.len() {
        let start = end;
        end = text.len().min(start + BLOCK_BYTES);
        let ascii = unmask_ascii(text.get_mut(start..end).unwrap_or_default(), mask);
        if ascii && checked == start {
            checked = end;
            continue;
        }
        let fresh = text.get(checked..end).unwrap_or_default();
        checked += check_front(fresh, end == text.len())?;
    }
    Ok(())
}

/// Where the last character starts. The end if that is more than a character away: such text is
/// wrong before it.
fn last_start(text: &[u8]) -> usize {
    let near = text.len().saturating_sub(4);
    let starts = |byte: &u8| byte & 0xC0 != 0x80;
    let last = text.get(near..).unwrap_or_default().iter().rposition(starts);
    last.map_or(text.len(), |at| near + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is cut from the end may be the first bytes of a character, a whole one, or none.
    const PIECES: [&[u8]; 9] = [
        b"a",
        "\u{7FF}".as_bytes(),
        "\u{20AC}".as_bytes(),
        "\u{10FFFF}".as_bytes(),
        b"plain ASCII, as most text is, longer than one vector of 32 bytes",
        // A continuation without a beginning, a surrogate, an overlong form, and what no text has.
        b"\x80",
        b"\xED\xA0\x80",
        b"\xC0\xAF",
        b"\xFF",
    ];

    /// Against the standard library's, at each length and alignment, in memory that ends where the
    /// text does: what is read beyond it is seen by Miri and valgrind.
    #[test]
    fn the_vectors_find_what_the_standard_library_finds() {
        let mut rng = fastrand::Rng::with_seed(3);
        let step = if cfg!(miri) { 37 } else { 1 };
        let (mut good, mut bad) = (0, 0);
        for len in 0..=300 {
            for start in (len % step..64).step_by(step) {
                let kinds = if rng.bool() { 5 } else { PIECES.len() };
                let mut text = vec![b'a'; start];
                while text.len() < start + len {
                    let kind = if rng.u8(..8) == 0 { rng.usize(..kinds) } else { rng.usize(..5) };
                    text.extend_from_slice(PIECES[kind]);
                }
                text.truncate(start + len);
                let text: Box<[u8]> = text.into();
                let fresh = &text[start..];
                let known = std::str::from_utf8(fresh);
                assert_eq!(simdutf8::basic::from_utf8(fresh).is_ok(), known.is_ok(), "{fresh:x?}");
                assert_eq!(check_front(fresh, true).ok(), known.is_ok().then_some(len));
                let begun = match known {
                    Ok(_) => Some(len),
                    Err(cut) if cut.error_len().is_none() => Some(cut.valid_up_to()),
                    Err(_) => None,
                };
                assert_eq!(check_front(fresh, false).ok(), begun, "{fresh:x?}");
                (good, bad) =
                    (good + usize::from(known.is_ok()), bad + usize::from(known.is_err()));
            }
        }
        assert!(good > 100 && bad > 100, "{good} and {bad}");
    }
}
