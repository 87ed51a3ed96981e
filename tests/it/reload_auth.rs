//! Keys and tokens that change while the gateway runs: who may come in from then on, and what becomes
//! of those who are there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, scratch, wait_for, weir};
use crate::raw::{Answer, Raw, handshake_request, http};
use crate::tokens::made;

fn secret() -> PathBuf {
    let path = scratch(".key");
    fs::write(&path, format!("{:?}-{}", path, "k".repeat(40))).unwrap();
    path
}

/// A token that a key signs, good for an hour.
fn token(key: &Path, user: &str) -> String {
    let mut command = weir(&["token", "--sub", user, "--ttl", "1h"]);
    let output = finished(command.env("WEIR_AUTH__HMAC_SECRET_FILE", key));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A JWK set of these secrets.
fn set(keys: &[&Path]) -> String {
    use base64::Engine as _;
    let key = |path: &&Path| {
        let secret = fs::read(path).unwrap();
        let secret = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(secret);
        json!({"kty": "oct", "alg": "HS256", "k": secret})
    };
    json!({"keys": keys.iter().map(key).collect::<Vec<_>>()}).to_string()
}

fn connect(gateway: &Gateway, token: &str) -> Client {
    Client::connect_with(gateway.addr, &format!("?token={token}"), None)
}

fn handshake(gateway: &Gateway, token: &str) -> Answer {
    let request = handshake_request(gateway.addr, &[]);
    let mut raw = Raw::open(gateway.addr);
    raw.send(request.replacen("/ws", &format!("/ws?token={token}"), 1).as_bytes());
    raw.answer()
}

/// The way a key is replaced, and what becomes of those who stay with the old one.
#[test]
fn a_key_that_is_taken_away_admits_nobody_any_more() {
    let (old, new) = (secret(), secret());
    let (before, after) = (token(&old, "u1"), token(&new, "u1"));
    let keys = scratch(".jwks");
    fs::write(&keys, set(&[&old])).unwrap();
    let gateway = Gateway::configured(&format!(
        "shards = 2\n[auth]\nrequired = true\njwks_file = {keys:?}\n"
    ));
    assert_eq!(handshake(&gateway, &after).error(401), "unauthorized");
    let mut clients: Vec<_> = (0..8).map(|_| connect(&gateway, &before)).collect();
    // Both are good for a while: nobody notices.
    fs::write(&keys, set(&[&old, &new])).unwrap();
    assert!(gateway.reload_files());
    let mut fresh = connect(&gateway, &after);
    for client in &mut clients {
        client.subscribe("a");
    }
    assert!(gateway.log().contains("that need a token, or another one: 0"), "{}", gateway.log());
    // One brings a token of the new key in time.
    let answer = clients[0].ask(json!({"type": "auth", "token": after}));
    assert_eq!(answer["type"], "welcome", "{answer}");
    fs::write(&keys, set(&[&new])).unwrap();
    assert!(gateway.reload_files());
    assert!(gateway.log().contains("that need a token, or another one: 7"), "{}", gateway.log());
    assert_eq!(handshake(&gateway, &before).error(401), "unauthorized", "it was seen before");
    let refused = fresh.ask(json!({"type": "auth", "token": before}));
    assert_eq!(refused["code"], "unauthorized", "{refused}");
    // Another one brings it now, unless its moment has come already; the rest are told to.
    let second = &mut clients[1];
    second.try_send_text(&json!({"type": "auth", "token": after}).to_string());
    // `None`: that was so long ago that its end could not be read any more.
    match second.try_next() {
        Some(answer) if answer["type"] == "welcome" => second.expect_nothing(),
        Some(end) => assert_eq!((&end["type"], &end["code"]), (&json!("disconnect"), &json!(4003))),
        None => {}
    }
    for mut client in clients.drain(2..) {
        let ended = client.ended();
        assert_eq!((ended.code, &*ended.reason), (Some(4003), "token_expired"));
        let push = ended.messages.last().unwrap();
        assert_eq!(push["reconnect"], true, "{push}");
    }
    clients[0].expect_nothing();
    fresh.expect_nothing();
}

#[test]
fn issuer_and_audience_count_for_those_who_are_there() {
    let key = secret();
    let auth = format!("[auth]\nhmac_secret_file = {key:?}\n");
    let gateway = Gateway::configured(&auth);
    let token = token(&key, "u1");
    let mut client = connect(&gateway, &token);
    assert!(gateway.reload(&format!("{auth}issuer = \"https://issuer.example\"\n")));
    assert_eq!(handshake(&gateway, &token).error(401), "unauthorized");
    assert_eq!(client.ended().code, Some(4003));
}

#[test]
fn whoever_is_anonymous_has_five_seconds_where_a_token_is_required_now() {
    let key = secret();
    let auth = format!("[auth]\nhmac_secret_file = {key:?}\n");
    let gateway = Gateway::configured(&auth);
    let token = token(&key, "u1");
    let (mut stays, mut goes) = (Client::connect(&gateway), Client::connect(&gateway));
    assert!(gateway.reload(&format!("{auth}required = true\n")));
    let refused = stays.ask(json!({"type": "subscribe", "channel": "a"}));
    assert_eq!(refused["code"], "unauthorized", "{refused}");
    assert_eq!(stays.ask(json!({"type": "auth", "token": token}))["user"], "u1");
    stays.subscribe("a");
    assert_eq!(goes.ended().code, Some(4501));
    let mut late = Client::connect(&gateway);
    assert!(gateway.metric("weir_strangers") > 0.5);
    assert!(gateway.reload(&auth));
    // It is asked for nothing any more, and counts as everybody.
    // The one that was closed goes when its close is over.
    wait_for("no strangers", || (gateway.metric("weir_strangers") < 0.5).then_some(()));
    late.subscribe("a");
    late.publish("b", &Value::Null);
    assert!(gateway.metric("weir_connections_closed_total{code=\"4501\"}") < 1.5);
}

#[test]
fn keys_of_the_api_are_read_again() {
    let file = scratch(".keys");
    let key = |n: u8| format!("{n}").repeat(40);
    fs::write(&file, format!("one:{}\n", key(1))).unwrap();
    let gateway = Gateway::configured(&format!("[auth]\napi_keys_file = {file:?}\n"));
    let stats = |n: u8| {
        let bearer = format!("Bearer {}", key(n));
        http(gateway.addr, "GET", "/api/v1/stats", &[("Authorization", &bearer)], b"").status
    };
    assert_eq!((stats(1), stats(2)), (200, 401));
    fs::write(&file, format!("two:{}\n", key(2))).unwrap();
    assert!(gateway.reload_files());
    assert_eq!((stats(1), stats(2)), (401, 200));
    fs::write(&file, "three:short\n").unwrap();
    assert!(!gateway.reload_files());
    assert_eq!((stats(1), stats(2)), (401, 200));
}

/// The file of a secret is replaced, not the setting that names it; a living connection whose rules
/// are others goes by what its token says.
#[test]
fn rules_that_come_are_held_against_the_token_that_is_there() {
    let key = secret();
    let auth = format!("shards = 2\n[auth]\nhmac_secret_file = {key:?}\n");
    let gateway = Gateway::configured(&auth);
    let (mut one, mut other) =
        (connect(&gateway, &token(&key, "u1")), connect(&gateway, &token(&key, "u2")));
    for client in [&mut one, &mut other] {
        client.subscribe("user:u1");
    }
    let rule = "[[namespace]]\nname = \"user\"\nsubscribe = [\"channel:user:{sub}\"]\n";
    assert!(gateway.reload(&format!("{auth}{rule}")));
    let ended = other.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["code"]), (&json!("user:u1"), &json!("forbidden")));
    one.expect_nothing();
    wait_for("the count", || {
        (gateway.metric("weir_subscriptions{") - 1.0).abs().lt(&0.1).then_some(())
    });
}

