//! The lane of signals: of each at most the newest waits, and it goes out before events.
//!
//! A value takes the place of an older one that waits, at the cost of a look into a table. An end
//! takes the whole signal away where the reader has not seen that it began, and stands in its place
//! otherwise. Nothing is dropped from the lane: where it is at its bound the connection is closed,
//! so that a reader either has what is shown, or has none of it any more.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashTable;

use super::{Outbox, OutboxLimit};
use crate::core::account::{Account, Charge};
use crate::core::signals::{Signal, Told};
use crate::proto::name::Alias;

/// A lane of so many signals is walked along sooner than a table is made of it.
const SHORT: usize = 8;

/// News of a signal, shared by the queues of a shard.
#[derive(Debug, Clone)]
pub struct News {
    held: Rc<Held>,
    begins: bool,
}

#[derive(Debug)]
struct Held {
    signal: Arc<Signal>,
    /// Its memory, once for a shard.
    charge: Charge,
}

impl News {
    /// The same for the queues that are on `account`.
    pub fn new(told: Told, account: &Account) -> Self {
        let Told { signal, begins } = told;
        let charge = Charge::new(account, signal.footprint());
        Self { held: Rc::new(Held { signal, charge }), begins }
    }

    /// The value, or the end.
    pub fn signal(&self) -> &Signal {
        &self.held.signal
    }
}

/// Whether a lane has taken a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// It waits, or needs not be told.
    Yes,
    /// The lane is at its bound, and stayed as it was.
    No,
}

/// A signal that waits.
#[derive(Debug)]
struct Entry {
    held: Rc<Held>,
    /// The reader has seen nothing of it.
    unseen: bool,
}

/// The lane, where something waits in it.
///
/// Invariants: of each signal at most one value or end waits; `bytes` are those of what waits; the
/// front is not vacant; the table, where there is one, has the place of each that waits.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// A frame on its way, and how much of it is written.
    begun: Option<(Rc<Held>, usize)>,
    queue: VecDeque<Option<Entry>>,
    /// The place of the front: how many have left the lane before it.
    first: usize,
    vacant: usize,
    bytes: usize,
    places: Option<HashTable<usize>>,
}

impl Signals {
    /// The rest of the frame on its way.
    pub(super) fn begun(&self) -> Option<&[u8]> {
        let (held, cut) = self.begun.as_ref()?;
        held.signal.frame().get(*cut..)
    }

