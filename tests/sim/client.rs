//! What a client reads, and the model of what it has a right to.

use std::collections::HashMap;

use weir::ClientId;
use weir::proto::ws::frame::{self, Opcode};

/// One published event as the model keeps it; its offset is its place in the log, from 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// The number in its data.
    pub(crate) number: u64,
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
    /// Events told as lagged.
    pub(crate) lagged: u64,
    /// Own events not read, as was asked.
    pub(crate) hidden: u64,
    /// Subscriptions, ends of them, and changes.
    pub(crate) subscribed: [u64; 3],
    /// Connections that were closed as slow.
    pub(crate) slow: u64,
    /// Connections begun to be closed: by the policy, and by a queue that stayed full.
    pub(crate) cut: [u64; 2],
    /// Channels that began another life.
    pub(crate) reborn: u64,
}

impl Tally {
    /// Adds another count to this.
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.lagged += other.lagged;
        self.hidden += other.hidden;
        for (sum, more) in self.subscribed.iter_mut().zip(other.subscribed) {
            *sum += more;
        }
        self.slow += other.slow;
        for (sum, more) in self.cut.iter_mut().zip(other.cut) {
            *sum += more;
        }
        self.reborn += other.reborn;
    }

    /// Whether everything happened.
    pub(crate) fn complete(&self) -> bool {
        let all = [self.events, self.lagged, self.hidden, self.slow, self.reborn];
        all.iter().chain(&self.subscribed).chain(&self.cut).all(|count| *count > 0)
    }
}

/// A subscription as its client knows it.
#[derive(Debug, Clone, Copy)]
struct Sub {
    alias: u64,
    /// The offsets up to here were read, told as lost, or are not for it.
    told: u64,
}

/// A client: the bytes it has read, and what it makes of them.
pub(crate) struct Client {
    id: ClientId,
    bytes: Vec<u8>,
    subs: HashMap<String, Sub>,
    /// Answers it waits for, in order.
    pub(crate) answers: std::collections::VecDeque<String>,
    closed: bool,
    /// What it has seen.
    pub(crate) tally: Tally,
}

impl Client {
    /// A client that has read nothing.
    pub(crate) fn new(id: ClientId) -> Self {
        let (bytes, subs, answers) = Default::default();
        Self { id, bytes, subs, answers, closed: false, tally: Tally::default() }
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
            "event" => {
                let (offset, data) = (number("offset"), number("data"));
                let entry = self.told(&channel, (offset, offset), logs);
                assert_eq!(
                    entry,
                    (data, 1),
                    "{channel} {offset} with its own data, and not hidden"
                );
                self.tally.events += 1;
            }
            "lagged" => {
                let (_, seen) = self.told(&channel, (number("from"), number("to")), logs);
                assert_eq!(seen, number("dropped"), "a hole counts what was meant for the client");
                self.tally.lagged += seen;
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
                        self.subs.insert(channel, Sub { alias, told });
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
        let missed = meant(id, &logs[&sub.alias], sub.told + 1, from - 1);
        assert_eq!(missed, 0, "{id} {channel}: silence between {} and {from}", sub.told);
        self.tally.hidden += from - 1 - sub.told;
        sub.told = to;
        let last = logs[&sub.alias][usize::try_from(to).unwrap() - 1];
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
            let log = &logs[&sub.alias];
            let missed = meant(self.id, log, sub.told + 1, log.len() as u64);
            assert_eq!(missed, 0, "{} {channel}: silence after {}", self.id, sub.told);
        }
    }
}

/// How many events of `from..=to` are meant for the client.
fn meant(id: ClientId, log: &[Entry], from: u64, to: u64) -> u64 {
    let skip = usize::try_from(from - 1).unwrap();
    let range = &log[skip..usize::try_from(to).unwrap().max(skip)];
    range.iter().filter(|entry| entry.hidden_from != Some(id)).count() as u64
}
