//! Splits a text frame into messages.

use super::scan;

/// The messages of one text frame.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    /// What was not handed out yet.
    rest: &'a [u8],
    /// Whether `rest` is one message, line breaks and all.
    whole: bool,
}

/// Splits a text frame: one JSON value is one message; otherwise each line is one, and lines with
/// nothing but white space are skipped.
///
/// Costs a search for `\n` in the usual frame. With line breaks it reads the frame once, or up to
/// the end of its first value.
pub fn messages(frame: &[u8]) -> Messages<'_> {
    let end = frame.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    let rest = &frame[..end];
    let whole = memchr::memchr(b'\n', rest).is_none() || scan::is_json(rest);
    Messages { rest, whole }
}

/// White space as JSON has it: not what else ASCII calls so, such as a form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let end = if self.whole { None } else { memchr::memchr(b'\n', self.rest) };
            let (line, rest) = match end {
                Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
                None => (self.rest, &self.rest[..0]),
            };
            self.rest = rest;
            if !line.iter().copied().all(is_space) {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(frame: &str) -> Vec<&str> {
        messages(frame.as_bytes()).map(|line| std::str::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn a_frame_is_one_value_or_lines() {
        let cases: [(&str, &[&str]); 13] = [
            (r#"{"a":1}"#, &[r#"{"a":1}"#]),
            ("{\"a\":1}\r\n\n", &[r#"{"a":1}"#]),
            ("{\n\"a\"\n:1\n}", &["{\n\"a\"\n:1\n}"]),
            ("\n{\n}\n", &["\n{\n}"]),
            ("{}\n{}", &["{}", "{}"]),
            ("{}\n\n \r\n{}\n", &["{}", "{}"]),
            ("{}\n{", &["{}", "{"]),
            ("{\n}\n{}", &["{", "}", "{}"]),
            ("", &[]),
            (" \n\n", &[]),
            ("not json", &["not json"]),
            ("{}\u{c}", &["{}\u{c}"]),
            ("{}\n\u{c}\n{}", &["{}", "\u{c}", "{}"]),
        ];
        for (frame, lines) in cases {
            assert_eq!(split(frame), lines, "{frame:?}");
        }
    }

    #[test]
    fn a_deep_value_with_line_breaks_is_one_message() {
        let deep = format!("{}\n{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(split(&deep).len(), 1);
        let mixed = format!("{}\n1{}", r#"{"a":["#.repeat(500), "]}".repeat(500));
        assert_eq!(split(&mixed).len(), 1);
        assert_eq!(split(&"[\n".repeat(1_000)).len(), 1_000);
    }
}
