//! Keeps the memory of all queues within its limit: each shard tells the node what its own take,
//! and where that is too much together, the fullest connections go.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::local::Shard;
use crate::core::hub::SeatId;
use crate::proto::close::CloseReason;
use crate::proto::name::{ClientId, ShardId};

/// A shard tells the node at once when its queues have grown or shrunk by this share of the limit.
const STEPS: usize = 64;

/// And in any case when they have by this many bytes.
const STEP_MAX: usize = 1 << 20;

/// Connections cut before others have their chance.
const CUTS_A_TURN: usize = 64;

/// After a look that did not bring the memory within its limit, there is none for so long: what
/// is left is in other shards, or on its way to sockets that take it.
const REST_MS: u64 = 10;

/// At most one line is logged in so long.
const SAID_EVERY_MS: u64 = 1_000;

/// The memory of all queues, as the shards have told it.
#[derive(Debug)]
pub struct Ledger {
    limit: usize,
    used: AtomicUsize,
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
            limit,
            used: AtomicUsize::new(0),
            fullest: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            cut: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            said_ms: AtomicU64::new(0),
        }
    }

    /// How many bytes all queues may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many they take.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether that is too much.
    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    fn moved(&self, before: usize, after: usize) {
        self.used.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn step(&self) -> usize {
        (self.limit / STEPS).clamp(1, STEP_MAX)
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
        bytes >= fullest.unwrap_or(0) / 2 || self.used() > self.limit + self.limit / 8
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
        let limit = self.limit;
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
}

impl Shard {
    /// Tells the node what the shard's queues take, if that has changed by much, and cuts where it
    /// is too much for all: after a round of writes.
    pub(super) async fn keep_memory(&self) {
        let ledger = self.node.memory();
        let at_most = self.hub.borrow().memory_at_most();
        if at_most.abs_diff(self.told.at_most.get()) < ledger.step() && !ledger.is_over() {
            return;
        }
        self.tell_memory();
        self.relieve().await;
    }

    /// As [`Shard::keep_memory`], at a tick: however little has changed.
    pub(super) async fn look_at_memory(&self, now_ms: u64) {
        let ledger = self.node.memory();
        self.tell_memory();
        self.relieve().await;
        if !ledger.is_over() {
            ledger.note_fullest(self.id, 0);
        }
        if self.id.0 == 0 {
            ledger.say(now_ms);
        }
    }

    /// Tells the node what the shard's queues take.
    fn tell_memory(&self) {
        let (at_most, exact) = {
            let hub = self.hub.borrow();
            (hub.memory_at_most(), hub.memory())
        };
        self.told.at_most.set(at_most);
        self.node.memory().moved(self.told.exact.replace(exact), exact);
    }

    /// Cuts the fullest connections, as long as all queues together take too much.
    async fn relieve(&self) {
        let ledger = self.node.memory();
        let now_ms = self.node.clock().node_ms();
        if !ledger.is_over() || now_ms < self.told.rest_until_ms.get() {
            return;
        }
        let mut ranks = self.hub.borrow().by_fullness();
        while ledger.is_over() {
            for _ in 0..CUTS_A_TURN {
                let next = ranks.pop();
                ledger.note_fullest(self.id, next.map_or(0, |(bytes, ..)| bytes));
                let Some((bytes, id, client)) =
                    next.filter(|(bytes, ..)| ledger.is_among_fullest(*bytes))
                else {
                    return self.told.rest_until_ms.set(now_ms + REST_MS);
                };
                self.cut(id, client, bytes);
                if !ledger.is_over() {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Closes a connection to free what only it holds, if it is still as full.
    fn cut(&self, id: SeatId, client: ClientId, bytes: usize) {
        let Some(socket) = self.socket(id).filter(|socket| socket.client == client) else { return };
        let waits = self.hub.borrow_mut().seat(id).is_some_and(|seat| {
            seat.blocked && seat.outbox.data_bytes() + seat.outbox.own_bytes() >= bytes / 2
        });
        if socket.ending.get().is_some() || !waits {
            return;
        }
        // What it gives up must not live on for its reuse.
        self.hub.borrow_mut().forget_spare();
        self.tell_memory();
        let before = self.told.exact.get();
        self.begin_close(id, CloseReason::Overloaded);
        self.hub.borrow_mut().weigh(id);
        self.tell_memory();
        self.node.memory().note_cut(1, before.saturating_sub(self.told.exact.get()));
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
}
