//! The contract of [`Store`] as a test.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Deliver, NewEvent, Now, Store};
use crate::proto::event::{Event, Payload};
use crate::proto::name::ShardId;

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

/// The contract of [`Store`] as a test: panics where an implementation breaks it.
pub(super) fn check(make: impl Fn(Arc<dyn Deliver>) -> Box<dyn Store>) {
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
