//! The contract of [`Store`] as a test.

mod past;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Begun, Deliver, Joined, NewEvent, Now, Store, Wish};
use crate::proto::event::{Author, Event, Payload};
use crate::proto::name::{ClientId, ShardId};

/// Makes an empty store that delivers to this.
type Make<'a> = &'a dyn Fn(Arc<dyn Deliver>) -> Box<dyn Store>;

/// The mail of every shard, and those that say that they have too much.
#[derive(Default)]
struct Inbox {
    mail: parking_lot::Mutex<HashMap<ShardId, Vec<Arc<Event>>>>,
    full: parking_lot::Mutex<HashSet<ShardId>>,
}

impl Deliver for Inbox {
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
        self.mail.lock().entry(shard).or_default().push(event);
        self.full.lock().contains(&shard)
    }
}

impl Inbox {
    /// What a shard has got of a channel.
    fn of(&self, shard: u16, channel: &str) -> Vec<Arc<Event>> {
        let all = self.mail.lock();
        let mail = all.get(&ShardId(shard)).into_iter().flatten();
        mail.filter(|event| event.channel.as_str() == channel).cloned().collect()
    }

    fn offsets(&self, shard: u16, channel: &str) -> Vec<u64> {
        self.of(shard, channel).iter().map(|event| event.offset).collect()
    }
}

fn now(ms: u64) -> Now {
    Now { unix_ms: 1_700_000_000_000 + ms, node_ns: ms * 1_000_000 }
}

fn event(channel: &str) -> NewEvent<'_> {
    NewEvent::new(Cow::Borrowed(channel), Payload::Json(Box::from(&b"1"[..])))
}