    /// The frames that wait behind it.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().flatten().map(|entry| entry.held.signal.frame())
    }

    fn len(&self) -> usize {
        self.queue.len() - self.vacant
    }

    fn is_empty(&self) -> bool {
        self.begun.is_none() && self.queue.is_empty()
    }

    fn at(&self, place: usize) -> Option<&Entry> {
        self.queue.get(place.wrapping_sub(self.first))?.as_ref()
    }

    fn find(&self, signal: &Signal) -> Option<usize> {
        let same =
            |place: &usize| self.at(*place).is_some_and(|entry| entry.held.signal.is_same(signal));
        match &self.places {
            Some(places) => places.find(signal.hash(), same).copied(),
            None => (self.first..self.first + self.queue.len()).find(same),
        }
    }

    fn put(&mut self, news: &News, limit: OutboxLimit) -> Fits {
        let News { held, begins } = news;
        let (is_end, bytes) = (held.signal.is_end(), held.signal.frame().len());
        let found = self.find(&held.signal);
        let old = found.and_then(|place| self.at(place));
        let (old, unseen) = old.map_or((0, *begins && !is_end), |entry| {
            (entry.held.signal.frame().len(), entry.unseen)
        });
        if let Some(place) = found
            && is_end
            && unseen
        {
            self.take(place);
            return Fits::Yes;
        }
        if self.bytes - old + bytes > limit.bytes || found.is_none() && self.len() >= limit.events {
            return Fits::No;
        }
        self.bytes = self.bytes - old + bytes;
        let entry = Some(Entry { held: Rc::clone(held), unseen });
        match found.and_then(|place| self.queue.get_mut(place - self.first)) {
            Some(slot) => *slot = entry,
            None => {
                self.queue.push_back(entry);
                self.note_last(held.signal.hash());
            }
        }
        Fits::Yes
    }

    fn note_last(&mut self, hash: u64) {
        let place = self.first + self.queue.len() - 1;
        let (queue, first) = (&self.queue, self.first);
        let hash_of = |place: &usize| {
            let entry = queue.get(place.wrapping_sub(first)).and_then(Option::as_ref);
            entry.map_or(0, |entry| entry.held.signal.hash())
        };
        match &mut self.places {
            Some(places) => {
                places.insert_unique(hash, place, hash_of);
            }
            None if queue.len() > SHORT => self.index(),
            None => {}
        }
    }

    /// Makes the table anew.
    fn index(&mut self) {
        let mut places = HashTable::with_capacity(self.queue.len());
        let hash_at = |at: usize| {
            let entry = self.queue.get(at).and_then(Option::as_ref);
            entry.map(|entry| entry.held.signal.hash())
        };
        for at in 0..self.queue.len() {
            if let Some(hash) = hash_at(at) {
                let first = self.first;
                let hash_of = |place: &usize| hash_at(*place - first).unwrap_or(0);
                places.insert_unique(hash, first + at, hash_of);
            }
        }
        self.places = Some(places);
    }

    /// Takes a signal out of the lane, and closes the ranks where half of the places are vacant.
    fn take(&mut self, place: usize) {
        let slot = self.queue.get_mut(place.wrapping_sub(self.first));
        let Some(entry) = slot.and_then(Option::take) else { return };
        self.vacant += 1;
        self.forget(&entry, place);
        self.strip();
        if 2 * self.vacant > self.queue.len() {
            self.close_up();
        }
    }

    fn forget(&mut self, entry: &Entry, place: usize) {
        self.bytes -= entry.held.signal.frame().len();
        if let Some(places) = &mut self.places
            && let Ok(found) = places.find_entry(entry.held.signal.hash(), |other| *other == place)
        {
            found.remove();
        }
    }

    fn strip(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.first += 1;
            self.vacant -= 1;
        }
    }

    fn close_up(&mut self) {
        self.queue.retain(Option::is_some);
        (self.vacant, self.places) = (0, None);
        if self.queue.len() > SHORT {
            self.index();
        }
    }

    fn pop(&mut self) -> Option<Rc<Held>> {
        let entry = self.queue.pop_front()??;
        let place = self.first;
        self.first += 1;
        self.forget(&entry, place);
        self.strip();
        Some(entry.held)
    }

    /// Takes `written` bytes off what waits. Returns how many were its own.
    fn advance(&mut self, written: usize) -> usize {
        let mut left = written;
        while left > 0
            && let Some(held) = self.pop()
        {
            let len = held.signal.frame().len();
            if left < len {
                self.begun = Some((held, left));
                return written;
            }
            left -= len;
        }
        written - left
    }

    /// As [`Signals::advance`], off the frame on its way.
    fn advance_begun(&mut self, written: usize) -> usize {
        let Some((held, cut)) = &mut self.begun else { return 0 };
        let step = written.min(held.signal.frame().len() - *cut);
        *cut += step;
        if *cut == held.signal.frame().len() {
            self.begun = None;
        }
        step
    }

    fn own_bytes(&self) -> usize {
        let table =
            self.places.as_ref().map_or(0, |places| places.capacity() * 2 * size_of::<usize>());
        size_of::<Self>() + self.queue.capacity() * size_of::<Option<Entry>>() + table
    }

    fn held(&self) -> impl Iterator<Item = &Rc<Held>> {
        let waiting = self.queue.iter().flatten().map(|entry| &entry.held);
        self.begun.iter().map(|(held, _)| held).chain(waiting)
    }

    fn check(&self) {
        let waiting = self.queue.iter().flatten();
        debug_assert_eq!(
            waiting.map(|entry| entry.held.signal.frame().len()).sum::<usize>(),
            self.bytes,
            "bytes of the signals"
        );
        debug_assert!(!matches!(self.queue.front(), Some(None)), "a signal stands in front");
        debug_assert!(
            self.places.as_ref().is_none_or(|places| places.len() == self.len()),
            "the table is of this lane"
        );
        debug_assert!(
            self.queue.len() > 100
                || self.queue.iter().flatten().all(|entry| {
                    let found = self.find(&entry.held.signal).and_then(|place| self.at(place));
                    found.is_some_and(|found| std::ptr::eq(found, entry))
                }),
            "each signal waits once, and is found"
        );
    }
}

