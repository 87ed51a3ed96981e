//! The statements that write events, prepared once for as long as the connection lives.

use rusqlite::{Connection, Statement};

use super::row;

/// A statement for each thing that is written of an event. What each takes, in the order of its
/// parameters, is in its text.
pub(super) struct Statements<'db> {
    pub(super) channel: Statement<'db>,
    pub(super) head: Statement<'db>,
    pub(super) event: Statement<'db>,
    pub(super) latest: Statement<'db>,
    /// Deletes the newest event of a key, which was a tombstone.
    pub(super) unlatest: Statement<'db>,
    pub(super) id: Statement<'db>,
}

impl<'db> Statements<'db> {
    pub(super) fn new(db: &'db Connection) -> rusqlite::Result<Self> {
        const EVENT: &str = concat!(
            "INTO events (channel, ",
            row::columns!(),
            ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        );
        Ok(Self {
            channel: db
                .prepare("INSERT INTO channels (name, epoch, head, ts) VALUES (?1, ?2, ?3, ?4)")?,
            head: db.prepare("UPDATE channels SET head = ?2, ts = ?3 WHERE id = ?1")?,
            event: db.prepare(&format!("INSERT {EVENT}"))?,
            latest: db.prepare(&format!("REPLACE {}", EVENT.replace("events", "latest")))?,
            unlatest: db.prepare("DELETE FROM latest WHERE channel = ?1 AND key = ?2")?,
            id: db.prepare("INSERT INTO ids (channel, offset, ts, id) VALUES (?1, ?2, ?3, ?4)")?,
        })
    }
}
