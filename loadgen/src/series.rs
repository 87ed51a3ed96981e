//! What happened over time: every 200 ms a mark of all counters and processes, and beside it the
//! latencies of that slice, which each receiver records for itself.
//!
//! Bounded: when there are too many slices, neighbours become one of twice the length.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::{self, SECOND};
use crate::engine::shared::{Phase, Shared, Total};
use crate::latency::ms;
use crate::process::{self, Sample};

/// The shortest slice. Slices are numbered on the clock's own grid, the same for all threads.
const SLICE: u64 = SECOND / 5;
/// At most this many slices are kept.
const SLICES_MAX: usize = 300;

/// A run over time.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Series {
    /// Milliseconds from one point to the next.
    pub(crate) every_ms: f64,
    pub(crate) points: Vec<Point>,
}

/// One slice, named by its end.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Point {
    /// Seconds since the first connection was opened.
    pub(crate) at_s: f64,
    pub(crate) phase: &'static str,
    /// Connections that have become ready.
    pub(crate) ready: u64,
    /// Of those, the ones that have left or were cut and are not back.
    pub(crate) away: u64,
    pub(crate) delivered_per_second: f64,
    /// Latency of what arrived in this slice, while it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
    pub(crate) client_rss_bytes: u64,
    pub(crate) client_cores: f64,
}

/// The latencies of one thread, slice by slice.
#[derive(Debug)]
pub(crate) struct Slices {
    /// A slice is `SLICE << shift` long.
    shift: u32,
    number: u64,
    current: Histogram<u32>,
    done: Vec<Slice>,
}

/// A closed slice: how often each value was recorded, values rising.
#[derive(Debug)]
struct Slice {
    number: u64,
    counts: Vec<(u64, u32)>,
}

fn histogram() -> Histogram<u32> {
    #[expect(clippy::expect_used, reason = "constant bounds, and every test passes here")]
    Histogram::new_with_bounds(1_000, 120_000_000_000, 2).expect("the bounds are valid")
}

impl Slices {
    pub(crate) fn new() -> Self {
        Self { shift: 0, number: 0, current: histogram(), done: Vec::new() }
    }

    /// Records a latency at the time at which it was seen.
    pub(crate) fn record(&mut self, now: u64, nanos: u64) {
        self.record_n(now, nanos, 1);
    }

    /// Records a latency that was seen `count` times at once.
    pub(crate) fn record_n(&mut self, now: u64, nanos: u64, count: u32) {
        let number = (now / SLICE) >> self.shift;
        if number != self.number {
            self.close();
            // Closing may have made slices longer.
            self.number = (now / SLICE) >> self.shift;
        }
        self.current.saturating_record_n(nanos, count);
    }

    fn close(&mut self) {
        if !self.current.is_empty() {
            let recorded = self.current.iter_recorded();
            let counts = recorded.map(|step| (step.value_iterated_to(), step.count_at_value()));
            self.done.push(Slice { number: self.number, counts: counts.collect() });
            self.current.reset();
        }
        if self.done.len() >= SLICES_MAX {
            self.shift += 1;
            for slice in std::mem::take(&mut self.done) {
                let number = slice.number >> 1;
                match self.done.last_mut() {
                    Some(last) if last.number == number => last.add(slice),
                    _ => self.done.push(Slice { number, ..slice }),
                }
            }
        }
    }

    /// Adds what was recorded to histograms of slices that are `SLICE << shift` long.
    fn pour(&self, shift: u32, into: &mut BTreeMap<u64, Histogram<u32>>) {
        let further = shift.saturating_sub(self.shift);
        for slice in &self.done {
            let sum = into.entry(slice.number >> further).or_insert_with(histogram);
            for (value, count) in &slice.counts {
                sum.saturating_record_n(*value, *count);
            }
        }
        if !self.current.is_empty() {
            let sum = into.entry(self.number >> further).or_insert_with(histogram);
            // Cannot fail: all have the same bounds.
            sum.add(&self.current).ok();
        }
    }
}

impl Slice {
    fn add(&mut self, other: Self) {
        let mut sums: BTreeMap<u64, u32> = self.counts.iter().copied().collect();
        for (value, count) in other.counts {
            let sum = sums.entry(value).or_default();
            *sum = sum.saturating_add(count);
        }
        self.counts = sums.into_iter().collect();
    }
}