/// The same keys, in a set that names them where they were in a PEM file: nobody has to do anything.
#[test]
fn a_key_that_moves_to_a_set_sends_nobody_away() {
    let made = made();
    let (pem, set) = (scratch(".pem"), scratch(".jwks"));
    let pems = ["rsa", "p256", "p384", "ed"].map(|name| made["pem"][name].as_str().unwrap());
    fs::write(&pem, pems.concat()).unwrap();
    fs::write(&set, made["jwks"].to_string()).unwrap();
    let gateway =
        Gateway::configured(&format!("[auth]\nrequired = true\npublic_key_file = {pem:?}\n"));
    let token = |name: &str| made["good"][name].as_str().unwrap();
    let names = ["RS256", "ES256", "ES384", "EdDSA"];
    let mut clients = names.map(|name| connect(&gateway, token(name)));
    // In the set it is for RS256 alone.
    let mut other = connect(&gateway, token("PS256"));
    assert!(gateway.reload(&format!("[auth]\nrequired = true\njwks_file = {set:?}\n")));
    assert!(gateway.log().contains("that need a token, or another one: 1"), "{}", gateway.log());
    for client in &mut clients {
        client.subscribe("a");
    }
    assert_eq!(other.ended().code, Some(4003));
    for client in &mut clients {
        client.expect_nothing();
    }
}

