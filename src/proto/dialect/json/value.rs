//! JSON values of strangers: checked whole, kept token for token.

use crate::proto::event::Payload;

/// The deepest nesting of a value, as of the fields of a message.
const DEPTH_MAX: u32 = super::scan::LEVELS_MAX;

/// Takes a valid JSON text as a payload: tokens stay as they are, white space between them goes.
///
/// # Errors
///
/// What the protocol forbids although it is JSON: nesting beyond 64, lone surrogates.
///
/// Where `text` is not JSON at all, the result is some text or some error, and no panic.
pub fn take(text: &[u8]) -> Result<Payload, &'static str> {
    let mut kept = Vec::with_capacity(text.len());
    let mut depth = 0_u32;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'{' | b'[' if depth == DEPTH_MAX => return Err("data is nested deeper than 64"),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let len = string_len(rest)?;
                kept.push(byte);
                kept.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
                continue;
            }
            _ => {}
        }
        kept.push(byte);
    }
    Ok(Payload::Json(kept.into_boxed_slice()))
}

/// As [`take`], of a text that may not be JSON.
///
/// # Errors
///
/// That, and what [`take`] refuses.
pub fn check(text: &[u8]) -> Result<Payload, &'static str> {
    match serde_json::from_slice::<&serde_json::value::RawValue>(text) {
        Ok(value) => take(value.get().as_bytes()),
        Err(_) => Err("data is not JSON"),
    }
}

/// The length of a string behind its first quote, the last one included.
fn string_len(text: &[u8]) -> Result<usize, &'static str> {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) {
        at += found;
        if text[at] == b'"' {
            return Ok(at + 1);
        }
        at += match unit(&text[at..]) {
            Some(0xD800..=0xDBFF) => match unit(&text[at + 6..]) {
                Some(0xDC00..=0xDFFF) => 12,
                Some(_) | None => return Err(LONE),
            },
            Some(0xDC00..=0xDFFF) => return Err(LONE),
            Some(_) => 6,
            None => 2,
        };
        if at > text.len() {
            break;
        }
    }
    Err("a string has no end")
}

const LONE: &str = "data has half of a surrogate pair";

/// The UTF-16 unit of an escape `\uXXXX` at the front.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_and_white_space_goes() {
        let cases = [
            (
                " { \"a b\" : [ 1.0e400 , 9007199254740993 ] } ",
                "{\"a b\":[1.0e400,9007199254740993]}",
            ),
            (r#""\" \\ \ud83d\ude00 \u00e9""#, r#""\" \\ \ud83d\ude00 \u00e9""#),
            ("[1,\n2]", "[1,2]"),
        ];
        for (text, kept) in cases {
            assert_eq!(take(text.as_bytes()), Ok(Payload::Json(kept.as_bytes().into())), "{text}");
        }
    }

    #[test]
    fn what_the_protocol_forbids_is_refused() {
        for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83d\n""#, r#""\ud83d\ud83d""#] {
            assert_eq!(take(text.as_bytes()), Err(LONE), "{text}");
        }
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(take(nested(64).as_bytes()).is_ok());
        assert!(take(nested(65).as_bytes()).is_err());
    }

    #[test]
    fn a_value_may_be_as_deep_as_in_a_message() {
        let nested = |depth| r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
        for (depth, fits) in [(1, true), (64, true), (65, false), (1_000, false)] {
            let data = nested(depth);
            let message = format!(r#"{{"type":"publish","channel":"a","data":{data}}}"#);
            let mut parser = crate::proto::dialect::json::Parser::new();
            assert_eq!(parser.parse(message.as_bytes()).is_ok(), fits, "{depth}");
            assert_eq!(take(data.as_bytes()).is_ok(), fits, "{depth}");
            assert_eq!(check(data.as_bytes()).is_ok(), fits, "{depth}");
        }
    }

    #[test]
    fn a_cut_value_is_no_value() {
        let cases = [
            r#"{"a\"":[1.5e3,true,null],"b":{"c":[]}}"#,
            r#""\ud83d\ude00\n\\\u00e9""#,
            r#"["\ud83d\ude00",{"":"\""}]"#,
        ];
        for text in cases {
            assert!(check(text.as_bytes()).is_ok(), "{text}");
            for cut in 0..text.len() {
                let cut = &text.as_bytes()[..cut];
                assert!(check(cut).is_err(), "{}", String::from_utf8_lossy(cut));
                // No JSON: some result, and no panic.
                drop(take(cut));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..48),
            text in r#"(["\\{}\[\], 1ua]|\\u[dD][89abc][0-9a-f]{2}|\\u[0-9a-f]{0,4}){0,24}"#,
        ) {
            drop(take(&bytes));
            drop(take(text.as_bytes()));
            proptest::prop_assert!(check(&bytes).is_err() || take(&bytes).is_ok());
            proptest::prop_assert!(check(text.as_bytes()).is_err() || take(text.as_bytes()).is_ok());
        }
    }
}
