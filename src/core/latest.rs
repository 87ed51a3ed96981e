//! The newest event of each key of one channel, held once for a shard: what is shown to
//! subscriptions that were too slow for every event.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::core::account::{Account, Charge};
use crate::proto::encoder::Encoder;
use crate::proto::event::Event;
use crate::proto::format::Format;
use crate::proto::large::Large;
use crate::proto::name::Alias;

/// Bytes that a table holds at most, with the frames, unless it is one event.
pub const LATEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What an event takes beside its payload, its key and what its frame in JSON has of them.
const EVENT_BYTES: usize = 256;

/// A frame that is made for those who lag, and shared by them.
#[derive(Debug)]
pub struct Frame {
    /// Of which channel.
    pub alias: Alias,
    /// The event that it shows; `None` for a notice.
    pub offset: Option<u64>,
    /// When that event was taken, in nanoseconds of the node's clock.
    pub taken_ns: u64,
    /// The frame; of a large event, nothing.
    pub bytes: Box<[u8]>,
    /// The frame of a large event.
    pub large: Option<Arc<Large>>,
}

impl Frame {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.large.as_ref().map_or(0, |large| large.len())
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct Entry {
    event: Arc<Event>,
    /// How many events the shard had loaded before it.
    loaded: u64,
    /// What it counts as, with all frames.
    bytes: usize,
    /// In plain JSON. Made when the first subscriber needs it.
    frame: Shown,
    /// In every other form.
    others: Option<Box<[Shown; Format::ALL.len()]>>,
}

/// A frame that shows an event, once somebody has needed it.
type Shown = Option<Rc<Frame>>;

impl Entry {
    fn new(event: &Arc<Event>, loaded: u64) -> Self {
        let (frame, others) = (None, None);
        Self { event: Arc::clone(event), loaded, bytes: size(event), frame, others }
    }

    /// Counts what there is by now.
    fn weigh(&mut self) -> usize {
        let shown = self.others.iter().flat_map(|others| others.iter()).chain([&self.frame]);
        let shown: usize = shown.flatten().map(|frame| frame.bytes.len()).sum();
        self.bytes = size(&self.event) + self.event.frames.made_bytes() + shown;
        self.bytes
    }

    fn frame(&mut self, format: Format, encoder: &mut Encoder) -> &Rc<Frame> {
        let Self { event, frame, others, .. } = self;
        let shown = if format == Format::Json {
            frame
        } else {
            others.get_or_insert_default().get_mut(format.index()).unwrap_or(frame)
        };
        shown.get_or_insert_with(|| {
            let large = event.large_snapshot(format, encoder);
            let bytes = match &large {
                Some(_) => Box::default(),
                None => event.snapshot_frame(format, encoder),
            };
            let (alias, offset) = (event.alias, Some(event.offset));
            Rc::new(Frame { alias, offset, taken_ns: event.taken_ns, bytes, large })
        })
    }
}

/// The newest event of each key of a channel. Events without a key share one place.
///
/// Invariants: `keys` names the offsets of `entries`, and `bytes` is the sum of their sizes; there are
/// never more than `keys_max`; every event from `floor` to `head` was recorded.
#[derive(Debug)]
pub struct Latest {
    entries: BTreeMap<u64, Entry>,
    keys: HashMap<Option<Box<str>>, u64, RandomState>,
    keys_max: usize,
    bytes: usize,
    /// Its bytes on the account of all tables, as they were after the last batch.
    charge: Charge,
    floor: u64,
    head: u64,
    /// Members who may need it.
    pub(super) users: u32,
    /// One of `users` is a pattern, none of whose members lags here yet.
    pub(super) held: bool,
    /// It was held since the last look.
    pub(super) fresh: bool,
    /// The channel is among those that the next fan-out looks at, without a run.
    pub(super) touched: bool,
    /// Groups of patterns that are owed something. They are among `users`.
    pub(super) owed: u32,
}

impl Latest {
    /// A table that has seen nothing, whose bytes count on `account`. Beyond `keys_max` the least
    /// recently published key goes.
    pub fn new(keys_max: usize, account: &Account) -> Self {
        Self {
            entries: BTreeMap::new(),
            keys: HashMap::default(),
            keys_max: keys_max.max(1),
            bytes: 0,
            charge: Charge::new(account, 0),
            floor: u64::MAX,
            head: 0,
            users: 0,
            held: false,
            fresh: false,
            touched: false,
            owed: 0,
        }
    }

