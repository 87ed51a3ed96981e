//! The end of a simulation: everything drains, everybody reads, and all is accounted for.

use crate::tally::Tally;
use crate::world::{Shard, World};

impl World {
    /// A shard has turns until it has nothing in hand, nothing to write and nothing due.
    fn drain(&mut self, index: usize) {
        while let Shard { hub, in_hand, .. } = &self.shards[index]
            && (!in_hand.is_empty() || hub.dirty() > 0 || hub.next_due().is_some())
        {
            self.now_ms = self.now_ms.max(hub.next_due().unwrap_or(0));
            self.turn(index);
        }
    }

    /// Everything drains, everybody reads, and all is accounted for. Returns what happened.
    pub(crate) fn finish(mut self) -> Tally {
        for index in 0..self.shards.len() {
            self.drain(index);
            self.turn(index);
            self.drain(index);
        }
        for index in 0..self.connections.len() {
            self.connections[index].stalled = false;
            loop {
                let connection = &self.connections[index];
                let shard = &mut self.shards[connection.shard];
                let idle = shard.hub.seat(connection.seat).unwrap().outbox.is_empty();
                if idle && shard.net.sockets[&connection.seat].bytes.is_empty() {
                    break;
                }
                self.read(index);
            }
            self.connections[index].client.finish(&self.logs);
        }
        while !self.connections.is_empty() {
            self.disconnect(0);
        }
        self.check();
        let delivered: u64 = self.shards.iter().map(|shard| shard.net.delivered).sum();
        assert!(self.tally.events <= delivered, "nothing is read that was not written");
        if self.lasting {
            assert_eq!(self.tally.events, delivered, "what was counted as delivered was read");
            let shown = self.shards.iter().map(|shard| shard.net.shown).sum::<u64>();
            assert_eq!(self.tally.shown, shown, "and what was counted as shown");
            // In holes more was conflated than is known here, and of what nobody was to see.
            assert!(self.tally.spared <= self.tally.conflated, "{:?}", self.tally);
        }
        for shard in &self.shards {
            assert_eq!((shard.hub.connections(), shard.hub.subscriptions()), (0, 0));
            let queues = shard.hub.queues();
            assert_eq!((queues.bytes, queues.memory, queues.slow), (0, 0, [0, 0, 0]));
        }
        self.tally
    }
}
