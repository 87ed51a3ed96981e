//! Keeps the memory of all queues within its limit: each shard tells the node what its own take,
//! and where that is too much together, the fullest connections go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::local::{Ending, Shard, Socket};
use crate::core::hub::SeatId;
use crate::proto::close::CloseReason;
use crate::proto::name::{ClientId, ShardId};

/// A shard tells the node at once when its queues have grown or shrunk by this share of the limit.
const STEPS: usize = 64;

/// And in any case when they have by this many bytes.
const STEP_MAX: usize = 1 << 20;

/// Cutting goes on until this part of the limit is free.
const ROOM: usize = 16;

/// Connections cut before others have their chance.
const CUTS_A_TURN: usize = 64;

/// After a look at who is the fullest there is none for so long: what is left is in other shards,
/// or on its way to sockets that take it.
const REST_MS: u64 = 10;

/// And for so many times as long as the look has taken.
const REST_TIMES: u64 = 8;

/// Bytes of answers that one which is closed may keep as long as its close takes.
const CLOSING_BYTES: usize = 4_096;

/// At most one line is logged in so long.
const SAID_EVERY_MS: u64 = 1_000;

/// The memory of all queues, as the shards have told it.
#[derive(Debug)]
pub struct Ledger {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// What those still have of it who were cut, or are being closed anyway and leave much unread:
    /// it is free in a moment, and nobody is cut for it.
    going: AtomicUsize,
    /// What the fullest connection of each shard has, at its last look; 0 within the limit.
    fullest: Box<[AtomicUsize]>,
    cut: AtomicU64,
    freed: AtomicU64,
    said_ms: AtomicU64,
}

impl Ledger {
    /// For so many shards together.
    pub(super) fn new(limit: usize, shards: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            going: AtomicUsize::new(0),
            fullest: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            cut: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            said_ms: AtomicU64::new(0),
        }
    }

    /// How many bytes all queues may take.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// They may take so many from here on.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many they take.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether that is too much.
    pub fn is_over(&self) -> bool {
        self.used() > self.limit()
    }

    /// What they will take when those have gone who are going.
    fn staying(&self) -> usize {
        self.used().saturating_sub(self.going.load(Ordering::Relaxed))
    }

    fn must_cut(&self) -> bool {
        self.staying() > self.limit()
    }

    fn has_room(&self) -> bool {
        self.staying() <= self.limit() - self.limit() / ROOM
    }

    fn moved(&self, before: usize, after: usize) {
        self.used.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn going(&self, before: usize, after: usize) {
        self.going.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn step(&self) -> usize {
        (self.limit() / STEPS).clamp(1, STEP_MAX)
    }

    fn note_fullest(&self, shard: ShardId, bytes: usize) {
        if let Some(fullest) = self.fullest.get(usize::from(shard.0)) {
            fullest.store(bytes, Ordering::Relaxed);
        }
    }

    /// Whether a connection with so much is among the fullest of the node. The others are left to
    /// the shards that have them, unless those are slower than the memory grows.
    fn is_among_fullest(&self, bytes: usize) -> bool {
        let fullest = self.fullest.iter().map(|one| one.load(Ordering::Relaxed)).max();
        bytes >= fullest.unwrap_or(0) / 2 || self.runs_away()
    }

    /// Whether memory grows faster than it is known whom to cut.
    fn runs_away(&self) -> bool {
        self.staying() > self.limit() + self.limit() / 8
    }

    fn note_cut(&self, cut: u64, freed: usize) {
        self.cut.fetch_add(cut, Ordering::Relaxed);
        self.freed.fetch_add(freed as u64, Ordering::Relaxed);
    }

    /// Logs what was cut since the last line, unless that was just now.
    fn say(&self, now_ms: u64) {
        let said_ms = self.said_ms.load(Ordering::Relaxed);
        if self.cut.load(Ordering::Relaxed) == 0
            || said_ms > 0 && now_ms.saturating_sub(said_ms) < SAID_EVERY_MS
        {
            return;
        }
        self.said_ms.store(now_ms.max(1), Ordering::Relaxed);
        let cut = self.cut.swap(0, Ordering::Relaxed);
        let freed = self.freed.swap(0, Ordering::Relaxed);
        let limit = self.limit();
        tracing::warn!(
            cut,
            freed_bytes = freed,
            "the queues took more than limits.memory ({limit} bytes): {cut} of the fullest \
             connections were closed with 4004, which freed {freed} bytes"
        );
    }
}

/// What a shard has told the ledger.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The figure that costs nothing to ask, when it was told.
    at_most: Cell<usize>,
    exact: Cell<usize>,
    rest_until_ms: Cell<u64>,
    /// Who is to be cut, the fullest last, until there is room.
    ranks: RefCell<Vec<(usize, SeatId, ClientId)>>,
    /// Who is being closed anyway, and left much unread.
    closing: RefCell<BTreeSet<(SeatId, ClientId)>>,
}

