//! A gateway between its start and its first connection.

use std::net::SocketAddr;
use std::sync::mpsc;

use crate::harness::{Gateway, PATIENCE};

/// A gateway that does not listen yet; killed when dropped.
pub(crate) struct Starting {
    pub(crate) gateway: Gateway,
    listening: mpsc::Receiver<SocketAddr>,
}

impl Starting {
    /// Whose addresses come there.
    pub(crate) fn new(gateway: Gateway, listening: mpsc::Receiver<SocketAddr>) -> Self {
        Self { gateway, listening }
    }

    /// Waits until it listens on all its addresses.
    pub(crate) fn started(self) -> Gateway {
        let mut gateway = self.gateway;
        for addr in &mut gateway.addrs {
            let Ok(found) = self.listening.recv_timeout(PATIENCE) else {
                panic!("it did not start: {}", gateway.log());
            };
            *addr = found;
        }
        gateway.addr = gateway.addrs[0];
        gateway
    }
}
