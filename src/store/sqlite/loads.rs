//! Brings channels into memory for those who wait: some in each turn of the writer, so that events do
//! not wait for all of them.

use rusqlite::types::Type;

use super::aside::Refused;
use super::load::{Name, after, refused, unreadable};
use super::queue::{Done, Wanted};
use super::row::odd;
use super::writer::Writer;
use crate::store::StoreError;

/// Rows that are read before events have their turn, and what each channel counts as beside its own.
const ROWS: u64 = 4_096;
const COST: u64 = 16;

/// What of them is for prefixes, however many wait for channels.
const PREFIX_ROWS: u64 = ROWS / 4;

/// Names that are read at once.
const NAMES: usize = 64;

/// Channels in memory beyond which a prefix brings no more.
const MOST: usize = 1 << 20;

/// A prefix whose channels are being loaded.
pub(super) struct PrefixLoad {
    prefix: Box<str>,
    /// Where its next names begin.
    from: Vec<u8>,
    /// Who waits for it.
    waiting: Vec<Done>,
}

impl PrefixLoad {
    /// Whether that channel is one of its.
    pub(super) fn has(&self, channel: &str) -> bool {
        channel.starts_with(&*self.prefix)
    }

    fn tell(self, done: Result<(), StoreError>) {
        for waiting in self.waiting {
            waiting.send(done).ok();
        }
    }
}

impl Writer<'_> {
    /// Does a part of what is to be loaded.
    pub(super) fn load(&mut self) {
        let mut left = ROWS;
        while left > 0
            && let Some(load) = self.parts.work.loads.pop_front()
        {
            if load.done.is_closed() {
                // Whoever waited has gone.
                continue;
            }
            match load.what {
                Wanted::Prefix(prefix) => {
                    left -= 1;
                    self.want_prefix(prefix, load.done);
                }
                Wanted::Channel(name, keep) => {
                    let from = (&mut self.channels, &self.parts);
                    let found = self.loader.find(from, &name, keep);
                    left = left.saturating_sub(self.loader.take_rows() + COST);
                    let done = found.map(|place| {
                        if let Some(channel) = self.channels.all.get_mut(place) {
                            channel.keep = keep;
                        }
                    });
                    load.done.send(done).ok();
                }
            }
        }
        let mut left = left.max(PREFIX_ROWS);
        while left > 0 && !self.prefixes.is_empty() {
            left = left.saturating_sub(self.load_names());
        }
    }

    fn want_prefix(&mut self, prefix: Box<str>, done: Done) {
        if self.parts.whole.has(&prefix) {
            done.send(Ok(())).ok();
        } else if self.channels.aside.has(&pattern(&prefix), self.now_ms()) {
            done.send(Err(StoreError::Faulty)).ok();
        } else if let Some(load) = self.prefixes.iter_mut().find(|load| load.prefix == prefix) {
            load.waiting.push(done);
        } else {
            let (from, waiting) = (prefix.as_bytes().to_vec(), vec![done]);
            self.prefixes.push_back(PrefixLoad { prefix, from, waiting });
        }
    }

    /// Loads the next channels of a prefix. Returns how many rows were read.
    fn load_names(&mut self) -> u64 {
        let Some(mut load) = self.prefixes.pop_front() else { return 0 };
        load.waiting.retain(|waiting| !waiting.is_closed());
        if load.waiting.is_empty() {
            return 1;
        }
        self.parts.queue.watchdog.step();
        let names = match self.loader.names(&load.prefix, &load.from, NAMES) {
            Ok(names) => names,
            Err(error) => {
                self.give_up(load, &error);
                return 1;
            }
        };
        let next = names.last().map(|last| after(&last.bytes, &load.from));
        let mut rows = 1 + names.len() as u64;
        for Name { bytes, keyed } in &names {
            // What is no text was not written here, and nobody can ask for it.
            let Ok(name) = str::from_utf8(bytes) else { continue };
            let keep = (self.parts.rules)(name).filter(|keep| keep.durable && keep.keys > 0);
            let Some(keep) = keep.filter(|_| *keyed && !self.channels.has(name)) else { continue };
            if self.channels.all.len() >= MOST {
                tracing::warn!(
                    prefix = &*load.prefix,
                    "a pattern has more durable channels than are held in memory: those that are \
                     not there are not shown"
                );
                self.parts.whole.put(&load.prefix);
                load.tell(Ok(()));
                return rows;
            }
            // One that cannot be read is not shown, and keeps none of the others: see
            // `Channels::try_again`.
            let from = (&mut self.channels, &self.parts);
            self.loader.find(from, name, keep).ok();
            rows += self.loader.take_rows() + COST;
        }
        match next {
            Some(Some(from)) => {
                load.from = from;
                self.prefixes.push_back(load);
            }
            Some(None) => {
                let error = odd(0, Type::Text, "the names of channels are not in order");
                self.give_up(load, &error);
            }
            None => {
                self.channels.aside.remove(&pattern(&load.prefix), Refused::Read);
                self.parts.whole.put(&load.prefix);
                load.tell(Ok(()));
            }
        }
        rows
    }

    /// Sets a prefix aside whose names cannot be read.
    fn give_up(&mut self, load: PrefixLoad, error: &rusqlite::Error) {
        let (pattern, now_ms) = (pattern(&load.prefix), self.now_ms());
        if self.channels.aside.put(&pattern, now_ms, refused(error), &self.parts.whole) {
            unreadable(&pattern, error);
        }
        load.tell(Err(StoreError::Faulty));
    }
}

/// A prefix as those who subscribe to it write it: no channel has that name.
fn pattern(prefix: &str) -> String {
    format!("{prefix}*")
}
