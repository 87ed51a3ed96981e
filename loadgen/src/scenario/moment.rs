//! What is sampled at the edges of a measurement, and what it says about the time between them: the
//! server's CPU, the generator's, and whether the generator kept up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::shared::{Shared, Total};
use crate::fault::Invalid;
use crate::latency::{Latency, ms};
use crate::process::Sample;
use crate::report::{Client, Report, Server};

/// A thread that runs or waits for a CPU this many hundredths of the time keeps nothing in reserve.
const SATURATED_PERCENT: u64 = 95;
/// From this share of the time on, waiting for a CPU is worth a note.
const WAITED_PERCENT: u64 = 10;

/// Own lateness is a large part of a latency when it is more than one part in so many.
const LATE_SHARE: u64 = 4;

/// What a thread has used of the machine's CPU, and how long it has waited for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) used_ns: u64,
    pub(crate) waited_ns: u64,
}

/// Everything that is sampled at once.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) at: u64,
    pub(crate) total: Total,
    /// Events that the publisher has handed over.
    pub(crate) published: u64,
    pub(crate) threads: Vec<Cpu>,
    pub(crate) publisher_ns: u64,
    pub(crate) server: Option<Sample>,
}

impl Moment {
    pub(crate) fn now(shared: &Shared, server: Option<Sample>) -> Self {
        let cpu = shared.tallies.iter().map(|tally| Cpu {
            used_ns: tally.cpu_ns.load(Ordering::Relaxed),
            waited_ns: tally.waited_ns.load(Ordering::Relaxed),
        });
        Self {
            at: clock::now(),
            total: shared.total(),
            published: shared.published.load(Ordering::Relaxed),
            threads: cpu.collect(),
            publisher_ns: shared.publisher_ns.load(Ordering::Relaxed),
            server,
        }
    }

    /// Before the first connection was opened, at `at`.
    pub(crate) fn before(at: u64, threads: u32, server: Option<Sample>) -> Self {
        let threads = vec![Cpu::default(); threads as usize];
        Self { at, total: Total::default(), published: 0, threads, publisher_ns: 0, server }
    }
}

/// The time between two moments.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) from: Moment,
    pub(crate) to: Moment,
}

impl Stretch {
    pub(crate) fn nanos(&self) -> u64 {
        self.to.at.saturating_sub(self.from.at)
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.to.total.delivered.saturating_sub(self.from.total.delivered)
    }

    pub(crate) fn published(&self) -> u64 {
        self.to.published.saturating_sub(self.from.published)
    }

    pub(crate) fn per_second(&self, count: u64) -> f64 {
        ratio(count.saturating_mul(SECOND), self.nanos())
    }

    /// The largest share of the time, over the threads, that `part` makes of one's CPU.
    fn most(&self, part: impl Fn(Cpu) -> u64) -> f64 {
        let pairs = self.from.threads.iter().zip(&self.to.threads);
        let spent = pairs.map(|(from, to)| part(*to).saturating_sub(part(*from)));
        ratio(spent.max().unwrap_or(0), self.nanos())
    }

    /// The server's process; `before` is its state before any connection.
    pub(crate) fn server(&self, pid: Option<u32>, before: Option<Sample>) -> Option<Server> {
        let (first, last) = (self.from.server?, self.to.server?);
        let used = last.cpu_ns.saturating_sub(first.cpu_ns);
        let system = last.system_ns.saturating_sub(first.system_ns);
        Some(Server {
            pid: pid?,
            rss_bytes_before: before?.rss_bytes,
            rss_bytes: last.rss_bytes,
            cores: ratio(used, self.nanos()),
            user_cores: ratio(used.saturating_sub(system), self.nanos()),
            system_cores: ratio(system, self.nanos()),
            cpu_seconds_per_million: per_million(used, self.delivered()),
        })
    }

    /// The threads of this program.
    pub(crate) fn client(&self, rss_bytes: u64) -> Client {
        let used = self.to.total.cpu_ns.saturating_sub(self.from.total.cpu_ns);
        let publisher = self.to.publisher_ns.saturating_sub(self.from.publisher_ns);
        Client {
            rss_bytes,
            receiver_cores: ratio(used, self.nanos()),
            busiest_receiver: self.most(|cpu| cpu.used_ns),
            waited_for_cpu: self.most(|cpu| cpu.waited_ns),
            publisher_cores: (publisher > 0).then(|| ratio(publisher, self.nanos())),
            cpu_seconds_per_million: per_million(used, self.delivered()),
            ceiling_per_core: None,
        }
    }

