//! What the store keeps, and how much of it, when that changes while it runs.

use super::Memory;
use crate::core::policy::Keep;

impl Memory {
    /// Keeps at most about so many bytes from here on; what is there beyond goes with the next
    /// events, and bit by bit.
    pub fn bound(&self, bytes: usize) {
        self.purse.set_limit(bytes);
    }

    /// Keeps of each channel what `rules` say from here on; without a rule, nothing.
    pub fn set_rules(&self, rules: impl Fn(&str) -> Option<Keep>) {
        for segment in &self.segments {
            for channel in &mut segment.lock().channels {
                if let Some(kept) = &mut channel.kept {
                    let keep = rules(channel.name.as_str()).unwrap_or_default();
                    kept.set_rule(keep, channel.head.offset);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::core::history::HistoryRule;
    use crate::proto::event::{Event, Payload};
    use crate::proto::name::ShardId;
    use crate::store::{Deliver, NewEvent, Now, Reading, Store};

    struct Nobody;

    impl Deliver for Nobody {
        fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
            false
        }

        fn answer(&self, _: ShardId, _: Vec<crate::store::Answered>) {}
    }

    const NOW: Now = Now { unix_ms: 1, node_ns: 1 };

    fn keep(size: u64, keys: usize) -> Keep {
        Keep { history: HistoryRule { size, ttl_ms: 60_000 }, keys, durable: false }
    }

    fn publish(store: &Memory, channel: &'static str, keep: Keep) {
        let payload = Payload::Json(Box::from(&b"1"[..]));
        let key = Some(Box::from("k"));
        let event = NewEvent { keep, key, ..NewEvent::new(Cow::Borrowed(channel), payload) };
        store.publish(event, NOW).unwrap();
    }

    fn kept(store: &Memory, channel: &str, keep: Keep) -> usize {
        let reading = Reading { limit: 1_000, bytes: 1 << 20, keep, ..Reading::default() };
        store.read(channel, reading, NOW).unwrap().events.unwrap().len()
    }

    #[test]
    fn what_is_kept_of_living_channels_changes_without_an_event() {
        let store = Memory::new(Arc::new(Nobody));
        for _ in 0..300 {
            publish(&store, "a:1", keep(1_000, 10));
            publish(&store, "b:1", keep(1_000, 10));
        }
        let before = store.kept_bytes();
        assert_eq!(kept(&store, "a:1", keep(1_000, 10)), 300);
        store.set_rules(|name| name.starts_with("a:").then(|| keep(10, 0)));
        assert_eq!(kept(&store, "a:1", keep(10, 0)), 10);
        assert_eq!(kept(&store, "b:1", keep(1_000, 10)), 0, "it is of no namespace any more");
        assert!(store.kept_bytes() < before / 2, "{} of {before}", store.kept_bytes());
        // The numbering goes on, and so does what is kept from here on.
        publish(&store, "b:1", keep(1_000, 10));
        assert_eq!(kept(&store, "b:1", keep(1_000, 10)), 1);
        assert_eq!(store.find("b:1").unwrap().head.offset, 301);
    }

    /// Goal: a smaller `max_keys` holds for a channel that lives, without an event.
    #[test]
    fn the_newest_of_too_many_keys_stay() {
        let store = Memory::new(Arc::new(Nobody));
        for n in 1..=100 {
            let payload = Payload::Json(Box::from(&b"1"[..]));
            let (key, keep) = (Some(format!("k{n}").into()), keep(0, 100));
            let event = NewEvent { keep, key, ..NewEvent::new(Cow::Borrowed("a:1"), payload) };
            store.publish(event, NOW).unwrap();
        }
        let before = store.kept_bytes();
        let shown = || -> Vec<u64> {
            let wish = crate::store::Wish { snapshot: true, ..Default::default() };
            let chunks =
                store.subscribe("a:1", ShardId(0), wish, NOW).unwrap().past.unwrap().chunks;
            let events = chunks.iter();
            let events = events.flat_map(|chunk| (0..chunk.len()).filter_map(|at| chunk.event(at)));
            events.map(|event| event.offset).collect()
        };
        assert_eq!(shown().len(), 100);
        store.set_rules(|_| Some(keep(0, 10)));
        assert_eq!(shown(), (91..=100).collect::<Vec<_>>());
        assert!(store.kept_bytes() < before / 5, "{} of {before}", store.kept_bytes());
        store.set_rules(|_| Some(keep(0, 200)));
        assert_eq!(shown().len(), 10, "what has gone does not come back");
    }

    #[test]
    fn a_smaller_bound_holds_from_the_next_event_on() {
        let store = Memory::new(Arc::new(Nobody));
        for _ in 0..3_000 {
            publish(&store, "a:1", keep(10_000, 0));
        }
        let bound = store.kept_bytes() / 3;
        store.bound(bound);
        publish(&store, "a:1", keep(10_000, 0));
        assert!(store.kept_bytes() <= bound, "{} of {bound}", store.kept_bytes());
        assert!(kept(&store, "a:1", keep(10_000, 0)) > 100, "no more goes than must");
    }
}
