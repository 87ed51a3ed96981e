//! Slow consumers: what they lose is told exactly, and only they lose.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, wait_for};

const ROUNDS: u64 = 100;
const BATCH: u64 = 40;
const EVENTS: u64 = ROUNDS * BATCH;

/// Publishes [`EVENTS`] events of 1 KiB on `channel`, each batch read by `healthy` before the next
/// is sent, so that only a client that does not read can fall behind.
fn flood(publisher: &mut Client, healthy: &mut Client, channel: &str) {
    let pad = "x".repeat(1024);
    for round in 0..ROUNDS {
        let line = |n| {
            let data = json!({"n": round * BATCH + n, "pad": pad});
            json!({"type": "publish", "channel": channel, "data": data}).to_string()
        };
        let lines: Vec<_> = (1..=BATCH).map(line).collect();
        publisher.send_text(&lines.join("\n"));
        for n in 1..=BATCH {
            let event = healthy.expect("event");
            assert_eq!(event["offset"], round * BATCH + n, "a healthy client loses nothing");
            assert_eq!(event["data"]["n"], event["offset"]);
        }
    }
}

/// What a reader was told of a channel.
#[derive(Default)]
struct Account {
    told: BTreeSet<u64>,
    lost: u64,
    last: u64,
}

impl Account {
    fn take(&mut self, message: &Value) {
        if message["type"] == "lagged" {
            let (from, to) = (message["from"].as_u64().unwrap(), message["to"].as_u64().unwrap());
            assert!(from <= to, "{message}");
            assert_eq!(message["dropped"], to - from + 1, "{message}");
            assert!(message["age_ms"].is_u64(), "{message}");
            for offset in from..=to {
                assert!(self.told.insert(offset), "offset {offset} told twice: {message}");
            }
            self.lost += to - from + 1;
        } else {
            assert_eq!(message["type"], "event", "{message}");
            let offset = message["offset"].as_u64().unwrap();
            assert!(offset > self.last, "{offset} after {}", self.last);
            self.last = offset;
            assert!(self.told.insert(offset), "offset {offset} told twice");
        }
    }
}

#[test]
fn a_stalled_subscriber_is_told_of_every_offset_exactly_once() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("room:1");
    flood(&mut publisher, &mut healthy, "room:1");
    assert!(gateway.metric("weir_events_dropped_total{policy=\"drop_oldest\"") > 0.0);

    let mut account = Account::default();
    while account.told.len() < usize::try_from(EVENTS).unwrap() {
        account.take(&stalled.next());
    }
    assert_eq!(account.told, (1..=EVENTS).collect(), "no offset that was never given");
    assert!(account.lost > 0, "it was slow");
    assert_eq!(account.last, EVENTS, "the oldest go, the newest comes");

    // It reads again, so it is as healthy as the others.
    publisher.publish("room:1", &json!("after"));
    assert_eq!(stalled.expect("event")["data"], "after");
    assert_eq!(healthy.expect("event")["data"], "after");
    stalled.expect_nothing();
}

