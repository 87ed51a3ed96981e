//! An event as a row, and back.

use std::sync::{Arc, OnceLock};

use rusqlite::Error::FromSqlConversionFailure;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Statement, params};

use crate::proto::encoder::Frames;
use crate::proto::event::{Author, Event, Payload};
use crate::proto::name::{Alias, ChannelName, ClientId, KEY_BYTES_MAX};
use crate::store::{NewEvent, Now};

/// The columns of `events` and of `latest`, in the order in which they are read.
macro_rules! columns {
    () => {
        "offset, ts, json, key, client, user, hidden_from, payload"
    };
}
pub(super) use columns;

/// Writes an event with a statement whose parameters are the channel's row and [`columns`].
pub(super) fn write(
    statement: &mut Statement<'_>,
    (channel, offset): (i64, u64),
    event: &NewEvent<'_>,
    now: Now,
) -> rusqlite::Result<()> {
    let (Payload::Json(payload) | Payload::Opaque(payload)) = &event.payload;
    let json = matches!(event.payload, Payload::Json(_));
    let author = event.from.as_deref();
    let client = author.map(|author| author.client.0.cast_signed());
    let user = author.and_then(|author| author.user.as_deref());
    let hidden_from = event.hidden_from.map(|client| client.0.cast_signed());
    let (offset, ts) = (offset.cast_signed(), now.unix_ms.cast_signed());
    let key = event.key.as_deref();
    statement.execute(params![
        channel,
        offset,
        ts,
        json,
        key,
        client,
        user,
        hidden_from,
        &**payload
    ])?;
    Ok(())
}

/// Makes events of the rows of one channel.
pub(super) struct Reader<'a> {
    pub(super) channel: &'a ChannelName,
    pub(super) alias: Alias,
    pub(super) now: Now,
    /// Of the last event, who is often that of the next.
    author: Option<Arc<Author>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(channel: &'a ChannelName, alias: Alias, now: Now) -> Self {
        Self { channel, alias, now, author: None }
    }

    /// The event of a row of [`columns`].
    pub(super) fn event(&mut self, row: &Row<'_>) -> rusqlite::Result<Arc<Event>> {
        let ts_ms = natural(row, 1)?;
        let payload = Box::from(row.get_ref(7)?.as_blob()?);
        let key: Option<Box<str>> = row.get_ref(3)?.as_str_or_null()?.map(Box::from);
        if key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(odd(3, Type::Text, "a key has at most 255 bytes"));
        }
        let hidden_from: Option<i64> = row.get(6)?;
        Ok(Arc::new(Event {
            channel: self.channel.clone(),
            alias: self.alias,
            offset: natural(row, 0)?,
            ts_ms,
            taken_ns: node_ns(self.now, ts_ms),
            key,
            from: self.author(row)?,
            hidden_from: hidden_from.map(|client| ClientId(client.cast_unsigned())),
            payload: if row.get(2)? { Payload::Json(payload) } else { Payload::Opaque(payload) },
            json_frame: OnceLock::new(),
            frames: Frames::default(),
        }))
    }

    fn author(&mut self, row: &Row<'_>) -> rusqlite::Result<Option<Arc<Author>>> {
        let Some(client) = row.get::<_, Option<i64>>(4)? else { return Ok(None) };
        let client = ClientId(client.cast_unsigned());
        let user = row.get_ref(5)?.as_str_or_null()?;
        let same = |last: &&Arc<Author>| last.client == client && last.user.as_deref() == user;
        if self.author.as_ref().filter(same).is_none() {
            self.author = Some(Arc::new(Author { client, user: user.map(Box::from) }));
        }
        Ok(self.author.clone())
    }
}

/// Finds the events that are left in the file.
pub(super) struct Left<'db>(Statement<'db>);

impl<'db> Left<'db> {
    pub(super) fn new(db: &'db Connection) -> rusqlite::Result<Self> {
        let text = "SELECT offset, ts FROM events WHERE channel = ?1 AND offset >= ?2
                    ORDER BY offset LIMIT 1";
        db.prepare(text).map(Self)
    }

    /// The first of a channel from that offset on, and when it was taken.
    pub(super) fn from(
        &mut self,
        channel: i64,
        offset: u64,
    ) -> rusqlite::Result<Option<(u64, u64)>> {
        self.0.query_row(params![channel, offset.cast_signed()], place).optional()
    }
}

/// An offset and a time.
pub(super) fn place(row: &Row<'_>) -> rusqlite::Result<(u64, u64)> {
    Ok((natural(row, 0)?, natural(row, 1)?))
}

/// A column that is not as Weir writes it.
pub(super) fn odd(column: usize, kind: Type, why: &'static str) -> rusqlite::Error {
    FromSqlConversionFailure(column, kind, why.into())
}

/// Whether an error is of the rows at hand, and not of the file: others can be read and written.
pub(super) fn is_of_rows(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, DatabaseCorrupt, TooBig, TypeMismatch};
    match error.sqlite_error_code() {
        Some(ConstraintViolation | DatabaseCorrupt | TooBig | TypeMismatch) => true,
        // What was read is not what Weir has written.
        None => true,
        Some(_) => false,
    }
}

/// A column that is never negative, where nobody else has written it.
pub(super) fn natural(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// A moment of the wall clock by the node's clock, which goes back further than anything is kept.
pub(super) fn node_ns(now: Now, unix_ms: u64) -> u64 {
    let age_ms = now.unix_ms.saturating_sub(unix_ms);
    now.node_ns.saturating_sub(age_ms.saturating_mul(1_000_000))
}
