//! The memory store's publish: an offset, and the event into the mailboxes of 0, 1 or 2 shards; by
//! one thread, and by two at once. Beside it, the plain thing: one lock around one `HashMap`. And
//! what those who subscribe hold the lock of their channel's segment for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use parking_lot::Mutex;
use weir::core::history::HistoryRule;
use weir::core::policy::Keep;
use weir::proto::event::{Event, Payload};
use weir::proto::name::{Alias, ChannelName, ShardId};
use weir::store::memory::Memory;
use weir::store::{Deliver, NewEvent, Now, Store, Wish};

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CHANNELS: usize = 1_000;
const SHARDS: [u16; 3] = [0, 1, 2];

/// Channels and prefixes, where there are patterns.
const MANY: usize = 100_000;
const PREFIXES: usize = 10_000;

/// Events between two visits of a shard to its mailbox.
const BATCH: usize = 64;

/// Publishers at once, where they meet.
const THREADS: usize = 2;

const NOW: Now = Now { unix_ms: 1_732_153_200_123, node_ns: 1_000_000_000 };
const PAYLOAD: &[u8] = br#"{"host":"host-7","cpu":[12.5,88.25,3.75,41.0],"mem":7340032,"load":1.75,"up":123456,"note":"all work and no play makes Jack dull"}"#;

/// Mailboxes as the shards have them.
#[derive(Default)]
struct Mail([Mutex<Vec<Arc<Event>>>; 2]);

impl Mail {
    /// Takes everything, as the shards do. Returns how much it was.
    fn take(&self, taken: &mut Vec<Arc<Event>>) -> usize {
        let mut events = 0;
        for mailbox in &self.0 {
            std::mem::swap(&mut *mailbox.lock(), taken);
            events += black_box(taken.as_slice()).len();
            taken.clear();
        }
        events
    }
}

impl Deliver for Mail {
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
        let mut mailbox = self.0[usize::from(shard.0)].lock();
        mailbox.push(event);
        mailbox.len() > 8_192
    }
}

/// A channel of the rival.
struct Plain {
    name: ChannelName,
    alias: Alias,
    offset: u64,
    shards: Vec<ShardId>,
}

/// The rival: one lock, the standard hash.
struct Naive {
    channels: Mutex<HashMap<String, Plain>>,
    deliver: Arc<dyn Deliver>,
}

impl Naive {
    fn new(names: &[String], shards: u16, deliver: Arc<dyn Deliver>) -> Self {
        let channel = |name: &String| {
            let shards = (0..shards).map(ShardId).collect();
            let parsed = name.parse().expect("a good name");
            (name.clone(), Plain { name: parsed, alias: Alias(1), offset: 0, shards })
        };
        Self { channels: Mutex::new(names.iter().map(channel).collect()), deliver }
    }

    fn publish(&self, event: NewEvent<'_>) -> Option<u64> {
        let mut channels = self.channels.lock();
        let channel = channels.get_mut(&*event.channel)?;
        channel.offset += 1;
        if !channel.shards.is_empty() {
            let event = Arc::new(Event {
                channel: channel.name.clone(),
                alias: channel.alias,
                offset: channel.offset,
                ts_ms: NOW.unix_ms,
                taken_ns: NOW.node_ns,
                key: event.key,
                from: event.from,
                hidden_from: event.hidden_from,
                payload: event.payload,
                json_frame: OnceLock::new(),
                frames: weir::proto::encoder::Frames::default(),
            });
            for shard in &channel.shards {
                self.deliver.deliver(*shard, Arc::clone(&event));
            }
        }
        Some(channel.offset)
    }
}

fn event(channel: &str) -> NewEvent<'_> {
    NewEvent::new(Cow::Borrowed(channel), Payload::Json(PAYLOAD.into()))
}