/// Goal: one that reads nothing costs its queue, however much is published.
#[test]
fn a_stalled_subscriber_takes_no_more_than_its_queue() {
    const QUEUE: u64 = 256 << 10;
    const MARGIN: u64 = 4 << 20;
    let gateway = Gateway::configured("[limits]\nqueue_bytes = \"256KiB\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let pad = "x".repeat(60_000);
    let mut sent = 0;
    let mut publish = |times| {
        for _ in 0..times {
            sent += 1;
            publisher.send(&json!({"type": "publish", "channel": "room:1", "data": pad}));
            assert_eq!(healthy.expect("event")["offset"], sent, "a healthy client loses nothing");
        }
    };
    // What such events take by themselves.
    publish(50);
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("room:1");
    let before = gateway.rss();
    // 64 MiB.
    publish(1_120);
    let grown = gateway.rss_peak().saturating_sub(before);
    assert!(grown < QUEUE + MARGIN, "the process grew by {grown}");
    assert!(gateway.metric("weir_events_dropped_total{policy=\"drop_oldest\"") > 900.0);
}

/// Goal: under `drop_newest`, of the namespace or of the subscription, what came first stays.
#[test]
fn under_drop_newest_the_beginning_comes_and_the_rest_is_told() {
    let gateway = Gateway::configured("[[namespace]]\nname = \"log\"\nslow = \"drop_newest\"\n");
    for (channel, slow) in [("log:1", None), ("room:1", Some("drop_newest"))] {
        let mut publisher = Client::connect(&gateway);
        let mut healthy = Client::connect(&gateway);
        healthy.subscribe(channel);
        let mut stalled = Client::connect_narrow(&gateway);
        let command = json!({"type": "subscribe", "channel": channel, "slow": slow});
        assert_eq!(stalled.ask(command)["type"], "subscribed");
        flood(&mut publisher, &mut healthy, channel);

        let mut account = Account::default();
        while account.told.len() < usize::try_from(EVENTS).unwrap() {
            let message = stalled.next();
            if account.lost == 0 && message["type"] == "lagged" {
                // 256 KiB of them. A kernel that makes room later may take some that are newer.
                assert!(account.last > 200, "the queue has the beginning: {message}");
            }
            account.take(&message);
        }
        assert_eq!(account.told, (1..=EVENTS).collect(), "no offset that was never given");
        assert!(account.lost > 0, "it was slow");

        publisher.publish(channel, &json!("after"));
        assert_eq!(stalled.expect("event")["data"], "after");
        assert_eq!(healthy.expect("event")["data"], "after");
        stalled.expect_nothing();
    }
    assert!(gateway.metric("weir_events_dropped_total{policy=\"drop_newest\"") > 0.0);
    assert!(gateway.metric("weir_events_dropped_total{policy=\"drop_oldest\"") < 0.5);
}

/// Goal: under `latest` a stalled reader costs nothing, and is shown the newest of each key.
#[test]
fn under_latest_the_newest_event_of_each_key_is_shown() {
    const KEYS: u64 = 50;
    let gateway = Gateway::configured("[[namespace]]\nname = \"dash\"\nslow = \"latest\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("dash:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("dash:1");
    let pad = "x".repeat(1024);
    for n in 1..=EVENTS {
        let data = json!({"n": n, "pad": pad});
        let key = format!("k{}", n % KEYS);
        let command = json!({"type": "publish", "channel": "dash:1", "key": key, "data": data});
        publisher.send(&command);
        assert_eq!(healthy.expect("event")["offset"], n, "a healthy client loses nothing");
    }
    let mut account = Account::default();
    let mut seen = BTreeMap::new();
    while account.told.len() < usize::try_from(EVENTS).unwrap() || (seen.len() as u64) < KEYS {
        let message = stalled.next();
        if message["type"] == "event" {
            let offset = message["offset"].as_u64().unwrap();
            assert_eq!(message["data"]["n"], offset);
            seen.insert(message["key"].as_str().unwrap().to_owned(), offset);
        }
        if message["snapshot"] == true {
            assert!(account.told.contains(&message["offset"].as_u64().unwrap()), "{message}");
        } else {
            account.take(&message);
        }
    }
    assert!(account.lost > 0, "it was slow");
    while seen.values().any(|offset| *offset <= EVENTS - KEYS) {
        let message = stalled.expect("event");
        let offset = message["offset"].as_u64().unwrap();
        seen.insert(message["key"].as_str().unwrap().to_owned(), offset);
    }
    publisher.publish("dash:1", &json!("after"));
    let after = stalled.expect("event");
    assert!(after["data"] == "after" && after["snapshot"].is_null(), "live again: {after}");
    stalled.expect_nothing();
    assert!(gateway.metric("weir_events_dropped_total{policy=\"latest\"") > 0.0);
    assert!(gateway.metric("weir_events_shown_total") > 0.0);
}

#[test]
fn a_stalled_subscriber_of_many_channels_accounts_for_each() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut healthy = [Client::connect(&gateway), Client::connect(&gateway)];
    let mut stalled = Client::connect_narrow(&gateway);
    for (reader, channel) in healthy.iter_mut().zip(["room:1", "room:2"]) {
        reader.subscribe(channel);
        stalled.subscribe(channel);
    }
    for (reader, channel) in healthy.iter_mut().zip(["room:1", "room:2"]) {
        flood(&mut publisher, reader, channel);
    }
    let mut accounts = [Account::default(), Account::default()];
    while accounts.iter().map(|account| account.told.len() as u64).sum::<u64>() < 2 * EVENTS {
        let message = stalled.next();
        accounts[usize::from(message["channel"] == "room:2")].take(&message);
    }
    for account in accounts {
        assert_eq!(account.told, (1..=EVENTS).collect());
    }
    stalled.expect_nothing();
}

#[test]
fn answers_to_a_slow_client_are_never_dropped() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("room:1");
    flood(&mut publisher, &mut healthy, "room:1");
    for id in 1..=100 {
        stalled.send(&json!({"type": "ping", "id": id}));
    }
    let mut account = Account::default();
    let mut answered = 0;
    while answered < 100 || account.told.len() < usize::try_from(EVENTS).unwrap() {
        let message = stalled.next();
        if message["type"] == "pong" {
            answered += 1;
            assert_eq!(message["id"], answered);
        } else {
            account.take(&message);
        }
    }
}

