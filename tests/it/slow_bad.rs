//! Readers that misbehave, one alone or all at once: the others lose nothing, the accounts are
//! exact, and memory has its bound.

use std::collections::BTreeSet;
use std::io::Write;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, wait_for};
use crate::raw::{Raw, masked};

const CLOSED_4000: &str = "weir_connections_closed_total{code=\"4000\"";

pub(crate) fn count(gateway: &Gateway, metric: &str) -> usize {
    format!("{:.0}", gateway.metric(metric)).parse().unwrap()
}

/// A line that publishes `bytes` and a number.
pub(crate) fn publish(channel: &str, n: u64, bytes: usize) -> String {
    let data = json!({"n": n, "pad": "x".repeat(bytes)});
    json!({"type": "publish", "channel": channel, "data": data}).to_string()
}

/// Takes one message of a channel into the set of offsets that were told of.
pub(crate) fn account(told: &mut BTreeSet<u64>, message: &Value) {
    let number = |name: &str| message[name].as_u64().unwrap();
    let (from, to) = match message["type"].as_str() {
        Some("event") => (number("offset"), number("offset")),
        Some("lagged") => (number("from"), number("to")),
        other => panic!("{other:?}: {message}"),
    };
    assert!(told.last().is_none_or(|last| from == last + 1), "{message} after {:?}", told.last());
    assert!(from == 1 || !told.is_empty(), "the first is told: {message}");
    told.extend(from..=to);
}

/// Goal: unread answers are bounded, and whoever takes none of them is sent away as slow. Method:
/// up to two million pings, as messages and as frames; reading stops long before.
#[test]
fn two_million_pings_of_one_who_never_reads_end_its_connection() {
    let gateway =
        Gateway::configured("shards = 1\n[http]\nping = \"3s\"\nping_timeout = \"2900ms\"\n");
    let message = masked(0x81, br#"{"type":"ping","id":9007199254740991}"#);
    let pings = [message, masked(0x89, &[b'x'; 100])].concat().repeat(500);
    // What anybody costs at all.
    let mut first = Raw::narrow(&gateway);
    first.send(&pings);
    drop(Client::connect(&gateway));
    drop(first);
    gateway.wait_for_connections(0);
    let before = gateway.rss();
    let mut deaf = Raw::narrow(&gateway);
    deaf.send(&masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Each is a thousand. Ends with the connection, for nobody takes so many.
            (0..2_000).take_while(|_| deaf.0.write_all(&pings).is_ok()).count()
        });
        // They must read, for they have as little time as the other.
        let mut healthy = Client::connect(&gateway);
        healthy.subscribe("room:1");
        let mut publisher = Client::connect(&gateway);
        let mut n = 0;
        wait_for("the close to be counted as 4000", || {
            n += 1;
            publisher.send_text(&publish("room:1", n, 100));
            assert_eq!(healthy.expect("event")["offset"], n, "a healthy client loses nothing");
            (count(&gateway, CLOSED_4000) == 1).then_some(())
        });
        let grown = gateway.rss_peak().saturating_sub(before);
        assert!(grown < 1 << 20, "its answers are bounded, and the process grew by {grown}");
        assert!(sender.join().unwrap() < 2_000, "it was not read for ever");
    });
}

