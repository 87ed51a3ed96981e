//! Clients that come back to durable channels behind a crash or a restart of the gateway: nothing is
//! missing, nothing comes twice, and where there is a hole they are told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::at_end::AtEnd;
use crate::durable::{Durable, epoch, offset};
use crate::harness::{Client, wait_for};

const CHANNEL: &str = "log:1";
const PUBLISHERS: usize = 4;
const READERS: usize = 6;

/// What a reader has: where, and what; and what it was told first.
struct Reader {
    client: u64,
    epoch: String,
    events: BTreeMap<u64, u64>,
}

impl Reader {
    /// Takes an event, which is the next.
    fn take(&mut self, event: &Value) {
        assert_eq!(event["type"], "event", "reader {}: {event}", self.client);
        let next = self.last() + 1;
        assert_eq!(offset(event), next, "reader {}: {event}", self.client);
        self.events.insert(next, event["data"].as_u64().unwrap());
    }

    fn last(&self) -> u64 {
        self.events.keys().next_back().copied().unwrap_or_default()
    }

    fn since(&self) -> Value {
        json!({"epoch": self.epoch, "offset": self.last()})
    }
}

/// Goal: readers that are cut off by `kill -9` while publishers go as fast as they can, and come back
/// with `since` to the next process, have every event once and in order, over several such lives; and
/// all of them the same.
#[test]
fn whoever_comes_back_behind_a_crash_misses_nothing_and_gets_nothing_twice() {
    const LIVES: u64 = 4;
    let mut rng = fastrand::Rng::with_seed(7);
    let mut durable = Durable::start();
    let number = AtomicU64::new(1);
    let mut readers: Vec<Reader> = (0..READERS as u64)
        .map(|client| Reader { client, epoch: String::new(), events: BTreeMap::new() })
        .collect();
    for life in 1..=LIVES {
        let gateway = durable.gateway();
        // One of them stays away for a life: what it has missed then lies in two.
        let here = |reader: &Reader| life != 2 || reader.client > 0;
        let over = AtomicBool::new(false);
        let published = AtomicU64::new(0);
        let publishers: Vec<_> = (0..PUBLISHERS).map(|_| Client::connect(gateway)).collect();
        std::thread::scope(|scope| {
            for publisher in publishers {
                scope.spawn(|| publish(publisher, (&number, &published, &over)));
            }
            let _end = AtEnd(|| gateway.signal(Signal::KILL));
            // Half of them come when there is something already.
            let moment = rng.u64(100..2_000);
            let many = |count: u64| (published.load(Ordering::Relaxed) >= count).then_some(());
            wait_for("events", || many(moment / 2));
            for reader in readers.iter_mut().filter(|reader| here(reader)) {
                let client = Client::connect(gateway);
                scope.spawn(|| follow(client, reader));
            }
            wait_for("more events", || many(moment));
            gateway.signal(Signal::KILL);
            over.store(true, Ordering::Relaxed);
        });
        durable.kill();
        durable.again();
    }
    // Nobody publishes now: all that is left is the past.
    let gateway = durable.gateway();
    let head = offset(&Client::connect(gateway).subscribe(CHANNEL));
    assert!(head > 100 * LIVES, "{head}");
    for reader in &mut readers {
        let mut client = Client::connect(gateway);
        come_back(&mut client, reader);
        while reader.last() < head {
            reader.take(&client.next());
        }
        client.expect_nothing();
    }
    let (first, others) = readers.split_first().unwrap();
    let mut distinct: Vec<u64> = first.events.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len() as u64, head, "each event has one place");
    assert!(others.iter().all(|other| other.events == first.events));
}

