//! What a receiver thread sends on its connections, and what their sockets have not taken yet.

use rustix::event::epoll::EventFlags;

use crate::engine::socket;
use crate::engine::worker::Worker;
use crate::fault::Fault;
use crate::wire::frame;

/// What one connection may have left to send.
const REST_BYTES_MAX: usize = 64 << 20;

impl Worker {
    pub(super) fn pong(&mut self, at: usize, payload: &[u8]) -> Result<(), Fault> {
        self.out.clear();
        frame::push_client(frame::Opcode::Pong, payload, &mut self.out);
        self.send(at)
    }

    /// Sends what is in `out`, over TLS where that is spoken.
    pub(super) fn send(&mut self, at: usize) -> Result<(), Fault> {
        if self.secure.is_some() && !self.out.is_empty() {
            self.seal(at)?;
        }
        self.send_out(at)
    }

    /// Sends what is in `out` as it is; what the socket does not take is sent once it does.
    pub(super) fn send_out(&mut self, at: usize) -> Result<(), Fault> {
        let Some(fd) = self.conns[at].fd.as_ref().filter(|_| !self.out.is_empty()) else {
            return Ok(());
        };
        if let Some(rest) = self.rests.get_mut(&at) {
            if rest.len() + self.out.len() > REST_BYTES_MAX {
                return Err(Fault::Stuck);
            }
            rest.extend_from_slice(&self.out);
            return Ok(());
        }
        let sent = socket::send_some(fd, &self.out)?;
        if sent < self.out.len() {
            self.rests.insert(at, self.out[sent..].to_vec());
            self.watch(at, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP)?;
        }
        Ok(())
    }

    /// The socket may take what is left to send.
    pub(super) fn send_rest(&mut self, at: usize) -> Result<(), Fault> {
        let Some(fd) = &self.conns[at].fd else { return Ok(()) };
        let Some(rest) = self.rests.get_mut(&at) else { return Ok(()) };
        let sent = socket::send_some(fd, rest)?;
        rest.drain(..sent);
        if rest.is_empty() {
            self.rests.remove(&at);
            self.watch(at, EventFlags::IN | EventFlags::RDHUP)?;
        }
        Ok(())
    }
}
