//! A shard's mailbox: events from one thread to another. Beside it tokio's bounded channel, and the
//! plain thing: a `VecDeque` behind a lock, and a bell that rings for each event.
//!
//! First within one thread, where nobody waits and the figure is steady; then with one and with two
//! producers against a consumer that sleeps when there is nothing, where it depends on the machine.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use weir::proto::event::{Event, Payload};
use weir::proto::name::{Alias, ShardId};
use weir::shard::Mailboxes;
use weir::store::Deliver as _;

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SHARD: ShardId = ShardId(0);

/// Events of one round within one thread: a tick of a busy shard.
const TICK: usize = 64;

/// Events of one round between threads. All fit, so no producer is ever held back.
const ROUND: usize = 4_096;

/// Where events are put from any thread and taken by one, in batches.
trait Post: Sync {
    /// What the consumer alone holds.
    type Taker;

    /// A queue and its consumer's end.
    fn open() -> (Self, Self::Taker)
    where
        Self: Sized;

    fn put(&self, event: Arc<Event>);

    /// Waits for events and appends at least one.
    fn take(&self, taker: &mut Self::Taker, into: &mut Vec<Arc<Event>>)
    -> impl Future<Output = ()>;
}

impl Post for Mailboxes {
    type Taker = ();

    fn open() -> (Self, ()) {
        (Self::new(1), ())
    }

    fn put(&self, event: Arc<Event>) {
        self.deliver(SHARD, event);
    }

    async fn take(&self, (): &mut (), into: &mut Vec<Arc<Event>>) {
        self.collect(SHARD, into).await;
    }
}

impl Post for mpsc::Sender<Arc<Event>> {
    type Taker = mpsc::Receiver<Arc<Event>>;

    fn open() -> (Self, Self::Taker) {
        mpsc::channel(ROUND)
    }

    fn put(&self, event: Arc<Event>) {
        self.try_send(event).expect("there is room for a round");
    }

    async fn take(&self, taker: &mut Self::Taker, into: &mut Vec<Arc<Event>>) {
        taker.recv_many(into, ROUND).await;
    }
}

/// The plain thing.
#[derive(Default)]
struct Plain {
    queue: Mutex<VecDeque<Arc<Event>>>,
    bell: Notify,
}

impl Post for Plain {
    type Taker = ();

    fn open() -> (Self, ()) {
        (Self::default(), ())
    }

    fn put(&self, event: Arc<Event>) {
        self.queue.lock().push_back(event);
        self.bell.notify_one();
    }

    async fn take(&self, (): &mut (), into: &mut Vec<Arc<Event>>) {
        loop {
            into.extend(self.queue.lock().drain(..));
            if !into.is_empty() {
                return;
            }
            self.bell.notified().await;
        }
    }
}

/// `count` events of their own, so that no two threads count references in the same place.
fn events(count: usize) -> Vec<Arc<Event>> {
    let event = |offset| Event {
        channel: "telemetry:host-7".parse().expect("a good name"),
        alias: Alias(1),
        offset,
        ts_ms: 1_732_153_200_123,
        taken_ns: 0,
        key: None,
        from: None,
        hidden_from: None,
        payload: Payload::Json(br#"{"cpu":12.5}"#[..].into()),
        json_frame: OnceLock::new(),
        frames: weir::proto::encoder::Frames::default(),
    };
    (1..).take(count).map(|offset| Arc::new(event(offset))).collect()
}

/// Takes `count` events, which are put meanwhile or have been.
async fn receive<P: Post>(
    post: &P,
    taker: &mut P::Taker,
    mail: &mut Vec<Arc<Event>>,
    count: usize,
) {
    let mut left = count;
    while left > 0 {
        post.take(taker, mail).await;
        left -= black_box(mail.as_slice()).len();
        mail.clear();
    }
}

fn alone<P: Post>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, runtime: &Runtime) {
    let (post, mut taker) = P::open();
    let (events, mut mail) = (events(TICK), Vec::new());
    group.throughput(Throughput::Elements(TICK as u64));
    group.bench_function(BenchmarkId::new(name, "one thread"), |b| {
        b.iter(|| {
            for event in &events {
                post.put(Arc::clone(event));
            }
            runtime.block_on(receive(&post, &mut taker, &mut mail, TICK));
        });
    });
}

fn between<P: Post>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    producers: usize,
) {
    let each: Vec<_> = (0..producers).map(|_| events(ROUND / producers)).collect();
    group.throughput(Throughput::Elements(ROUND as u64));
    group.bench_function(BenchmarkId::new(name, format!("{producers} producers")), |b| {
        b.iter_custom(|rounds| race::<P>(rounds, &each, runtime));
    });
}

/// How long it takes until all events were put and taken, `rounds` times.
fn race<P: Post>(rounds: u64, each: &[Vec<Arc<Event>>], runtime: &Runtime) -> Duration {
    let (post, mut taker) = P::open();
    let mut mail = Vec::with_capacity(ROUND);
    let line = Barrier::new(each.len() + 1);
    std::thread::scope(|scope| {
        for events in each {
            let (post, line) = (&post, &line);
            scope.spawn(move || {
                for _ in 0..rounds {
                    line.wait();
                    for event in events {
                        post.put(Arc::clone(event));
                    }
                }
            });
        }
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            line.wait();
            let begun = now();
            runtime.block_on(receive(&post, &mut taker, &mut mail, ROUND));
            took += begun.elapsed();
        }
        took
    })
}

#[expect(clippy::disallowed_methods, reason = "Criterion asks for the time that threads took")]
fn now() -> Instant {
    Instant::now()
}

fn mailbox(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("mailbox");
    alone::<Mailboxes>(&mut group, "weir", &runtime);
    alone::<mpsc::Sender<_>>(&mut group, "tokio mpsc", &runtime);
    alone::<Plain>(&mut group, "lock and bell", &runtime);
    for producers in [1, 2] {
        between::<Mailboxes>(&mut group, "weir", &runtime, producers);
        between::<mpsc::Sender<_>>(&mut group, "tokio mpsc", &runtime, producers);
        between::<Plain>(&mut group, "lock and bell", &runtime, producers);
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mailbox(&mut criterion);
    criterion.final_summary();
}
