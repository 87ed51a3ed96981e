//! What `kill -9` takes back of durable channels: nothing that anybody was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::at_end::AtEnd;
use crate::durable::{Durable, offset};
use crate::harness::{Client, Gateway, wait_for};

/// How often a gateway is killed under load: few times here, `WEIR_KILLS=100` for the whole.
fn kills() -> u64 {
    std::env::var("WEIR_KILLS").ok().map_or(3, |text| text.parse().unwrap())
}

/// Where events are, and what they are.
type Places = BTreeMap<u64, u64>;

/// Goal: `kill -9` at a random moment under the load of 64 publishers loses no event that was
/// acknowledged, gives no offset twice, and takes back nothing that a subscriber has seen.
#[test]
fn a_crash_takes_back_nothing_that_was_told() {
    let mut rng = fastrand::Rng::with_seed(kills());
    let mut durable = Durable::start();
    let mut lives: Vec<(String, Places)> = Vec::new();
    let mut events = 0;
    for round in 0..kills() {
        // A channel that has lived through the last crash, or a fresh one.
        let channel = format!("log:{}", round / 2);
        let (told, seen) = load_and_kill(&mut durable, &channel, rng.u64(1..10_000));
        durable.again();
        let before = lives.iter().rev().find(|(name, _)| *name == channel);
        let before = before.map(|(_, kept)| kept.clone()).unwrap_or_default();
        let kept = kept(durable.gateway(), &channel);
        for (offset, event) in told.iter().chain(&seen).chain(&before) {
            assert_eq!(kept.get(offset), Some(event), "round {round}: event {event} at {offset}");
        }
        assert!(told.keys().all(|offset| !before.contains_key(offset)), "round {round}: twice");
        let distinct: BTreeSet<_> = kept.values().collect();
        assert_eq!(distinct.len(), kept.len(), "round {round}: an event has two places");
        assert!(kept.keys().copied().eq(1..=kept.len() as u64), "round {round}: there is a hole");
        events += told.len();
        lives.push((channel, kept));
    }
    // No later crash has changed anything.
    for (at, (channel, then)) in lives.iter().enumerate() {
        if lives.get(at + 1).is_none_or(|(next, _)| next != channel) {
            assert_eq!(&kept(durable.gateway(), channel), then, "{channel}");
        }
    }
    eprintln!("{} kills, {events} events acknowledged", kills());
}

/// Kills a gateway when at least so many events are acknowledged, and any number is on its way.
/// What its publishers were told, and what a subscriber has seen.
fn load_and_kill(durable: &mut Durable, channel: &str, moment: u64) -> (Places, Places) {
    const PUBLISHERS: u64 = 64;
    static EVENTS: AtomicU64 = AtomicU64::new(1);
    let (acknowledged, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let gateway = durable.gateway();
    let mut watcher = Client::connect(gateway);
    watcher.subscribe(channel);
    let clients: Vec<_> = (0..PUBLISHERS).map(|_| Client::connect(gateway)).collect();
    let (all, watched) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(watcher));
        let counts = (&EVENTS, &acknowledged, &over);
        let publishers: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || publish((client, channel), counts)))
            .collect();
        let _end = AtEnd(|| gateway.signal(Signal::KILL));
        wait_for("events to be acknowledged", || {
            (acknowledged.load(Ordering::Relaxed) >= moment).then_some(())
        });
        gateway.signal(Signal::KILL);
        over.store(true, Ordering::Relaxed);
        let all: Vec<_> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
        (all, watcher.join().unwrap())
    });
    durable.kill();
    let (mut told, mut seen) = (Places::new(), Places::new());
    for (offset, event) in all {
        assert_eq!(told.insert(offset, event), None, "{offset} was told twice");
    }
    for (offset, event) in watched {
        assert_eq!(seen.insert(offset, event), None, "{offset} was seen twice");
    }
    assert!(told.len() as u64 >= moment);
    (told, seen)
}

/// Publishes until the end of the connection, some at a time. What was acknowledged: where, and what.
fn publish(
    (mut client, channel): (Client, &str),
    (counter, acknowledged, over): (&AtomicU64, &AtomicU64, &AtomicBool),
) -> Vec<(u64, u64)> {
    const WINDOW: u64 = 16;
    let mut told = Vec::new();
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        while sent < told.len() as u64 + WINDOW {
            let event = counter.fetch_add(1, Ordering::Relaxed);
            let publish =
                json!({"type": "publish", "channel": channel, "data": event, "id": event});
            if !client.try_send_text(&publish.to_string()) {
                break;
            }
            sent += 1;
        }
        let Some(answer) = client.try_next() else { break };
        assert_eq!(answer["type"], "published", "{answer}");
        told.push((offset(&answer), answer["id"].as_u64().unwrap()));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    // What was told and not read yet counts too.
    while let Some(answer) = client.try_next() {
        told.push((offset(&answer), answer["id"].as_u64().unwrap()));
    }
    told
}

