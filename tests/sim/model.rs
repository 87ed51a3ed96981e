//! What the logs of a simulation say: which events there were, and for whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weir::ClientId;

use crate::client::Entry;

/// A channel as a subscription to a pattern found it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) channel: &'static str,
    /// 0 where it was not there.
    pub(crate) alias: u64,
    pub(crate) offset: u64,
    /// The alias of an earlier life, where it was not there.
    pub(crate) dead: Option<u64>,
}

pub(crate) fn covered(patterns: &BTreeSet<String>, channel: &str) -> bool {
    patterns.iter().any(|prefix| channel.starts_with(prefix))
}

pub(crate) fn entry(log: &[Entry], offset: u64) -> &Entry {
    &log[usize::try_from(offset).unwrap() - 1]
}

/// The newest event of each key up to `head`, but those that the client did not want to see.
pub(crate) fn newest(id: ClientId, log: &[Entry], head: u64) -> VecDeque<u64> {
    let keyed = (1..=head).filter_map(|at| Some((entry(log, at).key.as_ref()?, at)));
    let newest: BTreeMap<_, _> = keyed.collect();
    let newest: BTreeSet<u64> = newest.into_values().collect();
    newest.into_iter().filter(|at| entry(log, *at).hidden_from != Some(id)).collect()
}

/// How many events of `from..=to` are meant for the client.
pub(crate) fn meant(id: ClientId, log: &[Entry], from: u64, to: u64) -> u64 {
    let skip = usize::try_from(from - 1).unwrap();
    let range = &log[skip..usize::try_from(to).unwrap().max(skip)];
    range.iter().filter(|entry| entry.hidden_from != Some(id)).count() as u64
}
