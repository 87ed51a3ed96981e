//! `max_rate`: fewer events, the newest of each key, and nothing lost but what was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, now, wait_for};

fn subscribe(client: &mut Client, channel: &str, max_rate: &Value) -> Value {
    client.ask(json!({"type": "subscribe", "channel": channel, "max_rate": max_rate}))
}

fn publish(publisher: &mut Client, channel: &str, key: &str, n: u64) {
    publisher.send(&json!({"type": "publish", "channel": channel, "key": key, "data": n}));
}

fn offset(event: &Value) -> u64 {
    event["offset"].as_u64().unwrap()
}

/// Goal: at 1 Hz and at 50 Hz a subscriber is brought up to date so often and no more, the last
/// event always comes, and another one of the same channel has every event.
#[test]
fn a_subscriber_is_brought_up_to_date_no_more_often_than_it_asks() {
    for (hz, seconds) in [(1.0, 1.5), (50.0, 0.5)] {
        let gateway = Gateway::start();
        let mut all = Client::connect(&gateway);
        all.subscribe("room:1");
        let mut client = Client::connect(&gateway);
        assert_eq!(subscribe(&mut client, "room:1", &json!(hz))["type"], "subscribed");
        let (started, mut sent) = (now(), 0);
        while now() < started + Duration::from_secs_f64(seconds) {
            sent += 1;
            publish(&mut all, "room:1", "a", sent);
            assert_eq!(all.expect("event")["offset"], sent, "nobody else feels it");
        }
        let (mut count, mut last) = (0.0, 0);
        while last < sent {
            let event = client.expect("event");
            assert!(offset(&event) > last, "{event}");
            (count, last) = (count + 1.0, offset(&event));
        }
        // The last comes when its interval is over, which may be later on a machine that is late.
        let took = (now() - started).as_secs_f64();
        // The first comes at once, so there is one more than intervals; the last may have begun.
        assert!(count <= hz * took + 2.0, "{hz} Hz: {count} in {took} s");
        let conflated = gateway.metric("weir_events_conflated_total");
        let spared = f64::from(u32::try_from(sent).unwrap()) - count;
        assert!((conflated - spared).abs() < 0.5, "{conflated} of {spared} are counted");
    }
}

#[test]
fn each_key_keeps_its_newest_event() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut client = Client::connect(&gateway);
    subscribe(&mut client, "room:1", &json!(10));
    publish(&mut publisher, "room:1", "first", 0);
    assert_eq!(client.expect("event")["key"], "first");
    let mut newest = BTreeMap::new();
    let lines: Vec<_> = (1..=300)
        .map(|n| {
            let key = format!("k{}", n % 7);
            newest.insert(key.clone(), n);
            json!({"type": "publish", "channel": "room:1", "key": key, "data": n}).to_string()
        })
        .collect();
    publisher.send_text(&lines.join("\n"));
    let mut seen = BTreeMap::new();
    let mut last = 0;
    while seen != newest {
        let event = client.expect("event");
        assert!(offset(&event) > last && event["snapshot"].is_null(), "{event}");
        last = offset(&event);
        seen.insert(event["key"].as_str().unwrap().to_owned(), event["data"].as_u64().unwrap());
    }
    client.expect_nothing();
}

