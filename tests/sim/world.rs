//! The shards, their connections and what happens to them, one operation at a time.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use weir::core::farewell::Farewells;
use weir::core::history::HistoryRule;
use weir::core::hub::{Hub, Join, Outcome, SeatId};
use weir::core::outbox::OutboxLimit;
use weir::core::policy::{Keep, Policy};
use weir::proto::close::CloseReason;
use weir::proto::event::Event;
use weir::proto::name::ShardId;
use weir::proto::push::Push;
use weir::proto::rate::Rate;
use weir::store::memory::{IDLE_MS, Memory};
use weir::store::{NewEvent, Now, Store, Wish};

use crate::client::{Answer, Entry, Logs};
use crate::connection::Connection;
use crate::net::{Mailboxes, Net, Shelves};
use crate::spoken::{self, frame_bytes};
use crate::tally::Tally;

pub(crate) const CHANNELS: [&str; 4] = ["a", "b/1", "room:1", "room:eu/2"];
const PATTERNS: [&str; 3] = ["b/*", "room:*", "room:eu/*"];

/// What a client may ask for; most want every event.
const RATES: [Option<f64>; 6] = [None, None, Some(0.1), Some(1.0), Some(7.5), Some(100.0)];

/// Events that a subscription may recover.
const RECOVERY_MAX: u64 = 20;

/// Keys of a channel, that of events without a key among them.
pub(crate) const KEYS: usize = 8;

/// What the tables of newest events of a shard may take where they do not have every key.
const TABLES_BYTES: usize = 3_000;

/// What all queues together may take where memory is scarce: few queues, or many.
const MEMORY_BYTES: std::ops::Range<usize> = 2_000..30_000;

/// Sweeps after which the store has looked at every channel.
const SWEEPS: usize = 256;

/// One shard: what its thread owns.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) hub: Hub,
    pub(crate) net: Net,
    pub(crate) in_hand: VecDeque<Arc<Event>>,
    /// The last offset of each channel, by alias, that was fanned out.
    pub(crate) heads: HashMap<u64, u64>,
    /// The longest frame so far.
    longest: usize,
}

impl Shard {
    /// Writes what waits for a connection.
    pub(crate) fn flush(&mut self, id: SeatId, from: (&Memory, &Mailboxes), now_ms: u64) {
        let ((store, mailboxes), shard, in_hand) = (from, self.id, self.in_hand.len());
        let shelf = Shelves { store, mailboxes, shard, in_hand };
        self.net.flush(id, &mut self.hub, &shelf, now_ms);
        self.hub.weigh(id);
    }
}

/// Everything, at one moment.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now_ms: u64,
    limit: OutboxLimit,
    /// Keys whose newest events are kept.
    pub(crate) keys_max: usize,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) store: Memory,
    /// What is kept of every channel.
    pub(crate) keep: Keep,
    pub(crate) shards: Vec<Shard>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) clients: u64,
    pub(crate) logs: Logs,
    published: u64,
    pub(crate) tally: Tally,
    /// Nobody leaves and nobody is cut: all that is written is read in the end.
    pub(crate) lasting: bool,
    /// What all queues together may take of memory.
    pub(crate) memory_max: usize,
    /// Why connections were closed, for those who come back.
    pub(crate) farewells: Farewells,
}

