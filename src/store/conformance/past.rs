//! The contract's part about what is kept: recovery, reading, the newest of each key, retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Make, event, join, now, put, start};
use crate::core::browse::Bookmark;
use crate::core::dedupe::{LAST, WINDOW_MS};
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::event::{Event, Payload};
use crate::proto::name::{Alias, ShardId};
use crate::proto::position::Position;
use crate::store::{Begun, NewEvent, Read, Reading, Store, Wish};

const KEEP: Keep =
    Keep { history: HistoryRule { size: 10, ttl_ms: 1_000 }, keys: 3, durable: false };

fn keep(store: &dyn Store, keep: Keep, key: Option<&str>, data: &str, ms: u64) -> Position {
    let payload = Payload::Json(data.as_bytes().into());
    let new = NewEvent { payload, key: key.map(Box::from), keep, ..event("a") };
    store.publish(new, now(ms)).expect("the store is there").position
}

fn fill(store: &dyn Store, count: u64) -> Position {
    (0..count).map(|_| keep(store, KEEP, None, "1", 1)).last().expect("at least one")
}

fn begin(store: &dyn Store, since: Option<(&str, u64)>, snapshot: bool, ms: u64) -> Begun {
    let wish = Wish { since, snapshot, recovery_max: 8, keep: KEEP };
    super::begin(store, "a", 0, wish, ms)
}

fn offsets(begun: &Begun) -> Vec<u64> {
    let past = begun.past.iter().flat_map(|past| past.events());
    past.map(|event| event.offset).collect()
}

/// Whoever names a place gets all that came after it, or is told that it does not.
pub(super) fn recovery(make: Make<'_>) {
    let (_, store) = start(make);
    let store = &*store;
    let head = fill(store, 20);
    let epoch = head.epoch.to_string();
    for offset in 0..25 {
        let begun = begin(store, Some((&epoch, offset)), false, 2);
        // Eight may be recovered, ten are kept.
        let whole = (12..=20).contains(&offset);
        assert_eq!(begun.recovered, Some(whole), "{offset}");
        let wanted: Vec<u64> = if whole { (offset + 1..=20).collect() } else { Vec::new() };
        assert_eq!(offsets(&begun), wanted);
        assert_eq!(begun.joined.head, head);
    }
    assert_eq!(begin(store, Some(("other", 20)), false, 2).recovered, Some(false));
    assert_eq!(begin(store, None, false, 2).recovered, None);
    let late = begin(store, Some((&epoch, 19)), false, 1_002);
    assert_eq!((late.recovered, offsets(&late)), (Some(false), vec![]), "it is too old");
    assert_eq!(begin(store, Some((&epoch, 20)), false, 9_999).recovered, Some(true));
    // Where nothing is kept, who has missed nothing has recovered.
    let plain = put(store, "b", 1).position;
    let since = |offset| {
        let wish = Wish { since: Some((plain.epoch.as_str(), offset)), ..Wish::default() };
        super::begin(store, "b", 0, wish, 2).recovered
    };
    assert_eq!([0, 1, 2].map(since), [Some(false), Some(true), Some(false)]);
}

/// Reading, in both directions, with every limit.
pub(super) fn reading(make: Make<'_>) {
    let (_, store) = start(make);
    let head = fill(&*store, 15);
    let epoch = head.epoch.to_string();
    let read = |since: Option<u64>, limit, reverse, bytes| {
        let since = since.map(|offset| (epoch.as_str(), offset));
        let reading = Reading { since, limit, reverse, bytes, keep: KEEP };
        let Read { head: read, events } = store.read("a", reading, now(2)).expect("it is there");
        assert_eq!(read, head);
        events.map(|events| events.iter().map(|event| event.offset).collect::<Vec<_>>())
    };
    let all = usize::MAX;
    assert_eq!(read(None, 3, false, all), Some(vec![13, 14, 15]), "the newest, in order");
    assert_eq!(read(None, 99, false, all), Some((6..=15).collect()), "as many as are kept");
    assert_eq!(read(None, 3, true, all), Some(vec![15, 14, 13]));
    assert_eq!(read(Some(10), 3, false, all), Some(vec![11, 12, 13]), "the first after it");
    assert_eq!(read(Some(2), 3, false, all), Some(vec![6, 7, 8]), "what is still there");
    assert_eq!(read(Some(12), 9, true, all), Some(vec![15, 14, 13]), "no further than it");
    assert_eq!(read(Some(2), 3, true, all), Some(vec![15, 14, 13]));
    assert_eq!(read(Some(15), 9, false, all), Some(vec![]));
    assert_eq!(read(Some(16), 9, false, all), None, "from the future");
    assert_eq!(read(None, 0, false, all), Some(vec![]), "the position alone");
    assert_eq!(read(None, 9, true, 2), Some(vec![15, 14, 13]), "until it is too much");
    assert_eq!(read(None, 9, true, 0), Some(vec![15]), "one at least");
    let foreign = Reading { since: Some(("other", 1)), limit: 9, keep: KEEP, ..Reading::default() };
    assert!(store.read("a", foreign, now(2)).expect("it is there").events.is_none());
    let fresh = store.read(
        "fresh",
        Reading { limit: 9, bytes: usize::MAX, keep: KEEP, ..Reading::default() },
        now(2),
    );
    let fresh = fresh.expect("it is there");
    assert_eq!((fresh.head.offset, fresh.events.map(|events| events.len())), (0, Some(0)));
}

