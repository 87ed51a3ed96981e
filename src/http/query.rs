//! Percent encoding and queries.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::answer::Refusal;

/// Checks that every `%` stands before two hexadecimal digits.
pub(super) fn check(text: &str) -> Result<(), Refusal> {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = &rest[at + 1..];
        if rest.len() < 2 || !rest[..2].iter().all(u8::is_ascii_hexdigit) {
            return Err(Refusal::bad("in the URL, % stands before two hexadecimal digits"));
        }
    }
    Ok(())
}

/// Decodes a checked part of a path.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_err(|_| Refusal::bad("the URL is not UTF-8 behind its percent encoding"))
}

/// The value of `name` in a query, decoded; the first where there are several.
pub(super) fn value(query: Option<&str>, name: &str) -> Result<Option<String>, Refusal> {
    values(query, name).next().transpose()
}

/// Every value of `name` in a query, decoded.
pub(super) fn values<'a>(
    query: Option<&'a str>,
    name: &'a str,
) -> impl Iterator<Item = Result<String, Refusal>> + 'a {
    query.unwrap_or_default().split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| Ok(decode(&value.replace('+', "%20"))?.into_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_bad_ones_named() {
        let query = Some("a=1&prefix=room%3A+x&prefix=no&empty");
        assert_eq!(value(query, "prefix").unwrap().as_deref(), Some("room: x"));
        assert_eq!(value(query, "empty").unwrap().as_deref(), Some(""));
        assert_eq!(value(query, "other").unwrap(), None);
        assert!(value(Some("a=%ff"), "a").is_err());
        for bad in ["%", "/a%4", "%zz", "a%%20"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("/a%20b%3A").is_ok());
    }
}
