//! What is wrong with a setting, and where it was written.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was written. In the order in which faults are told, each later one wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nowhere: the embedded default.
    Default,
    /// A line of the configuration file, counted from 1; 0 is the file as a whole.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line, such as `--listen`.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// Where it stands.
    pub source: Source,
    /// The setting's key; empty when the fault is the file's own.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl BadSetting {
    /// A fault of `key`, written at `source`.
    pub fn new(source: Source, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { source, key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// What is wrong with a name that is none of `candidates`, and which one may have been meant.
/// `what` is what it should have been.
pub(super) fn unknown<'a>(
    what: &str,
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(word, candidates) {
        Some(near) => format!("no such {what}; the nearest is {near}"),
        None => format!("no such {what} in this version"),
    }
}

/// The candidate that `word` most likely meant: one of that very name in another section, or else
/// one that is so close that it may be a slip.
fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A section before it, which the candidates have too, makes no slip likelier.
    let far = (own(word).len() / 3).max(2);
    let measured = candidates.into_iter().map(|candidate| {
        let elsewhere = own(candidate) == own(word);
        (!elsewhere, distance(word, candidate), candidate)
    });
    let close = measured.filter(|(other, distance, _)| !other || *distance <= far);
    close.min_by_key(|(other, distance, _)| (*other, *distance)).map(|(.., candidate)| candidate)
}

/// The name without its section, as in the file or as a variable has it.
fn own(name: &str) -> &str {
    let name = name.rsplit('.').next().unwrap_or(name);
    name.rsplit("__").next().unwrap_or(name).trim_start_matches("WEIR_")
}

/// How many single characters must change to turn `a` into `b` (Levenshtein).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(nearest("lisen", ["shards", "listen", "drain"]), Some("listen"));
        assert_eq!(nearest("dr", ["shards", "node", "drain"]), None);
        assert_eq!(nearest("history", ["slow", "name", "slow_choice"]), None);
        assert_eq!(nearest("http.drain", ["http.ping", "drain"]), Some("drain"));
        let in_two = ["limits.memory", "store.memory"];
        assert_eq!(nearest("stor.memory", in_two), Some("store.memory"));
        let variables = ["WEIR_LIMITS__MEMORY", "WEIR_STORE__MEMORY", "WEIR_NODE"];
        assert_eq!(nearest("WEIR_STORE_MEMORY", variables), Some("WEIR_STORE__MEMORY"));
        assert_eq!(nearest("WEIR_HTTP__NODE", variables), Some("WEIR_NODE"));
        assert_eq!(unknown("key", "a.names", ["a.name"]), "no such key; the nearest is a.name");
        assert_eq!(unknown("key", "tls", ["limits", "log"]), "no such key in this version");
    }
}
