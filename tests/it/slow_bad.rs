//! Readers that misbehave, one alone or all at once: the others lose nothing, the accounts are
//! exact, and memory has its bound.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, now, wait_for};
use crate::raw::{Raw, masked};
use crate::was::welcome;

const CLOSED_4000: &str = "weir_connections_closed_total{code=\"4000\"";
const CLOSED_4004: &str = "weir_connections_closed_total{code=\"4004\"";

fn count(gateway: &Gateway, metric: &str) -> usize {
    format!("{:.0}", gateway.metric(metric)).parse().unwrap()
}

/// A line that publishes `bytes` and a number.
fn publish(channel: &str, n: u64, bytes: usize) -> String {
    let data = json!({"n": n, "pad": "x".repeat(bytes)});
    json!({"type": "publish", "channel": channel, "data": data}).to_string()
}

/// Takes one message of a channel into the set of offsets that were told of.
fn account(told: &mut BTreeSet<u64>, message: &Value) {
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
fn fill(publisher: &mut Client, healthy: &mut Client, channels: &[String], rounds: u64) {
    for round in 1..=rounds {
        for channel in channels {
            publisher.send_text(&publish(channel, round, 8 << 10));
            let event = healthy.expect("event");
            assert_eq!((&event["channel"], &event["offset"]), (&json!(channel), &json!(round)));
        }
    }
}

/// Goal: beyond `limits.memory` the fullest go, are told why, and nobody else notices.
#[test]
fn beyond_the_memory_of_all_queues_the_fullest_are_closed_with_4004() {
    const STALLED: usize = 40;
    const LIMIT: usize = 3 << 20;
    let gateway = Gateway::configured("[limits]\nmemory = \"3MiB\"\n");
    let channels: Vec<_> = (0..STALLED).map(|n| format!("room:{n}")).collect();
    let mut healthy = Client::connect(&gateway);
    let mut publisher = Client::connect(&gateway);
    let mut stalled = Vec::new();
    for channel in &channels {
        healthy.subscribe(channel);
        let mut client = Client::connect_narrow(&gateway);
        client.subscribe(channel);
        stalled.push(client);
    }
    // The first has more than its like.
    fill(&mut publisher, &mut healthy, &channels[..1], 30);
    fill(&mut publisher, &mut healthy, &channels[1..], 18);
    assert_eq!(count(&gateway, "weir_memory_limit_bytes"), LIMIT);
    gateway.wait_for_mail();
    wait_for("the memory to be within its limit", || {
        let within = count(&gateway, "weir_queue_memory_bytes") <= LIMIT;
        (count(&gateway, CLOSED_4004) > 0 && within).then_some(())
    });
    let line = wait_for("a line in the log", || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("limits.memory")).map(str::to_owned)
    });
    assert!(line.contains("WARN") && line.contains("4004"), "{line}");

    // The notice may have found no room in the socket: whoever comes back is told.
    let mut first = stalled.remove(0);
    let last = welcome(&gateway, &format!("?was={}", first.id))["last"].clone();
    assert_eq!(
        (&last["code"], &last["reason"]),
        (&json!(4004), &json!("overloaded")),
        "the fullest"
    );
    let ended = first.ended();
    if ended.code.is_some() {
        assert_eq!((ended.code, ended.reason.as_str()), (Some(4004), "overloaded"));
        let notice = ended.messages.last().unwrap();
        assert_eq!((&notice["type"], &notice["reconnect"]), (&json!("disconnect"), &json!(true)));
        assert!((1_000..=5_000).contains(&notice["retry_after_ms"].as_u64().unwrap()), "{notice}");
    }
    let cut = wait_for("the others to be gone", || {
        let cut = count(&gateway, CLOSED_4004);
        (gateway.connections() == 2 + STALLED - cut).then_some(cut)
    });
    assert!(cut < STALLED, "only as many as it takes: {cut}");
    let mut left = 0;
    for (client, channel) in stalled.iter_mut().zip(&channels[1..]) {
        // Of those who stay, nobody has lost anything.
        publisher.send_text(&publish(channel, 19, 1));
        healthy.expect("event");
        let mut told = BTreeSet::new();
        while told.len() < 19 {
            match client.try_next() {
                Some(message) if message["type"] == "disconnect" => break,
                Some(message) => account(&mut told, &message),
                None => break,
            }
        }
        left += usize::from(told.len() == 19);
    }
    // What the last events take may have been too much for one more.
    let cut = count(&gateway, CLOSED_4004);
    assert_eq!(left, STALLED - cut, "as many as it says are as they were");
    healthy.expect_nothing();
    Client::connect(&gateway).publish("room:x", &json!("taken again"));
}

