//! When the last subscriber has an event: each thread notes when one of its connections received it
//! last, and the notes of all threads make one at the end.

use std::collections::HashMap;

use crate::latency::Latency;
use crate::plan;

/// One event.
#[derive(Debug, Clone, Copy)]
struct Last {
    due: u64,
    /// When it was received last.
    at: u64,
    /// How often it was received.
    times: u64,
}

/// Events by channel and offset. Bounded by the command line, which allows it for few events.
#[derive(Debug, Default)]
pub(crate) struct Lasts(HashMap<(u32, u64), Last>);

impl Lasts {
    /// An event was received.
    pub(crate) fn note(&mut self, place: (u32, u64), due: u64, now: u64) {
        self.add(place, Last { due, at: now, times: 1 });
    }

    fn add(&mut self, place: (u32, u64), seen: Last) {
        let last = self.0.entry(place).or_insert(Last { times: 0, ..seen });
        last.at = last.at.max(seen.at);
        last.times += seen.times;
    }

    /// Adds another thread's notes.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (place, seen) in &other.0 {
            self.add(*place, *seen);
        }
    }

    /// From when each event was due until the last of its channel's `seats` had it, and how many
    /// events did not reach all.
    pub(crate) fn until_last(&self, seats: &[u64]) -> (Latency, u64) {
        let (mut latency, mut incomplete) = (Latency::new(), 0);
        for ((channel, _), last) in &self.0 {
            if seats.get(*channel as usize).is_some_and(|seats| last.times >= *seats) {
                latency.record(plan::latency(last.due, last.at));
            } else {
                incomplete += 1;
            }
        }
        (latency, incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_all_threads_counts_and_none_may_miss() {
        const MS: u64 = 1_000_000;
        let (mut one, mut two) = (Lasts::default(), Lasts::default());
        for (lasts, times) in [(&mut one, [3, 9]), (&mut two, [4, 7])] {
            times.into_iter().for_each(|at| lasts.note((0, 1), MS, at * MS));
            lasts.note((0, 2), MS, 2 * MS);
        }
        one.merge(&two);
        let (latency, incomplete) = one.until_last(&[4]);
        assert_eq!((latency.count(), incomplete), (1, 1), "the second reached two of four");
        let slowest = latency.summary().expect("one").max_ms;
        assert!((8.0..8.1).contains(&slowest), "{slowest}");
    }
}
