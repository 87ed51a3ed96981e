//! Two reports of the same work side by side: ratios, and whether the second is worse.
//!
//! Reads JSON by its published paths, so that it also reads reports of other versions of this
//! program with the same schema. Nothing passes because it is not there: what cannot be compared is
//! told, and is no success.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::reason::is_machine;
use crate::report::SCHEMA;

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
    /// Shown, not judged: one value of very many.
    Shown,
}

/// A figure: its name, where it stands in a report, and which direction is good.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    path: &'static str,
    better: Better,
    /// Whether it is of opening connections, which takes a moment where something else is measured.
    is_opening: bool,
}

const fn figure(name: &'static str, path: &'static str, better: Better) -> Figure {
    Figure { name, path, better, is_opening: false }
}

const fn opening(name: &'static str, path: &'static str, better: Better) -> Figure {
    Figure { is_opening: true, ..figure(name, path, better) }
}

/// Everything that is compared, in the order in which it is shown.
pub(crate) const FIGURES: [Figure; 32] = [
    figure("deliveries/s", "/fanout/delivered_per_second", Better::Higher),
    figure("latency p50 ms", "/fanout/latency/p50_ms", Better::Lower),
    figure("latency p90 ms", "/fanout/latency/p90_ms", Better::Lower),
    figure("latency p99 ms", "/fanout/latency/p99_ms", Better::Lower),
    figure("latency p99.9 ms", "/fanout/latency/p999_ms", Better::Lower),
    figure("latency max ms", "/fanout/latency/max_ms", Better::Shown),
    figure("until last p50 ms", "/fanout/until_last/latency/p50_ms", Better::Lower),
    figure("until last p99 ms", "/fanout/until_last/latency/p99_ms", Better::Lower),
    figure("accepted/s", "/publish/accepted_per_second", Better::Higher),
    figure("accept p50 ms", "/publish/latency/p50_ms", Better::Lower),
    figure("accept p99 ms", "/publish/latency/p99_ms", Better::Lower),
    figure("answers/s", "/echo/answered_per_second", Better::Higher),
    figure("answer p50 ms", "/echo/latency/p50_ms", Better::Lower),
    figure("answer p99 ms", "/echo/latency/p99_ms", Better::Lower),
    figure("command p99 ms", "/churn/answered/p99_ms", Better::Lower),
    figure("rejoined p99 ms", "/churn/back/p99_ms", Better::Lower),
    figure("back p50 ms", "/recover/until_back/p50_ms", Better::Lower),
    figure("back p99 ms", "/recover/until_back/p99_ms", Better::Lower),
    figure("served p99 ms", "/recover/until_served/p99_ms", Better::Lower),
    figure("slow told lost", "/slow/told_total", Better::Shown),
    opening("connections/s", "/connect/per_second", Better::Higher),
    opening("handshake p50 ms", "/connect/handshake/p50_ms", Better::Lower),
    opening("handshake p99 ms", "/connect/handshake/p99_ms", Better::Lower),
    figure("server us/connection", "/connect/server_cpu_us", Better::Lower),
    figure("client us/connection", "/connect/client_cpu_us", Better::Lower),
    figure("server s/million", "/server/cpu_seconds_per_million", Better::Lower),
    figure("server cores", "/server/cores", Better::Shown),
    figure("server B/connection", "/idle/server_bytes_per_connection", Better::Lower),
    figure("server B resident", "/server/rss_bytes", Better::Shown),
    figure("client s/million", "/client/cpu_seconds_per_million", Better::Lower),
    figure("client B/connection", "/idle/client_bytes_per_connection", Better::Lower),
    figure("client B resident", "/client/rss_bytes", Better::Shown),
];

impl Figure {
    /// Its value in a report that has it.
    pub(crate) fn of(&self, report: &Value) -> Option<f64> {
        report.pointer(self.path)?.as_f64()
    }

    /// Whether a report has something else than a number in its place.
    fn is_nonsense(&self, report: &Value) -> bool {
        report.pointer(self.path).is_some_and(|value| !value.is_number() && !value.is_null())
    }

    /// Whether it is judged in reports of `scenario`, and not only shown.
    fn is_judged(&self, scenario: &Value) -> bool {
        let opens = ["connect", "idle"].iter().any(|name| scenario == name);
        self.better != Better::Shown && (opens || !self.is_opening)
    }

