//! A channel's past: its last events, packed, in chunks that whoever comes back shares.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::proto::event::Event;

mod chunk;
mod newest;

pub use chunk::Chunk;
pub use newest::Newest;

use chunk::Packer;

/// A chunk is full with this many events: a shard lays one out at a time for those who missed it.
pub const CHUNK_EVENTS: usize = 64;

/// Or with this many bytes, unless it is one event.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Whoever reads a tail of fewer bytes gets a copy; a longer one is ended, and shared.
const COPIED_BYTES: usize = 4 * 1024;

/// How much of a channel's past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryRule {
    /// At most this many events; 0 is nothing.
    pub size: u64,
    /// Not those that are older than this, in milliseconds.
    pub ttl_ms: u64,
}

/// Where a reading of the past begins and ends.
#[derive(Debug, Clone)]
pub struct Past {
    /// The chunks that hold it, the oldest first.
    pub chunks: Vec<Arc<Chunk>>,
    /// The events after this offset are meant,
    pub after: u64,
    /// up to this one.
    pub upto: u64,
}

impl Past {
    /// How many events it is.
    pub fn len(&self) -> u64 {
        self.upto.saturating_sub(self.after)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events, the oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = Arc<Event>> {
        self.chunks.iter().flat_map(|chunk| {
            let (from, to) = (chunk.after(self.after), chunk.after(self.upto));
            (from..to).filter_map(|index| chunk.event(index))
        })
    }
}

/// The last events of a channel.
///
/// Invariants: the offsets of all chunks and of the tail follow each other without holes; no chunk
/// is empty; `bytes` is the sum of what they take.
#[derive(Debug, Default)]
pub struct History {
    chunks: VecDeque<Arc<Chunk>>,
    tail: Packer,
    /// The tail as a chunk, for those who have asked since the last event.
    shown: Option<Arc<Chunk>>,
    bytes: usize,
}

impl History {
    /// Keeps an event that follows the last one, and lets go of what the rule does not keep.
    /// Returns the memory that it took, or gave back.
    pub fn push(&mut self, event: &Arc<Event>, rule: HistoryRule) -> isize {
        let before = self.memory();
        self.shown = None;
        let large = event.payload.len() > CHUNK_BYTES;
        // Of a short history a chunk is not more than all of it.
        let events = CHUNK_EVENTS.min(usize::try_from(rule.size).unwrap_or(usize::MAX)).max(1);
        if large || self.tail.is_full(event, events, CHUNK_BYTES) {
            self.seal();
        }
        if large {
            self.keep(Chunk::of(Box::from([Arc::clone(event)])));
        } else {
            self.tail.push(event);
        }
        self.trim(event.offset.saturating_sub(rule.size));
        self.expire(rule, event.taken_ns);
        difference(self.memory(), before)
    }

    /// Lets go of what is too old at that time of the node's clock. Returns the memory given back.
    pub fn sweep(&mut self, rule: HistoryRule, now_ns: u64) -> isize {
        let before = self.memory();
        self.shown = None;
        self.expire(rule, now_ns);
        if self.tail.last_ns().is_some_and(|taken_ns| is_old(taken_ns, rule, now_ns)) {
            self.tail = Packer::default();
        }
        difference(self.memory(), before)
    }

    /// Lets go of the oldest chunk. Returns the memory given back; 0 when nothing is left.
    pub fn shed(&mut self) -> usize {
        let before = self.memory();
        if self.chunks.is_empty() {
            self.seal();
        }
        self.drop_front();
        before.saturating_sub(self.memory())
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    /// What it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes + self.tail.memory()
    }

    /// How many events are kept, also those that the next event pushes out.
    pub fn len(&self) -> u64 {
        let first = self.chunks.front().map(|chunk| chunk.first()).or(self.tail.first());
        let last = self.tail.last().or(self.chunks.back().map(|chunk| chunk.last()));
        first.zip(last).map_or(0, |(first, last)| last - first + 1)
    }

    /// The events after `after`, up to the head. `None` when one of them is not kept any more, or
    /// never was.
    pub fn since(
        &mut self,
        (after, head): (u64, u64),
        rule: HistoryRule,
        now_ns: u64,
    ) -> Option<Past> {
        if after >= head {
            return Some(Past { chunks: Vec::new(), after: head, upto: head });
        }
        let first = self.first(head, rule, now_ns)?;
        (after + 1 >= first).then(|| self.read(after, head))
    }

    /// The offset after which all is kept, up to the head.
    pub fn kept_after(&mut self, head: u64, rule: HistoryRule, now_ns: u64) -> u64 {
        self.first(head, rule, now_ns).map_or(head, |first| first - 1)
    }

    /// The oldest offset that the rule keeps; `None` where there is none, or the head is missing.
    fn first(&mut self, head: u64, rule: HistoryRule, now_ns: u64) -> Option<u64> {
        self.show_tail();
        let last = self.shown.as_ref().or(self.chunks.back())?.last();
        let old = |taken_ns| is_old(taken_ns, rule, now_ns);
        let at = self.chunks.partition_point(|chunk| old(chunk.last_ns()));
        let chunk = self.chunks.get(at).or(self.shown.as_ref())?;
        let index = chunk.partition(old);
        let young = (index < chunk.len()).then(|| chunk.offset(index))?;
        let first = young.max((head + 1).saturating_sub(rule.size));
        (last == head && first <= head).then_some(first)
    }

    /// The events after `after`, up to `upto`, of those that are kept. It costs a look at the
    /// chunks that have them, however many others there are.
    pub fn read(&mut self, after: u64, upto: u64) -> Past {
        self.show_tail();
        let from = self.chunks.partition_point(|chunk| chunk.last() <= after);
        let meant = |chunk: &&Arc<Chunk>| chunk.first() <= upto;
        let tail = self.shown.iter().filter(|chunk| chunk.last() > after);
        let chunks = self.chunks.range(from..).chain(tail).take_while(meant).cloned().collect();
        Past { chunks, after, upto }
    }

    fn show_tail(&mut self) {
        if self.tail.bytes() > COPIED_BYTES {
            self.shown = None;
            if let Some(chunk) = self.tail.take() {
                self.keep(chunk);
            }
        }
        if self.shown.is_none() {
            self.shown = self.tail.chunk().map(Arc::new);
        }
    }

    /// Ends the tail: what comes next begins another.
    fn seal(&mut self) {
        self.shown = None;
        if let Some(chunk) = self.tail.chunk() {
            self.tail.clear();
            self.keep(chunk);
        }
    }

    fn keep(&mut self, chunk: Chunk) {
        self.bytes += chunk.memory();
        self.chunks.push_back(Arc::new(chunk));
    }

    fn drop_front(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.bytes -= chunk.memory();
        }
    }

    /// Lets go of the chunks that have nothing after that offset.
    pub fn trim(&mut self, upto: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.last() <= upto) {
            self.drop_front();
        }
    }

    fn expire(&mut self, rule: HistoryRule, now_ns: u64) {
        let old = |chunk: &Arc<Chunk>| is_old(chunk.last_ns(), rule, now_ns);
        while self.chunks.front().is_some_and(old) {
            self.drop_front();
        }
    }
}

fn is_old(taken_ns: u64, rule: HistoryRule, now_ns: u64) -> bool {
    now_ns.saturating_sub(taken_ns) / 1_000_000 > rule.ttl_ms
}

fn difference(after: usize, before: usize) -> isize {
    isize::try_from(after).unwrap_or(isize::MAX) - isize::try_from(before).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests;