/// The newest events of a channel's keys, as they are read some at a time.
fn newest(store: &dyn Store, channel: &str) -> Vec<u64> {
    let (mut after, mut newest) = (0, Vec::new());
    let Some(there) = store.find(channel) else { return newest };
    while let Some(leaf) = store.leaf(channel, there.alias, after) {
        let events = (0..leaf.chunk.len()).filter_map(|at| leaf.chunk.event(at));
        newest.extend(events.map(|event| event.offset).filter(|offset| *offset > after));
        after = leaf.chunk.last();
    }
    newest
}

/// The newest event of each key, until it is taken back.
pub(super) fn keys(make: Make<'_>) {
    let (_, store) = start(make);
    let store = &*store;
    let put = |key, data| keep(store, KEEP, key, data, 1).offset;
    let shown = || {
        let begun = offsets(&begin(store, None, true, 2));
        assert_eq!(newest(store, "a"), begun);
        begun
    };
    assert_eq!(shown(), [0_u64; 0]);
    put(Some("a"), "1");
    put(None, "2");
    put(Some("b"), "3");
    put(Some("a"), "4");
    assert_eq!(shown(), [3, 4]);
    put(Some("b"), "null");
    assert_eq!(shown(), [4], "taken back");
    for key in ["c", "d", "e"] {
        put(Some(key), "5");
    }
    assert_eq!(shown(), [6, 7, 8], "three keys at most");
    assert!(begin(store, None, false, 2).past.is_none(), "nobody asked");
    let head = put(Some("c"), "6");
    let epoch = begin(store, None, false, 2).joined.head.epoch;
    let whole = begin(store, Some((epoch.as_str(), head - 1)), true, 2);
    assert_eq!((whole.recovered, offsets(&whole)), (Some(true), vec![head]), "no snapshot");
    let lost = begin(store, Some(("other", 1)), true, 2);
    assert_eq!((lost.recovered, offsets(&lost)), (Some(false), vec![7, 8, 9]));
    keep(store, Keep::default(), None, "7", 3);
    assert_eq!(shown(), [0_u64; 0], "nothing is to be kept any more");
}

/// The channels of a prefix, and the newest events of each, some at a time: while some are read,
/// others are published.
pub(super) fn pages(make: Make<'_>) {
    const CHANNELS: usize = 400;
    const KEYS: usize = 150;
    let (_, store) = start(make);
    let keep = Keep { keys: KEYS, ..Keep::default() };
    let put = |channel: &str, key: usize| {
        let new = NewEvent { key: Some(key.to_string().into()), keep, ..event(channel) };
        store.publish(new, now(1)).expect("the store is there").position.offset
    };
    let names: Vec<String> = (0..CHANNELS).map(|n| format!("a:{n}")).collect();
    for name in &names {
        put(name, 1);
    }
    put("b:1", 1);
    store.publish(event("a:plain"), now(1)).expect("the store is there");
    let (mut from, mut found) = (Some(Bookmark::default()), Vec::new());
    while let Some(at) = from {
        let listing = store.keyed("a:", at);
        assert!(listing.channels.len() < CHANNELS, "some at a time");
        assert_ne!(listing.next, Some(at), "it goes on");
        // One that comes meanwhile may be among them or not.
        let fresh = format!("a:fresh-{}", found.len());
        put(&fresh, 1);
        found.extend(listing.channels);
        from = listing.next;
    }
    found.retain(|(name, _)| !name.as_str().starts_with("a:fresh"));
    let mut listed: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    listed.sort_unstable();
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    assert_eq!(listed, wanted, "each once");

    for key in 0..KEYS {
        put("a:0", key);
    }
    let alias = store.find("a:0").expect("it is there").alias;
    let (mut after, mut shown, mut head) = (0, Vec::new(), KEYS as u64 + 1);
    while let Some(leaf) = store.leaf("a:0", alias, after) {
        assert_eq!(leaf.head, head, "the head at that moment");
        let events = (0..leaf.chunk.len()).filter_map(|at| leaf.chunk.event(at));
        shown.extend(events.map(|event| event.offset).filter(|offset| *offset > after));
        assert!(leaf.chunk.last() > after, "it goes on");
        after = leaf.chunk.last();
        // What was shown, and what was not, and each once.
        if head < KEYS as u64 + 3 {
            head = put("a:0", if head.is_multiple_of(2) { 0 } else { KEYS - 1 });
        }
    }
    assert!(shown.is_sorted_by(|a, b| a < b));
    let newest = newest(&*store, "a:0");
    assert_eq!(newest.len(), KEYS);
    assert!(newest.iter().all(|offset| shown.contains(offset)), "all that is newest");
    assert!(store.leaf("a:0", Alias(0), 0).is_none(), "another channel");
    assert!(store.leaf("nowhere", alias, 0).is_none());
}