/// Reads until the end of the connection. What it saw: where, and what.
fn watch(mut client: Client) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    while let Some(message) = client.try_next() {
        if message["type"] == "event" {
            seen.push((offset(&message), message["data"].as_u64().unwrap()));
        }
    }
    seen
}

/// Who sends again what it has sent, and where.
const RETRIERS: u64 = 16;
const CHANNEL: &str = "log:retry";

/// Goal: whoever sends again, behind a `kill -9`, all that it has sent before it, acknowledged or not,
/// publishes nothing twice; and what was acknowledged keeps the place that it was told. Over HTTP too.
#[test]
fn a_retry_behind_a_crash_publishes_nothing_twice() {
    let mut durable = Durable::start();
    let acknowledged = AtomicU64::new(0);
    let gateway = durable.gateway();
    let clients: Vec<_> = (0..RETRIERS).map(|n| (n, Client::connect(gateway))).collect();
    let lives: Vec<(u64, Places)> = std::thread::scope(|scope| {
        let publishers: Vec<_> = clients
            .into_iter()
            .map(|(n, client)| {
                let acknowledged = &acknowledged;
                scope.spawn(move || send_until_the_end(client, n, acknowledged))
            })
            .collect();
        let _end = AtEnd(|| gateway.signal(Signal::KILL));
        wait_for("events to be acknowledged", || {
            (acknowledged.load(Ordering::Relaxed) >= 2_000).then_some(())
        });
        gateway.signal(Signal::KILL);
        publishers.into_iter().map(|one| one.join().unwrap()).collect()
    });
    durable.kill();
    durable.again();
    let gateway = durable.gateway();
    let before = kept(gateway, CHANNEL);
    let mut watcher = Client::connect(gateway);
    assert_eq!(offset(&watcher.subscribe(CHANNEL)), before.len() as u64);
    let mut fresh = BTreeMap::new();
    for (n, (sent, told)) in lives.iter().enumerate() {
        let mut client = Client::connect(gateway);
        for event in (0..*sent).map(|step| step * RETRIERS + n as u64 + 1) {
            let answer = if event % 10 == 0 {
                gateway.post("/api/v1/publish", &retry(event).to_string()).json()
            } else {
                client.ask(retry(event))
            };
            let known = before.get(&offset(&answer)) == Some(&event);
            assert_eq!(answer["duplicate"] == true, known, "event {event}: {answer}");
            if let Some(place) = told.get(&event) {
                assert!(known && *place == offset(&answer), "{event} at {place}: {answer}");
            }
            if !known {
                fresh.insert(offset(&answer), event);
            }
        }
    }
    // A subscriber has those alone that the crash has taken before anybody was told.
    for (place, event) in &fresh {
        let shown = watcher.expect("event");
        assert_eq!((offset(&shown), &shown["data"]), (*place, &json!(event)));
    }
    watcher.expect_nothing();
    let after = kept(gateway, CHANNEL);
    let distinct: BTreeSet<_> = after.values().copied().collect();
    let sent: u64 = lives.iter().map(|(sent, _)| sent).sum();
    assert_eq!((after.len() as u64, distinct.len() as u64), (sent, sent), "each once");
}

fn retry(event: u64) -> Value {
    json!({"type": "publish", "channel": CHANNEL, "data": event, "message_id": format!("m{event}")})
}

/// Publishes until the end of the connection, some at a time. How many were sent, and where those are
/// that were acknowledged.
fn send_until_the_end(mut client: Client, n: u64, acknowledged: &AtomicU64) -> (u64, Places) {
    let (mut sent, mut told, mut sends) = (0, Places::new(), true);
    loop {
        while sends && sent < told.len() as u64 + 16 {
            let event = sent * RETRIERS + n + 1;
            let mut publish = retry(event);
            publish["id"] = json!(event);
            sends = client.try_send_text(&publish.to_string());
            sent += 1;
        }
        // What was told and not read yet counts too.
        let Some(answer) = client.try_next() else { return (sent, told) };
        assert_eq!(answer["type"], "published", "{answer}");
        told.insert(answer["id"].as_u64().unwrap(), offset(&answer));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything that is kept: where, and what.
fn kept(gateway: &Gateway, channel: &str) -> Places {
    let mut client = Client::connect(gateway);
    let mut kept = BTreeMap::new();
    let head = client.ask(json!({"type": "history", "channel": channel, "limit": 0}));
    let mut after = 0;
    while after < offset(&head) {
        let since = json!({"epoch": head["epoch"], "offset": after});
        let page = client
            .ask(json!({"type": "history", "channel": channel, "limit": 1000, "since": since}));
        let events = page["events"].as_array().unwrap();
        assert!(!events.is_empty(), "after {after}: {page}");
        kept.extend(events.iter().map(|one| (offset(one), one["data"].as_u64().unwrap())));
        after = offset(events.last().unwrap());
    }
    kept
}
