//! The stream of bytes under a connection: as the kernel has it, or with TLS on top. Events are the
//! same shared frames either way; only the last step of a write differs, and the first of a read.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::net::TcpStream;

use super::flush::forget_readable;
use super::local::{Shard, Socket};
use super::secure::Secure;
use crate::core::metrics::Counter;

/// A stream on which hands were shaken, for [`Local::adopt`](super::Local::adopt).
pub struct Stream {
    pub(super) tcp: TcpStream,
    pub(super) apart: Option<Box<Apart>>,
}

/// What a connection has that is not plainly there: apart, so that the others pay a pointer.
#[derive(Default)]
pub(super) struct Apart {
    /// Where its client is, who comes by a proxy.
    pub(super) ip: Option<IpAddr>,
    /// What encrypts it.
    secure: Option<RefCell<Secure>>,
}

/// Its client has gone, and nobody reads its answers.
#[derive(Debug)]
pub(super) struct Gone;

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, apart: None }
    }
}

impl Stream {
    /// One over TLS. What was read of the session and not used is put behind `early`.
    ///
    /// # Errors
    ///
    /// What the session could not read.
    pub fn secure(
        tcp: TcpStream,
        session: ServerConnection,
        early: &mut Vec<u8>,
    ) -> io::Result<Self> {
        let secure = Some(RefCell::new(Secure::new(session, early)?));
        Ok(Self { tcp, apart: Some(Box::new(Apart { ip: None, secure })) })
    }

    /// The same, of a client that a proxy speaks for.
    #[must_use]
    pub fn from_client(mut self, ip: IpAddr) -> Self {
        self.apart.get_or_insert_default().ip = Some(ip);
        self
    }
}

impl Socket {
    /// What encrypts it, if that is so.
    pub(super) fn secure(&self) -> Option<&RefCell<Secure>> {
        self.apart.as_ref().and_then(|apart| apart.secure.as_ref())
    }

    /// Where its client is, where it has an address and that is still known.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        let told = self.apart.as_ref().and_then(|apart| apart.ip);
        told.or_else(|| self.stream.peer_addr().ok().map(|peer| peer.ip().to_canonical()))
    }

    /// Where what it says comes from; `None` is this machine.
    ///
    /// # Errors
    ///
    /// [`Gone`] where nobody can say any more: what was sent before a reset is still read.
    pub(super) fn from(&self) -> Result<Option<IpAddr>, Gone> {
        match self.ip() {
            // A socket in the file system has no address of its own either.
            None if self.stream.local_addr().is_ok() => Err(Gone),
            ip => Ok(ip),
        }
    }

    /// Waits until there may be something to read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.secure().is_some_and(|secure| secure.borrow().is_ended()) {
            // The socket may have nothing more to say.
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_read_ready(cx)
    }

    /// Memory of what is encrypted and not yet taken by the kernel.
    pub(super) fn unsent(&self) -> usize {
        self.secure().map_or(0, |secure| secure.borrow().unsent())
    }
}

impl Shard {
    /// Reads from a connection, into a buffer of at least [`super::secure::READ_BYTES_MIN`]. 0 is the
    /// end, and `WouldBlock` that nothing whole has come.
    pub(super) fn read(&self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        if let Some(secure) = socket.secure() {
            return secure.borrow_mut().read(socket, &self.metrics, into);
        }
        let read = socket.stream.try_read(into)?;
        if read < into.len() && read > 0 {
            forget_readable(socket);
        }
        self.metrics.add(Counter::BytesReceived, read as u64);
        Ok(read)
    }
}
