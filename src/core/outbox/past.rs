//! The time before a subscription: what it has missed, or the newest event of each key, fetched
//! piece by piece as the socket takes it. It counts against no bound, and nothing of it is dropped:
//! live events wait behind it.

use std::rc::Rc;
use std::sync::Arc;

use super::Outbox;
use super::item::{Item, Slice};
use crate::core::history::{Chunk, Past};
use crate::core::run::Run;
use crate::proto::name::{Alias, ChannelName, ClientId};

/// What is left to be fetched, at its place in the lane.
#[derive(Debug)]
pub(super) struct Recall {
    pub(super) channel: ChannelName,
    pub(super) alias: Alias,
    past: Past,
    /// The next chunk.
    next: usize,
}

impl Outbox {
    /// Puts the time before a subscription behind what is queued.
    pub fn recall(&mut self, channel: ChannelName, alias: Alias, past: Past) {
        if !past.chunks.is_empty() {
            let recall = Recall { channel, alias, past, next: 0 };
            self.recalls += 1;
            self.push_back(Item::Recall(Box::new(recall)));
        }
    }

    /// Whether what is next has first to be fetched.
    pub fn waits_for_refill(&self) -> bool {
        matches!(self.data.front(), Some(Item::Lag(_) | Item::Recall(_)))
    }

    /// The next chunk of the past that is in front, and which of its offsets are meant: those
    /// after the first, up to the second.
    pub fn next_chunk(&mut self) -> Option<(Arc<Chunk>, (u64, u64))> {
        let Some(Item::Recall(recall)) = self.data.front_mut() else { return None };
        let chunk = recall.past.chunks.get(recall.next).map(Arc::clone);
        recall.next += 1;
        let meant = (recall.past.after, recall.past.upto);
        if recall.next >= recall.past.chunks.len() {
            self.recalls -= 1;
            self.pop_front();
        }
        Some((chunk?, meant))
    }

    /// Puts frames `from..to` of a run of the past before everything else, but those that are
    /// hidden from `client`.
    pub fn show_past(&mut self, run: &Rc<Run>, (first, to): (u32, u32), client: ClientId) {
        debug_assert_eq!(self.cut, 0, "what is begun is finished first");
        let own = run.hidden().iter().filter(|(_, hidden_from)| *hidden_from == client);
        let own = own.map(|(at, _)| *at).filter(|at| (first..to).contains(at));
        let (mut slices, mut from) = (Vec::with_capacity(1), first);
        for upto in own.chain([to]) {
            if from < upto {
                slices.push(Slice { run: Rc::clone(run), from, to: upto });
            }
            from = upto + 1;
        }
        for slice in slices.into_iter().rev() {
            self.recalls += 1;
            self.push_front(Item::Past(slice));
        }
    }
}
