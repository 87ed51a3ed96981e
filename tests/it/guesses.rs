//! How many bad tokens and keys one address may bring: those that are good are taken all the same
//! where that costs nothing, and other addresses notice nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use crate::auth::keys;
use crate::harness::{Client, Gateway, now, scratch, wait_for};
use crate::raw::{Answer, Raw, handshake_request};
use crate::tokens::{hs256, made, unix_s};

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const LIMIT: &str = "[limits]\nauth_failures_per_second_per_ip = 1\n";

fn handshake(gateway: &Gateway, from: Ipv4Addr, token: &str) -> Answer {
    let request = handshake_request(gateway.addr, &[]);
    let mut raw = Raw::open_from(gateway.addr, from).unwrap();
    raw.send(request.replacen("/ws", &format!("/ws?token={token}"), 1).as_bytes());
    raw.answer()
}

fn ask(gateway: &Gateway, from: Ipv4Addr, key: Option<&str>) -> Answer {
    let bearer = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let mut raw = Raw::open_from(gateway.addr, from).unwrap();
    let request =
        format!("GET /api/v1/channels HTTP/1.1\r\nHost: {}\r\n{bearer}\r\n", gateway.addr);
    raw.send(request.as_bytes());
    raw.answer()
}

fn good() -> String {
    hs256(&json!({"sub": "u1", "exp": unix_s() + 600}))
}

fn forged() -> String {
    let token = good();
    let (message, _) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", "A".repeat(43))
}

fn assert_too_many(answer: &Answer) {
    assert_eq!(answer.error(429), "rate_limited");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let wait = answer.json()["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait}");
    assert_eq!(answer.header("www-authenticate"), None);
}

/// Brings forged tokens until that is too many.
fn until_too_many(gateway: &Gateway) {
    let refused = wait_for("a refusal", || {
        let answer = handshake(gateway, HERE, &forged());
        (answer.status != 401).then_some(answer)
    });
    assert_too_many(&refused);
}

#[test]
fn an_address_brings_a_few_bad_tokens_and_others_any() {
    let gateway = Gateway::configured(&keys(&format!("required = true\n{LIMIT}")));
    for _ in 0..2 {
        assert_eq!(handshake(&gateway, HERE, &forged()).error(401), "unauthorized");
    }
    until_too_many(&gateway);
    assert_eq!(handshake(&gateway, THERE, &forged()).error(401), "unauthorized");
    // What costs nothing to check is checked, and what has ended is told so.
    let ended = hs256(&json!({"sub": "u1", "exp": unix_s() - 60}));
    until_too_many(&gateway);
    assert_eq!(handshake(&gateway, HERE, &good()).status, 101);
    assert_eq!(handshake(&gateway, HERE, &ended).error(401), "token_expired");

    // What costs more is not, but for what is known.
    let made = made();
    let mut slow =
        made["good"].as_object().unwrap().iter().filter(|(name, _)| !name.starts_with("HS"));
    let token = wait_for("a token that is not looked at", || {
        let token = slow.next().expect("one of them in time").1.as_str().unwrap();
        until_too_many(&gateway);
        let answer = handshake(&gateway, HERE, token);
        if answer.status == 101 {
            return None;
        }
        assert_too_many(&answer);
        Some(token)
    });
    assert_eq!(handshake(&gateway, THERE, token).status, 101);
    until_too_many(&gateway);
    assert_eq!(handshake(&gateway, HERE, token).status, 101, "it was seen");
    assert!(gateway.metric("weir_rate_limited_total{what=\"auth_failures\"}") > 3.5);
    assert!(gateway.metric("weir_upgrade_rejected_total{reason=\"rate_limited\"}") > 3.5);
    let log = gateway.log();
    assert!(log.contains("limits.auth_failures_per_second_per_ip") && log.contains("127.0.0.2"));
    assert!(!log.contains(&forged()), "{log}");
}

