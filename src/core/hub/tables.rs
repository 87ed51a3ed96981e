//! The bound of all tables of newest events together: beyond it the least recently published events
//! go, of whatever channel, once nobody is owed them under a rate.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use super::{Hub, Outcome, Writer};
use crate::proto::event::Event;
use crate::proto::name::Alias;

/// Beyond the bound the tables are brought down to this share of it, in quarters: a look at all of
/// them is worth it then.
const QUARTERS_KEPT: usize = 3;

impl Hub {
    /// Bounds the memory of all tables of newest events, in bytes.
    pub fn bound_tables(&mut self, bytes: usize) {
        self.tables_max = bytes;
    }

    /// What the tables of newest events take, in bytes.
    pub fn latest_bytes(&self) -> u64 {
        self.tables.bytes() as u64
    }

    /// The tables take too much: the events that were published least recently go, once what a
    /// rate has held back of them has been handed around.
    #[cold]
    pub(super) fn cut_tables(
        &mut self,
        writer: &mut impl Writer,
        now_ms: u64,
        outcome: &mut Outcome,
    ) {
        let cuts = self.cuts();
        self.flush_due(writer, 0, (now_ms, outcome));
        for (alias, upto) in cuts {
            if let Some(latest) = self.topics.get_mut(&alias).and_then(|t| t.latest.as_mut()) {
                latest.forget(upto);
            }
        }
    }

    /// Up to which offset each table is to forget its events. The groups that are owed some of
    /// them are due at once.
    fn cuts(&mut self) -> BTreeMap<Alias, u64> {
        let mut cuts = BTreeMap::new();
        let mut left = self.tables.bytes() - self.tables_max / 4 * QUARTERS_KEPT;
        let first = |alias: Alias, after| {
            let (event, bytes) = self.topics.get(&alias)?.latest.as_ref()?.first_after(after)?;
            Some(Reverse((event.taken_ns, alias, event.offset, bytes)))
        };
        let mut heap: BinaryHeap<_> =
            self.topics.keys().filter_map(|alias| first(*alias, 0)).collect();
        while left > 0
            && let Some(Reverse((_, alias, offset, bytes))) = heap.pop()
        {
            left = left.saturating_sub(bytes);
            cuts.insert(alias, offset);
            heap.extend(first(alias, offset));
        }
        for (alias, lost) in &cuts {
            if let Some(topic) = self.topics.get_mut(alias) {
                topic.hurry(*alias, *lost, &mut self.dues);
                self.patterns.hurry((*alias, topic.channel.as_str()), *lost);
            }
        }
        cuts
    }

    /// When [`Hub::load`] has refused an event: flushes the groups that stand in its way, and says
    /// to how many members; `None` when there are none, or the batch has to be fanned out before.
    pub fn flush_early(
        &mut self,
        event: &Arc<Event>,
        writer: &mut impl Writer,
        now_ms: u64,
        outcome: &mut Outcome,
    ) -> Option<usize> {
        // Whoever has the channel by pattern as well learns only there from where it is its.
        let early = self.dues.first().is_some_and(|(due_ms, ..)| *due_ms == 0);
        if !early || self.patterns.reaches(event) {
            return None;
        }
        Some(self.flush_due(writer, 0, (now_ms, outcome)))
    }
}
