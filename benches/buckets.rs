//! What it costs to ask whether somebody may once more: our buckets beside those of `governor`, the
//! library for this, each with the time given and not read.
//!
//! `one` is a bucket of a connection, `of many` that of one of 10,000 addresses, `another each time`
//! a flood by addresses that come once, `counted` a connection that comes and goes. Prints what each
//! takes of memory.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use weir::core::bucket::{Allowance, Bucket};
use weir::shard::Net;
use weir::shard::buckets::Buckets;
use weir::shard::tally::Tally;

/// Nobody of them is refused.
const RATE: u32 = 1_000_000;

const ADDRESSES: u32 = 10_000;

/// Addresses that come once each.
const FLOOD: u32 = 200_000;

#[expect(clippy::print_stdout, reason = "a figure that is no time")]
fn note(text: &str) {
    println!("{text}");
}

fn quota() -> Quota {
    let rate = NonZeroU32::new(RATE).expect("not 0");
    Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::new(2).expect("not 0")))
}

type Theirs<K, S> = RateLimiter<K, S, FakeRelativeClock, NoOpMiddleware<Nanos>>;
type Direct = Theirs<NotKeyed, InMemoryState>;
type Keyed = Theirs<Net, DashMapStateStore<Net>>;

fn one(c: &mut Criterion) {
    let mut group = c.benchmark_group("one");
    let allowance = Allowance::per_second(RATE).expect("not 0");
    let (mut bucket, mut now_ns) = (Bucket::default(), 0);
    group.bench_function("weir", |b| {
        b.iter(|| {
            now_ns += 1_000;
            black_box(bucket.take(black_box(allowance), now_ns))
        });
    });
    let clock = FakeRelativeClock::default();
    let limiter: Direct = RateLimiter::direct_with_clock(quota(), clock.clone());
    group.bench_function("governor", |b| {
        b.iter(|| {
            clock.advance(std::time::Duration::from_micros(1));
            black_box(limiter.check().is_ok())
        });
    });
    group.finish();
    note(&format!("bytes of one: weir {}, governor {}", size_of::<Bucket>(), size_of::<Direct>()));
}

fn of_many(c: &mut Criterion) {
    let mut group = c.benchmark_group("of many");
    let allowance = Allowance::per_second(RATE).expect("not 0");
    let (buckets, mut now_ns, mut nth) = (Buckets::default(), 0, 0_u32);
    group.bench_function("weir", |b| {
        b.iter(|| {
            now_ns += 1_000;
            nth = nth.wrapping_add(7_919) % ADDRESSES;
            black_box(buckets.take(Net::V4(nth), allowance, now_ns))
        });
    });
    let clock = FakeRelativeClock::default();
    let limiter = RateLimiter::dashmap_with_clock(quota(), clock.clone());
    group.bench_function("governor", |b| {
        b.iter(|| {
            clock.advance(std::time::Duration::from_micros(1));
            nth = nth.wrapping_add(7_919) % ADDRESSES;
            black_box(limiter.check_key(&Net::V4(nth)).is_ok())
        });
    });
    group.finish();
}

fn another_each_time(c: &mut Criterion) {
    let mut group = c.benchmark_group("another each time");
    group.sample_size(10);
    let allowance = Allowance::per_second(RATE).expect("not 0");
    let flood = |buckets: Buckets<Net>| {
        for nth in 0..FLOOD {
            black_box(buckets.take(Net::V4(nth), allowance, nth.into()).is_ok());
        }
        buckets.len()
    };
    group.bench_function("weir", |b| {
        b.iter_batched(Buckets::default, flood, BatchSize::PerIteration);
    });
    let clock = FakeRelativeClock::default();
    let limiter = || RateLimiter::dashmap_with_clock(quota(), clock.clone());
    let flood_theirs = |limiter: Keyed| {
        for nth in 0..FLOOD {
            black_box(limiter.check_key(&Net::V4(nth)).is_ok());
        }
        limiter.len()
    };
    group.bench_function("governor", |b| {
        b.iter_batched(limiter, flood_theirs, BatchSize::PerIteration);
    });
    group.finish();
    let (ours, theirs) = (flood(Buckets::default()), flood_theirs(limiter()));
    note(&format!("addresses kept of {FLOOD}: weir {ours}, governor {theirs}"));
}

fn counted(c: &mut Criterion) {
    let tally = Arc::new(Tally::default());
    let mut nth = 0;
    c.bench_function("counted", |b| {
        b.iter(|| {
            nth = (nth + 1) % ADDRESSES;
            black_box(tally.count(Net::V4(nth), 5)).is_some()
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one(&mut criterion);
    of_many(&mut criterion);
    another_each_time(&mut criterion);
    counted(&mut criterion);
    criterion.final_summary();
}