/// Goal: what many queues share counts once: a thousand times the limit in queues is no reason.
#[test]
fn a_backlog_that_all_share_is_no_reason_to_cut_anybody() {
    const STALLED: usize = 100;
    let gateway = Gateway::configured("[limits]\nmemory = \"3MiB\"\nslow_disconnect = 0\n");
    let channels = ["room:1".to_owned()];
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut publisher = Client::connect(&gateway);
    let mut stalled: Vec<_> = (0..STALLED).map(|_| Client::connect_narrow(&gateway)).collect();
    for client in &mut stalled {
        client.subscribe("room:1");
    }
    fill(&mut publisher, &mut healthy, &channels, 60);
    gateway.wait_for_mail();
    assert!(count(&gateway, "weir_queue_bytes") > 15 << 20, "each queue counts its bytes");
    let memory = count(&gateway, "weir_queue_memory_bytes");
    assert!(memory > 200_000 && memory < 2 << 20, "{memory} bytes that they share");
    let slow = gateway.get("/api/v1/stats").json()["total"]["slow_consumers"].clone();
    assert_eq!(slow["full"], STALLED, "{slow}");
    for client in &mut stalled {
        let mut told = BTreeSet::new();
        while told.len() < 60 {
            account(&mut told, &client.next());
        }
    }
    assert_eq!(count(&gateway, CLOSED_4004), 0);
}

