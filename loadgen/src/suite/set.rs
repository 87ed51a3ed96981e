//! The standard set: the one place that lists its runs.

use clap::ValueEnum;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scale {
    /// A minute and a half: what a CI runs.
    Small,
    /// Also 100,000 connections.
    Full,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// The name of its files.
    pub(crate) name: &'static str,
    /// The smallest scale that has it.
    pub(crate) from: Scale,
    /// Shards of the gateway: each has its own table of descriptors.
    pub(crate) shards: u32,
    /// The gateway's configuration beyond its defaults.
    pub(crate) config: &'static str,
    /// The command line without the address and what the suite adds.
    pub(crate) arguments: &'static [&'static str],
}

const fn small(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { name, from: Scale::Small, shards: 1, config: "", arguments }
}

/// A small run of channels that keep their past.
const fn kept(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { config: HISTORY, ..small(name, arguments) }
}

const HISTORY: &str = "[defaults]\nhistory = 1000\n";

const fn full(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { name, from: Scale::Full, shards: 6, config: "", arguments }
}

/// Every run, in order. A run's name is the name of its report in a baseline: a run that becomes
/// other work gets another name.
pub(crate) const SET: [Case; 16] = [
    small("connect-10k", &["connect", "-c", "10000"]),
    small("idle-10k", &["idle", "-c", "10000", "--settle", "2", "--hold", "3"]),
    small("fanout-1k-w512", &["fanout", "-c", "1000", "--window", "512"]),
    small("fanout-1k-w1", &["fanout", "-c", "1000", "--window", "1"]),
    small("fanout-1k-rate", &["fanout", "-c", "1000", "--rate", "500", "--verify"]),
    small(
        "fanout-10k-1000ch",
        &["fanout", "-c", "10000", "--channels", "1000", "--window", "4096"],
    ),
    small(
        "until-last-1k",
        &["fanout", "-c", "1000", "--rate", "50", "--until-last", "--duration", "3"],
    ),
    small("publish-20", &["publish", "-c", "20", "--duration", "3", "--verify"]),
    small("publish-20-ndjson", &["publish", "-c", "20", "--via", "ndjson", "--duration", "3"]),
    small("echo-100", &["echo", "-c", "100", "--duration", "3"]),
    small(
        "slow-1k",
        &["slow", "-c", "1000", "--share", "0.1", "--rate", "100", "--duration", "3", "--verify"],
    ),
    small(
        "churn-1k",
        &[
            "churn",
            "-c",
            "1000",
            "--churn-rate",
            "200",
            "--rate",
            "100",
            "--duration",
            "3",
            "--verify",
        ],
    ),
    kept(
        "recover-1k-history",
        &[
            "recover",
            "-c",
            "1000",
            "--cut-rate",
            "100",
            "--rate",
            "100",
            "--duration",
            "3",
            "--verify",
            "--expect-recovered",
        ],
    ),
    kept(
        "storm-1k-history",
        &[
            "storm",
            "-c",
            "1000",
            "--rounds",
            "2",
            "--rate",
            "100",
            "--duration",
            "1",
            "--verify",
            "--expect-recovered",
        ],
    ),
    full("idle-100k", &["idle", "-c", "100000", "--settle", "3", "--hold", "10"]),
    // A window of one: each event has reached all before the next one leaves.
    full(
        "one-to-100k",
        &["fanout", "-c", "100000", "--window", "1", "--sample", "1", "--duration", "10"],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_and_unique() {
        for (at, case) in SET.iter().enumerate() {
            assert!(case.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            assert!(SET[..at].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