/// All counters at the end of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// Slices since the clock began.
    number: u64,
    at: u64,
    phase: Phase,
    total: Total,
    server: Option<Sample>,
    own: Sample,
}

/// The marks of a run, rising.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    shift: u32,
    marks: Vec<Mark>,
}

impl Marks {
    fn add(&mut self, mark: Mark) {
        let apart = 1_u64 << self.shift.min(63);
        if self.marks.is_empty() || mark.number.is_multiple_of(apart) {
            self.marks.push(mark);
        }
        if self.marks.len() > SLICES_MAX {
            self.shift += 1;
            self.thin(self.shift);
        }
    }

    /// Keeps the first and those at the ends of slices that are `SLICE << shift` long.
    fn thin(&mut self, shift: u32) {
        let first = self.marks.first().map(|mark| mark.number);
        let apart = 1_u64 << shift.min(63);
        self.marks.retain(|mark| Some(mark.number) == first || mark.number.is_multiple_of(apart));
    }

    /// The run over time, from the marks and every thread's latencies.
    pub(crate) fn series<'a>(
        mut self,
        slices: impl Iterator<Item = &'a Slices> + Clone,
        started: u64,
    ) -> Series {
        let shift = slices.clone().map(|slices| slices.shift).max().unwrap_or(0).max(self.shift);
        self.thin(shift);
        let mut latencies = BTreeMap::new();
        slices.for_each(|slices| slices.pour(shift, &mut latencies));
        let points = self.marks.windows(2).filter_map(|pair| {
            let [from, to] = pair else { return None };
            // A mark stands at the end of its slice.
            let latency = latencies.get(&(to.number.saturating_sub(1) >> shift));
            Some(point(from, to, latency, started))
        });
        Series { every_ms: ms(SLICE << shift.min(20)), points: points.collect() }
    }
}

fn point(from: &Mark, to: &Mark, latency: Option<&Histogram<u32>>, started: u64) -> Point {
    let seconds = (to.at - from.at).max(1);
    let per_second = |count: u64| ratio(count.saturating_mul(SECOND), seconds);
    let cores = |from: Sample, to: Sample| ratio(to.cpu_ns.saturating_sub(from.cpu_ns), seconds);
    Point {
        at_s: ratio(to.at.saturating_sub(started), SECOND),
        phase: to.phase.name(),
        ready: to.total.ready,
        away: to.total.cut.saturating_sub(to.total.back),
        delivered_per_second: per_second(to.total.delivered.saturating_sub(from.total.delivered)),
        p50_ms: latency.map(|latency| ms(latency.value_at_quantile(0.5))),
        p99_ms: latency.map(|latency| ms(latency.value_at_quantile(0.99))),
        server_rss_bytes: to.server.map(|server| server.rss_bytes),
        server_cores: from.server.zip(to.server).map(|(from, to)| cores(from, to)),
        client_rss_bytes: to.own.rss_bytes,
        client_cores: cores(from.own, to.own),
    }
}

/// To three digits behind the point: a report is read by people too.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 1_000.0).round() / 1_000.0
}

/// A thread that makes the marks of a run until its phase is [`Phase::Stop`].
#[derive(Debug)]
pub(crate) struct Sampler(JoinHandle<Marks>);

impl Sampler {
    /// Starts to watch; `None` when no thread can be had, which costs a run only its series.
    pub(crate) fn start(shared: Arc<Shared>, server: Option<u32>) -> Option<Self> {
        let thread = std::thread::Builder::new().name("sampler".into());
        thread.stack_size(256 << 10).spawn(move || watch(&shared, server)).ok().map(Self)
    }

    /// Takes the marks, once the phase is [`Phase::Stop`].
    pub(crate) fn finish(self) -> Marks {
        self.0.thread().unpark();
        self.0.join().unwrap_or_default()
    }
}

fn watch(shared: &Shared, server: Option<u32>) -> Marks {
    let mut marks = Marks::default();
    loop {
        let at = clock::now();
        marks.add(Mark {
            number: at / SLICE,
            at,
            phase: shared.phase(),
            total: shared.total(),
            server: server.and_then(process::sample),
            own: process::own(),
        });
        let next = ((clock::now() / SLICE) + 1) * SLICE;
        while clock::now() < next {
            if shared.phase() == Phase::Stop {
                return marks;
            }
            let left = next.saturating_sub(clock::now());
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
