//! Tests of the memory store: its contract, and what it frees.

use super::*;
use crate::core::dedupe::WINDOW_MS;
use crate::proto::event::Payload;

struct Nobody;
impl Deliver for Nobody {
    fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
        false
    }
}

#[test]
fn keeps_the_contract() {
    crate::store::conformance::check(|deliver| Box::new(Memory::new(deliver)));
}

#[test]
fn idle_channels_are_freed_and_come_back_with_another_epoch() {
    let store = Memory::new(Arc::new(Nobody));
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let busy = store.subscribe("busy", ShardId(0), Wish::default(), now(0)).unwrap().joined;
    let idle = store.subscribe("idle", ShardId(0), Wish::default(), now(0)).unwrap().joined;
    store.unsubscribe("idle", ShardId(0), true, now(0));
    for _ in 0..SEGMENTS {
        store.sweep(now(IDLE_MS));
    }
    assert_eq!(store.channel_count(), 2, "not idle for long enough");
    for _ in 0..SEGMENTS {
        store.sweep(now(IDLE_MS + 1));
    }
    assert_eq!(store.channel_count(), 1);
    let again =
        store.subscribe("idle", ShardId(0), Wish::default(), now(IDLE_MS + 2)).unwrap().joined;
    assert_ne!(again.head.epoch, idle.head.epoch);
    assert_ne!(again.alias, idle.alias);
    assert_eq!(store.find("busy").unwrap().head, busy.head);
}

#[test]
fn idle_channels_of_a_pattern_are_kept_while_it_is_there() {
    let store = Memory::new(Arc::new(Nobody));
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let sweep = |ms| (0..SEGMENTS).for_each(|_| store.sweep(now(ms)));
    for name in ["a:b/c", "a:b", "b:c"] {
        store.subscribe(name, ShardId(0), Wish::default(), now(0)).unwrap();
        store.unsubscribe(name, ShardId(0), true, now(0));
    }
    store.subscribe_prefix("a:b/", ShardId(0)).unwrap();
    store.subscribe_prefix("a:", ShardId(1)).unwrap();
    sweep(2 * IDLE_MS);
    assert_eq!((store.channel_count(), store.find("b:c")), (2, None));
    store.unsubscribe_prefix("a:", ShardId(1));
    sweep(2 * IDLE_MS);
    assert_eq!((store.channel_count(), store.find("a:b")), (1, None));
    store.unsubscribe_prefix("a:b/", ShardId(0));
    sweep(2 * IDLE_MS);
    assert_eq!(store.channel_count(), 0);
}

#[test]
fn fresh_names_without_end_are_bounded_and_cost_the_oldest() {
    let store = Memory::new(Arc::new(Nobody));
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let put = |name: String, ms| {
        let payload = Payload::Json(Box::from(&b"1"[..]));
        let channel = std::borrow::Cow::Owned(name);
        let event = NewEvent::new(channel, payload);
        store.publish(event, now(ms)).unwrap().position
    };
    let hash = |name: &str| store.hasher.hash_one(name);
    // All of one segment, which the others are like.
    let first = store.segment(hash("used:0"));
    let mut names = (0_u64..).map(|n| format!("used:{n}"));
    let mut names = names.by_ref().filter(|name| std::ptr::eq(store.segment(hash(name)), first));
    let kept = store.subscribe("used:0", ShardId(0), Wish::default(), now(0)).unwrap().joined;
    assert_eq!(names.next().unwrap(), "used:0");
    let oldest = names.next().unwrap();
    put(oldest.clone(), 0);
    let loved = names.next().unwrap();
    let love = put(loved.clone(), 0);
    for ms in 1..3 * IDLE_MAX as u64 {
        // Eight in each millisecond.
        put(names.next().unwrap(), ms / 8);
        assert_eq!(put(loved.clone(), ms / 8).epoch, love.epoch, "what is used stays");
        assert!(first.lock().idle <= IDLE_MAX);
    }
    let segment = first.lock();
    assert_eq!(segment.channels.len(), segment.idle + 1);
    assert!(segment.idle > IDLE_MAX - IDLE_FREED, "no more than needed: {}", segment.idle);
    drop(segment);
    assert!(store.find(&oldest).is_none());
    assert_eq!(store.find("used:0"), Some(kept), "what is subscribed to stays");
}

