//! Latency distributions: recorded by one thread each, merged at the end.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Nanoseconds from 1 us to 120 s with three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    /// An empty distribution.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, 120_000_000_000, 3);
        #[expect(clippy::expect_used, reason = "constant bounds, and every test passes here")]
        Self(histogram.expect("the bounds are valid"))
    }

    /// Records one value; beyond the bounds it counts as the bound.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Adds another thread's values.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Cannot fail: all have the same bounds.
        self.0.add(&other.0).ok();
    }

    /// How many values were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that a share of `quantile` does not exceed.
    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// What a report shows; `None` when nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        (!self.0.is_empty()).then(|| Summary {
            samples: self.0.len(),
            p50_ms: ms(self.at(0.5)),
            p90_ms: ms(self.at(0.9)),
            p99_ms: ms(self.at(0.99)),
            p999_ms: ms(self.at(0.999)),
            max_ms: ms(self.0.max()),
        })
    }
}

/// A distribution in five numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many values were recorded.
    pub(crate) samples: u64,
    /// Median, in milliseconds; so the others.
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

/// Nanoseconds as milliseconds, to the microsecond.
pub(crate) fn ms(nanos: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ms = (nanos / 1_000) as f64 / 1_000.0;
    ms
}