#[test]
fn a_rate_that_is_none_is_refused_with_the_range() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    let bad =
        ["0", "-1", "0.05", "100.5", "1000000000", "1e400", "-1e400", "\"NaN\"", "\"1\"", "{}"];
    for (bad, id) in bad.into_iter().zip(100_u64..) {
        client.send_text(&format!(
            r#"{{"type":"subscribe","channel":"room:1","max_rate":{bad},"id":{id}}}"#
        ));
        let error = client.expect("error");
        assert_eq!((&error["code"], &error["id"]), (&json!("bad_request"), &json!(id)), "{bad}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("from 0.1 to 100"), "{bad}: {message}");
    }
    client.send_text(r#"{"type":"subscribe","channel":"room:1","max_rate":NaN,"id":7}"#);
    assert_eq!(client.expect("error")["code"], "bad_request");
    let answer = client.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    assert_eq!(answer["code"], "not_subscribed", "none of them has subscribed");
    for good in [json!(0.1), json!(100), json!(2.5), Value::Null] {
        assert_eq!(subscribe(&mut client, "room:1", &good)["type"], "subscribed", "{good}");
    }
}

/// Goal: down to one flush in ten seconds and back, as a tab that is hidden for a while: what was
/// held back comes with the change, in order and once.
#[test]
fn a_rate_is_changed_on_the_fly() {
    // On one shard, what one subscriber has was fanned out to the other.
    let gateway = Gateway::configured("shards = 1\n");
    let mut publisher = Client::connect(&gateway);
    let mut all = Client::connect(&gateway);
    all.subscribe("room:1");
    let mut client = Client::connect(&gateway);
    let mut feed = |from: u64, to: u64| {
        for n in from..=to {
            publish(&mut publisher, "room:1", if n % 2 == 0 { "even" } else { "odd" }, n);
            assert_eq!(all.expect("event")["offset"], n);
        }
    };
    let expect = |client: &mut Client, offsets: &[u64]| {
        for wanted in offsets {
            assert_eq!(client.expect("event")["offset"], *wanted);
        }
    };
    client.subscribe("room:1");
    feed(1, 3);
    expect(&mut client, &[1, 2, 3]);
    let answer = subscribe(&mut client, "room:1", &json!(0.1));
    assert_eq!((&answer["updated"], &answer["offset"]), (&json!(true), &json!(3)));
    feed(4, 4);
    expect(&mut client, &[4]);
    feed(5, 20);
    client.expect_nothing();
    // Without a rate every event comes again, and what was held back comes first.
    let answer = client.ask(json!({"type": "subscribe", "channel": "room:1"}));
    assert_eq!(answer["updated"], true);
    expect(&mut client, &[19, 20]);
    feed(21, 24);
    expect(&mut client, &[21, 22, 23, 24]);
    // The first at once; from the second on it waits, until another rate is asked for.
    subscribe(&mut client, "room:1", &json!(0.1));
    feed(25, 25);
    expect(&mut client, &[25]);
    feed(26, 30);
    assert_eq!(subscribe(&mut client, "room:1", &json!(100))["updated"], true);
    expect(&mut client, &[29, 30]);
    feed(31, 31);
    expect(&mut client, &[31]);
    client.expect_nothing();
    // What is held back for a subscription that ends does not come.
    subscribe(&mut client, "room:1", &json!(0.1));
    feed(32, 32);
    expect(&mut client, &[32]);
    feed(33, 40);
    assert_eq!(
        client.ask(json!({"type": "unsubscribe", "channel": "room:1"}))["type"],
        "unsubscribed"
    );
    client.expect_nothing();
    client.subscribe("room:1");
    feed(41, 41);
    expect(&mut client, &[41]);
}

/// Goal: without `slow` a second subscribe brings the channel's own policy back.
#[test]
fn a_second_subscribe_replaces_the_policy_too() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut stalled = Client::connect_narrow(&gateway);
    let strict = json!({"type": "subscribe", "channel": "room:1", "slow": "disconnect"});
    assert_eq!(stalled.ask(strict)["type"], "subscribed");
    assert_eq!(stalled.subscribe("room:1")["updated"], true);
    let pad = "x".repeat(10_000);
    wait_for("the stalled one to lose events", || {
        publisher.send(&json!({"type": "publish", "channel": "room:1", "data": pad}));
        let lost = gateway.metric("weir_events_dropped_total{policy=\"drop_oldest\"") > 0.0;
        lost.then_some(())
    });
    assert!(gateway.metric("weir_connections_closed_total{code=\"4000\"") < 0.5);
}