    /// Whether `head` is worse than `base` by more than the share `allowed`.
    fn is_worse(&self, base: f64, head: f64, allowed: f64) -> bool {
        match self.better {
            Better::Higher => head < base * (1.0 - allowed),
            Better::Lower => head > base * (1.0 + allowed),
            Better::Shown => false,
        }
    }
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The new run does not hold where the old one did, and not by the machine's doing.
    Broken(String),
    /// Not compared, and not by the new server's doing: the machine was too busy for one of the
    /// runs, or it was the old one that did not hold.
    Excused(String),
    /// Nothing is worse than allowed.
    Fine,
    /// The reports cannot be held against each other.
    Unlike(String),
    /// So many figures are worse than allowed.
    Worse(u32),
}

impl Outcome {
    /// The exit code of a comparison of several reports: a regression outweighs what could not be
    /// compared. With `lenient`, what is excused does not count as long as anything was compared.
    pub(crate) fn code(all: &[Self], lenient: bool) -> u8 {
        let has = |kind: fn(&Self) -> bool| all.iter().any(kind);
        if has(|one| matches!(one, Self::Worse(_) | Self::Broken(_))) {
            return 1;
        }
        let compared = has(|one| matches!(one, Self::Fine));
        let unlike = has(|one| matches!(one, Self::Unlike(_)));
        let excused = has(|one| matches!(one, Self::Excused(_)));
        if compared && !unlike && (lenient || !excused) { 0 } else { 2 }
    }
}

/// Reads a share as `5%` or `5`, both five in a hundred.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) | Err(_) => Err("must be a percentage, as 5%".into()),
    }
}

/// Compares two reports, or two folders of reports by the names of their files. Returns the text
/// to show, and how each went.
pub(crate) fn run(base: &Path, head: &Path, allowed: f64) -> (String, Vec<Outcome>) {
    let mut text = String::new();
    let mut outcomes = Vec::new();
    match (base.is_dir(), head.is_dir()) {
        (true, true) => {
            for name in names(base) {
                put(&mut text, format_args!("{name}"));
                outcomes.push(one(&base.join(&name), &head.join(&name), allowed, &mut text));
            }
            for name in names(head).iter().filter(|name| !base.join(name).exists()) {
                put(&mut text, format_args!("{name}: only in {}", head.display()));
            }
            if outcomes.is_empty() {
                let why = format!("{} holds no reports", base.display());
                put(&mut text, format_args!("{why}"));
                outcomes.push(Outcome::Unlike(why));
            }
        }
        (false, false) => outcomes.push(one(base, head, allowed, &mut text)),
        (true, false) | (false, true) => {
            let why = "cannot compare a folder with a file".to_owned();
            put(&mut text, format_args!("{why}"));
            outcomes.push(Outcome::Unlike(why));
        }
    }
    (text, outcomes)
}

/// The reports of a folder, by name.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
    names.sort();
    names
}

fn one(base: &Path, head: &Path, allowed: f64, text: &mut String) -> Outcome {
    let outcome = match (parse(base), parse(head)) {
        (Ok(old), Ok(new)) => match standing(base, &old).against(standing(head, &new)) {
            Some(outcome) => outcome,
            None => match unlike(&old, &new) {
                None => table(&old, &new, allowed, text),
                Some(why) => Outcome::Unlike(why),
            },
        },
        (Err(why), _) | (_, Err(why)) => Outcome::Unlike(why),
    };
    match &outcome {
        Outcome::Broken(why) => put(text, format_args!("  BROKEN: {why}")),
        Outcome::Excused(why) => put(text, format_args!("  not compared: {why}")),
        Outcome::Unlike(why) => put(text, format_args!("  cannot be compared: {why}")),
        Outcome::Fine | Outcome::Worse(_) => {}
    }
    outcome
}

/// Whether the figures of a report hold.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// They do not, and a busy machine does not explain it.
    Broken(String),
    Holds,
    /// They do not, because the machine was too busy.
    Machine(String),
}

impl Standing {
    /// What is to be said of the two without a look at their figures; `None` when both hold.
    fn against(self, head: Self) -> Option<Outcome> {
        match (self, head) {
            (Self::Holds, Self::Holds) => None,
            // What did not hold before is not the new one's doing.
            (Self::Broken(why), _) => Some(Outcome::Excused(why)),
            (Self::Holds | Self::Machine(_), Self::Broken(why)) => Some(Outcome::Broken(why)),
            (_, Self::Machine(why)) | (Self::Machine(why), Self::Holds) => {
                Some(Outcome::Excused(why))
            }
        }
    }
}

