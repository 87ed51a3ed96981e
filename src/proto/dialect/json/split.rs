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

impl<'a> Messages<'a> {
    /// The rest of a text frame of which messages were handed out: then it is lines, whatever they
    /// would be by themselves.
    pub fn lines(rest: &'a [u8]) -> Self {
        Self { rest, whole: false }
    }

    /// Whether the frame is one message, line breaks and all.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What was not handed out yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether the next line, or the one message, has more than `bytes`. Looks no further.
    pub fn is_longer_than(&self, bytes: usize) -> bool {
        match self.rest.get(..=bytes) {
            Some(front) => self.whole || memchr::memchr(b'\n', front).is_none(),
            None => false,
        }
    }

    /// The next line, or the one message, also where it is nothing but white space.
    pub fn line(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = if self.whole { None } else { memchr::memchr(b'\n', self.rest) };
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &self.rest[..0]),
        };
        self.rest = rest;
        Some(line)
    }
}

/// Whether a line is no message.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().copied().all(is_space)
}

/// White space as JSON has it: not what else ASCII calls so, such as a form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let line = self.line()?;
            if !is_blank(line) {
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
    fn a_rest_is_lines_and_how_long_the_next_is_can_be_asked() {
        let mut messages = messages(b"{}\n\n{\n}");
        assert!(!messages.is_whole() && messages.line() == Some(b"{}"));
        let mut rest = Messages::lines(messages.rest());
        assert!(!rest.is_longer_than(0) && rest.line() == Some(b""));
        assert!(!rest.is_longer_than(1) && rest.is_longer_than(0));
        assert_eq!(rest.collect::<Vec<_>>(), [b"{", b"}"]);
        let whole = super::messages(b"{\n} ");
        assert!(whole.is_whole() && whole.is_longer_than(2) && !whole.is_longer_than(3));
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
