//! What is shown: by clients that send, end, leave and fall silent, to readers who stall.

use std::collections::BTreeMap;
use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::core::account::Account;
use crate::core::latest::Frame;
use crate::core::outbox::{Delivered, Fits, News, Outbox, OutboxLimit, SLICES_MAX};
use crate::core::run::Run;
use crate::proto::name::ClientId;

const ROOMY: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 1_000 };

/// The time between two values of a name, in milliseconds.
const INTERVAL_MS: u64 = 50;

fn channel(alias: u64) -> ChannelName {
    format!("c{alias}").parse().unwrap()
}

fn author(client: ClientId) -> Arc<Author> {
    Arc::new(Author { client, user: None })
}

/// A value of a signal on the channel `c<alias>`, or its end.
pub(in crate::core) fn signal(
    (alias, client, name): (u64, ClientId, &str),
    value: Option<u64>,
) -> Arc<Signal> {
    signal_on(&channel(alias), (alias, client, name), value)
}

/// The same on a channel of another name.
pub(crate) fn signal_on(
    channel: &ChannelName,
    (alias, client, name): (u64, ClientId, &str),
    value: Option<u64>,
) -> Arc<Signal> {
    let hash = name.bytes().fold(alias + client.0, |hash, byte| hash * 31 + u64::from(byte));
    let (channel, alias, from) = (channel.clone(), Alias(alias), author(client));
    let who = Arc::new(Who { channel, alias, from, name: name.into(), hash });
    let data = value.map(|value| value.to_string());
    Signal::new(&who, data.as_ref().map(String::as_bytes), &Budget::new(usize::MAX))
}

/// One shard's senders, and what their readers were told.
struct Desk {
    shown: Shown,
    budget: Budget,
    /// The names and data of what went out, each with whether it begins; `null` is an end.
    told: Vec<(String, String, bool)>,
    now_ms: u64,
}

impl Default for Desk {
    fn default() -> Self {
        let budget = Budget::new(usize::MAX);
        Self { shown: Shown::default(), budget, told: Vec::new(), now_ms: 1_000 }
    }
}

/// Notes what the readers are told.
fn note(told: &mut Vec<(String, String, bool)>) -> impl FnMut(Told) -> bool {
    |Told { signal, begins }| {
        let text = String::from_utf8_lossy(signal.frame()).into_owned();
        let (_, data) = text.rsplit_once("\"data\":").unwrap();
        told.push((signal.who().name.to_string(), data.trim_end_matches('}').to_owned(), begins));
        true
    }
}

impl Desk {
    fn put(&mut self, name: &str, data: Option<&str>, ttl_ms: u64) -> Result<(), Refused> {
        let put = Put {
            channel: &channel(1),
            alias: Alias(1),
            from: &author(ClientId(1)),
            name,
            data: data.map(str::as_bytes),
            ttl_ms,
            interval_ms: INTERVAL_MS,
        };
        self.shown.put(put, self.now_ms, &self.budget, note(&mut self.told))
    }

    /// Time passes, a millisecond at a time; every 100 the shard's timer looks.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            if self.shown.next_due().is_some_and(|due_ms| due_ms <= self.now_ms) {
                self.shown.send_due(self.now_ms, note(&mut self.told));
            }
            if self.now_ms.is_multiple_of(100) {
                self.shown.expire(self.now_ms, &self.budget, note(&mut self.told));
            }
        }
    }

    fn told(&mut self) -> Vec<(String, String, bool)> {
        std::mem::take(&mut self.told)
    }

    /// The same without the names and whether they begin.
    fn data(&mut self) -> Vec<String> {
        self.told().into_iter().map(|(_, data, _)| data).collect()
    }
}

fn told(name: &str, data: &str, begins: bool) -> (String, String, bool) {
    (name.to_owned(), data.to_owned(), begins)
}