    /// The first offset that it has seen.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The last offset that it has seen.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Sees an event, which is newer than all before it, and before which the shard had `loaded`
    /// others of all channels.
    pub fn record(&mut self, event: &Arc<Event>, loaded: u64) {
        let offset = event.offset;
        self.floor = self.floor.min(offset);
        self.head = offset;
        let before = match self.keys.get_mut(&event.key) {
            Some(at) => Some(std::mem::replace(at, offset)),
            None => {
                self.keys.insert(event.key.clone(), offset);
                None
            }
        };
        if let Some(before) = before.and_then(|before| self.entries.remove(&before)) {
            self.bytes -= before.bytes;
        }
        let entry = Entry::new(event, loaded);
        self.bytes += entry.bytes;
        self.entries.insert(offset, entry);
        while self.entries.len() > self.keys_max
            || self.bytes > LATEST_BYTES_MAX && self.entries.len() > 1
        {
            self.forget_first();
        }
        debug_assert_eq!(self.keys.len(), self.entries.len(), "one entry for each key");
    }

    fn forget_first(&mut self) {
        if let Some((_, oldest)) = self.entries.pop_first() {
            self.bytes -= oldest.bytes;
            self.keys.remove(&oldest.event.key);
        }
    }

    /// Forgets the events up to that offset.
    pub fn forget(&mut self, upto: u64) {
        while self.entries.first_key_value().is_some_and(|(offset, _)| *offset <= upto) {
            self.forget_first();
        }
        self.charge();
    }

    /// Puts what it takes on its account: once a batch, not for each event.
    pub fn charge(&mut self) {
        self.charge.set(self.bytes);
    }

    /// Counts frames that were made of the events after `after`, in forms beside plain JSON.
    pub fn weigh(&mut self, after: u64) {
        for (_, entry) in self.entries.range_mut(after.saturating_add(1)..) {
            self.bytes -= entry.bytes;
            self.bytes += entry.weigh();
        }
        self.charge();
    }

    /// The first event after `after`, and what it takes.
    pub fn first_after(&self, after: u64) -> Option<(&Event, usize)> {
        let (_, entry) = self.entries.range(after.saturating_add(1)..).next()?;
        Some((&entry.event, entry.bytes))
    }

    /// The events after `after` that are the newest of their keys, in the order of offsets.
    pub fn newer(&self, after: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.entries.range(after.saturating_add(1)..).map(|(_, entry)| &entry.event)
    }

    /// Of each event after `after` that is the newest of its key: how many events the shard had
    /// loaded before it, and its offset, in order.
    pub fn loads(&self, after: u64) -> Vec<(u64, u64)> {
        let newer = self.entries.range(after.saturating_add(1)..);
        newer.map(|(offset, entry)| (entry.loaded, *offset)).collect()
    }

    /// The last offset that would go out of the table, beside that of the event's own key, if it
    /// were recorded.
    pub fn evicts(&self, event: &Event) -> Option<u64> {
        let (mut len, mut bytes) = (self.entries.len() + 1, self.bytes + size(event));
        let fits = |len, bytes| len <= self.keys_max && bytes <= LATEST_BYTES_MAX;
        if fits(len, bytes) {
            return None;
        }
        let own = self.keys.get(&event.key).copied();
        if let Some(entry) = own.and_then(|own| self.entries.get(&own)) {
            (len, bytes) = (len - 1, bytes - entry.bytes);
            // As with every event of a full table whose keys are all known.
            if fits(len, bytes) {
                return None;
            }
        }
        let mut last = None;
        for (offset, entry) in self.entries.iter().filter(|(offset, _)| Some(**offset) != own) {
            if len <= self.keys_max && (bytes <= LATEST_BYTES_MAX || len == 1) {
                break;
            }
            (len, bytes) = (len - 1, bytes - entry.bytes);
            last = Some(*offset);
        }
        last
    }

