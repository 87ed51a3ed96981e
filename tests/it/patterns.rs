//! Patterns: every channel under a prefix, those that do not exist yet as well, each event once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, PATIENCE, now, wait_for};
use crate::raw::http;

const OPEN: &str = "shards = 2\n[[namespace]]\nname = \"t\"\npatterns = true\n";

/// Clients with that pattern until both shards have one: where a connection lands is chance.
fn on_both_shards(gateway: &Gateway, pattern: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    wait_for("a subscription on each shard", || {
        let mut client = Client::connect(gateway);
        client.subscribe(pattern);
        clients.push(client);
        let of = |shard| gateway.metric(&format!("weir_subscriptions{{shard=\"{shard}\"}}"));
        (of(0) > 0.5 && of(1) > 0.5).then_some(())
    });
    clients
}

fn offset(message: &Value) -> u64 {
    message["offset"].as_u64().unwrap()
}

#[test]
fn channels_that_did_not_exist_come_to_both_shards_by_their_own_names() {
    let gateway = Gateway::configured(OPEN);
    let mut publisher = Client::connect(&gateway);
    publisher.publish("t:old", &json!(0));
    let mut clients = on_both_shards(&gateway, "t:*");
    for (channel, offset) in [("t:old", 2), ("t:new", 1), ("t:eu/a/b", 1), ("t:new", 2)] {
        publisher.publish(channel, &json!({"of": channel}));
        for client in &mut clients {
            let event = client.expect("event");
            assert_eq!((&event["channel"], &event["offset"]), (&json!(channel), &json!(offset)));
            assert_eq!(event["data"]["of"], channel);
        }
    }
    publisher.publish("tt:new", &json!(1));
    publisher.publish("t", &json!(1));
    clients.iter_mut().for_each(Client::expect_nothing);
}

#[test]
fn the_answer_has_no_position_and_a_second_one_is_an_update() {
    let gateway = Gateway::configured(OPEN);
    let mut client = Client::connect(&gateway);
    let expected = json!({"type": "subscribed", "id": 1, "channel": "t:*", "pattern": true});
    assert_eq!(client.subscribe("t:*"), expected);
    let again = client.ask(json!({"type": "subscribe", "channel": "t:*", "slow": "latest"}));
    assert_eq!((&again["pattern"], &again["updated"]), (&json!(true), &json!(true)));
    assert!(gateway.metric("weir_subscriptions") > 0.5, "a pattern is a subscription");
    let end = json!({"type": "unsubscribe", "channel": "t:*"});
    let ended = client.ask(end.clone());
    assert_eq!(ended, json!({"type": "unsubscribed", "id": 3, "channel": "t:*"}));
    assert_eq!(client.ask(end)["code"], "not_subscribed");
    Client::connect(&gateway).publish("t:1", &json!(1));
    client.expect_nothing();
    assert!(gateway.metric("weir_subscriptions") < 0.5);
}

#[test]
fn a_client_with_a_name_and_two_patterns_gets_each_event_once() {
    let gateway = Gateway::configured(OPEN);
    let mut publisher = Client::connect(&gateway);
    let mut client = Client::connect(&gateway);
    for channel in ["t:eu/*", "t:eu/1", "t:*"] {
        client.subscribe(channel);
    }
    let mut publish = |client: &mut Client, channels: &[&str]| {
        for channel in channels {
            publisher.publish(channel, &json!(1));
            assert_eq!(client.expect("event")["channel"], *channel);
        }
    };
    publish(&mut client, &["t:eu/1", "t:eu/2", "t:3"]);
    for left in ["t:eu/1", "t:*"] {
        let answer = client.ask(json!({"type": "unsubscribe", "channel": left}));
        assert_eq!(answer["type"], "unsubscribed");
        publish(&mut client, &["t:eu/1", "t:eu/2"]);
    }
    client.expect_nothing();
}

/// Goal: a channel that is to be slower than the rest of its pattern is so by its name, and what
/// that has held back comes when the pattern alone goes on. The interval is never over here.
#[test]
fn a_name_with_a_rate_is_slower_than_its_pattern() {
    let gateway = Gateway::configured(OPEN);
    let mut publisher = Client::connect(&gateway);
    let mut client = Client::connect(&gateway);
    client.subscribe("t:*");
    client.ask(json!({"type": "subscribe", "channel": "t:slow", "max_rate": 0.1}));
    let mut publish = |channels: &[&str]| {
        for channel in channels {
            publisher.publish(channel, &json!(1));
        }
    };
    let expect = |client: &mut Client, events: &[(&str, u64)]| {
        for (channel, at) in events {
            let event = client.expect("event");
            assert_eq!((&event["channel"], offset(&event)), (&json!(channel), *at));
        }
    };
    publish(&["t:slow"]);
    expect(&mut client, &[("t:slow", 1)]);
    publish(&["t:slow", "t:quick", "t:slow", "t:quick"]);
    expect(&mut client, &[("t:quick", 1), ("t:quick", 2)]);
    client.expect_nothing();
    assert_eq!(
        client.ask(json!({"type": "unsubscribe", "channel": "t:slow"}))["type"],
        "unsubscribed"
    );
    publish(&["t:slow"]);
    expect(&mut client, &[("t:slow", 3), ("t:slow", 4)]);
    client.expect_nothing();
}

