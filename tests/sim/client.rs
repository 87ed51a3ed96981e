//! What a client reads, and the model of what it has a right to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weir::ClientId;
use weir::core::policy::Policy;
use weir::proto::ws::frame::{self, Opcode};

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

/// Every event of every life of a channel, by alias, and the living alias of each channel.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) all: HashMap<u64, Vec<Entry>>,
    pub(crate) lives: HashMap<&'static str, u64>,
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
    /// To a pattern, and the heads of its channels when it was answered.
    Pattern(Vec<Head>),
}

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

/// What happened, over all seeds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Events read.
    pub(crate) events: u64,
    /// Newest events of a key read behind a hole, and holes that went on in another.
    pub(crate) shown: u64,
    pub(crate) holes: u64,
    /// Events told as lagged.
    pub(crate) lagged: u64,
    /// Own events not read, as was asked.
    pub(crate) hidden: u64,
    /// Subscriptions, ends of them, and changes; and the same of patterns.
    pub(crate) subscribed: [u64; 3],
    pub(crate) patterns: [u64; 3],
    /// What was read or told of channels had by pattern alone.
    pub(crate) by_pattern: u64,
    /// Connections that were closed as slow.
    pub(crate) slow: u64,
    /// Connections begun to be closed: by the policy, and by a queue that stayed full.
    pub(crate) cut: [u64; 2],
    /// Events dropped, by policy.
    pub(crate) dropped: [u64; Policy::ALL.len()],
    /// Channels that began another life.
    pub(crate) reborn: u64,
}

impl Tally {
    /// Adds another count to this.
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.lagged += other.lagged;
        self.hidden += other.hidden;
        self.shown += other.shown;
        self.holes += other.holes;
        for (sum, more) in self.subscribed.iter_mut().zip(other.subscribed) {
            *sum += more;
        }
        for (sum, more) in self.patterns.iter_mut().zip(other.patterns) {
            *sum += more;
        }
        self.by_pattern += other.by_pattern;
        self.slow += other.slow;
        for (sum, more) in self.cut.iter_mut().zip(other.cut) {
            *sum += more;
        }
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
        self.reborn += other.reborn;
    }

    /// Whether everything happened.
    pub(crate) fn complete(&self) -> bool {
        let all = [self.events, self.shown, self.holes, self.lagged, self.hidden, self.slow];
        let more = self.subscribed.iter().chain(&self.patterns).chain(&self.cut);
        let more = more.chain(&self.dropped).chain([&self.reborn, &self.by_pattern]);
        all.iter().chain(more).all(|count| *count > 0)
    }
}

/// A subscription as its client knows it.
#[derive(Debug, Clone, Default)]
struct Sub {
    /// 0 where it is by pattern, of a channel that was not there.
    alias: u64,
    dead: Option<u64>,
    by_name: bool,
    /// The offsets up to here need not be told: one of several subscriptions has ended, and the
    /// others began later.
    spared: u64,
    /// Where the subscription by name, and the last of those by pattern, began.
    named: u64,
    patterned: u64,
    /// The offsets up to here were read, told as lost, or are not for it.
    told: u64,
    /// The last hole, and the last event of it that was shown.
    hole: (u64, u64),
    shown: u64,
    /// What is to be shown of it: the newest event of each key.
    owed: BTreeMap<Option<Box<str>>, u64>,
}

/// What a client has asked to happen when it is slow, on one channel.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// `latest`, with room for every key; and anything else.
    latest: bool,
    other: bool,
}

/// A client: the bytes it has read, and what it makes of them.
pub(crate) struct Client {
    id: ClientId,
    bytes: Vec<u8>,
    subs: HashMap<String, Sub>,
    /// Answers it waits for, in order.
    pub(crate) answers: std::collections::VecDeque<Answer>,
    patterns: BTreeSet<String>,
    closed: bool,
    asked: HashMap<String, Asked>,
    /// What it has seen.
    pub(crate) tally: Tally,
}

impl Client {
    /// A client that has read nothing.
    pub(crate) fn new(id: ClientId) -> Self {
        let (bytes, subs, answers, patterns, asked, tally) = Default::default();
        Self { id, bytes, subs, answers, patterns, asked, closed: false, tally }
    }