/// Who may see who is there is asked again of those who are there, and they count as before.
#[test]
fn members_are_shown_to_those_who_may_see_them_now() {
    let key = secret();
    let rooms = |who: &str| {
        format!(
            "shards = 2\n[auth]\nhmac_secret_file = {key:?}\n[[namespace]]\nname = \"room\"\n\
             presence = true\npresence_linger = \"0s\"\npresence_for = [{who:?}]\n"
        )
    };
    let gateway = Gateway::configured(&rooms("user"));
    let mut known = connect(&gateway, &token(&key, "u1"));
    let (mut one, mut two) = (Client::connect(&gateway), Client::connect(&gateway));
    known.subscribe("room:1");
    for client in [&mut one, &mut two] {
        client.subscribe("room:1");
        assert_eq!(presence(client)["code"], "forbidden");
    }
    let told = |client: &mut Client, kind: &str, of: &str| {
        until(client, |push| push["type"] == kind && push["member"]["client"] == of)
    };
    told(&mut known, "join", &two.id);
    for client in [&mut one, &mut two] {
        client.expect_nothing();
    }
    // Opened: those who were there before are members, and who comes and goes is told.
    assert!(gateway.reload(&rooms("anyone")));
    for client in [&mut one, &mut two] {
        let shown = presence(client);
        assert_eq!((&shown["clients"], shown["members"].as_array().unwrap().len()), (&json!(3), 3));
    }
    let mut guest = Client::connect(&gateway);
    guest.subscribe("room:1");
    for client in [&mut known, &mut one, &mut two] {
        told(client, "join", &guest.id);
    }
    guest.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    for client in [&mut known, &mut one, &mut two] {
        told(client, "leave", &guest.id);
    }
    // Closed again: they are told nothing any more, and have the channel still.
    assert!(gateway.reload(&rooms("user")));
    guest.subscribe("room:1");
    told(&mut known, "join", &guest.id);
    known.publish("room:1", &json!(1));
    for client in [&mut one, &mut two] {
        assert_eq!(client.next()["data"], 1, "the join is not told");
        assert_eq!(presence(client)["code"], "forbidden");
    }
}

/// Asks who is there, whatever is told meanwhile; the answer.
fn presence(client: &mut Client) -> Value {
    client.send(&json!({"type": "presence", "channel": "room:1", "id": 999}));
    until(client, |message| message["id"] == 999)
}

/// Reads messages up to one that is meant.
fn until(client: &mut Client, meant: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = client.next();
        if meant(&message) {
            return message;
        }
    }
}
