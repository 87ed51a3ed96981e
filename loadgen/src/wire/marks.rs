//! Finds what the generator needs in a server's text without parsing it: Weir writes `type` first
//! and `data` last, so an event's channel, offset and due time stand at known marks.

use std::borrow::Cow;

use memchr::memmem::Finder;
use serde::Deserialize;

const EVENT: &[u8] = b"{\"type\":\"event\",\"channel\":\"";
const PUBLISHED: &[u8] = b"{\"type\":\"published\",\"id\":";
const EPOCH: &[u8] = b"\"epoch\":\"";
const OFFSET: &[u8] = b"\",\"offset\":";
const DATA: &[u8] = b",\"data\":";
const TS: &[u8] = b"\"ts";
const DUE: &[u8] = b"\"ts\":";
const DUE_FIRST: &[u8; 6] = b"{\"ts\":";
const TIME: &[u8; 6] = b",\"ts\":";
const KEY: &[u8] = b",\"key\":\"";
const SNAPSHOT: &[u8] = b",\"snapshot\":true";

/// How far into `data` the due time is looked for.
const DUE_WITHIN: usize = 256;

/// An event's frame, as far as it was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) channel: &'a [u8],
    /// The offset and what stands behind it.
    rest: &'a [u8],
}

impl Event<'_> {
    /// The offset, read only where somebody asks; 0, which no event has, where it is no number.
    pub(crate) fn offset(&self) -> u64 {
        number(self.rest).map_or(0, |(offset, _)| offset)
    }

    /// Where the offset stands in the text that the event was found in.
    pub(crate) fn offset_at(&self, text: &[u8]) -> usize {
        text.len().saturating_sub(self.rest.len())
    }
}

/// The marks of an event in any server's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) due: u64,
    /// The event's number in its channel, from 1.
    pub(crate) seq: u64,
    /// The channel's number, where the payload says it.
    pub(crate) channel: Option<u64>,
}

/// Everything that is no event, read as JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct Push<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    pub(crate) id: Option<u64>,
    #[serde(borrow)]
    pub(crate) channel: Option<Cow<'a, str>>,
    pub(crate) offset: Option<u64>,
    #[serde(borrow)]
    pub(crate) epoch: Option<Cow<'a, str>>,
    pub(crate) recovered: Option<bool>,
    /// What binary frames call the channel.
    pub(crate) alias: Option<u64>,
    #[serde(default)]
    pub(crate) updated: bool,
    #[serde(default)]
    pub(crate) pattern: bool,
    /// A number in `disconnect`, a name in `error`.
    pub(crate) code: Option<serde_json::Value>,
    pub(crate) from: Option<serde_json::Value>,
    pub(crate) to: Option<u64>,
    pub(crate) dropped: Option<u64>,
    #[serde(borrow)]
    pub(crate) message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) reason: Option<Cow<'a, str>>,
}

/// The searchers, built once per thread.
#[derive(Debug)]
pub(crate) struct Marks {
    ts: Finder<'static>,
    data: Finder<'static>,
    due: Finder<'static>,
    key: Finder<'static>,
}

impl Marks {
    pub(crate) fn new() -> Self {
        Self {
            ts: Finder::new(TS),
            data: Finder::new(DATA),
            due: Finder::new(DUE),
            key: Finder::new(KEY),
        }
    }

    /// When the event was due, as its publisher wrote into `data`.
    pub(crate) fn due(&self, event: &Event<'_>) -> Option<u64> {
        self.due_behind(event.rest)
    }

    /// The same, from the event's offset and what follows.
    pub(crate) fn due_behind(&self, rest: &[u8]) -> Option<u64> {
        self.due_in(&rest[self.data.find(rest)? + DATA.len()..])
    }

    /// The same, from the event's data.
    pub(crate) fn due_in(&self, data: &[u8]) -> Option<u64> {
        let data = &data[..data.len().min(DUE_WITHIN)];
        let digits = &data[self.due.find(data)? + DUE.len()..];
        number(digits).map(|(due, _)| due)
    }

    /// The next event in a message of any server: `"ts":N,"seq":N`, and `"ch":N` behind it, also
    /// with the quotes escaped; and what follows.
    pub(crate) fn foreign<'a>(&self, text: &'a [u8]) -> Option<(Marked, &'a [u8])> {
        let mut rest = text;
        loop {
            rest = &rest[self.ts.find(rest)? + TS.len()..];
            let Some((due, behind)) = value(rest) else { continue };
            let Some((seq, behind)) = field(behind, b"seq") else { continue };
            let channel = field(behind, b"ch");
            let marked = Marked { due, seq, channel: channel.map(|(number, _)| number) };
            return Some((marked, channel.map_or(behind, |(_, behind)| behind)));
        }
    }

    /// Whether the event is a latest value shown again, not a live event.
    pub(crate) fn is_snapshot(&self, event: &Event<'_>) -> bool {
        // Weir writes it last: every event is asked, and most have nothing of it.
        self.head(event).ends_with(SNAPSHOT)
    }

    /// The event's key as it is written, with what is escaped in it.
    pub(crate) fn key<'a>(&self, event: &Event<'a>) -> Option<&'a [u8]> {
        let head = self.head(event);
        let key = &head[self.key.find(head)? + KEY.len()..];
        let mut is_escaped = false;
        let end = key.iter().position(|byte| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        })?;
        Some(&key[..end])
    }

    /// What stands before `data`.
    fn head<'a>(&self, event: &Event<'a>) -> &'a [u8] {
        self.data.find(event.rest).map_or(event.rest, |end| &event.rest[..end])
    }
}

