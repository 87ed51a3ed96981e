//! Clients that come back and say who they were: they learn why the server had closed them.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, wait_for};
use crate::raw::{Raw, handshake_request, masked};

/// The welcome of a client that comes with this query.
pub(crate) fn welcome(gateway: &Gateway, query: &str) -> Value {
    let mut raw = Raw::open(gateway.addr);
    let request = handshake_request(gateway.addr, &[]);
    raw.send(request.replacen("GET /ws ", &format!("GET /ws{query} "), 1).as_bytes());
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{query}: {head}");
    let (first, text) = raw.frame().unwrap();
    assert_eq!(first, 0x81);
    let welcome: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    welcome
}

/// Its own id, from the welcome.
fn connect(gateway: &Gateway) -> (Raw, String) {
    let mut raw = Raw::open(gateway.addr);
    raw.send(handshake_request(gateway.addr, &[]).as_bytes());
    raw.head();
    let (_, text) = raw.frame().unwrap();
    let welcome: Value = serde_json::from_slice(&text).unwrap();
    (raw, welcome["client"].as_str().unwrap().to_owned())
}

/// Goal: whoever was cut for reading too slowly learns it, and how much that was.
#[test]
fn a_slow_client_that_comes_back_learns_what_it_has_missed() {
    let gateway = Gateway::configured("[limits]\nslow_disconnect = \"2s\"\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let mut stalled = Client::connect_narrow(&gateway);
    stalled.subscribe("room:1");
    let pad = "x".repeat(8 << 10);
    // Until its queue is full and no further: what is published after its close it cannot miss.
    let mut sent = 0;
    wait_for("its queue to be full", || {
        sent += 1;
        publisher.send(&json!({"type": "publish", "channel": "room:1", "data": pad}));
        assert_eq!(healthy.expect("event")["offset"], sent);
        let full = gateway.get("/api/v1/stats").json()["total"]["slow_consumers"]["full"] == 1;
        let closed = gateway.metric("weir_connections_closed_total{code=\"4000\"") > 0.5;
        (full || closed).then_some(())
    });
    let query = format!("?was={}", stalled.id);
    let last = wait_for("the close", || {
        let last = welcome(&gateway, &query)["last"].clone();
        (!last.is_null()).then_some(last)
    });
    assert_eq!((&last["code"], &last["reason"]), (&json!(4000), &json!("slow_consumer")));
    let dropped = last["dropped"].as_u64().unwrap();
    // What it reads now is what the kernel had: the rest was lost.
    let ended = stalled.ended();
    let events = ended.messages.iter().filter(|message| message["type"] == "event").count();
    assert_eq!(events as u64 + dropped, sent, "{last}");
    // By any shard, and as often as it asks.
    for _ in 0..20 {
        assert_eq!(welcome(&gateway, &query)["last"], last);
    }
}

#[test]
fn every_close_of_the_server_is_remembered_with_its_reason() {
    let gateway = Gateway::start();
    let mut removed = Client::connect(&gateway);
    gateway.post("/api/v1/disconnect", &json!({"client": removed.id}).to_string());
    removed.ended();
    let (mut unmasked, broken) = connect(&gateway);
    unmasked.send(&[0x81, 0x01, b'a']);
    assert_eq!(unmasked.close_code(), Some(1002));
    let (mut nonsense, wrong) = connect(&gateway);
    for _ in 0..=100 {
        nonsense.send(&masked(0x81, b"nonsense"));
    }
    assert_eq!(nonsense.close_code(), Some(4504));
    let cases = [(removed.id, 4503), (broken, 1002), (wrong, 4504)];
    for (was, code) in cases {
        let last = welcome(&gateway, &format!("?x=1&was={was}"))["last"].clone();
        assert_eq!((&last["code"], &last["dropped"]), (&json!(code), &json!(0)), "{last}");
        assert!(!last["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn whoever_left_by_itself_or_says_nonsense_is_told_nothing() {
    let gateway = Gateway::start();
    let mut left = Client::connect(&gateway);
    assert_eq!(left.close(1000), Some(1000));
    let (lost, lost_id) = connect(&gateway);
    drop(lost);
    let here = Client::connect(&gateway);
    gateway.wait_for_connections(1);
    let long = "a".repeat(2_000);
    let unknown = [left.id.as_str(), &lost_id, &here.id, "0000000000001"];
    let bad = ["", "%ff", "x", "-000000000001", "zzzzzzzzzzzzz", "%00", "1h2j8q0c5x7ka%20", &long];
    for was in unknown.into_iter().chain(bad) {
        let welcome = welcome(&gateway, &format!("?was={was}"));
        assert!(welcome.get("last").is_none(), "{was}: {welcome}");
    }
    assert!(welcome(&gateway, "?was").get("last").is_none());
}