/// Two hundred forged tokens of a public key come at once, before the first of them was checked, and
/// again and again: after those nothing is checked for as long as they take to be paid for.
#[test]
fn bad_tokens_that_come_at_once_are_paid_for_one_by_one() {
    let gateway = Gateway::configured(&keys(&format!("required = true\n{LIMIT}")));
    let made = made();
    let token = made["good"]["ES384"].as_str().unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{message}.{first}{}", &signature[1..]);
    let request = handshake_request(gateway.addr, &[]);
    let request = request.replacen("/ws", &format!("/ws?token={forged}"), 1);
    let mut all: Vec<Raw> = (0..200).map(|_| Raw::open_from(gateway.addr, HERE).unwrap()).collect();
    let mut at_once = || {
        for raw in &mut all {
            raw.send(request.as_bytes());
        }
        for raw in &mut all {
            let answer = raw.answer();
            assert!(matches!(answer.status, 401 | 429), "{} {:?}", answer.head, answer.text());
        }
    };
    let wait = (0..20).find_map(|_| {
        at_once();
        let refused = handshake(&gateway, HERE, &forged);
        let wait = refused.json()["error"]["retry_after_ms"].as_u64()?;
        (wait > 6_000).then_some(wait)
    });
    let wait = wait.expect("so many at once are to be paid for longer than a second");
    assert!(wait <= 11_001, "{wait}");
    let failures = || gateway.metric("weir_auth_failures_total{reason=\"signature\"");
    let (before, end) = (failures(), now() + Duration::from_secs(3));
    while now() < end {
        at_once();
    }
    assert!(failures() < before + 0.5, "{before} {}", failures());
    // Others, and what costs nothing to check, as always.
    assert_eq!(handshake(&gateway, THERE, token).status, 101);
    assert_eq!(handshake(&gateway, HERE, token).status, 101, "it was seen");
    assert_eq!(handshake(&gateway, HERE, &good()).status, 101);
}

/// In messages: a stranger is sent away and may come again, others are told and stay.
#[test]
fn bad_tokens_in_messages_count_as_well() {
    let gateway = Gateway::configured(&keys(&format!("required = true\n{LIMIT}")));
    let token = good();
    let mut client = Client::connect_with(gateway.addr, &format!("?token={token}"), None);
    let refused = wait_for("a refusal", || {
        let answer = client.ask(json!({"type": "auth", "token": forged()}));
        (answer["code"] != "unauthorized").then_some(answer)
    });
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("rate_limited")));
    let wait = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_001).contains(&wait), "{wait}");
    client.subscribe("a");
    let ended = wait_for("the end of a stranger", || {
        let mut stranger = Client::connect(&gateway);
        stranger.send(&json!({"type": "auth", "token": forged()}));
        let ended = stranger.ended();
        (ended.code != Some(4500)).then_some(ended)
    });
    assert_eq!((ended.code, &*ended.reason), (Some(4006), "rate_limited"));
    assert_eq!(ended.messages[0]["code"], "rate_limited");
    let last = ended.messages.last().unwrap();
    assert_eq!((&last["type"], &last["reconnect"]), (&json!("disconnect"), &json!(true)), "{last}");
    let mut late = Client::connect(&gateway);
    assert_eq!(late.ask(json!({"type": "auth", "token": token}))["user"], "u1");
}

#[test]
fn an_address_guesses_few_keys_and_locks_nobody_out() {
    let path = scratch(".keys");
    let key = "k".repeat(40);
    fs::write(&path, format!("ops:{key}\n")).unwrap();
    let gateway = Gateway::configured(&format!("[auth]\napi_keys_file = {path:?}\n{LIMIT}"));
    let wrong = "w".repeat(40);
    assert_eq!(ask(&gateway, HERE, Some(&wrong)).error(401), "unauthorized");
    let refused = wait_for("a refusal", || {
        let answer = ask(&gateway, HERE, Some(&wrong));
        (answer.status != 401).then_some(answer)
    });
    assert_too_many(&refused);
    assert_eq!(ask(&gateway, HERE, Some(&key)).status, 200, "it is the right one");
    assert_eq!(ask(&gateway, THERE, Some(&wrong)).error(401), "unauthorized");
    // No key is no guess.
    for _ in 0..10 {
        assert_eq!(ask(&gateway, HERE, None).error(401), "unauthorized");
    }
    // And without the limit there is none.
    assert!(gateway.reload(&format!("[auth]\napi_keys_file = {path:?}\n")));
    for _ in 0..10 {
        assert_eq!(ask(&gateway, HERE, Some(&wrong)).error(401), "unauthorized");
    }
}
