//! Peers that mean no good, by the load that each may put on the gateway: how much, for how long,
//! what ends it, which metric tells, and what the others notice.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::beside::unharmed;
use crate::harness::{Client, Gateway, now, wait_for};
use crate::raw::{Raw, handshake_request, http, masked};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// How long a peer may take to end its side.
const CLOSE: Duration = Duration::from_secs(5);

/// What a machine that does other things as well may add to that.
const CLOSE_LATE: Duration = Duration::from_secs(4);

/// What a machine that does other things as well may add to a time.
const LATE: Duration = Duration::from_secs(1);

/// When the connection ends, whatever comes before.
fn end_of(raw: &mut Raw) -> Instant {
    let mut scratch = [0; 4096];
    loop {
        match raw.0.read(&mut scratch) {
            Ok(0) => return now(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return now(),
            Err(error) => panic!("it does not end: {error}"),
        }
    }
}

/// A thousand connections that say nothing, half a head, or a byte each second.
#[test]
fn a_thousand_half_open_connections_are_cut_in_time_and_harm_nobody() {
    const MANY: usize = 1_000;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let gateway = Gateway::start();
    let kinds: [&[u8]; 3] = [b"", b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgra", b"G"];
    // What the first of each cost is not what these cost.
    drop((0..100).map(|n| half_open(&gateway, kinds[n % 3])).collect::<Vec<_>>());
    let before = gateway.rss();
    let held: Vec<_> = (0..MANY).map(|n| half_open(&gateway, kinds[n % 3])).collect();
    let grown = unharmed(&gateway, Duration::from_millis(100), || {
        let opened = now();
        let mut held = held;
        let mut grown = 0;
        while opened.elapsed() + LATE < TIMEOUT {
            held.iter_mut().skip(2).step_by(3).for_each(|raw| raw.send(b"E"));
            grown = gateway.rss().saturating_sub(before).max(grown);
            std::thread::sleep(LATE);
        }
        let last = held.iter_mut().map(end_of).max().unwrap();
        let took = last - opened;
        assert!(took < TIMEOUT + LATE, "all are cut: {took:?}");
        grown
    });
    assert!(grown < MANY as u64 * 16 * KIB, "a thousand cost {grown}");
    let cut = gateway.metric("weir_http_cut_total{reason=\"head\"");
    assert!(cut > MANY as f64 - 0.5, "{cut} were counted");
}

fn half_open(gateway: &Gateway, some: &[u8]) -> Raw {
    let mut raw = Raw::open(gateway.addr);
    raw.send(some);
    raw
}

/// Stopped for ten seconds: who answers pings stays, who does not is cut as ever, and what was sent
/// meanwhile is served in order.
#[test]
fn ten_seconds_of_standing_still_cut_only_those_who_are_gone() {
    const EACH: usize = 20;
    let gateway = Gateway::configured("[http]\nping = \"5s\"\nping_timeout = \"4s\"\n");
    let mut gone: Vec<_> = (0..EACH).map(|_| Raw::websocket(&gateway)).collect();
    // Each answers pings from a thread of its own, and says in the end whether it was cut.
    let alive: Vec<_> = (0..EACH)
        .map(|_| {
            let mut raw = Raw::websocket(&gateway);
            std::thread::spawn(move || {
                while let Some((first, payload)) = raw.frame() {
                    match first {
                        0x89 => raw.send(&masked(0x8A, &payload)),
                        0x81 if payload.starts_with(br#"{"type":"event""#) => return true,
                        _ => {}
                    }
                    if first == 0x89 {
                        raw.send(&masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#));
                    }
                }
                false
            })
        })
        .collect();
    gateway.signal(rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_secs(10));
    gateway.signal(rustix::process::Signal::CONT);
    for raw in &mut gone {
        assert_eq!(raw.close_code(), Some(4002), "it was asked, and did not answer");
    }
    wait_for("the others to be subscribed", || {
        (gateway.metric("weir_subscriptions") > EACH as f64 - 0.5).then_some(())
    });
    gateway.post("/api/v1/publish", r#"{"channel":"room:1","data":1}"#);
    let stayed = alive.into_iter().filter_map(|one| one.join().unwrap().then_some(())).count();
    assert_eq!(stayed, EACH);
    let cut = gateway.metric("weir_connections_closed_total{code=\"4002\"");
    assert!((cut - EACH as f64).abs() < 0.5, "{cut}");
}

/// Half closed, or closed by us and silent, or closed by us and talking on: over in five seconds.
#[test]
fn whoever_does_not_end_its_side_loses_it_within_the_close_timeout() {
    let gateway = Gateway::start();
    let close = |client: &str| {
        let body = json!({"client": client}).to_string();
        assert_eq!(gateway.post("/api/v1/disconnect", &body).json()["disconnected"], 1);
    };
    let timely = |what: &str, begun: Instant, ended: Instant| {
        let took = ended - begun;
        assert!(took < CLOSE + CLOSE_LATE, "{what}: {took:?}");
    };
    let mut half = Raw::websocket(&gateway);
    let begun = now();
    half.0.shutdown(Shutdown::Write).unwrap();
    timely("half closed", begun, end_of(&mut half));

    let (mut silent, id) = named(&gateway);
    let begun = now();
    close(&id);
    let silent = std::thread::spawn(move || end_of(&mut silent));

    let (mut talker, id) = named(&gateway);
    let talking = now();
    close(&id);
    let mut other = Raw(talker.0.try_clone().unwrap());
    let talk = std::thread::spawn(move || {
        // A little at a time: a flood is over before, at 256 KiB.
        let ping = masked(0x89, b"?");
        while other.0.write_all(&ping).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    timely("talking on", talking, end_of(&mut talker));
    talk.join().unwrap();
    timely("silent", begun, silent.join().unwrap());

    let (mut flood, id) = named(&gateway);
    close(&id);
    // The kernel takes some megabytes before the end is felt.
    let sent = (0..1_024).take_while(|_| flood.0.write_all(&[0; 64 << 10]).is_ok()).count();
    assert!(sent < 1_024, "sixty-four megabytes behind a close were read");
    gateway.wait_for_connections(0);
    let closed = gateway.metric("weir_connections_closed_total{code=\"4503\"");
    assert!((closed - 3.0).abs() < 0.5, "{closed}");
}

/// Fragments without end and without a byte, and a frame that comes drop by drop: each message has
/// half a minute, and one that is whole in between gives no more.
#[test]
fn a_message_that_never_ends_is_closed_after_half_a_minute() {
    const LIMIT: Duration = Duration::from_secs(30);
    let gateway = Gateway::start();
    let begun = now();
    let drip = |first: Vec<u8>, more: Vec<u8>| {
        let mut raw = Raw::websocket(&gateway);
        raw.send(&first);
        let mut writer = Raw(raw.0.try_clone().unwrap());
        let writes = std::thread::spawn(move || {
            while writer.0.write_all(&more).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        (raw, writes)
    };
    let empty = [masked(0x00, b""), masked(0x89, b"?")].concat();
    let cases = [
        ("empty fragments", drip(masked(0x01, b""), empty)),
        ("a frame drop by drop", drip(masked(0x82, &[0; 60_000])[..8].to_vec(), vec![0])),
    ];
    for (what, (mut raw, writes)) in cases {
        let code = std::iter::from_fn(|| raw.frame()).find(|(first, _)| *first == 0x88);
        let code = code.and_then(|(_, payload)| payload.first_chunk().copied());
        assert_eq!(code.map(u16::from_be_bytes), Some(1008), "{what}");
        let took = begun.elapsed();
        // A shard that is late itself gives the time once more.
        assert!(took > LIMIT - LATE && took < 2 * LIMIT + 5 * LATE, "{what}: {took:?}");
        drop(raw);
        writes.join().unwrap();
    }
    assert!(gateway.metric("weir_connections_closed_total{code=\"1008\"") > 1.5);
}

/// A WebSocket and the id that it was given.
fn named(gateway: &Gateway) -> (Raw, String) {
    let mut raw = Raw::open(gateway.addr);
    raw.send(handshake_request(gateway.addr, &[]).as_bytes());
    raw.head();
    let welcome = raw.json();
    (raw, welcome["client"].as_str().unwrap().to_owned())
}

/// Values that cost more than they look: a hundred kilobytes of each takes less than ten
/// milliseconds of processor, and is answered with an error or taken as it is.
#[test]
fn odd_values_of_a_hundred_kilobytes_cost_little() {
    const TIMES: u64 = 40;
    const BYTES: usize = 100_000;
    let gateway = Gateway::configured(
        "shards = 1\n[limits]\nmessage_bytes = \"128KiB\"\nqueue_bytes = \"1MiB\"\n",
    );
    let mut client = Client::connect(&gateway);
    let values = [
        ("brackets", "[".repeat(BYTES), false),
        ("closed brackets", "[".repeat(BYTES / 2) + &"]".repeat(BYTES / 2), false),
        ("braces", "{\"a\":".repeat(BYTES / 5), false),
        ("digits", "9".repeat(BYTES), true),
        ("an exponent", format!("1e{}", "9".repeat(BYTES)), true),
        ("a fraction", format!("0.{}1", "0".repeat(BYTES)), true),
        ("one key again and again", twice(BYTES), true),
        ("escapes", format!("\"{}\"", "\\u0000".repeat(BYTES / 6)), true),
        ("lone surrogates", format!("\"{}\"", "\\ud800".repeat(BYTES / 6)), false),
        ("spaces", format!("{}1", " ".repeat(BYTES)), true),
        ("commas", format!("[{}", ",".repeat(BYTES)), false),
        ("empty lists", format!("[{}[]]", "[],".repeat(BYTES / 3)), true),
    ];
    for (what, value, good) in values {
        let text = format!(r#"{{"type":"publish","id":1,"channel":"a","data":{value}}}"#);
        let before = gateway.cpu();
        for _ in 0..TIMES {
            client.send_text(&text);
            let answer = client.next();
            let wanted = if good { "published" } else { "error" };
            assert_eq!(answer["type"], wanted, "{what}: {answer}");
        }
        let each = (gateway.cpu() - before) / u32::try_from(TIMES).unwrap();
        assert!(each < Duration::from_millis(10), "{what}: {each:?} of processor each");
        // A hundred of these in a minute would end the connection, rightly.
        client = Client::connect(&gateway);
    }
    assert!(gateway.metric("weir_errors_total{code=\"bad_request\"") > 5.0 * TIMES as f64 - 0.5);
    assert!(gateway.metric("weir_panics_total") < 0.5);
}

fn twice(bytes: usize) -> String {
    format!("{{{}\"a\":0}}", "\"a\":0,".repeat(bytes / 6))
}

/// Subscriptions to odd and long names, to what one has, and back, as fast as they are taken.
#[test]
fn a_flood_of_subscriptions_meets_its_limit_and_harms_nobody() {
    let gateway = Gateway::configured("[defaults]\npatterns = true\n");
    let long = |n: usize, more: usize| format!("room:{n}:{}", "x".repeat(more));
    let odd = ["", ":", "a:", ":a", "a b", "a\u{e9}", "a*", "*", "**", "a:*b", "a:**", "a\u{0}"];
    let before = gateway.rss();
    unharmed(&gateway, Duration::from_millis(250), || {
        for _ in 0..3 {
            let mut client = Client::connect(&gateway);
            for name in odd.iter().map(|name| (*name).to_owned()).chain([long(1, 300)]) {
                let answer = client.ask(json!({"type": "subscribe", "channel": name}));
                assert_eq!(answer["code"], "bad_request", "{name:?}: {answer}");
            }
            let (mut taken, mut refused) = (0, 0);
            for n in 0..1_000 {
                let name = if n % 2 == 0 { long(n, 200) } else { format!("room:{n}/*") };
                let answer = client.ask(json!({"type": "subscribe", "channel": name}));
                match answer["type"].as_str() {
                    Some("subscribed") => taken += 1,
                    _ => {
                        assert_eq!(answer["code"], "limit_exceeded", "{answer}");
                        refused += 1;
                    }
                }
            }
            assert_eq!((taken, refused), (256, 744), "up to the limit and no further");
            // The same ones again, and one that comes and goes.
            for n in 0..500 {
                client.subscribe(&long(n % 200 / 2 * 2, 200));
                if n % 10 == 0 {
                    client.ask(json!({"type": "unsubscribe", "channel": long(0, 200)}));
                }
            }
        }
    });
    assert!(gateway.metric("weir_errors_total{code=\"limit_exceeded\"") > 3.0 * 744.0 - 0.5);
    wait_for("them to go", || (gateway.metric("weir_subscriptions") < 0.5).then_some(()));
    let grown = gateway.rss().saturating_sub(before);
    assert!(grown < 8 * MIB, "grew by {grown}");
}

/// Two thousand who come, say who they are and go, half of them at once.
#[test]
fn a_flood_of_reconnects_harms_nobody_and_leaves_nothing() {
    let gateway = Gateway::start();
    let talk = [
        handshake_request(gateway.addr, &[]).as_bytes(),
        &masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#),
    ]
    .concat();
    unharmed(&gateway, Duration::from_millis(250), || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500 {
                        let mut raw = Raw::open(gateway.addr);
                        raw.send(&talk);
                        if n % 2 == 0 {
                            assert!(raw.head().starts_with("HTTP/1.1 101 "));
                        }
                    }
                });
            }
        });
    });
    gateway.wait_for_connections(0);
    wait_for("their subscriptions to go", || {
        (gateway.metric("weir_subscriptions") < 0.5).then_some(())
    });
    assert!(gateway.metric("weir_connections_opened_total") > 999.5);
    assert!(gateway.metric("weir_panics_total") < 0.5);
}

/// What is oversized is refused at its door, each with its own status or code, and takes no memory.
#[test]
fn whatever_is_oversized_is_refused_with_its_own_error() {
    let gateway = Gateway::configured("[defaults]\nsignals = true\npresence = true\n");
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let long = |bytes: usize| "x".repeat(bytes);
    let publish = |field: &str, value: &str| {
        let mut all = json!({"type": "publish", "channel": "room:2", "data": 1});
        all[field] = json!(value);
        all
    };
    let signal = |name: &str, data: &str| json!({"type": "signal", "channel": "room:1", "name": name, "data": data});
    let cases = [
        (publish("channel", &long(256)), "bad_request"),
        (publish("key", &long(256)), "bad_request"),
        (publish("message_id", &long(65)), "bad_request"),
        (signal(&long(65), "x"), "bad_request"),
        (signal("a", &long(4_200)), "too_large"),
        (json!({"type": "history", "channel": "room:1", "limit": 1_u64 << 40}), "bad_request"),
        (json!({"type": "request", "method": long(256)}), "bad_request"),
        (json!({"type": "subscribe", "channel": "room:1", "max_rate": 1e300}), "bad_request"),
    ];
    for (command, code) in cases {
        let answer = client.ask(command.clone());
        assert_eq!(answer["code"], code, "{command}: {answer}");
    }
    let before = gateway.rss();
    let put = |path: &str, headers: &[(&str, &str)], bytes: usize| {
        http(gateway.addr, "PUT", path, headers, long(bytes).as_bytes()).status
    };
    let events = "/api/v1/channels/room:1/events";
    assert_eq!(put(events, &[], 65_537), 413, "an event");
    assert_eq!(put(&format!("{events}?key={}", long(300)), &[], 1), 400, "a key");
    assert_eq!(put(&format!("/api/v1/channels/{}/events", long(256)), &[], 1), 400, "a channel");
    let path = put(&format!("{events}?key={}", long(70_000)), &[], 1);
    assert!(matches!(path, 414 | 431), "a path: {path}");
    assert_eq!(put(events, &[("X-Long", &long(17_000))], 1), 431, "a header");
    let fields: Vec<_> = (0..101).map(|n| format!("X-{n}")).collect();
    let fields: Vec<_> = fields.iter().map(|name| (&**name, "y")).collect();
    assert_eq!(put(events, &fields, 1), 431, "many headers");
    // Announced and not sent: refused by the header alone.
    let head = format!("PUT {events} HTTP/1.1\r\nHost: {}\r\n", gateway.addr);
    for length in ["16777217", "1099511627776", "18446744073709551615"] {
        let mut raw = Raw::open(gateway.addr);
        raw.send(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
        let status = raw.answer().status;
        assert!(matches!(status, 400 | 413 | 431), "{length}: {status}");
    }
    let grown = gateway.rss().saturating_sub(before);
    assert!(grown < MIB, "grew by {grown}");
    for code in ["too_large", "bad_request"] {
        let counted = gateway.metric(&format!("weir_errors_total{{code=\"{code}\""));
        assert!(counted > 4.5, "{code}: {counted}");
    }
    client.expect_nothing();
}

/// An answer that nobody takes is given up, and holds nobody else up.
#[test]
fn pipelined_requests_of_one_who_reads_nothing_are_bounded() {
    let gateway = Gateway::start();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr);
    let burst = request.repeat(1_000);
    let before = gateway.rss();
    let taken = unharmed(&gateway, Duration::from_millis(250), || {
        let mut raw = Raw::open(gateway.addr);
        let within = Duration::from_secs(2);
        (0..500).take_while(|_| raw.send_within(within, burst.as_bytes()).is_ok()).count()
    });
    assert!(taken < 500, "half a million requests were read of one who takes no answer");
    let grown = gateway.rss_peak().saturating_sub(before);
    assert!(grown < 4 * MIB, "grew by {grown}");
}
