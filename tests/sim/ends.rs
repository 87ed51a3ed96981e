//! How connections end: the client goes, or the server closes it.

use weir::core::hub::{SeatId, Writer};
use weir::core::policy::Policy;
use weir::proto::close::CloseReason;
use weir::proto::dialect::json;
use weir::proto::push::{Last, Push};
use weir::proto::ws::frame;

use crate::connection::Connection;
use crate::pattern::leave;
use crate::world::{Shard, World};

/// A queue that stays full for this long ends its connection, in milliseconds.
const SLOW_MS: u64 = 20_000;

fn is_strict(policy: &Policy) -> bool {
    *policy == Policy::Disconnect
}

impl World {
    /// The connection in a seat that a hub has named.
    pub(crate) fn connection(&mut self, shard: usize, seat: SeatId) -> &mut Connection {
        let mut all = self.connections.iter_mut();
        let found = all.find(|connection| (connection.shard, connection.seat) == (shard, seat));
        found.expect("only seats that are there are named")
    }

    /// Begins to close a connection, as the driver of a socket does. `false` when it has begun.
    pub(crate) fn close(&mut self, shard: usize, seat: SeatId, reason: CloseReason) -> bool {
        assert!(!self.lasting, "nobody is cut in this world");
        if std::mem::replace(&mut self.connection(shard, seat).ending, true) {
            return false;
        }
        let (now, store) = (self.now(), &self.store);
        let Shard { id, hub, net, heads, .. } = &mut self.shards[shard];
        let (heads, held_back) = (heads.clone(), hub.held_back(seat));
        hub.leave_all(seat, |left, last| leave(store, *id, (left, last), now));
        let there = hub.seat(seat).unwrap();
        let lost = there.outbox.clear_data() + held_back;
        there.lose(lost);
        let last = Last { reason, dropped: there.dropped() };
        if reason == CloseReason::Overloaded {
            there.outbox.clear_control();
        }
        let mut text = Vec::new();
        json::encode_push(&Push::Disconnect { reason, retry_after_ms: None }, &mut text);
        frame::push_text(&text, there.outbox.control());
        frame::close(reason.code().unwrap(), reason.text(), there.outbox.control());
        net.write(seat, there);
        hub.weigh(seat);
        let now_ms = self.now_ms;
        let connection = self.connection(shard, seat);
        connection.client.is_cut(heads, now_ms);
        let client = connection.author.client;
        self.farewells.remember(client, last, now_ms);
        true
    }

    /// The server shuts down: what is held back goes out before the notice and the close.
    pub(crate) fn shut_down(&mut self, index: usize) {
        let now = self.now();
        let connection = &mut self.connections[index];
        if std::mem::replace(&mut connection.ending, true) {
            return;
        }
        let (store, seat, at) = (&self.store, connection.seat, connection.shard);
        let Shard { id, hub, net, heads, .. } = &mut self.shards[at];
        let outcome = hub.settle_all(seat, net, self.now_ms);
        self.tally.count(&outcome);
        let whole = outcome.overflowed.is_empty() && !connection.policies.values().any(is_strict);
        let unread = net.sockets[&seat].bytes.len();
        connection.client.ends_at(whole.then(|| heads.clone()), unread);
        hub.leave_all(seat, |left, last| leave(store, *id, (left, last), now));
        let (reason, mut text, mut last) = (CloseReason::Shutdown, Vec::new(), Vec::new());
        json::encode_push(&Push::Disconnect { reason, retry_after_ms: None }, &mut text);
        frame::push_text(&text, &mut last);
        frame::close(reason.code().unwrap(), reason.text(), &mut last);
        hub.seat(seat).unwrap().outbox.push_last(last.into_boxed_slice());
        self.shards[at].flush(seat, (&self.store, &self.mailboxes), self.now_ms);
    }

    /// The client is gone, with whatever it had not read.
    pub(crate) fn disconnect(&mut self, index: usize) {
        let connection = self.connections.swap_remove(index);
        let (now, store) = (self.now(), &self.store);
        let Shard { id, hub, net, .. } = &mut self.shards[connection.shard];
        hub.close(connection.seat, |left, last| leave(store, *id, (left, last), now));
        net.sockets.remove(&connection.seat);
        self.tally.add(connection.client.tally);
    }

    /// A shard looks for queues that have been full for too long.
    pub(crate) fn look(&mut self, shard: usize) {
        let before = self.now_ms.checked_sub(SLOW_MS).filter(|_| !self.lasting);
        for seat in self.shards[shard].hub.still_full(before) {
            // What was at half since then has been full for a shorter time.
            let half_ms = self.connection(shard, seat).half_ms;
            let full_ms = self.now_ms - half_ms;
            assert!(full_ms >= SLOW_MS, "seat {seat} was at half {full_ms} ms ago");
            self.tally.cut[1] += u64::from(self.close(shard, seat, CloseReason::SlowConsumer));
        }
    }
}
