//! The thread that writes: takes all that waits, makes it one transaction, and when that is on disk
//! gives the events to the memory store, in the same order, and tells their publishers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::aside::Refused;
use super::channels::Channels;
use super::load::Loader;
use super::loads::PrefixLoad;
use super::log::Parts;
use super::queue::Pending;
use super::row::is_of_rows;
use super::statements::Statements;
use super::trim::{BATCH_BUDGET, Trimmer};
use super::{room, row};
use crate::core::keyed::is_tombstone;
use crate::core::metrics::BOUNDS_US;
use crate::proto::position::Position;
use crate::store::{Now, Published, Store, StoreError};

/// Events of one transaction.
const BATCH_MAX: usize = 4_096;

/// Bytes of its events, but for one that is larger and goes alone: a commit is one step for the
/// [watchdog](super::watchdog), so what waits under a burst must not be all in one.
const BATCH_BYTES: usize = 16 << 20;

/// When the past is cut again after that has failed, in milliseconds.
const HOUSE_MS: u64 = 1_000;

/// Channels whose rows the file refuses, one after the other and with nothing written in between:
/// beyond them it is the file that is bad.
const ASIDE_MAX: u32 = 8;

/// When it is tried again whether the file can be written, in milliseconds: first, and at most.
const RETRY_MS: std::ops::RangeInclusive<u64> = 100..=5_000;

/// What becomes of an event of the batch.
enum Stage {
    /// It is the next of this channel.
    New(usize),
    /// It was published before, on this channel, under this offset.
    Again(usize, u64),
    /// It is not taken, for that reason.
    Not(StoreError),
}

pub(super) struct Writer<'db> {
    db: &'db Connection,
    pub(super) loader: Loader<'db>,
    statements: Statements<'db>,
    trimmer: Trimmer<'db>,
    pub(super) parts: Parts,
    pub(super) channels: Channels,
    /// Prefixes that are being loaded.
    pub(super) prefixes: VecDeque<PrefixLoad>,
    stages: Vec<Stage>,
    /// Channels of which the batch has events, and those of them that have no row without it.
    touched: Vec<usize>,
    fresh: Vec<usize>,
    /// The channel whose rows are being written.
    at: Option<usize>,
    /// Events that were answered with the last batch.
    answered: usize,
    /// Channels that were set aside since something was written.
    refused: u32,
    /// The room that the batch needed which has failed last, in bytes.
    needed: usize,
    /// When the next of these is due, node milliseconds.
    house_ms: u64,
    retry_ms: u64,
    /// How long after a failure it is tried again.
    pause_ms: u64,
}

