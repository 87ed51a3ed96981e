//! Which shards have subscribers of which patterns.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::shard_set::ShardSet;
use crate::core::prefix::PrefixTable;
use crate::proto::name::ShardId;

/// The shards of each prefix. A channel keeps what it has found here, with the generation, and
/// looks again only when that has changed: so the number of patterns costs a publish nothing.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// Written with `table` locked, so that it never runs ahead of what is found there.
    generation: AtomicU64,
    table: RwLock<PrefixTable<ShardSet>>,
}

impl Prefixes {
    /// Changes with the shards of any prefix; 0 while there never was one.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The shards that have subscribers of a pattern that this channel has, and as of when.
    pub(super) fn of(&self, name: &str) -> (ShardSet, u64) {
        let table = self.table.read();
        let shards = table.of(name).fold(ShardSet::default(), |all, some| all.or(*some));
        (shards, self.generation())
    }

    /// A shard has subscribers of a prefix from here on.
    pub(super) fn subscribe(&self, prefix: &str, shard: ShardId) {
        let mut table = self.table.write();
        let shards = table.get_or_insert_with(prefix, ShardSet::default);
        let before = *shards;
        shards.insert(shard);
        if *shards != before {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// A shard has none any more.
    pub(super) fn unsubscribe(&self, prefix: &str, shard: ShardId) {
        let mut table = self.table.write();
        let shards = table.get_or_insert_with(prefix, ShardSet::default);
        shards.remove(shard);
        if shards.is_empty() {
            table.remove(prefix);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }
}
