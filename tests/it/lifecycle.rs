//! Beginning and end: of the process, and of connections at every moment.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Gateway, PATIENCE, finished, now, wait_for, weir};
use crate::raw::{Raw, handshake_request, masked};

#[test]
fn a_drain_tells_every_client_and_exits_with_0() {
    let mut gateway = Gateway::configured("drain = \"5s\"\n");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&gateway)).collect();
    for client in &mut clients {
        client.subscribe("room:1");
    }
    let confirmed = clients[0].ask(json!({"type": "ping"}));
    assert_eq!(confirmed["type"], "pong");
    // They read from before the signal on, so that the times are those of the gateway.
    let readers = clients.into_iter().map(|mut client| {
        std::thread::spawn(move || {
            let ended = client.ended();
            (ended, now())
        })
    });
    let readers: Vec<_> = readers.collect();
    let begun = now();
    gateway.signal(Signal::TERM);
    wait_for("readyz to say 503", || (gateway.get("/readyz").status == 503).then_some(()));
    let mut late = Raw::open(gateway.addr);
    late.send(handshake_request(gateway.addr, &[]).as_bytes());
    assert!(late.head().starts_with("HTTP/1.1 503 "), "no new client while draining");
    let mut waits = BTreeSet::new();
    let mut ends = Vec::new();
    for reader in readers {
        let (ended, at) = reader.join().unwrap();
        assert_eq!((ended.code, ended.reason.as_str()), (Some(4001), "shutdown"));
        let push = ended.messages.last().unwrap();
        assert_eq!((&push["type"], &push["code"]), (&json!("disconnect"), &json!(4001)), "{push}");
        assert_eq!((&push["reason"], &push["reconnect"]), (&json!("shutdown"), &json!(true)));
        waits.insert(push["retry_after_ms"].as_u64().unwrap());
        ends.push(at);
    }
    let first = ends.iter().min().unwrap();
    let spread = ends.iter().max().unwrap().duration_since(*first);
    assert!(spread > Duration::from_secs(2), "spread over the drain, not at once: {spread:?}");
    assert!(waits.len() > 1, "they do not all come back at once: {waits:?}");
    let status = gateway.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(5 + 15), "{:?}", begun.elapsed());
}

