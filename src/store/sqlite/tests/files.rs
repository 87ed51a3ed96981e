//! The contract, and files: of another kind, of another version, cut off, in use; and a file that
//! cannot be written for a while.

use std::sync::Arc;

use rusqlite::Connection;

use super::adapter::{Blocking, Nobody, Scratch, opened};
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::event::Payload;
use crate::store::memory::Memory;
use crate::store::sqlite::files::{self, Opened};
use crate::store::sqlite::log::{Parts, Sqlite};
use crate::store::sqlite::schema;
use crate::store::{Durable, NewEvent, Now, Reading, Store, StoreError};

const NOW: Now = Now { unix_ms: 1_700_000_000_000, node_ns: 1_000_000_000 };

#[test]
fn keeps_the_contract() {
    crate::store::conformance::check(|deliver| {
        Box::new(opened(Blocking::open(Scratch::new(), deliver, Keep::default())))
    });
}

fn open(scratch: Scratch) -> Result<Blocking, (String, Scratch)> {
    Blocking::open(scratch, Arc::new(Nobody), Keep::default())
}

fn put(store: &Blocking, now: Now) -> Result<u64, StoreError> {
    let keep = Keep { history: HistoryRule { size: 1_000, ttl_ms: 1_000_000 }, ..Keep::default() };
    let payload = Payload::Json(b"1"[..].into());
    let new = NewEvent { keep, ..NewEvent::new("a".into(), payload) };
    store.publish(new, now).map(|published| published.position.offset)
}

/// Opens what cannot be, and is left as it was. The sentence, without the path.
fn refused(scratch: Scratch) -> String {
    let before = std::fs::read(&scratch.0).unwrap();
    let Err((text, scratch)) = open(scratch) else { panic!("it is none of ours") };
    assert_eq!(std::fs::read(&scratch.0).unwrap(), before, "it is left alone");
    text.split_once(".db: ").map_or(text.clone(), |(_, text)| text.to_owned())
}

#[test]
fn a_file_that_is_none_of_ours_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    std::fs::write(&scratch.0, "a page of text, of somebody who would miss it").unwrap();
    let text = refused(scratch);
    assert!(text.starts_with("this is no SQLite database"), "{text}");

    let scratch = Scratch::new();
    std::fs::write(&scratch.0, [&b"SQLite format 3\0"[..], &[7; 5_000]].concat()).unwrap();
    let text = refused(scratch);
    assert!(text.contains("no SQLite database"), "{text}");

    let scratch = Scratch::new();
    let other = Connection::open(&scratch.0).unwrap();
    other.execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    drop(other);
    let text = refused(scratch);
    assert!(text.starts_with("this is the database of another program"), "{text}");

    let scratch = opened(open(Scratch::new())).end();
    let newer = Connection::open(&scratch.0).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let text = refused(scratch);
    assert!(text.starts_with("a newer Weir has written this file (its schema is 99"), "{text}");

    let scratch = Scratch(std::env::temp_dir());
    let Err((text, scratch)) = open(scratch) else { panic!("it is a folder") };
    assert!(text.ends_with("name another file"), "{text}");
    std::mem::forget(scratch);

    let scratch = Scratch(Scratch::new().0.join("weir.db"));
    let Err((text, _)) = open(scratch) else { panic!("it has no folder") };
    assert!(text.ends_with("its folder does not exist: make it, or name another"), "{text}");
}

#[test]
fn a_file_that_was_cut_off_is_refused_and_left_alone() {
    let store = opened(open(Scratch::new()));
    for ms in 0..2_000 {
        put(&store, Now { unix_ms: NOW.unix_ms + ms, ..NOW }).unwrap();
    }
    let scratch = store.end();
    let whole = std::fs::read(&scratch.0).unwrap();
    std::fs::write(&scratch.0, &whole[..whole.len() / 2]).unwrap();
    let text = refused(scratch);
    assert!(text.starts_with("the file is damaged or was cut off"), "{text}");
}

