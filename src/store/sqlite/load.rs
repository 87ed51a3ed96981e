//! Brings a channel back into memory, as it was.

use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use super::aside::Refused;
use super::channels::{Channel, Channels, Rows};
use super::log::Parts;
use super::row::{Left, Reader, columns, is_of_rows, natural, node_ns, odd, place};
use super::watchdog::Watchdog;
use crate::core::policy::Keep;
use crate::proto::position::{Epoch, Position};
use crate::store::memory::{Memory, Restoring};
use crate::store::{Now, StoreError};

/// Offsets that a channel of the file may have reached: it can go on from there for good.
const HEAD_MAX: u64 = 1 << 62;

/// What loads channels: statements that live as long as the connection.
pub(super) struct Loader<'db> {
    channel: Statement<'db>,
    left: Left<'db>,
    events: Statement<'db>,
    latest: Statement<'db>,
    ids: Statement<'db>,
    names: Statement<'db>,
    /// Rows that were read.
    rows: u64,
    watchdog: Arc<Watchdog>,
}

/// A name in the file, where nobody else has written there.
pub(super) struct Name {
    pub(super) bytes: Box<[u8]>,
    /// The newest event of some key is kept.
    pub(super) keyed: bool,
}

/// Says that something cannot be read, with its name.
pub(super) fn unreadable(name: &str, error: &rusqlite::Error) {
    tracing::error!(channel = name, "a channel cannot be read from store.path: {error}");
}

/// How long something is set aside that cannot be read: what is wrong with the whole file, a lock for
/// example, may be over at once, and then nobody is to wait for a channel that was never bad.
pub(super) fn refused(error: &rusqlite::Error) -> Refused {
    if is_of_rows(error) { Refused::Read } else { Refused::File }
}

/// The first text behind a name, which itself is not before `from`. `None` where it is, as in an
/// index that is damaged: whoever went on there would go round for ever.
pub(super) fn after(name: &[u8], from: &[u8]) -> Option<Vec<u8>> {
    (name >= from).then(|| [name, b"\0"].concat())
}

/// Bytes that are compared as text, whatever they are.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

impl<'db> Loader<'db> {
    pub(super) fn new(db: &'db Connection, watchdog: Arc<Watchdog>) -> rusqlite::Result<Self> {
        Ok(Self {
            channel: db.prepare("SELECT id, epoch, head FROM channels WHERE name = ?1")?,
            left: Left::new(db)?,
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
            names: db.prepare(
                "SELECT name, EXISTS (SELECT 1 FROM latest WHERE channel = channels.id)
                 FROM channels WHERE name >= ?1 ORDER BY name LIMIT ?2",
            )?,
            rows: 0,
            watchdog,
        })
    }

