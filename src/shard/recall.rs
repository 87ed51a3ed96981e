//! The time before subscriptions: fetched for one connection after the other, a part of every turn,
//! so that those who come back do not hold up what is published meanwhile.

use super::flush::{Flushed, wake};
use super::local::Shard;
use super::mailbox::Mailbox;
use crate::core::browse::{Bookmark, Leaf, Listing, Shelf};
use crate::core::hub::SeatId;
use crate::proto::name::{Alias, ChannelName};

/// The least and the most that a turn has for the past, in nanoseconds.
const SHARE_MIN_NS: u64 = 2_000_000;
const SHARE_MAX_NS: u64 = 5_000_000;

/// And the part of the time that its live events have taken, in between.
const SHARE: u64 = 4;

/// Where this shard reads what patterns are shown.
struct Shelves<'a>(&'a Shard);

impl Shelf for Shelves<'_> {
    fn list(&self, prefix: &str, from: Bookmark) -> Listing {
        self.0.node.store().keyed(prefix, from)
    }

    fn leaf(&self, channel: &ChannelName, alias: Alias, after: u64) -> Option<Leaf> {
        self.0.node.store().leaf(channel.as_str(), alias, after)
    }

    fn mail(&self) -> u64 {
        self.0.mailbox().map_or(0, Mailbox::depth)
    }
}

impl Shard {
    /// Whether somebody is to be sent something of the past.
    pub(super) fn recalls(&self) -> bool {
        self.hub.borrow().recalls() > 0
    }

    /// Fetches some of the past for those who are to have it, each a piece, and writes it; for as
    /// long as live events leave to it that have taken `live_ns`. Then others have their chance.
    pub(super) async fn recall_round(&self, live_ns: u64) {
        let clock = self.node.clock();
        let begun_ns = clock.node_ns();
        let share_ns = (live_ns / SHARE).clamp(SHARE_MIN_NS, SHARE_MAX_NS);
        let mut now_ns = begun_ns;
        while now_ns - begun_ns < share_ns {
            let Some(id) = self.hub.borrow_mut().next_recall() else { break };
            self.recall(id, now_ns);
            now_ns = clock.node_ns();
        }
        tokio::task::yield_now().await;
    }

    /// Fetches a piece of the past for a connection, and writes it.
    fn recall(&self, id: SeatId, node_ns: u64) {
        {
            let mut hub = self.hub.borrow_mut();
            let Some(seat) = hub.seat(id).filter(|seat| !seat.blocked) else { return };
            if seat.outbox.browsed().is_some() {
                if !hub.turn_page(id, &Shelves(self)) {
                    return hub.weigh(id);
                }
            } else {
                hub.refill(id, || node_ns);
            }
        }
        let broken = self.flush_at(id, node_ns) == Flushed::Broken;
        if let Some(socket) = self.socket(id)
            && (broken || socket.ending.get().is_some())
        {
            // Its task finds the same error and ends the connection, or sees its close through.
            wake(&socket);
        }
    }
}
