//! `weir serve --demo`: this machine's telemetry as events.

use crate::cli::proc::{self, Ticks};
use crate::proto::name::ChannelName;
use crate::server::Handle;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The namespace of the demo's channel, open to patterns unless somebody has configured it.
pub const NAMESPACE: &str = "telemetry";

/// Ten times a second.
const PERIOD: Duration = Duration::from_millis(100);

/// Rates are of the last ten samples, a second's worth: the kernel counts a core's time in
/// hundredths of one.
const WINDOW: usize = 10;

/// Publishes this machine's telemetry to `telemetry:HOST` until the gateway stops.
pub async fn run(handle: Handle) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = channel(&host);
    let Ok(name) = name.parse::<ChannelName>() else {
        tracing::warn!("no demo: {name:?} is not a channel name");
        return;
    };
    tracing::info!("demo: this machine's telemetry is on {name}");
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut past = VecDeque::with_capacity(WINDOW + 1);
    let mut failed = false;
    loop {
        ticks.tick().await;
        let (at, sample) = (now(), Sample::take());
        let before = past.front().map(|(then, before)| (at - *then, before));
        for (key, value) in sample.events(before) {
            let published = handle.publish(&name, Some(&key), value.to_string().into_bytes()).await;
            match published {
                Ok(_) => failed = false,
                Err(error) if !failed => {
                    tracing::warn!("demo: failed to publish: {error}");
                    failed = true;
                }
                Err(_) => {}
            }
        }
        past.push_back((at, sample));
        if past.len() > WINDOW {
            past.pop_front();
        }
    }
}

/// Ticks that come late are skipped, so that only the clock knows how long a rate has run.
#[expect(clippy::disallowed_methods, reason = "measures this machine, not the gateway")]
fn now() -> Instant {
    Instant::now()
}

/// The channel of a host: what no channel name may hold becomes `-`.
fn channel(host: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let host: String = host.chars().take(200).map(legal).collect();
    format!("{NAMESPACE}:{}", if host.is_empty() { "host" } else { &host })
}

/// What the kernel says at one moment.
#[derive(Debug, Default)]
struct Sample {
    cores: Vec<Ticks>,
    memory: Option<(u64, u64)>,
    network: (u64, u64),
    load: Option<[f64; 3]>,
}

impl Sample {
    /// Reads `/proc`. What is not there is left out.
    fn take() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: proc::cores(&read("/proc/stat")),
            memory: proc::memory(&read("/proc/meminfo")),
            network: proc::network(&read("/proc/net/dev")),
            load: proc::load(&read("/proc/loadavg")),
        }
    }

    /// Keys and data. Rates are since another sample, so long before this one; without it there
    /// are none.
    fn events(&self, before: Option<(Duration, &Self)>) -> Vec<(String, Value)> {
        let mut events = before.map_or_else(Vec::new, |(age, before)| self.rates(age, before));
        if let Some((total, available)) = self.memory {
            let used = total.saturating_sub(available);
            let percent = proc::ratio(used, total);
            let value = json!({"used_bytes": used, "used_percent": percent});
            events.push(("memory".to_owned(), value));
        }
        if let Some([one, five, fifteen]) = self.load {
            let value = json!({"load_1m": one, "load_5m": five, "load_15m": fifteen});
            events.push(("load".to_owned(), value));
        }
        events
    }

    fn rates(&self, age: Duration, before: &Self) -> Vec<(String, Value)> {
        let cores = self.cores.iter().zip(&before.cores).enumerate();
        let mut events: Vec<_> = cores
            .map(|(at, (ticks, before))| {
                (format!("cpu{at}"), json!({"percent": ticks.percent_since(*before)}))
            })
            .collect();
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |after: u64, before: u64| after.saturating_sub(before).saturating_mul(1000) / ms;
        let value = json!({
            "received_bytes_per_s": rate(self.network.0, before.network.0),
            "sent_bytes_per_s": rate(self.network.1, before.network.1),
        });
        events.push(("network".to_owned(), value));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_makes_a_channel() {
        for (host, name) in [
            ("h-1.example", "telemetry:h-1.example"),
            ("my host:7", "telemetry:my-host-7"),
            ("", "telemetry:host"),
            (&"x".repeat(300), &format!("telemetry:{}", "x".repeat(200))),
        ] {
            assert_eq!(channel(host), name);
            assert!(channel(host).parse::<ChannelName>().is_ok());
        }
    }

    #[test]
    fn samples_become_keyed_events() {
        let before = Sample { cores: vec![Ticks { busy: 0, all: 0 }], ..Sample::default() };
        let after = Sample {
            cores: vec![Ticks { busy: 50, all: 100 }],
            memory: Some((1000, 250)),
            network: (500, 100),
            load: Some([1.0, 0.5, 0.25]),
        };
        let events = after.events(Some((Duration::from_millis(2500), &before)));
        let keys: Vec<&str> = events.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["cpu0", "network", "memory", "load"]);
        assert_eq!(events[0].1, json!({"percent": 50.0}));
        assert_eq!(events[1].1, json!({"received_bytes_per_s": 200, "sent_bytes_per_s": 40}));
        assert_eq!(events[2].1, json!({"used_bytes": 750, "used_percent": 75.0}));
        assert_eq!(events[3].1, json!({"load_1m": 1.0, "load_5m": 0.5, "load_15m": 0.25}));
        let keys: Vec<String> = after.events(None).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["memory", "load"], "the first sample has no rates");
    }
}