/// The event in `text`; `None` when it is something else.
pub(crate) fn event(text: &[u8]) -> Option<Event<'_>> {
    let text = text.strip_prefix(EVENT)?;
    let end = memchr::memchr(b'"', text)?;
    let (channel, rest) = text.split_at(end);
    let rest = rest.strip_prefix(OFFSET)?;
    rest.first().is_some_and(u8::is_ascii_digit).then_some(Event { channel, rest })
}

/// The offset and the data of an event that has nothing but a time between the two; `None` when it
/// must be looked at more closely. `rest` is the offset and what follows.
#[inline]
pub(crate) fn plain(rest: &[u8]) -> Option<(u64, &[u8])> {
    let (offset, rest) = number(rest)?;
    let (_, rest) = number(rest.strip_prefix(TIME)?)?;
    Some((offset, rest.strip_prefix(DATA)?))
}

/// When the event was due, where its data begins with it.
#[inline]
pub(crate) fn due_first(data: &[u8]) -> Option<u64> {
    number(data.strip_prefix(DUE_FIRST)?).map(|(due, _)| due)
}

/// The number of the field `name`, which is the next one.
fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<(u64, &'a [u8])> {
    let text = text.strip_prefix(b",")?;
    let text = text.strip_prefix(b"\\").unwrap_or(text).strip_prefix(b"\"")?;
    value(text.strip_prefix(name)?)
}

/// The number behind a field's name.
fn value(text: &[u8]) -> Option<(u64, &[u8])> {
    number(text.strip_prefix(b"\\").unwrap_or(text).strip_prefix(b"\":")?)
}

/// The id, the epoch and the offset of a `published` answer; `None` when it is something else.
pub(crate) fn published(text: &[u8]) -> Option<(u64, &str, u64)> {
    let (id, rest) = number(text.strip_prefix(PUBLISHED)?)?;
    let at = memchr::memmem::find(rest, OFFSET)?;
    let (offset, _) = number(&rest[at + OFFSET.len()..])?;
    let epoch = memchr::memmem::rfind(&rest[..at], EPOCH).map(|start| start + EPOCH.len());
    let epoch = epoch.map_or(b"".as_slice(), |start| &rest[start..at]);
    Some((id, std::str::from_utf8(epoch).ok()?, offset))
}

/// Digits that fit into 64 bits whatever they are.
const FITS: usize = 19;

/// The decimal number at the front, and what follows it.
#[inline]
pub(crate) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut value, mut read) = (0_u64, 0);
    // Eight digits at once, for as long as that cannot be too many.
    while read + 8 < FITS
        && let Some(word) = text.get(read..).and_then(<[u8]>::first_chunk)
    {
        let (digits, front) = front(u64::from_le_bytes(*word));
        value = value * POWERS[digits] + front;
        read += digits;
        if digits < 8 {
            return (read > 0).then(|| (value, &text[read..]));
        }
    }
    while let Some(digit) = text.get(read).filter(|byte| byte.is_ascii_digit()) {
        let digit = u64::from(digit - b'0');
        value = match read {
            ..FITS => value * 10 + digit,
            _ => value.checked_mul(10)?.checked_add(digit)?,
        };
        read += 1;
    }
    (read > 0).then(|| (value, &text[read..]))
}

