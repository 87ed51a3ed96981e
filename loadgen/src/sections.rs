//! What a report says about each scenario beyond `connect`, `idle` and `fanout`: the figures, and
//! their lines in the table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::Summary;
use crate::process::MemoryPoint;
use crate::report::table::Rows;

/// Parts that a scenario or a server does not have are absent.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Sections {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) publish: Option<Publish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<Slow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) churn: Option<Churn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recover: Option<Recover>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) echo: Option<Echo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostile: Option<Hostile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Tls>,
}

impl Sections {
    /// Adds the lines of the parts that are there.
    pub(crate) fn rows(&self, rows: &mut Rows) {
        if let Some(publish) = &self.publish {
            publish.rows(rows);
        }
        if let Some(slow) = &self.slow {
            slow.rows(rows);
        }
        if let Some(churn) = &self.churn {
            churn.rows(rows);
        }
        if let Some(recover) = &self.recover {
            recover.rows(rows);
        }
        if let Some(echo) = &self.echo {
            echo.rows(rows);
        }
        if let Some(hostile) = &self.hostile {
            hostile.rows(rows);
        }
        if let Some(tls) = &self.tls {
            tls.rows(rows);
        }
    }
}

/// How receivers shook hands for TLS, over the whole run.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Tls {
    pub(crate) version: String,
    pub(crate) cipher_suite: String,
    /// Handshakes that began from nothing,
    pub(crate) full: u64,
    /// and those that took up an earlier session.
    pub(crate) resumed: u64,
}

impl Tls {
    fn rows(&self, rows: &mut Rows) {
        let Self { version, cipher_suite, full, resumed } = self;
        rows.add("tls", format!("{full} full handshakes, {resumed} resumed"));
        rows.add("", format!("{version}, {cipher_suite}"));
    }
}

/// How publishing went.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Publish {
    /// `websocket`, `http_json` or `http_ndjson`.
    pub(crate) via: &'static str,
    pub(crate) seconds: f64,
    pub(crate) publishers: u32,
    pub(crate) channels: u32,
    /// Events that may wait for their acknowledgement, per publisher.
    pub(crate) window: u64,
    /// Events in a request.
    pub(crate) batch: u64,
    /// Events a second that were due; 0 in a closed loop.
    pub(crate) rate: f64,
    /// Events acknowledged while it was measured.
    pub(crate) accepted: u64,
    pub(crate) accepted_per_second: f64,
    /// From when an event was due to its acknowledgement.
    pub(crate) latency: Option<Summary>,
    pub(crate) lateness: Option<Summary>,
    /// Over the whole run.
    pub(crate) sent_total: u64,
    pub(crate) accepted_total: u64,
    pub(crate) refused_total: u64,
    /// Refusals by code.
    pub(crate) refusals: BTreeMap<String, u64>,
}

impl Publish {
    fn rows(&self, rows: &mut Rows) {
        let Self { via, publishers, window, batch, .. } = self;
        let how = match *via {
            "websocket" => format!("{publishers} over WebSocket, window {window}"),
            "http_json" => format!("{publishers} over HTTP, one event per request"),
            _ => format!("{publishers} over HTTP, up to {batch} events per request"),
        };
        rows.add("ingest", how);
        rows.add("measured for", format!("{:.2} s", self.seconds));
        rows.add("accepted", format!("{:.0}/s", self.accepted_per_second));
        rows.summary("latency", self.latency);
        rows.summary("own lateness", self.lateness);
        rows.add(
            "whole run",
            format!(
                "{} sent, {} accepted, {} refused",
                self.sent_total, self.accepted_total, self.refused_total
            ),
        );
        for (code, count) in &self.refusals {
            rows.add("refused", format!("{count} with {code}"));
        }
    }
}

