//! What the memory store keeps of a channel's events, and what all of it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Now, Reading, Wish};
use crate::core::browse::Leaf;
use crate::core::dedupe::Dedupe;
use crate::core::history::{History, Past};
use crate::core::keyed::Keyed;
use crate::core::policy::Keep;
use crate::proto::event::Event;
use crate::proto::position::Position;

/// What everything that is kept may take together, and takes.
#[derive(Debug)]
pub(super) struct Purse {
    limit: AtomicUsize,
    bytes: AtomicUsize,
}

impl Purse {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), bytes: AtomicUsize::new(0) }
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.bytes() > self.limit.load(Ordering::Relaxed)
    }

    /// Whether what nobody was promised should go.
    fn is_tight(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.bytes() > limit - limit / 8
    }
}

/// What is kept of one channel's events.
#[derive(Debug)]
pub(super) struct Kept {
    /// As the last event said.
    keep: Keep,
    history: History,
    keyed: Keyed,
    dedupe: Dedupe,
    purse: Arc<Purse>,
    /// What it has in the purse.
    charged: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.purse.bytes.fetch_sub(self.charged, Ordering::Relaxed);
    }
}

impl Kept {
    pub(super) fn new(purse: &Arc<Purse>) -> Box<Self> {
        Box::new(Self {
            keep: Keep::default(),
            history: History::default(),
            keyed: Keyed::default(),
            dedupe: Dedupe::default(),
            purse: Arc::clone(purse),
            charged: 0,
        })
    }

    /// Whether an event leaves something behind.
    pub(super) fn wants(keep: Keep, has_id: bool) -> bool {
        keep.history.size > 0 || keep.keys > 0 || has_id
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.history.is_empty() && self.keyed.is_empty() && self.dedupe.is_empty()
    }

    /// Whether a channel that nobody uses is worth its place for it: ids that are old are not.
    pub(super) fn is_worth_a_channel(&self, now: Now) -> bool {
        let only_ids = self.history.is_empty() && self.keyed.is_empty();
        !only_ids || !self.dedupe.is_over(now.node_ms())
    }

    /// The offset of the event that was published under that id.
    pub(super) fn published(&self, id: &str) -> Option<u64> {
        self.dedupe.find(id)
    }

    /// Keeps of the channel's next event what `keep` says.
    pub(super) fn put(&mut self, event: &Arc<Event>, keep: Keep, id: Option<&str>) {
        self.keep = keep;
        if let Some(id) = id {
            self.dedupe.put(id.into(), event.offset, event.taken_ns / 1_000_000);
        }
        if keep.history.size > 0 {
            self.history.push(event, keep.history);
        } else if !self.history.is_empty() {
            // It would have a hole.
            self.history = History::default();
        }
        if keep.keys > 0 {
            self.keyed.put(event, keep.keys);
        } else if !self.keyed.is_empty() {
            self.keyed = Keyed::default();
        }
        self.settle();
        if self.purse.is_tight() {
            self.dedupe.forget_old(event.taken_ns / 1_000_000);
        }
        self.fit();
    }

    /// Keeps what that says from here on: no more of what is there, and of nothing that was not
    /// kept until now.
    pub(super) fn set_rule(&mut self, keep: Keep, head: u64) {
        self.keep = keep;
        self.history.trim(head.saturating_sub(keep.history.size));
        if keep.history.size == 0 {
            self.history = History::default();
        }
        if keep.keys == 0 {
            self.keyed = Keyed::default();
        }
        while self.keyed.len() > keep.keys && self.keyed.shed() > 0 {}
        self.settle();
    }

    /// Takes back the next event of a past that was kept elsewhere.
    #[cfg(feature = "sqlite")]
    pub(super) fn recall(&mut self, event: &Arc<Event>, keep: Keep) {
        self.keep = keep;
        self.history.push(event, keep.history);
        self.fit();
    }

    /// The past has a hole behind what came back of it, which is nothing then.
    #[cfg(feature = "sqlite")]
    pub(super) fn forget_past(&mut self) {
        self.history = History::default();
        self.fit();
    }

    /// Takes back the newest event of a key, from the oldest on.
    #[cfg(feature = "sqlite")]
    pub(super) fn recall_key(&mut self, event: &Arc<Event>, keep: Keep) {
        self.keep = keep;
        self.keyed.put(event, keep.keys);
        self.fit();
    }

    /// Takes back the id of an event, from the oldest on.
    #[cfg(feature = "sqlite")]
    pub(super) fn recall_id(&mut self, id: Box<str>, offset: u64, at_ms: u64) {
        self.dedupe.put(id, offset, at_ms);
        self.fit();
    }