impl Outbox {
    /// Queues news of a signal, or refuses them and stays as it was.
    pub fn put_signal(&mut self, news: &News, limit: OutboxLimit) -> Fits {
        let fits = self.aside.get_or_insert_default().signals.put(news, limit);
        self.tidy_aside();
        fits
    }

    /// Takes the signals of a channel out of the lane, but a frame that is on its way.
    pub fn purge_signals(&mut self, alias: Alias) {
        if let Some(signals) = self.signals_mut() {
            signals.queue.retain(|slot| {
                slot.as_ref().is_some_and(|entry| entry.held.signal.who().alias != alias)
            });
            signals.bytes = signals.waiting().map(<[u8]>::len).sum();
            signals.close_up();
            self.tidy_aside();
        }
    }

    pub(super) fn clear_signals(&mut self) {
        if let Some(signals) = self.signals_mut() {
            *signals = Signals { begun: signals.begun.take(), ..Signals::default() };
            self.tidy_aside();
        }
    }

    /// Signals that wait.
    pub fn signals(&self) -> usize {
        self.signals_ref().map_or(0, |signals| signals.len())
    }

    /// Bytes of signals that wait.
    pub fn signal_bytes(&self) -> usize {
        self.signals_ref().map_or(0, |signals| signals.bytes)
    }

    pub(super) fn advance_begun(&mut self, written: usize) -> usize {
        let Some(signals) = self.signals_mut() else { return 0 };
        let step = signals.advance_begun(written);
        self.tidy_aside();
        step
    }

    pub(super) fn advance_signals(&mut self, written: usize) -> usize {
        let Some(signals) = self.signals_mut() else { return 0 };
        let step = signals.advance(written);
        self.tidy_aside();
        step
    }

    /// Gives back what stands aside and is empty.
    pub(super) fn tidy_aside(&mut self) {
        let Some(aside) = &mut self.aside else { return };
        if !aside.signals.is_empty() {
            return;
        }
        if aside.tally.is_none() {
            self.aside = None;
        } else if aside.signals.queue.capacity() > 0 {
            aside.signals = Signals::default();
        }
    }

    /// Whether a signal waits, or is on its way.
    #[inline]
    pub(super) fn has_signals(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| !aside.signals.is_empty())
    }

    fn signals_ref(&self) -> Option<&Signals> {
        self.aside.as_deref().map(|aside| &aside.signals)
    }

    fn signals_mut(&mut self) -> Option<&mut Signals> {
        self.aside.as_deref_mut().map(|aside| &mut aside.signals)
    }

    /// Memory of the lane itself.
    pub(super) fn signals_own_bytes(&self) -> usize {
        self.signals_ref().map_or(0, |signals| signals.own_bytes())
    }

    /// Its share of the signals that others have too.
    pub(super) fn signals_share_bytes(&self) -> usize {
        let held = self.signals_ref().into_iter().flat_map(Signals::held);
        held.map(|held| held.charge.bytes() / Rc::strong_count(held)).sum()
    }

    pub(super) fn check_signals(&self) {
        if let Some(signals) = self.signals_ref() {
            signals.check();
            debug_assert!(
                signals.begun.is_none() || self.cut == 0,
                "one frame is on its way at a time"
            );
        }
    }
}
