//! The sockets that a gateway listens on: of addresses of TCP, of which every shard has its own, and
//! of files, which the shards share.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use super::StartError;
use crate::http::{ListenAddress, Listener, Listening, Serves};

/// Connections that may wait to be accepted, for each shard; the kernel cuts it to `somaxconn`.
const BACKLOG: i32 = 4_096;

/// Bytes of a connection that may wait in the kernel unsent; more stays in our own queue, where
/// a policy can still act on it.
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// The kernel's send buffer of a connection, in bytes (it doubles the figure for its own needs).
const SEND_BUFFER: usize = 256 * 1024;

/// Who may connect to a socket in the file system: the user and the group that it is of.
const SOCKET_MODE: u32 = 0o660;

/// How long and how often the start looks whether others are done, who look for stale sockets in
/// the same directory: for five seconds.
const TURN: Duration = Duration::from_millis(5);
const TURNS: u32 = 1_000;

/// A place that a gateway listens on, held for all its shards.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) address: ListenAddress,
    pub(super) serves: Serves,
    /// The socket of a file.
    shared: Option<Arc<UnixListener>>,
}

impl Place {
    /// Finds out whether the addresses are free, and which ports 0 stands for; takes the files of
    /// sockets, that `files` then removes.
    pub(super) fn take(
        addresses: impl Iterator<Item = (ListenAddress, Serves)>,
        files: &mut Vec<SocketFile>,
    ) -> Result<Vec<Self>, StartError> {
        // Held until all are known: no port is given twice.
        let mut ports = Vec::new();
        let mut take = |address: &ListenAddress, serves| match address {
            ListenAddress::Tcp(tcp) => {
                let probed = probe(*tcp)?;
                let address = local_address(&probed)?.into();
                if tcp.port() == 0 {
                    ports.push(probed);
                }
                Ok(Self { address, serves, shared: None })
            }
            ListenAddress::Unix(path) => {
                let (listener, file) = SocketFile::bind(path)?;
                files.push(file);
                let shared = Some(Arc::new(listener));
                Ok(Self { address: address.clone(), serves, shared })
            }
        };
        addresses
            .map(|(address, serves)| {
                take(&address, serves).map_err(|source| StartError::Listen { address, source })
            })
            .collect()
    }

    /// Leaves the socket to the shards: it ends with the last of them.
    pub(super) fn hand_over(&mut self) {
        self.shared = None;
    }

    /// A listener of one shard, on its thread. What was opened before the shards had descriptor
    /// tables of their own has the same descriptor in each.
    pub(super) fn listen(&self) -> Result<Listener, StartError> {
        let open = || match (&self.address, &self.shared) {
            (ListenAddress::Tcp(address), _) => tcp(*address).map(Listening::Tcp),
            (ListenAddress::Unix(_), Some(shared)) => unix(shared).map(Listening::Unix),
            (ListenAddress::Unix(_), None) => Err(io::ErrorKind::NotFound.into()),
        };
        let socket = open().map_err(|source| {
            let address = self.address.clone();
            StartError::Listen { address, source }
        })?;
        Ok(Listener { socket, serves: self.serves })
    }
}

/// What tells a file from another of its name. Its inode alone does not: the next file may have it.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino(), found.created().ok()))
}

/// The file of a socket, which is ours: removed with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    is: Identity,
}

impl SocketFile {
    /// Listens on `path`, where nobody else does. A file that a gateway which is gone has left there
    /// is removed before.
    fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let _turn = turn(path);
        let socket = match bind_file(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                bind_file(path)?
            }
            bound => bound?,
        };
        let file = Self { path: path.to_owned(), is: identity(path)? };
        // Until here it was for nobody else: the mask of the process can only take away.
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        socket.listen(BACKLOG)?;
        Ok((UnixListener::from(socket), file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|is| is == self.is)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("failed to remove {}: {error}", self.path.display());
        }
    }
}

/// Keeps other gateways from the directory of `path`: what one takes for left behind may be what
/// another has begun since, or is about to listen on. Where the system has no such locks, or the
/// directory may not be read, there is none, nor where somebody holds it for long.
fn turn(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..TURNS {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "a socket's directory takes no lock");
                return None;
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(TURN),
        }
    }
    // Not a gateway: those hold it for moments. Whoever may read the directory can.
    tracing::warn!("somebody holds a lock (flock) on the directory of {}", path.display());
    None
}

fn bind_file(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file takes the mode of the socket, less what the mask of the process takes away.
    fchmod(socket.as_fd(), Mode::from_raw_mode(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Removes the file of a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let problem = "there is a file of that name, which is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    // One that accepts nothing, and has as many waiting as it may, is not waited for.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let listens = || io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there");
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(listens()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(listens()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn unix(shared: &UnixListener) -> io::Result<tokio::net::UnixListener> {
    let listener = shared.try_clone()?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener of one shard on `address`, which the others share.
fn tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = bind(address, true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Listens on `address` alone, to find out whether anybody else does.
///
/// `SO_REUSEPORT` would let a second gateway of the same user share the port unseen.
fn probe(address: SocketAddr) -> io::Result<Socket> {
    let socket = bind(address, false)?;
    socket.listen(1)?;
    Ok(socket)
}

/// With port 0, the port that it was given.
fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?;
    local.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weir-{name}-{}.sock", std::process::id()))
    }

    #[test]
    fn the_file_of_a_socket_is_there_while_it_is_held() {
        let path = scratch("held");
        let (listener, file) = SocketFile::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE, "the mask of the process does not matter");
        UnixStream::connect(&path).unwrap();
        let again = SocketFile::bind(&path).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse, "{again}");
        UnixStream::connect(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_nobody_listens_on_is_taken_over() {
        let path = scratch("stale");
        let (listener, file) = SocketFile::bind(&path).unwrap();
        drop(listener);
        let (_other, other) = SocketFile::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(path.exists(), "it is another's by then");
        drop(other);
        assert!(!path.exists());
    }

    /// Without turns one removes what another has just bound, and both listen.
    #[test]
    fn of_many_who_start_at_once_one_takes_over() {
        const MANY: usize = 8;
        let path = scratch("many");
        for round in 0..50 {
            let (listener, file) = SocketFile::bind(&path).unwrap();
            drop(listener);
            // The file stays, as of one that was killed.
            std::mem::forget(file);
            let begin = Barrier::new(MANY);
            let all: Vec<_> = thread::scope(|scope| {
                let bind = || {
                    begin.wait();
                    SocketFile::bind(&path)
                };
                let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let won = all.iter().filter(|bound| bound.is_ok()).count();
            assert_eq!(won, 1, "round {round}");
            for refused in all.iter().filter_map(|bound| bound.as_ref().err()) {
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
            }
            UnixStream::connect(&path).unwrap();
        }
        assert!(!path.exists());
    }

    #[test]
    fn one_who_accepts_nothing_is_not_waited_for() {
        let path = scratch("full");
        let full = bind_file(&path).unwrap();
        full.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            match socket.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => waiting.push(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let (tell, told) = mpsc::channel();
        let other = path.clone();
        thread::spawn(move || tell.send(SocketFile::bind(&other).map(drop)));
        let refused = told.recv_timeout(Duration::from_secs(10)).expect("an answer").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let path = scratch("file");
        fs::write(&path, "mine").unwrap();
        let refused = SocketFile::bind(&path).unwrap_err();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
    }
}
