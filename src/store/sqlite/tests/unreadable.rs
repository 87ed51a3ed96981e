//! Channels that cannot be read from the file: each costs only itself, and little of that.

use rusqlite::Connection;

use super::adapter::{Blocking, Scratch, begun, now};
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::event::Payload;
use crate::store::{Durable, NewEvent, Store, StoreError};

const KEEP: Keep =
    Keep { history: HistoryRule { size: 50, ttl_ms: 600_000 }, keys: 4, durable: true };

fn publish(store: &Blocking, channel: &str, ms: u64) -> Result<u64, StoreError> {
    let payload = Payload::Json(b"1"[..].into());
    let key = Some("k".into());
    let event = NewEvent { keep: KEEP, key, ..NewEvent::new(channel.into(), payload) };
    store.publish(event, now(ms)).map(|published| published.position.offset)
}

fn load(store: &Blocking, channel: &str) -> Result<(), StoreError> {
    store.log.load(channel, KEEP).expect("it is up").blocking_recv().expect("it is told")
}

/// A store with some channels in its file and none in memory, and the file.
fn of(channels: &[&str]) -> (Blocking, Connection) {
    let store = begun(Scratch::new(), KEEP);
    for channel in channels {
        assert_eq!(publish(&store, channel, 0), Ok(1));
    }
    let store = begun(store.end(), KEEP);
    let file = Connection::open(&store.scratch.as_ref().expect("it is there").0).unwrap();
    (store, file)
}

/// Goal: a channel that cannot be read is read again only when its time has come, however often it is
/// asked for; the answer says that it is the channel; and then it comes back by itself.
#[test]
fn a_channel_that_cannot_be_read_is_left_alone_for_a_while() {
    let (store, file) = of(&["bad", "good"]);
    let payloads = |text: &str| {
        let of = "(SELECT id FROM channels WHERE name = 'bad')";
        let text = format!("UPDATE events SET key = CAST({text} AS TEXT) WHERE channel = {of}");
        assert_eq!(file.execute(&text, []).unwrap(), 1);
    };
    payloads("x'ff'");
    assert_eq!(publish(&store, "bad", 0), Err(StoreError::Faulty));
    // What is there by now is not looked at: neither for an event nor for who reads.
    payloads("'k'");
    assert_eq!(publish(&store, "bad", 999), Err(StoreError::Faulty));
    assert_eq!(load(&store, "bad"), Err(StoreError::Faulty));
    assert_eq!(publish(&store, "good", 999), Ok(2));
    assert_eq!((store.log.fault(), store.log.faulty()), (None, 1));
    assert_eq!(publish(&store, "bad", 1_000), Ok(2), "it is tried again, and is well");
    load(&store, "good").expect("it is there");
    assert_eq!(store.log.faulty(), 0);
}

/// Goal: whatever somebody else has written into a row, it is the channel that is refused, with what is
/// wrong in it, and not the thread that ends: neither when it is read nor when its past is cut.
#[test]
fn rows_that_were_not_written_here_cost_only_their_channel() {
    const REFUSED: Result<u64, StoreError> = Err(StoreError::Faulty);
    for (damage, wanted) in [
        ("UPDATE channels SET epoch = 'x' WHERE name = 'bad'", REFUSED),
        ("UPDATE channels SET head = -1 WHERE name = 'bad'", REFUSED),
        ("UPDATE events SET ts = -1 WHERE channel = 1", REFUSED),
        ("UPDATE latest SET key = CAST(x'ff' AS TEXT) WHERE channel = 1", REFUSED),
        ("UPDATE latest SET offset = -1 WHERE channel = 1", REFUSED),
        ("UPDATE latest SET offset = 2 WHERE channel = 1", REFUSED),
        (
            "INSERT INTO latest (channel, offset, ts, json, key, payload) VALUES (1, 1, 0, 1, 'l', x'31')",
            REFUSED,
        ),
        ("UPDATE latest SET key = printf('%0256d', 1) WHERE channel = 1", REFUSED),
        ("UPDATE latest SET key = printf('%0255d', 1) WHERE channel = 1", Ok(2)),
        ("UPDATE events SET key = printf('%0256d', 1) WHERE channel = 1", REFUSED),
        ("UPDATE channels SET head = 9223372036854775807 WHERE name = 'bad'", REFUSED),
        // Of no event that anybody asks for.
        ("UPDATE events SET offset = -1 WHERE channel = 1", Ok(2)),
    ] {
        let (store, file) = of(&["bad", "good"]);
        assert_eq!(file.execute(damage, []).unwrap(), 1, "{damage}");
        assert_eq!(publish(&store, "bad", 0), wanted, "{damage}");
        // Looks at all channels.
        for look in 0..10 {
            assert_eq!(publish(&store, "good", 700_000 + look * 1_001), Ok(2 + look), "{damage}");
            load(&store, "other").expect("it lives");
        }
        assert_eq!(store.log.fault(), None, "{damage}");
    }
}