impl<'db> Writer<'db> {
    pub(super) fn new(db: &'db Connection, parts: Parts) -> rusqlite::Result<Self> {
        room::clean(db);
        Ok(Self {
            loader: Loader::new(db, Arc::clone(&parts.queue.watchdog))?,
            statements: Statements::new(db)?,
            trimmer: Trimmer::new(db)?,
            db,
            parts,
            channels: Channels::default(),
            prefixes: VecDeque::new(),
            stages: Vec::new(),
            touched: Vec::new(),
            fresh: Vec::new(),
            at: None,
            answered: 0,
            refused: 0,
            needed: room::needed(0, 0),
            house_ms: 0,
            retry_ms: 0,
            pause_ms: *RETRY_MS.start(),
        })
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(&mut self) {
        loop {
            let now_ms = self.now_ms();
            let house_ms = self.house_ms.min(self.channels.look_ms());
            let due_ms = if self.parts.queue.is_up() { house_ms } else { self.retry_ms };
            let work = &self.parts.work;
            let more = !work.events.pending.is_empty() || !work.loads.is_empty();
            let more = more || !self.prefixes.is_empty();
            let patience = if more { 0 } else { due_ms.saturating_sub(now_ms).max(1) };
            let patience = Duration::from_millis(patience);
            let queue = Arc::clone(&self.parts.queue);
            queue.watchdog.rest();
            if !queue.take(&mut self.parts.work, patience, self.answered) {
                return;
            }
            queue.watchdog.step();
            self.load();
            if !queue.is_up() {
                self.retry();
            }
            if queue.is_up() {
                self.commit();
                self.keep_house();
            }
            if !queue.is_up() {
                let waiting = self.parts.work.events.pending.len();
                let bytes = self.parts.work.events.refuse(waiting, StoreError::Away);
                queue.settle(waiting, bytes);
            }
            queue.set_faulty(self.channels.aside.len());
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.parts.clock)().node_ms()
    }

    /// Makes the next events one transaction, and tells of it.
    fn commit(&mut self) {
        let count = self.batch();
        self.answered = 0;
        if count == 0 {
            return;
        }
        let begun = (self.parts.clock)();
        loop {
            self.prepare(count, begun);
            let Err(error) = self.write(count, begun) else { break };
            self.needed = self.need(count);
            self.undo();
            match self.at.take().filter(|_| is_of_rows(&error) && self.refused < ASIDE_MAX) {
                // The others' events go without its.
                Some(place) => self.set_aside(place, &error, begun),
                None => return self.fail(&error),
            }
        }
        if !self.touched.is_empty() {
            let took_us = ((self.parts.clock)().node_ns - begun.node_ns) / 1_000;
            self.parts.queue.seconds.lock().record(took_us, &BOUNDS_US);
            self.pause_ms = *RETRY_MS.start();
            self.refused = 0;
            self.take_back();
        }
        let bytes = self.apply();
        self.answered = count;
        self.parts.work.events.send();
        self.parts.queue.settle(count, bytes);
    }

    /// How many of the events that wait become one transaction.
    fn batch(&self) -> usize {
        let pending = &self.parts.work.events.pending;
        let mut bytes = 0;
        let fits = |one: &&Pending| {
            bytes += one.event.bytes();
            bytes <= BATCH_BYTES
        };
        let fit = pending.iter().take(BATCH_MAX).take_while(fits).count();
        fit.max(1).min(pending.len())
    }

    /// The room that what was prepared takes in the file, about.
    fn need(&self, count: usize) -> usize {
        let batch = self.parts.work.events.pending.range(..count).zip(&self.stages);
        let new = batch.filter(|(_, stage)| matches!(stage, Stage::New(_)));
        let bytes = new.map(|(Pending { event, .. }, _)| {
            let rows = usize::from(event.keep.history.size > 0) + usize::from(event.keep.keys > 0);
            rows * event.payload.len()
        });
        room::needed(bytes.sum(), self.touched.len())
    }

    /// Takes nothing for a channel for a while, whose rows the file refuses.
    fn set_aside(&mut self, place: usize, error: &rusqlite::Error, now: Now) {
        self.refused += 1;
        let Channels { all, aside, .. } = &mut self.channels;
        let Some(channel) = all.get(place) else { return };
        let name = channel.name.as_str();
        if aside.put(name, now.node_ms(), Refused::Written, &self.parts.whole) {
            tracing::error!(channel = name, "a channel cannot be written to store.path: {error}");
        }
    }

    /// What was written is well again.
    fn take_back(&mut self) {
        let Channels { all, aside, .. } = &mut self.channels;
        for channel in self.touched.iter().filter_map(|place| all.get(*place)) {
            let name = channel.name.as_str();
            if aside.remove(name, Refused::Written) {
                tracing::info!(channel = name, "a channel can be written to store.path again");
            }
        }
    }

    /// Finds what each of the first events is, and its channel.
    fn prepare(&mut self, count: usize, now: Now) {
        let mut ids: HashMap<(usize, &str), u64> = HashMap::new();
        self.stages.clear();
        for pending in self.parts.work.events.pending.range(..count) {
            let event = &pending.event;
            let found = if pending.is_wanted() {
                let from = (&mut self.channels, &self.parts);
                self.loader.find(from, &event.channel, event.keep)
            } else {
                // Nobody is told: there is nobody.
                Err(StoreError::Away)
            };
            let found = found.and_then(|place| {
                let aside = self.channels.aside.has(&event.channel, now.node_ms());
                let channel = self.channels.all.get_mut(place).filter(|_| !aside);
                channel.map(|channel| (place, channel)).ok_or(StoreError::Faulty)
            });
            let (place, channel) = match found {
                Ok(found) => found,
                Err(error) => {
                    self.stages.push(Stage::Not(error));
                    continue;
                }
            };
            if let Some(id) = event.message_id.as_deref() {
                let before = ids.get(&(place, id)).copied();
                let before = before.or_else(|| self.parts.memory.published(&event.channel, id));
                if let Some(offset) = before {
                    self.stages.push(Stage::Again(place, offset));
                    continue;
                }
                ids.insert((place, id), channel.next + 1);
            }
            if channel.next == channel.head.offset {
                self.touched.push(place);
            }
            channel.next += 1;
            channel.keep = event.keep;
            self.stages.push(Stage::New(place));
        }
    }

    /// Writes what was prepared.
    fn write(&mut self, count: usize, now: Now) -> rusqlite::Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        self.at = None;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let Self { db, statements, channels, parts, stages, touched, fresh, at: writing, .. } =
            self;
        let watchdog = &parts.queue.watchdog;
        for place in touched.iter() {
            watchdog.step();
            *writing = Some(*place);
            let Some(channel) = channels.all.get_mut(*place) else { continue };
            let (head, ts) = (channel.next.cast_signed(), now.unix_ms.cast_signed());
            if let Some(row) = channel.row {
                statements.head.execute(params![row, head, ts])?;
            } else {
                let (name, epoch) = (channel.name.as_str(), channel.head.epoch);
                statements.channel.execute(params![name, epoch.as_str(), head, ts])?;
                channel.row = Some(db.last_insert_rowid());
                fresh.push(*place);
            }
            // Counts up again as its events are written.
            channel.next = channel.head.offset;
        }
        let batch = parts.work.events.pending.range(..count).zip(stages.iter());
        for (Pending { event, now, .. }, stage) in batch {
            let Stage::New(place) = stage else { continue };
            *writing = Some(*place);
            let Some(channel) = channels.all.get_mut(*place) else { continue };
            let Some(row) = channel.row else { continue };
            watchdog.step();
            channel.next += 1;
            let at = (row, channel.next);
            if event.keep.history.size > 0 {
                row::write(&mut statements.event, at, event, *now)?;
            }
            if let Some(id) = &event.message_id {
                let (offset, ts) = (at.1.cast_signed(), now.unix_ms.cast_signed());
                statements.id.execute(params![row, offset, ts, id])?;
                channel.rows.ids += 1;
            }
        }
        self.write_latest(count)?;
        let Self { db, trimmer, channels, parts, touched, at: writing, .. } = self;
        let watchdog = &parts.queue.watchdog;
        let mut budget = BATCH_BUDGET.max(2 * count as u64);
        for place in touched.iter() {
            watchdog.step();
            *writing = Some(*place);
            let Some(channel) = channels.all.get_mut(*place) else { continue };
            trimmer.trim(channel, now, &mut budget)?;
        }
        *writing = None;
        watchdog.step();
        db.execute_batch("COMMIT")
    }

