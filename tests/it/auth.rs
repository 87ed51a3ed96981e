//! Who may come in: tokens in handshakes and first messages, what becomes of bad ones, and how a
//! living connection changes its token.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, now, scratch, weir};
use crate::raw::{Answer, Raw, handshake_request, http};
use crate::tokens::{hs256, made, unix_s};

/// A configuration with every kind of key, and this behind it.
pub(crate) fn keys(more: &str) -> String {
    let made = made();
    let file = |text: &str| {
        let path = scratch(".key");
        fs::write(&path, format!("{text}\n")).unwrap();
        path
    };
    let secret = file(made["secret"].as_str().unwrap());
    let pems = ["rsa", "p256", "p384", "ed"].map(|name| made["pem"][name].as_str().unwrap());
    let (pem, jwks) = (file(&pems.join("")), file(&made["jwks"].to_string()));
    format!(
        "[auth]\nhmac_secret_file = {secret:?}\npublic_key_file = {pem:?}\njwks_file = {jwks:?}\n{more}"
    )
}

fn good() -> String {
    hs256(&json!({"sub": "u1", "exp": unix_s() + 600}))
}

/// A handshake with this query and these headers.
fn handshake(gateway: &Gateway, query: &str, headers: &[(&str, &str)]) -> Answer {
    let request = handshake_request(gateway.addr, headers);
    let request = request.replacen("/ws", &format!("/ws{query}"), 1);
    let mut raw = Raw::open(gateway.addr);
    raw.send(request.as_bytes());
    raw.answer()
}

fn connect(gateway: &Gateway, token: &str) -> Client {
    Client::connect_with(gateway.addr, &format!("?token={token}"), None)
}

#[test]
fn a_token_comes_by_header_by_query_or_by_first_message() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let token = good();
    let header = format!("bearer {token}");
    let by_header = handshake(&gateway, "", &[("Authorization", &header)]);
    assert_eq!(by_header.status, 101, "{}", by_header.head);
    let both = handshake(&gateway, &format!("?token={token}"), &[("Authorization", &header)]);
    assert_eq!(both.status, 101, "the same token twice is one: {}", both.head);
    let mut by_query = connect(&gateway, &token);
    assert_eq!(by_query.welcome["user"], "u1");
    by_query.subscribe("a");

    let mut client = Client::connect(&gateway);
    assert_eq!(client.welcome["user"], Value::Null);
    let answer = client.ask(json!({"type": "auth", "token": token}));
    assert_eq!((&answer["type"], &answer["user"]), (&json!("welcome"), &json!("u1")));
    assert_eq!(answer["client"], json!(client.id), "it is the same connection");
    client.subscribe("a");
    let published =
        client.ask(json!({"type": "publish", "channel": "a", "data": 1, "echo": false}));
    assert_eq!(published["type"], "published", "{published}");
    let event = by_query.expect("event");
    assert_eq!(event["from"], json!({"client": client.id, "user": "u1"}), "{event}");
}

/// Tokens that an independent implementation has made (tests/support/tokens.py).
#[test]
fn tokens_of_every_algorithm_are_taken() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    for kind in ["good", "named"] {
        for (name, token) in made()[kind].as_object().unwrap() {
            let client = connect(&gateway, token.as_str().unwrap());
            assert_eq!(client.welcome["user"], "u1", "{name}");
        }
    }
    assert!(gateway.metric("weir_auth_failures_total") < 0.5);
    assert!(gateway.metric("weir_tokens_total{how=\"verified\"") > 16.5);
}

#[test]
fn a_bad_token_is_refused_before_the_upgrade_and_nothing_is_told() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let made = made();
    let mut reasons = std::collections::BTreeMap::<String, f64>::new();
    let mut told = std::collections::BTreeSet::new();
    for (name, one) in made["bad"].as_object().unwrap() {
        let reason = one["reason"].as_str().unwrap();
        if reason == "key" {
            // Another of the keys has no name, and is asked: it has not signed that.
            continue;
        }
        let token = one["token"].as_str().unwrap();
        let answer = handshake(&gateway, &format!("?token={token}"), &[]);
        let code = answer.error(401);
        let expired = name == "expired";
        assert_eq!(code, if expired { "token_expired" } else { "unauthorized" }, "{name}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{name}");
        if !expired {
            told.insert(answer.text());
        }
        *reasons.entry(reason.to_owned()).or_default() += 1.0;
    }
    assert_eq!(told.len(), 1, "no answer says what was wrong: {told:?}");
    for (reason, count) in reasons {
        let found = gateway.metric(&format!("weir_auth_failures_total{{reason=\"{reason}\""));
        assert!((found - count).abs() < 0.5, "{reason}: {found}, {count}");
    }
    let refused = gateway.metric("weir_upgrade_rejected_total{reason=\"unauthorized\"");
    assert!(refused > 30.0, "{refused}");

    let long = "a".repeat(9_000);
    assert_eq!(handshake(&gateway, &format!("?token={long}.b.c"), &[]).error(401), "unauthorized");
    let huge = handshake(&gateway, &format!("?token={}.b.c", "a".repeat(100 * 1024)), &[]);
    assert!(matches!(huge.status, 414 | 431), "{}", huge.head);
    assert_eq!(gateway.connections(), 0);
}