#[test]
fn the_disconnect_policy_closes_with_4000() {
    let gateway = Gateway::configured("[[namespace]]\nname = \"strict\"\nslow = \"disconnect\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("strict:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("strict:1");
    flood(&mut publisher, &mut healthy, "strict:1");
    let ended = stalled.ended();
    assert!(matches!(ended.code, None | Some(4000)), "{:?} {}", ended.code, ended.reason);
    let events = ended.messages.iter().filter(|message| message["type"] == "event");
    for (event, offset) in events.zip(1_u64..) {
        assert_eq!(event["offset"], offset, "no hole before the end");
    }
    assert!(ended.messages.iter().all(|message| message["type"] != "lagged"));
    if ended.code.is_some() {
        assert_eq!(ended.reason, "slow_consumer");
    }
    wait_for("the close to be counted as 4000", || {
        let closed = gateway.metric("weir_connections_closed_total{code=\"4000\"");
        (closed > 0.5).then_some(())
    });
    assert!(gateway.metric("weir_events_dropped_total{policy=\"disconnect\"") > 0.5);
    healthy.expect_nothing();
}

#[test]
fn a_subscription_may_choose_another_policy() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    let command = json!({"type": "subscribe", "channel": "room:1", "slow": "disconnect"});
    assert_eq!(stalled.ask(command)["type"], "subscribed");
    flood(&mut publisher, &mut healthy, "room:1");
    // The close frame may find no room in the socket; what is counted is the gateway's own word.
    wait_for("the close to be counted as 4000", || {
        let closed = gateway.metric("weir_connections_closed_total{code=\"4000\"");
        (closed > 0.5).then_some(())
    });
    let ended = stalled.ended();
    assert!(matches!(ended.code, None | Some(4000)), "{:?}", ended.code);
    assert!(ended.messages.iter().all(|message| message["type"] != "lagged"));
    let dropped = "weir_events_dropped_total{policy=\"drop_oldest\"";
    assert!(gateway.metric(dropped) < 0.5, "under the policy of its own");
    healthy.expect_nothing();
}

#[test]
fn a_queue_that_stays_full_ends_the_connection() {
    let gateway = Gateway::configured("[limits]\nslow_disconnect = \"500ms\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("room:1");
    flood(&mut publisher, &mut healthy, "room:1");
    wait_for("the close to be counted as 4000", || {
        let closed = gateway.metric("weir_connections_closed_total{code=\"4000\"");
        (closed > 0.5).then_some(())
    });
    assert!(matches!(stalled.ended().code, None | Some(4000)));
    healthy.expect_nothing();
}

/// Goal: how long events have been in a queue is known of each as it is written, and who takes no
/// more is counted as that before anything is lost.
#[test]
fn how_long_events_have_waited_is_measured_as_they_are_written() {
    let gateway = Gateway::configured("shards = 1\n");
    let mut publisher = Client::connect(&gateway);
    let mut stalled = Client::connect_narrow(&gateway);
    let mut leaver = Client::connect_narrow(&gateway);
    for client in [&mut stalled, &mut leaver] {
        client.subscribe("room:1");
    }
    let blocked =
        || gateway.get("/api/v1/stats").json()["total"]["slow_consumers"]["blocked"].clone();
    let (data, mut sent) = (json!("x".repeat(8_000)), 0);
    wait_for("sockets that take no more", || {
        sent += 1;
        publisher.publish("room:1", &data);
        (blocked() == 2).then_some(())
    });
    // Behind the one that is half written.
    for _ in 0..5 {
        sent += 1;
        publisher.publish("room:1", &data);
    }
    gateway.wait_for_mail();
    leaver.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    let unsubscribed = "weir_events_dropped_total{policy=\"unsubscribed\"";
    wait_for("what it leaves to be taken back", || {
        (gateway.metric(unsubscribed) > 0.5).then_some(())
    });
    let waited = |what: &str| gateway.metric(&format!("weir_queue_age_seconds_{what}"));
    let before = waited("sum");
    wait_for("the oldest to have waited for a while", || {
        let slowest = gateway.get("/api/v1/stats").json()["slowest"].clone();
        let stalled =
            slowest.as_array()?.iter().find(|one| one["client"] == stalled.id.as_str())?;
        (stalled["oldest_ms"].as_u64()? >= 300).then_some(())
    });
    for n in 1..=sent {
        assert_eq!(stalled.expect("event")["offset"], n, "nothing was lost");
    }
    stalled.expect_nothing();
    assert!(waited("sum") - before >= 0.3, "{} s before, {} s", before, waited("sum"));
    let [delivered, taken_back] =
        ["weir_events_delivered_total", unsubscribed].map(|name| gateway.metric(name));
    assert!((waited("count") - delivered).abs() < 0.5, "each as it is written");
    // One is half written to who left.
    let left = 2.0 * f64::from(sent) - delivered - taken_back;
    assert!((-0.5..1.5).contains(&left), "{left} events are neither written nor taken back");
    drop(leaver);
    wait_for("nobody to be slow", || (blocked() == 0).then_some(()));
}
