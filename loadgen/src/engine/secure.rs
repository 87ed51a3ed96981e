//! A receiver thread's connections over TLS: their handshakes, and what lies between their sockets
//! and the frames. Threads whose server speaks without TLS have none of it.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::engine::socket;
use crate::engine::tickets::Tickets;
use crate::engine::worker::{State, Worker, size};
use crate::fault::Fault;
use crate::trust::{Reuse, Tls};
use crate::wire::tls::Session;

/// How connections shook hands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shaken {
    pub(crate) full: u64,
    pub(crate) resumed: u64,
    /// The version and the cipher suite of the first one.
    pub(crate) spoken: (String, String),
}

/// TLS of a thread's connections.
#[derive(Debug)]
pub(super) struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    tickets: Option<Arc<Tickets>>,
    sessions: Vec<Option<Box<Session>>>,
    /// What was sealed last, whose memory is used again.
    sealed: Vec<u8>,
    /// What was read last, in plain.
    plain: Vec<u8>,
}

impl Secure {
    /// For so many connections; `returns` says whether they may come back.
    pub(super) fn new(tls: &Tls, connections: usize, returns: bool) -> Self {
        let tickets = match tls.reuse {
            Reuse::Own if returns => Some(Arc::new(Tickets::new(false))),
            Reuse::Shared => Some(Arc::new(Tickets::new(true))),
            Reuse::Own | Reuse::Never => None,
        };
        let config = match &tickets {
            Some(tickets) => {
                let mut config = ClientConfig::clone(&tls.config);
                config.resumption = Resumption::store(Arc::<Tickets>::clone(tickets));
                Arc::new(config)
            }
            None => Arc::clone(&tls.config),
        };
        let mut sessions = Vec::new();
        sessions.resize_with(connections, || None);
        let (sealed, plain) = (Vec::new(), Vec::new());
        Self { config, name: tls.name.clone(), tickets, sessions, sealed, plain }
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, at: usize) {
        self.sessions[at] = None;
    }

    fn turn(&self, at: usize) {
        if let Some(tickets) = &self.tickets {
            tickets.turn(at);
        }
    }
}

impl Worker {
    /// Says hello on a fresh socket.
    pub(super) fn shake(&mut self, at: usize) -> Result<(), Fault> {
        let Some(secure) = &mut self.secure else { return Ok(()) };
        secure.turn(at);
        self.out.clear();
        let session = Session::begin(&secure.config, &secure.name, &mut self.out)?;
        secure.sessions[at] = Some(Box::new(session));
        self.conns[at].state = State::Securing;
        self.send_out(at)
    }

    /// Makes what is in `out` what its socket is to get.
    pub(super) fn seal(&mut self, at: usize) -> Result<(), Fault> {
        let Some(secure) = &mut self.secure else { return Ok(()) };
        let Some(session) = &mut secure.sessions[at] else { return Ok(()) };
        secure.sealed.clear();
        session.seal(&self.out, &mut secure.sealed)?;
        std::mem::swap(&mut self.out, &mut secure.sealed);
        Ok(())
    }

    /// As [`Worker::read`], of a connection over TLS.
    pub(super) fn read_secure(&mut self, at: usize, most: usize) -> Result<usize, Fault> {
        let Some(secure) = &mut self.secure else { return Ok(0) };
        let Some(session) = &mut secure.sessions[at] else { return Ok(0) };
        let Some(fd) = &self.conns[at].fd else { return Ok(0) };
        let kept = session.rest().len();
        if self.buffer.len() < kept + most {
            self.buffer.resize(kept + most, 0);
        }
        let Some(read) = socket::read(fd, &mut self.buffer[kept..kept + most])? else {
            return Ok(0);
        };
        self.reads += 1;
        self.bytes += read as u64;
        self.buffer[..kept].copy_from_slice(session.rest());
        let mut plain = std::mem::take(&mut secure.plain);
        plain.clear();
        let carry = std::mem::take(&mut self.conns[at].carry);
        plain.extend_from_slice(&carry);
        self.out.clear();
        if let Some(tickets) = &secure.tickets {
            tickets.turn(at);
        }
        let heard = session.take(&mut self.buffer[..kept + read], &mut plain, &mut self.out);
        let is_ended = session.is_ended();
        self.grown += size(&plain) - size(&carry) - i64::try_from(read).unwrap_or(i64::MAX);
        self.spare(carry);
        // First what TLS itself has to answer, then what was said before something went wrong.
        let outcome = self
            .send_out(at)
            .and_then(|()| self.shaken(at))
            .and_then(|()| if plain.is_empty() { Ok(()) } else { self.digest(at, &mut plain) });
        if let Some(secure) = &mut self.secure {
            secure.plain = plain;
        }
        outcome.and(heard)?;
        if is_ended { Err(Fault::Ended) } else { Ok(read) }
    }

    /// Where hands are shaken by now, asks for the upgrade.
    fn shaken(&mut self, at: usize) -> Result<(), Fault> {
        let Some(secure) = &self.secure else { return Ok(()) };
        let Some(session) = &secure.sessions[at] else { return Ok(()) };
        if self.conns[at].state != State::Securing || !session.is_shaken() {
            return Ok(());
        }
        let shaken = &mut self.books.shaken;
        *(if session.is_resumed() { &mut shaken.resumed } else { &mut shaken.full }) += 1;
        if shaken.spoken.0.is_empty() {
            shaken.spoken = session.spoken();
        }
        self.ask_for_upgrade(at)
    }
}