/// Goal: those who leave their answers unread go before those who only share a backlog, they free
/// what they had at once, and strangers are taken again.
#[test]
fn unread_answers_are_cut_and_free_at_once() {
    const DEAF: usize = 60;
    let gateway = Gateway::configured(
        "[limits]\nmemory = \"3MiB\"\nslow_disconnect = 0\n[http]\nping = \"10m\"\n",
    );
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut publisher = Client::connect(&gateway);
    let mut sharers: Vec<_> = (0..20).map(|_| Client::connect_narrow(&gateway)).collect();
    for client in &mut sharers {
        client.subscribe("room:1");
    }
    fill(&mut publisher, &mut healthy, &["room:1".to_owned()], 40);
    let pings = [br#"{"type":"ping","id":9007199254740991}"#.as_slice(); 1_500].join(&b'\n');
    let mut deaf: Vec<_> = (0..DEAF).map(|_| Raw::narrow(&gateway)).collect();
    for raw in &mut deaf {
        for _ in 0..3 {
            // One that is cut may not take it.
            drop(raw.0.write_all(&masked(0x81, &pings)));
        }
    }
    wait_for("some to be cut", || (count(&gateway, CLOSED_4004) > 0).then_some(()));
    let begun = now();
    let cut = wait_for("those who were cut to be gone, and room", || {
        let within = count(&gateway, "weir_queue_memory_bytes") <= 3 << 20;
        let cut = count(&gateway, CLOSED_4004);
        (within && gateway.connections() == 22 + DEAF - cut).then_some(cut)
    });
    let took = now() - begun;
    assert!(took < Duration::from_secs(3), "not when a close has had its time: {took:?}");
    assert!(cut < DEAF, "only as many as it takes: {cut}");
    Client::connect(&gateway).publish("room:x", &json!("taken again"));
    for client in &mut sharers {
        let mut told = BTreeSet::new();
        while told.len() < 40 {
            account(&mut told, &client.next());
        }
    }
    drop(deaf);
}

/// Goal: nobody is cut for what those still have who are on their way out.
#[test]
fn unread_answers_of_those_who_are_closed_go_first() {
    // Between what the second dozen takes and what both do; a shard begins with its own.
    let gateway = Gateway::configured(
        "shards = 1\n[limits]\nmemory = \"2600KiB\"\nslow_disconnect = 0\n\
         [http]\nping = \"10m\"\n",
    );
    let pings = [r#"{"type":"ping","id":9007199254740991}"#; 1_500].join("\n");
    let connect = |count| (0..count).map(|_| Client::connect_narrow(&gateway)).collect::<Vec<_>>();
    let (mut closed, mut deaf) = (connect(12), connect(12));
    for client in &mut closed {
        (0..3).for_each(|_| client.send_text(&pings));
    }
    wait_for("their answers to wait", || {
        (count(&gateway, "weir_queue_memory_bytes") > 1_900_000).then_some(())
    });
    for client in &closed {
        gateway.post("/api/v1/disconnect", &json!({"client": client.id}).to_string());
    }
    for client in &mut deaf {
        (0..3).for_each(|_| client.send_text(&pings));
    }
    wait_for("those who were closed to be gone", || (gateway.connections() == 12).then_some(()));
    assert_eq!(count(&gateway, CLOSED_4004), 0);
}

/// Goal: what clients have sent and nobody can carry out yet is memory like any other.
#[test]
fn unfinished_messages_count_and_are_cut() {
    let limits = "message_bytes = \"4MiB\"\nqueue_bytes = \"4MiB\"\nmemory = \"6MiB\"\n";
    let gateway = Gateway::configured(&format!("shards = 1\n[limits]\n{limits}"));
    let mut healthy = Client::connect(&gateway);
    let half = masked(0x82, &[b'x'; 3 << 20]);
    let half = &half[..2 << 20];
    let mut one = Raw::websocket(&gateway);
    one.send(half);
    wait_for("it to be counted", || {
        (count(&gateway, "weir_queue_memory_bytes") >= 2 << 20).then_some(())
    });
    assert_eq!(count(&gateway, CLOSED_4004), 0);
    let mut others: Vec<_> = (0..4).map(|_| Raw::websocket(&gateway)).collect();
    others.iter_mut().for_each(|raw| raw.send(half));
    let cut = wait_for("some to be cut, and room", || {
        let within = count(&gateway, "weir_queue_memory_bytes") <= 6 << 20;
        let cut = count(&gateway, CLOSED_4004);
        (within && cut > 0 && gateway.connections() == 6 - cut).then_some(cut)
    });
    assert!(cut < 5, "only as many as it takes: {cut}");
    healthy.expect_nothing();
}

/// Goal: so is what was read behind answers that nobody takes.
#[test]
fn what_was_read_and_waits_counts() {
    const DEAF: usize = 8;
    let gateway = Gateway::configured("shards = 1\n");
    // Answers of 64 KiB wait, then the rest of the batch does.
    let pings = [br#"{"type":"ping","id":9007199254740991}"#.as_slice(); 1_700].join(&b'\n');
    let mut deaf: Vec<_> = (0..DEAF).map(|_| Raw::narrow(&gateway)).collect();
    for raw in &mut deaf {
        (0..4).for_each(|_| drop(raw.0.write_all(&masked(0x81, &pings))));
    }
    wait_for("answers and input to be counted", || {
        (count(&gateway, "weir_queue_memory_bytes") > DEAF * 100 * 1024).then_some(())
    });
    drop(deaf);
    wait_for("nothing to be left", || {
        (count(&gateway, "weir_queue_memory_bytes") == 0).then_some(())
    });
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
