//! A disk that does not answer: everybody who can be told is told, and it goes on by itself.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::MutexGuard;
use tokio::sync::oneshot;

use super::adapter::{Blocking, Gate, Scratch, now, opened, wait_until};
use crate::core::policy::Keep;
use crate::proto::event::Payload;
use crate::proto::name::ShardId;
use crate::store::{Durable, NewEvent, Published, Store, StoreError, Told, Wish};

const KEEP: Keep = Keep {
    durable: true,
    keys: 0,
    history: crate::core::history::HistoryRule { size: 0, ttl_ms: 0 },
};

type Answer = oneshot::Receiver<Result<Published, StoreError>>;

fn publish(store: &Blocking) -> Result<Answer, StoreError> {
    publish_bytes(store, 100)
}

fn publish_bytes(store: &Blocking, bytes: usize) -> Result<Answer, StoreError> {
    let (told, answer) = oneshot::channel();
    let payload = Payload::Opaque(vec![0; bytes].into());
    let event = NewEvent { keep: KEEP, ..NewEvent::new("a".into(), payload) };
    store.log.publish(event, now(0), Told::Waiter(told))?;
    Ok(answer)
}

/// A store whose writer stands still with an event in its hands.
fn stands_still(gate: &Arc<Gate>) -> (Blocking, MutexGuard<'_, ()>, Answer) {
    let store = opened(Blocking::open(Scratch::new(), Arc::clone(gate) as _, KEEP));
    let wish = Wish { keep: KEEP, ..Wish::default() };
    store.subscribe("a", ShardId(0), wish, now(0)).expect("it is there");
    let hold = gate.go.lock();
    let first = publish(&store).expect("it is up");
    gate.until_held(1);
    (store, hold, first)
}

/// Goal: beyond the deadline it is a fault; what has not reached the disk is refused, so that nobody
/// waits for it, and what has is told when the disk answers. Then it is well again, by itself.
#[test]
fn a_disk_that_hangs_is_a_fault_until_it_answers() {
    let gate = Arc::<Gate>::default();
    let (store, hold, mut first) = stands_still(&gate);
    let mut waits = publish(&store).expect("it is up");
    let mut loading = store.log.load("b", KEEP).expect("it is up");
    for ms in (0..5_000).step_by(100) {
        store.log.watch(now(ms));
        assert_eq!(store.log.fault(), None, "{ms}");
    }
    assert!(waits.try_recv().is_err() && loading.try_recv().is_err(), "they wait");
    store.log.watch(now(5_000));
    assert!(store.log.fault().is_some_and(|fault| fault.contains("has not answered for 5 s")));
    assert_eq!(waits.try_recv(), Ok(Err(StoreError::Away)));
    assert_eq!(loading.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty), "it may be on disk");
    assert_eq!(publish(&store).map(drop), Err(StoreError::Away), "at once");
    assert_eq!(store.log.load("b", KEEP).map(drop), Err(StoreError::Away));
    assert_eq!(store.log.load_prefix("b:").map(drop), Err(StoreError::Away));
    assert_eq!(store.log.waiting(), 1, "what was refused does not wait");
    drop(hold);
    assert_eq!(first.blocking_recv().expect("it is told").map(|one| one.position.offset), Ok(1));
    wait_until("the fault to end, because the writer rests", || {
        store.log.watch(now(5_100));
        store.log.fault().is_none()
    });
    let next = publish(&store).expect("it is up").blocking_recv().expect("it is told");
    assert_eq!(next.map(|one| one.position.offset), Ok(2), "what was refused has no place");
}

/// Goal: whoever waits for room does not wait for a disk that hangs.
#[test]
fn nobody_waits_for_room_while_a_disk_hangs() {
    let gate = Arc::<Gate>::default();
    let (store, hold, _first) = stands_still(&gate);
    while store.log.waiting() < 8_192 {
        publish(&store).expect("it is up");
    }
    let mut room = pin!(store.log.room());
    let mut context = Context::from_waker(Waker::noop());
    assert!(room.as_mut().poll(&mut context).is_pending());
    for ms in (0..=5_000).step_by(1_000) {
        store.log.watch(now(ms));
    }
    assert!(room.as_mut().poll(&mut context).is_ready());
    assert_eq!(publish(&store).map(drop), Err(StoreError::Away), "and hears why");
    drop(hold);
}

/// Goal: what waits is written in parts that a slow disk commits in time, and one event that is larger
/// than a part is one; nothing of it stays behind.
#[test]
fn a_commit_is_no_larger_than_a_slow_disk_takes() {
    const MIB: usize = 1 << 20;
    let gate = Arc::<Gate>::default();
    let (store, hold, first) = stands_still(&gate);
    let sizes = [6, 6, 6, 17, 1].map(|mib| mib * MIB);
    let answers = sizes.map(|bytes| publish_bytes(&store, bytes).expect("it is up"));
    drop(hold);
    let offsets = [first].into_iter().chain(answers).map(|answer| {
        answer.blocking_recv().expect("it is told").map(|published| published.position.offset)
    });
    assert_eq!(offsets.collect::<Result<Vec<_>, _>>(), Ok((1..=6).collect()));
    let batches: u64 = store.log.seconds().buckets.iter().sum();
    assert_eq!(batches, 5, "the first; 6 and 6; 6; 17; 1");
}
