//! Rules about the code itself. Each is a function over a file's path and text, and each is seen to
//! fail on a planted violation before it is applied to the tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src/`, lowest first. A file may import its own folder and those before it.
const LAYERS: [&str; 9] =
    ["proto", "core", "store", "app", "shard", "http", "config", "server", "cli"];

/// The most lines of a file, its tests included.
const LINES_MAX: usize = 500;

type Rule = fn(&str, &str) -> Vec<String>;

/// Rules for every `.rs` file of the project.
const RULES: [Rule; 6] = [imports, length, opening, declarations, ascii, leftovers];

/// The place of a path's folder in [`LAYERS`]; files beside the folders may use everything.
fn layer_of(path: &str) -> usize {
    let name = path.strip_prefix("src/").and_then(|rest| rest.split(['/', '.']).next());
    LAYERS.iter().position(|layer| Some(*layer) == name).unwrap_or(LAYERS.len())
}

/// Lines with their numbers, without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.map(|(at, line)| {
        let comment = line.trim_start().starts_with("//");
        (at, if comment { "" } else { line.split(" // ").next().unwrap_or(line) })
    })
}

fn imports(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if path.starts_with("loadgen/") {
        for (at, line) in code_lines(text) {
            if line.contains("weir::") {
                faults.push(format!("{path}:{at}: loadgen uses nothing of the gateway"));
            }
        }
        return faults;
    }
    if !path.starts_with("src/") {
        return faults;
    }
    for (at, line) in code_lines(text) {
        if line.contains("crate::{") || line.contains("super::super") {
            faults.push(format!("{path}:{at}: spell the path out"));
        }
        for target in line.split("crate::").skip(1) {
            let target: String = target.chars().take_while(|c| c.is_alphanumeric()).collect();
            let rank = LAYERS.iter().position(|name| *name == target);
            if rank.is_some_and(|rank| rank > layer_of(path)) {
                faults.push(format!(
                    "{path}:{at}: may not use `{target}`: move the code down or return a value"
                ));
            }
        }
    }
    faults
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let fault = format!("{path}: {lines} lines, at most {LINES_MAX}: split it by noun");
    if lines > LINES_MAX { vec![fault] } else { Vec::new() }
}

fn opening(path: &str, text: &str) -> Vec<String> {
    let fault = format!("{path}: opens with `//!` that says what it owns");
    if text.starts_with("//! ") { Vec::new() } else { vec![fault] }
}

/// A `mod.rs` holds declarations: no type, no function body; at most the folder's one trait.
fn declarations(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with("/mod.rs") {
        return Vec::new();
    }
    let starts = ["fn ", "struct ", "enum ", "impl ", "impl<", "static ", "macro_rules!"];
    let mut traits = 0;
    let mut faults = Vec::new();
    for (at, line) in code_lines(text) {
        // Only what stands at the margin: a trait's own methods are indented.
        let item = line.strip_prefix("pub ").unwrap_or(line);
        let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
        let item = item.strip_prefix("async ").unwrap_or(item);
        traits += usize::from(item.starts_with("trait "));
        if starts.iter().any(|start| item.starts_with(start)) || traits > 1 {
            faults.push(format!("{path}:{at}: mod.rs holds declarations and at most one trait"));
        }
    }
    faults
}

fn ascii(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_ascii());
    lines.map(|(at, _)| format!("{path}:{}: only ASCII", at + 1)).collect()
}

fn leftovers(path: &str, text: &str) -> Vec<String> {
    // Spelled in two parts, so that this file keeps its own rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let found = text.lines().enumerate().filter(|(_, line)| {
        line.split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word))
    });
    found.map(|(at, _)| format!("{path}:{}: do it, or say it in an issue", at + 1)).collect()
}

/// Every file of `names` must be a `mod` in `main`.
fn listed(names: &[String], main: &str) -> Vec<String> {
    let missing = names.iter().filter(|name| !main.lines().any(|l| l == format!("mod {name};")));
    missing.map(|name| format!("tests/it/{name}.rs is not in tests/it/main.rs")).collect()
}

/// Whether a page has this word, or the metric of this name.
fn has_word(page: &str, word: &str) -> bool {
    let words = page.split(|c: char| !c.is_alphanumeric() && c != '_');
    let bare = words.map(|word| word.strip_prefix("weir_").unwrap_or(word));
    bare.map(|word| word.strip_suffix("_total").unwrap_or(word)).any(|other| other == word)
}

/// Every number of four digits that closes.rs spells must stand in the protocol's page.
fn codes_documented(close: &str, page: &str) -> Vec<String> {
    let code = close.split("#[cfg(test)]").next().unwrap_or_default();
    let digits = code.split(|c: char| !c.is_ascii_digit());
    // 1006 never goes over the wire: it is the label of a lost connection.
    let codes = digits.filter(|word| word.len() == 4 && *word != "1006");
    let missing = codes.filter(|code| !has_word(page, code));
    missing.map(|code| format!("close code {code} is not in docs/protocol.md")).collect()
}

