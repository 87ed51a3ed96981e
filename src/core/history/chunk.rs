//! Some consecutive events in one piece of memory.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::newest::Newest;
use crate::proto::encoder::Frames;
use crate::proto::event::{Author, Event, Payload};
use crate::proto::name::{Alias, ChannelName, ClientId};

/// Some events of a channel, in the order of their offsets. They never change while somebody shares
/// the chunk.
#[derive(Debug, Clone)]
pub struct Chunk {
    kept: Kept,
}

#[derive(Debug, Clone)]
enum Kept {
    /// The newest events of some keys.
    Newest(Newest),
    /// Consecutive ones, of which the first has this offset.
    Packed { channel: ChannelName, alias: Alias, first: u64, pack: Pack },
    /// Any, as they are.
    Whole(Box<[Arc<Event>]>),
}

/// Records, one behind the other, and where each ends.
#[derive(Debug, Default, Clone)]
struct Pack {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    authors: Vec<Arc<Author>>,
}

/// The fixed part of a record.
///
/// When the event was taken by both clocks, its flags, the length of its key, and its author.
const HEAD_BYTES: usize = 8 + 8 + 1 + 1 + 2;

const JSON: u8 = 1;
const KEYED: u8 = 2;
const HIDDEN: u8 = 4;
const NO_AUTHOR: u16 = u16::MAX;

impl Chunk {
    /// A chunk of events as they are, which need not be consecutive, but in order; at least one.
    pub fn of(events: Box<[Arc<Event>]>) -> Self {
        Self { kept: Kept::Whole(events) }
    }

    /// A chunk of one event that is the newest of its key.
    pub fn newest(event: &Arc<Event>) -> Self {
        Self { kept: Kept::Newest(Newest::of(event)) }
    }

    /// Its events, where they are the newest of their keys.
    pub fn as_newest(&self) -> Option<&Newest> {
        match &self.kept {
            Kept::Newest(newest) => Some(newest),
            Kept::Packed { .. } | Kept::Whole(_) => None,
        }
    }

    /// As [`Chunk::as_newest`], to be changed.
    pub fn as_newest_mut(&mut self) -> Option<&mut Newest> {
        match &mut self.kept {
            Kept::Newest(newest) => Some(newest),
            Kept::Packed { .. } | Kept::Whole(_) => None,
        }
    }

    /// Whether its events are shown as the newest of their keys.
    pub fn is_snapshot(&self) -> bool {
        self.as_newest().is_some()
    }