#[test]
fn without_clients_a_drain_is_short() {
    let mut gateway = Gateway::configured("drain = \"30s\"\n");
    let begun = now();
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut gateway = Gateway::configured("drain = \"60s\"\n");
    let _clients: Vec<_> = (0..10).map(|_| Client::connect(&gateway)).collect();
    gateway.signal(Signal::TERM);
    wait_for("readyz to say 503", || (gateway.get("/readyz").status == 503).then_some(()));
    let begun = now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(1), "as documented: it was cut short");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_answers_nothing_does_not_hold_up_the_end() {
    let mut gateway = Gateway::configured("drain = \"500ms\"\n");
    let _silent: Vec<_> = (0..5).map(|_| Raw::websocket(&gateway)).collect();
    let mut half = Raw::open(gateway.addr);
    half.send(b"GET /ws HTTP/1.1\r\n");
    let begun = now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn a_used_port_is_an_error_at_the_start() {
    let gateway = Gateway::start();
    let output = finished(&mut weir(&["serve", "--listen", &gateway.addr.to_string()]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&gateway.addr.port().to_string()), "it names the address: {said}");
    Client::connect(&gateway).expect_nothing();
}

/// With few descriptors: `shards = 1` so that private tables do not multiply them.
#[test]
fn without_descriptors_it_backs_off_and_recovers() {
    let gateway = Gateway::with_files(1_000, "shards = 1\n");
    let mut early = Client::connect(&gateway);
    early.subscribe("room:1");
    let mut held: Vec<_> = (0..1_100)
        .map(|_| {
            let mut raw = Raw::open(gateway.addr);
            raw.send(handshake_request(gateway.addr, &[]).as_bytes());
            raw
        })
        .collect();
    // Those that got in are served; with every descriptor taken, so is everybody from before.
    for data in 0..100 {
        early.send(&json!({"type": "publish", "channel": "room:1", "data": data}));
        assert_eq!(early.expect("event")["data"], data);
    }
    let (begun, before) = (now(), gateway.cpu());
    while begun.elapsed() < Duration::from_secs(2) {
        early.expect_nothing();
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = (gateway.cpu() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.2, "accept spins: {share} of a processor");
    held.clear();
    wait_for("new clients to get in", || {
        let mut raw = Raw::open(gateway.addr);
        raw.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        raw.send(handshake_request(gateway.addr, &[]).as_bytes());
        raw.head().starts_with("HTTP/1.1 101 ").then_some(())
    });
    Client::connect(&gateway).expect_nothing();
    early.expect_nothing();
    // Otherwise there were enough, and all this proves nothing.
    assert!(gateway.metric("weir_accept_errors_total") > 0.5, "it never ran out of descriptors");
}

/// A reset after every prefix of a conversation; then everything is as it was.
#[test]
fn resets_at_every_moment_leave_nothing_behind() {
    let gateway = Gateway::start();
    let mut bystander = Client::connect(&gateway);
    bystander.subscribe("room:1");
    let mut talk = handshake_request(gateway.addr, &[]).into_bytes();
    talk.extend(masked(0x81, br#"{"type":"subscribe","channel":"room:2"}"#));
    talk.extend(masked(0x01, br#"{"type":"publish","channel":"#));
    talk.extend(masked(0x89, b"ping"));
    talk.extend(masked(0x80, br#""room:2","data":1}"#));
    talk.extend(masked(0x88, b"\x03\xe8"));
    let reset = |sent: &[u8]| {
        let mut raw = Raw::open(gateway.addr);
        raw.send(sent);
        socket2::SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).unwrap();
    };
    gateway.wait_for_connections(1);
    let files = gateway.files();
    for _ in 0..4 {
        for end in 0..=talk.len() {
            reset(&talk[..end]);
        }
    }
    wait_for("descriptors and subscriptions to come back", || {
        let one_left = (gateway.metric("weir_subscriptions") - 1.0).abs() < 0.5;
        (one_left && gateway.connections() == 1 && gateway.files() <= files + 2).then_some(())
    });
    // Whether a reset overtook the subscribe is the kernel's affair; that nobody stays is ours.
    wait_for("room:2 to be empty", || {
        let channels = gateway.get("/api/v1/channels?prefix=room:2").json();
        let mut channels = channels["channels"].as_array().unwrap().iter();
        channels.all(|channel| channel["subscribers"] == 0).then_some(())
    });
    bystander.send(&json!({"type": "publish", "channel": "room:1", "data": 1}));
    bystander.expect("event");
}

#[test]
fn a_half_closed_connection_ends() {
    let gateway = Gateway::start();
    let mut raw = Raw::websocket(&gateway);
    raw.send(&masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#));
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    raw.0.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.rest();
    wait_for("its subscription to go", || {
        (gateway.metric("weir_subscriptions") < 0.5).then_some(())
    });
}

#[test]
fn churn_leaves_neither_memory_nor_descriptors() {
    let gateway = Gateway::start();
    let churn = |rounds: u32| {
        for round in 0..rounds {
            let mut client = Client::connect(&gateway);
            client.subscribe(&format!("churn:{round}"));
            if round % 2 == 0 {
                client.close(1000);
            }
        }
        wait_for("all of them to be gone", || {
            (gateway.metric("weir_subscriptions") < 0.5).then_some(())
        });
        gateway.wait_for_connections(0);
    };
    churn(200);
    let (rss, files) = (gateway.rss(), gateway.files());
    let held: Vec<_> = (0..100).map(|_| Client::connect(&gateway)).collect();
    let seen = gateway.files();
    assert!(seen >= files + 50, "the count sees what shards hold: {files}, then {seen}");
    drop(held);
    churn(1000);
    wait_for("descriptors to come back", || (gateway.files() <= files + 2).then_some(()));
    let grown = gateway.rss().saturating_sub(rss);
    assert!(grown < 2 << 20, "grew by {grown}");
}
