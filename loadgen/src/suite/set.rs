//! The standard set: the one place that lists its runs.

use clap::ValueEnum;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scale {
    /// The same runs, each with few connections and for half a second: whether all of it works here.
    /// Its figures say nothing.
    Smoke,
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

impl Case {
    /// Its command line at a scale.
    pub(crate) fn arguments(&self, scale: Scale) -> Vec<String> {
        if scale > Scale::Smoke {
            return self.arguments.iter().map(|&argument| argument.to_owned()).collect();
        }
        let mut smoke = Vec::new();
        let mut arguments = self.arguments.iter();
        while let Some(&argument) = arguments.next() {
            let shorter = match argument {
                "-c" | "--channels" => |count: f64| (count / 20.0).max(2.0),
                "--settle" | "--hold" => |_| 0.2,
                "--duration" => {
                    arguments.next();
                    continue;
                }
                _ => {
                    smoke.push(argument.to_owned());
                    continue;
                }
            };
            let value = arguments.next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
            smoke.extend([argument.to_owned(), shorter(value).to_string()]);
        }
        if !["connect", "idle"].contains(&self.arguments[0]) {
            let times = ["--warmup", "0.2", "--duration", "0.5", "--late-max", "1000"];
            smoke.extend(times.map(str::to_owned));
        }
        smoke
    }

    /// Whether a scale has it.
    pub(crate) fn is_in(&self, scale: Scale) -> bool {
        self.from <= scale.max(Scale::Small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke_is_the_same_work_made_small() {
        let smoke = |name| {
            let case = SET.iter().find(|case| case.name == name).expect("it is there");
            assert!(case.is_in(Scale::Smoke));
            case.arguments(Scale::Smoke).join(" ")
        };
        assert_eq!(smoke("idle-10k"), "idle -c 500 --settle 0.2 --hold 0.2");
        assert_eq!(
            smoke("slow-1k"),
            "slow -c 50 --share 0.1 --rate 100 --verify --warmup 0.2 --duration 0.5 --late-max 1000"
        );
        let full = SET.iter().filter(|case| !case.is_in(Scale::Small));
        assert!(full.clone().all(|case| !case.is_in(Scale::Smoke) && case.is_in(Scale::Full)));
        assert!(full.count() > 0);
    }

    #[test]
    fn names_are_file_names_and_unique() {
        for (at, case) in SET.iter().enumerate() {
            assert!(case.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            assert!(SET[..at].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