fn publish(c: &mut Criterion) {
    let names: Vec<String> = (0..CHANNELS).map(|n| format!("telemetry:host-{n}")).collect();
    let mut group = c.benchmark_group("publish");
    group.throughput(Throughput::Elements(BATCH as u64));
    for shards in SHARDS {
        let mail = Arc::new(Mail::default());
        let deliver: Arc<dyn Deliver> = Arc::<Mail>::clone(&mail);
        let memory = Memory::new(Arc::clone(&deliver));
        let naive = Naive::new(&names, shards, deliver);
        for name in &names {
            for shard in 0..shards {
                memory
                    .subscribe(name, ShardId(shard), Wish::default(), NOW)
                    .expect("memory is always there");
            }
        }
        let mut taken = Vec::new();
        let expected = BATCH * usize::from(shards);
        let mut next = names.iter().cycle();
        group.bench_function(BenchmarkId::new("weir", format!("{shards} shards")), |b| {
            b.iter(|| {
                for channel in next.by_ref().take(BATCH) {
                    black_box(memory.publish(event(channel), NOW)).expect("it is there");
                }
                assert_eq!(mail.take(&mut taken), expected);
            });
        });
        let mut next = names.iter().cycle();
        group.bench_function(BenchmarkId::new("one lock", format!("{shards} shards")), |b| {
            b.iter(|| {
                for channel in next.by_ref().take(BATCH) {
                    black_box(naive.publish(event(channel))).expect("it is there");
                }
                assert_eq!(mail.take(&mut taken), expected);
            });
        });
    }
    group.finish();
}

/// 100,000 channels beside none or 10,000 patterns. Each channel has a subscriber by name, so that
/// every publish is delivered, once.
fn patterns(c: &mut Criterion) {
    let names: Vec<String> =
        (0..MANY).map(|n| format!("telemetry:rack-{}/host-{n}", n % PREFIXES)).collect();
    let cases = [
        ("no patterns", None),
        ("10,000 that have other channels", Some("alarms:rack-")),
        ("10,000 that have 10 channels each", Some("telemetry:rack-")),
    ];
    let mut group = c.benchmark_group("publish on 100,000 channels beside patterns");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (case, prefix) in cases {
        let mail = Arc::new(Mail::default());
        let memory = Memory::new(Arc::<Mail>::clone(&mail));
        for name in &names {
            memory
                .subscribe(name, ShardId(0), Wish::default(), NOW)
                .expect("memory is always there");
        }
        for n in 0..prefix.map_or(0, |_| PREFIXES) {
            let prefix = format!("{}{n}/", prefix.unwrap_or_default());
            memory.subscribe_prefix(&prefix, ShardId(0)).expect("memory is always there");
        }
        let mut taken = Vec::new();
        let mut next = names.iter().cycle();
        group.bench_function(case, |b| {
            b.iter(|| {
                for channel in next.by_ref().take(BATCH) {
                    black_box(memory.publish(event(channel), NOW)).expect("it is there");
                }
                assert_eq!(mail.take(&mut taken), BATCH);
            });
        });
    }
    group.finish();
}

/// A table of prefixes that changes all the time: every publish looks its channel's up again.
fn churn(c: &mut Criterion) {
    let mail = Arc::new(Mail::default());
    let memory = Memory::new(Arc::<Mail>::clone(&mail));
    let name = "telemetry:rack-7/host-7";
    memory.subscribe(name, ShardId(0), Wish::default(), NOW).expect("memory is always there");
    for n in 0..PREFIXES {
        let prefix = format!("telemetry:rack-{n}/");
        memory.subscribe_prefix(&prefix, ShardId(0)).expect("memory is always there");
    }
    let mut taken = Vec::new();
    c.bench_function("a prefix comes and goes for each publish", |b| {
        b.iter(|| {
            memory.subscribe_prefix("other:", ShardId(1)).expect("memory is always there");
            memory.unsubscribe_prefix("other:", ShardId(1));
            black_box(memory.publish(event(name), NOW)).expect("it is there");
            mail.take(&mut taken)
        });
    });
}

