//! What once went wrong, seen from outside.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use serde_json::json;

use crate::harness::{Client, Gateway, WEIR, now, wait_for};
use crate::raw::Raw;

/// The runtimes that were there already used to panic when they were dropped.
#[test]
fn a_start_without_descriptors_is_an_error_and_no_panic() {
    let mut command = Command::new("bash");
    let few = "ulimit -n 40 && exec \"$@\"";
    command.args(["-c", few, "bash", WEIR, "serve", "--listen", "127.0.0.1:0", "--shards", "30"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("failed to start a shard") && !said.contains("panicked"), "{said}");
}

#[test]
fn silent_clients_hold_up_a_drain_for_less_than_five_seconds() {
    let ends_after = || {
        let mut gateway = Gateway::configured("drain = \"1s\"\n");
        let _silent: Vec<_> = (0..3).map(|_| Raw::websocket(&gateway)).collect();
        let begun = now();
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.ended().code(), Some(0));
        begun.elapsed()
    };
    // A busy machine may be late, but not every time.
    let in_time = || ends_after() < Duration::from_secs(1 + 5);
    assert!((0..4).any(|_| in_time()));
}

/// Half of a body is there when the last client has gone.
#[test]
fn a_drain_answers_the_requests_that_have_begun() {
    let mut gateway = Gateway::configured("shards = 1\n");
    let mut raw = Raw::open(gateway.addr);
    let head = "PUT /api/v1/channels/room:1/events HTTP/1.1\r\nContent-Length: 10\r\n";
    raw.send(format!("{head}Expect: 100-continue\r\nHost: {}\r\n\r\n", gateway.addr).as_bytes());
    assert!(raw.head().starts_with("HTTP/1.1 100 "), "it waits for the body");
    raw.send(b"01234");
    gateway.signal(Signal::TERM);
    wait_for("the listener to close", || TcpStream::connect(gateway.addr).err());
    raw.send(b"56789");
    let answer = raw.answer();
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(raw.rest().is_empty());
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_gateway_that_is_dropped_lets_go_of_its_port() {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = weir::Config { listen, shards: 2, ..weir::Config::default() };
    let gateway = weir::Gateway::builder().config(config).build().unwrap();
    let address = gateway.local_addrs()[0];
    TcpStream::connect(address).unwrap();
    drop(gateway);
    wait_for("its listeners to close", || TcpStream::connect(address).err());
}

/// What is kept of an event has one byte for the length of its key: behind a longer one the rest of
/// it used to come back as a part of the data.
#[test]
fn a_key_that_no_client_may_send_is_refused_to_programs_too() {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = weir::Config { listen, shards: 1, ..weir::Config::default() };
    let gateway = weir::Gateway::builder().config(config).build().unwrap();
    let (handle, channel) = (gateway.handle(), "room:1".parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let publish = |bytes| {
        let key = "k".repeat(bytes);
        let published = handle.publish(&channel, Some(&key), b"1".to_vec());
        runtime.block_on(published).map(|position| position.offset)
    };
    assert_eq!(publish(255), Ok(1));
    assert_eq!(publish(256), Err(weir::PublishError::Key));
    assert_eq!(publish(0), Ok(2));
}

/// Two clients with a queue that the socket does not take: one goes, one unsubscribes.
#[test]
fn every_event_is_delivered_or_counted_as_dropped() {
    let gateway = Gateway::start();
    let mut publisher = Client::connect(&gateway);
    let mut gone = Client::connect_narrow(&gateway);
    gone.subscribe("room:1");
    let mut leaving = Client::connect_narrow(&gateway);
    leaving.subscribe("room:1");
    let pad = "x".repeat(16 * 1024);
    for _ in 0..100 {
        publisher.publish("room:1", &json!(pad));
    }
    // What is still in the mail when one goes was never for it.
    gateway.wait_for_mail();
    let count = |metric: &str| gateway.metric(metric);
    let dropped = |policy: &str| count(&format!("weir_events_dropped_total{{policy=\"{policy}\""));
    assert!(count("weir_events_delivered_total") < 199.5, "something waits in the queues");
    drop(gone);
    wait_for("its queue to be counted", || (dropped("closed") > 0.5).then_some(()));
    leaving.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    wait_for("all events to be accounted for", || {
        let sum = count("weir_events_delivered_total") + count("weir_events_dropped_total");
        assert!(sum < 200.5, "{sum}");
        // A frame that is on its way stays until it is read.
        (sum > 198.5).then_some(())
    });
    assert!(dropped("unsubscribed") > 0.5);
}

#[test]
fn errors_and_refused_handshakes_are_counted_by_code() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    assert_eq!(client.ask(json!({"type": "presence", "channel": "room:1"}))["type"], "error");
    gateway.get("/nowhere");
    gateway.get("/ws");
    gateway.post("/api/v1/publish", "no json");
    for metric in [
        "weir_commands_total{type=\"presence\"",
        "weir_errors_total{code=\"bad_request\"",
        "weir_errors_total{code=\"not_enabled\"",
        "weir_errors_total{code=\"not_found\"",
        "weir_errors_total{code=\"upgrade_required\"",
        "weir_store_up",
        "weir_upgrade_rejected_total{reason=\"upgrade_required\"",
    ] {
        assert!((gateway.metric(metric) - 1.0).abs() < 0.5, "{metric}");
    }
}
