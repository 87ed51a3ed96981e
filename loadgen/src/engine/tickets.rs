//! The sessions of TLS that a receiver thread may take up again. Each connection stands for a client
//! of its own, so it has a ticket of its own; where a run asks for it, all of a thread share theirs.
#![expect(clippy::disallowed_types, reason = "rustls wants a store that threads may share")]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets that are kept where they are shared; each handshake brings more than it takes.
const SHARED_MAX: usize = 1_024;

/// What a thread keeps. The thread says whose turn it is before each step of a handshake.
pub(super) struct Tickets {
    is_shared: bool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Whose turn it is; always the same where tickets are shared.
    turn: usize,
    tls13: HashMap<usize, Vec<Tls13ClientSessionValue>>,
    tls12: HashMap<usize, Tls12ClientSessionValue>,
    group: Option<NamedGroup>,
}

impl Tickets {
    pub(super) fn new(is_shared: bool) -> Self {
        Self { is_shared, held: Mutex::default() }
    }

    /// What follows is connection `at`'s.
    pub(super) fn turn(&self, at: usize) {
        self.held().turn = if self.is_shared { 0 } else { at };
    }

    /// One thread has it, so nobody else can have left it half changed.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without what is secret.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("is_shared", &self.is_shared).finish_non_exhaustive()
    }
}

/// There is one server, so its name is not looked at.
impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.held().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.held().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        let mut held = self.held();
        let turn = held.turn;
        held.tls12.insert(turn, session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let held = self.held();
        held.tls12.get(&held.turn).cloned()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        let mut held = self.held();
        let turn = held.turn;
        held.tls12.remove(&turn);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut held = self.held();
        let turn = held.turn;
        let mine = held.tls13.entry(turn).or_default();
        // Of one connection's own the newest will do.
        if !self.is_shared {
            mine.clear();
        }
        if mine.len() < SHARED_MAX {
            mine.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut held = self.held();
        let turn = held.turn;
        held.tls13.get_mut(&turn)?.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::Resumption;
    use rustls::{ClientConfig, version};

    use super::*;
    use crate::wire::tls::tests::{anybody, serving, shaken};

    #[test]
    fn each_connection_takes_up_its_own_session_or_any_where_they_are_shared() {
        for version in [&version::TLS12, &version::TLS13] {
            let server = serving(version);
            let resumed = |is_shared, turns: &[usize]| -> Vec<bool> {
                let tickets = Arc::new(Tickets::new(is_shared));
                let mut config = ClientConfig::clone(&anybody().config);
                config.resumption = Resumption::store(Arc::<Tickets>::clone(&tickets));
                let config = Arc::new(config);
                let shake = |at: &usize| {
                    tickets.turn(*at);
                    shaken(&config, &server, 1 << 20).0.is_resumed()
                };
                turns.iter().map(shake).collect()
            };
            let own = resumed(false, &[0, 1, 0, 1, 0, 2]);
            assert_eq!(own, [false, false, true, true, true, false], "{version:?}");
            assert_eq!(resumed(true, &[0, 1, 2]), [false, true, true], "{version:?}");
        }
    }
}
