//! What a client reads, and the model of what it has a right to.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde_json::Value;
use weir::ClientId;
use weir::core::policy::Policy;
use weir::proto::format::Format;
use weir::proto::rate::Rate;
use weir::proto::ws::frame::Opcode;

use crate::model::{Head, covered, entry, meant, newest};
use crate::spoken;
use crate::sub::Sub;
use crate::tally::Tally;

/// One published event as the model keeps it; its offset is its place in the log, from 1.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The number in its data.
    pub(crate) number: u64,
    /// Its key.
    pub(crate) key: Option<Box<str>>,
    /// The client that does not want to see it.
    pub(crate) hidden_from: Option<ClientId>,
}

/// Every event of every life of a channel, by alias, and the aliases of each channel, in order.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) all: HashMap<u64, Vec<Entry>>,
    pub(crate) lives: HashMap<&'static str, Vec<u64>>,
}

impl std::ops::Index<&u64> for Logs {
    type Output = Vec<Entry>;

    fn index(&self, alias: &u64) -> &Vec<Entry> {
        &self.all[alias]
    }
}

/// An answer that the client waits for.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Of that type.
    Plain(&'static str),
    /// To a channel that it did not have by name: the offset that it comes back to, where it is
    /// said to get all since; and whether it is shown the newest event of each key.
    Begun { since: Option<u64>, snapshot: bool },
    /// To a pattern, and the heads of its channels when it was answered; and whether the newest
    /// event of each key is shown of those that were not had before.
    Pattern { heads: Vec<Head>, snapshot: bool },
}

/// What a client has asked to happen when it is slow, on one channel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// `latest`, with room for every key; and anything else.
    pub(crate) latest: bool,
    pub(crate) other: bool,
}

/// How a client has a channel that it wants less often: the pattern if it is by one, and the rate.
pub(crate) type Way = (Option<&'static str>, Rate);

/// A client: the bytes it has read, and what it makes of them.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    format: Format,
    batch: bool,
    bytes: Vec<u8>,
    pub(crate) subs: HashMap<String, Sub>,
    /// Answers it waits for, in order.
    pub(crate) answers: VecDeque<Answer>,
    patterns: BTreeSet<String>,
    pub(crate) closed: bool,
    /// The server has begun to shut it down; how much of what was written before that is yet to be
    /// read, and whether the frame that is read was begun since.
    pub(crate) ends: bool,
    before_end: usize,
    pub(crate) behind_end: bool,
    pub(crate) asked: HashMap<String, Asked>,
    /// The offsets after which it has a channel on another way, or is throttled no longer, by alias.
    ways: HashMap<u64, Vec<(u64, Option<Way>)>>,
    /// The aliases that it was told.
    aliases: BTreeSet<u64>,
    /// The last offsets that its shard had fanned out when it was shut down, by alias.
    heads: HashMap<u64, u64>,
    /// The same when it was cut, and when that was.
    pub(crate) cut: Option<(HashMap<u64, u64>, u64)>,
    /// It has had a rate, has come back to a place, or has ended a subscription.
    pub(crate) asks_less: bool,
    /// What it has seen.
    pub(crate) tally: Tally,
}

impl Client {
    /// A client that speaks `format`, and has read nothing.
    pub(crate) fn new(id: ClientId, (format, batch): (Format, bool)) -> Self {
        let (bytes, subs, answers, patterns, asked, ways, heads) = Default::default();
        let (closed, ends, tally) = (false, false, Tally::default());
        Self {
            id,
            format,
            batch,
            bytes,
            subs,
            answers,
            patterns,
            asked,
            ways,
            aliases: BTreeSet::new(),
            heads,
            cut: None,
            asks_less: false,
            closed,
            ends,
            before_end: 0,
            behind_end: false,
            tally,
        }
    }

    /// The client asks for a policy; `all` says that the newest event of every key is kept.
    pub(crate) fn asks(&mut self, channel: &str, policy: Policy, all: bool) {
        let asked = self.asked.entry(channel.to_owned()).or_default();
        asked.latest |= policy == Policy::Latest;
        asked.other |= policy != Policy::Latest || !all;
    }

    /// The client is told an alias.
    pub(crate) fn learns(&mut self, alias: u64) {
        self.aliases.insert(alias);
    }

    /// The client has the channel on another way from here on, when all up to the offset `head`
    /// was fanned out.
    pub(crate) fn throttles(&mut self, alias: u64, head: u64, way: Option<Way>) {
        self.asks_less |= way.is_some();
        let ways = self.ways.entry(alias).or_default();
        if ways.last().and_then(|(_, way)| *way) != way {
            ways.push((head, way));
        }
    }