/// Whether the figures of the report at `path` hold.
fn standing(path: &Path, report: &Value) -> Standing {
    let shown = path.display();
    let violations = report.pointer("/verdict/violations").and_then(Value::as_u64);
    if let Some(violations @ 1..) = violations {
        return Standing::Broken(format!("{shown} is of a run with {violations} violations"));
    }
    let reasons: Vec<&Value> = report["invalid"].as_array().into_iter().flatten().collect();
    let code = |reason: &Value| reason["code"].as_str().unwrap_or_default().to_owned();
    let broken = reasons.iter().find(|reason| !is_machine(&code(reason)));
    let why = |reason: &Value| {
        let why = reason["text"].as_str().unwrap_or_default();
        format!("{shown} is of an invalid run: {why}")
    };
    match (broken, reasons.first()) {
        (Some(reason), _) => Standing::Broken(why(reason)),
        (None, Some(reason)) => Standing::Machine(why(reason)),
        (None, None) => Standing::Holds,
    }
}

/// Reads a report of this schema whose figures hold.
pub(crate) fn read(path: &Path) -> Result<Value, String> {
    let report = parse(path)?;
    match standing(path, &report) {
        Standing::Holds => Ok(report),
        Standing::Broken(why) | Standing::Machine(why) => Err(why),
    }
}

/// Reads a report of this schema.
fn parse(path: &Path) -> Result<Value, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let report: Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown} is not JSON: {error}"))?;
    match report.get("schema").and_then(Value::as_str) {
        Some(SCHEMA) => {}
        Some(other) => return Err(format!("{shown} has the schema {other}, not {SCHEMA}")),
        None => return Err(format!("{shown} is not a report of weir-loadgen")),
    }
    let is_reason = |reason: &Value| reason["code"].is_string() && reason["text"].is_string();
    let reasons = report["invalid"].as_array();
    if !reasons.is_some_and(|reasons| reasons.iter().all(is_reason)) {
        return Err(format!("{shown} does not say whether its run was valid"));
    }
    if !report["sizes"].is_object() || !report["texts"].is_object() {
        return Err(format!("{shown} does not say of what work it is"));
    }
    match FIGURES.iter().find(|figure| figure.is_nonsense(&report)) {
        Some(figure) => Err(format!("{shown}: {} is not a number", figure.path)),
        None => Ok(report),
    }
}

/// Why two reports are not of the same work.
fn unlike(base: &Value, head: &Value) -> Option<String> {
    if base["scenario"] != head["scenario"] {
        return Some(format!("scenario {} and {}", base["scenario"], head["scenario"]));
    }
    ["sizes", "texts"].into_iter().find_map(|part| {
        let (base, head) = (base[part].as_object()?, head[part].as_object()?);
        let mut names = base.keys().chain(head.keys());
        let name = names.find(|name| base.get(*name) != head.get(*name))?;
        let shown = |of: &serde_json::Map<String, Value>| {
            of.get(name).map_or_else(|| "nothing".to_owned(), ToString::to_string)
        };
        Some(format!("{name} is {} and {}", shown(base), shown(head)))
    })
}

fn table(base: &Value, head: &Value, allowed: f64, text: &mut String) -> Outcome {
    let (mut worse, mut judged, mut missing) = (0, 0, None);
    put(text, format_args!("  {:<20} {:>14} {:>14} {:>8}", "", "base", "head", "ratio"));
    for figure in &FIGURES {
        let is_judged = figure.is_judged(&base["scenario"]);
        let (old, new) = match (figure.of(base), figure.of(head)) {
            (Some(old), Some(new)) => (old, new),
            (None, None) => continue,
            (old, _) => {
                put(text, format_args!("  {:<20} only in one of the two", figure.name));
                if old.is_some() && is_judged {
                    missing.get_or_insert(figure.name);
                }
                continue;
            }
        };
        judged += u32::from(is_judged);
        let is_worse = is_judged && figure.is_worse(old, new, allowed);
        worse += u32::from(is_worse);
        let ratio = if old == new { 1.0 } else { new / old };
        let mark = if is_worse { "  WORSE" } else { "" };
        let (old, new) = (number(old), number(new));
        put(text, format_args!("  {:<20} {old:>14} {new:>14} {ratio:>7.3}x{mark}", figure.name));
    }
    if base["host"] != head["host"] {
        put(text, format_args!("  note: the two were run on different machines or kernels"));
    }
    match (worse, missing, judged) {
        (1.., _, _) => Outcome::Worse(worse),
        (0, Some(name), _) => Outcome::Unlike(format!("only base has {name}")),
        (0, None, 0) => Outcome::Unlike("they have no figure in common that is judged".to_owned()),
        (0, None, _) => Outcome::Fine,
    }
}

/// A figure as a table shows it.
pub(crate) fn number(value: f64) -> String {
    if value >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// Writing to a `String` cannot fail.
fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).ok();
    text.push('\n');
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
