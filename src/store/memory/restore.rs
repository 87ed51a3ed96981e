//! Channels that live elsewhere as well: made from what was kept there, and let go again.

use std::hash::BuildHasher;

use super::{Channel, Memory};
use crate::proto::name::{Alias, ChannelName};
use crate::proto::position::Position;
use crate::store::kept::Kept;

/// A channel on its way into memory.
pub(in crate::store) struct Restoring {
    /// Its name, as its events have it.
    pub(in crate::store) name: ChannelName,
    /// Its number, likewise.
    pub(in crate::store) alias: Alias,
    /// Where it is.
    pub(in crate::store) head: Position,
    /// What is kept of its events.
    pub(in crate::store) kept: Box<Kept>,
}

impl Memory {
    /// Begins to restore a channel that is not there.
    pub(in crate::store) fn restoring(&self, name: &str, head: Position) -> Restoring {
        let name = ChannelName::from_checked(name);
        Restoring { name, alias: self.alias(), head, kept: Kept::new(&self.purse) }
    }

    /// The channel is there from here on, with all that is durable about it, until
    /// [`Memory::release`].
    pub(in crate::store) fn restored(&self, from: Restoring, used_ms: u64) {
        let Restoring { name, alias, head, kept } = from;
        let hash = self.hasher.hash_one(name.as_str());
        let mut segment = self.segment(hash).lock();
        let kept = (!kept.is_empty()).then_some(kept);
        let channel = Channel { used_ms, durable: true, kept, ..Channel::new(name, alias, head) };
        segment.idle += 1;
        segment.channels.insert_unique(hash, Box::new(channel), |channel| {
            self.hasher.hash_one(channel.name.as_str())
        });
    }

    /// Lets go of a channel that was restored and that nobody has used since `before_ms`, by the
    /// node's clock; `going` is called before. Whether it is gone. Whoever subscribes to a prefix
    /// either keeps its channels, or finds what `going` has done.
    pub(in crate::store) fn release(
        &self,
        name: &str,
        before_ms: u64,
        going: impl FnOnce(),
    ) -> bool {
        let hash = self.hasher.hash_one(name);
        let mut segment = self.segment(hash).lock();
        let found = segment.channels.find_entry(hash, |channel| channel.name.as_str() == name);
        let Ok(mut entry) = found else { return true };
        let channel = entry.get_mut();
        let used = channel.subscribers > 0 || channel.used_ms >= before_ms;
        if used || !channel.by_pattern(&self.prefixes).is_empty() {
            return false;
        }
        going();
        if !channel.by_pattern(&self.prefixes).is_empty() {
            return false;
        }
        drop(entry.remove());
        segment.idle -= 1;
        true
    }

    /// The offset of the event that was published on a channel under that id.
    pub(in crate::store) fn published(&self, name: &str, id: &str) -> Option<u64> {
        let hash = self.hasher.hash_one(name);
        let segment = self.segment(hash).lock();
        segment.find(hash, name)?.kept.as_ref()?.published(id)
    }
}
