//! Many who are slow, wrong or gone at once: the others notice nothing, and nothing is left behind.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::beside::unharmed;
use crate::harness::{Client, Gateway, now, wait_for};
use crate::raw::{Answer, Raw, handshake_request, masked};

const MIB: u64 = 1 << 20;

/// What a bystander may wait for on a machine that does other things as well.
const PAUSE: Duration = Duration::from_secs(5);

/// What a bystander may wait for longer than where nobody attacks.
pub(crate) const ATTACKED: Duration = Duration::from_millis(250);

fn subscribe_to(channel: &str) -> Vec<u8> {
    let text = json!({"type": "subscribe", "channel": channel}).to_string();
    masked(0x81, text.as_bytes())
}

/// Closes a connection with a reset.
fn reset(raw: Raw) {
    socket2::SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A thousand subscribers that read nothing beside one that reads.
#[test]
fn a_thousand_slow_subscribers_cost_only_themselves() {
    const SLOW: u64 = 1_000;
    const QUEUE: u64 = 64 << 10;
    let gateway = Gateway::configured("[limits]\nqueue_bytes = \"64KiB\"\nslow_disconnect = 0\n");
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let held: Vec<_> = (0..SLOW)
        .map(|_| {
            let mut raw = Raw::narrow(&gateway);
            raw.send(&subscribe_to("room:1"));
            raw
        })
        .collect();
    wait_for("all to be subscribed", || {
        (gateway.metric("weir_subscriptions") > 1_000.5).then_some(())
    });
    let rss = gateway.rss();
    let (rounds, batch) = (40, 20);
    let pad = "x".repeat(1024);
    for round in 0..rounds {
        let line = json!({"type": "publish", "channel": "room:1", "data": pad}).to_string() + "\n";
        publisher.send_text(&line.repeat(batch));
        for n in 1..=batch {
            let event = healthy.expect("event");
            assert_eq!(event["offset"], round * batch + n, "a healthy client loses nothing");
        }
    }
    assert!(gateway.metric("weir_slow_consumers") > 900.0, "they are slow");
    let grown = gateway.rss().saturating_sub(rss);
    // They share the bytes of the events.
    let shared = (rounds * batch) as u64 * 1_200;
    assert!(grown < shared + SLOW * 4_096, "{} slow ones cost {grown}", held.len());
    assert!(gateway.metric("weir_queue_bytes") <= (QUEUE * (SLOW + 2)) as f64);
    let asked = now();
    Client::connect(&gateway).publish("room:2", &json!(1));
    assert!(asked.elapsed() < PAUSE, "new clients are served: {:?}", asked.elapsed());
}

/// Stopped for a while and continued: nobody is cut, and what came in between is served in order.
#[test]
fn a_stopped_process_goes_on_where_it_was() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let mut writers: Vec<_> = (0..20).map(|_| Client::connect(&gateway)).collect();
    gateway.signal(Signal::STOP);
    for writer in &mut writers {
        for n in 1..=5 {
            writer.send(&json!({"type": "publish", "id": n, "channel": "room:1", "data": n}));
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    gateway.signal(Signal::CONT);
    for offset in 1..=100 {
        assert_eq!(reader.expect("event")["offset"], offset);
    }
    for writer in &mut writers {
        for n in 1..=5 {
            assert_eq!(writer.expect("published")["id"], n);
        }
        writer.expect_nothing();
    }
    assert_eq!(gateway.connections(), 21);
}

/// Handshakes that are wrong, and halves of some, from many sides, while healthz is asked.
#[test]
fn wrong_handshakes_by_the_thousand_leave_the_others_alone() {
    let gateway = Gateway::start();
    let halves: Vec<_> = (0..500)
        .map(|_| {
            let mut raw = Raw::open(gateway.addr);
            raw.send(b"GET /ws HTTP/1.1\r\nHost: x\r\n");
            raw
        })
        .collect();
    unharmed(&gateway, ATTACKED, || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mut raw = Raw::open(gateway.addr);
                        let request = handshake_request(gateway.addr, &[]);
                        raw.send(request.replace("Version: 13", "Version: 12").as_bytes());
                        assert_eq!(raw.answer().status, 426);
                    }
                });
            }
        });
    });
    drop(halves);
    assert!(gateway.metric("weir_upgrade_rejected_total") >= 2_000.0);
    gateway.wait_for_connections(0);
}