/// Two threads publish `batches` times [`BATCH`] events each. Returns how long both took.
///
/// With `apart` they never use the same channel, else they take the same ones in the same order.
fn race(batches: u64, names: &[String], apart: bool, publish: impl Fn(&str) + Sync) -> Duration {
    let start = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mine: Vec<&str> = names
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| !apart || index % THREADS == thread)
                    .map(|(_, name)| name.as_str())
                    .collect();
                let (start, publish) = (&start, &publish);
                scope.spawn(move || {
                    let mut next = mine.iter().cycle();
                    start.wait();
                    for _ in 0..batches {
                        next.by_ref().take(BATCH).for_each(|name| publish(name));
                    }
                })
            })
            .collect();
        start.wait();
        let begun = now();
        for thread in threads {
            thread.join().expect("publishes");
        }
        begun.elapsed()
    })
}

#[expect(clippy::disallowed_methods, reason = "Criterion asks for the time that threads took")]
fn now() -> Instant {
    Instant::now()
}

/// Only the append: with subscribers, the threads would meet in the mailboxes as well.
fn contention(c: &mut Criterion) {
    let names: Vec<String> = (0..CHANNELS).map(|n| format!("telemetry:host-{n}")).collect();
    let deliver: Arc<dyn Deliver> = Arc::new(Mail::default());
    let memory = Memory::new(Arc::clone(&deliver));
    let naive = Naive::new(&names, 0, deliver);
    let mut group = c.benchmark_group("publish by 2 threads");
    group.throughput(Throughput::Elements((BATCH * THREADS) as u64));
    for (case, apart) in [("other channels", true), ("the same channels", false)] {
        group.bench_function(BenchmarkId::new("weir", case), |b| {
            b.iter_custom(|batches| {
                race(batches, &names, apart, |channel| {
                    black_box(memory.publish(event(channel), NOW)).expect("it is there");
                })
            });
        });
        group.bench_function(BenchmarkId::new("one lock", case), |b| {
            b.iter_custom(|batches| {
                race(batches, &names, apart, |channel| {
                    black_box(naive.publish(event(channel))).expect("it is there");
                })
            });
        });
    }
    group.finish();
}

/// Keys of a channel, where the newest event of each is kept.
const KEYS: usize = 10_000;

/// A publish and a subscription behind it, in turns: with the newest events of many keys, and with
/// a last event that was missed. Beside them, the publish alone.
fn kept(c: &mut Criterion) {
    let keep =
        Keep { history: HistoryRule { size: 1_000, ttl_ms: u64::MAX }, keys: KEYS, durable: false };
    let mut group = c.benchmark_group("subscribe behind a publish");
    for (case, keys, bytes) in [("10,000 keys", KEYS, 128), ("1 KiB missed", 0, 1_024)] {
        let memory = Memory::new(Arc::new(Mail::default()));
        let payload = format!("\"{}\"", "x".repeat(bytes - 2)).into_bytes();
        let keep = Keep { keys, ..keep };
        let mut at = 0_usize;
        let mut publish = || {
            // Each key in its turn, but in no order.
            at = (at + 7_919) % KEYS;
            let key = (keys > 0).then(|| at.to_string().into());
            let payload = Payload::Json(payload.clone().into());
            let new = NewEvent { key, keep, ..NewEvent::new(Cow::Borrowed("room:1"), payload) };
            memory.publish(new, NOW).expect("it is there").position
        };
        for _ in 0..KEYS {
            black_box(publish());
        }
        group.bench_function(BenchmarkId::new("publish alone", case), |b| b.iter(&mut publish));
        group.bench_function(BenchmarkId::new("both", case), |b| {
            b.iter(|| {
                let head = publish();
                let since = (keys == 0).then(|| (head.epoch.as_str(), head.offset - 1));
                let wish = Wish { since, snapshot: true, recovery_max: 1_000, keep };
                let begun = memory.subscribe("room:1", ShardId(0), wish, NOW).expect("it is there");
                memory.unsubscribe("room:1", ShardId(0), true, NOW);
                black_box(begun.past.map(|past| past.chunks.len()))
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    publish(&mut criterion);
    patterns(&mut criterion);
    churn(&mut criterion);
    contention(&mut criterion);
    kept(&mut criterion);
    criterion.final_summary();
}
