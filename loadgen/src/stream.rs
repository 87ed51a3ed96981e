//! One connection that is read and written in order, plain or over TLS: that of a publisher, and the
//! first one to a server. It may wait or not, as its socket does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::fault::Fault;
use crate::trust::Tls;
use crate::wire::tls::Session;

/// One read of the socket takes at most this much.
const READ_BYTES: usize = 32 << 10;
/// What is sealed at once.
const SEAL_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Secure(Box<Secure>),
}

/// A connection over TLS.
#[derive(Debug)]
pub(crate) struct Secure {
    tcp: TcpStream,
    session: Session,
    input: Vec<u8>,
    /// What was read and not taken, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// What is sealed and not sent, from `gone` on.
    out: Vec<u8>,
    gone: usize,
}

impl Stream {
    /// Shakes hands on a socket that waits; `left` says how long it may, before each step.
    pub(crate) fn shake(
        tcp: TcpStream,
        tls: &Tls,
        left: impl Fn() -> Result<Duration, Fault>,
    ) -> Result<Self, Fault> {
        let mut out = Vec::new();
        let session = Session::begin(&tls.config, &tls.name, &mut out)?;
        let (input, plain) = (Vec::new(), Vec::new());
        let mut secure = Secure { tcp, session, input, plain, taken: 0, out, gone: 0 };
        loop {
            secure.tcp.set_write_timeout(Some(left()?))?;
            secure.push()?;
            if secure.session.is_shaken() {
                return Ok(Self::Secure(Box::new(secure)));
            }
            secure.tcp.set_read_timeout(Some(left()?))?;
            match secure.pull() {
                Ok(true) => {}
                Ok(false) => return Err(Fault::Ended),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Secure(secure) => &secure.tcp,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(into),
            Self::Secure(secure) => secure.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Secure(secure) => secure.write(bytes),
        }
    }

    /// Sends what was written and is not sent, which only TLS keeps.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.push(),
        }
    }
}

impl Secure {
    /// Sends what is sealed.
    fn push(&mut self) -> io::Result<()> {
        while self.gone < self.out.len() {
            match self.tcp.write(&self.out[self.gone..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.gone = 0;
        Ok(())
    }

    /// Reads the socket once; false at its end.
    fn pull(&mut self) -> io::Result<bool> {
        let kept = self.session.rest().len();
        self.input.resize(kept + READ_BYTES, 0);
        let read = self.tcp.read(&mut self.input[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        self.input[..kept].copy_from_slice(self.session.rest());
        self.session.take(&mut self.input[..kept + read], &mut self.plain, &mut self.out)?;
        // What cannot be sent is sent before what comes next, or fails there: a server that has gone
        // may have said why, and that is here.
        self.push().ok();
        Ok(true)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
            if self.session.is_ended() || !self.pull()? {
                return Ok(0);
            }
        }
        let some = into.len().min(self.plain.len() - self.taken);
        into[..some].copy_from_slice(&self.plain[self.taken..self.taken + some]);
        self.taken += some;
        Ok(some)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        let some = bytes.len().min(SEAL_BYTES);
        self.session.seal(&bytes[..some], &mut self.out)?;
        match self.push() {
            // It counts as written: nothing further is taken until it is sent.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(some),
            pushed => pushed.map(|()| some),
        }
    }
}
