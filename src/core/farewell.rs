//! Why the server has closed connections, for clients that come back and ask: one that was blocked
//! has seldom read its close frame.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::proto::close::CloseReason;
use crate::proto::name::ClientId;
use crate::proto::push::Last;

/// Closed connections that are remembered; beyond that the oldest go.
const FAREWELLS_MAX: usize = 65_536;

/// And of those that broke the rules themselves, which costs them next to nothing: they push out
/// only each other.
const BROKEN_MAX: usize = 1_024;

/// How long each is remembered, in milliseconds.
const KEPT_MS: u64 = 600_000;

/// Connections that have been remembered for long enough, and are forgotten in one call.
const FORGOTTEN_A_CALL: usize = 16;

/// Connections that the server has closed.
#[derive(Debug)]
pub struct Farewells {
    /// Through no fault of their own, or because they were slow.
    cut: Kept,
    /// For what they have sent.
    broken: Kept,
}

impl Default for Farewells {
    fn default() -> Self {
        Self { cut: Kept::new(FAREWELLS_MAX), broken: Kept::new(BROKEN_MAX) }
    }
}

impl Farewells {
    /// Remembers a connection that is closed at `now_ms`.
    pub fn remember(&mut self, client: ClientId, last: Last, now_ms: u64) {
        let broken = matches!(
            last.reason,
            CloseReason::AuthTimeout
                | CloseReason::MessageTimeout
                | CloseReason::Protocol(_)
                | CloseReason::TooManyErrors
                | CloseReason::Unauthorized
        );
        let kept = if broken { &mut self.broken } else { &mut self.cut };
        kept.remember(client, last, now_ms);
    }

    /// Why a connection was closed; `None` where the server did not close it, or not lately.
    pub fn recall(&self, client: ClientId, now_ms: u64) -> Option<Last> {
        self.cut.recall(client, now_ms).or_else(|| self.broken.recall(client, now_ms))
    }
}

/// Some of them.
///
/// Invariant: `order` has every one of `clients`, the oldest first, and no more than `max`.
#[derive(Debug)]
struct Kept {
    max: usize,
    clients: HashMap<ClientId, (u64, Last), RandomState>,
    order: VecDeque<ClientId>,
}

impl Kept {
    fn new(max: usize) -> Self {
        Self { max, clients: HashMap::default(), order: VecDeque::new() }
    }

    fn remember(&mut self, client: ClientId, last: Last, now_ms: u64) {
        self.forget(now_ms);
        if self.order.len() == self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.clients.remove(&oldest);
        }
        if self.clients.insert(client, (now_ms, last)).is_none() {
            self.order.push_back(client);
        }
    }

    fn recall(&self, client: ClientId, now_ms: u64) -> Option<Last> {
        let (since_ms, last) = self.clients.get(&client)?;
        (now_ms < since_ms + KEPT_MS).then_some(*last)
    }

    /// Forgets some of what has been remembered for long enough: more than one that comes.
    fn forget(&mut self, now_ms: u64) {
        for _ in 0..FORGOTTEN_A_CALL {
            let Some(client) = self.order.front() else { return };
            if self.recall(*client, now_ms).is_some() {
                return;
            }
            self.clients.remove(client);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ws::ProtocolError;

    const LAST: Last = Last { reason: CloseReason::SlowConsumer, dropped: 7 };

    #[test]
    fn a_farewell_is_remembered_for_ten_minutes() {
        let mut farewells = Farewells::default();
        farewells.remember(ClientId(1), LAST, 5);
        assert_eq!(farewells.recall(ClientId(1), 600_004), Some(LAST));
        assert_eq!(farewells.recall(ClientId(2), 600_004), None);
        assert_eq!(farewells.recall(ClientId(1), 600_005), None);
        farewells.remember(ClientId(2), LAST, 600_005);
        let left = (farewells.cut.clients.len(), farewells.cut.order.len());
        assert_eq!(left, (1, 1), "it is gone for good when the next one comes");
    }

    #[test]
    fn beyond_their_number_the_oldest_go() {
        let mut farewells = Farewells::default();
        let many = FAREWELLS_MAX as u64 + 10;
        for client in 0..many {
            farewells.remember(ClientId(client), Last { dropped: client, ..LAST }, client);
        }
        assert_eq!(
            (farewells.cut.clients.len(), farewells.cut.order.len()),
            (FAREWELLS_MAX, FAREWELLS_MAX)
        );
        assert_eq!(farewells.recall(ClientId(9), many), None);
        let first = farewells.recall(ClientId(10), many);
        assert_eq!(first.map(|last| last.dropped), Some(10));
    }

    #[test]
    fn those_who_break_the_rules_push_out_only_each_other() {
        let mut farewells = Farewells::default();
        farewells.remember(ClientId(0), LAST, 0);
        let reasons = [CloseReason::Protocol(ProtocolError::Unmasked), CloseReason::TooManyErrors];
        let many = 1..=2 * FAREWELLS_MAX as u64;
        for (client, reason) in many.zip(reasons.into_iter().cycle()) {
            farewells.remember(ClientId(client), Last { reason, dropped: 0 }, client / 1_000);
        }
        assert_eq!(farewells.recall(ClientId(0), 1_000), Some(LAST));
        assert_eq!(farewells.broken.clients.len(), BROKEN_MAX);
        assert!(farewells.recall(ClientId(2 * FAREWELLS_MAX as u64), 1_000).is_some());
    }

    #[test]
    fn a_call_forgets_only_so_many() {
        let mut farewells = Farewells::default();
        for client in 0..100 {
            farewells.remember(ClientId(client), LAST, 0);
        }
        farewells.remember(ClientId(100), LAST, KEPT_MS);
        assert_eq!(farewells.cut.order.len(), 101 - FORGOTTEN_A_CALL);
        assert_eq!(farewells.recall(ClientId(99), KEPT_MS), None, "it is too old all the same");
    }
}
