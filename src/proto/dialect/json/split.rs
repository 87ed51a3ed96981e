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
    let rest = frame.trim_ascii_end();
    let whole = memchr::memchr(b'\n', rest).is_none() || scan::is_json(rest);
    Messages { rest, whole }
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
            if !line.trim_ascii().is_empty() {
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
        let cases: [(&str, &[&str]); 11] = [
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
