//! The queue: what waits is bounded, and nobody who waits is forgotten.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::adapter::{Blocking, Gate, Scratch, opened};
use crate::core::policy::Keep;
use crate::proto::event::{Event, Payload};
use crate::proto::name::{ClientId, ShardId};
use crate::store::sqlite::queue::{Load, Queue, Wanted, Work};
use crate::store::{
    Answered, Deliver, Durable, NewEvent, Now, Reading, Store, StoreError, Ticket, Told, Wish,
};

const NOW: Now = Now { unix_ms: 1, node_ns: 1 };

/// What connections were told.
#[derive(Default)]
struct Answers(Mutex<Vec<(ShardId, Vec<Answered>)>>);

impl Deliver for Answers {
    fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
        false
    }

    fn answer(&self, shard: ShardId, answers: Vec<Answered>) {
        self.0.lock().push((shard, answers));
    }
}

fn event(bytes: usize) -> NewEvent<'static> {
    NewEvent::new("a".into(), Payload::Opaque(vec![0; bytes].into()))
}

fn ticket(shard: u16, id: u64) -> Told {
    Told::Connection(Ticket { shard: ShardId(shard), seat: 1, client: ClientId(2), id: Some(id) })
}

fn is_room(queue: &Queue) -> bool {
    pin!(queue.room()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn take(queue: &Queue, work: &mut Work) -> bool {
    queue.take(work, Duration::ZERO, 0)
}

#[test]
fn what_waits_is_bounded_until_it_is_written() {
    for (bytes, bound) in [(0, 8_192), (1 << 20, 16)] {
        let queue = Queue::new();
        let mut work = Work::new(Arc::<Answers>::default());
        for n in 1..=bound {
            let crowded = queue.push(event(bytes), NOW, ticket(0, n)).expect("it is up");
            assert_eq!(crowded, n == bound, "{n} of {bytes} bytes");
        }
        assert!(!is_room(&queue));
        assert!(take(&queue, &mut work));
        assert!(!is_room(&queue), "what is being written counts");
        queue.settle(1, bytes);
        assert!(is_room(&queue));
        assert_eq!(queue.waiting(), bound - 1);
        let rest = work.events.refuse(usize::MAX, StoreError::Away);
        assert_eq!(rest as u64, bound * bytes as u64);
    }
}

/// Whoever has one event under way each is no way around the bound.
#[test]
fn beyond_several_times_the_bound_nothing_is_taken() {
    for (bytes, bound) in [(0, 4 * 8_192), (1 << 20, 4 * 16)] {
        let queue = Queue::new();
        for n in 1..=bound {
            queue.push(event(bytes), NOW, ticket(0, n)).expect("there is room");
        }
        assert_eq!(queue.push(event(bytes), NOW, ticket(0, 0)), Err(StoreError::Crowded));
        let mut work = Work::new(Arc::<Answers>::default());
        assert!(take(&queue, &mut work));
        assert_eq!(queue.push(event(bytes), NOW, ticket(0, 0)), Err(StoreError::Crowded));
        queue.settle(1, bytes);
        assert_eq!(queue.push(event(bytes), NOW, ticket(0, 0)), Ok(true));
    }
}

/// Panics with an event in its hands.
#[derive(Default)]
struct Panics(Answers, Mutex<usize>);

impl Deliver for Panics {
    fn deliver(&self, _: ShardId, _: Arc<Event>) -> bool {
        let mut left = self.1.lock();
        assert!(*left > 0, "on purpose");
        *left -= 1;
        false
    }

    fn answer(&self, shard: ShardId, answers: Vec<Answered>) {
        self.0.answer(shard, answers);
    }
}

/// Goal: a fault of Weir's own in the writer answers everybody, also whose event was at hand.
#[test]
fn a_panic_leaves_nobody_without_an_answer() {
    let panics = Arc::new(Panics(Answers::default(), Mutex::new(2)));
    let keep = Keep { durable: true, ..Keep::default() };
    let store = opened(Blocking::open(Scratch::new(), Arc::<Panics>::clone(&panics) as _, keep));
    store.subscribe("a", ShardId(0), Wish { keep, ..Wish::default() }, NOW).expect("it is there");
    let mut taken = Vec::new();
    for n in 1..=50 {
        let new = NewEvent { keep, ..event(1) };
        if store.log.publish(new, NOW, ticket(0, n)).is_ok() {
            taken.push(n);
        }
    }
    assert!(taken.len() >= 3, "the third panics");
    assert!(store.log.close_within(Duration::from_secs(60)));
    let answers = panics.0.0.lock();
    let all: Vec<_> = answers.iter().flat_map(|(_, all)| all).collect();
    let ids: Vec<u64> = all.iter().filter_map(|one| one.ticket.id).collect();
    assert_eq!(ids, taken, "each once, in their order");
    let ok: Vec<bool> = all.iter().map(|one| one.result.is_ok()).collect();
    assert_eq!(ok.iter().position(|ok| !ok), Some(2));
    assert!(store.log.fault().is_some_and(|fault| fault.contains("a fault of Weir's own")));
}

/// Goal: a disk that does not answer holds up no shutdown.
#[test]
fn a_disk_that_hangs_does_not_hold_up_the_end() {
    let gate = Arc::<Gate>::default();
    let keep = Keep { durable: true, ..Keep::default() };
    let mut store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, keep));
    store.subscribe("a", ShardId(0), Wish { keep, ..Wish::default() }, NOW).expect("it is there");
    let hold = gate.go.lock();
    let (told, answer) = oneshot::channel();
    store.log.publish(NewEvent { keep, ..event(1) }, NOW, Told::Waiter(told)).expect("it is up");
    gate.until_held(1);
    assert!(!store.log.close_within(Duration::from_millis(20)));
    assert!(store.log.publish(event(1), NOW, ticket(0, 1)).is_err(), "nothing is taken");
    drop(hold);
    assert!(answer.blocking_recv().expect("it was on its way").is_ok());
    // Its thread ends then, and gives the file back.
    let mut scratch = store.scratch.take().expect("it is there");
    drop(store);
    loop {
        match Blocking::open(scratch, Arc::<Gate>::clone(&gate) as _, keep) {
            Ok(store) => {
                assert_eq!(store.read("a", Reading::default(), NOW).expect("it is").head.offset, 1);
                return;
            }
            Err((error, again)) => {
                assert!(error.contains("another gateway uses this file"), "{error}");
                scratch = again;
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn nobody_who_waits_is_forgotten() {
    let answers = Arc::<Answers>::default();
    let queue = Queue::new();
    let (told, mut answer) = oneshot::channel();
    let (done, mut loading) = oneshot::channel();
    queue.push(event(1), NOW, ticket(0, 1)).expect("it is up");
    queue.push(event(1), NOW, ticket(1, 2)).expect("it is up");
    queue.push(event(1), NOW, ticket(0, 3)).expect("it is up");
    queue.push(event(1), NOW, Told::Waiter(told)).expect("it is up");
    let keep = Keep::default();
    queue.load(Load { what: Wanted::Channel("a".into(), keep), done }).expect("it is open");
    let mut work = Work::new(Arc::<Answers>::clone(&answers));
    assert!(take(&queue, &mut work));
    // As where its thread panics with the batch in its hands.
    drop(work);
    assert_eq!(answer.try_recv(), Ok(Err(StoreError::Away)));
    assert!(loading.try_recv().is_err(), "it is not loaded");
    let told: Vec<(u16, Vec<Option<u64>>)> = answers
        .0
        .lock()
        .iter()
        .map(|(shard, all)| (shard.0, all.iter().map(|one| one.ticket.id).collect()))
        .collect();
    assert_eq!(told, [(0, vec![Some(1), Some(3)]), (1, vec![Some(2)])], "in their order");
    let (told, mut answer) = oneshot::channel();
    queue.push(event(1), NOW, Told::Waiter(told)).expect("it is up");
    queue.push(event(1), NOW, ticket(7, 4)).expect("it is up");
    queue.end(Arc::<Answers>::clone(&answers));
    assert_eq!(answer.try_recv(), Ok(Err(StoreError::Away)));
    assert_eq!(answers.0.lock().last().map(|(shard, _)| *shard), Some(ShardId(7)));
    assert!(queue.push(event(1), NOW, ticket(0, 4)).is_err());
    assert!(is_room(&queue), "nobody waits for what has ended");
}

#[test]
fn a_queue_that_is_down_takes_nothing_and_says_why() {
    let queue = Queue::new();
    assert_eq!(queue.fault(), None);
    queue.set_fault("no room");
    assert_eq!(queue.fault().as_deref(), Some("no room"));
    assert_eq!(queue.push(event(1), NOW, ticket(0, 1)), Err(StoreError::Away));
    queue.set_up();
    assert_eq!(queue.push(event(1), NOW, ticket(0, 1)), Ok(false));
    let mut work = Work::new(Arc::<Answers>::default());
    queue.close();
    assert!(take(&queue, &mut work), "what was taken is written");
    let bytes = work.events.refuse(1, StoreError::Away);
    queue.settle(1, bytes);
    assert!(!take(&queue, &mut work), "then it ends");
}

/// Whoever publishes does not wait for all who come back at once.
#[test]
fn events_do_not_wait_for_all_loads() {
    let gate = Arc::<Gate>::default();
    let keep = Keep { durable: true, ..Keep::default() };
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, keep));
    let wish = Wish { keep, ..Wish::default() };
    store.subscribe("a", ShardId(0), wish, NOW).expect("it is there");
    let publish = || {
        let (told, answer) = oneshot::channel();
        let event = NewEvent { keep, ..event(1) };
        store.log.publish(event, NOW, Told::Waiter(told)).expect("it is up");
        answer
    };
    let hold = gate.go.lock();
    let first = publish();
    gate.until_held(1);
    let mut loads: Vec<_> =
        (0..20_000).map(|n| store.log.load(&format!("c:{n}"), keep).expect("it is up")).collect();
    *gate.watched.lock() = loads.pop();
    let second = publish();
    drop(hold);
    assert!(first.blocking_recv().is_ok() && second.blocking_recv().is_ok());
    assert_eq!((*gate.events.lock(), *gate.loaded.lock()), (2, Some(false)));
    for load in loads {
        assert_eq!(load.blocking_recv(), Ok(Ok(())), "all of them come");
    }
}

/// Whoever has gone costs nobody a look at the disk.
#[test]
fn nothing_is_loaded_for_those_who_have_gone() {
    let gate = Arc::<Gate>::default();
    let keep = Keep { durable: true, ..Keep::default() };
    let store = opened(Blocking::open(Scratch::new(), Arc::<Gate>::clone(&gate) as _, keep));
    store.subscribe("a", ShardId(0), Wish { keep, ..Wish::default() }, NOW).expect("it is there");
    let hold = gate.go.lock();
    let (told, answer) = oneshot::channel();
    let event = NewEvent { keep, ..event(1) };
    store.log.publish(event, NOW, Told::Waiter(told)).expect("it is up");
    gate.until_held(1);
    drop(store.log.load("gone", keep).expect("it is up"));
    let there = store.log.load("there", keep).expect("it is up");
    drop(hold);
    assert!(answer.blocking_recv().is_ok());
    assert_eq!(there.blocking_recv(), Ok(Ok(())));
    assert!(store.memory.find("there").is_some() && store.memory.find("gone").is_none());
}