#[test]
fn a_token_for_others_is_refused() {
    let gateway =
        Gateway::configured(&keys("issuer = \"https://issuer.example\"\naudience = \"weir\"\n"));
    let made = made();
    assert_eq!(connect(&gateway, made["issued"].as_str().unwrap()).welcome["user"], "u1");
    let until = unix_s() + 600;
    for (claims, reason) in [
        (
            json!({"sub": "u1", "exp": until, "iss": "https://other.example", "aud": "weir"}),
            "issuer",
        ),
        (
            json!({"sub": "u1", "exp": until, "iss": "https://issuer.example", "aud": ["w"]}),
            "audience",
        ),
        (json!({"sub": "u1", "exp": until, "aud": "weir"}), "issuer"),
    ] {
        let answer = handshake(&gateway, &format!("?token={}", hs256(&claims)), &[]);
        assert_eq!(answer.error(401), "unauthorized", "{claims}");
        let name = format!("weir_auth_failures_total{{reason=\"{reason}\"");
        assert!(gateway.metric(&name) > 0.5, "{claims}");
    }
}

#[test]
fn two_tokens_are_one_too_many_and_without_a_key_none_is_good() {
    let gateway = Gateway::configured(&keys(""));
    let (one, other) = (good(), hs256(&json!({"sub": "u2", "exp": unix_s() + 600})));
    let header = format!("Bearer {one}");
    let cases = [
        (format!("?token={other}"), vec![("Authorization", &*header)]),
        (format!("?token={one}&token={other}"), vec![]),
        (String::new(), vec![("Authorization", &*header), ("Authorization", &*header)]),
    ];
    for (query, headers) in cases {
        assert_eq!(handshake(&gateway, &query, &headers).error(400), "bad_request", "{query}");
    }
    // Of another scheme, it is for somebody on the way.
    let basic = handshake(&gateway, "", &[("Authorization", "Basic dXNlcjpwYXNz")]);
    assert_eq!(basic.status, 101, "{}", basic.head);

    let open = Gateway::start();
    let answer = handshake(&open, &format!("?token={one}"), &[]);
    assert_eq!(answer.error(401), "unauthorized");
    assert!(open.metric("weir_auth_failures_total{reason=\"no_key\"") > 0.5);
    let mut client = Client::connect(&open);
    let answer = client.ask(json!({"type": "auth", "token": one}));
    assert_eq!(answer["code"], "unauthorized", "{answer}");
    client.subscribe("a");
}

#[test]
fn a_stranger_may_say_who_it_is_and_nothing_else() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let mut client = Client::connect(&gateway);
    for command in [
        json!({"type": "subscribe", "channel": "a"}),
        json!({"type": "subscribe", "channel": "a:*"}),
        json!({"type": "unsubscribe", "channel": "a"}),
        json!({"type": "publish", "channel": "a", "data": 1}),
        json!({"type": "history", "channel": "a"}),
        json!({"type": "presence", "channel": "a"}),
        json!({"type": "signal", "channel": "a", "name": "b", "data": 1}),
    ] {
        let answer = client.ask(command.clone());
        assert_eq!(answer["code"], "unauthorized", "{command}: {answer}");
    }
    client.expect_nothing();
    let missing = client.ask(json!({"type": "auth"}));
    assert_eq!(missing["code"], "bad_request", "{missing}");
    // Messages are shorter than those of others: 8 KiB of a token, and little around it.
    client.send(&json!({"type": "ping", "more": "x".repeat(10_000)}));
    let ended = client.ended();
    assert_eq!(ended.code, Some(1009), "{ended:?}");
    assert!(gateway.metric("weir_channels") < 0.5);
    let mut known = connect(&gateway, &good());
    known.send(&json!({"type": "ping", "id": 1, "more": "x".repeat(10_000)}));
    known.expect("pong");
}

