//! What was read of a client that is held back, or has had its turn.

use super::away::Worked;
use super::inbound::Text;

/// What of a client's bytes waits to be carried out.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Messages of a text frame that was decoded.
    pub(super) text: Option<Text>,
    /// Bytes behind it that were not decoded, from `at`.
    pub(super) input: Vec<u8>,
    pub(super) at: usize,
}

/// What is to be carried out before anything is decoded.
pub(super) enum First {
    Nothing,
    Text(Text),
    Worked(Worked),
}

impl First {
    /// While a message is worked on elsewhere, the rest of its text is with it.
    pub(super) fn of(worked: Option<Worked>, text: Option<Text>) -> Self {
        match (worked, text) {
            (Some(worked), None) => Self::Worked(worked),
            (Some(worked), rest) => Self::Worked(Worked { rest, ..worked }),
            (None, Some(text)) => Self::Text(text),
            (None, None) => Self::Nothing,
        }
    }
}

impl Held {
    /// Keeps messages that were decoded and bytes that were not.
    pub(super) fn of(text: Option<Text>, input: &[u8]) -> Option<Box<Self>> {
        let some = text.is_some() || !input.is_empty();
        some.then(|| Box::new(Self { text, input: input.to_vec(), at: 0 }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_none() && self.at == self.input.len()
    }

    /// Memory that it takes.
    pub(super) fn footprint(&self) -> usize {
        let text = self.text.as_ref().map_or(0, Text::footprint);
        size_of::<Self>() + text + self.input.capacity()
    }
}