    /// How many events it has, or places for them.
    pub fn len(&self) -> usize {
        match &self.kept {
            Kept::Newest(newest) => newest.slots.len(),
            Kept::Packed { pack, .. } => pack.ends.len(),
            Kept::Whole(events) => events.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset of event `index`.
    pub fn offset(&self, index: usize) -> u64 {
        match &self.kept {
            Kept::Newest(newest) => newest.slots.get(index).map_or(u64::MAX, |slot| slot.0),
            Kept::Packed { first, .. } => first + index as u64,
            Kept::Whole(events) => events.get(index).map_or(u64::MAX, |event| event.offset),
        }
    }

    /// The offset of the first event.
    pub fn first(&self) -> u64 {
        self.offset(0)
    }

    /// The offset of the last event.
    pub fn last(&self) -> u64 {
        self.offset(self.len().saturating_sub(1))
    }

    /// The index of the first event after that offset; [`Chunk::len`] where there is none.
    pub fn after(&self, offset: u64) -> usize {
        match &self.kept {
            Kept::Newest(newest) => newest.slots.partition_point(|slot| slot.0 <= offset),
            Kept::Packed { first, pack, .. } => {
                let missed = (offset + 1).saturating_sub(*first);
                usize::try_from(missed).unwrap_or(usize::MAX).min(pack.ends.len())
            }
            Kept::Whole(events) => events.partition_point(|event| event.offset <= offset),
        }
    }

    /// The event `index`; `None` beyond the last, and where the place is vacant.
    pub fn event(&self, index: usize) -> Option<Arc<Event>> {
        match &self.kept {
            Kept::Newest(newest) => newest.slots.get(index)?.1.clone(),
            Kept::Packed { channel, alias, first, pack } => {
                let offset = first + index as u64;
                Some(Arc::new(pack.event(index, (channel, *alias), offset)?))
            }
            Kept::Whole(events) => events.get(index).cloned(),
        }
    }

    /// How many of the first events were taken at a time that `old` holds for, which holds for all
    /// before one for which it does.
    pub(super) fn partition(&self, old: impl Fn(u64) -> bool) -> usize {
        match &self.kept {
            // They are kept however old they are.
            Kept::Newest(_) => 0,
            Kept::Packed { pack, .. } => {
                let (mut low, mut high) = (0, pack.ends.len());
                while low < high {
                    let middle = low.midpoint(high);
                    if pack.taken_ns(middle).is_some_and(&old) {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                low
            }
            Kept::Whole(events) => events.partition_point(|event| old(event.taken_ns)),
        }
    }

    /// When the last event was taken, by the node's clock.
    pub(super) fn last_ns(&self) -> u64 {
        match &self.kept {
            Kept::Newest(_) => u64::MAX,
            Kept::Packed { pack, .. } => pack.last_ns().unwrap_or(0),
            Kept::Whole(events) => events.last().map_or(0, |event| event.taken_ns),
        }
    }

    /// What it takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let kept = match &self.kept {
            Kept::Newest(newest) => newest.memory(),
            Kept::Packed { pack, .. } => pack.memory(),
            // With a frame, which most have, and with all that was made of large ones.
            Kept::Whole(events) => {
                let bytes = |event: &Arc<Event>| event.payload.len() + event.bytes();
                events.iter().map(|event| bytes(event) + size_of::<Event>()).sum()
            }
        };
        size_of::<Self>() + kept
    }
}

impl Pack {
    fn push(&mut self, event: &Event) {
        let author = event.from.as_ref().map_or(NO_AUTHOR, |author| self.author(author));
        let key = event.key.as_deref().unwrap_or_default().as_bytes();
        let (json, Payload::Json(payload) | Payload::Opaque(payload)) =
            (matches!(event.payload, Payload::Json(_)), &event.payload);
        let flags = (if json { JSON } else { 0 })
            | (if event.key.is_some() { KEYED } else { 0 })
            | (if event.hidden_from.is_some() { HIDDEN } else { 0 });
        let out = &mut self.bytes;
        out.reserve(HEAD_BYTES + 8 + key.len() + payload.len());
        out.extend_from_slice(&event.ts_ms.to_le_bytes());
        out.extend_from_slice(&event.taken_ns.to_le_bytes());
        // A key has at most 255 bytes.
        out.extend_from_slice(&[flags, u8::try_from(key.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(&author.to_le_bytes());
        if let Some(client) = event.hidden_from {
            out.extend_from_slice(&client.0.to_le_bytes());
        }
        out.extend_from_slice(key);
        out.extend_from_slice(payload);
        self.ends.push(u32::try_from(out.len()).unwrap_or(u32::MAX));
    }

    /// The place of an author, who most often is that of the event before.
    fn author(&mut self, author: &Arc<Author>) -> u16 {
        let known = self.authors.iter().rposition(|known| Arc::ptr_eq(known, author));
        let index = known.unwrap_or_else(|| {
            self.authors.push(Arc::clone(author));
            self.authors.len() - 1
        });
        u16::try_from(index).unwrap_or(NO_AUTHOR)
    }

    fn range(&self, index: usize) -> Option<Range<usize>> {
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        Some(start as usize..*self.ends.get(index)? as usize)
    }

    fn record(&self, index: usize) -> Option<Record<'_>> {
        Record::read(self.bytes.get(self.range(index)?)?)
    }

    fn taken_ns(&self, index: usize) -> Option<u64> {
        // Asked for at each event: nothing else of the record is looked at.
        let record = self.bytes.get(self.range(index)?)?;
        record.get(8..16)?.first_chunk().map(|taken_ns| u64::from_le_bytes(*taken_ns))
    }

    fn last_ns(&self) -> Option<u64> {
        self.taken_ns(self.ends.len().checked_sub(1)?)
    }

    fn event(
        &self,
        index: usize,
        (channel, alias): (&ChannelName, Alias),
        offset: u64,
    ) -> Option<Event> {
        let record = self.record(index)?;
        Some(Event {
            channel: channel.clone(),
            alias,
            offset,
            ts_ms: record.ts_ms,
            taken_ns: record.taken_ns,
            key: record.key.map(Box::from),
            from: self.authors.get(usize::from(record.author)).cloned(),
            hidden_from: record.hidden_from,
            payload: if record.json {
                Payload::Json(Box::from(record.payload))
            } else {
                Payload::Opaque(Box::from(record.payload))
            },
            json_frame: OnceLock::new(),
            frames: Frames::default(),
        })
    }

    fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.authors.capacity() * size_of::<Arc<Author>>()
    }
}

/// One event of a pack, as it lies there.
struct Record<'a> {
    ts_ms: u64,
    taken_ns: u64,
    json: bool,
    author: u16,
    hidden_from: Option<ClientId>,
    key: Option<&'a str>,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (ts_ms, rest) = bytes.split_first_chunk::<8>()?;
        let (taken_ns, rest) = rest.split_first_chunk::<8>()?;
        let ([flags, key_len], rest) = rest.split_first_chunk::<2>()?;
        let (author, mut rest) = rest.split_first_chunk::<2>()?;
        let mut hidden_from = None;
        if flags & HIDDEN != 0 {
            let (client, behind) = rest.split_first_chunk::<8>()?;
            (hidden_from, rest) = (Some(ClientId(u64::from_le_bytes(*client))), behind);
        }
        let (key, payload) = rest.split_at_checked(usize::from(*key_len))?;
        Some(Self {
            ts_ms: u64::from_le_bytes(*ts_ms),
            taken_ns: u64::from_le_bytes(*taken_ns),
            json: flags & JSON != 0,
            author: u16::from_le_bytes(*author),
            hidden_from,
            key: if flags & KEYED != 0 { std::str::from_utf8(key).ok() } else { None },
            payload,
        })
    }
}

/// A chunk in the making.
#[derive(Debug, Default)]
pub(super) struct Packer {
    place: Option<(ChannelName, Alias, u64)>,
    pack: Pack,
}

impl Packer {
    pub(super) fn is_empty(&self) -> bool {
        self.pack.ends.is_empty()
    }

