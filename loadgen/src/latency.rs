//! Latency distributions: recorded by one thread each, merged at the end.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Steps of a distribution for each halving of what is left of it.
const STEPS_PER_HALF: u32 = 2;

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

    /// Records a value that came `count` times.
    pub(crate) fn record_n(&mut self, nanos: u64, count: u32) {
        self.0.saturating_record_n(nanos, count.into());
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

    /// The whole distribution, ever finer towards its tail; `None` when nothing was recorded.
    pub(crate) fn distribution(&self, name: &'static str) -> Option<Distribution> {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let finest = 1.0 - 1.0 / self.0.len().max(1) as f64;
        let steps = self.0.iter_quantiles(STEPS_PER_HALF);
        // Finer than one value in all says nothing.
        let steps = steps.filter(|step| {
            step.quantile_iterated_to() <= finest || step.quantile_iterated_to() >= 1.0
        });
        let steps = steps.map(|step| Step {
            quantile: step.quantile_iterated_to(),
            ms: ms(step.value_iterated_to().min(self.0.max())),
        });
        (!self.0.is_empty()).then(|| Distribution { name, steps: steps.collect() })
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

/// A named distribution, as far as its tail goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Distribution {
    /// What was measured: `latency`, `latency_without`, `handshake`, `until_ready`, `answered`,
    /// `until_back` or `until_served`.
    pub(crate) name: &'static str,
    /// From the smallest to the largest value.
    pub(crate) steps: Vec<Step>,
}

/// One step of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Step {
    /// This share of the values, from 0 to 1, is at most `ms`.
    pub(crate) quantile: f64,
    /// Milliseconds.
    pub(crate) ms: f64,
}

/// A distribution in five numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_rises_to_its_largest_value() {
        let mut latency = Latency::new();
        assert_eq!(latency.distribution("latency"), None);
        for n in 1..=10_000 {
            latency.record(n * 1_000_000);
        }
        let steps = latency.distribution("latency").expect("values").steps;
        assert!(steps.len() < 50, "{} steps", steps.len());
        assert!(steps.windows(2).all(|pair| pair[0].quantile <= pair[1].quantile));
        assert!(steps.windows(2).all(|pair| pair[0].ms <= pair[1].ms));
        let last = steps.last().expect("steps");
        assert_eq!((last.quantile, last.ms), (1.0, latency.summary().expect("values").max_ms));
    }
}
