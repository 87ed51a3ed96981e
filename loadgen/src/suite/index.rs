//! What a suite found: a table for people, and the page that leads to each report.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::compare::{FIGURES, number, read};
use crate::html::page::{document, escape};

/// The figures that are shown of each run.
const COLUMNS: [&str; 8] = [
    "deliveries/s",
    "accepted/s",
    "answers/s",
    "latency p50 ms",
    "latency p99 ms",
    "connections/s",
    "server s/million",
    "server B/connection",
];

/// One run of a suite.
#[derive(Debug)]
pub(crate) struct Line {
    name: &'static str,
    /// The exit code of the run.
    pub(crate) code: u8,
    report: Result<Value, String>,
}

impl Line {
    /// Reads what the run has written.
    pub(crate) fn read(name: &'static str, code: u8, path: &Path) -> Self {
        Self { name, code, report: read(path) }
    }

    fn verdict(&self) -> &'static str {
        match self.code {
            0 => "valid",
            1 => "BROKEN",
            2 => "INVALID",
            _ => "FAILED",
        }
    }

    /// Its cells in the order of [`COLUMNS`]; empty where a run has no such figure.
    fn cells(&self) -> Vec<String> {
        let value = |column: &&str| {
            let figure = FIGURES.iter().find(|figure| figure.name == *column)?;
            figure.of(self.report.as_ref().ok()?)
        };
        COLUMNS.iter().map(|column| value(column).map(number).unwrap_or_default()).collect()
    }

    /// Why there are no figures.
    fn fault(&self) -> Option<&str> {
        self.report.as_ref().err().map(String::as_str)
    }
}

/// The table.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, verdict: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>19}")).collect();
        writeln!(text, "{name:<18} {verdict:<8}{cells}").ok();
    };
    row("", "", &COLUMNS.map(str::to_owned));
    for line in lines {
        row(line.name, line.verdict(), &line.cells());
    }
    for line in lines {
        if let Some(fault) = line.fault() {
            writeln!(text, "{}: {fault}", line.name).ok();
        }
    }
    text
}

/// The page.
pub(crate) fn page(lines: &[Line]) -> String {
    let head: String = COLUMNS.iter().map(|column| format!("<th>{}", escape(column))).collect();
    let mut main = format!(
        "<h1>weir-loadgen suite</h1>\n<table>\n<thead><tr><th>run<th>verdict{head}</thead>\n"
    );
    for line in lines {
        let (name, verdict) = (line.name, line.verdict());
        let class = if line.code == 0 { "good" } else { "bad" };
        let cells: String =
            line.cells().iter().map(|cell| format!("<td>{}", escape(cell))).collect();
        writeln!(
            main,
            "<tr><td><a href=\"{name}.html\">{name}</a><td class={class}>{verdict}{cells}"
        )
        .ok();
    }
    main.push_str("</table>\n<ul>\n");
    for line in lines {
        if let Some(fault) = line.fault() {
            writeln!(main, "<li>{}: {}", line.name, escape(fault)).ok();
        }
    }
    main.push_str("</ul>\n");
    document("weir-loadgen suite", &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> [Line; 2] {
        let report = serde_json::json!({"fanout": {"delivered_per_second": 1234.5}});
        let bad = Err("the <server> was gone".to_owned());
        [
            Line { name: "one", code: 0, report: Ok(report) },
            Line { name: "two", code: 3, report: bad },
        ]
    }

    #[test]
    fn every_column_is_a_figure() {
        assert!(COLUMNS.iter().all(|column| FIGURES.iter().any(|one| one.name == *column)));
    }

    #[test]
    fn what_failed_is_said_in_table_and_page() {
        let table = table(&lines());
        assert!(table.contains("1234") && table.contains("two: the <server> was gone"), "{table}");
        let page = page(&lines());
        assert!(page.contains("one.html") && page.contains("FAILED"), "{page}");
        assert!(page.contains("two: the &lt;server&gt; was gone"), "{page}");
    }
}
