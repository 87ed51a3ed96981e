//! What is secret: no log line at any level, no answer and no metric has a token, a secret or a
//! key in it, used well or badly; and who brings a bad one is not told what is bad in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, scratch, weir};
use crate::raw::{Answer, Raw, handshake_request, http};
use crate::tokens::{hs256, made, unix_s};

const KEY: &str = "kq7Zt1mC0pW9xR4vB6nJ2sD8fG5hL3aY";
const FEED: &str = "wE2rT6yU8iO0pA4sD1fG7hJ9kL3zX5cV";

/// Files of every kind of credential, and a configuration that names them.
fn files(more: &str) -> (String, PathBuf) {
    let file = |text: &str| {
        let path = scratch(".key");
        fs::write(&path, text).unwrap();
        path
    };
    let made = made();
    let secret = file(made["secret"].as_str().unwrap());
    let jwks = file(&made["jwks"].to_string());
    let keys = file(&format!("ops:{KEY}\nfeed:{FEED} publish channel:news:**\n"));
    let toml = format!(
        "[auth]\nhmac_secret_file = {secret:?}\njwks_file = {jwks:?}\napi_keys_file = {keys:?}\n{more}"
    );
    let config = scratch(".toml");
    fs::write(&config, &toml).unwrap();
    (toml, config)
}

fn token(user: &str) -> String {
    hs256(&json!({"sub": user, "exp": unix_s() + 600, "card": "4929-1234"}))
}

fn handshake(gateway: &Gateway, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut raw = Raw::open(gateway.addr);
    let request = handshake_request(gateway.addr, headers);
    raw.send(request.replacen("/ws", &format!("/ws{query}"), 1).as_bytes());
    raw.answer()
}

fn ask(gateway: &Gateway, key: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    http(gateway.addr, "POST", path, &headers, br#"{"channel":"news:a","data":1}"#)
}

/// The parts of credentials that must not be seen: of a token its claims and its signature.
fn parts(secrets: &[&str]) -> Vec<String> {
    let parts = secrets.iter().flat_map(|secret| secret.split('.'));
    // A header is no secret, and the same in all of them.
    parts
        .filter(|part| part.len() > 20 && !part.starts_with("eyJhbGci"))
        .map(str::to_owned)
        .collect()
}

/// What the gateway says to tokens in handshakes: good, bad, both, in every place, and in requests
/// that are refused as such.
fn in_handshakes(gateway: &Gateway, (good, cut, other): (&str, &str, &str)) -> Vec<Vec<u8>> {
    let bearer = format!("Bearer {good}");
    let mut said = Vec::new();
    for (query, authorization) in [
        (String::new(), Some(bearer.clone())),
        (String::new(), Some(good.to_owned())),
        (String::new(), Some(format!("Basic {good}"))),
        (format!("?token={good}"), None),
        (format!("?token={cut}"), None),
        (format!("?token={good}&token={other}"), None),
    ] {
        let header = authorization.as_deref().map(|value| ("Authorization", value));
        let answer = handshake(gateway, &query, header.as_slice());
        said.push([answer.head.as_bytes(), &answer.body].concat());
    }
    for request in [
        format!("GET /ws?token={good} HTTP/1.1\r\nHost : x\r\n\r\n"),
        format!("GET /ws?token={good} HTTP/1.0\r\n\r\n"),
        format!("GET /nowhere?token={good} HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr),
        format!("GET /ws HTTP/1.1\r\nAuthorization: {bearer}\r\nX: {}\r\n\r\n", "y".repeat(20_000)),
        format!("GET /ws HTTP/1.1\r\nAuthorization: {bearer}\r\nUpgr"),
    ] {
        let mut raw = Raw::open(gateway.addr);
        raw.send(request.as_bytes());
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        said.push(raw.rest());
    }
    said
}

/// In messages: good, bad, of another user, where it does not belong.
fn in_messages(gateway: &Gateway, (good, cut, other): (&str, &str, &str)) -> Vec<Vec<u8>> {
    let mut client = Client::connect(gateway);
    let commands = [
        json!({"type": "auth", "token": good}),
        json!({"type": "auth", "token": other}),
        json!({"type": "auth", "token": cut}),
        json!({"type": "auth", "token": [good]}),
        json!({"type": good, "token": good}),
        json!({"type": "subscribe", "channel": "a", "token": good, "slow": good}),
    ];
    let answers = commands.map(|command| client.ask(command).to_string().into_bytes());
    let mut said = Vec::from(answers);
    client.send_text(&format!("{{\"type\":\"auth\",\"token\":\"{good}"));
    said.push(client.expect("error").to_string().into_bytes());
    let mut bad = Client::connect(gateway);
    bad.send(&json!({"type": "auth", "token": cut}));
    said.push(format!("{:?}", bad.ended()).into_bytes());
    said
}

/// For the API: good, bad, of the wrong scope, and other secrets in place of a key.
fn in_the_api(gateway: &Gateway, others: [&str; 2]) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for key in [KEY, FEED, &KEY[1..], &format!("ops:{KEY}")].into_iter().chain(others) {
        for path in ["/api/v1/publish", "/api/v1/disconnect", "/api/v1/nothing"] {
            let answer = ask(gateway, key, path);
            said.push([answer.head.as_bytes(), &answer.body].concat());
        }
    }
    for path in ["/metrics", "/api/v1/stats"] {
        let bearer = format!("Bearer {KEY}");
        let answer = http(gateway.addr, "GET", path, &[("Authorization", &bearer)], b"");
        assert_eq!(answer.status, 200, "{path}");
        said.push(answer.body);
    }
    said
}

#[test]
fn no_token_secret_or_key_is_seen_at_any_level_after_good_and_bad_uses() {
    let (toml, config) =
        files("required = true\n[log]\nlevel = \"trace\"\n[limits]\nconnections = 20\n");
    let made = made();
    let secret = made["secret"].as_str().unwrap();
    let mut gateway = Gateway::configured(&format!("drain = \"100ms\"\n{toml}"));
    let (good, other) = (token("u1"), token("u2"));
    let cut = &good[..good.len() - 3];
    let mut said = in_handshakes(&gateway, (&good, cut, &other));
    said.extend(in_messages(&gateway, (&good, cut, &other)));
    said.extend(in_the_api(&gateway, [&good, secret]));
    let checked = finished(&mut weir(&["check", "--config", config.to_str().unwrap()]));
    assert!(checked.status.success());
    let signed = finished(weir(&["pub", "a", "1", "--url", &gateway.url()]).env("WEIR_TOKEN", cut));
    said.extend([checked.stdout, checked.stderr, signed.stderr]);
    gateway.signal(Signal::TERM);
    gateway.ended();
    let log = gateway.log();
    assert!(log.contains("auth: required") && log.contains("\"TRACE\""), "it logs at trace: {log}");
    said.push(log.into_bytes());

    let keys = made["jwks"]["keys"].as_array().unwrap().iter();
    let mut secrets = vec![KEY, FEED, &*good, &*other, secret];
    secrets.extend(keys.filter_map(|key| key["k"].as_str()));
    let parts = parts(&secrets);
    assert!(parts.len() >= 7, "{parts:?}");
    for text in said.iter().map(|text| String::from_utf8_lossy(text)) {
        for part in parts.iter().map(String::as_str).chain(["4929-1234", &KEY[4..28]]) {
            assert!(!text.contains(part), "{part} is seen in: {text}");
        }
    }
}

/// Goal: a token that is typed badly, or stands in an address that is, is not repeated where logs are
/// made of it.
#[test]
fn the_command_line_does_not_repeat_a_token() {
    let secret = "c29tZWJvZHk";
    let address = format!("http://h/ws?token={secret}");
    for (arguments, variables) in [
        (vec!["sub", "a", "--token", "Bearer c29tZWJvZHk"], vec![]),
        (vec!["sub", "a"], vec![("WEIR_TOKEN", "Bearer c29tZWJvZHk")]),
        (vec!["sub", "a", "--url", &address], vec![]),
        (vec!["sub", "a"], vec![("WEIR_URL", &*address)]),
        (vec!["sub", "--help"], vec![("WEIR_URL", &*address), ("WEIR_TOKEN", secret)]),
    ] {
        let help = arguments.contains(&"--help");
        let output = finished(weir(&arguments).envs(variables.clone()));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(if help { 0 } else { 2 }), "{said}");
        assert!(said.contains("--token <JWT>") || said.contains("--url <URL>"), "{said}");
        assert!(!said.contains(secret), "{arguments:?} {variables:?}: {said}");
    }
}