#[test]
fn a_stranger_of_binary_frames_publishes_nothing() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let mut client = Client::speaking(&gateway, "weir.v1.bin");
    // 0x02, with an id, JSON: alias 0, the channel's name, the id, the payload.
    client.send_binary(b"\x02\x0a\x00\x01a\x071");
    let answer = client.expect("error");
    assert_eq!((&answer["code"], &answer["id"]), (&json!("unauthorized"), &json!(7)));
    assert!(gateway.metric("weir_events_published_total") < 0.5);
}

/// What a stranger's message inflates to counts, before it is told more.
#[test]
fn a_stranger_sends_no_bomb() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let mut client = Client::speaking(&gateway, "weir.v1.json+gzip");
    let zip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    client.send_binary(&zip(&json!({"type": "ping", "id": 3}).to_string()));
    assert_eq!(client.expect("pong")["id"], 3);
    let bomb = zip(&json!({"type": "ping", "more": "x".repeat(20_000)}).to_string());
    assert!(bomb.len() < 200);
    client.send_binary(&bomb);
    assert_eq!(client.ended().code, Some(1009));
}

#[test]
fn whoever_says_who_it_is_later_is_shown_so() {
    let gateway = Gateway::configured(&keys("[defaults]\npresence = true\n"));
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let ask = json!({"type": "presence", "channel": "room:1"});
    assert_eq!(client.ask(ask.clone())["members"][0]["user"], Value::Null);
    let token = hs256(&json!({"sub": "u1", "exp": unix_s() + 600, "info": {"name": "Ada"}}));
    assert_eq!(client.ask(json!({"type": "auth", "token": token}))["type"], "welcome");
    let shown = client.ask(ask);
    let counts = (&shown["clients"], &shown["users"], shown["members"].as_array().unwrap().len());
    assert_eq!(counts, (&json!(1), &json!(1), 1), "{shown}");
    let member = &shown["members"][0];
    assert_eq!((&member["user"], &member["info"]["name"]), (&json!("u1"), &json!("Ada")));
}

#[test]
fn whoever_says_nothing_has_five_seconds() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let begun = now();
    let ended = Client::connect(&gateway).ended();
    assert_eq!((ended.code, &*ended.reason), (Some(4501), "auth_timeout"));
    let took = now() - begun;
    assert!(took > Duration::from_millis(4_900), "{took:?}");
    let last = &ended.messages[0];
    assert_eq!((&last["code"], &last["reconnect"]), (&json!(4501), &json!(false)), "{last}");
}

#[test]
fn a_bad_first_message_ends_a_connection_that_needs_a_good_one() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    let expired = hs256(&json!({"sub": "u1", "exp": unix_s() - 60}));
    for (token, code) in [("a.b.c", "unauthorized"), (&*expired, "token_expired")] {
        let mut client = Client::connect(&gateway);
        client.send(&json!({"type": "auth", "id": 5, "token": token}));
        let ended = client.ended();
        assert_eq!((ended.code, &*ended.reason), (Some(4500), "unauthorized"));
        let error = &ended.messages[0];
        assert_eq!((&error["code"], &error["id"]), (&json!(code), &json!(5)), "{error}");
    }
    // One that has a good one keeps it.
    let mut client = connect(&gateway, &good());
    let answer = client.ask(json!({"type": "auth", "token": "a.b.c"}));
    assert_eq!(answer["code"], "unauthorized", "{answer}");
    client.subscribe("a");
    // And where none is needed, none is missed.
    let open = Gateway::configured(&keys(""));
    let mut client = Client::connect(&open);
    let answer = client.ask(json!({"type": "auth", "token": "a.b.c"}));
    assert_eq!(answer["code"], "unauthorized", "{answer}");
    client.subscribe("a");
}

#[test]
fn a_living_connection_brings_another_token_of_the_same_user() {
    let gateway = Gateway::configured(&keys(""));
    let mut client = connect(&gateway, &good());
    let other = hs256(&json!({"sub": "u2", "exp": unix_s() + 600}));
    let answer = client.ask(json!({"type": "auth", "token": other}));
    assert_eq!(answer["code"], "forbidden", "{answer}");
    let longer = hs256(&json!({"sub": "u1", "exp": unix_s() + 6_000}));
    let answer = client.ask(json!({"type": "auth", "token": longer}));
    assert_eq!((&answer["type"], &answer["user"]), (&json!("welcome"), &json!("u1")));
    // The anonymous become somebody, once.
    let mut client = Client::connect(&gateway);
    assert_eq!(client.ask(json!({"type": "auth", "token": other}))["user"], "u2");
    assert_eq!(client.ask(json!({"type": "auth", "token": longer}))["code"], "forbidden");
}

