//! What all queues together take beyond `limits.memory`: the fullest are closed with 4004 and told
//! why, as many as it takes, and the others are as they were.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, now, wait_for};
use crate::raw::{Raw, masked};
use crate::slow_bad::{account, count, fill, publish};
use crate::was::welcome;

const CLOSED_4004: &str = "weir_connections_closed_total{code=\"4004\"";

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

/// So many clients on each of the first `shards` shards.
fn on_each(gateway: &Gateway, shards: usize, clients: usize) -> Vec<Vec<Client>> {
    let there = |shard: usize| count(gateway, &format!("weir_connections{{shard=\"{shard}\""));
    let mut all: Vec<Vec<Client>> = (0..shards).map(|_| Vec::new()).collect();
    // Those that come to a shard which has enough stay, and do nothing.
    let mut idle = Vec::new();
    while all.iter().any(|some| some.len() < clients) {
        let before: Vec<_> = (0..shards).map(there).collect();
        let client = Client::connect_narrow(gateway);
        let shard =
            wait_for("its shard", || (0..shards).find(|shard| there(*shard) > before[*shard]));
        let to = if all[shard].len() < clients { &mut all[shard] } else { &mut idle };
        to.push(client);
    }
    all[0].append(&mut idle);
    all
}

/// Goal: nobody is cut for what those still have who are on their way out, whichever shard has them.
#[test]
fn unread_answers_of_those_who_are_closed_go_first() {
    const DEAF: usize = 12;
    let pings = [r#"{"type":"ping","id":9007199254740991}"#; 1_500].join("\n");
    for shards in [1, 2] {
        // Between what the second dozen takes and what both do.
        let gateway = Gateway::configured(&format!(
            "shards = {shards}\n[limits]\nmemory = \"2600KiB\"\nslow_disconnect = 0\n\
             [http]\nping = \"10m\"\n",
        ));
        let mut all = on_each(&gateway, shards, 2 * DEAF / shards);
        let mut closed = all.pop().unwrap();
        let mut deaf = all.pop().unwrap_or_else(|| closed.split_off(DEAF));
        for client in &mut closed {
            (0..3).for_each(|_| client.send_text(&pings));
        }
        wait_for("their answers to wait", || {
            (count(&gateway, "weir_queue_memory_bytes") > 1_900_000).then_some(())
        });
        for client in &closed {
            gateway.post("/api/v1/disconnect", &json!({"client": client.id}).to_string());
        }
        for client in deaf.iter_mut().take(DEAF) {
            (0..3).for_each(|_| client.send_text(&pings));
        }
        gateway.wait_for_connections(deaf.len());
        assert_eq!(count(&gateway, CLOSED_4004), 0, "{shards} shards");
    }
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

/// Goal: the past that somebody has yet to read is memory like any other, however it came into the
/// queue: it counts once for all who have it, and the reader who has the most of it goes.
#[test]
fn a_reader_whose_past_is_too_much_is_cut_while_it_recovers() {
    const LIMIT: usize = 4 << 20;
    const SMALL: u64 = 150;
    const LARGE: u64 = 400;
    let gateway = Gateway::configured(
        "shards = 1\n[limits]\nmemory = \"4MiB\"\nslow_disconnect = 0\n\
         [[namespace]]\nname = \"room\"\nhistory = 1000\n",
    );
    let memory = || count(&gateway, "weir_queue_memory_bytes");
    let mut publisher = Client::connect(&gateway);
    let mut epochs = Vec::new();
    for (channel, events) in [("room:small", SMALL), ("room:large", LARGE)] {
        (1..events).for_each(|n| publisher.send_text(&publish(channel, n, 8 << 10)));
        let last = publisher.publish(channel, &json!({"n": events}));
        assert_eq!(last["offset"], events);
        epochs.push(last["epoch"].clone());
    }
    assert_eq!(memory(), 0, "what the store keeps is none of the queues'");
    let come_back = |channel: &str, epoch| {
        let mut client = Client::connect_narrow(&gateway);
        let since = json!({"epoch": epoch, "offset": 0});
        let answer = client.ask(json!({"type": "subscribe", "channel": channel, "since": since}));
        assert_eq!((&answer["type"], &answer["recovered"]), (&json!("subscribed"), &json!(true)));
        client
    };
    let pinned = |least: usize| {
        wait_for("the past to be counted", || Some(memory()).filter(|bytes| *bytes > least))
    };
    let mut two = [0; 2].map(|_| come_back("room:small", &epochs[0]));
    let small = pinned(1 << 20);
    assert!(small < 2 << 20, "{small} bytes, which two of them share");

    let mut third = come_back("room:large", &epochs[1]);
    let mut told = BTreeSet::new();
    account(&mut told, &third.next());
    wait_for("one to be cut", || (count(&gateway, CLOSED_4004) == 1).then_some(()));
    wait_for("what it had to be free", || (memory() < 2 << 20).then_some(()));
    assert_eq!(count(&gateway, "weir_memory_limit_bytes"), LIMIT);
    let line = wait_for("a line in the log", || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("limits.memory")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let said = |name: &str| line["fields"][name].as_u64().or_else(|| line[name].as_u64());
    assert_eq!((&line["level"], said("cut")), (&json!("WARN"), Some(1)), "{line}");
    assert!(said("freed_bytes").is_some_and(|bytes| bytes > 2 << 20), "{line}");
    // What it was to be sent of the past is still there: it asks for it again.
    let last = welcome(&gateway, &format!("?was={}", third.id))["last"].clone();
    assert_eq!((&last["code"], &last["dropped"]), (&json!(4004), &json!(0)), "{last}");
    while let Some(message) = third.try_next().filter(|message| message["type"] == "event") {
        account(&mut told, &message);
    }
    assert!(told.len() < usize::try_from(LARGE).unwrap(), "it was in the middle");

    // The others have all of it, and what came meanwhile.
    publisher.publish("room:small", &json!("live"));
    for client in &mut two {
        let mut told = BTreeSet::new();
        while told.len() <= usize::try_from(SMALL).unwrap() {
            let event = client.expect("event");
            account(&mut told, &event);
        }
        client.expect_nothing();
    }
    assert_eq!(count(&gateway, CLOSED_4004), 1, "and nobody else");
    wait_for("nothing to be left", || (memory() == 0).then_some(()));
}
