//! The time before a subscription: what it has missed, or the newest event of each key, fetched
//! piece by piece as the socket takes it. It counts against no bound, and nothing of it is dropped:
//! live events wait behind it.

use std::rc::Rc;
use std::sync::Arc;

use super::Outbox;
use super::browse::Browse;
use super::item::{Item, Slice};
use crate::core::account::Charge;
use crate::core::history::{Chunk, Past};
use crate::core::run::{Pin, Press, Run};
use crate::proto::name::{Alias, ChannelName, ClientId};

/// What is left to be fetched, at its place in the lane.
#[derive(Debug)]
pub(super) struct Recall(pub(super) Source);

/// Where it is fetched.
#[derive(Debug)]
pub(super) enum Source {
    /// In chunks of one channel, the next one last.
    Channel {
        channel: ChannelName,
        alias: Alias,
        chunks: Vec<Rc<Pin>>,
        /// The offsets that are meant: after the first, up to the second.
        meant: (u64, u64),
        /// Its memory beside the chunks'.
        charge: Charge,
    },
    /// In the channels of a pattern.
    Prefix(Browse),
}

impl Recall {
    /// The channel, where it is one.
    pub(super) fn channel(&self) -> Option<(Alias, &ChannelName)> {
        match &self.0 {
            Source::Channel { channel, alias, .. } => Some((*alias, channel)),
            Source::Prefix(_) => None,
        }
    }

    /// What is left of a pattern, where it is one.
    pub(super) fn browse(&self) -> Option<&Browse> {
        match &self.0 {
            Source::Channel { .. } => None,
            Source::Prefix(browse) => Some(browse),
        }
    }

    /// Memory that it takes, as a share of what others have too.
    pub(super) fn share_bytes(&self) -> usize {
        match &self.0 {
            Source::Channel { chunks, charge, .. } => {
                let pinned = chunks.iter().map(|pin| pin.bytes() / Rc::strong_count(pin));
                charge.bytes() + pinned.sum::<usize>()
            }
            Source::Prefix(browse) => browse.share_bytes(),
        }
    }
}

impl Outbox {
    /// Puts the time before a subscription behind what is queued.
    pub fn recall(&mut self, channel: ChannelName, alias: Alias, past: Past, press: &mut Press) {
        if !past.chunks.is_empty() {
            let meant = (past.after, past.upto);
            let chunks = past.chunks.into_iter().rev().map(|chunk| press.pin(chunk));
            let chunks = chunks.collect::<Vec<_>>();
            let own = size_of::<Recall>() + chunks.capacity() * size_of::<Rc<Pin>>();
            let charge = Charge::new(press.account(), own);
            let recall = Recall(Source::Channel { channel, alias, chunks, meant, charge });
            self.recalls += 1;
            self.push_back(Item::Recall(Box::new(recall)));
        }
    }

    /// Whether the next to be written has to be fetched out of the past.
    pub fn is_recalling(&self) -> bool {
        matches!(self.data.front(), Some(Item::Recall(_)))
    }

    /// Whether what is next has first to be fetched.
    pub fn waits_for_refill(&self) -> bool {
        matches!(self.data.front(), Some(Item::Lag(_) | Item::Recall(_)))
    }

    /// The next chunk of the past that is in front, and which of its offsets are meant: those
    /// after the first, up to the second.
    pub fn next_chunk(&mut self) -> Option<(Arc<Chunk>, (u64, u64))> {
        let Some(Item::Recall(recall)) = self.data.front_mut() else { return None };
        let Source::Channel { chunks, meant, .. } = &mut recall.0 else { return None };
        let (pin, meant) = (chunks.pop(), *meant);
        if chunks.is_empty() {
            self.recalls -= 1;
            self.pop_front();
        }
        Some((Arc::clone(pin?.chunk()), meant))
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