/// Goal: nobody learns what was bad in a credential.
/// Of tokens: which of its parts is bad. Of keys: whether the name, a prefix or the length is right.
#[test]
fn no_answer_says_which_half_of_a_credential_was_wrong() {
    let (toml, _) =
        files("required = true\nissuer = \"https://issuer.example\"\naudience = \"weir\"\n");
    let gateway = Gateway::configured(&toml);
    let until = unix_s() + 600;
    let good = json!({"sub": "u1", "exp": until, "iss": "https://issuer.example", "aud": "weir"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        hs256(&claims)
    };
    assert_eq!(handshake(&gateway, &format!("?token={}", hs256(&good)), &[]).status, 101);
    let sound = hs256(&good);
    let (message, _) = sound.rsplit_once('.').unwrap();
    let bad = [
        with("iss", json!("https://other.example")),
        with("aud", json!("others")),
        with("nbf", json!(until)),
        with("sub", json!("")),
        with("sub", Value::Null),
        with("exp", json!("soon")),
        with("channels", json!("a")),
        with("info", json!("x".repeat(2_000))),
        format!("{message}.AAAA"),
        format!("{sound}A"),
        sound[1..].to_owned(),
        "a.b.c".to_owned(),
        "x".to_owned(),
    ];
    let (mut over_http, mut over_ws) = (BTreeSet::new(), BTreeSet::new());
    for token in &bad {
        let answer = handshake(&gateway, &format!("?token={token}"), &[]);
        assert_eq!(answer.error(401), "unauthorized", "{token}");
        over_http.insert((without_date(&answer.head), answer.text()));
        let mut client = Client::connect(&gateway);
        client.send(&json!({"type": "auth", "id": 1, "token": token}));
        let ended = client.ended();
        assert_eq!(ended.code, Some(4500), "{token}");
        over_ws.insert(format!("{:?} {}", ended.messages, ended.reason));
    }
    assert_eq!((over_http.len(), over_ws.len()), (1, 1), "{over_http:?} {over_ws:?}");

    let wrong = format!("{}Z", &KEY[..31]);
    let keys = [
        "",
        "x",
        "ops",
        "ops:",
        &KEY[..31],
        &format!("{KEY}A"),
        &wrong,
        &format!("ops:{KEY}"),
        &KEY.to_lowercase(),
        &sound,
    ]
    .map(|key| {
        let answer = ask(&gateway, key, "/api/v1/publish");
        assert_eq!(answer.error(401), "unauthorized", "{key}");
        (without_date(&answer.head), answer.text())
    });
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(ask(&gateway, KEY, "/api/v1/publish").status, 200);
}

fn without_date(head: &str) -> String {
    head.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
}
