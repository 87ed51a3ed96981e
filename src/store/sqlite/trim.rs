//! Cuts the past: what is beyond its size, or too old, goes in small parts, within the transactions
//! of new events or in ones of its own.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::channels::{Channel, Channels, Rows};
use super::log::Parts;
use super::row::{Left, is_of_rows, natural, place};
use crate::core::dedupe::{LAST, MOST, WINDOW_MS};
use crate::proto::name::ChannelName;
use crate::proto::position::{Epoch, Position};
use crate::store::Now;

/// Events that one batch cuts at least, if there are so many.
pub(super) const BATCH_BUDGET: u64 = 1_024;

/// Events that one look at all channels cuts.
const SWEEP_BUDGET: u64 = 4_096;

/// Channels of one look.
const SWEEP_CHANNELS: u32 = 256;

/// How long it takes at most to look at all channels of the file, in milliseconds, and how often
/// that is done where there are few.
const ROUND_MS: u64 = 600_000;
const LOOK_MS: u64 = 1_000;

/// A look that had more to cut than it may is followed by the next so soon.
const BUSY_MS: u64 = 250;

/// Events are cut so many at once, where time has passed them.
const STEP: u64 = 256;

/// A channel of which nothing is kept, and nobody has published on for this long, is forgotten, and
/// begins again with another epoch: a day.
const FORGET_MS: u64 = 24 * 3_600 * 1_000;

/// Rows that cannot be cut and are remembered, so that each is said once; beyond, all are forgotten.
const REFUSED_MAX: usize = 4_096;

/// Statements that cut, as long as the connection lives.
pub(super) struct Trimmer<'db> {
    left: Left<'db>,
    cut: Statement<'db>,
    cut_keys: Statement<'db>,
    nth_id: Statement<'db>,
    nth_last_id: Statement<'db>,
    last_row: Statement<'db>,
    cut_ids: Statement<'db>,
    channels: Statement<'db>,
    is_empty: Statement<'db>,
    forget: Statement<'db>,
    /// The last row that was looked at.
    cursor: i64,
    /// The row at hand.
    at: i64,
    /// The name of the channel that the last look has failed at, where that could be read.
    failed: Option<String>,
    /// Rows of channels that could not be cut.
    refused: HashSet<i64>,
    /// Between two looks, so that a round takes no longer than it may.
    pause_ms: u64,
}

/// A channel as a look finds it.
struct Found {
    row: i64,
    name: String,
    head: u64,
    ts_ms: u64,
}

