//! The clocks of a node: the only place that reads them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::store::Now;

/// What the clock shows when the node starts: longer than anything is kept (`history_ttl` is at most
/// 366 days), so that events from before the start have their place on it.
const ORIGIN: Duration = Duration::from_hours(24 * 367);

/// A monotonic clock, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    /// What the wall clock showed then.
    started_unix: Duration,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Self {
        Self { started: Instant::now(), started_unix: wall() }
    }

    /// How long the node has been there.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn uptime(self) -> Duration {
        Instant::now().saturating_duration_since(self.started)
    }

    /// Nanoseconds of the node's clock; enough for 583 years.
    pub fn node_ns(self) -> u64 {
        u64::try_from((ORIGIN + self.uptime()).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The runtime's name for a moment of the node's clock.
    pub fn instant(self, node_ms: u64) -> tokio::time::Instant {
        (self.started + Duration::from_millis(node_ms).saturating_sub(ORIGIN)).into()
    }

    /// Milliseconds of the node's clock.
    pub fn node_ms(self) -> u64 {
        self.node_ns() / 1_000_000
    }

    /// Unix time in milliseconds; 0 before 1970.
    pub fn unix_ms(self) -> u64 {
        millis(wall())
    }

    /// The time by which tokens end, in Unix milliseconds: that of the wall clock, but never less
    /// than what it showed at the start and what has passed since. So a clock that is set back
    /// revives no token.
    pub fn token_ms(self) -> u64 {
        millis(wall().max(self.started_unix + self.uptime()))
    }

    /// Both.
    pub fn now(self) -> Now {
        Now { unix_ms: self.unix_ms(), node_ns: self.node_ns() }
    }
}

/// What the wall clock shows, since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