    /// The next names that begin with `prefix`, from `from` on, which does too. One bound alone:
    /// beside the prefix itself SQLite would seek by that, and walk over all that came before.
    pub(super) fn names(
        &mut self,
        prefix: &str,
        from: &[u8],
        limit: usize,
    ) -> rusqlite::Result<Vec<Name>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.names.query_map(params![Text(from), limit], |row| {
            Ok(Name { bytes: row.get_ref(0)?.as_bytes()?.into(), keyed: row.get(1)? })
        })?;
        let begins = |name: &rusqlite::Result<Name>| {
            name.as_ref().map_or(true, |one| one.bytes.starts_with(prefix.as_bytes()))
        };
        rows.take_while(begins).collect()
    }

    /// Rows that were read since the last call.
    pub(super) fn take_rows(&mut self) -> u64 {
        std::mem::take(&mut self.rows)
    }

    /// The place of a channel, which is loaded where it is not there. One that cannot be read is
    /// set aside for a while, in which it costs no look at the disk.
    pub(super) fn find(
        &mut self,
        (channels, parts): (&mut Channels, &Parts),
        name: &str,
        keep: Keep,
    ) -> Result<usize, StoreError> {
        if let Some(place) = channels.places.get(name) {
            return Ok(*place);
        }
        let now = (parts.clock)();
        if channels.aside.has(name, now.node_ms()) {
            return Err(StoreError::Faulty);
        }
        self.watchdog.step();
        match self.load(&parts.memory, name, keep, now) {
            Ok(channel) => {
                if channels.aside.remove(name, Refused::Read) {
                    tracing::info!(channel = name, "a channel can be read from store.path again");
                }
                Ok(channels.insert(name, channel))
            }
            Err(error) => {
                // From the end of a try on: it may have taken long.
                let now_ms = (parts.clock)().node_ms();
                if channels.aside.put(name, now_ms, refused(&error), &parts.whole) {
                    unreadable(name, &error);
                }
                Err(StoreError::Faulty)
            }
        }
    }

    /// Restores a channel that is not in memory; one that nobody has published on begins.
    fn load(
        &mut self,
        memory: &Memory,
        name: &str,
        keep: Keep,
        now: Now,
    ) -> rusqlite::Result<Channel> {
        let found = self.channel.query_row(params![name], |row| {
            // A channel whose row is not as it was written must not begin again under its offsets.
            let epoch = Epoch::from_text(row.get_ref(1)?.as_str()?);
            let epoch = epoch.ok_or_else(|| odd(1, Type::Text, "this is no epoch"))?;
            let offset = natural(row, 2)?;
            if offset > HEAD_MAX {
                return Err(odd(2, Type::Integer, "so many events nobody has published"));
            }
            Ok((row.get(0)?, Position { epoch, offset }))
        });
        let (row, head) = match found.optional()? {
            Some((id, head)) => (Some(id), head),
            None => {
                let epoch = Epoch::from_seed(fastrand::u64(..));
                (None, Position { epoch, offset: 0 })
            }
        };
        let mut restoring = memory.restoring(name, head);
        let (mut first, mut rows) = (head.offset + 1, Rows::default());
        if let Some(row) = row {
            first = self.left.from(row, 0)?.map_or(first, |(offset, _)| offset);
            self.events(&mut restoring, row, keep, now)?;
            let all = self.latest(&mut restoring, row, keep, now)?;
            rows.keys = all.saturating_sub(keep.keys as u64);
            rows.ids = self.ids(&mut restoring, row, now)?;
        }
        let name = restoring.name.clone();
        memory.restored(restoring, now.node_ms());
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
            self.rows += 1;
            self.watchdog.step();
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
        let (mut count, mut last) = (0, 0);
        let head = restoring.head.offset;
        let name = restoring.name.clone();
        let mut reader = Reader::new(&name, restoring.alias, now);
        let mut rows = self.latest.query(params![row])?;
        while let Some(row) = rows.next()? {
            self.rows += 1;
            self.watchdog.step();
            let event = reader.event(row)?;
            if event.offset <= last || event.offset > head {
                // Nobody would be shown the next event of that key, or somebody one of two twice.
                return Err(odd(0, Type::Integer, "this is no place of the newest of a key"));
            }
            last = event.offset;
            restoring.kept.recall_key(&event, keep);
            count += 1;
        }
        Ok(count)
    }

    fn ids(&mut self, restoring: &mut Restoring, row: i64, now: Now) -> rusqlite::Result<u64> {
        let mut rows = self.ids.query(params![row])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            self.rows += 1;
            self.watchdog.step();
            let (offset, ts_ms) = place(row)?;
            let id = Box::from(row.get_ref(2)?.as_str()?);
            restoring.kept.recall_id(id, offset, node_ns(now, ts_ms) / 1_000_000);
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::proto::event::Event;
    use crate::proto::name::ShardId;
    use crate::store::Deliver;
    use crate::store::sqlite::schema;

    struct Nobody;

    impl Deliver for Nobody {
        fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
            false
        }
    }

    /// Goal: a turn of the writer ends also where it has read many rows of channels that are bad.
    #[test]
    fn rows_that_were_read_in_vain_count() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db, schema::STEPS).unwrap();
        let text = "INSERT INTO channels (id, name, epoch, head, ts) VALUES
                        (1, 'latest', '00000001', 3, 0), (2, 'ids', '00000001', 3, 0);
                    INSERT INTO latest (channel, offset, ts, json, key, payload) VALUES
                        (1, 1, 0, 1, 'a', x'31'), (1, 2, 0, 1, 'b', x'31'),
                        (1, 3, 0, 1, CAST(x'ff' AS TEXT), x'31');
                    INSERT INTO ids (channel, offset, ts, id) VALUES
                        (2, 1, 0, 'a'), (2, 2, 0, 'b'), (2, 3, 0, CAST(x'ff' AS TEXT))";
        db.execute_batch(text).unwrap();
        let memory = Memory::new(Arc::new(Nobody));
        let mut loader = Loader::new(&db, Arc::default()).unwrap();
        let keep = Keep { keys: 4, durable: true, ..Keep::default() };
        for channel in ["latest", "ids"] {
            let now = Now { unix_ms: 1, node_ns: 1 };
            assert!(loader.load(&memory, channel, keep, now).is_err(), "{channel}");
            assert_eq!(loader.take_rows(), 3, "{channel}");
        }
    }

    /// Goal: what a prefix of many channels costs grows as they do, and not as their square.
    #[test]
    fn each_page_of_a_prefix_costs_the_same() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db, schema::STEPS).unwrap();
        let text = "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 1999)
                    INSERT INTO channels (name, epoch, head, ts)
                    SELECT printf('a/%04d', n), '00000001', 1, 0 FROM n
                    UNION ALL SELECT name, '00000001', 1, 0
                    FROM (SELECT 'a' AS name UNION ALL SELECT 'a/' UNION ALL SELECT 'b/1')";
        db.execute_batch(text).unwrap();
        let mut loader = Loader::new(&db, Arc::default()).unwrap();
        let (mut from, mut all, mut steps) = (b"a/".to_vec(), Vec::new(), Vec::new());
        loop {
            loader.names.reset_status(StatementStatus::VmStep);
            let names = loader.names("a/", &from, 100).unwrap();
            let Some(last) = names.last() else { break };
            from = after(&last.bytes, &from).unwrap();
            if names.len() == 100 {
                steps.push(loader.names.get_status(StatementStatus::VmStep));
            }
            all.extend(names.into_iter().map(|one| String::from_utf8(one.bytes.into()).unwrap()));
        }
        let mut wanted = vec!["a/".to_owned()];
        wanted.extend((0..2_000).map(|n| format!("a/{n:04}")));
        assert_eq!(all, wanted, "a channel may have the very name of the prefix");
        let (least, most) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
        assert!(steps.len() == 20 && *most < *least * 3 / 2, "{steps:?}");
    }
}
