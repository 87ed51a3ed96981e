//! What a restart keeps: everything that was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::adapter::{Blocking, Gate, Scratch, begun, now, opened};
use crate::core::dedupe::WINDOW_MS;
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::event::{Author, Payload};
use crate::proto::name::{ClientId, ShardId};
use crate::proto::position::Position;
use crate::store::{Begun, Durable, NewEvent, Published, Reading, Store, StoreError, Told, Wish};

const KEEP: Keep =
    Keep { history: HistoryRule { size: 50, ttl_ms: 600_000 }, keys: 4, durable: true };

fn open(scratch: Scratch) -> Blocking {
    begun(scratch, KEEP)
}

fn event<'a>(channel: &'a str, data: &str) -> NewEvent<'a> {
    let payload = Payload::Json(data.as_bytes().into());
    NewEvent { keep: KEEP, ..NewEvent::new(channel.into(), payload) }
}

fn put(store: &Blocking, new: NewEvent<'_>, ms: u64) -> Published {
    store.publish(new, now(ms)).expect("it is there")
}

fn begin(store: &Blocking, channel: &str, since: Option<(&str, u64)>, ms: u64) -> Begun {
    let wish = Wish { since, snapshot: true, recovery_max: 1_000, keep: KEEP };
    let begun = store.subscribe(channel, ShardId(0), wish, now(ms)).expect("it is there");
    store.unsubscribe(channel, ShardId(0), true, now(ms));
    begun
}

fn offsets(begun: &Begun) -> Vec<u64> {
    begun.past.iter().flat_map(|past| past.events()).map(|event| event.offset).collect()
}

fn history(store: &Blocking, channel: &str, ms: u64) -> Vec<u64> {
    let reading = Reading { limit: 1_000, bytes: usize::MAX, keep: KEEP, ..Reading::default() };
    let read = store.read(channel, reading, now(ms)).expect("it is there");
    read.events.unwrap_or_default().iter().map(|event| event.offset).collect()
}

/// Gives the writer the time, and a turn to do in it what is due.
fn turn(store: &Blocking, ms: u64) {
    store.tell_time(now(ms));
    let loading = store.log.load("other", KEEP).expect("it is there");
    loading.blocking_recv().expect("it lives").expect("it can be read");
}

/// How many rows there are, in a file that nobody else has.
fn rows(scratch: &Scratch, table: &str) -> u64 {
    let db = Connection::open(&scratch.0).unwrap();
    let count: i64 =
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    count.cast_unsigned()
}

