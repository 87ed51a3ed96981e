//! What a report says about each scenario beyond `connect`, `idle` and `fanout`: the figures, and
//! their lines in the table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::Summary;
use crate::report::Rows;

/// Parts that a scenario does not have are absent.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sections {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) publish: Option<Publish>,
}

impl Sections {
    /// Adds the lines of the parts that are there.
    pub(crate) fn rows(&self, rows: &mut Rows) {
        if let Some(publish) = &self.publish {
            publish.rows(rows);
        }
    }
}

/// How publishing went.
#[derive(Debug, Serialize)]
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
        rows.add("publishers", how);
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
