//! What a client that was cut is told when it comes back, and what it knows of that itself.

use std::collections::HashMap;

use weir::proto::close::CloseReason;
use weir::proto::push::Last;

use crate::client::{Client, Logs};
use crate::model::meant;

/// For so long it is remembered why somebody was cut, in milliseconds.
const FAREWELL_MS: u64 = 600_000;

impl Client {
    /// The client is cut at `now_ms`, when this is what its shard has fanned out.
    pub(crate) fn is_cut(&mut self, heads: HashMap<u64, u64>, now_ms: u64) {
        self.cut = Some((heads, now_ms));
    }

    /// A client that has read its close comes back, and is told why it was closed, and how many
    /// events it did not get.
    pub(crate) fn comes_back(&mut self, last: Option<Last>, now_ms: u64, logs: &Logs) {
        if !self.closed {
            return;
        }
        let Some((heads, cut_ms)) = self.cut.take() else { return };
        let Some(Last { reason, dropped }) = last else {
            assert!(now_ms >= cut_ms + FAREWELL_MS, "{} is not told that it was cut", self.id);
            return;
        };
        assert!(matches!(reason, CloseReason::Overloaded | CloseReason::SlowConsumer));
        let told = self.tally.lagged;
        assert!(told <= dropped, "{}: {told} are told as lost, {dropped} in the end", self.id);
        // What a rate leaves out, what was taken back, and what is left of the past are no losses;
        // and of what was not answered it knows nothing.
        let exact = self.answers.is_empty() && !self.asks_less;
        if !exact || reason == CloseReason::SlowConsumer {
            return;
        }
        let open = self.subs.iter().map(|(channel, sub)| {
            let mut sub = sub.clone();
            sub.find(channel, logs);
            let head = heads.get(&sub.alias).copied().unwrap_or(0);
            if head > sub.told { meant(self.id, &logs[&sub.alias], sub.told + 1, head) } else { 0 }
        });
        assert_eq!(dropped, told + open.sum::<u64>(), "{} was cut for {reason:?}", self.id);
        self.tally.lasts += 1;
    }
}