impl World {
    /// The beginning of the world that `seed` stands for.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limit = OutboxLimit { bytes: spoken::queue_bytes(&mut rng), events: rng.usize(1..40) };
        let mailboxes = Arc::new(Mailboxes::default());
        let compression = spoken::compression(&mut rng);
        let few = seed.is_multiple_of(5);
        let shards = (0..rng.u16(1..5)).map(|index| {
            let mut hub = Hub::compressing(limit, compression);
            let (heads, in_hand) = (HashMap::new(), VecDeque::new());
            if few {
                hub.bound_tables(TABLES_BYTES);
            }
            Shard { id: ShardId(index), hub, net: Net::default(), in_hand, heads, longest: 0 }
        });
        let shards = shards.collect();
        let lasting = seed.is_multiple_of(4);
        let scarce = !lasting && rng.bool();
        let memory_max = if scarce { rng.usize(MEMORY_BYTES) } else { usize::MAX };
        let history = HistoryRule { size: rng.u64(1..60), ttl_ms: 20_000 };
        let keep = match seed % 3 {
            0 => Keep::default(),
            rest => Keep { history, keys: if rest == 1 { KEYS } else { 0 }, durable: false },
        };
        Self {
            shards,
            keep,
            store: Memory::new(Arc::<Mailboxes>::clone(&mailboxes)),
            rng,
            now_ms: 1_000,
            limit,
            keys_max: if few { 3 } else { KEYS },
            mailboxes,
            connections: Vec::new(),
            clients: 0,
            logs: Logs::default(),
            published: 0,
            tally: Tally::default(),
            lasting,
            memory_max,
            farewells: Farewells::default(),
        }
    }

    /// One thing happens.
    pub(crate) fn step(&mut self) {
        let connection = self.rng.usize(0..self.connections.len().max(1));
        let shard = self.rng.usize(0..self.shards.len());
        let channel = CHANNELS[self.rng.usize(0..CHANNELS.len())];
        let pattern = PATTERNS[self.rng.usize(0..PATTERNS.len())];
        match (self.rng.u8(0..100), self.connections.is_empty()) {
            (0..6, _) | (_, true) => self.connect(shard),
            (6..16, _) => self.subscribe(connection, channel),
            (16..20, _) => self.subscribe_pattern(connection, pattern),
            (20..24, _) => self.unsubscribe(connection, channel),
            (24..26, _) => self.unsubscribe_pattern(connection, pattern),
            (26..54, _) => self.publish(connection, channel),
            (54..70, _) => self.turn(shard),
            (70..90, _) => self.read(connection),
            (90..93, _) => self.connections[connection].stalled ^= true,
            (93..95, _) if self.lasting => {}
            (93..95, _) if self.rng.u8(0..4) == 0 => self.shut_down(connection),
            (93..95, _) => self.disconnect(connection),
            (95..98, _) => self.look(shard),
            _ => self.time(),
        }
        self.relieve();
        self.check();
    }

    pub(crate) fn now(&self) -> Now {
        Now { unix_ms: self.now_ms, node_ns: self.now_ms * 1_000_000 }
    }

    /// What a client asks to happen when it is slow.
    pub(crate) fn policy(&mut self, index: usize) -> Policy {
        let mut policy = Policy::ALL[self.rng.usize(0..Policy::ALL.len())];
        // Every other client always says the same.
        let client = self.connections[index].author.client.0;
        if client.is_multiple_of(2) {
            policy = Policy::ALL[usize::try_from(client / 2).unwrap() % Policy::ALL.len()];
        }
        if policy == Policy::Disconnect && (self.lasting || self.rng.bool()) {
            policy = Policy::DropOldest;
        }
        policy
    }

    /// How often it wants events.
    pub(crate) fn rate(&mut self) -> Option<Rate> {
        RATES[self.rng.usize(0..RATES.len())].and_then(Rate::new)
    }

    fn subscribe(&mut self, index: usize, channel: &'static str) {
        let now = self.now();
        let policy = self.policy(index);
        let max_rate = self.rate();
        let connection = &mut self.connections[index];
        if connection.ending {
            return;
        }
        let before = connection.policies.insert(channel, policy);
        connection.rates.insert(channel, max_rate);
        connection.client.asks(channel, policy, self.keys_max >= KEYS);
        let (shard, seat) = (&mut self.shards[connection.shard], connection.seat);
        let have =
            self.store.find(channel).filter(|have| shard.hub.is_subscribed(seat, have.alias));
        let (comes_back, snapshot) = (self.rng.bool(), self.rng.bool());
        let (back, mut begun) = (self.rng.u64(0..2 * RECOVERY_MAX), None);
        let mut answer = Answer::Plain("subscribed");
        let (updated, joined) = match have {
            Some(have) => (true, have),
            None => {
                let by_pattern = shard.hub.has_by_pattern(seat, channel);
                let place = self.store.find(channel).map(|have| have.head);
                let epoch = place.map_or_else(String::new, |head| head.epoch.to_string());
                // Not far from the head, which it may even be ahead of.
                let offset = place.map_or(0, |head| head.offset + 1).saturating_sub(back);
                let wish = Wish {
                    since: comes_back.then_some((epoch.as_str(), offset)),
                    snapshot: snapshot && !by_pattern,
                    recovery_max: if by_pattern { 0 } else { RECOVERY_MAX },
                    keep: self.keep,
                };
                begun = Some(self.store.subscribe(channel, shard.id, wish, now).unwrap());
                let begun = begun.as_ref().unwrap();
                let recovered = begun.recovered == Some(true);
                let since = recovered.then_some(offset);
                let snapshot = wish.snapshot && !recovered && self.keep.keys > 0;
                answer = Answer::Begun { since, snapshot };
                (false, begun.joined.clone())
            }
        };
        let (position, keys_max) = (joined.head.offset, self.keys_max);
        let join = Join { policy, position, keys_max, max_rate };
        connection.client.learns(joined.alias.0);
        let which = (seat, joined.alias);
        let outcome = if updated {
            shard.hub.update(which, join, &mut shard.net, self.now_ms)
        } else {
            let outcome = shard.hub.settle_channel(which, &mut shard.net, self.now_ms);
            let to = (&joined.channel, joined.alias);
            shard.hub.subscribe(seat, to, join);
            if let Some(past) = begun.as_mut().and_then(|begun| begun.past.take()) {
                shard.hub.recall(seat, to, past);
            }
            outcome
        };
        let shard = connection.shard;
        self.live(channel);
        self.rerate(index);
        let (position, alias) = (joined.head, joined.alias.0);
        let recovered = begun.and_then(|begun| begun.recovered);
        let (id, signals) = (None, None);
        let push = Push::Subscribed { id, channel, position, alias, recovered, updated, signals };
        self.answer(index, &push, answer);
        if let Some(before) = before.filter(|_| !outcome.overflowed.is_empty()) {
            // What was held back was under the policy before.
            self.connections[index].policies.insert(channel, before);
        }
        self.settle(shard, outcome);
    }

    fn unsubscribe(&mut self, index: usize, channel: &'static str) {
        let now = self.now();
        let connection = &self.connections[index];
        let shard = &mut self.shards[connection.shard];
        let Some(have) = self.store.find(channel) else { return };
        let which = (connection.seat, have.alias);
        let ended = shard.hub.unsubscribe(which, &mut shard.net, self.now_ms);
        let Some((last, outcome)) = ended else { return };
        self.store.unsubscribe(channel, shard.id, last, now);
        let shard = connection.shard;
        let connection = &mut self.connections[index];
        connection.rates.remove(channel);
        let policy = connection.policies.remove(channel);
        self.rerate(index);
        let push = Push::Unsubscribed { id: None, channel, why: None };
        self.answer(index, &push, Answer::Plain("unsubscribed"));
        if let Some(policy) = policy.filter(|_| !outcome.overflowed.is_empty()) {
            // What it has held back was under its own policy.
            assert_eq!(policy, Policy::Disconnect);
            self.connections[index].policies.insert(channel, policy);
        }
        self.settle(shard, outcome);
    }

    /// A burst of events from one connection, as its client would send them without waiting.
    fn publish(&mut self, index: usize, channel: &'static str) {
        let author = Arc::clone(&self.connections[index].author);
        for _ in 0..self.rng.usize(1..12) {
            self.published += 1;
            let number = self.published;
            let hidden_from = self.rng.bool().then_some(author.client);
            let key = self.rng.usize(0..KEYS);
            let key = (key > 0).then(|| Box::from("k".repeat(key * 25)));
            let (payload, frames) = spoken::payload(number, &mut self.rng, self.limit.bytes);
            let event = NewEvent {
                channel: Cow::Borrowed(channel),
                key: key.clone(),
                payload,
                from: Some(Arc::clone(&author)),
                hidden_from,
                message_id: None,
                keep: self.keep,
                frames,
            };
            let published = self.store.publish(event, self.now()).unwrap();
            assert!(published.crowded.is_none() || !self.mailboxes.calm(), "crowded");
            let alias = self.live(channel);
            let log = self.logs.all.entry(alias).or_default();
            log.push(Entry { number, key, hidden_from });
            assert_eq!(published.position.offset, log.len() as u64, "offsets have no gaps");
        }
    }

    /// The alias of a channel that was just used.
    fn live(&mut self, channel: &'static str) -> u64 {
        let alias = self.store.find(channel).unwrap().alias.0;
        self.logs.all.entry(alias).or_default();
        let lives = self.logs.lives.entry(channel).or_default();
        if lives.last() != Some(&alias) {
            self.tally.reborn += u64::from(!lives.is_empty());
            lives.push(alias);
            for connection in &mut self.connections {
                let way = connection.way(channel);
                connection.client.throttles(alias, 0, way);
            }
        }
        alias
    }

    /// One turn of a shard: its mailbox if it has nothing in hand, one fan-out, some writes.
    pub(crate) fn turn(&mut self, index: usize) {
        // Flushes are due between turns, however soon these follow each other.
        self.now_ms += if self.rng.bool() { self.rng.u64(0..50) } else { 0 };
        let shard = &mut self.shards[index];
        if shard.in_hand.is_empty() {
            shard.in_hand.extend(self.mailboxes.take(shard.id));
        }
        let mut outcome = Outcome::default();
        while let Some(event) = shard.in_hand.front() {
            shard.longest = shard.longest.max(frame_bytes(event));
            let Shard { hub, net, .. } = shard;
            if !hub.load(event, self.now_ms)
                && (hub.flush_early(event, net, self.now_ms, &mut outcome).is_none()
                    || !hub.load(event, self.now_ms))
            {
                break;
            }
            shard.heads.insert(event.alias.0, event.offset);
            shard.in_hand.pop_front();
        }
        shard.hub.fan_out(&mut shard.net, self.now_ms, &mut outcome);
        self.settle(index, outcome);
        let shard = &mut self.shards[index];
        for _ in 0..self.rng.usize(0..20) {
            let Some(id) = shard.hub.next_dirty() else { break };
            shard.flush(id, (&self.store, &self.mailboxes), self.now_ms);
        }
    }

    /// Counts what became of events, and closes those who were too slow.
    pub(crate) fn settle(&mut self, index: usize, outcome: Outcome) {
        self.tally.count(&outcome);
        for seat in outcome.overflowed {
            let there = self.shards[index].hub.seat(seat).unwrap();
            // What stands behind the past, or one that lags, waits for the turn's own writes.
            let blocked = there.blocked || there.outbox.waits_for_refill();
            let connection = self.connection(index, seat);
            let strict = connection.policies.values().any(|policy| *policy == Policy::Disconnect);
            assert!(strict, "{:?} never asked to be closed", connection.author);
            // But for an event that is larger than the whole queue.
            let fits = self.shards[index].longest <= self.limit.bytes;
            assert!(blocked || !fits, "a socket that takes bytes is not slow");
            let begun = self.close(index, seat, CloseReason::SlowConsumer);
            self.tally.cut[0] += u64::from(begun);
        }
    }

    /// The client reads some of what is there, and the server writes into the room.
    pub(crate) fn read(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let net = &mut self.shards[connection.shard].net;
        let socket = net.sockets.get_mut(&connection.seat).unwrap();
        if connection.stalled || socket.bytes.is_empty() {
            return;
        }
        let most = socket.bytes.len();
        let some = if self.rng.bool() { most } else { self.rng.usize(1..=most) };
        let bytes: Vec<u8> = socket.bytes.drain(..some).collect();
        connection.client.read(&bytes, &self.logs);
        let last = self.farewells.recall(connection.author.client, self.now_ms);
        connection.client.comes_back(last, self.now_ms, &self.logs);
        self.writable(index);
    }

    fn writable(&mut self, index: usize) {
        let connection = &self.connections[index];
        let shard = &mut self.shards[connection.shard];
        shard.hub.seat(connection.seat).unwrap().blocked = false;
        shard.flush(connection.seat, (&self.store, &self.mailboxes), self.now_ms);
    }

    fn time(&mut self) {
        self.now_ms += if self.rng.bool() { self.rng.u64(0..5_000) } else { IDLE_MS / 2 };
        for _ in 0..SWEEPS {
            self.store.sweep(self.now());
        }
    }

    pub(crate) fn check(&mut self) {
        for connection in &mut self.connections {
            let hub = &mut self.shards[connection.shard].hub;
            let outbox = &hub.seat(connection.seat).unwrap().outbox;
            assert!(outbox.data_bytes() <= self.limit.bytes, "bytes of {:?}", connection.author);
            assert!(outbox.data_events() <= self.limit.events, "events of {:?}", connection.author);
            let half = OutboxLimit { bytes: self.limit.bytes / 2, events: self.limit.events / 2 };
            if outbox.data_bytes() <= half.bytes && outbox.data_events() <= half.events {
                connection.half_ms = self.now_ms;
            }
        }
        let mut subscribers: u64 = self.shards.iter().map(|shard| shard.hub.subscriptions()).sum();
        let there = self.connections.iter().filter(|connection| !connection.ending);
        let asked = there.flat_map(|connection| connection.policies.keys());
        subscribers -= asked.filter(|name| name.ends_with('*')).count() as u64;
        let channels = self.store.channels("", None, usize::MAX);
        let counted: u64 = channels.iter().map(|channel| u64::from(channel.subscribers)).sum();
        assert_eq!(counted, subscribers, "the store and the hubs count the same");
    }
}