    /// Takes no more than there is for all.
    fn fit(&mut self) {
        self.settle();
        while self.purse.is_over() && self.shed() {
            self.settle();
        }
    }

    /// Lets go of the oldest of something. Whether there was any.
    fn shed(&mut self) -> bool {
        // Whoever comes back can be told that its past is gone; nobody tells who waits for a key.
        self.history.shed() > 0 || self.keyed.shed() > 0 || self.dedupe.shed() > 0
    }

    /// Lets go of what is too old, and of a part of everything where memory is short.
    pub(super) fn sweep(&mut self, now: Now) {
        self.history.sweep(self.keep.history, now.node_ns);
        self.dedupe.forget(now.node_ms());
        self.settle();
        if self.purse.is_tight() {
            self.dedupe.forget_old(now.node_ms());
            self.settle();
        }
        let wanted = self.charged / 4 * 3;
        while self.purse.is_over() && self.charged > wanted && self.shed() {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let bytes = self.history.memory() + self.keyed.memory() + self.dedupe.memory();
        if bytes >= self.charged {
            self.purse.bytes.fetch_add(bytes - self.charged, Ordering::Relaxed);
        } else {
            self.purse.bytes.fetch_sub(self.charged - bytes, Ordering::Relaxed);
        }
        self.charged = bytes;
    }

    /// What a subscription gets of the time before it, and whether that is all that it wants.
    pub(super) fn begin(
        &mut self,
        head: Position,
        wish: Wish<'_>,
        now: Now,
    ) -> (Option<bool>, Option<Past>) {
        let recovered = wish.since.map(|(epoch, offset)| {
            let missed = head.missed_since(epoch, offset)?;
            let place = (offset, head.offset);
            if missed > wish.recovery_max {
                return None;
            }
            self.history.since(place, wish.keep.history, now.node_ns)
        });
        // What was read may lie elsewhere now.
        self.settle();
        match recovered {
            Some(Some(past)) => (Some(true), Some(past).filter(|past| !past.is_empty())),
            other => {
                let snapshot = if wish.snapshot { self.snapshot(head) } else { None };
                (other.map(|_| false), snapshot)
            }
        }
    }

    /// As [`Kept::begin`], of a channel of whose events nothing is kept.
    pub(super) fn nothing_missed(head: Position, wish: Wish<'_>) -> Option<bool> {
        wish.since.map(|(epoch, offset)| head.missed_since(epoch, offset) == Some(0))
    }

    /// The newest event of each key.
    pub(super) fn snapshot(&self, head: Position) -> Option<Past> {
        let chunks = self.keyed.snapshot();
        (!chunks.is_empty()).then_some(Past { chunks, after: 0, upto: head.offset })
    }

    /// Whether the newest events of some keys are kept.
    pub(super) fn has_keys(&self) -> bool {
        !self.keyed.is_empty()
    }

    /// The newest event of each key after that offset, the oldest of them.
    pub(super) fn leaf(&self, head: Position, after: u64) -> Option<Leaf> {
        let chunk = Arc::clone(self.keyed.after(after).next()?);
        Some(Leaf { head: head.offset, chunk })
    }

    /// The chunks that a reading needs; `None` when it names a place that is none.
    pub(super) fn read(&mut self, head: Position, reading: Reading<'_>, now: Now) -> Option<Past> {
        let nothing = Self::read_nothing(head, reading)?;
        let kept = self.history.kept_after(head.offset, reading.keep.history, now.node_ns);
        let oldest = kept.max(nothing.after);
        let limit = u64::try_from(reading.limit).unwrap_or(u64::MAX);
        let (from, to) = if reading.since.is_some() && !reading.reverse {
            (oldest, oldest.saturating_add(limit).min(head.offset))
        } else {
            (oldest.max(head.offset.saturating_sub(limit)), head.offset)
        };
        let past = if from < to { self.history.read(from, to) } else { nothing };
        // What was read may lie elsewhere now.
        self.settle();
        Some(past)
    }

    /// As [`Kept::read`], of a channel of whose events nothing is kept.
    pub(super) fn read_nothing(head: Position, reading: Reading<'_>) -> Option<Past> {
        let after = match reading.since {
            Some((epoch, offset)) => {
                head.missed_since(epoch, offset)?;
                offset
            }
            None => 0,
        };
        Some(Past { chunks: Vec::new(), after, upto: after })
    }
}