/// Goal: what is wrong with the whole file makes no channel wait for longer than that lasts and a
/// second.
#[test]
fn a_fault_of_the_whole_file_sets_nothing_aside_for_long() {
    let (store, file) = of(&["good"]);
    let rename = |from: &str, to: &str| {
        file.execute_batch(&format!("ALTER TABLE channels RENAME {from} TO {to}")).unwrap();
    };
    rename("epoch", "age");
    for ms in [0, 1_000, 2_000, 3_000] {
        assert_eq!(publish(&store, "good", ms), Err(StoreError::Faulty), "{ms}");
    }
    rename("age", "epoch");
    assert_eq!(publish(&store, "good", 3_999), Err(StoreError::Faulty));
    assert_eq!(publish(&store, "good", 4_000), Ok(2));
}

/// Goal: a pattern whose rename the index has in another order is refused; nobody walks on for ever.
#[test]
fn names_that_are_not_in_order_are_refused() {
    let names: Vec<String> = (0..64).map(|n| format!("a:b{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).chain(["a:C"]).collect();
    let (store, file) = of(&names);
    let prefix = |store: &Blocking| {
        store.log.load_prefix("a:").expect("it is up").blocking_recv().expect("it is told")
    };
    // `a:C` stands behind all others then, and is not behind any of them.
    let text = "PRAGMA writable_schema = ON;
                UPDATE sqlite_schema SET sql = replace(sql, 'UNIQUE', 'COLLATE NOCASE UNIQUE')
                WHERE name = 'channels';
                PRAGMA schema_version = 1000;
                PRAGMA writable_schema = OFF";
    file.execute_batch(text).unwrap();
    Connection::open(&store.scratch.as_ref().expect("it is there").0)
        .and_then(|file| file.execute_batch("REINDEX"))
        .unwrap();
    assert_eq!(prefix(&store), Err(StoreError::Faulty));
    assert_eq!(prefix(&store), Err(StoreError::Faulty), "nor is it looked at again");
    assert_eq!((store.log.fault(), store.log.faulty()), (None, 1));
    load(&store, "a:C").expect("the others go on");
}

/// Goal: nobody's pattern is refused for a channel that is not readable, nor for a name that is none.
#[test]
fn a_pattern_has_the_channels_that_can_be_read() {
    let (store, file) = of(&["a:1", "a:2", "a:3", "a:4"]);
    let text = "UPDATE channels SET name = CAST('a:2' || x'ff' AS TEXT) WHERE name = 'a:2';
                UPDATE channels SET epoch = '' WHERE name = 'a:3'";
    file.execute_batch(text).unwrap();
    let loading = store.log.load_prefix("a:").expect("it is up");
    assert_eq!(loading.blocking_recv().expect("it is told"), Ok(()));
    let there = |name| store.memory.find(name).is_some();
    assert_eq!(["a:1", "a:2", "a:3", "a:4"].map(there), [true, false, false, true]);
    // One that was not readable is shown when it is, to who comes then.
    assert_eq!(file.execute("UPDATE channels SET epoch = '00000001' WHERE epoch = ''", []), Ok(1));
    assert!(store.log.has_prefix("a:"), "it is not walked through for each who comes");
    store.tell_time(now(1_000));
    // A look at the house follows the first load at that time.
    for _ in 0..2 {
        load(&store, "other").expect("it lives");
    }
    assert!(!store.log.has_prefix("a:"));
    let loading = store.log.load_prefix("a:").expect("it is up");
    assert_eq!(loading.blocking_recv().expect("it is told"), Ok(()));
    assert!(there("a:3"));
    // Of those who cannot be read at all, whoever asks hears it, and they are not looked at either.
    let names = |from: &str, to: &str| {
        file.execute_batch(&format!("ALTER TABLE channels RENAME {from} TO {to}")).unwrap();
    };
    names("name", "title");
    let prefix = |store: &Blocking| {
        store.log.load_prefix("b:").expect("it is up").blocking_recv().expect("it is told")
    };
    assert_eq!(prefix(&store), Err(StoreError::Faulty));
    names("title", "name");
    assert_eq!(prefix(&store), Err(StoreError::Faulty), "not yet");
    store.tell_time(now(2_000));
    assert_eq!(prefix(&store), Ok(()));
}