/// A message of a million brackets is answered, and neither the stack nor the others suffer.
#[test]
fn a_million_brackets_are_one_bad_message() {
    let gateway =
        Gateway::configured("[limits]\nmessage_bytes = \"2MiB\"\nqueue_bytes = \"2MiB\"\n");
    let mut bystander = Client::connect(&gateway);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = open.repeat(1_000_000 / open.len());
        let closed = format!("{deep}1{}", close.repeat(200_000 / open.len()));
        for text in [&deep, &closed] {
            for text in [text.clone(), format!(r#"{{"type":"publish","channel":"a","data":{text}"#)]
            {
                let mut client = Client::connect(&gateway);
                client.send_text(&text);
                assert_eq!(client.expect("error")["code"], "bad_request");
                client.expect_nothing();
                bystander.expect_nothing();
            }
        }
        let answer = gateway.post("/api/v1/publish", &format!(r#"{{"channel":"a","data":{deep}"#));
        assert_eq!(answer.error(400), "bad_request");
    }
}

/// Ten thousand subscriptions of one connection, one too many, and back, again and again.
#[test]
fn ten_thousand_subscriptions_come_and_go() {
    const MANY: usize = 10_000;
    // One shard: else the second pays its first time later.
    let limits =
        "shards = 1\n[limits]\nsubscriptions_per_connection = 10000\nqueue_bytes = \"4MiB\"\n";
    let gateway = Gateway::configured(limits);
    let long = "x".repeat(240);
    let round = || {
        let mut client = Client::connect(&gateway);
        for some in (0..MANY).collect::<Vec<_>>().chunks(100) {
            let line = |n| {
                let channel = format!("room:{n}:{}", &long[..n % 240 + 1]);
                json!({"type": "subscribe", "channel": channel}).to_string()
            };
            let lines: Vec<_> = some.iter().map(line).collect();
            client.send_text(&lines.join("\n"));
            for _ in some {
                client.expect("subscribed");
            }
        }
        let refused = client.ask(json!({"type": "subscribe", "channel": "room:beyond"}));
        assert_eq!(refused["code"], "limit_exceeded", "{refused}");
        assert!((gateway.metric("weir_subscriptions") - 10_000.0).abs() < 0.5);
        drop(client);
        wait_for("them to go", || (gateway.metric("weir_subscriptions") < 0.5).then_some(()));
    };
    let empty = gateway.rss();
    round();
    let once = gateway.rss();
    assert!(once - empty.min(once) < 16 * MIB, "ten thousand cost {}", once - empty);
    for _ in 0..3 {
        round();
    }
    let grown = gateway.rss().saturating_sub(once);
    assert!(grown < 2 * MIB, "what came back is used again: grew by {grown}");
}

/// Five thousand resets, before, in and after the handshake, while somebody talks.
#[test]
fn a_flood_of_resets_pauses_nobody() {
    let gateway = Gateway::start();
    drop(Client::connect(&gateway));
    gateway.wait_for_connections(0);
    let files = gateway.files();
    let talk = [handshake_request(gateway.addr, &[]).as_bytes(), &subscribe_to("room:2")].concat();
    unharmed(&gateway, ATTACKED, || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1_250 {
                        let mut raw = Raw::open(gateway.addr);
                        raw.send(&talk[..[0, 20, talk.len()][n % 3]]);
                        reset(raw);
                    }
                });
            }
        });
    });
    gateway.wait_for_connections(0);
    wait_for("descriptors to come back", || (gateway.files() <= files + 4).then_some(()));
    // One that was reset before it was accepted may come after all others.
    wait_for("their subscriptions to go", || {
        (gateway.metric("weir_subscriptions") < 0.5).then_some(())
    });
    assert!(gateway.metric("weir_panics_total") < 0.5);
}

