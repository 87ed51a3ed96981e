//! Another server's protocol, as templates say it: what is sent to be let in, to subscribe and to
//! publish, and what the answers hold.

use memchr::memmem;

use crate::wire::frame::{self, Opcode};
use crate::wire::template::{Template, Values};

/// How to speak with a server that is not Weir.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreign {
    /// Sent first on every connection.
    pub(crate) hello: Option<Template>,
    pub(crate) subscribe: Option<Template>,
    /// What the answer to each subscribe holds; without a subscribe, the answer to the hello.
    pub(crate) expect: Option<Template>,
    pub(crate) publish: Option<Template>,
    /// A message that is exactly this is answered with `pong`.
    pub(crate) ping: Option<String>,
    pub(crate) pong: Option<Template>,
    /// Whether frames are sent as binary.
    pub(crate) binary: bool,
}

impl Foreign {
    /// Appends a frame made of a template.
    pub(crate) fn push(&self, template: &Template, values: &Values<'_>, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        template.fill(values, &mut text);
        let opcode = if self.binary { Opcode::Binary } else { Opcode::Text };
        frame::push_client(opcode, &text, out);
    }

    /// How many answers a connection waits for until it is ready.
    pub(crate) fn answers(&self, subscriptions: u32) -> u32 {
        if self.expect.is_some() { subscriptions.max(1) } else { 0 }
    }

    /// How many of the expected answers stand in a text that have not come yet; `seen` has a bit for
    /// each slot whose answer has. Where the answers to several slots are the same, each time that it
    /// stands there counts for one of them.
    pub(crate) fn answered<'a>(
        &self,
        text: &[u8],
        each: impl Iterator<Item = Values<'a>>,
        seen: &mut u128,
    ) -> u32 {
        let Some(expect) = &self.expect else { return 0 };
        let mut wanted: Vec<(Vec<u8>, u128)> = Vec::new();
        for (slot, values) in (0..SLOTS_MAX).zip(each) {
            let mut filled = Vec::new();
            expect.fill(&values, &mut filled);
            match wanted.iter_mut().find(|(known, _)| *known == filled) {
                Some((_, slots)) => *slots |= 1 << slot,
                None => wanted.push((filled, 1 << slot)),
            }
        }
        let before = seen.count_ones();
        for (wanted, slots) in wanted {
            for _ in memmem::find_iter(text, &wanted).filter(|at| is_whole(text, *at, &wanted)) {
                let missing = slots & !*seen;
                // The lowest of them.
                *seen |= missing & missing.wrapping_neg();
            }
        }
        seen.count_ones() - before
    }

    /// Whether a text is a ping that wants a pong; line ends around it do not matter.
    pub(crate) fn is_ping(&self, text: &[u8]) -> bool {
        let ping = self.ping.as_ref();
        ping.is_some_and(|ping| text.trim_ascii() == ping.trim().as_bytes())
    }
}

/// Slots of a connection; the command line allows fewer.
const SLOTS_MAX: u32 = 128;

/// Whether what was found is not the part of a longer number: `ch1` is not in `ch10`.
fn is_whole(text: &[u8], at: usize, wanted: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    let behind = text.get(at + wanted.len());
    !(digit(before) && digit(wanted.first()) || digit(wanted.last()) && digit(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_channel_or_by_how_often_they_stand_there() {
        let values = |channel, id| Values { channel, id, ..Values::default() };
        let each = || [values("a", 1), values("b", 2)].into_iter();
        let expects = |text: &str| Foreign {
            expect: Some(text.parse().expect("valid")),
            ..Foreign::default()
        };
        let count = |foreign: &Foreign, text: &[u8]| foreign.answered(text, each(), &mut 0);
        let named = expects(r#""id":{id},"#);
        assert_eq!(count(&named, br#"{"id":2,"subscribe":{}}"#), 1);
        assert_eq!(count(&named, b"{\"id\":1,}\n{\"id\":2,}"), 2);
        assert_eq!(count(&named, br#"{"id":3,}"#), 0);
        let plain = expects("+OK");
        assert_eq!(count(&plain, b"+OK\r\n+OK\r\n"), 2);
        assert_eq!(count(&plain, b"+OK\r\n+OK\r\n+OK\r\n"), 2, "no more than asked for");
        assert_eq!((plain.answers(0), plain.answers(2)), (1, 2));
        assert_eq!(Foreign::default().answers(5), 0);
    }

    #[test]
    fn an_answer_counts_once_and_only_for_its_own_slot() {
        let names = ["r9.1", "r9.10"];
        let each = || names.iter().map(|channel| Values { channel, ..Values::default() });
        for template in ["ok {channel}", "{channel}"] {
            let expect = Some(template.parse().expect("valid"));
            let foreign = Foreign { expect, ..Foreign::default() };
            let mut seen = 0;
            assert_eq!(foreign.answered(b"ok r9.10", each(), &mut seen), 1, "{template}");
            assert_eq!(foreign.answered(b"ok r9.10", each(), &mut seen), 0, "told twice");
            assert_eq!(foreign.answered(b"ok r19.1", each(), &mut seen), 0, "another's");
            assert_eq!(foreign.answered(b"ok r9.1", each(), &mut seen), 1, "{template}");
            assert_eq!(seen, 0b11);
        }
    }

    #[test]
    fn a_ping_is_a_whole_message() {
        let foreign = Foreign { ping: Some("PING".into()), ..Foreign::default() };
        assert!(foreign.is_ping(b"PING\r\n"));
        assert!(!foreign.is_ping(b"MSG PING\r\n"));
    }
}
