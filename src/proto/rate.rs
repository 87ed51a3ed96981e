//! How often a throttled subscription wants its events.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

/// At most so many flushes a second, kept as the time between two of them: 10 to 10,000
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU16);

impl Rate {
    /// Flushes a second that may be asked for.
    pub const HZ: RangeInclusive<f64> = 0.1..=100.0;

    /// At most `hz` flushes a second; `None` outside of [`Rate::HZ`].
    ///
    /// # Example
    ///
    /// ```
    /// use weir::proto::rate::Rate;
    ///
    /// assert_eq!(Rate::new(60.0).map(Rate::interval_ms), Some(17));
    /// assert_eq!(Rate::new(1e9), None);
    /// ```
    pub fn new(hz: f64) -> Option<Self> {
        if !Self::HZ.contains(&hz) {
            return None;
        }
        let nanos = Duration::from_secs_f64(1.0 / hz).as_nanos();
        // Upwards: never more flushes than were asked for.
        u16::try_from(nanos.div_ceil(1_000_000)).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// The least time between two flushes.
    pub fn interval_ms(self) -> u64 {
        u64::from(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_an_interval_of_whole_milliseconds_and_no_shorter() {
        let cases = [
            (100.0, 10),
            (60.0, 17),
            (50.0, 20),
            (12.5, 80),
            (3.0, 334),
            (1.0, 1_000),
            (0.7, 1_429),
            (0.3, 3_334),
            (0.1, 10_000),
        ];
        for (hz, interval) in cases {
            assert_eq!(Rate::new(hz).map(Rate::interval_ms), Some(interval), "{hz}");
        }
        let bad = [0.0, -0.0, -1.0, 0.099, 100.001, 1e9, f64::INFINITY, f64::NAN, f64::MIN];
        for hz in bad {
            assert_eq!(Rate::new(hz), None, "{hz}");
        }
    }
}
