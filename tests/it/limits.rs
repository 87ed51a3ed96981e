//! How many may come and how often they may ask: by address, by user, by connection and by API key,
//! and less of all before a token.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, PATIENCE, now, scratch, wait_for};
use crate::raw::{Answer, Raw, handshake_request, http, masked};
use crate::tokens::{hs256, made, unix_s};

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Whoever is silent stays: its test may be late.
const PATIENT: &str = "[http]\nheader_timeout = \"10m\"\n";

/// A gateway with a key for tokens, these settings of `[auth]` and these limits.
fn with_tokens(auth: &str, limits: &str) -> Gateway {
    let path = scratch(".key");
    fs::write(&path, made()["secret"].as_str().unwrap()).unwrap();
    Gateway::configured(&format!(
        "[auth]\nhmac_secret_file = {path:?}\n{auth}\n[limits]\n{limits}\n"
    ))
}

fn token(user: &str) -> String {
    hs256(&json!({"sub": user, "exp": unix_s() + 600}))
}

fn dial(gateway: &Gateway, from: Ipv4Addr) -> Raw {
    Raw::open_from(gateway.addr, from).unwrap()
}

/// The answer to a handshake with this query, and the connection behind it.
fn handshake(gateway: &Gateway, mut raw: Raw, query: &str) -> (Raw, Answer) {
    let request = handshake_request(gateway.addr, &[]);
    raw.send(request.replacen("/ws", &format!("/ws{query}"), 1).as_bytes());
    let answer = raw.answer();
    (raw, answer)
}

/// What a connection is told that may not be here. Nothing where it may, or where that is late: to
/// be asked again.
fn told(raw: &mut Raw) -> Option<Answer> {
    raw.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    raw.0.peek(&mut [0]).ok().filter(|read| *read > 0)?;
    raw.0.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(raw.answer())
}

fn turned_away(gateway: &Gateway, from: Ipv4Addr) -> Option<Answer> {
    told(&mut dial(gateway, from))
}

/// A connection that was served, and goes on; `None` where it may not be here.
fn served(gateway: &Gateway, from: Ipv4Addr) -> Option<Raw> {
    let mut raw = dial(gateway, from);
    raw.send(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr).as_bytes());
    // One that is turned away may lose its 429 to what it has sent.
    (raw.answer().status == 200).then_some(raw)
}

/// A connection that may be here, as soon as there is room for it.
fn stay(gateway: &Gateway, from: Ipv4Addr) -> Raw {
    wait_for("room for a connection", || served(gateway, from))
}