impl Shard {
    /// Tells the node what the shard's queues take, if that has changed by much, and cuts where it
    /// is too much for all: after a round of writes.
    pub(super) async fn keep_memory(&self) {
        let ledger = self.node.memory();
        let at_most = self.hub.borrow().memory_at_most();
        if at_most.abs_diff(self.told.at_most.get()) >= ledger.step() {
            self.tell_memory();
        }
        if ledger.is_over() || self.is_cutting() {
            self.relieve();
        }
        if self.is_cutting() {
            tokio::task::yield_now().await;
        }
    }

    /// As [`Shard::keep_memory`], at a tick: however little has changed.
    pub(super) fn look_at_memory(&self, now_ms: u64) {
        let ledger = self.node.memory();
        self.tell_memory();
        if ledger.is_over() {
            self.relieve();
        }
        if !ledger.must_cut() {
            ledger.note_fullest(self.id, 0);
        }
        if self.is_cutting()
            && let Some(mailbox) = self.mailbox()
        {
            mailbox.wake();
        }
        if self.id.0 == 0 {
            ledger.say(now_ms);
        }
    }

    /// Whether there are more to cut than one turn has.
    pub(super) fn is_cutting(&self) -> bool {
        !self.told.ranks.borrow().is_empty()
    }

    /// Tells the node what the shard's queues take.
    pub(super) fn tell_memory(&self) {
        let (at_most, exact) = {
            let hub = self.hub.borrow();
            (hub.memory_at_most(), hub.memory())
        };
        self.told.at_most.set(at_most);
        self.node.memory().moved(self.told.exact.replace(exact), exact);
    }

    /// Cuts some of the fullest connections, as long as all queues together take too much. The
    /// next turn goes on.
    fn relieve(&self) {
        if !self.is_cutting() && !self.rank() {
            return;
        }
        let ledger = self.node.memory();
        for _ in 0..CUTS_A_TURN {
            let next = self.told.ranks.borrow_mut().pop();
            let bytes = next.map_or(0, |(bytes, ..)| bytes);
            ledger.note_fullest(self.id, bytes);
            match next {
                Some((_, id, client)) if !ledger.has_room() && ledger.is_among_fullest(bytes) => {
                    self.cut(id, client, bytes);
                }
                Some(_) | None => return self.told.ranks.borrow_mut().clear(),
            }
        }
    }

    /// Looks who is the fullest, unless that was just now. Whether anybody is to be cut.
    fn rank(&self) -> bool {
        let clock = self.node.clock();
        let begun_ns = clock.node_ns();
        if begun_ns / 1_000_000 < self.told.rest_until_ms.get() {
            return false;
        }
        // What is given up must not live on for its reuse; nor does it count as shared.
        self.hub.borrow_mut().forget_spare();
        self.tell_memory();
        if self.node.memory().is_over() {
            self.hasten_closing();
        }
        let ledger = self.node.memory();
        if ledger.must_cut() {
            let hub = self.hub.borrow();
            let ranks = hub.by_fullness(|id| self.may_cut(id));
            // The fullest may be one that is just being written to. In a moment it has less, or its
            // socket takes no more; nobody goes in its place, unless memory runs away meanwhile.
            let fullest = ranks.last().map_or(0, |(bytes, ..)| *bytes);
            if ledger.runs_away() || hub.fullest_taking(|id| self.may_cut(id)) <= fullest {
                self.told.ranks.replace(ranks);
            }
        }
        let ended_ns = clock.node_ns();
        let rest_ms = REST_MS.max((ended_ns - begun_ns) * REST_TIMES / 1_000_000);
        self.told.rest_until_ms.set(ended_ns / 1_000_000 + rest_ms);
        self.is_cutting()
    }