#[test]
fn what_is_closed_or_malformed_is_refused_with_a_sentence() {
    let gateway = Gateway::configured(
        "[limits]\nsubscriptions_per_connection = 2\n[[namespace]]\nname = \"t\"\npatterns = true\n\
         [[namespace]]\nname = \"eu/t\"\nslow_choice = false\npatterns = true\n",
    );
    let mut client = Client::connect(&gateway);
    let cases = [
        ("room:*", "forbidden"),
        ("plain/*", "forbidden"),
        ("eu/*", "forbidden"),
        ("*", "bad_request"),
        ("t*", "bad_request"),
        ("t:*x", "bad_request"),
        ("t:*:x", "bad_request"),
        ("t:**", "bad_request"),
        ("t::*", "bad_request"),
        (":*", "bad_request"),
        ("t: *", "bad_request"),
    ];
    for (pattern, code) in cases {
        for kind in ["subscribe", "unsubscribe"] {
            let answer = client.ask(json!({"type": kind, "channel": pattern}));
            let open = kind == "unsubscribe" && code == "forbidden";
            let code = if open { "not_subscribed" } else { code };
            assert_eq!(answer["code"], code, "{kind} {pattern}: {answer}");
            assert!(answer["message"].as_str().unwrap().len() > 20, "{answer}");
        }
    }
    let since = json!({"epoch": "AAAAAAAA", "offset": 1});
    let bad = [
        json!({"type": "subscribe", "channel": "t:*", "since": since}),
        json!({"type": "subscribe", "channel": "t:*", "max_rate": 0}),
        json!({"type": "subscribe", "channel": "t:*", "slow": "never"}),
        json!({"type": "subscribe", "channel": "eu/t:*", "slow": "latest"}),
        json!({"type": "publish", "channel": "t:*", "data": 1}),
    ];
    for command in bad {
        assert_eq!(client.ask(command.clone())["code"], "bad_request", "{command}");
    }
    let put = http(gateway.addr, "PUT", "/api/v1/channels/t:*/events", &[], b"1");
    assert_eq!(put.status, 400);
    for pattern in ["t:*", "t:a/*"] {
        client.subscribe(pattern);
    }
    let third = client.ask(json!({"type": "subscribe", "channel": "t:b/*"}));
    assert_eq!(third["code"], "limit_exceeded");
    assert_eq!(
        client.ask(json!({"type": "subscribe", "channel": "t:1"}))["code"],
        "limit_exceeded"
    );
    let strict = Gateway::configured("strict_namespaces = true\n[defaults]\npatterns = true\n");
    let mut client = Client::connect(&strict);
    let unknown = client.ask(json!({"type": "subscribe", "channel": "room:*"}));
    assert_eq!(unknown["code"], "unknown_channel");
    client.subscribe("plain/*");
}

#[test]
fn a_thousand_channels_come_in_their_own_order() {
    const CHANNELS: u64 = 1_000;
    const ROUNDS: u64 = 5;
    let gateway = Gateway::configured(OPEN);
    let mut clients = on_both_shards(&gateway, "t:*");
    let lines = |round: u64, from: u64| -> String {
        let line = |n| {
            let (channel, data) = (format!("t:eu/{n}"), round);
            json!({"type": "publish", "channel": channel, "data": data}).to_string()
        };
        (from..from + 100).map(line).collect::<Vec<_>>().join("\n")
    };
    let mut publisher = Client::connect(&gateway);
    let mut heads: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); clients.len()];
    for round in 1..=ROUNDS {
        for from in (0..CHANNELS).step_by(100) {
            publisher.send_text(&lines(round, from));
            for (client, heads) in clients.iter_mut().zip(&mut heads) {
                for _ in 0..100 {
                    let event = client.expect("event");
                    let head = heads.entry(event["channel"].to_string()).or_default();
                    *head += 1;
                    assert_eq!((offset(&event), event["data"].as_u64()), (*head, Some(round)));
                }
            }
        }
    }
    clients.iter_mut().for_each(Client::expect_nothing);
    let whole = |heads: &BTreeMap<_, _>| heads.len() == 1_000 && heads.values().all(|h| *h == 5);
    assert!(heads.iter().all(whole));
}