    /// The first event after `after`, and no later than `upto`, that is the newest of its key:
    /// itself, and the frame that shows it in that form.
    pub fn next(
        &mut self,
        (after, upto): (u64, u64),
        format: Format,
        encoder: &mut Encoder,
    ) -> Option<(&Event, Rc<Frame>)> {
        if after >= upto {
            return None;
        }
        let (_, entry) = self.entries.range_mut(after + 1..=upto).next()?;
        let before = entry.bytes;
        let frame = Rc::clone(entry.frame(format, encoder));
        self.bytes = self.bytes - before + entry.weigh();
        self.charge.set(self.bytes);
        Some((&entry.event, frame))
    }
}

/// What an event counts as, in bytes: it keeps the frame that is made of it once somebody gets it.
fn size(event: &Event) -> usize {
    let key = event.key.as_ref().map_or(0, |key| key.len());
    event.payload.len() + event.bytes() + 2 * key + EVENT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outbox::tests::keyed_event;

    fn next(table: &mut Latest, after: u64, upto: u64) -> Option<(&Event, Rc<Frame>)> {
        table.next((after, upto), Format::Json, &mut Encoder::default())
    }

    fn shown(table: &mut Latest, mut after: u64, upto: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Some((event, frame)) = next(table, after, upto) {
            assert_eq!(frame.offset, Some(event.offset));
            after = event.offset;
            offsets.push(after);
        }
        offsets
    }

    #[test]
    fn each_key_shows_its_newest_event_in_the_order_of_offsets() {
        let mut table = Latest::new(10, &Account::default());
        let keys = [Some("a"), None, Some("b"), Some("a"), None, Some("c")];
        for (key, offset) in keys.into_iter().zip(5..) {
            table.record(&keyed_event(1, offset, key), 0);
        }
        assert_eq!((table.floor(), table.head()), (5, 10));
        assert_eq!(shown(&mut table, 0, 10), [7, 8, 9, 10]);
        assert_eq!(shown(&mut table, 7, 9), [8, 9]);
        assert_eq!(shown(&mut table, 10, 10), [0; 0]);
    }

    #[test]
    fn a_frame_is_made_once_and_says_what_it_is() {
        let mut table = Latest::new(10, &Account::default());
        table.record(&keyed_event(1, 1, Some("a")), 0);
        let (_, first) = next(&mut table, 0, 1).unwrap();
        assert!(Rc::ptr_eq(&first, &next(&mut table, 0, 1).unwrap().1));
        let text = String::from_utf8_lossy(&first.bytes[2..]).into_owned();
        assert!(text.contains(r#","key":"a","snapshot":true,"data":"#), "{text}");
    }

    #[test]
    fn what_a_table_would_forget_is_known_before() {
        let names = ["a", "b", "c", "d", "e"].map(Some);
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut table = Latest::new(rng.usize(1..5), &Account::default());
            for offset in 1..100 {
                let event = keyed_event(1, offset, names[rng.usize(0..5)]);
                let before: Vec<_> = table.newer(0).map(|e| (e.offset, e.key.clone())).collect();
                let lost = table.evicts(&event);
                table.record(&event, 0);
                let after: Vec<_> = table.newer(0).map(|event| event.offset).collect();
                let gone = before.into_iter().filter(|(at, _)| !after.contains(at));
                let gone = gone.filter(|(_, key)| *key != event.key).map(|(at, _)| at).max();
                assert_eq!(lost, gone, "seed {seed}, offset {offset}");
            }
        }
    }

    #[test]
    fn the_least_recently_published_key_goes() {
        let mut table = Latest::new(2, &Account::default());
        for (key, offset) in ["a", "b", "a", "c"].into_iter().zip(1..) {
            table.record(&keyed_event(1, offset, Some(key)), 0);
        }
        assert_eq!(shown(&mut table, 0, 4), [3, 4], "b was the oldest");
        let sum = |table: &Latest| table.entries.values().map(|entry| entry.bytes).sum::<usize>();
        assert!(table.entries.values().all(|entry| entry.frame.is_some()), "frames count too");
        assert_eq!((table.bytes, table.charge.bytes()), (sum(&table), sum(&table)));
        table.forget(3);
        assert_eq!(shown(&mut table, 0, 4), [4]);
        assert_eq!((table.bytes, table.charge.bytes()), (sum(&table), sum(&table)));
    }
}