fn limited(gateway: &Gateway, what: &str) -> f64 {
    gateway.metric(&format!("weir_rate_limited_total{{what=\"{what}\"}}"))
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    let gateway = Gateway::configured(&format!("{PATIENT}[limits]\nconnections_per_ip = 3\n"));
    let silent = dial(&gateway, HERE);
    let kept = served(&gateway, HERE).unwrap();
    let (mut socket, answer) = handshake(&gateway, dial(&gateway, HERE), "");
    assert_eq!(answer.status, 101, "{}", answer.head);
    let refused = wait_for("the silent one to be counted", || turned_away(&gateway, HERE));
    assert_eq!(refused.error(429), "limit_exceeded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["error"]["retry_after_ms"], 1000);
    assert_eq!(handshake(&gateway, dial(&gateway, THERE), "").1.status, 101, "it is another");

    assert!(limited(&gateway, "connections_per_ip") > 0.5);
    assert!(gateway.metric("weir_upgrade_rejected_total{reason=\"limit_exceeded\"}") > 0.5);
    assert!(gateway.metric("weir_errors_total{code=\"limit_exceeded\"}") > 0.5);
    let stats = gateway.get("/api/v1/stats").json();
    let per_ip = &stats["limits"]["per_ip"];
    assert!(per_ip["count"].as_u64() >= Some(4) && per_ip["limit"] == 3, "{stats}");

    // Each of them gives its place back, in its own way.
    let taken = || wait_for("all places to be taken", || turned_away(&gateway, HERE));
    socket2::SockRef::from(&silent.0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(silent);
    let one = stay(&gateway, HERE);
    taken();
    drop(kept);
    let two = stay(&gateway, HERE);
    taken();
    socket.send(&masked(0x88, &1000_u16.to_be_bytes()));
    let three = stay(&gateway, HERE);
    taken();
    drop((one, two, three));
}

#[test]
fn a_handshake_that_is_refused_keeps_no_place_and_its_connection_does() {
    let gateway = with_tokens("", &format!("connections_per_ip = 2\n{PATIENT}"));
    let (mut raw, refused) = handshake(&gateway, dial(&gateway, HERE), "?token=a.b.c");
    assert_eq!(refused.error(401), "unauthorized");
    assert!(gateway.metric("weir_places") < 0.5);
    // One connection of this address speaks HTTP on, and one asks.
    let other = stay(&gateway, HERE);
    wait_for("both to be counted", || turned_away(&gateway, HERE));
    drop(other);
    drop(stay(&gateway, HERE));
    (raw, _) = handshake(&gateway, raw, "?token=a.b.c");
    let (_raw, answer) = handshake(&gateway, raw, "");
    assert_eq!(answer.status, 101, "{}", answer.head);
}

#[test]
fn an_address_may_not_come_too_often() {
    let gateway = Gateway::configured("[limits]\nconnects_per_second_per_ip = 5\n");
    let refused = wait_for("a refusal", || {
        let at_once: Vec<Raw> = (0..11).map(|_| dial(&gateway, HERE)).collect();
        at_once.into_iter().rev().find_map(|mut raw| told(&mut raw))
    });
    assert_eq!(refused.error(429), "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(served(&gateway, THERE).is_some(), "it is another");
    assert!(limited(&gateway, "connects_per_ip") > 0.5);
    assert!(gateway.metric("weir_upgrade_rejected_total{reason=\"rate_limited\"}") > 0.5);
    stay(&gateway, HERE);
}

/// The first handshake of a connection came with it; each other is one more.
#[test]
fn whoever_stays_and_shakes_hands_again_and_again_comes_too_often() {
    let gateway = with_tokens("", "connects_per_second_per_ip = 1\n");
    let mut raw = dial(&gateway, HERE);
    let refused = wait_for("a refusal", || {
        let request = handshake_request(gateway.addr, &[]);
        raw.send(request.replacen("/ws", "/ws?token=a.b.c", 1).as_bytes());
        let answer = raw.answer();
        (answer.status != 401).then_some(answer)
    });
    assert_eq!(refused.error(429), "rate_limited");
    let wait = refused.json()["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn a_user_has_as_many_connections_as_it_may() {
    let gateway = with_tokens("", "connections_per_user = 2\n");
    let connect = |user: &str| Client::connect_with(gateway.addr, &bearing(user), None);
    let mut one = connect("u1");
    let mut other = Client::connect(&gateway);
    let auth = |user: &str| json!({"type": "auth", "token": token(user)});
    assert_eq!(other.ask(auth("u1"))["type"], "welcome");
    assert!((gateway.metric("weir_counted_by_user") - 2.0).abs() < 0.5);
    let (_, refused) = handshake(&gateway, Raw::open(gateway.addr), &bearing("u1"));
    assert_eq!(refused.error(429), "limit_exceeded");
    assert_eq!(refused.header("retry-after"), Some("1"));

    let mut third = Client::connect(&gateway);
    third.subscribe("a");
    let answer = third.ask(auth("u1"));
    assert_eq!(answer["code"], "limit_exceeded", "{answer}");
    let ended = third.ended();
    assert_eq!((ended.code, &*ended.reason), (Some(4005), "connection_limit"));
    let told = ended.messages.last().unwrap();
    assert_eq!((&told["code"], &told["reconnect"]), (&json!(4005), &json!(true)), "{told}");
    let wait = told["retry_after_ms"].as_u64().unwrap();
    assert!((1_000..=5_000).contains(&wait), "{wait}");
    assert!((limited(&gateway, "connections_per_user") - 2.0).abs() < 0.5);

    // Another token of the same user is no other connection.
    let later = hs256(&json!({"sub": "u1", "exp": unix_s() + 900}));
    assert_eq!(one.ask(json!({"type": "auth", "token": later}))["type"], "welcome");
    let mut second = connect("u2");
    second.expect_nothing();
    assert_eq!(one.close(1000), Some(1000));
    wait_for("room for one more", || {
        let (_, answer) = handshake(&gateway, Raw::open(gateway.addr), &bearing("u1"));
        (answer.status == 101).then_some(())
    });
}

fn bearing(user: &str) -> String {
    format!("?token={}", token(user))
}

#[test]
fn a_connection_may_not_ask_too_often() {
    let gateway = Gateway::configured("[limits]\ncommands_per_second = 1\n");
    let mut client = Client::connect(&gateway);
    // One frame, so that all of it is asked at once.
    client.send_text("{\"type\":\"ping\",\"id\":1}\n{\"type\":\"ping\",\"id\":2}\n{\"type\":\"subscribe\",\"channel\":\"a\",\"id\":3}");
    assert_eq!(
        (client.expect("pong")["id"].clone(), client.expect("pong")["id"].clone()),
        (json!(1), json!(2))
    );
    let refused = client.expect("error");
    assert_eq!((&refused["code"], &refused["id"]), (&json!("rate_limited"), &json!(3)));
    let wait = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait}");
    wait_for("its turn", || {
        let answer = client.ask(json!({"type": "subscribe", "channel": "a"}));
        (answer["type"] == "subscribed").then_some(())
    });
    // Others have their own pace, and whoever comes into its seat as well.
    drop(client);
    gateway.wait_for_connections(0);
    Client::connect(&gateway).expect_nothing();
    assert!(limited(&gateway, "commands") > 0.5);
    assert!(gateway.metric("weir_errors_total{code=\"rate_limited\"}") > 0.5);
}

#[test]
fn publishes_of_every_kind_are_commands() {
    let gateway = Gateway::configured("[limits]\ncommands_per_second = 1\n");
    let mut client = Client::speaking(&gateway, "weir.v1.bin");
    // Flags: JSON text, with an id; no alias but the name.
    let publish = |id: u8| [&[2, 0x02 | 0x08, 0, 1, b'a', id][..], b"7"].concat();
    let refused = wait_for("a refusal", || {
        client.send_binary(&publish(9));
        Some(client.next()).filter(|answer| answer["type"] != "published")
    });
    assert_eq!((&refused["code"], &refused["id"]), (&json!("rate_limited"), &json!(9)));
    // And as text.
    let refused = wait_for("a refusal", || {
        client.send(&json!({"type": "publish", "channel": "a", "data": 7, "id": 8}));
        Some(client.next()).filter(|answer| answer["type"] != "published")
    });
    assert_eq!((&refused["code"], &refused["id"]), (&json!("rate_limited"), &json!(8)));
}

#[test]
fn a_hundred_refusals_a_minute_are_answered_and_no_more() {
    let gateway = Gateway::configured("[limits]\ncommands_per_second = 1\n");
    let mut client = Client::connect(&gateway);
    client.send_text(&"{\"type\":\"ping\"}\n".repeat(150));
    let ended = client.ended();
    assert_eq!((ended.code, &*ended.reason), (Some(4006), "rate_limited"));
    let told = |of: &str| ended.messages.iter().filter(|m| m["type"] == of).count();
    assert_eq!((told("pong"), told("error")), (2, 101));
    let last = ended.messages.last().unwrap();
    assert_eq!((&last["type"], &last["reconnect"]), (&json!("disconnect"), &json!(true)));
    assert!(last["retry_after_ms"].as_u64() >= Some(1_000), "{last}");
    let bad = "bad\n".repeat(101);
    let mut other = Client::connect(&gateway);
    other.send_text(&bad);
    assert_eq!(other.ended().code, Some(4504), "what is no command is an error of its own");
}

#[test]
fn whoever_has_yet_to_bring_a_token_may_say_little() {
    let gateway = with_tokens("required = true\n", "");
    let mut client = Client::connect(&gateway);
    client.send_text(&"{\"type\":\"ping\"}\n".repeat(33));
    let ended = client.ended();
    assert_eq!((ended.code, ended.messages.len()), (Some(4500), 33), "{ended:?}");
    assert_eq!(ended.messages[32]["code"], 4500);
    // Bad messages, binary ones and pings count as well.
    for frame in [masked(0x81, b"{"), masked(0x82, b"{}"), masked(0x89, b"")] {
        let mut raw = Raw::websocket(&gateway);
        raw.send(&frame.repeat(33));
        assert_eq!(raw.close_code(), Some(4500));
    }
    // And with a token it is as any other.
    let mut client = Client::connect(&gateway);
    assert_eq!(client.ask(json!({"type": "auth", "token": token("u1")}))["type"], "welcome");
    for _ in 0..50 {
        client.expect_nothing();
    }
}

#[test]
fn those_who_have_yet_to_bring_a_token_leave_room_for_others() {
    let gateway = with_tokens("required = true\n", "connections = 16\n");
    let mut strangers = [Client::connect(&gateway), Client::connect(&gateway)];
    let (_, refused) = handshake(&gateway, Raw::open(gateway.addr), "");
    assert_eq!(refused.error(503), "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(gateway.metric("weir_strangers") > 1.5 && limited(&gateway, "before_auth") > 0.5);
    // That was half of the quarter. Other addresses have the rest.
    let others: Vec<_> = [2, 3]
        .map(|last| handshake(&gateway, dial(&gateway, Ipv4Addr::new(127, 0, 0, last)), ""))
        .into();
    assert!(others.iter().all(|(_, answer)| answer.status == 101));
    let (_, refused) = handshake(&gateway, dial(&gateway, Ipv4Addr::new(127, 0, 0, 4)), "");
    assert_eq!(refused.error(503), "overloaded");
    let known: Vec<_> =
        (0..12).map(|_| Client::connect_with(gateway.addr, &bearing("u1"), None)).collect();
    assert_eq!(known.len(), 12);
    let (_, full) = handshake(&gateway, Raw::open(gateway.addr), &bearing("u1"));
    assert_eq!(full.error(503), "overloaded");
    drop(known);
    let auth = json!({"type": "auth", "token": token("u1")});
    assert_eq!(strangers[0].ask(auth)["type"], "welcome");
    wait_for("one more stranger", || {
        let (_, answer) = handshake(&gateway, Raw::open(gateway.addr), "");
        (answer.status == 101).then_some(())
    });
}

/// Asks until it is refused; what it is told.
fn until_refused(gateway: &Gateway, key: Option<&str>) -> Answer {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
    wait_for("a refusal", || {
        let answer = http(gateway.addr, "GET", "/api/v1/channels", &headers, b"");
        (answer.status == 429).then_some(answer)
    })
}

fn assert_refused(answer: &Answer) {
    assert_eq!(answer.error(429), "rate_limited");
    let wait = answer.json()["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn a_key_of_the_api_may_not_be_used_too_often() {
    let path = scratch(".keys");
    let (one, other) = ("1".repeat(32), "2".repeat(32));
    fs::write(&path, format!("one:{one}\nother:{other}\n")).unwrap();
    let gateway = Gateway::configured(&format!(
        "[auth]\napi_keys_file = {path:?}\n[limits]\nhttp_requests_per_second = 1\n"
    ));
    assert_refused(&until_refused(&gateway, Some(&one)));
    let asked = |key: &str, path: &str| {
        let bearer = format!("Bearer {key}");
        http(gateway.addr, "GET", path, &[("Authorization", &bearer)], b"")
    };
    assert_eq!(asked(&other, "/api/v1/channels").status, 200, "another key is another's");
    // Whoever guesses keys is known by its address.
    assert_refused(&until_refused(&gateway, Some(&"3".repeat(32))));
    assert_refused(&until_refused(&gateway, None));
    for _ in 0..10 {
        let scrape = asked(&one, "/metrics");
        assert_eq!(scrape.status, 200, "who is to see a flood is not kept out by it");
        assert!(scrape.text().contains("weir_rate_limited_total{what=\"http_requests\"}"));
        assert_eq!(gateway.get("/healthz").status, 200);
    }
    wait_for("its turn", || (asked(&one, "/api/v1/channels").status == 200).then_some(()));
}

#[test]
fn without_keys_the_api_is_limited_by_address() {
    let gateway = Gateway::configured("[limits]\nhttp_requests_per_second = 1\n");
    assert_refused(&until_refused(&gateway, None));
    let mut other = dial(&gateway, THERE);
    let get = format!("GET /api/v1/channels HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr);
    other.send(get.as_bytes());
    assert_eq!(other.answer().status, 200, "it is another");
}

/// A flood is one line a second in the log, with its address and without its user.
#[test]
fn what_is_refused_is_logged_once_a_second() {
    let began = now();
    let gateway = with_tokens("", "connections_per_user = 1\ncommands_per_second = 1\n");
    let mut client = Client::connect_with(gateway.addr, &bearing("somebody"), None);
    for _ in 0..200 {
        let (_, refused) = handshake(&gateway, Raw::open(gateway.addr), &bearing("somebody"));
        assert_eq!(refused.status, 429);
    }
    client.send_text(&"{\"type\":\"ping\"}\n".repeat(50));
    for _ in 0..50 {
        client.next();
    }
    let log = gateway.log();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    for limit in ["limits.connections_per_user", "limits.commands_per_second"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(limit)).collect();
        assert!((1..=seconds).contains(&lines.len()), "{limit}, {seconds} s: {lines:#?}");
        let line: Value = serde_json::from_str(lines[0]).unwrap();
        assert!(line.to_string().contains("127.0.0.1"), "{line}");
    }
    assert!(!log.contains("somebody\""), "{log}");
}
