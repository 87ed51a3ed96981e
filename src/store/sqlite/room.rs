//! Whether the file has room again for what it has refused.
//!
//! An empty transaction does not tell: what has failed has made the log longer by what there was
//! room for, and that is free again for whatever is small.

use rusqlite::{Connection, params};

/// What SQLite writes at once.
const PAGE: usize = 4_096;

/// Pages that a batch changes whatever it has, at most about so many.
const PAGES: usize = 4;

/// The row that is written and deleted again: no channel has that one.
const NOBODY: i64 = 0;

/// How much room events take together, about, on so many channels.
pub(super) fn needed(bytes: usize, channels: usize) -> usize {
    bytes + (PAGES + channels) * PAGE
}

/// Writes so many bytes and deletes them. The checkpoint behind it gives their room, in the log and
/// in the file, to the next batch.
pub(super) fn prove(db: &Connection, bytes: usize) -> rusqlite::Result<()> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let text = "REPLACE INTO events (channel, offset, ts, json, payload)
                VALUES (?1, 0, 0, 0, zeroblob(?2))";
    db.execute(text, params![NOBODY, bytes])?;
    db.execute("DELETE FROM events WHERE channel = ?1", params![NOBODY])?;
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Deletes what a crash in between has left. Where that cannot be done now, it takes room and
/// nothing else.
pub(super) fn clean(db: &Connection) {
    let text = "SELECT EXISTS (SELECT 1 FROM events WHERE channel = ?1)";
    let found = db.query_row(text, params![NOBODY], |row| row.get(0));
    let done = found.and_then(|left: bool| {
        if left {
            db.execute("DELETE FROM events WHERE channel = ?1", params![NOBODY])
        } else {
            Ok(0)
        }
    });
    if let Err(error) = done {
        tracing::warn!(%error, "what a look for room has left in store.path stays there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;

    /// Goal: room for a little is no room for a batch, and looking takes none for good.
    #[test]
    fn as_much_as_was_refused_must_fit() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db, schema::STEPS).unwrap();
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        db.pragma_update(None, "max_page_count", pages + 20).unwrap();
        let full = prove(&db, needed(100_000, 1)).unwrap_err();
        assert_eq!(full.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        for _ in 0..10 {
            prove(&db, needed(0, 1)).unwrap();
        }
        db.pragma_update(None, "max_page_count", pages + 40).unwrap();
        prove(&db, needed(100_000, 1)).unwrap();
        let rows = |db: &Connection| -> i64 {
            db.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(rows(&db), 0);
        // As a crash leaves it.
        let left = "INSERT INTO events (channel, offset, ts, json, payload)
                    VALUES (0, 0, 0, 0, x'00'), (1, 1, 0, 0, x'00')";
        db.execute_batch(left).unwrap();
        clean(&db);
        assert_eq!(rows(&db), 1, "the other is a channel's");
    }
}
