//! JSON strings: writing them with escapes, and reading escapes back.

use super::plain::plain;

/// Writes `text` as a JSON string, with its quotes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (same, special) = rest.split_at(plain(rest));
        out.extend_from_slice(same);
        let Some((&byte, after)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = after;
    }
    out.push(b'"');
}

/// Decodes a checked string (what stands between its quotes) into the front of `room`, and takes
/// that part off `room`.
///
/// A decoded string is never longer than its raw text. `None` when `room` is too short or the
/// string was not checked.
pub(super) fn unescape<'r>(raw: &[u8], room: &mut &'r mut [u8]) -> Option<&'r str> {
    let mut len = 0;
    let mut rest = raw;
    let mut put = |bytes: &[u8]| {
        room.get_mut(len..len + bytes.len())?.copy_from_slice(bytes);
        len += bytes.len();
        Some(())
    };
    while let Some(at) = memchr::memchr(b'\\', rest) {
        put(&rest[..at])?;
        let (&escape, after) = rest.get(at + 1..)?.split_first()?;
        rest = after;
        let byte = match escape {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (letter, after) = code_point(rest)?;
                rest = after;
                put(letter.encode_utf8(&mut [0; 4]).as_bytes())?;
                continue;
            }
            itself => itself,
        };
        put(&[byte])?;
    }
    put(rest)?;
    let (text, left) = std::mem::take(room).split_at_mut(len);
    *room = left;
    std::str::from_utf8(text).ok()
}

/// The character that the digits behind `\u` stand for, with a second `\u` if they are the first
/// half of a pair.
fn code_point(text: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = unit(text)?;
    if !(0xD800..=0xDBFF).contains(&high) {
        return Some((char::from_u32(high)?, rest));
    }
    let (low, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xDC00)?;
    Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?, rest))
}

fn unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_survives_writing_and_reading(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
            let mut room = vec![0; out.len()];
            let back = unescape(&out[1..out.len() - 1], &mut room.as_mut_slice());
            prop_assert_eq!(back, Some(text.as_str()));
        }
    }

    #[test]
    fn every_escape_is_read() {
        let raw = r#"a\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00z"#;
        let mut room = [0; 64];
        let mut free = room.as_mut_slice();
        let text = unescape(raw.as_bytes(), &mut free);
        assert_eq!(text, Some("a\"\\/\u{8}\u{c}\n\r\tA\u{e9}\u{1f600}z"));
        assert_eq!(unescape(b"b\\u0062", &mut free), Some("bb"));
        assert_eq!(unescape(b"too long", &mut [0; 3].as_mut_slice()), None);
    }
}
