//! Tokens of public keys, whose signatures are checked beside the shard: what follows them waits for
//! them, and what becomes of them is as of any token.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::at_end::AtEnd;
use crate::harness::{Client, Gateway, scratch};
use crate::raw::{Raw, handshake_request};
use crate::tokens::made;

/// A gateway with public keys alone.
fn with_keys(more: &str) -> Gateway {
    let path = scratch(".pem");
    let made = made();
    let pems = ["rsa", "p256", "p384", "ed"].map(|name| made["pem"][name].as_str().unwrap());
    fs::write(&path, pems.join("\n")).unwrap();
    Gateway::configured(&format!("[auth]\npublic_key_file = {path:?}\n{more}"))
}

fn good(algorithm: &str) -> String {
    made()["good"][algorithm].as_str().unwrap().to_owned()
}

/// The token with one bit of its signature changed.
fn forged(algorithm: &str) -> String {
    let token = good(algorithm);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{message}.{first}{}", &signature[1..])
}

#[test]
fn what_follows_a_token_in_its_frame_waits_for_it() {
    let gateway = with_keys("required = true\n");
    for algorithm in ["RS256", "ES256", "ES384", "EdDSA"] {
        let mut client = Client::connect(&gateway);
        let lines = [
            json!({"type": "ping", "id": 1}),
            json!({"type": "auth", "token": good(algorithm), "id": 2}),
            json!({"type": "subscribe", "channel": "a", "id": 3}),
        ];
        client.send_text(&lines.map(|line| line.to_string()).join("\n"));
        assert_eq!(client.expect("pong")["id"], 1);
        let welcome = client.expect("welcome");
        assert_eq!((&welcome["user"], &welcome["id"]), (&json!("u1"), &json!(2)), "{algorithm}");
        assert_eq!(client.expect("subscribed")["id"], 3);
        // It is known from here on, and a second time nothing is waited for.
        let again = client.ask(json!({"type": "auth", "token": good(algorithm)}));
        assert_eq!(again["type"], "welcome", "{again}");
    }
    assert!((gateway.metric("weir_tokens_total{how=\"verified\"") - 4.0).abs() < 0.5);
    assert!((gateway.metric("weir_tokens_total{how=\"seen\"") - 4.0).abs() < 0.5);
}

#[test]
fn a_forged_token_is_refused_as_any_bad_one() {
    let gateway = with_keys("required = true\n");
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        // By handshake; the connection goes on.
        let mut raw = Raw::open(gateway.addr);
        let request = handshake_request(gateway.addr, &[]);
        let bearing = |token: &str| request.replacen("/ws", &format!("/ws?token={token}"), 1);
        raw.send(bearing(&forged(algorithm)).as_bytes());
        let refused = raw.answer();
        assert_eq!(refused.error(401), "unauthorized", "{algorithm}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        raw.send(bearing(&good(algorithm)).as_bytes());
        assert_eq!(raw.answer().status, 101, "{algorithm}");
        // By message; a stranger goes.
        let mut client = Client::connect(&gateway);
        client.send(&json!({"type": "auth", "token": forged(algorithm), "id": 7}));
        let ended = client.ended();
        assert_eq!(ended.code, Some(4500), "{algorithm}: {ended:?}");
        let error = &ended.messages[0];
        assert_eq!((&error["code"], &error["id"]), (&json!("unauthorized"), &json!(7)), "{error}");
    }
    assert!((gateway.metric("weir_auth_failures_total{reason=\"signature\"") - 6.0).abs() < 0.5);
    let rejected = gateway.metric("weir_upgrade_rejected_total{reason=\"unauthorized\"");
    assert!((rejected - 3.0).abs() < 0.5, "{rejected}");

    let open = with_keys("");
    let mut client = Client::connect(&open);
    let refused = client.ask(json!({"type": "auth", "token": forged("ES256")}));
    assert_eq!(refused["code"], "unauthorized", "{refused}");
    client.subscribe("a");
    assert_eq!(client.welcome["user"], Value::Null);
}

/// A client that goes while its token is being checked leaves nothing behind.
#[test]
fn whoever_goes_before_its_token_is_checked_keeps_no_place() {
    let gateway = with_keys("required = true\n");
    for nth in 0..200 {
        let mut raw = Raw::open(gateway.addr);
        let token = if nth % 2 == 0 { good("ES384") } else { forged("ES384") };
        let request = handshake_request(gateway.addr, &[]);
        raw.send(request.replacen("/ws", &format!("/ws?token={token}"), 1).as_bytes());
        socket2::SockRef::from(&raw.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    crate::harness::wait_for("the places to be free", || {
        (gateway.metric("weir_places") < 0.5 && gateway.connections() == 0).then_some(())
    });
    assert_eq!(Client::connect(&gateway).welcome["type"], "welcome");
}

/// Many connections of one address bring forged tokens again and again; what takes longest to check
/// of all. Whoever comes from another address has its token checked nevertheless.
#[test]
fn one_address_does_not_keep_the_tokens_of_others_from_being_checked() {
    let path = scratch(".jwks");
    fs::write(&path, made()["jwks"].to_string()).unwrap();
    let gateway = with_keys(&format!(
        "required = true\njwks_file = {path:?}\n[limits]\nconnections = 64\n\
         [http]\nheader_timeout = \"10m\"\n"
    ));
    let dial = |last: u8| Raw::open_from(gateway.addr, Ipv4Addr::new(127, 0, 0, last)).unwrap();
    let request = |token: &str| {
        handshake_request(gateway.addr, &[]).replacen("/ws", &format!("/ws?token={token}"), 1)
    };
    let flood = request(&forged("ES384")).repeat(20);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = AtEnd(|| over.store(true, Ordering::Relaxed));
        for _ in 0..4 {
            scope.spawn(|| {
                let mut all: Vec<Raw> = (0..50).map(|_| dial(2)).collect();
                while !over.load(Ordering::Relaxed) {
                    for raw in &mut all {
                        raw.send(flood.as_bytes());
                    }
                    for raw in &mut all {
                        for _ in 0..20 {
                            assert!(matches!(raw.answer().status, 401 | 503));
                        }
                    }
                }
            });
        }
        let made = made();
        let mut answers = Vec::new();
        let rejected = "weir_upgrade_rejected_total{reason=\"overloaded\"}";
        crate::harness::wait_for("the flood", || (gateway.metric(rejected) > 50.5).then_some(()));
        for kind in ["good", "named"] {
            for (name, token) in made[kind].as_object().unwrap() {
                if !name.starts_with("HS") && name != "oct" {
                    let mut raw = dial(3);
                    raw.send(request(token.as_str().unwrap()).as_bytes());
                    let answer = raw.answer();
                    answers.push((name.clone(), answer.status));
                }
            }
        }
        let refused: Vec<_> = answers.iter().filter(|(_, status)| *status != 101).collect();
        assert!(refused.is_empty() && answers.len() > 10, "{answers:?}");
    });
}
