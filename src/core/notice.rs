//! What a room tells those who have its channel by name, encoded once.

use super::signals::Told;
use crate::proto::name::{Alias, ClientId};

/// What one notice takes of memory beside its frames, about.
const NOTICE_BYTES: usize = 128;

/// Something for every seat of a shard that has the channel by name.
#[derive(Debug)]
pub enum Notice {
    /// Joins, leaves or counts. None of it is dropped. For the control lane.
    Presence(Frames),
    /// A value of a signal, or its end. For the lane of signals.
    Signal(Told),
}

impl Notice {
    /// Whose seats it is for.
    pub fn alias(&self) -> Alias {
        match self {
            Self::Presence(frames) => frames.alias,
            Self::Signal(told) => told.signal.who().alias,
        }
    }

    /// Memory of it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Presence(frames) => frames.bytes.len() + NOTICE_BYTES,
            Self::Signal(told) => told.signal.footprint() + NOTICE_BYTES,
        }
    }
}

/// WebSocket frames laid end to end. A client does not get those that are its own.
#[derive(Debug)]
pub struct Frames {
    alias: Alias,
    bytes: Vec<u8>,
    /// Whose they are and where, by client.
    own: Vec<(ClientId, u32, u32)>,
}

impl Frames {
    /// Frames for the channel of that number; `own` has the clients that do not get what stands
    /// in a range of `bytes`.
    pub fn new(alias: Alias, bytes: Vec<u8>, mut own: Vec<(ClientId, u32, u32)>) -> Self {
        own.sort_unstable();
        Self { alias, bytes, own }
    }

    /// What that client gets of it: what is before its own frame, and what is behind.
    pub fn of(&self, client: ClientId) -> [&[u8]; 2] {
        let Ok(at) = self.own.binary_search_by_key(&client, |own| own.0) else {
            return [&self.bytes, &[]];
        };
        let (from, to) = self.own.get(at).map_or((0, 0), |own| (own.1 as usize, own.2 as usize));
        let before = self.bytes.get(..from).unwrap_or_default();
        [before, self.bytes.get(to..).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_what_is_their_own() {
        let own = vec![(ClientId(7), 3, 6), (ClientId(2), 0, 3)];
        let frames = Frames::new(Alias(1), b"twosev...".to_vec(), own);
        assert_eq!(frames.of(ClientId(2)).concat(), b"sev...");
        assert_eq!(frames.of(ClientId(7)).concat(), b"two...");
        assert_eq!(frames.of(ClientId(3)).concat(), b"twosev...");
    }
}
