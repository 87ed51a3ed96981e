//! One bad channel is no bad file; and what is delivered or told is on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::adapter::{Blocking, Gate, Scratch, now, opened};
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::event::{Event, Payload};
use crate::proto::name::{ClientId, ShardId};
use crate::store::{
    Answered, Deliver, Durable, NewEvent, Published, Store, StoreError, Ticket, Told, Wish,
};

const KEEP: Keep =
    Keep { history: HistoryRule { size: 4, ttl_ms: 600_000 }, keys: 4, durable: true };

fn event(channel: &str) -> NewEvent<'static> {
    let payload = Payload::Json(b"1"[..].into());
    NewEvent { keep: KEEP, ..NewEvent::new(channel.to_owned().into(), payload) }
}

type Answer = oneshot::Receiver<Result<Published, StoreError>>;

fn publish(store: &Blocking, channel: &str, ms: u64) -> Answer {
    let (told, answer) = oneshot::channel();
    store.log.publish(event(channel), now(ms), Told::Waiter(told)).expect("it is up");
    answer
}

fn offset(answer: Answer) -> Result<u64, StoreError> {
    answer.blocking_recv().expect("it is told").map(|published| published.position.offset)
}

/// Goal: rows that the file refuses on one channel cost only that one, in the same batch too.
#[test]
fn one_bad_channel_costs_only_itself() {
    let gate = Arc::<Gate>::default();
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, KEEP));
    store.tell_time(now(0));
    let wish = Wish { keep: KEEP, ..Wish::default() };
    store.subscribe("gate", ShardId(0), wish, now(0)).expect("it is there");
    for channel in ["before", "bad", "good"] {
        assert_eq!(offset(publish(&store, channel, 0)), Ok(1));
    }
    let file = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
    let bad = "(SELECT id FROM channels WHERE name = 'bad')";
    let fault = |what: &str, row: &str| {
        format!(
            "CREATE TRIGGER fault_{what} BEFORE {what} ON events WHEN {row}.channel = {bad} \
             BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    };
    file.execute_batch(&fault("INSERT", "NEW")).unwrap();
    // All of them become one batch.
    let hold = gate.go.lock();
    let first = publish(&store, "gate", 1);
    gate.until_held(1);
    let answers: Vec<_> =
        (0..30).map(|n| (n % 3, publish(&store, ["bad", "good", "fresh"][n % 3], 1))).collect();
    drop(hold);
    assert_eq!(offset(first), Ok(1));
    let mut next = [0, 2, 1];
    for (which, answer) in answers {
        if which == 0 {
            assert_eq!(offset(answer), Err(StoreError::Faulty));
        } else {
            assert_eq!(offset(answer), Ok(next[which]), "of {which}");
            next[which] += 1;
        }
    }
    assert_eq!(store.log.fault(), None, "the file is well");
    file.execute_batch("DROP TRIGGER fault_INSERT").unwrap();
    // It is tried again, and has used up no offset.
    store.tell_time(now(1_002));
    assert_eq!(offset(publish(&store, "bad", 1_002)), Ok(2));
    // Nor does its past, which cannot be cut, keep that of others, before and behind it.
    file.execute_batch(&fault("DELETE", "OLD")).unwrap();
    let rows = |channel: &str| -> i64 {
        let of = "SELECT count(*) FROM events JOIN channels ON id = channel WHERE name = ?1";
        file.query_row(of, [channel], |row| row.get(0)).unwrap()
    };
    for look in 0.. {
        store.tell_time(now(700_000 + look * 1_001));
        let turn = store.log.load("other", KEEP).expect("it is up");
        turn.blocking_recv().expect("it lives").expect("it can be read");
        assert_eq!(store.log.fault(), None);
        let left = ["before", "good", "fresh"].map(rows);
        if left == [0; 3] {
            break;
        }
        assert!(look < 10_000, "{left:?}");
    }
    assert_eq!(rows("bad"), 2);
}

/// Waits for a whole turn of the writer at that time, which begins with what is to be loaded.
fn turn(store: &Blocking, ms: u64) {
    store.tell_time(now(ms));
    for _ in 0..2 {
        let turn = store.log.load("other", KEEP).expect("it is there");
        turn.blocking_recv().expect("it lives").expect("it can be read");
    }
}

/// Goal: a file that refuses everything is not taken for many bad channels, also where they come one
/// by one; and it is a fault until it takes something.
#[test]
fn a_file_that_refuses_everything_is_a_fault() {
    const REFUSE: &str = "CREATE TRIGGER fault BEFORE INSERT ON events \
        BEGIN SELECT RAISE(ABORT, 'no'); END";
    let gate = Arc::<Gate>::default();
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, KEEP));
    store.tell_time(now(0));
    let wish = Wish { keep: KEEP, ..Wish::default() };
    store.subscribe("gate", ShardId(0), wish, now(0)).expect("it is there");
    let file = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
    // All of them become one batch.
    let hold = gate.go.lock();
    let first = publish(&store, "gate", 0);
    gate.until_held(1);
    file.execute_batch(REFUSE).unwrap();
    let answers: Vec<_> = (0..30).map(|n| publish(&store, &format!("c:{n}"), 0)).collect();
    drop(hold);
    assert_eq!(offset(first), Ok(1));
    for answer in answers {
        assert_eq!(offset(answer), Err(StoreError::Away));
    }
    assert!(store.log.fault().is_some(), "it is the file");
    turn(&store, 10_000);
    assert!(store.log.fault().is_some(), "it still refuses everything");
    file.execute_batch("DROP TRIGGER fault").unwrap();
    turn(&store, 20_000);
    assert_eq!(store.log.fault(), None);
    assert_eq!(offset(publish(&store, "c:1", 20_000)), Ok(1));
    // One by one: the ninth in a row; whatever is written in between begins anew.
    let mut ms = 20_000;
    for faults in [false, true] {
        file.execute_batch(REFUSE).unwrap();
        for _ in 0..8 {
            ms += 1_001;
            store.tell_time(now(ms));
            assert_eq!(offset(publish(&store, "c:1", ms)), Err(StoreError::Faulty));
            assert_eq!(store.log.fault(), None, "perhaps it is the channel");
        }
        if faults {
            break;
        }
        file.execute_batch("DROP TRIGGER fault").unwrap();
        assert_eq!(offset(publish(&store, "c:2", ms)), Ok(1));
    }
    store.tell_time(now(ms + 1_001));
    assert_eq!(offset(publish(&store, "c:1", ms)), Err(StoreError::Away));
    assert!(store.log.fault().is_some());
}