#[test]
fn a_file_is_for_one_gateway() {
    let store = opened(open(Scratch::new()));
    let path = store.scratch.as_ref().unwrap().0.clone();
    let Err((text, second)) = open(Scratch(path.clone())) else { panic!("it is in use") };
    std::mem::forget(second);
    assert!(text.ends_with("another gateway uses this file: each needs one of its own"), "{text}");
    assert_eq!(put(&store, NOW), Ok(1), "which goes on");
    // Others may read it.
    let reader = Connection::open(&path).unwrap();
    let head: i64 = reader.query_row("SELECT head FROM channels", [], |row| row.get(0)).unwrap();
    assert_eq!(head, 1);
    drop(reader);
    let scratch = store.end();
    let holder = Connection::open(&scratch.0).unwrap();
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let Err((text, scratch)) = open(scratch) else { panic!("it is locked") };
    assert!(text.contains("another program has locked this file"), "{text}");
    drop(holder);
    assert_eq!(put(&opened(open(scratch)), NOW), Ok(2));
}

/// An older file goes through every step that it lacks, each whole or not at all.
#[test]
fn an_older_file_becomes_one_of_this_version() {
    let scratch = opened(open(Scratch::new())).end();
    let mut db = Connection::open(&scratch.0).unwrap();
    let insert = "INSERT INTO channels (name, epoch, head, ts) VALUES ('a', '00000001', 7, 0)";
    db.execute_batch(insert).unwrap();
    let version = |db: &Connection| -> i64 {
        db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    let first = schema::STEPS[0];
    let two = [first, "ALTER TABLE channels ADD COLUMN owner TEXT NOT NULL DEFAULT 'nobody'"];
    let broken = [two[0], two[1], "DELETE FROM channels; CREATE TABLE channels (id INTEGER)"];
    schema::migrate(&mut db, &two).unwrap();
    assert_eq!(version(&db), 2);
    assert!(schema::migrate(&mut db, &broken).is_err());
    let kept = db.query_row("SELECT head, owner FROM channels", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    });
    assert_eq!((kept.unwrap(), version(&db)), ((7, "nobody".to_owned()), 2));
    schema::migrate(&mut db, &two).unwrap();
    assert!(matches!(schema::migrate(&mut db, &[first]), Err(schema::SchemaError::Newer(2))));
}

/// While somebody else holds the file, nothing is taken, and nothing is lost by that; afterwards it
/// goes on by itself.
#[test]
fn a_file_that_cannot_be_written_is_tried_again() {
    let store = opened(open(Scratch::new()));
    assert_eq!((put(&store, NOW), store.log.fault()), (Ok(1), None));
    let holder = Connection::open(&store.scratch.as_ref().unwrap().0).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(put(&store, NOW), Err(StoreError::Away));
    let fault = store.log.fault().expect("it says why");
    assert!(fault.starts_with("store.path cannot be written: "), "{fault}");
    assert_eq!(put(&store, NOW), Err(StoreError::Away), "at once");
    let read = store.read("a", Reading::default(), NOW).expect("what is in memory is there");
    assert_eq!(read.head.offset, 1, "nobody was told of the others");
    holder.execute_batch("COMMIT").unwrap();
    let mut now = NOW;
    let next = loop {
        now.node_ns += 10_000_000;
        if let Ok(offset) = put(&store, now) {
            break offset;
        }
        assert!(now.node_ns < 3_600_000_000_000, "it does not come back");
        std::thread::sleep(std::time::Duration::from_millis(1));
        store.tell_time(now);
    };
    assert_eq!((next, store.log.fault()), (2, None));
}

/// A writer that cannot begin is a fault that everybody can see.
#[test]
fn a_thread_that_does_not_begin_is_a_fault() {
    let scratch = Scratch::new();
    let lock = std::fs::File::create(&scratch.0).unwrap();
    let opened = Opened { db: Connection::open_in_memory().unwrap(), lock };
    let memory = Arc::new(Memory::new(Arc::new(Nobody)));
    let log = Sqlite::start(opened, Arc::new(Nobody), |queue, work| Parts {
        memory,
        queue,
        whole: Arc::default(),
        work,
        clock: Box::new(|| NOW),
        rules: Box::new(|_| None),
    });
    log.close();
    let fault = log.fault().unwrap_or_default();
    assert!(fault.contains("no such table"), "{fault}");
    assert!(log.load("a", Keep::default()).is_err());
}

/// What a test cannot see, for it would have to cut the power: a commit waits for the disk.
#[test]
fn a_commit_is_on_disk_when_it_returns() {
    let scratch = Scratch::new();
    let Ok(Opened { db, lock: _lock }) = files::open(&scratch.0, true) else {
        panic!("a new file")
    };
    let is = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(is("synchronous"), 2, "FULL");
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}