#[test]
fn what_a_pattern_needs_is_not_freed_for_fresh_names() {
    let store = Memory::new(Arc::new(Nobody));
    let now = Now { unix_ms: 1, node_ns: 1_000_000 };
    let put = |name: &str| {
        let payload = Payload::Json(Box::from(&b"1"[..]));
        store.publish(NewEvent::new(std::borrow::Cow::Borrowed(name), payload), now)
    };
    store.subscribe_prefix("t:", ShardId(0)).unwrap();
    let hash = |name: &str| store.hasher.hash_one(name);
    let first = store.segment(hash("t:0"));
    let here = |name: &String| std::ptr::eq(store.segment(hash(name)), first);
    let mut loved = (0_u64..).map(|n| format!("t:{n}")).filter(here);
    let mut fresh = (0_u64..).map(|n| format!("u:{n}")).filter(here);
    let kept = loved.next().unwrap();
    assert_eq!(put(&kept).unwrap().position.offset, 1);
    for _ in 0..2 * IDLE_MAX {
        put(&fresh.next().unwrap()).unwrap();
    }
    assert_eq!(put(&kept).unwrap().position.offset, 2, "it goes on");
    let full = loved.by_ref().take(2 * IDLE_MAX).find_map(|name| put(&name).err());
    assert_eq!(full, Some(StoreError::Full));
    assert!(first.lock().idle <= IDLE_MAX);
    assert_eq!(put(&kept).unwrap().position.offset, 3);
    store.unsubscribe_prefix("t:", ShardId(0));
    assert!(put(&fresh.next().unwrap()).is_ok(), "nobody needs them any more");
}

/// Whoever asks for a position goes on from there: it is good for as long as any other.
#[test]
fn a_channel_that_was_read_is_used() {
    let store = Memory::new(Arc::new(Nobody));
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let sweep = |ms| (0..SEGMENTS).for_each(|_| store.sweep(now(ms)));
    let begun = 5 * IDLE_MS;
    let read = store.read("read", Reading::default(), now(begun)).unwrap().head;
    sweep(begun + IDLE_MS);
    assert_eq!(store.find("read").map(|found| found.head), Some(read));
    sweep(begun + IDLE_MS + 1);
    assert_eq!(store.channel_count(), 0);
}

#[test]
fn what_is_kept_is_bounded_and_given_back() {
    use crate::core::history::HistoryRule;
    use crate::core::policy::Keep;
    let keep =
        Keep { history: HistoryRule { size: 1_000, ttl_ms: 5_000 }, keys: 100, durable: false };
    let limit = 1 << 20;
    let store = Memory::bounded(Arc::new(Nobody), limit);
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    for n in 0..100_000_u64 {
        let payload = Payload::Json(vec![b'1'; 100].into());
        let channel = std::borrow::Cow::Owned(format!("c:{}", n % 50));
        let (key, message_id) = (Some(format!("k{n}").into()), Some(n.to_string().into()));
        let new = NewEvent { key, keep, message_id, ..NewEvent::new(channel, payload) };
        store.publish(new, now(1)).unwrap();
        assert!(store.kept_bytes() <= limit + 64 * 1024, "{}", store.kept_bytes());
    }
    assert!(store.kept_bytes() > limit / 2, "{}", store.kept_bytes());
    let sweep = |ms| (0..SEGMENTS).for_each(|_| store.sweep(now(ms)));
    sweep(6_000);
    let keyed = store.kept_bytes();
    assert!(store.channel_count() == 50, "keys are kept");
    sweep(IDLE_MS * 10);
    assert!(store.kept_bytes() <= keyed);
    for n in 0..50 {
        let payload = Payload::Json(Box::from(&b"1"[..]));
        let channel = std::borrow::Cow::Owned(format!("c:{n}"));
        store.publish(NewEvent::new(channel, payload), now(IDLE_MS * 10)).unwrap();
    }
    sweep(IDLE_MS * 20);
    assert_eq!((store.kept_bytes(), store.channel_count()), (0, 0));
}