    /// Writes the newest event of each key: of each key the last of the batch alone.
    fn write_latest(&mut self, count: usize) -> rusqlite::Result<()> {
        let Self { statements, channels, parts, stages, at: writing, .. } = self;
        let batch = || parts.work.events.pending.range(..count).zip(stages.iter());
        if !batch().any(|(pending, _)| pending.event.keep.keys > 0) {
            return Ok(());
        }
        let mut offsets: HashMap<usize, u64> = HashMap::new();
        let mut seen: HashSet<(usize, &str)> = HashSet::new();
        for (Pending { event, now, .. }, stage) in batch().rev() {
            let Stage::New(place) = stage else { continue };
            *writing = Some(*place);
            let Some(channel) = channels.all.get_mut(*place) else { continue };
            let offset = offsets.entry(*place).or_insert(channel.next);
            let at = (channel.row.unwrap_or_default(), *offset);
            *offset -= 1;
            let Some(key) = event.key.as_deref().filter(|_| event.keep.keys > 0) else { continue };
            if !seen.insert((*place, key)) {
                continue;
            }
            parts.queue.watchdog.step();
            if is_tombstone(&event.payload) {
                statements.unlatest.execute(params![at.0, key])?;
            } else {
                row::write(&mut statements.latest, at, event, *now)?;
                channel.rows.keys += 1;
            }
        }
        Ok(())
    }

