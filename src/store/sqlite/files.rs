//! Opens the file: it is ours, whole, of a schema that is known, and nobody else's for now.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::schema::{self, SchemaError};

/// What every SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long another program may hold the file before our write has failed.
const BUSY: Duration = Duration::from_secs(1);

/// Pages of the log after which they are moved into the file, 4 KiB each: more make that rarer and
/// longer. See ARCHITECTURE.md.
const CHECKPOINT_PAGES: u32 = 2_000;

/// Why the file of durable channels cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("store.path {}: {fault}", path.display())]
pub struct OpenError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("another gateway uses this file: each needs one of its own")]
    InUse,
    #[error("another program has locked this file: end it, or wait until it is done")]
    Locked,
    #[error("this is no SQLite database; nothing in it was changed: name another file")]
    NoDatabase,
    #[error(
        "the file is damaged or was cut off, and was left as it is: restore it from a copy, or name another file ({0})"
    )]
    Damaged(String),
    #[error("the file cannot be written: {0}")]
    ReadOnly(String),
    #[error("its folder does not exist: make it, or name another")]
    NoFolder,
    #[error("cannot be opened: {0}")]
    Io(io::Error),
    #[error("{0}")]
    Schema(SchemaError),
    #[error("this file system has no write-ahead log for SQLite: name a file on a local disk")]
    NoLog,
    #[error("cannot be opened: {0}")]
    Other(rusqlite::Error),
}

/// The file while it is used.
pub(super) struct Opened {
    pub(super) db: Connection,
    /// Holds the lock that keeps other gateways out; behind the connection, because the system
    /// drops SQLite's own locks with any descriptor of the file that is closed.
    pub(super) lock: File,
}

/// Opens the file, or makes it. `synced` is only not so in tests.
pub(super) fn open(path: &Path, synced: bool) -> Result<Opened, OpenError> {
    try_open(path, synced).map_err(|fault| OpenError { path: path.to_owned(), fault })
}

fn try_open(path: &Path, synced: bool) -> Result<Opened, Fault> {
    let fresh = !path.exists();
    let lock = lock(path)?;
    if fresh {
        keep_name(path);
    }
    check_magic(&lock)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(fault)?;
    db.busy_timeout(BUSY).map_err(fault)?;
    schema::check(&db).map_err(schema_fault)?;
    let mode: String =
        db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(fault)?;
    if mode != "wal" {
        return Err(Fault::NoLog);
    }
    // FULL: a commit is on disk when it returns.
    db.pragma_update(None, "synchronous", if synced { "FULL" } else { "OFF" }).map_err(fault)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(fault)?;
    // A log that grew while somebody read the file becomes small again.
    db.pragma_update(None, "journal_size_limit", 64 << 20).map_err(fault)?;
    db.pragma_update(None, "cache_size", -16_384).map_err(fault)?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(fault)?;
    schema::migrate(&mut db, schema::STEPS).map_err(schema_fault)?;
    Ok(Opened { db, lock })
}

/// Takes the file for this process. SQLite's own locks are left to SQLite, so that its tools can
/// read, and copy, the file of a running gateway.
fn lock(path: &Path) -> Result<File, Fault> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| {
        const READ_ONLY: [io::ErrorKind; 2] =
            [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
        if error.kind() == io::ErrorKind::NotFound {
            Fault::NoFolder
        } else if READ_ONLY.contains(&error.kind()) {
            Fault::ReadOnly(error.to_string())
        } else if error.kind() == io::ErrorKind::IsADirectory {
            Fault::NoDatabase
        } else {
            Fault::Io(error)
        }
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Fault::InUse),
        Err(error) => Err(Fault::Io(error.into())),
    }
}

/// Makes the name of a fresh file survive a power failure. Some file systems cannot.
fn keep_name(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    if let Err(error) = synced {
        tracing::debug!(%error, "the folder of store.path cannot be synced");
    }
}

fn check_magic(file: &File) -> Result<(), Fault> {
    let mut head = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(Fault::Io)?;
    if head.is_empty() || head == MAGIC { Ok(()) } else { Err(Fault::NoDatabase) }
}

fn schema_fault(error: SchemaError) -> Fault {
    match error {
        SchemaError::Sqlite(error) => fault(error),
        error @ (SchemaError::Foreign | SchemaError::Newer(_)) => Fault::Schema(error),
    }
}

fn fault(error: rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Locked,
        Some(ErrorCode::NotADatabase) => Fault::NoDatabase,
        Some(ErrorCode::DatabaseCorrupt) => Fault::Damaged(error.to_string()),
        Some(ErrorCode::ReadOnly) => Fault::ReadOnly(error.to_string()),
        _ => Fault::Other(error),
    }
}