    /// Whether the busiest thread had something in reserve. With a plan the run is invalid without;
    /// otherwise it is its nature, and a note.
    pub(crate) fn check_reserve(&self, is_planned: bool, report: &mut Report) {
        let percent = percent(self.most(|cpu| cpu.used_ns.saturating_add(cpu.waited_ns)));
        let waited = percent_of(self.most(|cpu| cpu.waited_ns));
        if percent >= SATURATED_PERCENT && is_planned {
            report.invalidate(Some(Invalid::GeneratorSaturated { percent, waited }));
        } else if percent >= SATURATED_PERCENT {
            report.notes.push(format!(
                "the busiest thread ran or waited for a CPU {percent} % of the time: this may be \
                 the generator's ceiling"
            ));
        } else if waited >= WAITED_PERCENT {
            report.notes.push(format!(
                "a thread waited for a CPU {waited} % of the time, which latencies include"
            ));
        }
    }

    /// Whether the generator itself was late with what its plan had due, beside what it measured.
    pub(crate) fn check_lateness(
        (lateness, latency): (&Latency, &Latency),
        late_max: Duration,
        report: &mut Report,
    ) {
        let max_ns = u64::try_from(late_max.as_nanos()).unwrap_or(u64::MAX);
        let p99_ns = lateness.at(0.99);
        if lateness.count() > 0 && p99_ns > max_ns {
            report.invalidate(Some(Invalid::GeneratorLate { p99_ns, max_ns }));
        }
        let (own, all) = (lateness.at(0.5), latency.at(0.5));
        if lateness.count() > 0 && latency.count() > 0 && own.saturating_mul(LATE_SHARE) > all {
            report.notes.push(format!(
                "the generator's own lateness (p50 {} ms) is a large part of the latency (p50 {} ms)",
                ms(own),
                ms(all)
            ));
        }
    }

    /// Whether `got` events are what `rate` promised; `late_max` may be under way at either edge.
    pub(crate) fn check_rate(&self, got: u64, rate: f64, late_max: Duration) -> Option<Invalid> {
        let got_rate = self.per_second(got);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let owed = rate * self.nanos() as f64 / SECOND as f64;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let short = owed * 0.99 - got as f64 > rate * late_max.as_secs_f64() + 1.0;
        (rate > 0.0 && short)
            .then(|| Invalid::RateNotReached { wanted: whole(rate), got: whole(got_rate) })
    }
}

fn percent(share: f64) -> u64 {
    percent_of(share).min(100)
}

fn percent_of(share: f64) -> u64 {
    whole(share * 100.0)
}

fn whole(number: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
    let whole = number as u64;
    whole
}

/// One number over another; 0 over nothing.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn per_million(nanos: u64, deliveries: u64) -> Option<f64> {
    (deliveries > 0).then(|| ratio(nanos, deliveries) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(threads: &[(u64, u64)]) -> Stretch {
        let count = u32::try_from(threads.len()).expect("few");
        let from = Moment::before(5 * SECOND, count, None);
        let cpu = |(used, waited): &(u64, u64)| Cpu {
            used_ns: used * SECOND / 100,
            waited_ns: waited * SECOND / 100,
        };
        let mut to = Moment::before(6 * SECOND, count, None);
        to.threads = threads.iter().map(cpu).collect();
        Stretch { from, to }
    }

    #[test]
    fn one_busy_thread_is_not_hidden_by_idle_ones() {
        let busy = |threads: &[(u64, u64)]| {
            percent(stretch(threads).most(|cpu| cpu.used_ns.saturating_add(cpu.waited_ns)))
        };
        assert_eq!(busy(&[(5, 0), (97, 0), (1, 0)]), 97);
        assert_eq!(busy(&[(50, 48), (0, 0)]), 98, "waiting is no reserve");
        assert_eq!(busy(&[(20, 5); 4]), 25);
        let client = stretch(&[(5, 1), (60, 30)]).client(0);
        assert_eq!((client.busiest_receiver, client.waited_for_cpu), (0.6, 0.3));
    }

    #[test]
    fn a_rate_that_is_not_reached_is_named() {
        let stretch = stretch(&[]);
        let check = |got, late| stretch.check_rate(got, 1_000.0, Duration::from_millis(late));
        assert_eq!(check(1_000, 0), None);
        assert_eq!(check(990, 0), None, "99 %");
        assert_eq!(check(980, 0), Some(Invalid::RateNotReached { wanted: 1_000, got: 980 }));
        assert_eq!(check(980, 10), None, "ten may be late");
        assert_eq!(stretch.check_rate(0, 0.0, Duration::ZERO), None, "no plan");
    }
}