/// Goal: a channel whose row cannot be read keeps nobody else's past.
#[test]
fn a_row_that_cannot_be_read_is_left_out() {
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::default() as _, KEEP));
    store.tell_time(now(0));
    for channel in ["bad:1", "good:1", "bad:2", "bad:3", "good:2"] {
        assert_eq!(offset(publish(&store, channel, 0)), Ok(1));
    }
    let file = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
    let text = "UPDATE channels SET name = CAST(name || x'ff' AS TEXT) WHERE name LIKE 'bad:%'";
    assert_eq!(file.execute(text, []).unwrap(), 3);
    let rows = || -> i64 {
        let of = "SELECT count(*) FROM events JOIN channels ON id = channel
                  WHERE name LIKE 'good:%'";
        file.query_row(of, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(), 2);
    for look in 0.. {
        turn(&store, 700_000 + look * 1_001);
        assert_eq!(store.log.fault(), None);
        if rows() == 0 {
            break;
        }
        assert!(look < 100, "they are still there");
    }
}

/// Looks into the file, as another process would after a crash, whenever an event is delivered or
/// answered.
#[derive(Default)]
struct Witness {
    path: PathBuf,
    delivered: AtomicU64,
    answered: AtomicU64,
}

impl Witness {
    /// The head of a channel on disk, and its last event there.
    fn head(&self, channel: &str) -> (u64, u64) {
        let db = Connection::open(&self.path).unwrap();
        let text = "SELECT head, (SELECT max(offset) FROM events WHERE channel = id)
                    FROM channels WHERE name = ?1";
        db.query_row(text, [channel], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })
        .unwrap_or_default()
    }
}

impl Deliver for Witness {
    fn deliver(&self, _: ShardId, event: Arc<Event>) -> bool {
        let (head, last) = self.head(event.channel.as_str());
        if event.offset <= head && event.offset <= last {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    fn answer(&self, _: ShardId, answers: Vec<Answered>) {
        for Answered { result, .. } in answers {
            let (channel, published) = result.expect("it is well");
            let (head, last) = self.head(channel.as_str());
            if published.position.offset <= head && published.position.offset <= last {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Goal: no subscriber sees, and no publisher is told of, an event that a crash in that moment takes
/// back: it is in the file by then, for whoever opens that.
#[test]
fn what_is_delivered_or_told_is_on_disk() {
    const EVENTS: u64 = 300;
    let scratch = Scratch::new();
    let witness = Arc::new(Witness { path: scratch.0.clone(), ..Witness::default() });
    let store = opened(Blocking::open(scratch, Arc::<Witness>::clone(&witness) as _, KEEP));
    store.tell_time(now(0));
    let wish = Wish { keep: KEEP, ..Wish::default() };
    for channel in ["a", "b"] {
        store.subscribe(channel, ShardId(0), wish, now(0)).expect("it is there");
    }
    for n in 0..EVENTS {
        let channel = if n % 2 == 0 { "a" } else { "b" };
        let (shard, client) = (ShardId(0), ClientId(1));
        let told = Told::Connection(Ticket { shard, seat: 1, client, id: Some(n) });
        store.log.publish(event(channel), now(0), told).expect("it is up");
    }
    drop(store.end());
    let seen = (&witness.delivered, &witness.answered);
    assert_eq!((seen.0.load(Ordering::Relaxed), seen.1.load(Ordering::Relaxed)), (EVENTS, EVENTS));
}