    /// The client asks for a policy; `all` says that the newest event of every key is kept.
    pub(crate) fn asks(&mut self, channel: &str, policy: Policy, all: bool) {
        let asked = self.asked.entry(channel.to_owned()).or_default();
        asked.latest |= policy == Policy::Latest;
        asked.other |= policy != Policy::Latest || !all;
    }

    /// Reads bytes, and checks each frame that they complete against the model.
    pub(crate) fn read(&mut self, bytes: &[u8], logs: &Logs) {
        self.bytes.extend_from_slice(bytes);
        while let Some((header, size)) = frame::parse_server(&self.bytes, 1 << 20).unwrap() {
            let end = size + header.payload_len;
            if self.bytes.len() < end {
                break;
            }
            assert!(!self.closed, "nothing follows a close");
            let frame: Vec<u8> = self.bytes.drain(..end).collect();
            match header.opcode {
                Opcode::Text => self.text(&serde_json::from_slice(&frame[size..]).unwrap(), logs),
                Opcode::Close => self.closed = true,
                Opcode::Binary | Opcode::Continuation | Opcode::Ping | Opcode::Pong => {
                    panic!("nobody sends {:?}", header.opcode)
                }
            }
        }
    }

    fn text(&mut self, text: &serde_json::Value, logs: &Logs) {
        let kind = text["type"].as_str().unwrap();
        let channel = text["channel"].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text[name].as_u64().unwrap();
        if let Some(sub) = self.subs.get_mut(&channel) {
            sub.find(&channel, logs);
            self.tally.by_pattern += u64::from(!sub.by_name);
        }
        match kind {
            "event" if text["snapshot"] == true => {
                self.shown(&channel, (number("offset"), number("data")), logs);
            }
            "event" => {
                let (offset, data) = (number("offset"), number("data"));
                let entry = self.told(&channel, (offset, offset), logs);
                assert_eq!(
                    entry,
                    (data, 1),
                    "{channel} {offset} with its own data, and not hidden"
                );
                self.tally.events += 1;
                self.settled(&self.subs[&channel], logs);
            }
            "lagged" => {
                let hole = (number("from"), number("to"));
                let (_, seen) = self.told(&channel, hole, logs);
                self.owe(&channel, hole, logs);
                assert_eq!(seen, number("dropped"), "a hole counts what was meant for the client");
                self.tally.lagged += seen;
            }
            "subscribed" => self.subscribed(&channel, text),
            "unsubscribed" => self.unsubscribed(&channel),
            "disconnect" => {
                assert_eq!(text["reason"], "slow_consumer");
                self.tally.slow += 1;
            }
            other => panic!("nobody sends {other}"),
        }
    }

    /// A hole was told: under `latest` the newest event of each key in it is due, but for what the
    /// client published itself and did not want to see.
    fn owe(&mut self, channel: &str, hole: (u64, u64), logs: &Logs) {
        let asked = self.asked[channel];
        let sub = self.subs.get_mut(channel).unwrap();
        (sub.hole, sub.shown) = (hole, 0);
        if !asked.latest || asked.other {
            return;
        }
        let log = &logs[&sub.alias];
        let newest: BTreeMap<_, _> =
            (hole.0..=hole.1).map(|at| (entry(log, at).key.clone(), at)).collect();
        self.tally.holes += u64::from(!sub.owed.is_empty());
        for (key, at) in std::mem::take(&mut sub.owed) {
            let newer = newest.contains_key(&key) || own(self.id, log, at);
            assert!(newer, "{channel} {at}: not shown, and nothing is newer");
        }
        let meant =
            newest.into_iter().filter(|(_, at)| entry(log, *at).hidden_from != Some(self.id));
        sub.owed = meant.collect();
    }

    /// All that was missed has been shown, or the client knows better by an event of its own.
    fn settled(&self, sub: &Sub, logs: &Logs) {
        for at in sub.owed.values() {
            assert!(own(self.id, &logs[&sub.alias], *at), "{} {at}: not shown", self.id);
        }
    }

    fn shown(&mut self, channel: &str, (offset, data): (u64, u64), logs: &Logs) {
        let asked = self.asked[channel];
        let sub = self.subs.get_mut(channel).unwrap();
        let entry = entry(&logs[&sub.alias], offset);
        assert!(asked.latest && entry.number == data && entry.hidden_from != Some(self.id));
        assert!(offset >= sub.hole.0 && offset <= sub.hole.1 && offset > sub.shown);
        sub.shown = offset;
        let due = sub.owed.remove(&entry.key);
        assert!(asked.other || due == Some(offset), "the newest of its key, once");
        self.tally.shown += 1;
    }