    /// What was held back on one way comes before the next: those from `at` on, and where it ends.
    fn way(&self, alias: u64, at: u64) -> (Option<Way>, u64) {
        let ways = self.ways.get(&alias).map_or(&[][..], Vec::as_slice);
        let Some(from) = ways.iter().rposition(|(head, _)| *head < at) else {
            return (None, u64::MAX);
        };
        let until = ways.get(from + 1).map_or(u64::MAX, |(head, _)| *head);
        (ways[from].1, until)
    }

    /// Whether the event may be left out, because it came to a throttled subscription and a newer
    /// one of its key did as well.
    pub(crate) fn spared(&self, alias: u64, log: &[Entry], at: u64) -> bool {
        let (way, until) = self.way(alias, at);
        let until = usize::try_from(until).unwrap().min(log.len());
        let newer = log.get(usize::try_from(at).unwrap()..until).unwrap_or_default();
        way.is_some() && newer.iter().any(|newer| newer.key == entry(log, at).key)
    }

    /// Of the events after `from` and before `to`: how many are meant for the client, and how many
    /// of these must not be left out.
    fn owed(&self, alias: u64, logs: &Logs, from: u64, to: u64) -> (u64, u64) {
        let log = &logs[&alias];
        let meant = (from + 1..to).filter(|at| entry(log, *at).hidden_from != Some(self.id));
        let owed = meant.clone().filter(|at| !self.spared(alias, log, *at));
        (meant.count() as u64, owed.count() as u64)
    }

    /// Reads bytes, and checks each frame that they complete against the model.
    pub(crate) fn read(&mut self, bytes: &[u8], logs: &Logs) {
        self.bytes.extend_from_slice(bytes);
        while let Some((opcode, deflated, message, end)) = spoken::message(&self.bytes) {
            assert!(!self.closed, "nothing follows a close");
            let plain = if deflated { spoken::inflate(&message, self.format) } else { message };
            self.bytes.drain(..end);
            self.behind_end = self.ends && self.before_end == 0;
            self.before_end = self.before_end.saturating_sub(end);
            self.tally.formats[self.format.index()] +=
                u64::from(deflated || opcode == Opcode::Binary);
            match opcode {
                Opcode::Text => {
                    let messages = spoken::messages(&plain, self.batch);
                    self.tally.joined[usize::from(deflated)] += u64::from(messages.len() > 1);
                    messages.iter().for_each(|message| self.text(message, logs));
                }
                Opcode::Binary => {
                    let event =
                        spoken::binary(&plain, self.format, |alias| self.named(alias, logs));
                    self.text(&event, logs);
                }
                Opcode::Close => self.closed = true,
                Opcode::Continuation | Opcode::Ping | Opcode::Pong => {
                    panic!("nobody sends {opcode:?}")
                }
            }
        }
    }

    /// The channel of an alias that the client was told.
    fn named(&self, alias: u64, logs: &Logs) -> String {
        assert!(self.aliases.contains(&alias), "{}: the alias {alias} was never told", self.id);
        let mut lives = logs.lives.iter();
        (*lives.find(|(_, aliases)| aliases.contains(&alias)).unwrap().0).to_owned()
    }

