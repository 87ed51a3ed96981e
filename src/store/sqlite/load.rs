//! Brings a channel back into memory, as it was.

use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::row::{Reader, columns, node_ns};
use crate::core::policy::Keep;
use crate::proto::name::ChannelName;
use crate::proto::position::{Epoch, Position};
use crate::store::Now;
use crate::store::memory::{Memory, Restoring};

/// A channel as the writer knows it, while it is in memory.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    /// Its row; `None` while nothing was published.
    pub(super) row: Option<i64>,
    /// The last event that is safe.
    pub(super) head: Position,
    /// The last one that the batch at hand has.
    pub(super) next: u64,
    /// What the last event or subscription said about it.
    pub(super) keep: Keep,
    /// The oldest event in the file, or a lower offset.
    pub(super) first: u64,
    /// Its rows, with those of the batch at hand.
    pub(super) rows: Rows,
    /// The same without them.
    pub(super) safe: Rows,
}

/// Rows that are counted, so that they are cut when there are too many.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    /// Of `ids`.
    pub(super) ids: u64,
    /// Of `latest`, those that are too many, at most.
    pub(super) keys: u64,
}

impl Channel {
    /// Rows of its past and its ids, about.
    pub(super) fn kept_rows(&self) -> u64 {
        let past = (self.head.offset + 1).saturating_sub(self.first);
        past.min(self.keep.history.size) + self.rows.ids
    }
}

/// What loads channels: statements that live as long as the connection.
pub(super) struct Loader<'db> {
    channel: Statement<'db>,
    first: Statement<'db>,
    events: Statement<'db>,
    latest: Statement<'db>,
    ids: Statement<'db>,
}

impl<'db> Loader<'db> {
    pub(super) fn new(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            channel: db.prepare("SELECT id, epoch, head FROM channels WHERE name = ?1")?,
            first: db
                .prepare("SELECT offset FROM events WHERE channel = ?1 ORDER BY offset LIMIT 1")?,
            events: db.prepare(concat!(
                "SELECT ",
                columns!(),
                " FROM events WHERE channel = ?1 AND offset > ?2 ORDER BY offset"
            ))?,
            latest: db.prepare(concat!(
                "SELECT ",
                columns!(),
                " FROM latest WHERE channel = ?1 ORDER BY offset"
            ))?,
            ids: db.prepare("SELECT offset, ts, id FROM ids WHERE channel = ?1 ORDER BY offset")?,
        })
    }

    /// Restores a channel that is not in memory; one that nobody has published on begins.
    pub(super) fn load(
        &mut self,
        memory: &Memory,
        name: &str,
        keep: Keep,
        now: Now,
    ) -> rusqlite::Result<Channel> {
        let found = self.channel.query_row(params![name], |row| {
            let (id, head): (i64, i64) = (row.get(0)?, row.get(2)?);
            let epoch = Epoch::from_text(row.get_ref(1)?.as_str()?);
            Ok((id, epoch, head.cast_unsigned()))
        });
        let (row, head) = match found.optional()? {
            Some((id, Some(epoch), offset)) => (Some(id), Position { epoch, offset }),
            Some((id, None, _)) => {
                // Nobody wrote that. It must not begin again under the offsets that it had.
                tracing::error!(channel = name, row = id, "the epoch in store.path is none");
                return Err(rusqlite::Error::InvalidQuery);
            }
            None => {
                let epoch = Epoch::from_seed(fastrand::u64(..));
                (None, Position { epoch, offset: 0 })
            }
        };
        let mut restoring = memory.restoring(name, head);
        let (mut first, mut rows) = (head.offset + 1, Rows::default());
        if let Some(row) = row {
            let oldest = self.first.query_row(params![row], |row| row.get::<_, i64>(0));
            first = oldest.optional()?.map_or(first, i64::cast_unsigned);
            self.events(&mut restoring, row, keep, now)?;
            let all = self.latest(&mut restoring, row, keep, now)?;
            rows.keys = all.saturating_sub(keep.keys as u64);
            rows.ids = self.ids(&mut restoring, row, now)?;
        }
        let name = restoring.name.clone();
        memory.restored(restoring, now.node_ns / 1_000_000);
        let next = head.offset;
        Ok(Channel { name, row, head, next, keep, first, rows, safe: rows })
    }

    fn events(
        &mut self,
        restoring: &mut Restoring,
        row: i64,
        keep: Keep,
        now: Now,
    ) -> rusqlite::Result<()> {
        if keep.history.size == 0 {
            return Ok(());
        }
        let head = restoring.head.offset;
        let after = head.saturating_sub(keep.history.size);
        let name = restoring.name.clone();
        let mut reader = Reader::new(&name, restoring.alias, now);
        let mut rows = self.events.query(params![row, after.cast_signed()])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let event = reader.event(row)?;
            // Where the namespace has kept nothing for a while there is a hole.
            if last.is_some_and(|last| event.offset != last + 1) {
                restoring.kept.forget_past();
            }
            last = Some(event.offset);
            restoring.kept.recall(&event, keep);
        }
        if last != Some(head) {
            restoring.kept.forget_past();
        }
        Ok(())
    }

    fn latest(
        &mut self,
        restoring: &mut Restoring,
        row: i64,
        keep: Keep,
        now: Now,
    ) -> rusqlite::Result<u64> {
        if keep.keys == 0 {
            return Ok(0);
        }
        let mut count = 0;
        let name = restoring.name.clone();
        let mut reader = Reader::new(&name, restoring.alias, now);
        let mut rows = self.latest.query(params![row])?;
        while let Some(row) = rows.next()? {
            restoring.kept.recall_key(&reader.event(row)?, keep);
            count += 1;
        }
        Ok(count)
    }

    fn ids(&mut self, restoring: &mut Restoring, row: i64, now: Now) -> rusqlite::Result<u64> {
        let mut rows = self.ids.query(params![row])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let ts_ms = row.get::<_, i64>(1)?.cast_unsigned();
            let offset = row.get::<_, i64>(0)?.cast_unsigned();
            let id = Box::from(row.get_ref(2)?.as_str()?);
            restoring.kept.recall_id(id, offset, node_ns(now, ts_ms) / 1_000_000);
            count += 1;
        }
        Ok(count)
    }
}