/// Longer than any token, in a message: refused without a look, and closed where nothing else came.
#[test]
fn a_token_of_a_hundred_kilobytes_is_none() {
    let large = "[limits]\nmessage_bytes = \"256KiB\"\n";
    let open = Gateway::configured(&format!("{large}{}", keys("")));
    let mut client = connect(&open, &good());
    for bytes in [8_193, 100 * 1024] {
        let token = format!("{}.b.c", "a".repeat(bytes));
        let answer = client.ask(json!({"type": "auth", "token": token}));
        assert_eq!(answer["code"], "unauthorized", "{bytes}: {answer}");
    }
    client.subscribe("a");
    assert!(open.metric("weir_auth_failures_total{reason=\"long\"") > 1.5);
    let required = Gateway::configured(&format!("{large}{}", keys("required = true\n")));
    let mut stranger = Client::connect(&required);
    stranger.send(&json!({"type": "auth", "token": "a".repeat(100 * 1024)}));
    assert_eq!(stranger.ended().code, Some(1009));
}

/// A token that ended 29 seconds ago cannot be brought. One that ends now leaves 30 seconds, in
/// which another saves the connection.
#[test]
fn the_end_of_a_token_leaves_thirty_seconds() {
    let gateway = Gateway::configured(&keys("required = true\n"));
    // Within the leeway it is taken; its grace ends 30 seconds behind its end.
    let ends = unix_s() - 4;
    let token = hs256(&json!({"sub": "u1", "exp": ends}));
    let (mut left, mut saved) = (connect(&gateway, &token), connect(&gateway, &token));
    left.subscribe("a");
    assert_eq!(saved.ask(json!({"type": "auth", "token": good()}))["type"], "welcome");
    let ended = left.ended();
    assert!(unix_s() >= ends + 29, "it had its time");
    assert_eq!((ended.code, &*ended.reason), (Some(4003), "token_expired"));
    let last = ended.messages.last().unwrap();
    assert_eq!((&last["code"], &last["reconnect"]), (&json!(4003), &json!(true)), "{last}");
    saved.subscribe("a");
}

#[test]
fn a_storm_of_one_token_is_verified_once() {
    let gateway = Gateway::configured(&format!("shards = 2\n{}", keys("required = true\n")));
    let token = made()["good"]["RS512"].as_str().unwrap().to_owned();
    connect(&gateway, &token).close(1000);
    let clients: Vec<_> = (0..50).map(|_| connect(&gateway, &token)).collect();
    assert!((gateway.metric("weir_tokens_total{how=\"verified\"") - 1.0).abs() < 0.1);
    assert!((gateway.metric("weir_tokens_total{how=\"seen\"") - 50.0).abs() < 0.1);
    drop(clients);
}

#[test]
fn a_development_token_is_signed_by_the_program() {
    let config = scratch(".toml");
    let toml = keys("required = true\nissuer = \"me\"\naudience = \"weir\"\n");
    fs::write(&config, &toml).unwrap();
    let gateway = Gateway::configured(&toml);
    let sign = |args: &[&str]| -> String {
        let config: PathBuf = config.clone();
        let mut command = weir(&["token", "--config", config.to_str().unwrap()]);
        let output = finished(command.args(args));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let token = sign(&["--sub", "ada", "--role", "producer", "--ttl", "10m"]);
    assert_eq!(connect(&gateway, &token).welcome["user"], "ada");
    let run = |args: &[&str], token: &str| {
        finished(weir(args).args(["--url", &gateway.url()]).env("WEIR_TOKEN", token))
    };
    let output = run(&["pub", "room:1", "5"], &token);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let flag =
        finished(&mut weir(&["pub", "room:1", "5", "--token", &token, "--url", &gateway.url()]));
    assert!(flag.status.success(), "{}", String::from_utf8_lossy(&flag.stderr));
    let output = run(&["pub", "room:1", "5"], "a.b.c");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("401") && !said.contains("a.b.c"), "{said}");
    // Without a secret there is nothing to sign with.
    let output = finished(&mut weir(&["token", "--sub", "u1"]));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("hmac_secret_file"), "{said}");
}

#[test]
fn a_public_address_is_taken_where_tokens_are_required() {
    let config = scratch(".toml");
    fs::write(&config, keys("required = true\n")).unwrap();
    let args = ["check", "--listen", "0.0.0.0:0", "--config", config.to_str().unwrap()];
    assert!(finished(&mut weir(&args)).status.success());
    fs::write(&config, keys("")).unwrap();
    let output = finished(&mut weir(&args));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("auth.required"));
}