    fn text(&mut self, text: &Value, logs: &Logs) {
        let kind = text["type"].as_str().unwrap();
        let channel = text["channel"].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text[name].as_u64().unwrap();
        if let Some(sub) = self.subs.get_mut(&channel) {
            sub.find(&channel, logs);
            self.tally.by_pattern += u64::from(!sub.by_name);
            let (alias, by_name) = (sub.alias, sub.by_name);
            let last = self.ways.get(&alias).and_then(|ways| ways.last()?.1);
            let both = by_name && last.is_some();
            self.tally.rated += u64::from(last.is_some_and(|(pattern, _)| pattern.is_some()));
            self.tally.both += u64::from(both && covered(&self.patterns, &channel));
        }
        match kind {
            "event" if text["snapshot"] == true => {
                self.shown(&channel, (number("offset"), number("data")), logs);
            }
            "event" => {
                let (offset, data) = (number("offset"), number("data"));
                self.follows(&channel, offset, logs);
                let told = self.told(&channel, (offset, offset), logs);
                assert_eq!(told, (data, 1), "{channel} {offset} with its own data, and not hidden");
                self.tally.events += 1;
                self.settled(&self.subs[&channel], logs);
                let sub = self.subs.get_mut(&channel).unwrap();
                // What it supersedes is not shown any more.
                sub.owed.remove(&entry(&logs[&sub.alias], offset).key);
            }
            "lagged" => {
                let hole = (number("from"), number("to"));
                self.follows(&channel, hole.0, logs);
                let (_, seen) = self.told(&channel, hole, logs);
                self.owe(&channel, hole, logs);
                let dropped = number("dropped");
                // Of what a rate might have left out, nobody here knows what it had; and under
                // `latest` a hole goes on over what waits for the next flush, which is shown.
                let (alias, latest) = (self.subs[&channel].alias, self.asked[&channel].latest);
                let sure = (hole.0..=hole.1).filter(|at| self.is_lost(alias, *at, latest, logs));
                let least = (sure.count() as u64).max(1);
                let counts = (least..=seen).contains(&dropped);
                assert!(counts, "{channel} {hole:?} counts {dropped}: {least} to {seen} were lost");
                self.tally.lagged += dropped;
            }
            "subscribed" => self.subscribed(&channel, text, logs),
            "unsubscribed" => self.unsubscribed(&channel),
            "disconnect" => {
                let ends = match text["reason"].as_str().unwrap() {
                    "slow_consumer" => &mut self.tally.slow,
                    "overloaded" => &mut self.tally.overloaded,
                    "shutdown" => &mut self.tally.shut,
                    other => panic!("nobody closes for {other}"),
                };
                *ends += 1;
                // Where the memory was needed, answers that were not read have gone as well.
                let told = self.answers.is_empty() || text["reason"] == "overloaded";
                assert!(told, "{}: {:?} was dropped", self.id, self.answers);
                self.shut(logs);
            }
            other => panic!("nobody sends {other}"),
        }
    }

    /// The client is shut down when this is what its shard has fanned out, where that is to come,
    /// and so much is written that it has not read.
    pub(crate) fn ends_at(&mut self, heads: Option<HashMap<u64, u64>>, unread: usize) {
        (self.ends, self.heads) = (true, heads.unwrap_or_default());
        self.before_end = self.bytes.len() + unread;
    }

    /// All that was fanned out before a shutdown has come, or was told as lost.
    fn shut(&self, logs: &Logs) {
        for (channel, sub) in &self.subs {
            let mut sub = sub.clone();
            sub.find(channel, logs);
            let Some(head) = self.heads.get(&sub.alias) else { continue };
            let log = &logs[&sub.alias][..usize::try_from(*head).unwrap()];
            let mut rest = sub.told.max(sub.spared) + 1..=*head;
            let owed = |at: u64| {
                entry(log, at).hidden_from != Some(self.id) && !self.spared(sub.alias, log, at)
            };
            assert!(!rest.any(owed), "{} {channel}: silence before a shutdown", self.id);
        }
    }

    /// Whether an event came to a throttled subscription.
    pub(crate) fn throttled(&self, alias: u64, at: u64) -> bool {
        self.way(alias, at).0.is_some()
    }

    fn subscribed(&mut self, channel: &str, text: &Value, logs: &Logs) {
        let answer = self.answers.pop_front().expect("answers come in order");
        let updated = text["updated"] == true;
        let tally = &mut self.tally;
        let Answer::Pattern { heads, snapshot } = answer else {
            let (alias, head) = (text["alias"].as_u64().unwrap(), text["offset"].as_u64().unwrap());
            tally.subscribed[if updated { 2 } else { 0 }] += 1;
            let (mut told, mut first) = (head, VecDeque::new());
            match answer {
                Answer::Begun { since, snapshot } if !updated => {
                    tally.begun[0] += since.map_or(0, |since| head - since);
                    told = since.unwrap_or(head);
                    self.asks_less |= since.is_some();
                    if snapshot {
                        first = newest(self.id, &logs[&alias], head);
                    }
                }
                Answer::Plain("subscribed") if updated => {}
                other @ (Answer::Begun { .. } | Answer::Pattern { .. } | Answer::Plain(_)) => {
                    panic!("answers come in order, not {other:?}")
                }
            }
            let fresh = Sub { alias, told, first, ..Sub::default() };
            // By pattern it goes on from where it is.
            let sub = self.subs.entry(channel.to_owned()).or_insert(fresh);
            assert!(sub.alias == 0 || sub.alias == alias, "{channel} has one life at a time");
            assert_eq!(std::mem::replace(&mut sub.by_name, true), updated, "{text}");
            (sub.alias, sub.named) = (alias, if updated { sub.named } else { head });
            return;
        };
        assert!(text["pattern"] == true && text["alias"].is_null() && text["offset"].is_null());
        tally.patterns[if updated { 2 } else { 0 }] += 1;
        let prefix = channel.strip_suffix('*').unwrap();
        assert_eq!(self.patterns.insert(prefix.to_owned()), !updated, "{text}");
        for Head { channel, alias, offset, dead } in heads {
            let mut first = VecDeque::new();
            if snapshot && alias != 0 {
                first = newest(self.id, &logs[&alias], offset);
            }
            let (told, begun, by_page) = (offset, offset, snapshot);
            let sub = Sub { alias, dead, told, begun, first, by_page, ..Sub::default() };
            let sub = self.subs.entry(channel.to_owned()).or_insert(sub);
            if !updated {
                sub.patterned.insert(prefix.to_owned(), offset);
            }
        }
    }