impl<'db> Trimmer<'db> {
    pub(super) fn new(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            left: Left::new(db)?,
            cut: db.prepare("DELETE FROM events WHERE channel = ?1 AND offset <= ?2")?,
            cut_keys: db.prepare(
                "DELETE FROM latest WHERE channel = ?1 AND offset <= (
                     SELECT offset FROM latest WHERE channel = ?1
                     ORDER BY offset DESC LIMIT 1 OFFSET ?2)",
            )?,
            nth_id: db.prepare(
                "SELECT offset, ts FROM ids WHERE channel = ?1 ORDER BY offset LIMIT 1 OFFSET ?2",
            )?,
            nth_last_id: db.prepare(
                "SELECT offset, ts FROM ids WHERE channel = ?1
                 ORDER BY offset DESC LIMIT 1 OFFSET ?2",
            )?,
            last_row: db.prepare("SELECT max(id) FROM channels")?,
            cut_ids: db.prepare("DELETE FROM ids WHERE channel = ?1 AND offset <= ?2")?,
            channels: db.prepare(
                "SELECT id, name, head, ts FROM channels WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?,
            is_empty: db.prepare(
                "SELECT NOT EXISTS (SELECT 1 FROM events WHERE channel = ?1)
                    AND NOT EXISTS (SELECT 1 FROM latest WHERE channel = ?1)",
            )?,
            forget: db.prepare("DELETE FROM channels WHERE id = ?1")?,
            cursor: 0,
            at: 0,
            failed: None,
            refused: HashSet::new(),
            pause_ms: LOOK_MS,
        })
    }

    /// Cuts what the events of a batch have pushed out, once that is a good deal, or what is too
    /// old by then.
    pub(super) fn trim(
        &mut self,
        channel: &mut Channel,
        now: Now,
        budget: &mut u64,
    ) -> rusqlite::Result<()> {
        let slack = (channel.keep.history.size / 8).clamp(64, 4_096);
        self.cut_past(channel, (slack, &[STEP - 1]), now, budget)?;
        let Some(row) = channel.row else { return Ok(()) };
        if channel.rows.keys > (channel.keep.keys as u64 / 4).max(1_024) {
            let keys = i64::try_from(channel.keep.keys).unwrap_or(i64::MAX);
            self.cut_keys.execute(params![row, keys])?;
            channel.rows.keys = 0;
        }
        while channel.rows.ids > LAST as u64 + 2 * STEP {
            let nth = self.nth_id.query_row(params![row, STEP.cast_signed() - 1], place);
            let Some((offset, ts_ms)) = nth.optional()? else { break };
            let old = now.unix_ms.saturating_sub(ts_ms) > WINDOW_MS;
            if !old && channel.rows.ids <= MOST as u64 + STEP {
                break;
            }
            channel.rows.ids -= self.cut_ids.execute(params![row, offset.cast_signed()])? as u64;
        }
        Ok(())
    }

    /// Cuts events beyond the size and `slack`, and those that are too old: as many as `steps` and
    /// one at a time.
    fn cut_past(
        &mut self,
        channel: &mut Channel,
        (slack, steps): (u64, &[u64]),
        now: Now,
        budget: &mut u64,
    ) -> rusqlite::Result<()> {
        let Some(row) = channel.row else { return Ok(()) };
        let rule = channel.keep.history;
        let over =
            (channel.next + 1 - channel.first.min(channel.next + 1)).saturating_sub(rule.size);
        if over > slack && *budget > 0 {
            let oldest = self.left.from(row, 0)?;
            channel.first = oldest.map_or(channel.next + 1, |(offset, _)| offset);
            let upto = channel.next.saturating_sub(rule.size);
            if channel.first <= upto {
                let upto = upto.min(channel.first + *budget - 1);
                self.cut_upto((row, channel), upto, budget)?;
            }
        }
        for step in steps {
            while *budget > *step && channel.first <= channel.next {
                let found = self.left.from(row, channel.first + step)?;
                let old = |ts_ms: u64| now.unix_ms.saturating_sub(ts_ms) > rule.ttl_ms;
                let Some((offset, _)) = found.filter(|(_, ts_ms)| old(*ts_ms)) else { break };
                self.cut_upto((row, channel), offset, budget)?;
            }
        }
        Ok(())
    }

    fn cut_upto(
        &mut self,
        (row, channel): (i64, &mut Channel),
        offset: u64,
        budget: &mut u64,
    ) -> rusqlite::Result<()> {
        self.cut.execute(params![row, offset.cast_signed()])?;
        *budget = budget.saturating_sub(offset + 1 - channel.first);
        channel.first = offset + 1;
        Ok(())
    }

    /// Leaves out the channel that the last look has failed at, and says so once.
    pub(super) fn skip(&mut self, error: &rusqlite::Error) {
        self.cursor = self.at;
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        if self.refused.insert(self.at) {
            let (row, channel) = (self.at, self.failed.as_deref());
            tracing::error!(row, channel, "the past of a channel cannot be cut: {error}");
        }
    }

    /// Looks at some channels, whether anybody uses them or not, and cuts what is to go. Returns
    /// after how many milliseconds there is to be another look.
    ///
    /// # Errors
    ///
    /// Where it has failed at the row at hand; those before it are cut, if the file takes that.
    pub(super) fn sweep(
        &mut self,
        db: &Connection,
        channels: &mut Channels,
        parts: &Parts,
        now: Now,
    ) -> rusqlite::Result<u64> {
        // Where no row can be read, the next one is left out.
        self.at = self.cursor.saturating_add(1);
        self.failed = None;
        if self.cursor == 0 {
            let last: Option<i64> = self.last_row.query_row([], |row| row.get(0))?;
            let rows = last.unwrap_or_default().cast_unsigned().max(1);
            self.pause_ms = (ROUND_MS * u64::from(SWEEP_CHANNELS) / rows).clamp(1, LOOK_MS);
        }
        let found = self.found()?;
        if found.is_empty() {
            self.cursor = 0;
            return Ok(LOOK_MS);
        }
        db.execute_batch("BEGIN IMMEDIATE")?;
        let (mut budget, mut done) = (SWEEP_BUDGET, Ok(()));
        for one in &found {
            self.at = one.row;
            parts.queue.watchdog.step();
            done = self.look_at(one, (channels, parts), now, &mut budget);
            if done.is_err() {
                self.failed = Some(one.name.clone());
                break;
            }
            self.refused.remove(&one.row);
            if budget == 0 {
                break;
            }
            self.cursor = one.row;
        }
        // One bad channel must not undo the cuts of those before it: they have had their turn. Some
        // errors have undone them already.
        let is_cut = match &done {
            Ok(()) => true,
            Err(error) => is_of_rows(error) && !db.is_autocommit(),
        };
        let committed = if is_cut { db.execute_batch("COMMIT") } else { Ok(()) };
        if !is_cut || committed.is_err() {
            // What was cut is there again.
            for place in found.iter().filter_map(|one| channels.places.get(&*one.name)) {
                if let Some(channel) = channels.all.get_mut(*place) {
                    channel.first = 1;
                }
            }
        }
        committed.and(done)?;
        Ok(if budget == 0 { BUSY_MS.min(self.pause_ms) } else { self.pause_ms })
    }

    /// Cuts what is to go of one channel.
    fn look_at(
        &mut self,
        one: &Found,
        (channels, parts): (&mut Channels, &Parts),
        now: Now,
        budget: &mut u64,
    ) -> rusqlite::Result<()> {
        let Some(keep) = (parts.rules)(&one.name).filter(|keep| keep.durable) else {
            return Ok(());
        };
        let loaded = channels.places.get(&*one.name);
        if let Some(channel) = loaded.and_then(|place| channels.all.get_mut(*place)) {
            channel.keep = keep;
            self.cut_all(channel, (one.row, true), now, budget)
        } else {
            let mut channel = one.channel(keep);
            self.cut_all(&mut channel, (one.row, false), now, budget)?;
            self.forget(one, now)
        }
    }

    /// The next channels, up to one that cannot be read; that one is the row at hand where it is the
    /// first.
    fn found(&mut self) -> rusqlite::Result<Vec<Found>> {
        let at = &mut self.at;
        let mut rows = self.channels.query_map(params![self.cursor, SWEEP_CHANNELS], |row| {
            *at = row.get(0)?;
            let (head, ts_ms) = (natural(row, 2)?, natural(row, 3)?);
            Ok(Found { row: *at, name: row.get(1)?, head, ts_ms })
        })?;
        let mut found = Vec::new();
        loop {
            match rows.next() {
                Some(Ok(one)) => found.push(one),
                Some(Err(error)) if found.is_empty() => return Err(error),
                // The next look begins with it.
                Some(Err(_)) | None => return Ok(found),
            }
        }
    }

    fn cut_all(
        &mut self,
        channel: &mut Channel,
        (row, loaded): (i64, bool),
        now: Now,
        budget: &mut u64,
    ) -> rusqlite::Result<()> {
        let oldest = self.left.from(row, 0)?;
        channel.first = oldest.map_or(channel.next + 1, |(offset, _)| offset);
        self.cut_past(channel, (0, &[STEP - 1, 63, 15, 3, 0]), now, budget)?;
        if channel.keep.keys == 0 {
            self.cut_keys.execute(params![row, 0])?;
        }
        if loaded {
            // Its batches count its ids.
            return Ok(());
        }
        let first = self.nth_id.query_row(params![row, 0], place).optional()?;
        // Cheaper than to count them, where there cannot be too many.
        if first.is_none_or(|(offset, _)| channel.next - offset.min(channel.next) < LAST as u64) {
            return Ok(());
        }
        let beyond = self
            .nth_last_id
            .query_row(params![row, (LAST as u64).cast_signed()], place)
            .optional()?;
        if let Some((offset, ts_ms)) = beyond
            && now.unix_ms.saturating_sub(ts_ms) > WINDOW_MS
        {
            self.cut_ids.execute(params![row, offset.cast_signed()])?;
        }
        Ok(())
    }

    fn forget(&mut self, one: &Found, now: Now) -> rusqlite::Result<()> {
        if now.unix_ms.saturating_sub(one.ts_ms) > FORGET_MS
            && self.is_empty.query_row(params![one.row], |row| row.get(0))?
        {
            self.cut_ids.execute(params![one.row, i64::MAX])?;
            self.forget.execute(params![one.row])?;
        }
        Ok(())
    }
}

impl Found {
    /// As if it were in memory.
    fn channel(&self, keep: crate::core::policy::Keep) -> Channel {
        let head = Position { epoch: Epoch::from_seed(0), offset: self.head };
        Channel {
            name: ChannelName::from_checked(&self.name),
            row: Some(self.row),
            head,
            next: self.head,
            keep,
            first: self.head + 1,
            rows: Rows::default(),
            safe: Rows::default(),
        }
    }
}