    /// Ends those soon who are being closed anyway and have much unread: nobody else is cut for
    /// them. What was queued before a shutdown goes out.
    fn hasten_closing(&self) {
        for (id, client) in self.told.closing.take() {
            if let Some(socket) = self.socket(id).filter(|socket| socket.client == client) {
                self.hasten(id, CLOSING_BYTES);
                self.note_going(id, &socket);
            }
        }
        self.tell_memory();
    }

    /// A connection is being closed, for any reason: what it has is as good as free where it is
    /// much, for it can be hastened.
    pub(super) fn note_closing(&self, id: SeatId, socket: &Socket) {
        let unread = self.hub.borrow_mut().seat(id).map_or(0, |seat| seat.outbox.control_bytes());
        let hastened = socket.ending.get().is_some_and(|ending| ending.may_hasten());
        if hastened && unread > CLOSING_BYTES {
            self.told.closing.borrow_mut().insert((id, socket.client));
            self.note_going(id, socket);
            self.tell_memory();
        }
    }

    /// What a connection has will soon be free.
    fn note_going(&self, id: SeatId, socket: &Socket) {
        let Some(ending) = socket.ending.get() else { return };
        let going = {
            let mut hub = self.hub.borrow_mut();
            hub.weigh(id);
            hub.share_bytes(id)
        };
        socket.ending.set(Some(Ending { going, ..ending }));
        self.node.memory().going(ending.going, going);
    }

    /// Whether a connection is not being closed already.
    fn may_cut(&self, id: SeatId) -> bool {
        self.socket(id).is_some_and(|socket| socket.ending.get().is_none())
    }

    /// Closes a connection to free what only it holds, if it is still as full.
    fn cut(&self, id: SeatId, client: ClientId, bytes: usize) {
        let Some(socket) = self.socket(id).filter(|socket| socket.client == client) else { return };
        let full = {
            let mut hub = self.hub.borrow_mut();
            hub.seat(id).is_some_and(|seat| seat.holds_memory()) && hub.share_bytes(id) >= bytes / 2
        };
        if !full || !self.may_cut(id) {
            return;
        }
        self.hub.borrow_mut().forget_spare();
        self.tell_memory();
        let before = self.told.exact.get();
        self.begin_close(id, CloseReason::Overloaded);
        // What it has sent its task gives up at once.
        self.hub.borrow_mut().weigh_input(id, 0);
        self.note_going(id, &socket);
        self.tell_memory();
        self.node.memory().note_cut(1, before.saturating_sub(self.told.exact.get()));
    }

    /// One that was closed has gone.
    pub(super) fn note_gone(&self, who: (SeatId, ClientId), ending: Ending) {
        if ending.going > 0 {
            self.told.closing.borrow_mut().remove(&who);
            self.tell_memory();
            self.node.memory().going(ending.going, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_adds_what_shards_tell() {
        let ledger = Ledger::new(100, 2);
        ledger.moved(0, 70);
        ledger.moved(0, 40);
        assert!(ledger.is_over());
        ledger.moved(70, 60);
        assert_eq!((ledger.used(), ledger.is_over()), (100, false), "up to the limit is within");
    }

    #[test]
    fn a_shard_leaves_it_to_those_who_have_the_fullest() {
        let ledger = Ledger::new(800, 2);
        ledger.moved(0, 801);
        ledger.note_fullest(ShardId(1), 50);
        assert!(!ledger.is_among_fullest(24) && ledger.is_among_fullest(25));
        ledger.moved(0, 100);
        assert!(ledger.is_among_fullest(1), "they are too slow");
    }

    #[test]
    fn cutting_goes_on_until_there_is_room_and_does_not_wait_for_those_who_go() {
        let ledger = Ledger::new(1_600, 1);
        ledger.moved(0, 1_600);
        assert!(!ledger.must_cut() && !ledger.has_room());
        ledger.moved(1_600, 1_650);
        assert!(ledger.must_cut() && !ledger.has_room());
        ledger.going(0, 149);
        assert!(!ledger.must_cut() && !ledger.has_room());
        ledger.going(149, 150);
        assert!(ledger.has_room() && ledger.is_over(), "strangers wait until they have gone");
        ledger.going(150, 0);
        assert!(ledger.must_cut(), "they have gone, and others have taken as much");
    }
}
