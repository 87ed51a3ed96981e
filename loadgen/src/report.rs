//! What a run found: a table for people, JSON for programs, and the exit code.

use std::fmt;
use std::fs;

use serde::Serialize;

use crate::fault::{Invalid, RunError};
use crate::latency::Summary;
use crate::sections::Sections;
use crate::verdict::Verdict;

/// Violations shown in the table; JSON has those that were kept.
const SHOWN_MAX: usize = 20;

/// The findings of one run. Parts that a scenario does not have are absent.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    /// Why the figures must not be used; empty when they may.
    pub(crate) invalid: Vec<String>,
    /// What a reader of the figures should know.
    pub(crate) notes: Vec<String>,
    pub(crate) connect: Connect,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fanout: Option<Fanout>,
    /// One for each other scenario.
    #[serde(flatten)]
    pub(crate) sections: Sections,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<Server>,
    pub(crate) client: Client,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
}

/// How connections came up.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Connect {
    pub(crate) ready: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From connecting (or when it was due) to the upgrade.
    pub(crate) handshake: Option<Summary>,
    /// From connecting to the last `subscribed`.
    pub(crate) until_ready: Option<Summary>,
}

/// What holding connections costs.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    pub(crate) client_bytes_per_connection: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_bytes_per_connection: Option<f64>,
}

/// How events went through.
#[derive(Debug, Serialize)]
pub(crate) struct Fanout {
    pub(crate) seconds: f64,
    pub(crate) channels: u32,
    pub(crate) published: u64,
    pub(crate) published_per_second: f64,
    /// Events received while it was measured.
    pub(crate) delivered: u64,
    pub(crate) delivered_per_second: f64,
    pub(crate) events_per_read: f64,
    pub(crate) megabytes_per_second: f64,
    /// Over the whole run: what should have come (0 where subscriptions come and go), what came,
    /// what was told by `lagged`.
    pub(crate) expected_total: u64,
    pub(crate) delivered_total: u64,
    pub(crate) told_total: u64,
    pub(crate) latency: Option<Summary>,
    pub(crate) lateness: Option<Summary>,
    pub(crate) held_back: u64,
    pub(crate) stalls: u64,
}

/// The server's process while it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) rss_bytes_before: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_seconds_per_million: Option<f64>,
}

/// This process while it was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Client {
    pub(crate) rss_bytes: u64,
    pub(crate) receiver_cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_seconds_per_million: Option<f64>,
    /// Deliveries a second that one core of receivers would take at this price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ceiling_per_core: Option<f64>,
}

impl Report {
    /// Adds a reason not to use the figures.
    pub(crate) fn invalidate(&mut self, why: Option<Invalid>) {
        self.invalid.extend(why.map(|why| why.to_string()));
    }

    /// 1 when a promise was broken, 2 when the run is invalid.
    pub(crate) fn exit_code(&self) -> u8 {
        let broken = self.verdict.as_ref().is_some_and(|verdict| verdict.violations > 0);
        match (broken, self.invalid.is_empty()) {
            (true, _) => 1,
            (false, false) => 2,
            (false, true) => 0,
        }
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, path: &str) -> Result<(), RunError> {
        let failed = |error| RunError::Report { path: path.to_owned(), error };
        let mut text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        text.push('\n');
        fs::write(path, text).map_err(failed)
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Rows::default();
        rows.add("connections", format!("{} ready of {}", self.connect.ready, self.connections));
        let Connect { seconds, per_second, .. } = self.connect;
        rows.add("opened", format!("in {seconds:.2} s, {per_second:.0}/s"));
        rows.summary("handshake", self.connect.handshake);
        rows.summary("until ready", self.connect.until_ready);
        if let Some(idle) = &self.idle {
            rows.add("held for", format!("{:.1} s", idle.seconds));
            let mut memory = format!("client {:.0} B", idle.client_bytes_per_connection);
            if let Some(server) = idle.server_bytes_per_connection {
                memory.push_str(&format!(", server {server:.0} B"));
            }
            rows.add("per connection", memory);
        }
        if let Some(fanout) = &self.fanout {
            rows.fanout(fanout);
        }
        self.sections.rows(&mut rows);
        if let Some(server) = &self.server {
            let mib = server.rss_bytes >> 20;
            rows.add("server", format!("{:.2} cores, {mib} MiB resident", server.cores));
            rows.price("server CPU", server.cpu_seconds_per_million);
        }
        rows.add(
            "receivers",
            format!(
                "{:.2} cores on {} threads, {} MiB resident",
                self.client.receiver_cores,
                self.threads,
                self.client.rss_bytes >> 20
            ),
        );
        rows.price("receiver CPU", self.client.cpu_seconds_per_million);
        if let Some(ceiling) = self.client.ceiling_per_core {
            rows.add("ceiling", format!("{ceiling:.0} deliveries/s per receiver core"));
        }
        rows.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.scenario, self.url)?;
        for (name, value) in self.rows() {
            writeln!(f, "  {name:<16} {value}")?;
        }
        if let Some(verdict) = &self.verdict {
            writeln!(f, "  {:<16} {} violations", "verify", verdict.violations)?;
            for violation in verdict.listed.iter().take(SHOWN_MAX) {
                writeln!(f, "    {violation}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for why in &self.invalid {
            writeln!(f, "INVALID: {why}")?;
        }
        Ok(())
    }
}

/// The lines of the table.
#[derive(Default)]
pub(crate) struct Rows(Vec<(String, String)>);

impl Rows {
    pub(crate) fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    pub(crate) fn summary(&mut self, name: &str, summary: Option<Summary>) {
        let Some(Summary { samples, p50_ms, p90_ms, p99_ms, p999_ms, max_ms }) = summary else {
            return;
        };
        self.add(
            name,
            format!(
                "p50 {p50_ms:.3}  p90 {p90_ms:.3}  p99 {p99_ms:.3}  p99.9 {p999_ms:.3}  \
                 max {max_ms:.3} ms ({samples} samples)"
            ),
        );
    }

    fn price(&mut self, name: &str, seconds: Option<f64>) {
        if let Some(seconds) = seconds {
            self.add(name, format!("{seconds:.3} s per million deliveries"));
        }
    }

    fn fanout(&mut self, fanout: &Fanout) {
        self.add("measured for", format!("{:.2} s", fanout.seconds));
        if fanout.published > 0 {
            self.add("published", format!("{:.0}/s", fanout.published_per_second));
        }
        self.add(
            "delivered",
            format!(
                "{:.0}/s, {:.1} MB/s, {:.1} events per read",
                fanout.delivered_per_second, fanout.megabytes_per_second, fanout.events_per_read
            ),
        );
        let Fanout { expected_total, delivered_total, told_total, .. } = fanout;
        let mut whole = format!("{delivered_total} delivered, {told_total} told lost");
        if *expected_total > 0 {
            whole = format!("{expected_total} expected, {whole}");
        }
        self.add("whole run", whole);
        self.summary("latency", fanout.latency);
        self.summary("own lateness", fanout.lateness);
        if fanout.held_back + fanout.stalls > 0 {
            let Fanout { held_back, stalls, .. } = fanout;
            self.add("publisher", format!("held back {held_back} times, {stalls} stalls"));
        }
    }
}