#[test]
fn an_event_comes_back_as_it_was() {
    let store = open(Scratch::new());
    let author = Arc::new(Author { client: ClientId(u64::MAX), user: Some("u".into()) });
    let full = NewEvent {
        key: Some("k".into()),
        from: Some(Arc::clone(&author)),
        hidden_from: Some(ClientId(u64::MAX - 1)),
        ..event("a", r#"{"n":1e400}"#)
    };
    let first = put(&store, full, 5).position;
    let bytes = NewEvent { payload: Payload::Opaque(b"\0\xff"[..].into()), ..event("a", "") };
    put(&store, bytes, 6);
    let store = open(store.end());
    let begun = begin(&store, "a", Some((first.epoch.as_str(), 0)), 7);
    assert_eq!((begun.recovered, begun.joined.head.epoch), (Some(true), first.epoch));
    let events: Vec<_> = begun.past.iter().flat_map(|past| past.events()).collect();
    let (one, two) = (&events[0], &events[1]);
    assert_eq!((one.offset, one.ts_ms, one.taken_ns), (1, now(5).unix_ms, now(5).node_ns));
    assert_eq!((one.key.as_deref(), one.hidden_from), (Some("k"), Some(ClientId(u64::MAX - 1))));
    assert_eq!(one.from.as_ref(), Some(&author));
    assert_eq!(one.payload, Payload::Json(br#"{"n":1e400}"#[..].into()));
    assert_eq!(two.payload, Payload::Opaque(b"\0\xff"[..].into()));
    assert!(two.key.is_none() && two.from.is_none() && two.hidden_from.is_none());
}

/// Random publishes, retries and restarts against a model: the head, the past, the newest of each
/// key, and where each id is.
#[test]
fn what_was_told_is_there_after_every_restart() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut store = open(Scratch::new());
        let mut heads: BTreeMap<&str, Position> = BTreeMap::new();
        let mut keys: BTreeMap<(&str, String), u64> = BTreeMap::new();
        let mut ids: BTreeMap<(&str, String), u64> = BTreeMap::new();
        for step in 0..300 {
            let channel = ["a", "b:1", "c"][rng.usize(0..3)];
            let key = rng.bool().then(|| format!("k{}", rng.u8(0..4)));
            let id = (rng.u8(0..3) == 0).then(|| format!("id{}", rng.u8(0..100)));
            let data = if rng.u8(0..4) == 0 { "null" } else { "1" };
            let new = NewEvent {
                key: key.as_deref().map(Box::from),
                message_id: id.clone().map(Into::into),
                ..event(channel, data)
            };
            let published = put(&store, new, step);
            let known = id.as_ref().and_then(|id| ids.get(&(channel, id.clone()))).copied();
            assert_eq!(published.duplicate, known.is_some(), "seed {seed}, step {step}");
            if let Some(offset) = known {
                assert_eq!(published.position.offset, offset);
            } else {
                let head =
                    heads.entry(channel).or_insert(Position { offset: 0, ..published.position });
                head.offset += 1;
                assert_eq!(published.position, *head, "seed {seed}, step {step}");
                ids.extend(id.map(|id| ((channel, id), head.offset)));
                match key {
                    Some(key) if data == "null" => drop(keys.remove(&(channel, key))),
                    Some(key) => drop(keys.insert((channel, key), head.offset)),
                    None => {}
                }
            }
            if rng.u8(0..30) > 0 {
                continue;
            }
            store = open(store.end());
            for (channel, head) in &heads {
                let begun = begin(&store, channel, None, step);
                assert_eq!(begun.joined.head, *head, "seed {seed}, step {step}");
                let of = keys.iter().filter(|((of, _), _)| of == channel);
                let mut newest: Vec<u64> = of.map(|(_, offset)| *offset).collect();
                newest.sort_unstable();
                assert_eq!(offsets(&begun), newest, "seed {seed}, step {step}, {channel}");
                let first = head.offset.saturating_sub(KEEP.history.size) + 1;
                let past: Vec<u64> = (first..=head.offset).collect();
                assert_eq!(history(&store, channel, step), past, "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn the_past_is_as_old_as_it_was() {
    let store = open(Scratch::new());
    put(&store, NewEvent { message_id: Some("x".into()), ..event("a", "1") }, 0);
    put(&store, event("a", "2"), 300_000);
    let store = open(store.end());
    assert_eq!(history(&store, "a", 600_000), [1, 2]);
    assert_eq!(history(&store, "a", 600_001), [2], "older than ten minutes, in two lives");
    let retry = || NewEvent { message_id: Some("x".into()), ..event("a", "1") };
    assert!(put(&store, retry(), WINDOW_MS).duplicate);
    let store = open(store.end());
    assert!(put(&store, retry(), WINDOW_MS).duplicate, "after another restart");
}

/// The file keeps what memory keeps, and some more, whatever is published.
#[test]
fn the_file_is_cut_while_events_come() {
    let store = open(Scratch::new());
    for n in 0..20_000_u64 {
        let key = format!("k{n}");
        let id = (n % 2 == 0).then(|| format!("id{n}").into());
        let new = NewEvent { key: Some(key.into()), message_id: id, ..event("a", "1") };
        put(&store, new, n * 100);
    }
    let scratch = store.end();
    let (events, ids) = (rows(&scratch, "events"), rows(&scratch, "ids"));
    assert!((50..=50 + 64).contains(&events), "{events}");
    assert!((1_024..2_048).contains(&ids), "{ids}");
    let latest = rows(&scratch, "latest");
    assert!((4..=4 + 1_024 + 64).contains(&latest), "{latest}");
    let store = open(scratch);
    let newest = offsets(&begin(&store, "a", None, 2_000_000));
    assert_eq!(newest, [19_997, 19_998, 19_999, 20_000], "of the keys those that are the newest");
}

/// Time cuts channels that nobody publishes on, also those that are not in memory; and what nothing
/// is left of goes after a day.
#[test]
fn the_file_is_cut_where_nothing_happens() {
    let store = open(Scratch::new());
    for n in 0..3_000 {
        let channel = format!("c:{}", n % 10);
        put(&store, event(&channel, "1"), n);
    }
    let scratch = store.end();
    assert_eq!(rows(&scratch, "events"), 10 * 50 + excess(&scratch));
    let store = open(scratch);
    let wait_until = |store: &Blocking, ms: u64, table: &str, wanted: u64| {
        for look in 0.. {
            turn(store, ms + look * 1_001);
            let db = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
            let count: i64 = db
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
                .unwrap();
            if count.cast_unsigned() == wanted {
                return;
            }
            assert!(look < 2_000, "{table} has {count}");
        }
    };
    wait_until(&store, 4_000, "events", 10 * 50);
    wait_until(&store, 700_000, "events", 0);
    wait_until(&store, 100_000_000, "channels", 0);
}

/// Events that a cut within a batch leaves for the next.
fn excess(scratch: &Scratch) -> u64 {
    let all = rows(scratch, "events");
    assert!((500..=10 * (50 + 64)).contains(&all), "{all}");
    all - 500
}

#[test]
fn a_channel_that_nobody_uses_leaves_memory_and_comes_back_as_it_was() {
    let store = open(Scratch::new());
    let head = put(&store, event("a", "1"), 1).position;
    assert!(store.memory.find("a").is_some());
    let release = 70_000;
    // The writer lets go of it in its turn, which whatever is asked of it gives it.
    for look in 0.. {
        turn(&store, release + look * 10_001);
        if store.memory.find("a").is_none() {
            break;
        }
        assert!(look < 1_000, "it stays");
        store.memory.sweep(now(release));
    }
    let plain = Wish { keep: KEEP, ..Wish::default() };
    let refused = store.memory.subscribe("a", ShardId(0), plain, now(80_000)).map(|_| ());
    assert_eq!(refused, Err(StoreError::Unloaded), "memory never makes it");
    assert_eq!(put(&store, event("a", "2"), 80_000).position, Position { offset: 2, ..head });
    assert_eq!(history(&store, "a", 80_000), [1, 2]);
}

/// A namespace that keeps nothing for a while leaves a hole, which nobody is shown.
#[test]
fn a_hole_in_the_past_ends_it() {
    let nothing = Keep { history: HistoryRule::default(), ..KEEP };
    let store = open(Scratch::new());
    for (keep, ms) in [(KEEP, 1), (nothing, 2), (nothing, 3), (KEEP, 4)] {
        put(&store, NewEvent { keep, ..event("a", "1") }, ms);
    }
    let store = open(store.end());
    assert_eq!(history(&store, "a", 5), [4]);
    put(&store, NewEvent { keep: nothing, ..event("a", "1") }, 6);
    let store = open(store.end());
    assert_eq!(history(&store, "a", 7), [0_u64; 0], "the last event is not there");
    assert_eq!(put(&store, event("a", "1"), 8).position.offset, 6);
    assert_eq!(history(&store, "a", 9), [6]);
}

/// Batches that fail count for nothing: an id that is young is known after them, and after a restart.
#[test]
fn ids_outlive_batches_that_fail() {
    let with_id = |id: String| {
        let (key, message_id) = (Some("k".into()), Some(id.into()));
        NewEvent { key, message_id, ..event("a", "1") }
    };
    let gate = Arc::<Gate>::default();
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, KEEP));
    let wish = Wish { keep: KEEP, ..Wish::default() };
    store.subscribe("gate", ShardId(0), wish, now(0)).expect("it is there");
    for n in 0..2_000 {
        put(&store, with_id(format!("id{n}")), 0);
    }
    let file = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
    // The last that a batch does fails: what it has counted by then is taken back.
    let fault = "CREATE TRIGGER fault BEFORE INSERT ON latest BEGIN SELECT RAISE(ABORT, 'no'); END";
    file.execute_batch(fault).unwrap();
    for (ms, round) in (1_101..).step_by(1_101).zip(1..=18) {
        until_up(&store, ms);
        let publish = |new: NewEvent<'_>| {
            let (told, answer) = oneshot::channel();
            store.log.publish(new.into_owned(), now(ms), Told::Waiter(told)).expect("it is up");
            answer
        };
        // All of them become one batch.
        let hold = gate.go.lock();
        let first = publish(event("gate", "1"));
        gate.until_held(round);
        let answers: Vec<_> =
            (0..4_096).map(|n| publish(with_id(format!("{round}:{n}")))).collect();
        drop(hold);
        assert!(first.blocking_recv().unwrap().is_ok());
        for answer in answers {
            assert_eq!(answer.blocking_recv().unwrap(), Err(StoreError::Faulty));
        }
    }
    file.execute_batch("DROP TRIGGER fault").unwrap();
    until_up(&store, 30_000);
    assert_eq!(put(&store, with_id("last".into()), 30_000).position.offset, 2_001);
    let store = open(store.end());
    assert!(put(&store, with_id("id0".into()), 30_001).duplicate, "it is 30 s old");
}

/// Gives the writer turns until it has found that the file can be written.
fn until_up(store: &Blocking, ms: u64) {
    while store.log.fault().is_some() {
        turn(store, ms);
    }
}
