//! What connections do besides reading: some are slow on purpose, some leave and come back, some
//! are cut, some ask.

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
        let below = |count: f64| (count * self.share + 1e-9).floor();
        below(f64::from(connection) + 1.0) > below(f64::from(connection))
    }
}

impl Conduct {
    /// Whether a connection is slow on purpose.
    pub(crate) fn is_slow(&self, connection: u32) -> bool {
        matches!(self, Self::Slow(slow) if slow.has(connection))
    }

    /// How long after a failed return the next is tried.
    pub(crate) fn retry_ns(&self) -> u64 {
        if let Self::Cut(cut) = self { cut.retry_ns } else { crate::clock::SECOND / 5 }
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
