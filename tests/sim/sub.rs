//! A subscription of a client in a simulation, and what is due of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::client::Logs;
use crate::model::entry;

/// A subscription as its client knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sub {
    /// 0 where it is by pattern, of a channel that was not there.
    pub(crate) alias: u64,
    pub(crate) dead: Option<u64>,
    pub(crate) by_name: bool,
    /// The offsets up to here need not be told: one of several subscriptions has ended, and the
    /// others began later.
    pub(crate) spared: u64,
    /// Nor does what is due of holes up to here have to be shown, for the same reason.
    pub(crate) excused: u64,
    /// Where the subscription by name began, and those by pattern, by prefix.
    pub(crate) named: u64,
    pub(crate) patterned: BTreeMap<String, u64>,
    /// The offsets up to here were read, told as lost, or are not for it.
    pub(crate) told: u64,
    /// The last hole, and the last event of it that was shown.
    pub(crate) hole: (u64, u64),
    pub(crate) shown: u64,
    /// What is to be shown of it: the newest event of each key.
    pub(crate) owed: BTreeMap<Option<Box<str>>, u64>,
    /// What is to be shown first, since it has just come; and whether it may be taken back, since
    /// the subscription has ended and another goes on.
    pub(crate) first: VecDeque<u64>,
    pub(crate) taken: bool,
    /// Of that, what has a newer event of its key need not be shown.
    pub(crate) by_page: bool,
    /// Where it began, and what newer events of it were shown first, since a rate leaves them out.
    pub(crate) begun: u64,
    pub(crate) paged: BTreeSet<u64>,
}

impl Sub {
    /// Where the subscription began by which the channel goes on: the one by name, or by the longest
    /// pattern.
    pub(crate) fn goes_on_from(&self) -> u64 {
        let longest = self.patterned.iter().max_by_key(|(prefix, _)| prefix.len());
        if self.by_name { self.named } else { longest.map_or(0, |(_, begun)| *begun) }
    }

    /// Passes by what is not shown of a page before `offset`, because its key has a newer event.
    pub(crate) fn pass(&mut self, offset: Option<u64>, logs: &Logs) {
        if !self.by_page || self.first.is_empty() {
            return;
        }
        let log = &logs[&self.alias];
        while let Some(first) = self.first.front().copied().filter(|first| Some(*first) != offset)
            && (first + 1..=log.len() as u64).any(|at| entry(log, at).key == entry(log, first).key)
        {
            self.first.pop_front();
        }
    }

    /// Looks for the life of a channel that was not there when its pattern was subscribed to.
    pub(crate) fn find(&mut self, channel: &str, logs: &Logs) {
        if self.alias == 0 {
            let lives = logs.lives.get(channel).map_or(&[][..], Vec::as_slice);
            let dead = self.dead.and_then(|dead| lives.iter().position(|life| *life == dead));
            // Once it lives, it does so for as long as the pattern is there.
            let next = lives.get(dead.map_or(0, |dead| dead + 1));
            self.alias = next.copied().unwrap_or(0);
        }
    }
}