/// The contract of [`Store`] as a test: panics where an implementation breaks it.
pub(super) fn check(make: impl Fn(Arc<dyn Deliver>) -> Box<dyn Store>) {
    let parts: [fn(Make<'_>); 7] =
        [sequence, members, prefixes, contents, crowding, catalogue, survives_sweeps];
    let kept: [fn(Make<'_>); 6] =
        [past::recovery, past::reading, past::keys, past::pages, past::retries, past::race];
    for part in parts.into_iter().chain(kept) {
        part(&make);
    }
    concurrency(&make);
    changes_over(&make);
}

fn start(make: Make<'_>) -> (Arc<Inbox>, Box<dyn Store>) {
    let inbox = Arc::new(Inbox::default());
    let store = make(Arc::<Inbox>::clone(&inbox));
    (inbox, store)
}

fn put(store: &dyn Store, channel: &str, ms: u64) -> super::Published {
    store.publish(event(channel), now(ms)).expect("the store is there")
}

fn begin(store: &dyn Store, channel: &str, shard: u16, wish: Wish<'_>, ms: u64) -> Begun {
    store.subscribe(channel, ShardId(shard), wish, now(ms)).expect("the store is there")
}

fn join(store: &dyn Store, channel: &str, shard: u16, ms: u64) -> Joined {
    begin(store, channel, shard, Wish::default(), ms).joined
}

/// Offsets from 1 without gaps, delivered from the head on, before the publisher hears of it.
fn sequence(make: Make<'_>) {
    let (inbox, store) = start(make);
    let first = put(&*store, "a", 1);
    assert_eq!(first.position.offset, 1, "offsets start at 1");
    assert_eq!(inbox.offsets(0, "a"), [0_u64; 0], "nobody has subscribed");
    let joined = join(&*store, "a", 0, 2);
    assert_eq!(joined.head, first.position, "the head is the last event");
    assert_eq!(joined.channel.as_str(), "a");
    for offset in 2..=5 {
        assert_eq!(put(&*store, "a", 3).position.offset, offset, "no gaps");
        assert_eq!(inbox.offsets(0, "a").last(), Some(&offset), "delivered before the answer");
    }
    assert_eq!(inbox.offsets(0, "a"), [2, 3, 4, 5], "from the head on, in order, once");
    put(&*store, "b", 8);
    assert_eq!(inbox.offsets(0, "b"), [0_u64; 0], "another channel is another sequence");
    assert_eq!(join(&*store, "b", 0, 9).head.offset, 1);
    assert_ne!(join(&*store, "b", 0, 9).alias, joined.alias, "with another number");
}

/// Who comes and goes: a shard hears a channel's events until its last member has left.
fn members(make: Make<'_>) {
    let (inbox, store) = start(make);
    let joined = join(&*store, "a", 0, 1);
    let again = join(&*store, "a", 0, 2);
    let other = join(&*store, "a", 1, 3);
    assert_eq!([&again, &other], [&joined, &joined], "one channel, whoever asks");
    let subscribers = || store.channels("", None, 9)[0].subscribers;
    assert_eq!(subscribers(), 3);
    put(&*store, "a", 4);
    assert_eq!(inbox.offsets(0, "a"), [1], "once for a shard, however many members it has");
    store.unsubscribe("a", ShardId(0), false, now(5));
    assert_eq!(subscribers(), 2);
    put(&*store, "a", 6);
    assert_eq!(inbox.offsets(0, "a"), [1, 2], "another member of the shard is still there");
    store.unsubscribe("a", ShardId(0), true, now(7));
    assert_eq!(subscribers(), 1);
    put(&*store, "a", 8);
    assert_eq!(inbox.offsets(0, "a"), [1, 2], "a shard that left hears nothing");
    assert_eq!(inbox.offsets(1, "a"), [1, 2, 3]);
    store.unsubscribe("nowhere", ShardId(0), true, now(9));
    assert_eq!(join(&*store, "a", 0, 10).head.offset, 3, "who comes back begins at the head");
    put(&*store, "a", 11);
    assert_eq!(inbox.offsets(0, "a"), [1, 2, 4]);
}

/// Who has a channel by name, by a prefix, or by several, hears each event once.
fn prefixes(make: Make<'_>) {
    let (inbox, store) = start(make);
    put(&*store, "a:b/c", 1);
    let by = |prefix, shard| store.subscribe_prefix(prefix, ShardId(shard)).expect("it is there");
    by("a:", 0);
    by("a:b/", 1);
    put(&*store, "a:b/c", 2);
    put(&*store, "a:new", 2);
    assert_eq!([0, 1].map(|shard| inbox.offsets(shard, "a:b/c")), [[2], [2]]);
    assert_eq!((inbox.offsets(0, "a:new"), inbox.offsets(1, "a:new")), (vec![1], vec![]));
    by("a:b/", 0);
    join(&*store, "a:b/c", 0, 3);
    put(&*store, "a:b/c", 4);
    assert_eq!(inbox.offsets(0, "a:b/c"), [2, 3], "once");
    store.unsubscribe_prefix("a:", ShardId(0));
    store.unsubscribe_prefix("a:b/", ShardId(0));
    store.unsubscribe_prefix("never", ShardId(0));
    put(&*store, "a:b/c", 5);
    assert_eq!(inbox.offsets(0, "a:b/c"), [2, 3, 4], "by name");
    by("a:b/", 0);
    store.unsubscribe("a:b/c", ShardId(0), true, now(6));
    put(&*store, "a:b/c", 7);
    assert_eq!(inbox.offsets(0, "a:b/c"), [2, 3, 4, 5], "by prefix");
    store.unsubscribe_prefix("a:b/", ShardId(0));
    put(&*store, "a:b/c", 8);
    put(&*store, "a:new", 8);
    assert_eq!(inbox.offsets(0, "a:b/c").len(), 4);
    assert_eq!(inbox.offsets(1, "a:b/c"), [2, 3, 4, 5, 6]);
    assert_eq!(inbox.offsets(0, "a:new"), [1]);
}

/// What is delivered is what was published, with its place and time.
fn contents(make: Make<'_>) {
    let (inbox, store) = start(make);
    let joined = join(&*store, "a", 0, 1);
    let author = Arc::new(Author { client: ClientId(7), user: Some("u".into()) });
    let payloads =
        [Payload::Json(b"{\"n\":1e400}"[..].into()), Payload::Opaque(b"\0\xff"[..].into())];
    for (payload, ms) in payloads.into_iter().zip(5..) {
        let full = NewEvent {
            channel: Cow::Borrowed("a"),
            key: Some("k".into()),
            payload,
            from: Some(Arc::clone(&author)),
            hidden_from: Some(ClientId(9)),
            ..event("a")
        };
        store.publish(full, now(ms)).expect("the store is there");
    }
    put(&*store, "a", 7);
    let mail = inbox.of(0, "a");
    for (event, ms) in mail.iter().zip(5..) {
        assert_eq!((event.alias, event.offset), (joined.alias, ms - 4));
        assert_eq!((event.ts_ms, event.taken_ns), (now(ms).unix_ms, now(ms).node_ns));
    }
    for event in &mail[..2] {
        assert_eq!((event.key.as_deref(), event.hidden_from), (Some("k"), Some(ClientId(9))));
        let from = event.from.as_ref().expect("it has an author");
        assert_eq!((from.client, from.user.as_deref()), (ClientId(7), Some("u")));
    }
    assert!(matches!(&mail[0].payload, Payload::Json(text) if **text == *b"{\"n\":1e400}"));
    assert!(matches!(&mail[1].payload, Payload::Opaque(bytes) if **bytes == *b"\0\xff"));
    let plain = &mail[2];
    assert!(plain.key.is_none() && plain.from.is_none() && plain.hidden_from.is_none());
}

/// A publisher hears of a mailbox that is beyond its bound, and of no other.
fn crowding(make: Make<'_>) {
    let (inbox, store) = start(make);
    join(&*store, "a", 0, 1);
    join(&*store, "a", 3, 1);
    join(&*store, "b", 0, 1);
    assert_eq!(put(&*store, "a", 2).crowded, None);
    inbox.full.lock().insert(ShardId(3));
    let crowded = put(&*store, "a", 3);
    assert_eq!((crowded.crowded, crowded.position.offset), (Some(ShardId(3)), 2));
    assert_eq!(inbox.offsets(3, "a"), [1, 2], "it was delivered all the same");
    assert_eq!(inbox.offsets(0, "a"), [1, 2]);
    assert_eq!(put(&*store, "b", 4).crowded, None, "that channel has nobody there");
}

/// `find`, `channels` and `channel_count` against a sorted list of names.
fn catalogue(make: Make<'_>) {
    let (_, store) = start(make);
    assert_eq!((store.find("a"), store.channel_count()), (None, 0));
    let mut names: Vec<String> = (0..300).map(|n| format!("room:{}", n * 7 % 300)).collect();
    names.extend(["a".to_owned(), "room".to_owned(), "z:1".to_owned()]);
    for (name, ms) in names.iter().zip(1..) {
        put(&*store, name, ms);
    }
    let joined = join(&*store, "room:1", 0, 999);
    assert_eq!(store.find("room:1"), Some(joined));
    assert_eq!(store.find("room:"), None, "a prefix is not a name");
    assert_eq!(store.channel_count(), names.len() as u64);
    names.sort_unstable();
    for prefix in ["", "a", "room", "room:", "room:2", "room:299", "zz"] {
        for after in [None, Some(""), Some("a"), Some("room:150"), Some("room:1500"), Some("zz")] {
            for limit in [0, 1, 2, 7, 302, 303, 304, usize::MAX] {
                let wanted = names.iter().filter(|name| {
                    name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
                });
                let wanted: Vec<&String> = wanted.take(limit).collect();
                let rows = store.channels(prefix, after, limit);
                let found: Vec<&str> = rows.iter().map(|row| row.channel.as_str()).collect();
                assert_eq!(found, wanted, "{prefix} after {after:?}, {limit}");
                for row in &rows {
                    let subscribers = u32::from(row.channel.as_str() == "room:1");
                    assert_eq!((row.subscribers, row.offset), (subscribers, 1));
                }
            }
        }
    }
}

/// Whoever has subscribers keeps its numbering, however long nothing happens.
fn survives_sweeps(make: Make<'_>) {
    let (inbox, store) = start(make);
    const DAY_MS: u64 = 86_400_000;
    put(&*store, "used", 1);
    let joined = join(&*store, "used", 0, 1);
    join(&*store, "used", 1, 1);
    store.unsubscribe("used", ShardId(1), true, now(1));
    for day in 1..=1_000 {
        store.sweep(now(day * DAY_MS));
    }
    assert_eq!(store.find("used"), Some(joined.clone()));
    assert_eq!(put(&*store, "used", 1_001 * DAY_MS).position.epoch, joined.head.epoch);
    assert_eq!(inbox.offsets(0, "used"), [2]);
}

/// Four threads publish while shards come and go: each inbox goes on from its head without a hole.
fn concurrency(make: Make<'_>) {
    const THREADS: u64 = 4;
    const EVENTS: u64 = 10_000;
    let (inbox, store) = start(make);
    let (store, over) = (&*store, AtomicBool::new(false));
    let mut heads = Vec::new();
    let mut brief = Vec::new();
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut last = 0;
                    for n in 0..EVENTS {
                        let text = (thread * EVENTS + n).to_string().into_bytes();
                        let payload = Payload::Json(text.into());
                        let new = NewEvent { payload, ..event("a") };
                        let there = store.publish(new, now(1)).expect("the store is there");
                        assert!(there.position.offset > last, "a publisher's own are in order");
                        last = there.position.offset;
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                store.sweep(now(2));
                store.channels("", None, 1);
            }
        });
        // Spread over the publishing by what has been published.
        for shard in 0..32_u16 {
            let due = u64::from(shard) * THREADS * EVENTS / 40;
            while store.find("a").is_none_or(|have| have.head.offset < due) {
                std::thread::yield_now();
            }
            heads.push((shard, join(store, "a", shard, 1).head.offset));
            let from = join(store, "a", 100, 1).head.offset;
            store.unsubscribe("a", ShardId(100), true, now(1));
            brief.push((from, store.find("a").expect("it has subscribers").head.offset));
        }
        for publisher in publishers {
            publisher.join().expect("no publisher fails");
        }
        over.store(true, Ordering::Relaxed);
    });
    for (shard, head) in heads {
        let all: Vec<u64> = (head + 1..=THREADS * EVENTS).collect();
        assert!(inbox.offsets(shard, "a") == all, "shard {shard} after {head}");
    }
    let visits = inbox.offsets(100, "a");
    assert!(visits.windows(2).all(|two| two[0] < two[1]), "in order and once");
    let during = |offset: &u64| brief.iter().any(|(from, to)| from < offset && offset <= to);
    assert!(visits.iter().all(during), "nothing from before or after a visit");
    let mut numbers: Vec<String> = Vec::new();
    for event in inbox.of(0, "a") {
        let Payload::Json(text) = &event.payload else { panic!("nobody publishes bytes") };
        numbers.push(String::from_utf8_lossy(text).into_owned());
    }
    let distinct: HashSet<&String> = numbers.iter().collect();
    assert_eq!(distinct.len(), numbers.len(), "no event has two places");
}

/// A shard that changes between a name and its prefix while two threads publish misses nothing.
fn changes_over(make: Make<'_>) {
    const EVENTS: u64 = 10_000;
    let (inbox, store) = start(make);
    let store = &*store;
    let head = join(store, "a:b", 0, 1).head.offset;
    std::thread::scope(|scope| {
        let publish = || {
            for _ in 0..EVENTS {
                put(store, "a:b", 1);
            }
        };
        let publishers = [scope.spawn(publish), scope.spawn(publish)];
        while publishers.iter().any(|publisher| !publisher.is_finished()) {
            store.subscribe_prefix("a:", ShardId(0)).expect("it is there");
            store.unsubscribe("a:b", ShardId(0), true, now(1));
            join(store, "a:b", 0, 1);
            store.unsubscribe_prefix("a:", ShardId(0));
        }
    });
    let all: Vec<u64> = (head + 1..=2 * EVENTS).collect();
    assert!(inbox.offsets(0, "a:b") == all, "in order, once, without a hole");
}
