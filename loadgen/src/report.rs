//! What a run found: JSON for programs with a published schema, and the exit code. Its table for
//! people is in `table`.
//!
//! `loadgen/schema/report.schema.json` is made from these types; a test holds the two together.

pub(crate) mod table;

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::fault::Invalid;
use crate::host::Host;
use crate::latency::{Distribution, Summary};
use crate::reason::Reason;
use crate::sections::Sections;
use crate::series::Series;
use crate::verdict::Verdict;

/// Names the layout of the JSON; another number is another layout.
pub(crate) const SCHEMA: &str = "weir-loadgen/2";

/// The findings of one run. Parts that a scenario does not have are absent.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report {
    /// `weir-loadgen/2`.
    pub(crate) schema: &'static str,
    /// The version of the generator.
    pub(crate) version: &'static str,
    /// What was run.
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Where it was run.
    pub(crate) host: Host,
    /// What makes two runs the same work: connections, channels, bytes and so on. Only reports
    /// with the same sizes and texts can be compared.
    pub(crate) sizes: BTreeMap<&'static str, f64>,
    /// The rest of it, which is no number: namespace and templates.
    pub(crate) texts: BTreeMap<&'static str, String>,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    /// Why the figures must not be used; empty when they may.
    pub(crate) invalid: Vec<Reason>,
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
    /// The distributions behind the percentiles.
    pub(crate) distributions: Vec<Distribution>,
    /// The run over time.
    pub(crate) series: Series,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
}

/// How connections came up.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Connect {
    pub(crate) ready: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From connecting (or when it was due) to the upgrade.
    pub(crate) handshake: Option<Summary>,
    /// How late the generator was with connections that were due; only in `connect` with a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lateness: Option<Summary>,
    /// From connecting to the last `subscribed`.
    pub(crate) until_ready: Option<Summary>,
    /// CPU that a connection took while all were opened, in microseconds; only in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_cpu_us: Option<f64>,
}

/// What holding connections costs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    pub(crate) client_bytes_per_connection: f64,
    /// Absent where it is not measurable, as of a server that was used before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_bytes_per_connection: Option<f64>,
}

/// How events went through.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Bytes read from sockets for an event received, all else that came beside it included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wire_bytes_per_delivery: Option<f64>,
    /// What these are when they are inflated; only with permessage-deflate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inflated_bytes_per_delivery: Option<f64>,
    /// Events handed over in the whole run.
    pub(crate) published_total: u64,
    /// Over the whole run: what should have come (0 where nobody can say), what came, what was told
    /// by `lagged`, how many latest values were shown.
    pub(crate) expected_total: u64,
    pub(crate) delivered_total: u64,
    pub(crate) told_total: u64,
    pub(crate) shown_total: u64,
    pub(crate) latency: Option<Summary>,
    /// Only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until_last: Option<UntilLast>,
    pub(crate) lateness: Option<Summary>,
    pub(crate) held_back: u64,
    pub(crate) stalls: u64,
}

/// How long each event took until its last subscriber had it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct UntilLast {
    /// Events that all had.
    pub(crate) complete: u64,
    /// Events that some did not get.
    pub(crate) incomplete: u64,
    /// From when an event was due, over the complete ones.
    pub(crate) latency: Option<Summary>,
}

/// The server's process while it was measured.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) rss_bytes_before: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) cores: f64,
    /// Of these, in the program itself,
    pub(crate) user_cores: f64,
    /// and in the kernel.
    pub(crate) system_cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_seconds_per_million: Option<f64>,
}

/// This process while it was measured.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Client {
    pub(crate) rss_bytes: u64,
    pub(crate) receiver_cores: f64,
    /// The share of the time that the busiest receiver thread ran.
    pub(crate) busiest_receiver: f64,
    /// The largest share of the time that a receiver thread was ready to run and had no CPU.
    pub(crate) waited_for_cpu: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) publisher_cores: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_seconds_per_million: Option<f64>,
    /// Deliveries a second that one core of receivers would take at this price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ceiling_per_core: Option<f64>,
}

/// What a scenario calls what it counts, and the threads that count it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    pub(crate) unit: &'static str,
    pub(crate) done: &'static str,
    pub(crate) thread: &'static str,
}

impl Report {
    pub(crate) fn words(&self) -> Words {
        if self.sections.publish.is_some() {
            Words { unit: "events", done: "accepted", thread: "publisher" }
        } else if self.sections.echo.is_some() {
            Words { unit: "answers", done: "answered", thread: "client" }
        } else {
            Words { unit: "deliveries", done: "delivered", thread: "receiver" }
        }
    }

    /// Adds a reason not to use the figures.
    pub(crate) fn invalidate(&mut self, why: Option<Invalid>) {
        self.invalid.extend(why.map(Reason::from));
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

    /// The report as JSON.
    ///
    /// # Errors
    ///
    /// Never for these types; but the serializer could.
    pub(crate) fn json(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
#[path = "report/schema_tests.rs"]
mod tests;