/// Goal: a throttled reader that stalls under `latest` is told, shown the newest of each key, and
/// goes on.
#[test]
fn a_throttled_reader_that_stalls_is_shown_the_newest() {
    const KEYS: u64 = 40;
    let gateway = Gateway::configured("[[namespace]]\nname = \"dash\"\nslow = \"latest\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut stalled = Client::connect_narrow(&gateway);
    subscribe(&mut stalled, "dash:1", &json!(100));
    let pad = "x".repeat(5_000);
    let mut sent = 0;
    wait_for("the stalled one to lose events", || {
        for _ in 0..KEYS {
            sent += 1;
            let data = json!({"n": sent, "pad": pad});
            let key = format!("k{}", sent % KEYS);
            publisher
                .send(&json!({"type": "publish", "channel": "dash:1", "key": key, "data": data}));
        }
        let lost = gateway.metric("weir_events_dropped_total{policy=\"latest\"") > 0.0;
        lost.then_some(())
    });
    let mut newest = BTreeMap::new();
    let (mut last, mut lagged) = (0, 0);
    while (newest.len() as u64) < KEYS || newest.values().any(|n| *n + KEYS <= sent) {
        let message = stalled.next();
        if message["type"] == "lagged" {
            let (from, to) = (message["from"].as_u64().unwrap(), message["to"].as_u64().unwrap());
            let dropped = message["dropped"].as_u64().unwrap();
            assert!(from > last && dropped > 0 && dropped <= to + 1 - from, "{message}");
            (last, lagged) = (to, lagged + 1);
            continue;
        }
        if message["snapshot"].is_null() {
            assert!(offset(&message) > last, "{message}");
            last = offset(&message);
        }
        assert_eq!(message["data"]["n"], message["offset"]);
        newest.insert(message["key"].as_str().unwrap().to_owned(), offset(&message));
    }
    assert!(lagged > 0, "it was slow");
    stalled.expect_nothing();
}

/// Two clients on one shard, whose queues have room for one large event: the second has a
/// `max_rate` under `disconnect`, has got the first event, and more is held back for it.
fn held_back(toml: &str, data: &[Value]) -> (Gateway, Client) {
    let gateway = Gateway::configured(&format!("shards = 1\n{toml}"));
    let mut publisher = Client::connect(&gateway);
    publisher.subscribe("fence");
    let mut client = Client::connect(&gateway);
    let strict =
        json!({"type": "subscribe", "channel": "room:1", "max_rate": 0.1, "slow": "disconnect"});
    assert_eq!(client.ask(strict)["type"], "subscribed");
    publisher.publish("room:1", &json!("first"));
    assert_eq!(client.expect("event")["offset"], 1);
    for data in data {
        publisher.publish("room:1", data);
    }
    publisher.publish("fence", &json!(0));
    publisher.expect("event");
    (gateway, client)
}

#[test]
fn nothing_is_carried_out_behind_a_close() {
    let limits = "[limits]\nqueue_bytes = 65536\nmessage_bytes = 65536\n";
    let (gateway, mut client) = held_back(limits, &[json!("y".repeat(65_430))]);
    let requests = [
        json!({"type": "subscribe", "channel": "room:1", "slow": "drop_oldest", "id": 2}),
        json!({"type": "ping", "id": 3}),
        json!({"type": "subscribe", "channel": "room:2", "id": 4}),
        json!({"type": "publish", "channel": "room:3", "data": 5, "id": 5}),
    ];
    client.send_text(&requests.map(|request| request.to_string()).join("\n"));
    let ended = client.ended();
    assert_eq!(ended.code, Some(4000), "what was held back meets the policy that it had");
    let kinds: Vec<_> = ended.messages.iter().map(|message| &message["type"]).collect();
    assert_eq!(kinds, ["subscribed", "disconnect"]);
    assert!(gateway.metric("weir_commands_total{type=\"publish\"") < 3.5, "room:3 got nothing");
}

#[test]
fn what_is_held_back_comes_before_a_shutdown() {
    let (gateway, mut client) = held_back("drain = \"100ms\"\n", &[json!(2), json!(3)]);
    gateway.signal(rustix::process::Signal::TERM);
    let ended = client.ended();
    assert_eq!(ended.code, Some(4001));
    let [event, disconnect] = &ended.messages[..] else { panic!("{:?}", ended.messages) };
    assert_eq!((offset(event), &event["data"]), (3, &json!(3)), "the newest of its key");
    assert_eq!(disconnect["type"], "disconnect");
}

#[test]
fn what_is_held_back_counts_as_dropped_when_the_connection_is_closed() {
    let (gateway, mut client) = held_back("", &[json!(2), json!(3)]);
    let body = json!({"client": client.id}).to_string();
    assert_eq!(gateway.post("/api/v1/disconnect", &body).status, 200);
    assert_eq!(client.ended().code, Some(4503));
    let closed = gateway.metric("weir_events_dropped_total{policy=\"closed\"");
    assert!((closed - 1.0).abs() < 0.5, "{closed}: the newest of its key");
}
