//! What connections do besides reading: some are slow on purpose, some leave and come back, some
//! are cut, some ask.

use crate::clock::SECOND;
use crate::wire::template::Template;

/// How the connections of a run behave.
#[derive(Debug, Clone, Default)]
pub(crate) enum Conduct {
    /// Random connections subscribe, unsubscribe and reconnect.
    Churn(Churn),
    /// Connections are cut and come back where they were.
    Cut(Cut),
    /// Connections ask and are answered.
    Echo(Echo),
    /// A share of the connections is slow.
    Slow(Slow),
    /// All read, and stay.
    #[default]
    Steady,
}

/// Random acts at a rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Churn {
    /// Acts a second over all threads; above 0.
    pub(crate) rate: f64,
    /// The share of acts that are reconnects, from 0 to 1.
    pub(crate) reconnect: f64,
}

/// Cuts by reset, and returns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Cuts a second over all threads; 0 all at once, when the storm begins.
    pub(crate) rate: f64,
    /// How long a connection stays away.
    pub(crate) away_ns: u64,
    /// How long after a failed return the next is tried.
    pub(crate) retry_ns: u64,
    /// Whether every subscription must be recovered.
    pub(crate) expects_recovered: bool,
    /// The share of connections that are cut; where it is not all, latency is that of the others.
    pub(crate) share: f64,
}

impl Cut {
    /// Whether a connection is one of those that are cut.
    pub(crate) fn has(self, connection: u32) -> bool {
        is_of(self.share, connection)
    }
}

/// Requests.
#[derive(Debug, Clone)]
pub(crate) struct Echo {
    /// Requests a second over all threads; 0 as fast as they are answered.
    pub(crate) rate: f64,
    /// With rate 0: requests under way, per connection.
    pub(crate) window: u32,
    pub(crate) frame: Template,
    /// What stands before a request's number in its answer.
    pub(crate) mark: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Slow readers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slow {
    /// The share of connections, from 0 to 1.
    pub(crate) share: f64,
    /// What each of them reads; 0 reads nothing until the end.
    pub(crate) bytes_per_second: u64,
    /// The receive buffer that each asks of the kernel, which doubles it.
    pub(crate) buffer_bytes: u32,
}

impl Slow {
    /// Whether a connection is one of the slow, which are spread evenly.
    pub(crate) fn has(self, connection: u32) -> bool {
        is_of(self.share, connection)
    }

    /// How often each is read from: before its buffer, which the kernel doubles, has filled at its
    /// pace.
    pub(crate) fn every(self) -> u64 {
        let filled = u64::from(self.buffer_bytes).saturating_mul(SECOND);
        (filled / self.bytes_per_second.max(1)).clamp(SECOND / 1_000, SECOND / 10)
    }
}

/// Whether a connection is of a share of all, which is spread evenly.
fn is_of(share: f64, connection: u32) -> bool {
    let below = |count: f64| (count * share + 1e-9).floor();
    below(f64::from(connection) + 1.0) > below(f64::from(connection))
}

/// What a slow connection may read; what it does not find stays its own for a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Credit {
    /// Bytes times nanoseconds a second, so that no part of a byte is lost.
    parts: u128,
}

impl Credit {
    /// Time has passed.
    pub(crate) fn earn(&mut self, bytes_per_second: u64, nanos: u64) {
        let earned = u128::from(bytes_per_second) * u128::from(nanos);
        let most = u128::from(bytes_per_second.max(1)) * u128::from(SECOND);
        self.parts = (self.parts + earned).min(most);
    }

    /// How many bytes it may read now.
    pub(crate) fn bytes(self) -> usize {
        usize::try_from(self.parts / u128::from(SECOND)).unwrap_or(usize::MAX)
    }

    /// So many bytes were read.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.parts = self.parts.saturating_sub(bytes as u128 * u128::from(SECOND));
    }
}

impl Conduct {
    /// Whether a connection is slow on purpose.
    pub(crate) fn is_slow(&self, connection: u32) -> bool {
        matches!(self, Self::Slow(slow) if slow.has(connection))
    }

    /// Whether a connection's latency is nobody else's: it is slow on purpose, or cut beside others
    /// that are not.
    pub(crate) fn is_apart(&self, connection: u32) -> bool {
        match self {
            Self::Slow(slow) => slow.has(connection),
            Self::Cut(cut) => cut.share < 1.0 && cut.has(connection),
            Self::Churn(_) | Self::Echo(_) | Self::Steady => false,
        }
    }

    /// How long after a failed return the next is tried.
    pub(crate) fn retry_ns(&self) -> u64 {
        if let Self::Cut(cut) = self { cut.retry_ns } else { SECOND / 5 }
    }

    /// Whether subscriptions and connections change while events flow.
    pub(crate) fn is_moving(&self) -> bool {
        matches!(self, Self::Churn(_) | Self::Cut(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_as_wide_as_was_asked() {
        let slow = Slow { share: 1.0, bytes_per_second: 5_000_000, buffer_bytes: 16_384 };
        assert!(slow.every() < 4_000_000, "before 16 KiB have come");
        assert_eq!(Slow { bytes_per_second: 10, ..slow }.every(), SECOND / 10);
        let (mut credit, mut read) = (Credit::default(), 0);
        for _ in 0..1_000 {
            credit.earn(slow.bytes_per_second, SECOND / 1_000);
            // Never more than 64 KiB are there at once.
            let some = credit.bytes().min(64 << 10);
            credit.spend(some);
            read += some;
        }
        assert_eq!(read, 5_000_000);
        credit.earn(3, SECOND / 2);
        assert_eq!(credit.bytes(), 1, "halves are kept");
        credit.earn(3, SECOND / 2);
        assert_eq!(credit.bytes(), 3);
        credit.earn(3, 90 * SECOND);
        assert_eq!(credit.bytes(), 3, "no more than a second's");
    }

    #[test]
    fn the_slow_are_as_many_as_asked_for_and_spread() {
        for (share, of, expected) in [(0.1, 100, 10), (0.5, 10, 5), (1.0, 7, 7), (0.0, 9, 0)] {
            let slow = Slow { share, bytes_per_second: 0, buffer_bytes: 0 };
            let found: Vec<u32> = (0..of).filter(|connection| slow.has(*connection)).collect();
            assert_eq!(found.len(), expected, "{share} of {of}: {found:?}");
        }
        let tenth = Slow { share: 0.1, bytes_per_second: 0, buffer_bytes: 0 };
        let found: Vec<u32> = (0..30).filter(|connection| tenth.has(*connection)).collect();
        assert_eq!(found, [9, 19, 29]);
    }
}