/// Publishes numbers until the end of the connection, some at a time.
fn publish(mut client: Client, (number, published, over): (&AtomicU64, &AtomicU64, &AtomicBool)) {
    for sent in 0.. {
        let data = number.fetch_add(1, Ordering::Relaxed);
        let text = json!({"type": "publish", "channel": CHANNEL, "data": data, "id": data});
        if over.load(Ordering::Relaxed) || !client.try_send_text(&text.to_string()) {
            return;
        }
        if sent >= 16 {
            let Some(answer) = client.try_next() else { return };
            assert_eq!(answer["type"], "published", "{answer}");
            published.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Subscribes where a reader was, and reads to the end of the connection.
fn follow(mut client: Client, reader: &mut Reader) {
    if !try_come_back(&mut client, reader) {
        return;
    }
    while let Some(event) = client.try_next() {
        reader.take(&event);
    }
}

/// Subscribes where a reader was; `false` where the connection ends before it is answered.
fn try_come_back(client: &mut Client, reader: &mut Reader) -> bool {
    let mut subscribe = json!({"type": "subscribe", "channel": CHANNEL, "id": 1});
    if reader.epoch.is_empty() {
        // From the beginning: the epoch is that of any answer.
        let history = json!({"type": "history", "channel": CHANNEL, "limit": 0, "id": 2});
        client.try_send_text(&history.to_string());
        let Some(answer) = client.try_next() else { return false };
        reader.epoch = epoch(&answer);
    }
    subscribe["since"] = reader.since();
    client.try_send_text(&subscribe.to_string());
    let Some(begun) = client.try_next() else { return false };
    assert_eq!((&begun["type"], &begun["recovered"]), (&json!("subscribed"), &json!(true)));
    assert_eq!(epoch(&begun), reader.epoch, "it goes on");
    true
}

fn come_back(client: &mut Client, reader: &mut Reader) {
    assert!(try_come_back(client, reader), "the gateway lives");
}

/// Goal: whoever comes back behind a restart to a channel that has not kept all it has missed is told
/// so, and goes on from the head; one that has missed just what is kept has all of it; and a place
/// that never was is a hole as well. Method: the same places before the restart and behind it, behind
/// a crash, and in a file of its own.
#[test]
fn whoever_has_missed_more_than_is_kept_is_told() {
    const SHORT: &str = "[[namespace]]\nname = \"short\"\ndurable = true\nhistory = 10\n\
        [[namespace]]\nname = \"few\"\ndurable = true\nhistory = 100\nrecovery_max_events = 5\n";
    let mut durable = Durable::with(SHORT);
    let mut client = Client::connect(durable.gateway());
    let mut places = Vec::new();
    for n in 1..=50 {
        let short = client.publish("short:1", &json!(n));
        let few = client.publish("few:1", &json!(n));
        places = vec![("short:1", 40, epoch(&short)), ("few:1", 45, epoch(&few))];
    }
    for end in [None, Some(Durable::restart as fn(&mut Durable)), Some(crash)] {
        if let Some(end) = end {
            end(&mut durable);
        }
        for (channel, edge, epoch) in &places {
            for (epoch, since, whole) in [
                (epoch.as_str(), *edge, true),
                (epoch, 50, true),
                (epoch, edge - 1, false),
                (epoch, 0, false),
                (epoch, 51, false),
                ("another", *edge, false),
            ] {
                let mut client = Client::connect(durable.gateway());
                let since_json = json!({"epoch": epoch, "offset": since});
                let begun = client
                    .ask(json!({"type": "subscribe", "channel": channel, "since": since_json}));
                let said = format!("{channel} since {epoch} {since}: {begun}");
                assert_eq!(begun["recovered"], whole, "{said}");
                assert_eq!(offset(&begun), 50, "{said}");
                for missed in (since + 1..=50).filter(|_| whole) {
                    assert_eq!(offset(&client.expect("event")), missed, "{said}");
                }
                client.expect_nothing();
            }
        }
    }
    // From the head that it was told a reader goes on without another hole.
    let mut reader = Client::connect(durable.gateway());
    reader.subscribe("short:1");
    Client::connect(durable.gateway()).publish("short:1", &json!(51));
    assert_eq!(offset(&reader.expect("event")), 51);
    // A file that is gone is another life of its channels, and no place of the old one is in it.
    let mut other = Durable::with(SHORT);
    let mut client = Client::connect(other.gateway());
    for n in 1..=60 {
        client.publish("short:1", &json!(n));
    }
    other.restart();
    let mut client = Client::connect(other.gateway());
    let since = json!({"epoch": places[0].2, "offset": 55});
    let begun = client.ask(json!({"type": "subscribe", "channel": "short:1", "since": since}));
    assert_eq!((&begun["recovered"], offset(&begun)), (&json!(false), 60));
    assert_ne!(epoch(&begun), places[0].2);
}

fn crash(durable: &mut Durable) {
    durable.kill();
    durable.again();
}

/// Goal: a client that says who it was, to another process than the one that it was on, is served as
/// any other: its close is forgotten with the process, its place in the channel is not.
#[test]
fn whoever_says_who_it_was_behind_a_restart_is_told_nothing_wrong() {
    let mut durable = Durable::start();
    let mut reader = Client::connect(durable.gateway());
    let begun = reader.subscribe(CHANNEL);
    let was = format!("?was={}", reader.id);
    let mut publisher = Client::connect(durable.gateway());
    publisher.publish(CHANNEL, &json!(1));
    assert_eq!(offset(&reader.expect("event")), 1);
    durable.restart();
    assert_eq!(reader.ended().code, Some(4001));
    Client::connect(durable.gateway()).publish(CHANNEL, &json!(2));
    let mut reader = Client::connect_with(durable.gateway().addr, &was, None);
    assert!(reader.welcome.get("last").is_none(), "{}", reader.welcome);
    let since = json!({"epoch": epoch(&begun), "offset": 1});
    let again = reader.ask(json!({"type": "subscribe", "channel": CHANNEL, "since": since}));
    assert_eq!((&again["recovered"], offset(&again)), (&json!(true), 2));
    assert_eq!(offset(&reader.expect("event")), 2);
    reader.expect_nothing();
}
