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

    /// How many of the expected answers stand in a text: one for each channel's that differs, or
    /// each time it stands there.
    pub(crate) fn answered<'a>(&self, text: &[u8], each: impl Iterator<Item = Values<'a>>) -> u32 {
        let Some(expect) = &self.expect else { return 0 };
        let mut wanted: Vec<Vec<u8>> = Vec::new();
        for values in each {
            let mut filled = Vec::new();
            expect.fill(&values, &mut filled);
            if !wanted.contains(&filled) {
                wanted.push(filled);
            }
        }
        let found: usize =
            wanted.iter().map(|wanted| memmem::find_iter(text, wanted).count()).sum();
        u32::try_from(found).unwrap_or(u32::MAX)
    }

    /// Whether a text is a ping that wants a pong; line ends around it do not matter.
    pub(crate) fn is_ping(&self, text: &[u8]) -> bool {
        let ping = self.ping.as_ref();
        ping.is_some_and(|ping| text.trim_ascii() == ping.trim().as_bytes())
    }
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
        let named = expects(r#""id":{id},"#);
        assert_eq!(named.answered(br#"{"id":2,"subscribe":{}}"#, each()), 1);
        assert_eq!(named.answered(b"{\"id\":1,}\n{\"id\":2,}", each()), 2);
        assert_eq!(named.answered(br#"{"id":3,}"#, each()), 0);
        let plain = expects("+OK");
        assert_eq!(plain.answered(b"+OK\r\n+OK\r\n", each()), 2);
        assert_eq!((plain.answers(0), plain.answers(2)), (1, 2));
        assert_eq!(Foreign::default().answers(5), 0);
    }

    #[test]
    fn a_ping_is_a_whole_message() {
        let foreign = Foreign { ping: Some("PING".into()), ..Foreign::default() };
        assert!(foreign.is_ping(b"PING\r\n"));
        assert!(!foreign.is_ping(b"MSG PING\r\n"));
    }
}