const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// How many of eight characters are digits before the first that is none, and their number. The
/// first character is the lowest byte.
#[inline]
fn front(word: u64) -> (usize, u64) {
    let values = word ^ 0x3030_3030_3030_3030;
    // The high bit of each byte above 9. What carries over comes from such a byte, behind which
    // nothing is looked at.
    let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
    let bits = others.trailing_zeros() & !7;
    // The digits go to the end, and zeros before them.
    let values = values.checked_shl(64 - bits).unwrap_or(0);
    // Pairs, then fours, then all eight.
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    ((bits / 8) as usize, low.wrapping_add(high) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = br#"{"type":"event","channel":"load:7","offset":58,"ts":1732153200123,"data":{"ts":42,"fill":"x"}}"#;

    #[test]
    fn an_event_is_found_by_its_marks() {
        let marks = Marks::new();
        let event = event(TEXT).expect("an event");
        assert_eq!((event.channel, event.offset()), (b"load:7".as_slice(), 58));
        assert_eq!(marks.due(&event), Some(42), "the publisher's mark, not the server's");
        assert!(!marks.is_snapshot(&event));
    }

    #[test]
    fn an_acknowledgement_is_found_by_its_marks() {
        let text = br#"{"type":"published","id":3,"channel":"a","epoch":"k3Zq","offset":58}"#;
        assert_eq!(published(text), Some((3, "k3Zq", 58)));
        let bare = br#"{"type":"published","id":3,"channel":"a","offset":58}"#;
        assert_eq!(published(bare), Some((3, "", 58)));
        for cut in 0..text.len() - 3 {
            assert_eq!(published(&text[..cut]), None, "cut at {cut}");
        }
        assert_eq!(published(TEXT), None);
    }

    #[test]
    fn marks_are_found_in_any_message_and_as_often_as_they_stand_there() {
        let marks = Marks::new();
        let text = br#"{"ts":5,"pub":{"ts":42,"seq":7,"ch":3,"fill":""}} {\"ts\":43,\"seq\":8}"#;
        let (first, rest) = marks.foreign(text).expect("the first");
        assert_eq!(first, Marked { due: 42, seq: 7, channel: Some(3) });
        let (second, rest) = marks.foreign(rest).expect("the second");
        assert_eq!(second, Marked { due: 43, seq: 8, channel: None });
        assert_eq!(marks.foreign(rest), None);
        for cut in 0..text.len() {
            let mut rest = &text[..cut];
            while let Some((_, behind)) = marks.foreign(rest) {
                rest = behind;
            }
        }
    }

    #[test]
    fn a_snapshot_is_told_by_the_envelope_and_not_by_the_payload() {
        let marks = Marks::new();
        let shown = br#"{"type":"event","channel":"a","offset":1,"snapshot":true,"data":1}"#;
        assert!(marks.is_snapshot(&event(shown).expect("an event")));
        let lie = br#"{"type":"event","channel":"a","offset":1,"data":{"snapshot":true}}"#;
        assert!(!marks.is_snapshot(&event(lie).expect("an event")));
    }

    #[test]
    fn a_key_is_found_in_the_envelope_and_with_what_is_escaped() {
        let marks = Marks::new();
        for (head, key) in [
            (r#","key":"cpu0""#, Some(r"cpu0")),
            (r#","key":"a\"","from":1"#, Some(r#"a\""#)),
            (r#","key":"a\",\"b""#, Some(r#"a\",\"b"#)),
            ("", None),
        ] {
            let text = format!(
                r#"{{"type":"event","channel":"a","offset":1{head},"data":{{"x":1,"key":"no"}}}}"#
            );
            let event = event(text.as_bytes()).expect("an event");
            assert_eq!(marks.key(&event), key.map(str::as_bytes), "{head}");
        }
    }

    #[test]
    fn cut_or_strange_text_is_no_event_and_no_panic() {
        let marks = Marks::new();
        for cut in 0..TEXT.len() {
            if let Some(event) = event(&TEXT[..cut]) {
                let _ = (marks.due(&event), marks.is_snapshot(&event));
            }
        }
        for text in
            ["", "{}", r#"{"type":"event","channel":"a","offset":x}"#, r#"{"type":"welcome"}"#]
        {
            assert_eq!(event(text.as_bytes()), None, "{text}");
        }
        assert_eq!(number(b"99999999999999999999"), None, "too large for an offset");
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for digits in 1..=20 {
            let all = &"12345678901234567890"[..digits];
            for behind in ["", "x", ":9", "/00000000", "\u{00E9}9999999", ",\"data\":1"] {
                let text = format!("{all}{behind}");
                let (read, rest) = number(text.as_bytes()).expect("a number");
                assert_eq!((read, rest), (all.parse().expect("fits"), behind.as_bytes()));
            }
        }
        for text in ["", "x1234567", "-1", "99999999999999999999", "/1234567890"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(number(b"18446744073709551615,"), Some((u64::MAX, b",".as_slice())));
    }

    #[test]
    fn only_a_time_between_offset_and_data_is_plain() {
        let rest = |text: &'static str| text.as_bytes();
        let plain = plain(rest(r#"58,"ts":1732153200123,"data":{"ts":42}}"#));
        assert_eq!(plain, Some((58, rest(r#"{"ts":42}}"#))));
        assert_eq!(due_first(rest(r#"{"ts":42}}"#)), Some(42));
        for text in [
            r#"58,"ts":1732153200123,"key":"k","data":1}"#,
            r#"58,"ts":1732153200123,"snapshot":true,"data":1}"#,
            r#"58,"snapshot":true,"data":1}"#,
            r#"58,"data":1}"#,
            r#"x,"ts":1732153200123,"data":1}"#,
        ] {
            assert_eq!(super::plain(rest(text)), None, "{text}");
        }
    }

    #[test]
    fn a_lagged_push_is_read_as_json() {
        let text =
            br#"{"type":"lagged","channel":"a","dropped":12,"from":101,"to":112,"age_ms":840}"#;
        let push: Push<'_> = serde_json::from_slice(text).expect("JSON");
        assert_eq!((push.kind.as_ref(), push.to), ("lagged", Some(112)));
        assert_eq!(push.from.and_then(|from| from.as_u64()), Some(101));
    }
}