    fn unsubscribed(&mut self, channel: &str) {
        let answer = self.answers.pop_front();
        assert!(matches!(answer, Some(Answer::Plain("unsubscribed"))), "answers come in order");
        self.asks_less = true;
        if let Some(prefix) = channel.strip_suffix('*') {
            assert!(self.patterns.remove(prefix));
            self.tally.patterns[1] += 1;
        } else {
            assert!(std::mem::take(&mut self.subs.get_mut(channel).unwrap().by_name));
            self.tally.subscribed[1] += 1;
        }
        let patterns = &self.patterns;
        let prefix = channel.strip_suffix('*');
        self.subs.retain(|name, sub| {
            if let Some(prefix) = prefix {
                sub.patterned.remove(prefix);
            }
            if name == channel || prefix.is_some_and(|prefix| name.starts_with(prefix)) {
                sub.spared = sub.goes_on_from();
                sub.excused = sub.spared;
                sub.taken = true;
            }
            sub.by_name || covered(patterns, name)
        });
    }

    /// The client has read of `from..=to`. Returns the number of the last of them, and how many
    /// were not hidden from it.
    fn told(&mut self, channel: &str, (from, to): (u64, u64), logs: &Logs) -> (u64, u64) {
        let id = self.id;
        let sub = self.subs.get_mut(channel);
        let sub = sub.unwrap_or_else(|| panic!("{id}: an event of {channel}, not subscribed"));
        assert!(from > sub.told && from <= to, "{id} {channel}: {from}..={to} after {}", sub.told);
        let (alias, told) = (sub.alias, std::mem::replace(&mut sub.told, to));
        let spared = std::mem::take(&mut sub.spared).max(told);
        let log = &logs[&alias];
        let (missed, owed) = self.owed(alias, logs, spared, from);
        assert_eq!(owed, 0, "{id} {channel}: silence between {told} and {from}");
        self.tally.spared += missed;
        self.tally.hidden += (from - 1).saturating_sub(spared + missed);
        (entry(log, to).number, meant(id, log, from, to))
    }

    /// Whether an event of a hole was lost for sure: it is meant for the client, and no rate has
    /// left it out, or was yet to bring it.
    fn is_lost(&self, alias: u64, at: u64, latest: bool, logs: &Logs) -> bool {
        let log = &logs[&alias];
        let spared = if latest { self.throttled(alias, at) } else { self.spared(alias, log, at) };
        entry(log, at).hidden_from != Some(self.id) && !spared
    }

    /// All that was written has been read: is all accounted for?
    pub(crate) fn finish(&self, logs: &Logs) {
        assert!(self.bytes.is_empty(), "half a frame");
        if self.closed {
            return;
        }
        assert!(self.answers.is_empty(), "answers are never dropped");
        for (channel, sub) in &self.subs {
            let mut sub = sub.clone();
            sub.find(channel, logs);
            let Some(log) = logs.all.get(&sub.alias) else { continue };
            let told = sub.told.max(sub.spared);
            let (_, owed) = self.owed(sub.alias, logs, told, log.len() as u64 + 1);
            assert_eq!(owed, 0, "{} {channel}: silence after {}", self.id, sub.told);
            sub.pass(None, logs);
            assert!(
                sub.first.is_empty() || sub.taken,
                "{} {channel}: {:?} not shown",
                self.id,
                sub.first
            );
            self.settled(&sub, logs);
        }
    }
}