#[test]
fn a_frame_says_all_and_has_the_entry_of_the_list_in_it() {
    let who = Who {
        channel: "room:1".parse().unwrap(),
        alias: Alias(1),
        from: Arc::new(Author { client: ClientId(0), user: Some("u\"2".into()) }),
        name: "a\nb".into(),
        hash: 0,
    };
    let budget = Budget::new(1_000);
    let who = Arc::new(who);
    let signal = Signal::new(&who, Some(b"{\"x\":\r\n1e400}"), &budget);
    let from =
        r#""from":{"client":"0000000000000","user":"u\"2"},"name":"a\nb","data":{"x":1e400}}"#;
    assert_eq!(signal.entry(), from.as_bytes());
    let text = format!(r#"{{"type":"signal","channel":"room:1",{from}"#);
    assert_eq!(signal.frame(), frame::text(text.as_bytes()));
    assert!(!signal.is_end() && budget.used() > signal.frame().len());
    let end = Signal::new(&who, None, &budget);
    assert!(end.is_end() && end.is_same(&signal));
    assert!(end.frame().ends_with(br#""name":"a\nb","data":null}"#));
    drop((signal, end));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_cursor_at_a_thousand_a_second_is_told_of_twenty_times_and_its_last_place_arrives() {
    let mut desk = Desk::default();
    for place in 0..3_000 {
        desk.put("cursor", Some(&place.to_string()), 5_000).unwrap();
        desk.pass(1);
    }
    desk.pass(INTERVAL_MS);
    let all = desk.data();
    assert!((60..=62).contains(&all.len()), "{}", all.len());
    assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), ("0", "2999"));
}

#[test]
fn a_signal_ends_when_its_time_has_passed_and_no_sooner() {
    let mut desk = Desk::default();
    desk.put("typing", Some("true"), 5_000).unwrap();
    desk.pass(4_000);
    desk.put("typing", Some("true"), 5_000).unwrap();
    desk.pass(4_999);
    assert_eq!(desk.told(), [told("typing", "true", true), told("typing", "true", false)]);
    desk.pass(101);
    assert_eq!(desk.told(), [told("typing", "null", false)]);
    desk.pass(200);
    assert!(desk.shown.is_empty() && desk.shown.next_due().is_none(), "nothing is remembered");
    assert_eq!(desk.budget.used(), 0);
    desk.put("typing", Some("1"), 5_000).unwrap();
    assert_eq!(desk.told(), [told("typing", "1", true)]);
}

#[test]
fn an_end_waits_for_its_turn_and_is_told_once() {
    let mut desk = Desk::default();
    desk.put("a", None, 5_000).unwrap();
    assert!(desk.shown.is_empty(), "there was nothing to end");
    desk.put("a", Some("1"), 5_000).unwrap();
    desk.put("a", Some("2"), 5_000).unwrap();
    desk.put("a", None, 5_000).unwrap();
    desk.put("a", None, 5_000).unwrap();
    desk.pass(INTERVAL_MS);
    assert_eq!(desk.told(), [told("a", "1", true), told("a", "null", false)]);
    // What nobody has seen ends without a word.
    desk.put("a", Some("3"), 5_000).unwrap();
    desk.put("a", None, 5_000).unwrap();
    desk.pass(10_000);
    assert!(desk.told().is_empty() && desk.shown.is_empty());
}

#[test]
fn whoever_leaves_ends_all_at_once() {
    let mut desk = Desk::default();
    desk.put("a", Some("1"), 5_000).unwrap();
    desk.put("b", Some("1"), 5_000).unwrap();
    desk.put("b", Some("2"), 5_000).unwrap();
    desk.pass(10);
    desk.put("c", Some("1"), 5_000).unwrap();
    desk.put("c", None, 5_000).unwrap();
    desk.told();
    desk.shown.leave_channel(ClientId(1), Alias(2), &desk.budget, |_| panic!("not there"));
    desk.shown.leave(ClientId(1), &desk.budget, note(&mut desk.told));
    let ends = ["a", "b", "c"].map(|name| told(name, "null", false));
    assert_eq!(desk.told(), ends);
    desk.shown.leave(ClientId(1), &desk.budget, note(&mut desk.told));
    desk.pass(10_000);
    assert!(desk.told().is_empty() && desk.shown.is_empty());
    assert_eq!((desk.shown.timers(), desk.budget.used()), (0, 0));
}

#[test]
fn a_client_has_sixteen_names_and_changing_them_tells_no_more() {
    let mut desk = Desk::default();
    for name in 0..NAMES_MAX {
        desk.put(&name.to_string(), Some("1"), 5_000).unwrap();
    }
    assert_eq!(desk.put("one more", Some("1"), 5_000), Err(Refused::Names));
    desk.put("3", Some("2"), 5_000).unwrap();
    desk.put("3", None, 5_000).unwrap();
    assert_eq!(desk.put("one more", Some("1"), 5_000), Ok(()), "one has ended");
    assert_eq!(desk.told().len(), NAMES_MAX + 1, "its end was told");
    desk.pass(INTERVAL_MS);
    assert_eq!(desk.told(), [told("one more", "1", true)]);
    desk.shown.leave(ClientId(1), &desk.budget, note(&mut desk.told));
    desk.told();
    // A second of ever new names, as fast as it can.
    for name in 0..20_000 {
        let name = name.to_string();
        desk.put(&name, Some("1"), 5_000).unwrap();
        desk.put(&name, None, 5_000).unwrap();
        if desk.told.len() % 20 == 0 {
            desk.pass(1);
        }
    }
    let (passed, told) = (desk.now_ms, desk.told().len() as u64);
    let most = 2 * NAMES_MAX as u64 * (passed / INTERVAL_MS + 2);
    assert!(told <= most, "{told} in {passed} ms");
}

#[test]
fn a_channel_and_a_node_have_room_for_so_many() {
    let mut current = Current::default();
    for client in 0..current::SIGNALS_MAX as u64 {
        let signal = signal((1, ClientId(client), "a"), Some(1));
        assert!(current.tell(&Told { signal, begins: true }));
    }
    let told =
        |client, value, begins| Told { signal: signal((1, ClientId(client), "a"), value), begins };
    assert!(!current.tell(&told(5_000, Some(1), true)));
    assert!(current.tell(&told(7, Some(2), false)), "it is there");
    assert!(current.tell(&told(7, None, false)));
    assert!(current.tell(&told(5_000, Some(1), true)), "there is room");
    assert_eq!(current.list().len(), current::SIGNALS_MAX);

    let mut desk = Desk { budget: Budget::new(1), ..Desk::default() };
    let held = signal((1, ClientId(9), "a"), Some(1));
    let weight = desk.budget.take(held.footprint());
    assert_eq!(desk.put("a", Some("1"), 5_000), Err(Refused::Node));
    drop(weight);
    desk.put("a", Some("1"), 5_000).unwrap();
    let weight = desk.budget.take(held.footprint());
    assert_eq!(desk.put("a", Some("2"), 5_000), Err(Refused::Node));
    assert_eq!(desk.put("a", None, 5_000), Ok(()), "an end frees some");
    drop(weight);
    // A value that has no room ends what was shown before it.
    let mut current = Current::default();
    let large = format!("\"{}\"", "x".repeat(DATA_BYTES_MAX - 2));
    let mut room = |told: Told| current.tell(&told);
    let mut desk = Desk::default();
    let mut refused = 0;
    let channel = channel(1);
    for client in 0..400 {
        let from = author(ClientId(client));
        let put = |data| Put {
            channel: &channel,
            alias: Alias(1),
            from: &from,
            name: "a",
            data: Some(data),
            ttl_ms: 10_000,
            interval_ms: 0,
        };
        desk.shown.put(put(b"1"), 1, &desk.budget, &mut room).unwrap();
        let taken = desk.shown.put(put(large.as_bytes()), 2, &desk.budget, &mut room);
        refused += usize::from(taken == Err(Refused::Channel));
    }
    let left: usize = current.list().iter().map(|signal| signal.frame().len()).sum();
    assert!((100..200).contains(&refused) && current.list().len() == 400 - refused, "{refused}");
    assert!(left <= current::BYTES_MAX && left > current::BYTES_MAX - 5_000, "{left}");

    let full = |_| false;
    let mut desk = Desk::default();
    let put = Put {
        channel: &channel,
        alias: Alias(1),
        from: &author(ClientId(1)),
        name: "a",
        data: Some(b"1"),
        ttl_ms: 9,
        interval_ms: 9,
    };
    assert_eq!(desk.shown.put(put, 1, &desk.budget, full), Err(Refused::Channel));
    desk.pass(1_000);
    assert!(desk.told().is_empty() && desk.shown.is_empty(), "nobody was told of it");
}

/// A client of the random test: it shows, and it reads.
#[derive(Default)]
struct Client {
    outbox: Outbox,
    bytes: Vec<u8>,
    /// What it sees, by client and name. `None` where it does not have the channel.
    seen: Option<BTreeMap<(String, String), u64>>,
}

struct Nothing;

impl Delivered for Nothing {
    fn delivered(&mut self, _: &Run, _: u32) {}

    fn shown(&mut self, _: &Frame) {}
}

impl Client {
    fn write(&mut self, room: usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = self.outbox.gather(|| 0, &mut slices);
        let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        let written = all.len().min(room);
        self.bytes.extend_from_slice(&all[..written]);
        self.outbox.advance(written, &mut Nothing);
        while let Some((header, size)) = frame::parse_server(&self.bytes, 1 << 20).unwrap() {
            let Some(text) = self.bytes.get(size..size + header.payload_len) else { break };
            let value: serde_json::Value = serde_json::from_slice(text).unwrap();
            self.see(&value);
            self.bytes.drain(..size + header.payload_len);
        }
    }

    fn see(&mut self, value: &serde_json::Value) {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let key = (text(&value["from"]["client"]), text(&value["name"]));
        let Some(seen) = &mut self.seen else { return };
        match value["data"].as_u64() {
            Some(value) => drop(seen.insert(key, value)),
            None => drop(seen.remove(&key)),
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Join(usize),
    Leave(usize),
    Pass(u64),
    Put { client: usize, name: u8, data: bool, ttl_ms: u64 },
    Write(usize, usize),
}

const CLIENTS: usize = 4;

fn id(client: usize) -> ClientId {
    ClientId(client as u64)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..CLIENTS).prop_map(Op::Join),
        1 => (0..CLIENTS).prop_map(Op::Leave),
        6 => prop_oneof![1_u64..60, 1_u64..2_000].prop_map(Op::Pass),
        12 => (0..CLIENTS, 0_u8..3, prop::bool::weighted(0.75), 1_u64..3_000)
            .prop_map(|(client, name, data, ttl_ms)| Op::Put { client, name, data, ttl_ms }),
        6 => (0..CLIENTS, 1_usize..300).prop_map(|(client, room)| Op::Write(client, room)),
    ]
}

/// Senders, a channel and its readers; and beside them what should be shown.
struct World {
    shown: Shown,
    current: Current,
    clients: Vec<Client>,
    account: Account,
    budget: Budget,
    now_ms: u64,
    values: u64,
    /// The model: what each client shows by each name, and until when.
    truth: BTreeMap<(String, String), (u64, u64)>,
}

impl World {
    fn apply(&mut self, op: &Op) {
        let mut told = Vec::new();
        let mut tell = |news: Told| {
            told.push(news);
            true
        };
        match *op {
            Op::Put { client, name, data, ttl_ms } => {
                if self.clients[client].seen.is_none() {
                    return;
                }
                self.values += 1;
                let text = self.values.to_string();
                let put = Put {
                    channel: &channel(1),
                    alias: Alias(1),
                    from: &author(id(client)),
                    name: &name.to_string(),
                    data: data.then_some(text.as_bytes()),
                    ttl_ms,
                    interval_ms: INTERVAL_MS,
                };
                self.shown.put(put, self.now_ms, &self.budget, &mut tell).unwrap();
                let key = (id(client).to_string(), name.to_string());
                match data {
                    true => drop(self.truth.insert(key, (self.values, self.now_ms + ttl_ms))),
                    false => drop(self.truth.remove(&key)),
                }
            }
            Op::Pass(ms) => {
                self.now_ms += ms;
                self.shown.expire(self.now_ms, &self.budget, &mut tell);
                self.shown.send_due(self.now_ms, &mut tell);
                self.truth.retain(|_, (_, ends_ms)| *ends_ms > self.now_ms);
            }
            Op::Join(client) => {
                let client = &mut self.clients[client];
                if client.seen.is_none() {
                    client.seen = Some(BTreeMap::new());
                    for signal in self.current.list() {
                        let entry = [b"{", signal.entry()].concat();
                        client.see(&serde_json::from_slice(&entry).unwrap());
                    }
                }
            }
            Op::Leave(client) => {
                self.shown.leave_channel(id(client), Alias(1), &self.budget, &mut tell);
                self.truth.retain(|(other, _), _| *other != id(client).to_string());
                let reader = &mut self.clients[client];
                reader.outbox.purge_signals(Alias(1));
                // What is on its way comes before the answer.
                while !reader.outbox.is_empty() {
                    reader.write(usize::MAX);
                }
                reader.seen = None;
            }
            Op::Write(client, room) => self.clients[client].write(room),
        }
        for told in told {
            self.tell(told);
        }
    }

    fn tell(&mut self, told: Told) {
        assert!(self.current.tell(&told));
        let from = told.signal.who().from.client;
        let news = News::new(told, &self.account);
        for (client, reader) in (0..).zip(&mut self.clients) {
            if reader.seen.is_some() && id(client) != from {
                assert_eq!(reader.outbox.put_signal(&news, ROOMY), Fits::Yes);
                assert!(reader.outbox.signals() < 3 * CLIENTS, "one of each name");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn in_the_end_every_reader_sees_what_is_shown(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World {
            shown: Shown::default(),
            current: Current::default(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            account: Account::default(),
            budget: Budget::new(usize::MAX),
            now_ms: 1_000,
            values: 0,
            truth: BTreeMap::new(),
        };
        for op in &ops {
            world.apply(op);
        }
        world.apply(&Op::Pass(INTERVAL_MS));
        for (client, reader) in (0..).zip(&mut world.clients) {
            while !reader.outbox.is_empty() {
                reader.write(7);
            }
            let own = id(client).to_string();
            let others = world.truth.iter().filter(|((from, _), _)| *from != own);
            let expected: BTreeMap<_, _> =
                others.map(|(key, (value, _))| (key.clone(), *value)).collect();
            if let Some(seen) = &reader.seen {
                prop_assert_eq!(seen, &expected);
            }
        }
        (0..CLIENTS).for_each(|client| world.apply(&Op::Leave(client)));
        prop_assert!(world.shown.is_empty() && world.current.is_empty());
        prop_assert_eq!((world.account.bytes(), world.budget.used()), (0, 0));
    }
}
