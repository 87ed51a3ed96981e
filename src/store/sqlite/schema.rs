//! The tables, and how a file of an older version becomes one of this.

use rusqlite::{Connection, TransactionBehavior};

/// Says in the file's header that it is ours: `Weir`.
const APPLICATION_ID: i64 = 0x5765_6972;

/// What makes a file of each version one of the next; the first begins with an empty file. A step
/// that was released is never changed: what comes later is a step of its own.
pub(super) const STEPS: &[&str] = &[
    // `head` is the offset of the last event, `ts` when that was taken. `latest` has the newest event
    // of each key whole, so that the past can be cut without a look at it; `ids` are in the order of
    // events, because they are read all at once and cut at their old end.
    "CREATE TABLE channels (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        epoch TEXT NOT NULL,
        head INTEGER NOT NULL,
        ts INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE events (
        channel INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        ts INTEGER NOT NULL,
        json INTEGER NOT NULL,
        key TEXT,
        client INTEGER,
        user TEXT,
        hidden_from INTEGER,
        payload BLOB NOT NULL,
        PRIMARY KEY (channel, offset)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE latest (
        channel INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        ts INTEGER NOT NULL,
        json INTEGER NOT NULL,
        key TEXT NOT NULL,
        client INTEGER,
        user TEXT,
        hidden_from INTEGER,
        payload BLOB NOT NULL,
        PRIMARY KEY (channel, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ids (
        channel INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        ts INTEGER NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (channel, offset)
    ) STRICT, WITHOUT ROWID;",
];

/// Why a file is none of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(
        "this is the database of another program; nothing in it was changed: name another file"
    )]
    Foreign,
    #[error(
        "a newer Weir has written this file (its schema is {0}, this one knows {known}): run that \
         one, or name another file",
        known = STEPS.len()
    )]
    Newer(i64),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Looks whether the file is empty or ours, and changes nothing.
pub(super) fn check(db: &Connection) -> Result<(), SchemaError> {
    let application: i64 = pragma(db, "application_id")?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == APPLICATION_ID || (application == 0 && tables == 0) {
        Ok(())
    } else {
        Err(SchemaError::Foreign)
    }
}

/// Takes a file through the steps that it lacks, each whole or not at all.
pub(super) fn migrate(db: &mut Connection, steps: &[&str]) -> Result<(), SchemaError> {
    let version: i64 = pragma(db, "user_version")?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > steps.len() {
        return Err(SchemaError::Newer(version));
    }
    for (at, step) in steps.iter().enumerate().skip(done) {
        let step_of = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_of.execute_batch(step)?;
        step_of.pragma_update(None, "application_id", APPLICATION_ID)?;
        step_of.pragma_update(None, "user_version", i64::try_from(at + 1).unwrap_or(i64::MAX))?;
        step_of.commit()?;
    }
    Ok(())
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, name, |row| row.get(0))
}