    /// Whether the event has to begin another.
    pub(super) fn is_full(&self, event: &Event, events: usize, bytes: usize) -> bool {
        !self.is_empty()
            && (self.pack.ends.len() >= events
                || self.pack.bytes.len() + event.payload.len() > bytes)
    }

    pub(super) fn push(&mut self, event: &Event) {
        if self.place.is_none() {
            self.place = Some((event.channel.clone(), event.alias, event.offset));
        }
        self.pack.push(event);
    }

    /// Begins another, in the same memory.
    pub(super) fn clear(&mut self) {
        self.place = None;
        self.pack.bytes.clear();
        self.pack.ends.clear();
        self.pack.authors.clear();
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.place.as_ref().map(|(_, _, first)| *first)
    }

    pub(super) fn last(&self) -> Option<u64> {
        Some(self.first()? + self.pack.ends.len() as u64 - 1)
    }

    pub(super) fn last_ns(&self) -> Option<u64> {
        self.pack.last_ns()
    }

    pub(super) fn memory(&self) -> usize {
        self.pack.memory()
    }

    /// Bytes of its records.
    pub(super) fn bytes(&self) -> usize {
        self.pack.bytes.len()
    }

    /// What it has so far, in just the memory that it needs.
    pub(super) fn chunk(&self) -> Option<Chunk> {
        Self { place: self.place.clone(), pack: self.pack.clone() }.take()
    }

    /// The same, without a copy; nothing is left.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        let (channel, alias, first) = self.place.take()?;
        let mut pack = std::mem::take(&mut self.pack);
        pack.bytes.shrink_to_fit();
        pack.ends.shrink_to_fit();
        pack.authors.shrink_to_fit();
        Some(Chunk { kept: Kept::Packed { channel, alias, first, pack } })
    }
}
