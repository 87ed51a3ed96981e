//! A report as a table for people.

use std::fmt;

use crate::latency::Summary;
use crate::report::{Connect, Fanout, Report, Words};

/// Violations shown in the table; JSON has those that were kept.
const SHOWN_MAX: usize = 20;

impl Report {
    /// Names and figures, in the order in which they are read.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let (mut rows, words) = (Rows::default(), self.words());
        rows.add("connections", format!("{} ready of {}", self.connect.ready, self.connections));
        let Connect { seconds, per_second, .. } = self.connect;
        rows.add("opened", format!("in {seconds:.2} s, {per_second:.0}/s"));
        rows.summary("handshake", self.connect.handshake);
        rows.summary("until ready", self.connect.until_ready);
        rows.summary("own lateness", self.connect.lateness);
        if let Some(client) = self.connect.client_cpu_us {
            let server = self.connect.server_cpu_us;
            let server = server.map_or_else(String::new, |us| format!(", server {us:.0} us"));
            rows.add("CPU for each", format!("client {client:.0} us{server}"));
        }
        if let Some(idle) = &self.idle {
            rows.add("held for", format!("{:.1} s", idle.seconds));
            let mut memory = format!("client {:.0} B", idle.client_bytes_per_connection);
            match idle.server_bytes_per_connection {
                Some(server) => memory.push_str(&format!(", server {server:.0} B")),
                None if self.server.is_some() => memory.push_str(", server not measurable"),
                None => {}
            }
            rows.add("per connection", memory);
        }
        if let Some(fanout) = &self.fanout {
            rows.fanout(fanout);
        }
        self.sections.rows(&mut rows);
        if let Some(server) = &self.server {
            let mib = server.rss_bytes >> 20;
            rows.add(
                "server",
                format!(
                    "{:.2} cores ({:.2} user, {:.2} system), {mib} MiB resident",
                    server.cores, server.user_cores, server.system_cores
                ),
            );
            rows.price("server CPU", server.cpu_seconds_per_million, words);
        }
        if let Some(cores) = self.client.publisher_cores {
            rows.add("publisher CPU", format!("{cores:.2} cores"));
        }
        rows.add(
            &format!("{}s", words.thread),
            format!(
                "{:.2} cores on {} threads (busiest {:.0} %, waited {:.0} %), {} MiB resident",
                self.client.receiver_cores,
                self.threads,
                self.client.busiest_receiver * 100.0,
                self.client.waited_for_cpu * 100.0,
                self.client.rss_bytes >> 20
            ),
        );
        rows.price(&format!("{} CPU", words.thread), self.client.cpu_seconds_per_million, words);
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
            writeln!(f, "INVALID: {}", why.text)?;
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

    fn price(&mut self, name: &str, seconds: Option<f64>, words: Words) {
        if let Some(seconds) = seconds {
            self.add(name, format!("{seconds:.3} s per million {}", words.unit));
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
        if let Some(wire) = fanout.wire_bytes_per_delivery {
            let mut text = format!("{wire:.0} B on the wire");
            if let Some(inflated) = fanout.inflated_bytes_per_delivery {
                text.push_str(&format!(", {inflated:.0} B inflated"));
            }
            self.add("per delivery", text);
        }
        let Fanout { expected_total, delivered_total, told_total, .. } = fanout;
        let mut whole = format!("{delivered_total} delivered, {told_total} told lost");
        if fanout.shown_total > 0 {
            whole.push_str(&format!(", {} shown", fanout.shown_total));
        }
        if *expected_total > 0 {
            whole = format!("{expected_total} expected, {whole}");
        }
        self.add("whole run", whole);
        self.summary("latency", fanout.latency);
        if let Some(last) = &fanout.until_last {
            self.summary("until last", last.latency);
            if last.incomplete > 0 {
                self.add("not by all", format!("{} events", last.incomplete));
            }
        }
        self.summary("own lateness", fanout.lateness);
        if fanout.held_back + fanout.stalls > 0 {
            let Fanout { held_back, stalls, .. } = fanout;
            self.add("publisher", format!("held back {held_back} times, {stalls} stalls"));
        }
    }
}