/// The families that metrics.rs names: the first text of each family of counters, and of
/// each `(Self::A, "name_seconds"`.
fn families(metrics: &str) -> Vec<String> {
    let code = metrics.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = Vec::new();
    for (_, line) in code_lines(code) {
        let counter = line.strip_prefix("    \"");
        let timing = line.trim_start().strip_prefix("(Self::").and_then(|it| it.split_once(", \""));
        if let Some(rest) = counter.or_else(|| timing.map(|(_, rest)| rest)) {
            let name = rest.split('"').next().unwrap_or_default().to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn metrics_documented(metrics: &str, page: &str) -> Vec<String> {
    let missing = families(metrics).into_iter().filter(|name| !has_word(page, name));
    missing.map(|name| format!("metric {name} is not in docs/operation.md")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `.rs` file of the project, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "loadgen"] {
        walk(&root().join(folder), &mut found);
    }
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    named.collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_source_file_keeps_the_rules() {
    let sources = sources();
    assert!(sources.len() > 10, "the tree was found");
    let broken = sources.iter().flat_map(|(path, text)| RULES.iter().flat_map(|r| r(path, text)));
    assert_none(&broken.collect::<Vec<_>>());
}

#[test]
fn every_file_of_the_integration_binary_is_listed() {
    let mut files = Vec::new();
    walk(&root().join("tests/it"), &mut files);
    let stems = files.iter().filter_map(|path| path.file_stem()?.to_str().map(str::to_owned));
    let names: Vec<_> = stems.filter(|stem| stem != "main").collect();
    assert!(names.len() > 5);
    assert_none(&listed(&names, &read("tests/it/main.rs")));
}

#[test]
fn every_close_code_is_documented() {
    assert_none(&codes_documented(&read("src/proto/close.rs"), &read("docs/protocol.md")));
}

#[test]
fn every_metric_is_documented() {
    let metrics = read("src/core/metrics.rs");
    assert!(families(&metrics).len() > 10, "the list was understood");
    assert_none(&metrics_documented(&metrics, &read("docs/operation.md")));
}

#[test]
fn planted_violations_are_found() {
    let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
    let task = format!("//! Later.\n// {}: all of it\n", concat!("TO", "DO"));
    let planted: [(Rule, &str, &str); 13] = [
        (imports, "src/proto/name.rs", "use crate::core::hub::Hub;"),
        (imports, "src/core/hub.rs", "    let x = crate::shard::Local::new();"),
        (imports, "src/server.rs", "use crate::cli::Arguments;"),
        (imports, "src/core/hub.rs", "use crate::{proto, shard};"),
        (imports, "src/core/hub.rs", "use super::super::shard;"),
        (imports, "loadgen/src/plan.rs", "use weir::core::metrics::Metrics;"),
        (length, "src/a.rs", &long),
        (opening, "src/a.rs", "use std::fmt;\n"),
        (declarations, "src/core/mod.rs", "//! State.\npub fn now() {}\n"),
        (declarations, "src/core/mod.rs", "//! State.\npub(crate) struct A;\n"),
        (declarations, "src/core/mod.rs", "//! State.\npub trait A {}\npub trait B {}\n"),
        (ascii, "src/a.rs", "//! Caf\u{e9}.\n"),
        (leftovers, "src/a.rs", &task),
    ];
    for (rule, path, text) in planted {
        assert!(!rule(path, text).is_empty(), "not found: {path}: {text:.80}");
    }
    assert!(!listed(&["slow".to_owned()], "mod basics;\n").is_empty());
    assert!(!codes_documented("Self::Slow => Some(4000),", "| 4001 |").is_empty());
    let counter = "    \"upgrades\", \"\", \"Handshakes.\":";
    assert!(!metrics_documented(counter, "`connections`").is_empty());
    let timing = "        (Self::Tick, \"tick_seconds\", \"One turn of a shard.\"),";
    assert!(!metrics_documented(timing, "`connections`").is_empty());
}

#[test]
fn what_is_right_passes() {
    let right: [(Rule, &str, &str); 8] = [
        (imports, "src/shard/run.rs", "use crate::core::hub::Hub;\nuse crate::shard::mailbox;"),
        (imports, "src/main.rs", "use weir::cli;"),
        (imports, "src/proto/a.rs", "// see crate::core::hub"),
        (imports, "loadgen/src/plan.rs", "use crate::wire::frame;"),
        (opening, "src/a.rs", "//! Owns a.\n"),
        (
            declarations,
            "src/store/mod.rs",
            "//! S.\npub mod memory;\npub trait Store {\n    fn a();\n}\n",
        ),
        (ascii, "src/a.rs", "//! Plain.\n"),
        (leftovers, "src/a.rs", "//! Nothing to do.\n"),
    ];
    for (rule, path, text) in right {
        assert_none(&rule(path, text));
    }
    assert_none(&listed(&["slow".to_owned()], "mod basics;\nmod slow;\n"));
}
