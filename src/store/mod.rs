//! A channel's sequence: who gives offsets, and who hears of an event.

pub mod memory;

use std::borrow::Cow;
use std::sync::Arc;

use crate::proto::event::{Author, Event, Payload};
use crate::proto::name::{Alias, ChannelName, ClientId, ShardId};
use crate::proto::position::Position;

/// An event before it has a place.
#[derive(Debug)]
pub struct NewEvent<'a> {
    /// Where to: a name that [`crate::proto::name::check_channel`] passed.
    pub channel: Cow<'a, str>,
    /// Its label inside the channel.
    pub key: Option<Box<str>>,
    /// What is published.
    pub payload: Payload,
    /// Who published it; `None` for the HTTP API.
    pub from: Option<Arc<Author>>,
    /// The one client that does not want to see it.
    pub hidden_from: Option<ClientId>,
}

/// The clocks at the moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// The node's monotonic clock in nanoseconds.
    pub node_ns: u64,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place.
    pub position: Position,
    /// A shard whose mailbox is beyond its bound: whoever publishes should wait for it.
    pub crowded: Option<ShardId>,
}

/// Where a subscription begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The channel's name, shared.
    pub channel: ChannelName,
    /// The node's number for it.
    pub alias: Alias,
    /// The head at that moment: the events after it will be delivered.
    pub head: Position,
}

/// One channel as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its name.
    pub channel: ChannelName,
    /// Subscriptions on this node.
    pub subscribers: u32,
    /// The number of its last event.
    pub offset: u64,
}

/// The store cannot do its work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is away")]
pub struct Unavailable;

/// Takes events on their way to a shard.
pub trait Deliver: Send + Sync {
    /// Puts `event` into the mailbox of `shard`. `true` when that mailbox is beyond its bound.
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool;
}

/// Gives a channel its sequence.
///
/// Contract, checked for every implementation by [`conformance`]:
///
/// 1. Offsets in one channel and epoch start at 1 and have no gaps.
/// 2. Every shard that subscribed gets every event after the head it was told, in offset order,
///    once; a shard that left gets none.
/// 3. An event is delivered before its publisher is told its position.
/// 4. A channel with subscribers keeps its epoch and alias.
///
/// Not promised: any order between channels.
pub trait Store: Send + Sync {
    /// Appends an event and delivers it to every shard that has subscribers.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the event was not taken.
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, Unavailable>;

    /// Counts a subscription of a shard, and tells the head.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the channel cannot be read.
    fn subscribe(&self, channel: &str, shard: ShardId, now: Now) -> Result<Joined, Unavailable>;

    /// Ends a subscription; `last` says that the shard has no other on this channel.
    fn unsubscribe(&self, channel: &str, shard: ShardId, last: bool, now: Now);

    /// What the channel is, when there is one.
    fn find(&self, channel: &str) -> Option<Joined>;

    /// At most `limit` living channels with that prefix, after the name `after`, by name.
    fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo>;

    /// How many channels live.
    fn channel_count(&self) -> u64;

    /// Frees channels that nobody has used for a while. To be called now and then; each call does
    /// a small part of the work.
    fn sweep(&self, now: Now);
}

/// The contract of [`Store`] as a test: panics where an implementation breaks it.
#[cfg(test)]
pub(crate) fn conformance(make: impl Fn(Arc<dyn Deliver>) -> Box<dyn Store>) {
    use std::collections::HashMap;

    #[derive(Default)]
    struct Inbox(parking_lot::Mutex<HashMap<ShardId, Vec<(String, u64)>>>);
    impl Deliver for Inbox {
        fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
            let seen = (event.channel.to_string(), event.offset);
            self.0.lock().entry(shard).or_default().push(seen);
            false
        }
    }
    impl Inbox {
        fn offsets(&self, shard: u16, channel: &str) -> Vec<u64> {
            let all = self.0.lock();
            let mail = all.get(&ShardId(shard)).cloned().unwrap_or_default();
            mail.iter().filter(|(name, _)| name == channel).map(|(_, offset)| *offset).collect()
        }
    }
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let event = |channel: &'static str| NewEvent {
        channel: Cow::Borrowed(channel),
        key: None,
        payload: Payload::Json(Box::from(&b"1"[..])),
        from: None,
        hidden_from: None,
    };
    let inbox = Arc::new(Inbox::default());
    let store = make(Arc::<Inbox>::clone(&inbox));
    let put = |channel: &'static str, ms| {
        store.publish(event(channel), now(ms)).expect("the store is there")
    };

    let first = put("a", 1);
    assert_eq!(first.position.offset, 1, "offsets start at 1");
    assert_eq!(inbox.offsets(0, "a"), [0_u64; 0], "nobody has subscribed");
    let joined = store.subscribe("a", ShardId(0), now(2)).expect("the store is there");
    assert_eq!(joined.head, first.position, "the head is the last event");
    for offset in 2..=5 {
        assert_eq!(put("a", 3).position.offset, offset, "no gaps");
        assert_eq!(inbox.offsets(0, "a").last(), Some(&offset), "delivered before the answer");
    }
    assert_eq!(inbox.offsets(0, "a"), [2, 3, 4, 5], "from the head on, in order, once");
    let other = store.subscribe("a", ShardId(1), now(4)).expect("the store is there");
    assert_eq!((other.alias, other.head.epoch), (joined.alias, joined.head.epoch));
    assert_eq!(other.head.offset, 5);
    put("a", 5);
    assert_eq!(inbox.offsets(1, "a"), [6]);
    assert_eq!(store.channels("", None, 9)[0].subscribers, 2);
    store.unsubscribe("a", ShardId(0), true, now(6));
    put("a", 7);
    assert_eq!(inbox.offsets(0, "a"), [2, 3, 4, 5, 6], "a shard that left hears nothing");
    assert_eq!(inbox.offsets(1, "a"), [6, 7]);
    put("b", 8);
    assert_eq!(inbox.offsets(1, "b"), [0_u64; 0], "another channel is another sequence");
    let names = |prefix, after| -> Vec<String> {
        store.channels(prefix, after, 9).iter().map(|info| info.channel.to_string()).collect()
    };
    assert_eq!(names("", None), ["a", "b"], "by name");
    assert_eq!(names("", Some("a")), ["b"]);
    assert_eq!(names("b", None), ["b"]);
}