/// What is published twice under one id has one place.
pub(super) fn retries(make: Make<'_>) {
    let (inbox, store) = start(make);
    join(&*store, "a", 0, 1);
    let put = |channel, id: Option<&'static str>, ms| {
        let new = NewEvent { message_id: id.map(Into::into), ..event(channel) };
        let published = store.publish(new, now(ms)).expect("the store is there");
        (published.position.offset, published.duplicate)
    };
    assert_eq!(put("a", Some("x"), 1), (1, false));
    assert_eq!(put("a", Some("y"), 1), (2, false));
    assert_eq!(put("a", Some("x"), 2), (1, true));
    assert_eq!(put("b", Some("x"), 2), (1, false), "of another channel");
    assert_eq!(put("a", None, 2), (3, false));
    assert_eq!(inbox.offsets(0, "a"), [1, 2, 3], "nobody sees it twice");
    for sweep in 0..1_000 {
        store.sweep(now(WINDOW_MS + sweep / 1_000));
    }
    assert_eq!(put("a", Some("x"), WINDOW_MS), (1, true), "as long as the window");
    // And longer, as one of the last.
    let late = 5 * WINDOW_MS;
    for _ in 0..1_000 {
        store.sweep(now(late));
    }
    assert_eq!(put("a", Some("x"), late), (1, true));
    for id in 2..LAST {
        let new = NewEvent { message_id: Some(id.to_string().into()), ..event("a") };
        assert!(!store.publish(new, now(late)).expect("the store is there").duplicate);
    }
    assert_eq!(put("a", Some("x"), late), (1, true), "the first of the last 1,024");
    assert!(!put("a", Some("last"), late).1 && !put("a", Some("x"), late).1, "and not of those");
    assert_eq!(put("a", Some("2"), late), (4, true));
}

/// Subscribers who name a place while others publish at full speed have neither a hole nor an
/// event twice, between what they recover and what is delivered.
pub(super) fn race(make: Make<'_>) {
    const ROUNDS: u16 = 100;
    let (inbox, store) = start(make);
    let keep =
        Keep { history: HistoryRule { size: 100_000, ttl_ms: 60_000 }, keys: 0, durable: false };
    let publish = || {
        let new = NewEvent { keep, ..event("a") };
        store.publish(new, now(1)).expect("the store is there").position
    };
    let first = publish();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    publish();
                }
            });
        }
        for round in 0..ROUNDS {
            let shard = round % 100;
            let head = store.find("a").expect("it lives").head.offset;
            let since = Some((first.epoch.as_str(), head));
            let wish = Wish { since, snapshot: false, recovery_max: u64::MAX, keep };
            let begun = store.subscribe("a", ShardId(shard), wish, now(1)).expect("it is there");
            assert_eq!(begun.recovered, Some(true));
            let before = publish().offset;
            store.unsubscribe("a", ShardId(shard), true, now(1));
            let mut got = offsets(&begun);
            assert!(got.last().is_none_or(|last| *last == begun.joined.head.offset));
            got.extend(take(&inbox, shard));
            let wanted: Vec<u64> = (head + 1..=got.last().copied().unwrap_or(head)).collect();
            assert_eq!(got, wanted, "no hole, nothing twice");
            assert!(got.last() >= Some(&before));
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn take(inbox: &super::Inbox, shard: u16) -> Vec<u64> {
    let mail: Vec<Arc<Event>> = inbox.mail.lock().remove(&ShardId(shard)).unwrap_or_default();
    mail.iter().map(|event| event.offset).collect()
}
