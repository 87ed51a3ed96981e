//! Settings of a hub that change while it runs, and what a subscription was made with.

use super::{Hub, OutboxLimit, SeatId};
use crate::core::policy::Policy;
use crate::proto::format::Compression;
use crate::proto::name::Alias;
use crate::proto::rate::Rate;

/// How a subscription was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// What happens at the bound of the queue.
    pub policy: Policy,
    /// How often events are wanted at most.
    pub max_rate: Option<Rate>,
}

impl Hub {
    /// Bounds queues and compresses otherwise from here on. What a queue has beyond a smaller bound
    /// goes by its policies, with the next event that meets it.
    pub fn reset(&mut self, limit: OutboxLimit, compression: Compression) {
        self.limit = limit;
        self.press.encoder().compress_as(compression);
    }

    /// How a subscription by name was made, where there is one.
    pub fn made(&self, id: SeatId, alias: Alias) -> Option<Made> {
        let sub = self.sub(id, alias)?;
        let members = self.topics.get(&alias)?.members(sub.rate);
        let policy = members.get(sub.member as usize)?.policy;
        Some(Made { policy, max_rate: sub.rate })
    }

    /// How a subscription by pattern was made, where there is one.
    pub fn pattern_made(&self, id: SeatId, prefix: &str) -> Option<Made> {
        let sub = self.patterns.sub(id, prefix)?;
        let pattern = self.patterns.all.get(sub.pattern as usize)?;
        let policy = pattern.list(sub.rate).get(sub.member as usize)?.policy;
        Some(Made { policy, max_rate: sub.rate })
    }
}
