//! The newest events of many channels, read channel by channel as a reader takes them: what a
//! subscription to a pattern is shown first.

use std::sync::Arc;

use super::history::Chunk;
use crate::proto::name::{Alias, ChannelName};

/// How far a list of channels has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bookmark {
    /// The part of the store that is being read.
    pub part: u32,
    /// The last channel of it that was read, by the order of their numbers.
    pub after: u64,
}

/// Channels of which the newest event of each key is kept.
#[derive(Debug, Default)]
pub struct Listing {
    /// Some of them.
    pub channels: Vec<(ChannelName, Alias)>,
    /// Where to go on; `None` where these are the last.
    pub next: Option<Bookmark>,
}

/// Newest events of one channel.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The channel's last offset at that moment.
    pub head: u64,
    /// Those after the place that was named, and perhaps some before it; later ones may follow.
    pub chunk: Arc<Chunk>,
}

/// Where the newest events are read. Each call is short, however much there is.
pub trait Shelf {
    /// Channels whose names begin with `prefix`. Each that had events when the first call was made
    /// is in one of the answers of those that go on from there; there may be others.
    fn list(&self, prefix: &str, from: Bookmark) -> Listing;

    /// The newest event of each key of a channel after that offset, the oldest of them; `None`
    /// where there are no more.
    fn leaf(&self, channel: &ChannelName, alias: Alias, after: u64) -> Option<Leaf>;

    /// How many events are on their way to the shard and not loaded yet, all that were published
    /// before a call that was made before this one among them.
    fn mail(&self) -> u64;
}
