//! One non-blocking client socket: opened from a chosen source address, read and written without
//! waiting.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};

use crate::fault::Fault;
use crate::target::{Target, source};

/// Begins to connect; epoll tells when that has ended.
///
/// With `buffer`, the kernel keeps no more than twice that many bytes that were not read.
pub(crate) fn open(
    target: &Target,
    sources: u8,
    index: u32,
    buffer: Option<u32>,
) -> Result<OwnedFd, Fault> {
    let family = match target.address.ip() {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, None).map_err(fault)?;
    sockopt::set_tcp_nodelay(&fd, true).map_err(fault)?;
    if let Some(bytes) = buffer {
        sockopt::set_socket_recv_buffer_size(&fd, bytes as usize).map_err(fault)?;
    }
    if let Some(ip) = source(target, sources, index) {
        // The port is chosen when connecting, so that it is only taken towards this server.
        setsockopt(&fd, IpBindAddressNoPort, &true)
            .map_err(|errno| Fault::from(std::io::Error::from(errno)))?;
        bind(&fd, &SocketAddr::new(ip.into(), 0)).map_err(fault)?;
    }
    match connect(&fd, &target.address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(errno) => Err(fault(errno)),
    }
}

/// How connecting ended.
pub(crate) fn connected(fd: &OwnedFd) -> Result<(), Fault> {
    sockopt::socket_error(fd).map_err(fault)?.map_err(fault)
}

/// Sends a few bytes on a socket whose buffer has room for them.
pub(crate) fn send_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), Fault> {
    match send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) | Err(Errno::WOULDBLOCK) => Err(Fault::Stuck),
        Err(errno) => Err(fault(errno)),
    }
}

/// Sends what the socket takes, and says how much that was.
pub(crate) fn send_some(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Fault> {
    match send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => Ok(sent),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(0),
        Err(errno) => Err(fault(errno)),
    }
}

/// Makes closing it a reset, as when a machine or a network dies.
pub(crate) fn reset_on_close(fd: &OwnedFd) {
    // Where it is refused, the connection ends in order, which is as good an end.
    sockopt::set_socket_linger(fd, Some(Duration::ZERO)).ok();
}

/// Reads what is there; `None` when nothing is.
pub(crate) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
    match recv(fd, buffer, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(Fault::Ended),
        Ok((read, _)) => Ok(Some(read)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(errno) => Err(fault(errno)),
    }
}

fn fault(errno: Errno) -> Fault {
    Fault::from(std::io::Error::from(errno))
}
