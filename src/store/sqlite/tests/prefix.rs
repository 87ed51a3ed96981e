//! What a pattern is shown first: all keyed channels of its prefix, also those on disk alone; and
//! channels that leave memory, however many there are.

use std::sync::Arc;

use super::adapter::{Blocking, Scratch, begun, now};
use crate::core::browse::Bookmark;
use crate::core::policy::Keep;
use crate::proto::event::Payload;
use crate::proto::name::ShardId;
use crate::store::{Durable, NewEvent, Store};

const KEEP: Keep = Keep {
    history: crate::core::history::HistoryRule { size: 0, ttl_ms: 0 },
    keys: 4,
    durable: true,
};

fn open(scratch: Scratch) -> Blocking {
    begun(scratch, KEEP)
}

fn put(store: &Blocking, channel: &str, key: Option<&str>) {
    let payload = Payload::Json(b"1"[..].into());
    let new =
        NewEvent { keep: KEEP, key: key.map(Box::from), ..NewEvent::new(channel.into(), payload) };
    store.publish(new, now(1)).expect("it is there");
}

fn load(store: &Blocking, prefix: &str) {
    let loading = store.log.load_prefix(prefix).expect("it is up");
    loading.blocking_recv().expect("it lives").expect("it can be read");
    assert!(store.log.has_prefix(prefix));
}

/// The channels that a pattern is shown.
fn shown(store: &Blocking, prefix: &str) -> Vec<String> {
    let (mut from, mut all) = (Some(Bookmark::default()), Vec::new());
    while let Some(at) = from {
        let listing = store.keyed(prefix, at);
        all.extend(listing.channels.into_iter().map(|(name, _)| name.as_str().to_owned()));
        from = listing.next;
    }
    all.sort();
    all
}

/// Gives the writer a turn at that time.
fn turn(store: &Blocking, ms: u64) {
    store.tell_time(now(ms));
    let loading = store.log.load("turn:x", KEEP).expect("it is there");
    loading.blocking_recv().expect("it lives").expect("it can be read");
}

#[test]
fn all_of_a_prefix_comes_into_memory_once() {
    let store = open(Scratch::new());
    let names: Vec<String> = (0..500).map(|n| format!("dash:{n:03}")).collect();
    for name in &names {
        put(&store, name, Some("k"));
        put(&store, &name.replace("dash", "dashboard"), Some("k"));
    }
    put(&store, "dash:plain", None);
    let store = open(store.end());
    assert!(!store.log.has_prefix("dash:") && shown(&store, "dash:").is_empty());
    load(&store, "dash:25");
    assert_eq!(shown(&store, "dash").len(), 10, "no more than was asked for");
    load(&store, "dash:");
    assert_eq!(shown(&store, "dash"), names);
    assert!(store.memory.find("dash:plain").is_none(), "it has nothing to show");
    assert!(store.log.has_prefix("dash:3") && !store.log.has_prefix("dash"));
    // Others that wait for it at the same time wait for the same; and those who have gone, nobody.
    let store = open(store.end());
    drop(store.log.load_prefix("dashboard:").expect("it is up"));
    let both = [store.log.load_prefix("dash:"), store.log.load_prefix("dash:")];
    for loading in both {
        assert_eq!(loading.expect("it is up").blocking_recv(), Ok(Ok(())));
    }
    assert_eq!(shown(&store, "dash").len(), 500);
}

#[test]
fn a_prefix_is_there_as_long_as_somebody_has_it() {
    let store = open(Scratch::new());
    for n in 0..10 {
        put(&store, &format!("dash:{n}"), Some("k"));
    }
    load(&store, "dash:");
    store.subscribe_prefix("dash:", ShardId(3)).expect("it is there");
    let mut ms = 70_000;
    for _ in 0..20 {
        turn(&store, ms);
        ms += 10_001;
    }
    assert!(store.log.has_prefix("dash:") && shown(&store, "dash:").len() == 10);
    store.unsubscribe_prefix("dash:", ShardId(3));
    for look in 0.. {
        turn(&store, ms);
        ms += 10_001;
        if shown(&store, "dash:").is_empty() {
            break;
        }
        assert!(look < 1_000, "they stay");
    }
    assert!(!store.log.has_prefix("dash:"), "who comes next has to wait");
    load(&store, "dash:");
    assert_eq!(shown(&store, "dash:").len(), 10);
    // One who comes in the last moment keeps it.
    let (memory, shard) = (Arc::clone(&store.memory), ShardId(1));
    let gone = store.memory.release("dash:1", u64::MAX, || {
        memory.subscribe_prefix("dash:", shard).expect("it is there");
    });
    assert!(!gone && store.memory.find("dash:1").is_some());
}

/// Each turn looks at some of them.
#[test]
fn many_channels_leave_memory_bit_by_bit() {
    const CHANNELS: u64 = 10_000;
    let store = open(Scratch::new());
    let loads: Vec<_> =
        (0..CHANNELS).map(|n| store.log.load(&format!("c:{n}"), KEEP).expect("it is up")).collect();
    for load in loads {
        assert_eq!(load.blocking_recv(), Ok(Ok(())));
    }
    assert_eq!(store.channel_count(), CHANNELS);
    let mut counts = vec![CHANNELS];
    for look in 0.. {
        turn(&store, 70_000 + look * 10_001);
        let count = store.channel_count();
        if counts.last() != Some(&count) {
            counts.push(count);
        }
        if count < 10 {
            break;
        }
        assert!(look < 1_000, "{count}");
    }
    assert!(counts.len() > 2, "some at a time: {counts:?}");
}
