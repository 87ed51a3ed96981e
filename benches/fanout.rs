//! The hub's fan-out of one channel to 1, 100 and 10,000 seats, beside a naive broadcast: one
//! `Arc<[u8]>` for each event, pushed into a `VecDeque` for each subscriber. Both encode the
//! events, queue them, and take every queue empty as a write would.

#[path = "shared/kernel.rs"]
mod kernel;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use weir::core::hub::{Hub, Join, Outcome};
use weir::core::outbox::OutboxLimit;
use weir::core::policy::Policy;
use weir::proto::dialect::json::encode_event;
use weir::proto::event::{Author, Event, Payload};
use weir::proto::name::{Alias, ClientId};
use weir::proto::ws::frame;

use kernel::Kernel;

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: [u64; 3] = [1, 100, 10_000];
const BATCHES: [u64; 2] = [1, 64];

const ALIAS: Alias = Alias(1);
const NOW_MS: u64 = 1_000;
const PAYLOAD: &[u8] = br#"{"host":"host-7","cpu":[12.5,88.25,3.75,41.0],"mem":7340032,"load":1.75,"up":123456,"note":"all work and no play makes Jack dull"}"#;

/// `count` consecutive events, each with one holder, as a shard has them from its mailbox.
fn events(count: u64) -> Vec<Arc<Event>> {
    let event = |offset| Event {
        channel: "telemetry:host-7".parse().expect("a good name"),
        alias: ALIAS,
        offset,
        ts_ms: 1_732_153_200_123,
        taken_ns: 0,
        key: None,
        from: None,
        hidden_from: None,
        payload: Payload::Json(PAYLOAD.into()),
        json_frame: OnceLock::new(),
    };
    (1..=count).map(|offset| Arc::new(event(offset))).collect()
}

fn hub(subscribers: u64) -> Hub {
    let mut hub = Hub::new(OutboxLimit { bytes: 1 << 20, events: 4_096 });
    let channel = "telemetry:host-7".parse().expect("a good name");
    for client in 0..subscribers {
        let id = hub.open(Arc::new(Author { client: ClientId(client), user: None }), NOW_MS);
        hub.subscribe(
            id,
            (&channel, ALIAS),
            Join { policy: Policy::DropOldest, position: 0, keys_max: 1, max_rate: None },
        );
    }
    hub
}

/// One turn of a shard. Returns how many events were delivered.
fn turn(hub: &mut Hub, batch: &[Arc<Event>]) -> u64 {
    let (mut kernel, mut outcome) = (Kernel::default(), Outcome::default());
    for event in black_box(batch) {
        assert!(hub.load(event, NOW_MS * 1_000_000), "a batch fits into one run");
    }
    hub.fan_out(&mut kernel, NOW_MS, &mut outcome);
    while let Some(id) = hub.next_dirty() {
        if let Some(seat) = hub.seat(id) {
            kernel.flush(seat);
        }
    }
    kernel.events
}

/// The rival's turn: no limits, no positions, no slow consumers.
fn naive(queues: &mut [VecDeque<Arc<[u8]>>], scratch: &mut Vec<u8>, batch: &[Arc<Event>]) -> u64 {
    for event in black_box(batch) {
        scratch.clear();
        encode_event(event, scratch);
        let mut bytes = Vec::with_capacity(scratch.len() + 10);
        frame::push_text(scratch, &mut bytes);
        let bytes: Arc<[u8]> = bytes.into();
        for queue in &mut *queues {
            queue.push_back(Arc::clone(&bytes));
        }
    }
    let mut events = 0;
    for queue in queues {
        while let Some(bytes) = queue.pop_front() {
            black_box(&*bytes);
            events += 1;
        }
    }
    events
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    for batch in BATCHES {
        let events = events(batch);
        for subscribers in SUBSCRIBERS {
            let expected = subscribers * batch;
            let name = format!("{subscribers} x {batch}");
            group.throughput(Throughput::Elements(expected));
            let mut hub = hub(subscribers);
            assert_eq!(turn(&mut hub, &events), expected, "{name}");
            group.bench_function(BenchmarkId::new("weir", &name), |b| {
                b.iter(|| turn(&mut hub, &events));
            });
            let mut queues = Vec::new();
            queues.resize_with(usize::try_from(subscribers).expect("few"), VecDeque::new);
            let mut scratch = Vec::new();
            assert_eq!(naive(&mut queues, &mut scratch, &events), expected, "{name}");
            group.bench_function(BenchmarkId::new("naive", &name), |b| {
                b.iter(|| naive(&mut queues, &mut scratch, &events));
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    fan_out(&mut criterion);
    criterion.final_summary();
}