    /// Nothing of the batch was written.
    fn undo(&mut self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction of the store was not rolled back");
        }
        for place in self.touched.drain(..) {
            if let Some(channel) = self.channels.all.get_mut(place) {
                channel.next = channel.head.offset;
                // What was cut is there again, and what was written is not.
                channel.first = 1;
                channel.rows = channel.safe;
            }
        }
        for place in self.fresh.drain(..) {
            if let Some(channel) = self.channels.all.get_mut(place) {
                channel.row = None;
            }
        }
    }

    /// Gives the events of a batch that is on disk to the memory store, and their publishers their
    /// answers. Returns the bytes of the events.
    fn apply(&mut self) -> usize {
        let (events, channels) = (&mut self.parts.work.events, &mut self.channels);
        let mut bytes = 0;
        for stage in self.stages.drain(..) {
            let Some(pending) = events.pending.pop_front() else { break };
            let Pending { event, now, told } = pending;
            // Its publisher hears of it also where what follows panics.
            events.at_hand = Some(told);
            bytes += event.bytes();
            let (place, before) = match stage {
                Stage::New(place) => (place, None),
                Stage::Again(place, offset) => (place, Some(offset)),
                Stage::Not(error) => {
                    events.tell_at_hand(Err(error));
                    continue;
                }
            };
            let Some(channel) = channels.all.get_mut(place) else {
                events.tell_at_hand(Err(StoreError::Away));
                continue;
            };
            let published = if let Some(offset) = before {
                let position = Position { offset, ..channel.head };
                Ok(Published { position, duplicate: true, crowded: None })
            } else {
                channel.head.offset += 1;
                let published = self.parts.memory.publish(event, now);
                let right = published.as_ref().is_ok_and(|p| p.position == channel.head);
                if !right {
                    tracing::error!(
                        channel = channel.name.as_str(),
                        "{published:?} is not {:?}, which is on disk",
                        channel.head
                    );
                }
                published
            };
            events.tell_at_hand(published.map(|published| (&channel.name, published)));
        }
        for place in self.touched.drain(..) {
            if let Some(channel) = self.channels.all.get_mut(place) {
                channel.safe = channel.rows;
            }
        }
        self.fresh.clear();
        bytes
    }

    /// The file cannot be written for now.
    fn fail(&mut self, error: &rusqlite::Error) {
        let queue = &self.parts.queue;
        if queue.is_up() {
            tracing::error!(
                "store.path cannot be written: {error}; durable channels are unavailable"
            );
        }
        queue.set_fault(&format!("store.path cannot be written: {error}"));
        self.retry_ms = self.now_ms() + self.pause_ms;
        self.pause_ms = (self.pause_ms * 2).min(*RETRY_MS.end());
    }

    /// Tries whether the file can be written again.
    fn retry(&mut self) {
        if self.now_ms() < self.retry_ms {
            return;
        }
        self.parts.queue.watchdog.step();
        match room::prove(self.db, self.needed) {
            Ok(()) => {
                tracing::info!("store.path can be written again");
                self.refused = 0;
                self.parts.queue.set_up();
            }
            Err(error) => {
                self.undo();
                self.fail(&error);
            }
        }
    }

    /// Cuts the past where nobody publishes, and lets go of channels that nobody uses.
    fn keep_house(&mut self) {
        let now = (self.parts.clock)();
        let now_ms = now.node_ms();
        if now_ms >= self.house_ms {
            self.house_ms = now_ms + HOUSE_MS;
            self.channels.try_again(&self.parts.whole, now_ms);
            match self.trimmer.sweep(self.db, &mut self.channels, &self.parts, now) {
                Ok(pause_ms) => self.house_ms = now_ms + pause_ms,
                Err(error) => {
                    self.undo();
                    if !is_of_rows(&error) {
                        return self.fail(&error);
                    }
                    self.trimmer.skip(&error);
                }
            }
        }
        let Self { channels, parts, prefixes, .. } = self;
        let held = |name: &str| prefixes.iter().any(|load| load.has(name));
        channels.release(&parts.memory, &parts.whole, held, now_ms);
    }
}
