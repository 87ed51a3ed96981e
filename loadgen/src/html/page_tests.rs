//! Pages of reports that are good, broken, and hostile.

use std::time::Duration;

use super::*;
use crate::latency::Latency;
use crate::scenario::common::Connecting;
use crate::sections::{Echo, Publish};

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
    let page = document("<x>", "");
    assert!(page.contains("<title>&lt;x&gt;</title>"), "{page}");
}

/// A report of `scenario` with points and distributions, as a run leaves it.
fn report(scenario: &'static str) -> Report {
    let connecting = Connecting {
        target: "ws://127.0.0.1:9/ws".parse().expect("valid"),
        connections: 3,
        threads: None,
        sources: None,
        rate: 0.0,
        inflight: 1,
        timeout: Duration::from_secs(1),
        server_pid: None,
        progress: false,
    };
    let mut latency = Latency::new();
    (1..=1_000).for_each(|ms| latency.record(ms * 1_000_000));
    let mut report = connecting.blank(scenario, 1);
    report.distributions.extend(latency.distribution("latency"));
    let point = |n: u32| Point {
        at_s: f64::from(n) / 5.0,
        phase: "measure",
        ready: 3,
        away: 0,
        delivered_per_second: 9.0,
        p50_ms: Some(1.0),
        p99_ms: Some(2.0),
        server_rss_bytes: Some(1 << 20),
        server_cores: Some(0.5),
        client_rss_bytes: 1 << 20,
        client_cores: 0.5,
    };
    report.series.points = (1..9).map(point).collect();
    report
}

fn publish() -> Report {
    let mut report = report("publish");
    report.sections.publish = Some(Publish {
        via: "websocket",
        seconds: 1.0,
        publishers: 3,
        channels: 1,
        window: 1,
        batch: 1,
        rate: 0.0,
        accepted: 9,
        accepted_per_second: 4_321.0,
        latency: None,
        lateness: None,
        sent_total: 9,
        accepted_total: 9,
        refused_total: 0,
        refusals: std::collections::BTreeMap::new(),
    });
    report.client.cpu_seconds_per_million = Some(1.0);
    report
}

fn echo() -> Report {
    let mut report = report("echo");
    report.sections.echo = Some(Echo {
        seconds: 1.0,
        rate: 0.0,
        window: 1,
        answered: 9,
        answered_per_second: 4_321.0,
        latency: None,
        lateness: None,
        sent_total: 9,
        answered_total: 9,
        refused_total: 0,
    });
    report
}

#[test]
fn the_page_loads_nothing() {
    // The name of SVG's language, which nobody loads.
    let page = page(&publish()).replace("http://www.w3.org/2000/svg", "");
    assert!(page.matches("<svg").count() >= 5, "{page}");
    for outside in ["http:", "https:", "url(", "@import", "src=", "href=", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn publish_and_echo_show_what_flows_over_time() {
    for (report, unit, line) in
        [(publish(), "accepted/s", "accepted"), (echo(), "answers/s", "answered")]
    {
        let titles: Vec<&str> = plots(&report).iter().map(|plot| plot.title).collect();
        assert!(titles.contains(&"Throughput"), "{titles:?}");
        assert!(titles.contains(&"Latency over time"), "{titles:?}");
        let page = page(&report);
        assert!(page.contains(&format!("</b>{unit}</div>")), "{page}");
        assert!(page.contains("4321") && page.contains(&format!("</i>{line}</span>")), "{page}");
    }
    let table = publish().to_string();
    assert!(!table.contains("receiver") && !table.contains("deliveries"), "{table}");
    assert!(table.contains("1.000 s per million events"), "{table}");
}

#[test]
fn those_who_come_back_have_plots_of_their_own() {
    let mut report = report("storm");
    let mut back = Latency::new();
    (1..=1_000).for_each(|ms| back.record(ms * 1_000_000));
    report.distributions.extend(back.distribution("until_back"));
    report.series.points[3].away = 2;
    let plots = plots(&report);
    let find = |title| plots.iter().find(|plot| plot.title == title).expect("it is there");
    assert_eq!(find("Returns and commands by percentile").lines[0].name, "until back");
    let lines = &find("Connections").lines;
    let values = |line: usize| lines[line].points.iter().map(|(_, y)| *y).collect::<Vec<_>>();
    assert_eq!((values(0)[3], values(1)[3], values(1)[4]), (1.0, 2.0, 0.0));
}

#[test]
fn the_style_sheet_knows_every_colour_of_the_plots() {
    for colour in ["010101", "020202", "030300", "030301", "030302", "040404"] {
        assert!(STYLE.contains(&format!("\"#{colour}\"")), "{colour}");
    }
}
