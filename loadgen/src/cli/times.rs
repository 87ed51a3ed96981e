//! How long a run takes, and how late the generator itself may be: the same of every scenario that
//! sends by plan.

use std::time::Duration;

use clap::Args;

use super::seconds;
use crate::scenario::fanout::Times;

#[derive(Debug, Args)]
pub(super) struct TimesArgs {
    /// Seconds that are not recorded.
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "S")]
    warmup: Duration,
    /// Seconds that are measured.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "S")]
    duration: Duration,
    /// The most that what is under way may take at the end.
    #[arg(long, default_value = "20", value_parser = seconds, value_name = "S")]
    drain: Duration,
    /// The largest p99 of the generator's own lateness, in milliseconds.
    #[arg(long, default_value_t = 10, value_name = "MS")]
    late_max: u64,
}

impl TimesArgs {
    pub(super) fn times(&self) -> Times {
        let Self { warmup, duration, drain, late_max } = *self;
        Times { warmup, duration, drain, late_max: Duration::from_millis(late_max) }
    }
}
