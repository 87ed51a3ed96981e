//! Bad tokens, one by one, in each of the three ways that a token may come: the same answer to all of
//! them, before the upgrade or as the end of a client that has nothing better.

use serde_json::{Value, json};

use crate::auth::keys;
use crate::harness::{Client, Gateway, wait_for};
use crate::raw::{Answer, Raw, handshake_request};
use crate::tokens::{hs256, made, unix_s};

const REFUSED: &str =
    "{\"error\":{\"code\":\"unauthorized\",\"message\":\"the token is not valid here\"}}\n";
const ENDED: &str = "{\"error\":{\"code\":\"token_expired\",\"message\":\"the token has expired: get \
                     another one\"}}\n";

fn by_query(gateway: &Gateway, token: &str) -> Answer {
    let request = handshake_request(gateway.addr, &[]);
    let mut raw = Raw::open(gateway.addr);
    raw.send(request.replacen("/ws", &format!("/ws?token={token}"), 1).as_bytes());
    raw.answer()
}

fn by_header(gateway: &Gateway, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut raw = Raw::open(gateway.addr);
    raw.send(handshake_request(gateway.addr, &[("Authorization", &bearer)]).as_bytes());
    raw.answer()
}

/// A token is refused in the same words in every way.
fn assert_refused(gateway: &Gateway, name: &str, token: &str, body: &str) {
    for answer in [by_query(gateway, token), by_header(gateway, token)] {
        assert_eq!((answer.status, &*answer.text()), (401, body), "{name}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{name}");
        assert_eq!(answer.header("retry-after"), None, "{name}");
    }
    let said: Value = serde_json::from_str(body).unwrap();
    let error = &said["error"];
    let mut stranger = Client::connect(gateway);
    stranger.send(&json!({"type": "auth", "id": 7, "token": token}));
    let ended = stranger.ended();
    assert_eq!((ended.code, &*ended.reason), (Some(4500), "unauthorized"), "{name}");
    let wanted =
        json!({"type": "error", "id": 7, "code": error["code"], "message": error["message"]});
    assert_eq!(ended.messages[0], wanted, "{name}");
    assert_eq!(ended.messages[1]["type"], "disconnect", "{name}");
    assert_eq!(ended.messages.len(), 2, "{name}");
}

#[test]
fn every_bad_token_gets_the_same_answer_in_every_way() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let made = made();
    let mut count = 0;
    for (name, one) in made["bad"].as_object().unwrap() {
        // Without keys of no name, those would be refused as well (`core/token/tests.rs`).
        if one["reason"] == "key" {
            continue;
        }
        let token = one["token"].as_str().unwrap();
        let body = if name == "expired" { ENDED } else { REFUSED };
        assert_refused(&gateway, name, token, body);
        count += 1;
    }
    assert!(count > 30, "{count}");
    gateway.wait_for_connections(0);
    wait_for("the places to be free", || (gateway.metric("weir_places") < 0.5).then_some(()));
}

#[test]
fn a_token_of_others_for_others_or_without_a_user_is_told_nothing_of_it() {
    let gateway = Gateway::configured(&keys(
        "required = true\nissuer = \"https://issuer.example\"\naudience = \"weir\"\n",
    ));
    let until = unix_s() + 600;
    let good = json!({"sub": "u1", "exp": until, "iss": "https://issuer.example", "aud": "weir"});
    assert_eq!(by_header(&gateway, &hs256(&good)).status, 101);
    let ended = json!({"exp": unix_s() - 60, "aud": "others"});
    for more in [
        json!({"aud": "others"}),
        json!({"aud": ["others", 7]}),
        json!({"aud": null}),
        json!({"iss": "https://other.example"}),
        json!({"iss": ["https://issuer.example"]}),
        json!({"sub": null}),
        json!({"sub": ["u1"]}),
        json!({"sub": "x".repeat(256)}),
        json!({"nbf": until}),
        // It has ended, which only somebody is told who is meant.
        ended,
    ] {
        let mut claims = good.clone();
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        assert_refused(&gateway, &more.to_string(), &hs256(&claims), REFUSED);
    }
}

/// Longer than any head or message of a stranger: nothing of it is a token.
#[test]
fn a_token_of_a_hundred_kilobytes_ends_before_it_is_one() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let long = format!("{}.b.c", "a".repeat(100 * 1024));
    for answer in [by_query(&gateway, &long), by_header(&gateway, &long)] {
        assert!(matches!(answer.status, 414 | 431), "{}", answer.head);
        assert_eq!(answer.json()["error"]["code"], "too_large");
    }
    let mut stranger = Client::connect(&gateway);
    stranger.try_send_text(&json!({"type": "auth", "token": long}).to_string());
    assert_eq!(stranger.ended().code, Some(1009));
}

/// Another token of the same connection: a bad one changes nothing, whatever is bad in it.
#[test]
fn who_has_a_good_token_keeps_it_whatever_it_brings() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let good = hs256(&json!({"sub": "u1", "exp": unix_s() + 600}));
    let mut client = Client::connect_with(gateway.addr, &format!("?token={good}"), None);
    let other = hs256(&json!({"sub": "u2", "exp": unix_s() + 600}));
    for _ in 0..2 {
        let refused = client.ask(json!({"type": "auth", "token": other}));
        assert_eq!(refused["code"], "forbidden", "{refused}");
    }
    let made = made();
    for (name, one) in made["bad"].as_object().unwrap() {
        if one["reason"] != "key" {
            let refused = client.ask(json!({"type": "auth", "token": one["token"]}));
            let code = if name == "expired" { "token_expired" } else { "unauthorized" };
            assert_eq!(refused["code"], code, "{name}: {refused}");
        }
    }
    client.subscribe("a");
    let published = client.ask(json!({"type": "publish", "channel": "b", "data": 1}));
    assert_eq!(published["type"], "published", "{published}");
    assert!(gateway.metric("weir_auth_failures_total{reason=\"user\"") > 1.5);
}
