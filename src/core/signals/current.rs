//! What is shown on one channel now: what a client that subscribes is told.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{Signal, Told};

/// Signals that one channel shows at most: of more nobody makes sense, and each of their readers
/// would be told of all.
pub(super) const SIGNALS_MAX: usize = 1_024;

/// Bytes of them all, as frames: whoever subscribes is told of all in one answer.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// The signals of one channel. Each client's come from its own shard, in order.
#[derive(Debug, Default)]
pub struct Current {
    table: HashTable<Arc<Signal>>,
    bytes: usize,
}

impl Current {
    /// Takes a value, or an end. `false` where the channel has no room for a value: nobody is to be
    /// told of it.
    #[must_use]
    pub fn tell(&mut self, told: &Told) -> bool {
        let Told { signal, .. } = told;
        let bytes = if signal.is_end() { 0 } else { signal.frame().len() };
        let (count, others) = (self.table.len(), self.bytes);
        let same = |other: &Arc<Signal>| other.is_same(signal);
        match self.table.entry(signal.hash(), same, |other| other.hash()) {
            Entry::Occupied(mut found) => {
                let others = others - found.get().frame().len();
                if others + bytes > BYTES_MAX {
                    return false;
                }
                self.bytes = others + bytes;
                if signal.is_end() {
                    found.remove();
                } else {
                    *found.get_mut() = Arc::clone(signal);
                }
            }
            Entry::Vacant(_) if signal.is_end() => {}
            Entry::Vacant(_) if count >= SIGNALS_MAX || others + bytes > BYTES_MAX => {
                return false;
            }
            Entry::Vacant(free) => {
                self.bytes += bytes;
                free.insert(Arc::clone(signal));
            }
        }
        if self.table.is_empty() {
            self.table = HashTable::new();
        }
        true
    }

    /// Whether nothing is shown.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All that is shown.
    pub fn list(&self) -> Vec<Arc<Signal>> {
        self.table.iter().map(Arc::clone).collect()
    }
}