#[test]
fn the_end_of_many_subscriptions_is_bounded_too() {
    let store = Memory::new(Arc::new(Nobody));
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let first = store.segment(store.hasher.hash_one("used:0"));
    let here = |name: &String| std::ptr::eq(store.segment(store.hasher.hash_one(name)), first);
    let names: Vec<_> =
        (0_u64..).map(|n| format!("used:{n}")).filter(here).take(IDLE_MAX + IDLE_FREED).collect();
    for name in &names {
        store.subscribe(name, ShardId(0), Wish::default(), now(0)).unwrap();
    }
    assert_eq!(first.lock().idle, 0);
    assert_eq!(first.lock().channels.len(), names.len());
    for (name, ms) in names.iter().zip(1..) {
        store.unsubscribe(name, ShardId(0), true, now(ms));
        // It does not count below zero either.
        store.unsubscribe(name, ShardId(0), true, now(ms));
        assert!(store.find(name).is_some(), "the last used is not the one to go");
    }
    assert!(first.lock().idle <= IDLE_MAX);
    assert!(store.find(&names[0]).is_none());
}

/// Old ids are known while their channel is, and memory is there for them; alone they keep no
/// channel.
#[test]
fn old_ids_go_with_their_channel_and_where_memory_is_short() {
    let limit = 100_000;
    let store = Memory::bounded(Arc::new(Nobody), limit);
    let now = |ms: u64| Now { unix_ms: ms, node_ns: ms * 1_000_000 };
    let keep = crate::core::policy::Keep {
        history: crate::core::history::HistoryRule { size: 10_000, ttl_ms: 1 << 40 },
        ..Default::default()
    };
    let put = |channel: &'static str, id: u64, bytes: usize, ms: u64| {
        let payload = Payload::Opaque(vec![0; bytes].into());
        let message_id = (id > 0).then(|| id.to_string().into());
        let keep = if bytes > 0 { keep } else { Default::default() };
        let new = NewEvent { message_id, keep, ..NewEvent::new(channel.into(), payload) };
        store.publish(new, now(ms)).unwrap().duplicate
    };
    let sweep = |ms| (0..SEGMENTS).for_each(|_| store.sweep(now(ms)));
    store.subscribe("used", ShardId(0), Wish::default(), now(0)).unwrap();
    for id in 1..=200 {
        assert!(!put("used", id, 0, 0) && !put("unused", id, 0, 0));
    }
    sweep(WINDOW_MS);
    assert_eq!(store.channel_count(), 2, "retries may come");
    let late = WINDOW_MS + 1;
    sweep(late);
    assert!(store.find("unused").is_none(), "it is free for its ids alone");
    assert!(put("used", 1, 0, late));
    // Others need the room: what is young stays.
    assert!(!put("used", 201, 0, late));
    let fill = |ms: u64| {
        while store.kept_bytes() <= limit - limit / 8 {
            put("large", 0, 50, ms);
        }
    };
    fill(late);
    sweep(late);
    assert!(store.kept_bytes() <= limit);
    assert!(!put("used", 1, 0, late) && put("used", 201, 0, late));
    // And so do the channel's own events.
    for id in 300..310 {
        put("large", id, 50, late);
    }
    assert!(put("large", 300, 0, 2 * late));
    fill(2 * late);
    put("large", 0, 50, 2 * late);
    assert!(!put("large", 300, 50, 2 * late), "old ids go before young events");
}
