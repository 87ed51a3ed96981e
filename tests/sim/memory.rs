//! All queues together have a limit: beyond it the fullest connections are closed with 4004, as the
//! shards do it, and what each is told of its end is what it did not get.

use weir::core::hub::SeatId;
use weir::proto::close::CloseReason;

use crate::world::World;

/// Cutting goes on until this part of the limit is free.
const ROOM: usize = 16;

impl World {
    /// What the queues of all shards take.
    fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.hub.memory()).sum()
    }

    /// Closes the fullest where all queues take too much together, as many as it takes.
    pub(crate) fn relieve(&mut self) {
        if self.memory() <= self.memory_max {
            return;
        }
        self.weigh();
        while self.memory() > self.memory_max - self.memory_max / ROOM {
            let Some((bytes, shard, seat)) = self.fullest() else { return };
            assert!(bytes > 0, "who has nothing is not cut");
            self.close(shard, seat, CloseReason::Overloaded);
            self.tally.cut[2] += 1;
            self.weigh();
        }
    }

    /// Who has the most of those that could be cut: their sockets take no more, and they are not
    /// being closed.
    fn fullest(&self) -> Option<(usize, usize, SeatId)> {
        let ranks = |index: usize| {
            let open = |seat| {
                let mut all = self.connections.iter();
                all.any(|it| (it.shard, it.seat, it.ending) == (index, seat, false))
            };
            let ranks = self.shards[index].hub.by_fullness(open);
            assert!(ranks.is_sorted(), "the fullest is the last");
            ranks.into_iter().map(move |(bytes, seat, _)| (bytes, index, seat))
        };
        (0..self.shards.len()).flat_map(ranks).max()
    }

    /// What every connection has a share of is what its shard has on its account.
    fn weigh(&mut self) {
        let mut shares = vec![(0, 0); self.shards.len()];
        for connection in &self.connections {
            let hub = &mut self.shards[connection.shard].hub;
            hub.weigh(connection.seat);
            hub.forget_spare();
            let items = hub.seat(connection.seat).unwrap().outbox.lane_len();
            let (sum, rest) = &mut shares[connection.shard];
            *sum += hub.share_bytes(connection.seat);
            // Each thing that several have is divided among them, and rounded down.
            *rest += items + 1;
        }
        for (shard, (shares, rest)) in self.shards.iter().zip(shares) {
            let memory = shard.hub.memory();
            let all = self.connections.len();
            assert!(shares <= memory && memory <= shares + rest * all, "{shares} of {memory}");
        }
    }
}
