//! What a client reads, and the model of what it has a right to.

use std::collections::{BTreeMap, HashMap};

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

/// Every event of every life of a channel, by alias.
pub(crate) type Logs = HashMap<u64, Vec<Entry>>;

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
    /// Events not read by a throttled subscription, and as the hubs count them.
    pub(crate) spared: u64,
    pub(crate) conflated: u64,
    /// Subscriptions, ends of them, and changes.
    pub(crate) subscribed: [u64; 3],
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
        self.spared += other.spared;
        self.conflated += other.conflated;
        self.shown += other.shown;
        self.holes += other.holes;
        for (sum, more) in self.subscribed.iter_mut().zip(other.subscribed) {
            *sum += more;
        }
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
        let all = all.into_iter().chain([self.spared, self.conflated, self.reborn]);
        let more = self.subscribed.iter().chain(&self.cut).chain(&self.dropped);
        all.chain(more.copied()).all(|count| count > 0)
    }
}

/// A subscription as its client knows it.
#[derive(Debug, Clone, Default)]
struct Sub {
    alias: u64,
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
    pub(crate) answers: std::collections::VecDeque<String>,
    closed: bool,
    asked: HashMap<String, Asked>,
    /// The offsets after which a subscription is throttled, or is so no longer, by alias.
    rates: HashMap<u64, Vec<(u64, bool)>>,
    /// What it has seen.
    pub(crate) tally: Tally,
}

impl Client {
    /// A client that has read nothing.
    pub(crate) fn new(id: ClientId) -> Self {
        let (bytes, subs, answers, asked, rates) = Default::default();
        Self { id, bytes, subs, answers, asked, rates, closed: false, tally: Tally::default() }
    }

    /// The client asks for a policy; `all` says that the newest event of every key is kept.
    pub(crate) fn asks(&mut self, channel: &str, policy: Policy, all: bool) {
        let asked = self.asked.entry(channel.to_owned()).or_default();
        asked.latest |= policy == Policy::Latest;
        asked.other |= policy != Policy::Latest || !all;
    }

    /// The client asks for a rate, or for none, when all up to the offset `head` was fanned out.
    pub(crate) fn throttles(&mut self, alias: u64, head: u64, throttled: bool) {
        self.rates.entry(alias).or_default().push((head, throttled));
    }

