//! Why the server has closed connections, for clients that come back and ask: one that was blocked
//! has seldom read its close frame.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::proto::name::ClientId;
use crate::proto::push::Last;

/// Closed connections that are remembered; beyond that the oldest go.
const FAREWELLS_MAX: usize = 65_536;

/// How long each is remembered, in milliseconds.
const KEPT_MS: u64 = 600_000;

/// Connections that the server has closed.
///
/// Invariant: `order` has every one of `clients`, the oldest first, and no more than
/// `FAREWELLS_MAX`.
#[derive(Debug, Default)]
pub struct Farewells {
    clients: HashMap<ClientId, Last, RandomState>,
    order: VecDeque<(u64, ClientId)>,
}

impl Farewells {
    /// Remembers a connection that is closed at `now_ms`.
    pub fn remember(&mut self, client: ClientId, last: Last, now_ms: u64) {
        self.forget(now_ms);
        if self.order.len() == FAREWELLS_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.clients.remove(&oldest);
        }
        if self.clients.insert(client, last).is_none() {
            self.order.push_back((now_ms, client));
        }
    }

    /// Why a connection was closed; `None` where the server did not close it, or not lately.
    pub fn recall(&mut self, client: ClientId, now_ms: u64) -> Option<Last> {
        self.forget(now_ms);
        self.clients.get(&client).copied()
    }

    /// Forgets what has been remembered for long enough.
    fn forget(&mut self, now_ms: u64) {
        while let Some((since_ms, client)) = self.order.front()
            && since_ms + KEPT_MS <= now_ms
        {
            self.clients.remove(client);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::close::CloseReason;

    const LAST: Last = Last { reason: CloseReason::SlowConsumer, dropped: 7 };

    #[test]
    fn a_farewell_is_remembered_for_ten_minutes() {
        let mut farewells = Farewells::default();
        farewells.remember(ClientId(1), LAST, 5);
        assert_eq!(farewells.recall(ClientId(1), 600_004), Some(LAST));
        assert_eq!(farewells.recall(ClientId(2), 600_004), None);
        assert_eq!(farewells.recall(ClientId(1), 600_005), None);
        assert!(farewells.clients.is_empty() && farewells.order.is_empty());
    }

    #[test]
    fn beyond_their_number_the_oldest_go() {
        let mut farewells = Farewells::default();
        let many = FAREWELLS_MAX as u64 + 10;
        for client in 0..many {
            farewells.remember(ClientId(client), Last { dropped: client, ..LAST }, client);
        }
        assert_eq!(
            (farewells.clients.len(), farewells.order.len()),
            (FAREWELLS_MAX, FAREWELLS_MAX)
        );
        assert_eq!(farewells.recall(ClientId(9), many), None);
        let first = farewells.recall(ClientId(10), many);
        assert_eq!(first.map(|last| last.dropped), Some(10));
    }
}