/// Goal: who sends ten thousand pings and reads nothing is not read for long, costs nobody else
/// anything, and has every answer and event once it reads.
#[test]
fn ten_thousand_pings_are_answered_when_their_client_reads() {
    const PINGS: u64 = 10_000;
    const EVENTS: u64 = 20;
    let gateway = Gateway::start();
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut publisher = Client::connect(&gateway);
    let mut deaf = Raw::narrow(&gateway);
    deaf.send(&masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#));
    assert_eq!(deaf.json()["type"], "subscribed");
    let ping = |id| masked(0x81, json!({"type": "ping", "id": id}).to_string().as_bytes());
    let pings: Vec<u8> = (1..=PINGS).flat_map(ping).collect();
    let mut writer = deaf.0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&pings).unwrap());
        let memory = || count(&gateway, "weir_queue_memory_bytes");
        wait_for("its answers to wait", || (memory() > 64 << 10).then_some(()));
        for n in 1..=EVENTS {
            publisher.send_text(&publish("room:1", n, 100));
            assert_eq!(healthy.expect("event")["offset"], n, "a healthy client loses nothing");
        }
        assert!(memory() < 512 << 10, "{} bytes", memory());
        let (mut answered, mut told) = (0, BTreeSet::new());
        while answered < PINGS || (told.len() as u64) < EVENTS {
            let message = deaf.json();
            if message["type"] == "pong" {
                answered += 1;
                assert_eq!(message["id"], answered);
            } else {
                account(&mut told, &message);
            }
        }
    });
}

/// Goal: stalling and recovering a thousand times is no way to lose count, or to harm others.
#[test]
fn one_who_stalls_and_recovers_a_thousand_times_is_told_everything() {
    const ROUNDS: u64 = 1_000;
    const BATCH: u64 = 12;
    let limits = "message_bytes = \"8KiB\"\nqueue_bytes = \"16KiB\"\n";
    for slow in ["drop_oldest", "drop_newest"] {
        let gateway =
            Gateway::configured(&format!("[limits]\n{limits}[defaults]\nslow = \"{slow}\"\n"));
        let mut publisher = Client::connect(&gateway);
        let mut healthy = Client::connect(&gateway);
        healthy.subscribe("room:1");
        let mut fickle = Client::connect_narrow(&gateway);
        fickle.subscribe("room:1");
        let (mut told, mut sent) = (BTreeSet::new(), 0);
        for round in 0..ROUNDS {
            let lines: Vec<_> = (0..BATCH).map(|n| publish("room:1", n, 4_000)).collect();
            // No more at once than a queue holds, whatever the kernel takes.
            for part in lines.chunks(3) {
                part.iter().for_each(|line| publisher.send_text(line));
                for _ in part {
                    sent += 1;
                    let event = healthy.expect("event");
                    assert_eq!(event["offset"], sent, "a healthy client loses nothing");
                }
            }
            // It reads one message, or all there is.
            let wanted =
                if round % 2 == 0 { told.len() + 1 } else { usize::try_from(sent).unwrap() };
            while told.len() < wanted {
                account(&mut told, &fickle.next());
            }
        }
        assert_eq!(told, (1..=sent).collect(), "{slow}");
        let lost = count(&gateway, "weir_events_dropped_total");
        assert!(lost > 0, "it was slow");
        fickle.expect_nothing();
        assert_eq!(count(&gateway, "weir_slow_consumers"), 0, "and is so no longer");
    }
}

#[test]
fn a_policy_that_does_not_exist_is_refused_and_changes_nothing() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    for slow in
        [json!("never"), json!(""), json!("LATEST"), json!(4000), json!(["latest"]), json!({})]
    {
        let answer = client.ask(json!({"type": "subscribe", "channel": "room:1", "slow": slow}));
        assert_eq!(answer["code"], "bad_request", "{slow}: {answer}");
    }
    assert_eq!(count(&gateway, "weir_subscriptions"), 0);
    client.subscribe("room:1");
    let answer = client.ask(json!({"type": "subscribe", "channel": "room:1", "slow": "never"}));
    assert_eq!(answer["code"], "bad_request", "{answer}");
    client.send_text(&publish("room:1", 1, 1));
    assert_eq!(client.expect("event")["offset"], 1, "and the subscription is as it was");
}

/// Publishes on every channel in turn, `rounds` events of 8 KiB each; `healthy` reads them all.
pub(crate) fn fill(publisher: &mut Client, healthy: &mut Client, channels: &[String], rounds: u64) {
    for round in 1..=rounds {
        for channel in channels {
            publisher.send_text(&publish(channel, round, 8 << 10));
            let event = healthy.expect("event");
            assert_eq!((&event["channel"], &event["offset"]), (&json!(channel), &json!(round)));
        }
    }
}

