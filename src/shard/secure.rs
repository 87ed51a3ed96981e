//! TLS of one connection, once hands were shaken. What it encrypts goes to the kernel at once; what
//! the kernel does not take is kept, counted, and nothing further is encrypted until it has gone: the
//! queue of a slow reader stays where a policy can act on it.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _, Write};

use rustix::io::Errno;
use rustls::ServerConnection;

use super::flush::{Count, Flushed, blocked, forget_readable, send_slices};
use super::local::{Shard, Socket};
use crate::core::hub::{Seat, SeatId};
use crate::core::metrics::{Counter, Metrics};
use crate::core::outbox::SLICES_MAX;

/// Bytes that are encrypted before the kernel is asked to take them: four records of the largest
/// size. It bounds what a connection holds beside its queue.
const BATCH_BYTES: usize = 64 * 1024;

/// Room that one record, and what came with it, may need in a buffer that is read into.
const RECORD_BYTES: usize = 20 * 1024;

/// The smallest buffer to read into.
pub(super) const READ_BYTES_MIN: usize = 2 * RECORD_BYTES;

/// The state of TLS on one connection.
pub(super) struct Secure {
    session: ServerConnection,
    /// What is encrypted and was not taken by the kernel.
    rest: Vec<u8>,
    /// How much of that has gone since.
    gone: usize,
    /// Nothing comes from the peer any more.
    ended: bool,
    /// Our end was told.
    closed: bool,
}

/// The kernel's side of a connection, as the session writes to it.
struct Wire<'a> {
    socket: &'a Socket,
    metrics: &'a Metrics,
    /// The kernel has taken less than it was given: no need to ask it again.
    full: bool,
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        self.metrics.add(Counter::FlushSyscalls, 1);
        let sent = send_slices(self.socket, slices);
        self.full = sent.map_or_else(|errno| errno == Errno::AGAIN, |sent| sent < wanted);
        self.metrics.add(Counter::BytesSent, sent.unwrap_or(0) as u64);
        Ok(sent?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same, as the session reads from it.
struct Input<'a> {
    socket: &'a Socket,
    metrics: &'a Metrics,
    /// The kernel has nothing more for now.
    empty: bool,
    /// Bytes that it had.
    taken: usize,
}

impl io::Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.stream.try_read(into)?;
        self.metrics.add(Counter::BytesReceived, read as u64);
        self.taken += read;
        if read > 0 && read < into.len() {
            forget_readable(self.socket);
            self.empty = true;
        }
        Ok(read)
    }
}

impl Secure {
    /// Goes on with a session that has shaken hands; what it holds decrypted goes behind `early`.
    pub(super) fn new(mut session: ServerConnection, early: &mut Vec<u8>) -> io::Result<Self> {
        session.set_buffer_limit(Some(BATCH_BYTES));
        let mut secure = Self { session, rest: Vec::new(), gone: 0, ended: false, closed: false };
        let mut some = vec![0; RECORD_BYTES];
        while let read @ 1.. = secure.decrypted(&mut some)? {
            early.extend_from_slice(some.get(..read).unwrap_or_default());
        }
        Ok(secure)
    }

    /// Whether the peer has ended its side.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Memory of what the kernel has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.rest.capacity()
    }

    /// Tells the peer that nothing follows, once; whether there is nothing left to send of before.
    pub(super) fn close(&mut self) -> bool {
        if !std::mem::replace(&mut self.closed, true) {
            self.session.send_close_notify();
        }
        self.rest.is_empty() && !self.session.wants_write()
    }

    /// Gives the kernel what is encrypted; whether it took all of it.
    fn send(&mut self, wire: &mut Wire<'_>) -> io::Result<bool> {
        while let Some(rest @ [_, ..]) = self.rest.get(self.gone..) {
            match wire.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.gone > 0 {
            (self.rest, self.gone) = (Vec::new(), 0);
        }
        while self.session.wants_write() {
            match self.session.write_tls(wire) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The session does not tell how much it holds, so it holds nothing.
                    while self.session.wants_write() {
                        self.session.write_tls(&mut self.rest)?;
                    }
                    self.rest.shrink_to_fit();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Encrypts what comes next of a queue, as much as one batch has; how much that was.
    fn encrypt(&mut self, seat: &mut Seat, node_ns: u64) -> io::Result<usize> {
        let mut writer = self.session.writer();
        if let Some(bytes) = seat.outbox.sole() {
            return some_of(writer.write(bytes)?, bytes.len());
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = seat.outbox.gather(|| node_ns, &mut slices);
        let slices = slices.get(..used).unwrap_or_default();
        some_of(writer.write_vectored(slices)?, slices.iter().map(|slice| slice.len()).sum())
    }

    /// As [`Shard::read`]. The session holds nothing decrypted afterwards, so that whoever waits for
    /// the socket then waits for nothing that is there.
    pub(super) fn read(
        &mut self,
        socket: &Socket,
        metrics: &Metrics,
        into: &mut [u8],
    ) -> io::Result<usize> {
        let mut input = Input { socket, metrics, empty: false, taken: 0 };
        let mut filled = 0;
        // Records may have a byte each, or none but padding: what is taken has a bound, too. Where
        // that is reached, the socket is still ready, and the next turn goes on.
        while !self.ended
            && !input.empty
            && input.taken < into.len()
            && into.len() - filled >= RECORD_BYTES
        {
            match self.session.read_tls(&mut input) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if let Err(error) = self.session.process_new_packets() {
                // The peer is told what was wrong, if there is room for that.
                drop(self.send(&mut Wire { socket, metrics, full: false }));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            filled += self.decrypted(into.get_mut(filled..).unwrap_or_default())?;
        }
        match filled {
            0 if !self.ended => Err(io::ErrorKind::WouldBlock.into()),
            filled => Ok(filled),
        }
    }

    /// Takes what the session holds decrypted; notices the end.
    fn decrypted(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(room @ [_, ..]) = into.get_mut(filled..) {
            match self.session.reader().read(room) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The socket ended without a word of it in TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// What was taken of `wanted` bytes, which is not nothing: a session that has sent all it had takes
/// some.
fn some_of(taken: usize, wanted: usize) -> io::Result<usize> {
    if taken == 0 && wanted > 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(taken) }
}

impl Shard {
    /// As the flush of a plain connection: what the kernel does not take is not encrypted, but for
    /// the batch that it was asked with.
    pub(super) fn flush_secure(
        &self,
        socket: &Socket,
        secure: &RefCell<Secure>,
        seat: &mut Seat,
        count: &mut Count<'_>,
    ) -> Flushed {
        let mut secure = secure.borrow_mut();
        let mut wire = Wire { socket, metrics: &self.metrics, full: false };
        loop {
            match secure.send(&mut wire) {
                Ok(true) => {}
                Ok(false) => return blocked(socket, seat),
                Err(_) => return Flushed::Broken,
            }
            if seat.outbox.is_idle() {
                return Flushed::All;
            }
            match secure.encrypt(seat, count.node_ns) {
                Ok(taken) => seat.outbox.advance(taken, count),
                Err(_) => return Flushed::Broken,
            }
        }
    }
}

impl Shard {
    /// Tells the peer of a connection that is closed, and of which everything was written, that
    /// nothing follows; whether that, too, is written.
    pub(super) fn say_end(&self, id: SeatId, socket: &Socket) -> bool {
        let Some(secure) = socket.secure() else { return true };
        // Where the kernel takes no more, the connection's task waits for it as for all else.
        let told = secure.borrow_mut().close();
        told || self.flush(id) != Flushed::Blocked
    }
}