/// What slow connections were told and what they cost; `fanout` has the figures of the others.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Slow {
    pub(crate) connections: u64,
    /// What each of them reads; 0 reads nothing until the end.
    pub(crate) bytes_per_second: u64,
    /// Events that were due to them.
    pub(crate) expected_total: u64,
    pub(crate) delivered_total: u64,
    pub(crate) told_total: u64,
    /// Latest values that they were shown.
    pub(crate) shown_total: u64,
    /// From when an event was due until they saw it, as it was published or shown as a latest value,
    /// while it was measured.
    pub(crate) age: Option<Summary>,
    /// Those that the server let go of while events flowed.
    pub(crate) dropped_early: u64,
    /// How they ended, and how many did so.
    pub(crate) closes: BTreeMap<String, u64>,
    /// The server's memory over the run, when its process is known.
    pub(crate) memory: Vec<MemoryPoint>,
}

impl Slow {
    fn rows(&self, rows: &mut Rows) {
        let how = match self.bytes_per_second {
            0 => "stall".to_owned(),
            bytes => format!("read {bytes} B/s each"),
        };
        rows.add("slow", format!("{} connections that {how}", self.connections));
        rows.add(
            "slow got",
            format!(
                "{} of {} events, {} told lost, {} shown",
                self.delivered_total, self.expected_total, self.told_total, self.shown_total
            ),
        );
        rows.summary("slow see", self.age);
        if self.dropped_early > 0 {
            let text = format!("{} while events flowed", self.dropped_early);
            rows.add("slow let go", text);
        }
        for (why, count) in &self.closes {
            rows.add("slow ended", format!("{count}: {why}"));
        }
        let highest = self.memory.iter().max_by_key(|point| point.rss_bytes);
        if let (Some(first), Some(highest), Some(last)) =
            (self.memory.first(), highest, self.memory.last())
        {
            let kib = |point: &MemoryPoint| point.rss_bytes >> 10;
            rows.add(
                "server memory",
                format!(
                    "{} KiB at first, {} KiB at most (after {:.1} s), {} KiB at last",
                    kib(first),
                    kib(highest),
                    highest.seconds,
                    kib(last)
                ),
            );
        }
    }
}

/// How subscriptions and connections that come and go were served.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Churn {
    /// Acts a second that were asked for.
    pub(crate) rate: f64,
    pub(crate) subscribed: u64,
    pub(crate) unsubscribed: u64,
    pub(crate) reconnected: u64,
    /// Acts that were due and found no connection that waited for nothing.
    pub(crate) skipped: u64,
    /// Reconnects that failed and were tried again.
    pub(crate) retries: u64,
    /// How late the generator was with acts and returns.
    pub(crate) lateness: Option<Summary>,
    /// From when a command was due to its answer.
    pub(crate) answered: Option<Summary>,
    /// From when it was due to leave until all subscriptions stand again.
    pub(crate) back: Option<Summary>,
}

impl Churn {
    fn rows(&self, rows: &mut Rows) {
        let Self { subscribed, unsubscribed, reconnected, skipped, .. } = self;
        rows.add(
            "churn",
            format!(
                "{subscribed} subscribed, {unsubscribed} unsubscribed, {reconnected} reconnected, \
                 {skipped} skipped"
            ),
        );
        rows.summary("acts late", self.lateness);
        rows.summary("answered", self.answered);
        rows.summary("back", self.back);
    }
}

/// How connections that were cut came back.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Recover {
    pub(crate) cut: u64,
    pub(crate) back: u64,
    /// Those that received an event after they came back, and all that they had missed.
    pub(crate) served: u64,
    /// Returns that failed and were tried again.
    pub(crate) retries: u64,
    /// Cuts that were due and found no connection that stood and was served.
    pub(crate) skipped: u64,
    /// Subscriptions answered with `recovered`.
    pub(crate) recovered_true: u64,
    pub(crate) recovered_false: u64,
    /// Events that the former had missed and were owed.
    pub(crate) recovered_events: u64,
    /// How late the generator was with cuts and returns.
    pub(crate) lateness: Option<Summary>,
    /// From when a connection was due to come back until it has its subscriptions.
    pub(crate) until_back: Option<Summary>,
    /// The same until its first event, and the last of those it had missed.
    pub(crate) until_served: Option<Summary>,
    /// When all were cut at once: each round.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds: Vec<Round>,
}