#[test]
fn the_stats_name_the_slowest_first_and_at_most_ten() {
    let gateway = Gateway::start();
    assert_eq!(gateway.get("/api/v1/stats").json()["slowest"], json!([]));
    let channels: Vec<_> = (0..12).map(|n| format!("room:{n}")).collect();
    let mut healthy = Client::connect(&gateway);
    let mut publisher = Client::connect(&gateway);
    let mut stalled = Vec::new();
    for (channel, slow) in channels.iter().zip(["drop_oldest", "latest"].iter().cycle()) {
        healthy.subscribe(channel);
        let mut client = Client::connect_narrow(&gateway);
        let command = json!({"type": "subscribe", "channel": channel, "slow": slow});
        assert_eq!(client.ask(command)["type"], "subscribed");
        stalled.push(client);
    }
    for channel in &channels {
        fill(&mut publisher, &mut healthy, std::slice::from_ref(channel), 60);
    }
    gateway.wait_for_mail();
    let total =
        |state: &str| gateway.get("/api/v1/stats").json()["total"]["slow_consumers"][state].clone();
    assert_eq!((total("full"), total("lagging"), total("blocked")), (json!(6), json!(6), json!(0)));
    let slowest = gateway.get("/api/v1/stats").json()["slowest"].as_array().unwrap().clone();
    assert_eq!(slowest.len(), 10);
    let ages: Vec<_> = slowest.iter().map(|one| one["oldest_ms"].as_u64().unwrap()).collect();
    assert!(ages.is_sorted_by(|one, next| one >= next), "{ages:?}");
    for one in &slowest {
        assert_eq!((&one["ip"], &one["subscriptions"]), (&json!("127.0.0.1"), &json!(1)));
        assert!(one["dropped"].as_u64().unwrap() > 0, "{one}");
        let client = stalled.iter().position(|client| one["client"] == client.id.as_str()).unwrap();
        let state = if client % 2 == 0 { "full" } else { "lagging" };
        assert_eq!((&one["state"], one["full_ms"].is_u64()), (&json!(state), state == "full"));
        let bytes = one["queued_bytes"].as_u64().unwrap();
        assert_eq!(bytes > 100_000, state == "full", "{one}");
    }
    // What it names as lost is what the client is told of.
    let first = &slowest[0];
    let client = stalled.iter_mut().find(|client| first["client"] == client.id.as_str()).unwrap();
    let (mut told, mut lost) = (BTreeSet::new(), 0);
    while told.len() < 60 {
        let message = client.next();
        if message["snapshot"].is_null() {
            account(&mut told, &message);
        }
        lost += message["dropped"].as_u64().unwrap_or(0);
    }
    assert_eq!(first["dropped"], lost);
}

/// Goal: a node that stops tells of what it has not shown.
#[test]
fn one_that_lags_is_told_its_hole_before_the_node_goes() {
    let gateway = Gateway::configured("drain = \"200ms\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    let command = json!({"type": "subscribe", "channel": "room:1", "slow": "latest"});
    assert_eq!(stalled.ask(command)["type"], "subscribed");
    fill(&mut publisher, &mut healthy, &["room:1".to_owned()], 100);
    gateway.signal(Signal::TERM);
    let ended = stalled.ended();
    assert_eq!((ended.code, ended.reason.as_str()), (Some(4001), "shutdown"));
    let (last, messages) = ended.messages.split_last().unwrap();
    assert_eq!(last["type"], "disconnect");
    let mut told = BTreeSet::new();
    for message in messages.iter().filter(|message| message["snapshot"].is_null()) {
        account(&mut told, message);
    }
    assert_eq!(told, (1..=100).collect());
}