    /// Whether the event may be left out, because it came to a throttled subscription and a newer
    /// one of its key did as well.
    fn spared(&self, alias: u64, log: &[Entry], at: u64) -> bool {
        let rates = &self.rates[&alias];
        let Some(rate) = rates.iter().rposition(|(head, _)| *head < at) else { return false };
        let until = rates[rate..].iter().find(|(_, throttled)| !throttled).map(|(head, _)| *head);
        let until = usize::try_from(until.unwrap_or(u64::MAX)).unwrap().min(log.len());
        let newer = log.get(usize::try_from(at).unwrap()..until).unwrap_or_default();
        rates[rate].1 && newer.iter().any(|newer| newer.key == entry(log, at).key)
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
        match kind {
            "event" if text["snapshot"] == true => {
                self.shown(&channel, (number("offset"), number("data")), logs);
            }
            "event" => {
                let (offset, data) = (number("offset"), number("data"));
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
                let (_, seen) = self.told(&channel, hole, logs);
                self.owe(&channel, hole, logs);
                let dropped = number("dropped");
                let whole = self.whole(self.subs[&channel].alias, hole, logs);
                // Of a throttled subscription the frames are counted, which nobody here knows.
                let counts = dropped == seen || dropped > 0 && whole <= dropped && dropped < seen;
                assert!(counts, "{channel} {hole:?} counts {dropped}: {whole} to {seen} were lost");
                self.tally.lagged += dropped;
            }
            "subscribed" => {
                self.answered("subscribed");
                let (alias, told) = (number("alias"), number("offset"));
                match self.subs.get(&channel) {
                    Some(sub) => {
                        assert_eq!((sub.alias, text["updated"].as_bool()), (alias, Some(true)));
                        self.tally.subscribed[2] += 1;
                    }
                    None => {
                        assert!(text["updated"].is_null());
                        self.subs.insert(channel, Sub { alias, told, ..Sub::default() });
                        self.tally.subscribed[0] += 1;
                    }
                }
            }
            "unsubscribed" => {
                self.answered("unsubscribed");
                assert!(self.subs.remove(&channel).is_some());
                self.tally.subscribed[1] += 1;
            }
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
        let (alias, log) = (sub.alias, &logs[&sub.alias]);
        let newest: BTreeMap<_, _> =
            (hole.0..=hole.1).map(|at| (entry(log, at).key.clone(), at)).collect();
        let meant = newest.iter().filter(|(_, at)| entry(log, **at).hidden_from != Some(self.id));
        let meant = meant.map(|(key, at)| (key.clone(), *at)).collect();
        let before = std::mem::replace(&mut sub.owed, meant);
        self.tally.holes += u64::from(!before.is_empty());
        for (key, at) in before {
            let newer = newest.contains_key(&key) || self.superseded(alias, logs, at);
            assert!(newer, "{channel} {at}: not shown, and nothing is newer");
        }
    }

    /// All that was missed has been shown, or is superseded.
    fn settled(&self, sub: &Sub, logs: &Logs) {
        for at in sub.owed.values() {
            assert!(self.superseded(sub.alias, logs, *at), "{} {at}: not shown", self.id);
        }
    }

    /// Whether there is a newer event of the same key that the client has published and did not
    /// want to see, or that it gets at the next flush.
    fn superseded(&self, alias: u64, logs: &Logs, at: u64) -> bool {
        let (log, key) = (&logs[&alias], &entry(&logs[&alias], at).key);
        (at + 1..=log.len() as u64).map(|at| (at, entry(log, at))).any(|(at, newer)| {
            let own = newer.hidden_from == Some(self.id);
            newer.key == *key && (own || self.throttled(alias, at))
        })
    }

    /// Whether an event came to a throttled subscription.
    fn throttled(&self, alias: u64, at: u64) -> bool {
        let rate = self.rates[&alias].iter().rfind(|(head, _)| *head < at);
        rate.is_some_and(|(_, throttled)| *throttled)
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

    fn answered(&mut self, kind: &str) {
        assert_eq!(self.answers.pop_front().as_deref(), Some(kind), "answers come in order");
    }

    /// The client has read of `from..=to`. Returns the number of the last of them, and how many
    /// were not hidden from it.
    fn told(&mut self, channel: &str, (from, to): (u64, u64), logs: &Logs) -> (u64, u64) {
        let id = self.id;
        let sub = self.subs.get_mut(channel);
        let sub = sub.unwrap_or_else(|| panic!("{id}: an event of {channel}, not subscribed"));
        assert!(from > sub.told && from <= to, "{id} {channel}: {from}..={to} after {}", sub.told);
        let (alias, told) = (sub.alias, std::mem::replace(&mut sub.told, to));
        let log = &logs[&alias];
        let (missed, owed) = self.owed(alias, logs, told, from);
        assert_eq!(owed, 0, "{id} {channel}: silence between {told} and {from}");
        self.tally.spared += missed;
        self.tally.hidden += from - 1 - told - missed;
        (entry(log, to).number, meant(id, log, from, to))
    }

    /// How many events of a hole are lost for sure: those that came to a subscription without a
    /// rate.
    fn whole(&self, alias: u64, (from, to): (u64, u64), logs: &Logs) -> u64 {
        let log = &logs[&alias];
        let meant = (from..=to).filter(|at| entry(log, *at).hidden_from != Some(self.id));
        meant.filter(|at| !self.throttled(alias, *at)).count() as u64
    }

    /// All that was written has been read: is all accounted for?
    pub(crate) fn finish(&self, logs: &Logs) {
        assert!(self.bytes.is_empty(), "half a frame");
        if self.closed {
            return;
        }
        assert!(self.answers.is_empty(), "answers are never dropped");
        for (channel, sub) in &self.subs {
            let log = &logs[&sub.alias];
            let (_, owed) = self.owed(sub.alias, logs, sub.told, log.len() as u64 + 1);
            assert_eq!(owed, 0, "{} {channel}: silence after {}", self.id, sub.told);
            self.settled(sub, logs);
        }
    }
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