    fn subscribed(&mut self, channel: &str, text: &serde_json::Value) {
        let answer = self.answers.pop_front().expect("answers come in order");
        let updated = text["updated"] == true;
        let tally = &mut self.tally;
        let Answer::Pattern(heads) = answer else {
            assert!(matches!(answer, Answer::Plain("subscribed")), "answers come in order");
            let (alias, told) = (text["alias"].as_u64().unwrap(), text["offset"].as_u64().unwrap());
            tally.subscribed[if updated { 2 } else { 0 }] += 1;
            let fresh = Sub { alias, told, ..Sub::default() };
            // By pattern it goes on from where it is.
            let sub = self.subs.entry(channel.to_owned()).or_insert(fresh);
            assert!(sub.alias == 0 || sub.alias == alias, "{channel} has one life at a time");
            assert_eq!(std::mem::replace(&mut sub.by_name, true), updated, "{text}");
            (sub.alias, sub.named) = (alias, if updated { sub.named } else { told });
            return;
        };
        assert!(text["pattern"] == true && text["alias"].is_null() && text["offset"].is_null());
        tally.patterns[if updated { 2 } else { 0 }] += 1;
        let prefix = channel.strip_suffix('*').unwrap();
        assert_eq!(self.patterns.insert(prefix.to_owned()), !updated, "{text}");
        for Head { channel, alias, offset, dead } in heads {
            let sub = Sub { alias, dead, told: offset, ..Sub::default() };
            let sub = self.subs.entry(channel.to_owned()).or_insert(sub);
            sub.patterned = if updated { sub.patterned } else { sub.patterned.max(offset) };
        }
    }

    fn unsubscribed(&mut self, channel: &str) {
        let answer = self.answers.pop_front();
        assert!(matches!(answer, Some(Answer::Plain("unsubscribed"))), "answers come in order");
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
            if name == channel || prefix.is_some_and(|prefix| name.starts_with(prefix)) {
                sub.spared = sub.patterned.max(sub.named);
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
        let spared = std::mem::take(&mut sub.spared).max(sub.told);
        let missed = meant(id, &logs[&sub.alias], spared + 1, (from - 1).max(spared));
        assert_eq!(missed, 0, "{id} {channel}: silence between {} and {from}", sub.told);
        self.tally.hidden += from - 1 - sub.told;
        sub.told = to;
        let last = &logs[&sub.alias][usize::try_from(to).unwrap() - 1];
        (last.number, meant(id, &logs[&sub.alias], from, to))
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
            let missed = meant(self.id, log, told + 1, (log.len() as u64).max(told));
            assert_eq!(missed, 0, "{} {channel}: silence after {}", self.id, sub.told);
            self.settled(&sub, logs);
        }
    }
}

impl Sub {
    /// Looks for the life of a channel that was not there when its pattern was subscribed to.
    fn find(&mut self, channel: &str, logs: &Logs) {
        if self.alias == 0 {
            let alive = logs.lives.get(channel).filter(|alias| Some(**alias) != self.dead);
            self.alias = alive.copied().unwrap_or(0);
        }
    }
}

fn covered(patterns: &BTreeSet<String>, channel: &str) -> bool {
    patterns.iter().any(|prefix| channel.starts_with(prefix))
}

/// Whether the client has published a newer event of the same key that it did not want to see.
fn own(id: ClientId, log: &[Entry], offset: u64) -> bool {
    let skip = usize::try_from(offset).unwrap();
    let key = &entry(log, offset).key;
    log[skip..].iter().any(|entry| entry.hidden_from == Some(id) && entry.key == *key)
}

fn entry(log: &[Entry], offset: u64) -> &Entry {
    &log[usize::try_from(offset).unwrap() - 1]
}

/// How many events of `from..=to` are meant for the client.
fn meant(id: ClientId, log: &[Entry], from: u64, to: u64) -> u64 {
    let skip = usize::try_from(from - 1).unwrap();
    let range = &log[skip..usize::try_from(to).unwrap().max(skip)];
    range.iter().filter(|entry| entry.hidden_from != Some(id)).count() as u64
}
