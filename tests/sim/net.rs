//! Sockets that are vectors of bytes, and mailboxes that are vectors of events.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;
use weir::core::browse::{Bookmark, Leaf, Listing, Shelf};
use weir::core::hub::{Hub, Seat, SeatId, Writer};
use weir::core::latest::Frame;
use weir::core::outbox::{Delivered, SLICES_MAX};
use weir::core::run::Run;
use weir::proto::event::Event;
use weir::proto::name::{Alias, ChannelName, ShardId};
use weir::store::memory::Memory;
use weir::store::{Deliver, Store};

/// A mailbox is crowded beyond this many events.
pub(crate) const CROWDED: usize = 40;

/// The mailboxes of all shards.
#[derive(Default)]
pub(crate) struct Mailboxes(Mutex<HashMap<ShardId, Vec<Arc<Event>>>>);

impl Mailboxes {
    /// Everything in the mailbox of a shard.
    pub(crate) fn take(&self, shard: ShardId) -> Vec<Arc<Event>> {
        self.0.lock().remove(&shard).unwrap_or_default()
    }

    /// How much is in the mailbox of a shard.
    pub(crate) fn depth(&self, shard: ShardId) -> usize {
        self.0.lock().get(&shard).map_or(0, Vec::len)
    }

    /// Whether no mailbox is crowded.
    pub(crate) fn calm(&self) -> bool {
        self.0.lock().values().all(|mail| mail.len() <= CROWDED)
    }
}

impl Deliver for Mailboxes {
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
        let mut all = self.0.lock();
        let mail = all.entry(shard).or_default();
        mail.push(event);
        mail.len() > CROWDED
    }
}

/// The kernel's side of a connection: what was written and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    /// The bytes in between.
    pub(crate) bytes: Vec<u8>,
    /// How many there may be.
    pub(crate) capacity: usize,
}

impl Socket {
    /// One that has taken nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: Vec::new(), capacity }
    }
}

/// The sockets of one shard.
#[derive(Default)]
pub(crate) struct Net {
    /// By the seat they belong to.
    pub(crate) sockets: HashMap<SeatId, Socket>,
    /// Events handed to sockets, as the outboxes count them.
    pub(crate) delivered: u64,
    /// Newest events of a key handed to sockets, likewise.
    pub(crate) shown: u64,
}

struct Count<'a>(&'a mut u64, &'a mut u64);

impl Delivered for Count<'_> {
    fn delivered(&mut self, _: &Run, frames: u32) {
        *self.0 += u64::from(frames);
    }

    fn recovered(&mut self, run: &Run, frames: u32) {
        // What is shown at the beginning is no delivery.
        if !run.is_conflated() {
            self.delivered(run, frames);
        }
    }

    fn shown(&mut self, _: &Frame) {
        *self.1 += 1;
    }
}

/// Where a shard reads what patterns are shown: the store; and how much it has in hand.
pub(crate) struct Shelves<'a> {
    pub(crate) store: &'a Memory,
    pub(crate) mailboxes: &'a Mailboxes,
    pub(crate) shard: ShardId,
    pub(crate) in_hand: usize,
}

impl Shelf for Shelves<'_> {
    fn list(&self, prefix: &str, from: Bookmark) -> Listing {
        self.store.keyed(prefix, from)
    }

    fn leaf(&self, channel: &ChannelName, alias: Alias, after: u64) -> Option<Leaf> {
        self.store.leaf(channel.as_str(), alias, after)
    }

    fn mail(&self) -> u64 {
        (self.in_hand + self.mailboxes.depth(self.shard)) as u64
    }
}

impl Net {
    /// Writes until the socket takes no more, and fetches what was missed as it goes.
    pub(crate) fn flush(&mut self, id: SeatId, hub: &mut Hub, shelf: &Shelves<'_>, now_ms: u64) {
        loop {
            let seat = hub.seat(id).unwrap();
            self.write(id, seat);
            if seat.blocked {
                return seat.outbox.withdraw();
            }
            if !hub.refill(id, || now_ms * 1_000_000) && !hub.turn_page(id, shelf) {
                return;
            }
        }
    }
}

impl Writer for Net {
    fn write(&mut self, id: SeatId, seat: &mut Seat) {
        let socket = self.sockets.get_mut(&id).expect("every seat has a socket");
        while !seat.blocked && !seat.outbox.is_idle() {
            let room = socket.capacity - socket.bytes.len();
            let wire: Vec<u8> = match seat.outbox.sole() {
                Some(bytes) => bytes.to_vec(),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let used = seat.outbox.gather(|| 0, &mut slices);
                    slices[..used].iter().flat_map(|slice| slice.to_vec()).collect()
                }
            };
            assert!(!wire.is_empty(), "an outbox that is not idle has bytes");
            let written = wire.len().min(room);
            socket.bytes.extend_from_slice(&wire[..written]);
            seat.outbox.advance(written, &mut Count(&mut self.delivered, &mut self.shown));
            seat.blocked = written < wire.len();
        }
    }
}