/// Goal: by a pattern, too, every offset of every channel comes or lies in one hole.
#[test]
fn a_slow_reader_is_told_of_every_offset_of_each_channel() {
    const CHANNELS: u64 = 10;
    const ROUNDS: u64 = 300;
    let gateway = Gateway::configured(OPEN);
    for slow in ["drop_oldest", "drop_newest", "latest"] {
        let mut publisher = Client::connect(&gateway);
        let mut healthy = Client::connect(&gateway);
        healthy.subscribe("t:*");
        let mut stalled = Client::connect_narrow(&gateway);
        stalled.ask(json!({"type": "subscribe", "channel": "t:*", "slow": slow}));
        let pad = "x".repeat(1024);
        for round in 1..=ROUNDS {
            let line = |n| {
                let channel = format!("t:{slow}/{n}");
                let data = json!({"n": round, "pad": pad});
                json!({"type": "publish", "channel": channel, "data": data}).to_string()
            };
            publisher.send_text(&(0..CHANNELS).map(line).collect::<Vec<_>>().join("\n"));
            for _ in 0..CHANNELS {
                assert_eq!(offset(&healthy.expect("event")), round, "it loses nothing");
            }
        }
        let mut told: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let (mut lost, mut last) = (0, BTreeMap::new());
        // A channel of which nothing was shown yet is still owed its newest event.
        let shown_to_the_end = |last: &BTreeMap<String, u64>| {
            last.len() as u64 == CHANNELS && last.values().all(|last| *last == ROUNDS)
        };
        let complete = |told: &BTreeMap<String, BTreeSet<u64>>, last: &BTreeMap<String, u64>| {
            told.values().map(|offsets| offsets.len() as u64).sum::<u64>() == CHANNELS * ROUNDS
                && (slow != "latest" || shown_to_the_end(last))
        };
        while !complete(&told, &last) {
            let message = stalled.next();
            let channel = message["channel"].as_str().unwrap().to_owned();
            let offsets = told.entry(channel.clone()).or_default();
            if message["type"] == "lagged" {
                lost += message["dropped"].as_u64().unwrap();
                for offset in message["from"].as_u64().unwrap()..=message["to"].as_u64().unwrap() {
                    assert!(offsets.insert(offset), "told twice: {message}");
                }
                continue;
            }
            assert_eq!(message["data"]["n"], message["offset"]);
            let before = last.insert(channel, offset(&message));
            assert!(before < Some(offset(&message)), "shown twice, or too late: {message}");
            let fresh = message["snapshot"].is_null();
            assert_eq!(offsets.insert(offset(&message)), fresh, "{message}");
        }
        assert!(lost > 0, "{slow}: it was slow");
        publisher.publish(&format!("t:{slow}/0"), &json!("after"));
        assert_eq!(stalled.expect("event")["data"], "after");
    }
}

/// Goal: what is published after `subscribed` comes, and without a hole from then on.
#[test]
fn no_event_is_lost_between_the_answer_and_the_first_event() {
    const CHANNELS: usize = 7;
    let gateway = Gateway::configured(OPEN);
    let (begun, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Client::connect(&gateway);
            // With a bound, so that a failure of the others is seen.
            let deadline = now() + 4 * PATIENCE;
            while !over.load(Ordering::SeqCst) && now() < deadline {
                let n = begun.fetch_add(1, Ordering::SeqCst);
                publisher.publish(&format!("t:{}", n % CHANNELS), &json!(n));
            }
        });
        for visit in 0..20 {
            let mut client = Client::connect(&gateway);
            client.send(&json!({"type": "subscribe", "channel": "t:*"}));
            let mut heads = BTreeMap::new();
            // Events of others' patterns may come before.
            while client.next()["type"] != "subscribed" {}
            let due = begun.load(Ordering::SeqCst);
            let mut owed: BTreeSet<usize> = (due..due + 50).collect();
            while !owed.is_empty() {
                let event = client.expect("event");
                owed.remove(&usize::try_from(event["data"].as_u64().unwrap()).unwrap());
                let head = heads.insert(event["channel"].to_string(), offset(&event));
                assert!(head.is_none_or(|head| head + 1 == offset(&event)), "{visit}: {event}");
            }
        }
        over.store(true, Ordering::SeqCst);
    });
}
