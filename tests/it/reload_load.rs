//! Reloads and drains while everybody is busy: no event is lost, and nobody is cut who may stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use serde_json::json;

use crate::harness::{Client, Gateway, wait_for};

/// Settings of which every reload changes many, and none that these clients need.
fn settings(round: usize) -> String {
    let odd = round % 2 == 1;
    let (size, threshold) = if odd { (500, 100) } else { (2_000, 4_096) };
    let slow = if odd { "drop_oldest" } else { "drop_newest" };
    format!(
        "shards = 2\n[limits]\nqueue_events = 100000\nqueue_bytes = {}\n\
         [compression]\nthreshold = {threshold}\nlevel = {}\n\
         [[namespace]]\nname = \"busy\"\nhistory = {size}\nkeyed = {odd}\nslow = {slow:?}\n\
         presence = {odd}\npatterns = true\n[[namespace]]\nname = \"round-{round}\"\n",
        (64 + round) << 20,
        1 + round % 3,
    )
}

/// What publishers have done, and whether they go on.
#[derive(Default)]
struct Published {
    count: AtomicU64,
    stop: AtomicBool,
}

/// Publishes one event after the other.
fn publisher(gateway: &Gateway, key: &'static str, published: &Arc<Published>) -> JoinHandle<()> {
    let (mut client, published) = (Client::connect(gateway), Arc::clone(published));
    std::thread::spawn(move || {
        let pad = "x".repeat(200);
        while !published.stop.load(Ordering::Relaxed) {
            client.send(&json!({
                "type": "publish", "channel": "busy:1", "data": pad, "id": 1, "key": key,
            }));
            assert_eq!(client.expect("published")["id"], 1);
            published.count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Reads every event, each behind the one before, to the last.
fn subscriber(gateway: &Gateway, channel: &str) -> JoinHandle<Client> {
    let mut client = Client::connect(gateway);
    let begun = client.subscribe(channel);
    let mut next = begun["offset"].as_u64().map(|head| head + 1);
    std::thread::spawn(move || {
        loop {
            let message = client.next();
            match message["type"].as_str().unwrap() {
                "event" => {
                    let offset = message["offset"].as_u64().unwrap();
                    assert_eq!(offset, next.unwrap_or(offset), "{message}");
                    if message["data"] == "over" {
                        return client;
                    }
                    next = Some(offset + 1);
                }
                "join" | "leave" | "presence" => {}
                _ => panic!("{message}"),
            }
        }
    })
}

#[test]
fn a_reload_under_load_loses_nothing_and_cuts_nobody() {
    const ROUNDS: usize = 20;
    let gateway = Gateway::configured(&settings(0));
    let channels = ["busy:1", "busy:1", "busy:*", "busy:*"];
    let subscribers = channels.map(|channel| subscriber(&gateway, channel));
    let published = Arc::new(Published::default());
    let publishers = ["a", "b"].map(|key| publisher(&gateway, key, &published));
    let count = || published.count.load(Ordering::Relaxed);
    for round in 1..=ROUNDS {
        let before = count();
        assert!(gateway.reload(&settings(round)));
        wait_for("publishers to go on", || (count() > before + 20).then_some(()));
    }
    published.stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().unwrap();
    }
    let over = json!({"channel": "busy:1", "data": "over"}).to_string();
    assert_eq!(gateway.post("/api/v1/publish", &over).status, 200);
    let head = gateway.get("/api/v1/channels/busy:1/history?limit=0").json();
    assert_eq!(head["offset"], json!(count() + 1));
    let mut clients = subscribers.map(|subscriber| subscriber.join().unwrap());
    let closed = || gateway.metric("weir_connections_closed_total");
    wait_for("the publishers to go", || (closed() > 1.5).then_some(()));
    assert_eq!(gateway.metric("weir_panics_total"), 0.0);
    for client in &mut clients {
        client.expect_nothing();
    }
    assert!((closed() - 2.0).abs() < 0.5, "nobody else was sent away: {}", closed());
}
