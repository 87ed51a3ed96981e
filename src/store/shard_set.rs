//! A set of shards.

use crate::proto::name::ShardId;

/// Some shards, of at most 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ShardSet(u128);

impl ShardSet {
    pub(super) fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard.0;
    }

    pub(super) fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << shard.0);
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards of both.
    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            u16::try_from(index).ok().filter(|index| *index < 128).map(ShardId)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_shards_holds_every_index() {
        let mut set = ShardSet::default();
        for shard in [0, 1, 63, 64, 127] {
            set.insert(ShardId(shard));
        }
        set.remove(ShardId(1));
        let all: Vec<u16> = set.iter().map(|shard| shard.0).collect();
        assert_eq!(all, [0, 63, 64, 127]);
    }
}
