//! The newest events of some keys of a channel, in one chunk.

use std::sync::Arc;

use super::{CHUNK_BYTES, CHUNK_EVENTS};
use crate::proto::event::Event;

/// An offset, and its event; vacant once the key has a newer one.
pub(super) type Slot = (u64, Option<Arc<Event>>);

/// The newest events of some keys.
///
/// Invariants: offsets increase; `live` counts the slots that are not vacant, and `bytes` is the
/// sum of their payloads; the last is not vacant.
#[derive(Debug, Clone)]
pub struct Newest {
    pub(super) slots: Vec<Slot>,
    live: usize,
    bytes: usize,
}

impl Newest {
    pub(super) fn of(event: &Arc<Event>) -> Self {
        let mut newest = Self { slots: Vec::new(), live: 0, bytes: 0 };
        newest.push(event);
        newest
    }

    /// How many events there are.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether it has room for one more.
    pub fn has_room(&self) -> bool {
        self.slots.len() < CHUNK_EVENTS && self.bytes <= CHUNK_BYTES
    }

    /// Whether little of it is left.
    pub fn is_sparse(&self) -> bool {
        self.live <= CHUNK_EVENTS / 4
    }

    /// Whether it is better one with another: where little of it is left, and both are one chunk.
    pub fn merges(&self, other: &Self) -> bool {
        let events = self.live + other.live;
        self.is_sparse() && events <= CHUNK_EVENTS && self.bytes + other.bytes <= CHUNK_BYTES
    }

    /// Adds an event behind all others.
    pub fn push(&mut self, event: &Arc<Event>) {
        self.slots.push((event.offset, Some(Arc::clone(event))));
        self.live += 1;
        self.bytes += event.payload.len();
    }

    /// Where the event of that offset is.
    pub fn find(&self, offset: u64) -> Option<usize> {
        // Most chunks still have a slot for each event of their stretch.
        let first = self.slots.first()?.0;
        let guess = usize::try_from(offset.checked_sub(first)?).ok()?;
        if self.slots.get(guess).is_some_and(|slot| slot.0 == offset) {
            return Some(guess);
        }
        self.slots.binary_search_by_key(&offset, |slot| slot.0).ok()
    }

    /// The event that is there.
    pub fn get(&self, at: usize) -> Option<&Arc<Event>> {
        self.slots.get(at)?.1.as_ref()
    }

    /// Takes the event that is there.
    pub fn take(&mut self, at: usize) -> Option<Arc<Event>> {
        let event = self.slots.get_mut(at)?.1.take()?;
        self.live -= 1;
        self.bytes -= event.payload.len();
        while self.slots.pop_if(|slot| slot.1.is_none()).is_some() {}
        Some(event)
    }

    /// Adds all events of one that is behind it.
    pub fn append(&mut self, other: &Self) {
        self.slots.retain(|slot| slot.1.is_some());
        self.slots.extend(other.slots.iter().filter(|slot| slot.1.is_some()).cloned());
        self.live += other.live;
        self.bytes += other.bytes;
    }

    /// The oldest event.
    pub fn oldest(&self) -> Option<&Arc<Event>> {
        self.slots.iter().find_map(|slot| slot.1.as_ref())
    }

    /// What it takes, in bytes, with a frame that was made of each event.
    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.live * size_of::<Event>() + 2 * self.bytes
    }
}