/// With keys the API answers whoever has one, and nobody else; not even this machine.
#[test]
fn the_api_opens_to_a_key_of_the_right_scope() {
    let path = scratch(".keys");
    let [ops, feed, eyes] = ["1", "2", "3"].map(|digit| digit.repeat(40));
    let text = format!("ops:{ops}\nfeed:{feed} publish channel:news:**\neyes:{eyes} read\n");
    fs::write(&path, text).unwrap();
    let toml = format!("[auth]\napi_keys_file = {path:?}\n[defaults]\nhistory = 5\n");
    let gateway = Gateway::configured(&toml);
    let ask = |key: Option<&str>, method: &str, path: &str, body: &str| -> u16 {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        http(gateway.addr, method, path, &headers, body.as_bytes()).status
    };
    let news = r#"{"channel":"news:a","data":1}"#;
    let room = r#"{"channel":"room:a","data":1}"#;
    let client = r#"{"client":"0000000000000"}"#;
    let (ops, feed, eyes) = (Some(&*ops), Some(&*feed), Some(&*eyes));
    let cases = [
        ("POST", "/api/v1/publish", news, [200, 200, 403]),
        ("POST", "/api/v1/publish", room, [200, 403, 403]),
        ("PUT", "/api/v1/channels/room:a/events", "1", [200, 403, 403]),
        ("PUT", "/api/v1/channels/news:a/events", "1", [200, 200, 403]),
        ("GET", "/api/v1/channels/room:a/history", "", [200, 403, 200]),
        ("GET", "/api/v1/channels", "", [200, 403, 200]),
        ("GET", "/api/v1/stats", "", [200, 403, 200]),
        ("GET", "/metrics", "", [200, 403, 200]),
        ("POST", "/api/v1/disconnect", client, [200, 403, 403]),
    ];
    for (method, path, body, wanted) in cases {
        let found = [ops, feed, eyes].map(|key| ask(key, method, path, body));
        assert_eq!(found, wanted, "{method} {path}");
        for key in [None, Some("wrong"), Some(&ops.unwrap()[1..])] {
            assert_eq!(ask(key, method, path, body), 401, "{method} {path} {key:?}");
        }
    }
    assert_eq!(ask(None, "GET", "/healthz", ""), 200, "that is for everybody");
    let headers = [("Authorization", &*format!("Bearer {}", ops.unwrap()))];
    let scrape = http(gateway.addr, "GET", "/metrics", &headers, b"").text();
    let failures = crate::raw::sum(&scrape, "weir_auth_failures_total{reason=\"api_key\"");
    assert!((failures - 27.0).abs() < 0.5, "{failures}");
    // Lines are checked one by one.
    let lines = format!("{news}\n{room}\n");
    let bearer = format!("Bearer {}", feed.unwrap());
    let headers = [("Content-Type", "application/x-ndjson"), ("Authorization", &*bearer)];
    let answer = http(gateway.addr, "POST", "/api/v1/publish", &headers, lines.as_bytes()).json();
    assert_eq!(answer["accepted"], 1, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "forbidden", "{answer}");
}

/// Faults of the files that the settings name are told with the settings.
#[test]
fn check_names_what_is_wrong_with_a_key() {
    let made = made();
    let file = |text: &str| {
        let path = scratch(".key");
        fs::write(&path, text).unwrap();
        path
    };
    let cases = [
        (format!("hmac_secret_file = {:?}", file("short")), "auth.hmac_secret_file", "at least 32"),
        ("hmac_secret_file = \"/no/such\"".to_owned(), "auth.hmac_secret_file", "cannot be read"),
        (
            format!("public_key_file = {:?}", file(made["bad_pem"]["private"].as_str().unwrap())),
            "auth.public_key_file",
            "private key",
        ),
        (
            format!(
                "public_key_file = {:?}",
                file(made["bad_pem"]["certificate"].as_str().unwrap())
            ),
            "auth.public_key_file",
            "certificate",
        ),
        (format!("jwks_file = {:?}", file("{}")), "auth.jwks_file", "JWK set"),
        (format!("api_keys_file = {:?}", file("a:short")), "auth.api_keys_file", "less than 32"),
        ("required = true".to_owned(), "auth.required", "no token is good without a key"),
        ("issuer = \"me\"".to_owned(), "auth.issuer", "no token is good without a key"),
        ("requird = true".to_owned(), "auth.requird", "the nearest is auth.required"),
    ];
    for (line, key, problem) in cases {
        let config = scratch(".toml");
        fs::write(&config, format!("[auth]\n{line}\n")).unwrap();
        let output = finished(&mut weir(&["check", "--config", config.to_str().unwrap()]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(key) && said.contains(problem), "{line}: {said}");
        assert!(!said.contains("BEGIN") && !said.contains("short\""), "{said}");
    }
}