/// Twice as many as there is room for: each is either in or refused, and none hangs.
#[test]
fn a_flood_to_twice_the_limit_is_refused_beyond_it() {
    // One is there before.
    let gateway = Gateway::configured("[limits]\nconnections = 51\n");
    let knock = || {
        let mut raw = Raw::open(gateway.addr);
        raw.send(handshake_request(gateway.addr, &[]).as_bytes());
        let answer = Answer::read(raw.head().as_bytes());
        assert!(matches!(answer.status, 101 | 503), "{}", answer.head);
        (answer.status, raw)
    };
    let held = unharmed(&gateway, ATTACKED, || {
        let held: Vec<_> = (0..100).map(|_| knock()).collect();
        let admitted = held.iter().filter(|(status, _)| *status == 101).count();
        assert_eq!(admitted, 50);
        // And they come again and again.
        for _ in 0..1_000 {
            let (status, raw) = knock();
            assert_eq!(status, 503);
            reset(raw);
        }
        held
    });
    assert_eq!(gateway.get("/healthz").status, 200);
    for (_, raw) in held {
        reset(raw);
    }
    gateway.wait_for_connections(0);
    Client::connect(&gateway).expect_nothing();
}

/// Reads each client's answer to `{"type":"ping","id":1}`, and answers the pings before it.
fn expect_pongs(clients: &mut [Raw]) {
    for client in clients {
        loop {
            let (first, text) = client.frame().expect("it is still connected");
            if first == 0x89 {
                client.send(&masked(0x8A, &text));
                continue;
            }
            assert_eq!(String::from_utf8_lossy(&text), r#"{"type":"pong","id":1}"#);
            break;
        }
    }
}

/// Stopped for longer than a ping and its answer may take: whoever answered in that time stays.
#[test]
fn a_stopped_process_cuts_nobody_wrongly() {
    let gateway = Gateway::configured("[http]\nping = \"3s\"\nping_timeout = \"2500ms\"\n");
    let mut clients: Vec<_> = (0..20).map(|_| Raw::websocket(&gateway)).collect();
    let pings: Vec<_> = clients.iter_mut().map(|client| client.frame().unwrap()).collect();
    gateway.signal(Signal::STOP);
    for (client, (first, payload)) in clients.iter_mut().zip(pings) {
        assert_eq!(first, 0x89);
        client.send(&masked(0x8A, &payload));
    }
    std::thread::sleep(Duration::from_secs(4));
    gateway.signal(Signal::CONT);
    for client in &mut clients {
        client.send(&masked(0x81, br#"{"type":"ping","id":1}"#));
    }
    expect_pongs(&mut clients);
    assert_eq!(gateway.connections(), 20);
}

/// A ping that is sent late has its own time to be answered.
#[test]
fn a_ping_after_a_stall_has_its_time() {
    let gateway = Gateway::configured("[http]\nping = \"3s\"\nping_timeout = \"2500ms\"\n");
    let mut clients: Vec<_> = (0..20).map(|_| Raw::websocket(&gateway)).collect();
    for client in &mut clients {
        client.send(&masked(0x81, br#"{"type":"ping"}"#));
        assert_eq!(client.frame().unwrap().1, br#"{"type":"pong"}"#);
    }
    gateway.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(6_500));
    gateway.signal(Signal::CONT);
    let pings: Vec<_> = clients.iter_mut().map(|client| client.frame().unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    for (client, (first, payload)) in clients.iter_mut().zip(pings) {
        assert_eq!(first, 0x89, "{}", String::from_utf8_lossy(&payload));
        client.send(&masked(0x8A, &payload));
        client.send(&masked(0x81, br#"{"type":"ping","id":1}"#));
    }
    expect_pongs(&mut clients);
    assert_eq!(gateway.connections(), 20);
}
