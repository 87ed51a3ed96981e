//! What a client that lags, or has just come, is to be shown.

use std::collections::BTreeMap;

use crate::client::{Client, Logs};
use crate::model::entry;
use crate::sub::Sub;

impl Client {
    /// An event or a hole comes behind all that is shown first of its channel. What a pattern had
    /// not shown when the client was shut down is not shown, and what waited behind it comes.
    pub(crate) fn follows(&mut self, channel: &str, offset: u64, logs: &Logs) {
        let Some(sub) = self.subs.get_mut(channel) else { return };
        sub.pass(None, logs);
        if sub.by_page && self.behind_end {
            sub.first.clear();
        }
        let first = sub.first.is_empty() || sub.taken;
        assert!(first, "{channel} {offset} before what is shown first");
        assert!(!sub.paged.contains(&offset), "{channel} {offset} comes in both ways");
    }

    /// A hole was told: under `latest` the newest event of each key in it is due, but for what the
    /// client published itself and did not want to see.
    pub(crate) fn owe(&mut self, channel: &str, hole: (u64, u64), logs: &Logs) {
        let asked = self.asked[channel];
        let sub = self.subs.get_mut(channel).unwrap();
        (sub.hole, sub.shown) = (hole, 0);
        if !asked.latest || asked.other {
            return;
        }
        let (alias, excused, log) = (sub.alias, sub.excused, &logs[&sub.alias]);
        let newest: BTreeMap<_, _> =
            (hole.0..=hole.1).map(|at| (entry(log, at).key.clone(), at)).collect();
        let meant = newest.iter().filter(|(_, at)| entry(log, **at).hidden_from != Some(self.id));
        let meant = meant.map(|(key, at)| (key.clone(), *at)).collect();
        let before = std::mem::replace(&mut sub.owed, meant);
        self.tally.holes += u64::from(!before.is_empty());
        for (key, at) in before {
            let newer = newest.contains_key(&key) || self.superseded(alias, logs, at);
            // To one that is shut down, what is lost is told, and nothing is shown.
            assert!(
                newer || at <= excused || self.ends,
                "{channel} {at}: not shown, and nothing is newer"
            );
        }
    }

    /// All that was missed has been shown, or is superseded.
    pub(crate) fn settled(&self, sub: &Sub, logs: &Logs) {
        for at in sub.owed.values().filter(|at| **at > sub.excused && !self.ends) {
            assert!(self.superseded(sub.alias, logs, *at), "{} {at}: not shown", self.id);
        }
    }

    /// Whether there is a newer event of the same key that the client has published and did not
    /// want to see, or that it gets at the next flush: that one is due itself.
    fn superseded(&self, alias: u64, logs: &Logs, at: u64) -> bool {
        let (log, key) = (&logs[&alias], &entry(&logs[&alias], at).key);
        (at + 1..=log.len() as u64).map(|at| (at, entry(log, at))).any(|(at, newer)| {
            let own = newer.hidden_from == Some(self.id);
            newer.key == *key && (own || self.throttled(alias, at))
        })
    }

    pub(crate) fn shown(&mut self, channel: &str, (offset, data): (u64, u64), logs: &Logs) {
        let asked = self.asked[channel];
        let id = self.id;
        let sub = &self.subs[channel];
        let spared = self.spared(sub.alias, &logs[&sub.alias], offset);
        let sub = self.subs.get_mut(channel).unwrap();
        sub.pass(Some(offset), logs);
        let entry = entry(&logs[&sub.alias], offset);
        assert!(entry.number == data && entry.hidden_from != Some(id), "{id} {channel} {offset}");
        if let Some(first) = sub.first.pop_front() {
            if sub.taken && first != offset {
                sub.first.clear();
                return self.shown(channel, (offset, data), logs);
            }
            assert_eq!(offset, first, "each key, the oldest first");
            self.tally.begun[if sub.by_page { 2 } else { 1 }] += 1;
            return;
        }
        if sub.by_page && offset > sub.told {
            // The newest of its key when the page was read, and then left out for a newer one,
            // which a rate has brought or is to bring.
            assert!(spared, "{id} {channel} {offset} is in no page");
            assert_eq!(sub.told, sub.begun, "{id} {channel} {offset} behind what came live");
            assert!(sub.paged.last().is_none_or(|last| *last < offset), "in order, and once");
            sub.paged.insert(offset);
            self.tally.paged += 1;
            return;
        }
        assert!(asked.latest, "{id} {channel} {offset}: nobody asked for it");
        assert!(offset >= sub.hole.0 && offset <= sub.hole.1 && offset > sub.shown);
        sub.shown = offset;
        let due = sub.owed.remove(&entry.key);
        assert!(asked.other || due == Some(offset), "the newest of its key, once");
        self.tally.shown += 1;
    }
}