/// All connections cut at once, and how long it took until the last one was there again.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Round {
    pub(crate) cut: u64,
    pub(crate) back: u64,
    pub(crate) served: u64,
    pub(crate) back_seconds: f64,
    pub(crate) served_seconds: f64,
}

impl Recover {
    fn rows(&self, rows: &mut Rows) {
        let Self { cut, back, served, retries, .. } = self;
        rows.add("cut", format!("{cut}, {back} back, {served} served, {retries} tries failed"));
        let (yes, no) = (self.recovered_true, self.recovered_false);
        let events = self.recovered_events;
        rows.add("recovered", format!("{yes} subscriptions with {events} events, {no} not"));
        rows.summary("returns late", self.lateness);
        rows.summary("until back", self.until_back);
        rows.summary("until served", self.until_served);
        for (nth, round) in self.rounds.iter().enumerate() {
            let Round { cut, back, served, back_seconds, served_seconds } = round;
            rows.add(
                &format!("storm {}", nth + 1),
                format!(
                    "{back} of {cut} back in {back_seconds:.3} s, {served} of {cut} served in \
                     {served_seconds:.3} s"
                ),
            );
        }
    }
}

/// Requests and their answers.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Echo {
    pub(crate) seconds: f64,
    /// Requests a second that were due; 0 in a closed loop.
    pub(crate) rate: f64,
    /// In a closed loop: requests under way, per connection.
    pub(crate) window: u32,
    pub(crate) answered: u64,
    pub(crate) answered_per_second: f64,
    /// From when a request was due to its answer.
    pub(crate) latency: Option<Summary>,
    pub(crate) lateness: Option<Summary>,
    /// Over the whole run.
    pub(crate) sent_total: u64,
    pub(crate) answered_total: u64,
    pub(crate) refused_total: u64,
}

impl Echo {
    fn rows(&self, rows: &mut Rows) {
        rows.add("measured for", format!("{:.2} s", self.seconds));
        rows.add("answered", format!("{:.0}/s", self.answered_per_second));
        rows.summary("latency", self.latency);
        rows.summary("own lateness", self.lateness);
        let Self { sent_total, answered_total, refused_total, .. } = self;
        rows.add(
            "whole run",
            format!("{sent_total} sent, {answered_total} answered, {refused_total} refused"),
        );
    }
}

/// What stood beside the others while it was measured; `fanout` has the figures of the others beside
/// it, and this those without.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Hostile {
    /// Half-open connections, on average.
    pub(crate) half_open: u64,
    pub(crate) half_open_least: u64,
    /// Of those, the ones that the server has ended.
    pub(crate) cut_per_second: f64,
    /// Connections with garbage that were begun.
    pub(crate) garbage_per_second: f64,
    /// Of those, the ones that were answered, or ended by the server.
    pub(crate) refused_per_second: f64,
    /// Over the whole run, those that were neither in ten seconds.
    pub(crate) ignored: u64,
    /// Over the whole run, connects that failed.
    pub(crate) failed: u64,
    /// Latency before, without any of them.
    pub(crate) without: Option<Summary>,
    /// The p99 with them, divided by that without.
    pub(crate) p99_ratio: Option<f64>,
    /// Cores that the server used before, when its process is known.
    pub(crate) server_cores_without: Option<f64>,
}

impl Hostile {
    fn rows(&self, rows: &mut Rows) {
        rows.add(
            "half open",
            format!(
                "{} on average, {} at least, {:.0}/s cut",
                self.half_open, self.half_open_least, self.cut_per_second
            ),
        );
        rows.add(
            "garbage",
            format!(
                "{:.0}/s, {:.0}/s refused; {} ignored, {} connects failed",
                self.garbage_per_second, self.refused_per_second, self.ignored, self.failed
            ),
        );
        rows.summary("without", self.without);
        if let Some(ratio) = self.p99_ratio {
            rows.add("p99 beside", format!("{ratio:.2} times that without"));
        }
        if let Some(cores) = self.server_cores_without {
            rows.add("server before", format!("{cores:.2} cores"));
        }
    }
}
