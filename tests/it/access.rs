//! What somebody may do: the rules of namespaces on every door, and what a change of tokens ends.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, scratch, weir};
use crate::raw::http;
use crate::tokens::{hs256, made, unix_s};

/// A gateway with these rules, that takes tokens.
fn gateway(rules: &str) -> Gateway {
    let secret = scratch(".key");
    fs::write(&secret, made()["secret"].as_str().unwrap()).unwrap();
    Gateway::configured(&format!("[auth]\nhmac_secret_file = {secret:?}\n{rules}"))
}

/// A client whose token says this, beside who it is.
fn client(gateway: &Gateway, claims: &Value) -> Client {
    Client::connect_with(gateway.addr, &format!("?token={}", token(claims)), None)
}

fn token(claims: &Value) -> String {
    let mut all = json!({"sub": "u1", "exp": unix_s() + 600});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    hs256(&all)
}

fn command(kind: &str, channel: &str) -> Value {
    json!({"type": kind, "channel": channel, "data": 1, "name": "n"})
}

/// What a command is answered with: its type, or the code of the error.
fn outcome(client: &mut Client, kind: &str, channel: &str) -> String {
    let answer = client.ask(command(kind, channel));
    let word = if answer["type"] == "error" { &answer["code"] } else { &answer["type"] };
    word.as_str().unwrap().to_owned()
}

const RULES: &str = r#"
[defaults]
patterns = true
[[namespace]]
name = "users"
subscribe = ["user"]
publish = ["role:producer", "api"]
history = 10
presence = true
[[namespace]]
name = "organization"
subscribe = ["channel:organization:{organization_id}:**"]
publish = ["nobody"]
[[namespace]]
name = "granted"
subscribe = ["token"]
publish = ["token"]
[[namespace]]
name = "split"
history = 10
history_for = ["role:auditor"]
presence = true
presence_for = ["nobody"]
"#;

#[test]
fn rules_hold_for_every_command() {
    let gateway = gateway(RULES);
    let mut anonymous = Client::connect(&gateway);
    let mut user = client(&gateway, &json!({"organization_id": 42, "channels": ["granted:**"]}));
    let mut producer = client(
        &gateway,
        &json!({"role": "producer", "organization_id": ["42"], "publish": ["granted:in"]}),
    );
    let mut auditor = client(&gateway, &json!({"roles": ["viewer", "auditor"]}));
    let yes = ["subscribed", "published", "history", "presence"];
    let cases = [
        ("subscribe", "free", [true, true, true, true]),
        ("publish", "free", [true, true, true, true]),
        ("subscribe", "users:a", [false, true, true, true]),
        ("subscribe", "users:*", [false, true, true, true]),
        ("publish", "users:a", [false, false, true, false]),
        ("history", "users:a", [false, true, true, true]),
        ("presence", "users:a", [false, true, true, true]),
        ("subscribe", "organization:42:x", [false, true, false, false]),
        ("subscribe", "organization:42:*", [false, true, false, false]),
        ("subscribe", "organization:*", [false, false, false, false]),
        ("subscribe", "organization:43:x", [false, false, false, false]),
        ("publish", "organization:42:x", [false, false, false, false]),
        ("subscribe", "granted:a", [false, true, false, false]),
        ("publish", "granted:in", [false, false, true, false]),
        ("publish", "granted:a", [false, false, false, false]),
        ("subscribe", "split:a", [true, true, true, true]),
        ("history", "split:a", [false, false, false, true]),
        ("presence", "split:a", [false, false, false, false]),
    ];
    for (kind, channel, wanted) in cases {
        let all = [&mut anonymous, &mut user, &mut producer, &mut auditor];
        for (one, wanted) in all.into_iter().zip(wanted) {
            let mut asked = command(kind, channel);
            asked["id"] = json!(77);
            one.send(&asked);
            // Events, and who comes and goes, may stand before it.
            let answer = loop {
                let message = one.next();
                if message["id"] == json!(77) {
                    break message;
                }
            };
            let word = answer["type"].as_str().unwrap();
            assert_eq!(yes.contains(&word), wanted, "{kind} {channel}: {answer}");
            assert!(wanted || answer["code"] == "forbidden", "{kind} {channel}: {answer}");
        }
    }
}

#[test]
fn a_refusal_says_what_is_needed_and_no_more() {
    let gateway = gateway(RULES);
    let mut client = client(&gateway, &json!({"organization_id": 43}));
    let cases = [
        ("publish", "users:a", "publishing on users:a needs role producer, or the HTTP API"),
        ("subscribe", "granted:a", "subscribing to granted:a needs a token that names the channel"),
        (
            "subscribe",
            "organization:42:*",
            "subscribing to organization:42:* needs a token that fits the channel",
        ),
        ("publish", "organization:42:x", "publishing on organization:42:x is allowed to nobody"),
    ];
    for (kind, channel, message) in cases {
        let answer = client.ask(command(kind, channel));
        assert_eq!((&answer["code"], &answer["message"]), (&json!("forbidden"), &json!(message)));
    }
    assert!(gateway.metric("weir_errors_total{code=\"forbidden\"") > 3.5);
}

/// Frames of `weir.v1.bin` publish under the same rules, by name and by alias.
#[test]
fn binary_frames_are_under_the_rules() {
    let gateway = gateway("[[namespace]]\nname = \"a\"\npublish = [\"user\"]\n");
    let mut client = Client::speaking(&gateway, "weir.v1.bin");
    let alias = client.subscribe("a:b")["alias"].as_u64().unwrap();
    let mut by_alias = vec![2, 0x0a];
    assert!(alias < 128, "it is one byte");
    by_alias.extend([u8::try_from(alias).unwrap(), 7, b'1']);
    for frame in [b"\x02\x0a\x00\x03a:b\x071".to_vec(), by_alias] {
        client.send_binary(&frame);
        let answer = client.expect("error");
        assert_eq!((&answer["code"], &answer["id"]), (&json!("forbidden"), &json!(7)));
    }
    let answer = client.ask(json!({"type": "auth", "token": token(&json!({}))}));
    assert_eq!(answer["type"], "welcome");
    client.send_binary(b"\x02\x1a\x00\x03a:b\x071");
    client.expect("published");
}

#[test]
fn the_http_api_is_under_the_rules() {
    let gateway = gateway(RULES);
    let publish = |channel: &str| {
        let body = json!({"channel": channel, "data": 1}).to_string();
        gateway.post("/api/v1/publish", &body)
    };
    assert_eq!(publish("users:a").status, 200);
    assert_eq!(publish("free").status, 200);
    assert_eq!(publish("granted:a").error(403), "forbidden");
    assert_eq!(publish("organization:42:x").error(403), "forbidden");
    let put = |channel: &str| {
        let path = format!("/api/v1/channels/{channel}/events");
        http(gateway.addr, "PUT", &path, &[], b"x")
    };
    assert_eq!(put("users:a").status, 200);
    assert_eq!(put("granted:a").error(403), "forbidden");
    let history = |channel: &str| gateway.get(&format!("/api/v1/channels/{channel}/history"));
    assert_eq!(history("users:a").error(403), "forbidden", "it is for users");
    assert_eq!(history("split:a").error(403), "forbidden");
    assert_eq!(gateway.get("/api/v1/channels/split:a/presence").error(403), "forbidden");
    let lines = "{\"channel\":\"users:a\",\"data\":1}\n{\"channel\":\"granted:a\",\"data\":1}\n";
    let headers = [("Content-Type", "application/x-ndjson")];
    let answer = http(gateway.addr, "POST", "/api/v1/publish", &headers, lines.as_bytes()).json();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["line"]), (&json!(1), &json!(2)));
}

#[test]
fn another_token_ends_what_it_does_not_allow() {
    let gateway = gateway(RULES);
    let wide = json!({"organization_id": 42, "channels": ["granted:**"], "role": "producer"});
    let mut client = client(&gateway, &wide);
    for channel in ["granted:a", "granted:*", "organization:42:x", "users:a", "free"] {
        client.subscribe(channel);
    }
    let answer =
        client.ask(json!({"type": "auth", "token": token(&json!({"organization_id": 42}))}));
    assert_eq!(answer["type"], "welcome");
    let mut ended: Vec<Value> = (0..2).map(|_| client.expect("unsubscribed")).collect();
    ended.sort_by_key(|one| one["channel"].as_str().unwrap().to_owned());
    for (one, channel) in ended.iter().zip(["granted:*", "granted:a"]) {
        let wanted = json!({
            "type": "unsubscribed", "channel": channel, "code": "forbidden",
            "reason": "permission revoked",
        });
        assert_eq!(*one, wanted);
    }
    client.expect_nothing();
    assert!((gateway.metric("weir_subscriptions_revoked_total") - 2.0).abs() < 0.1);
    assert!((gateway.metric("weir_subscriptions{") - 3.0).abs() < 0.1);
    // Nothing of what it had comes any more, and the rest does.
    let mut other = self::client(&gateway, &json!({"publish": ["granted:**"]}));
    other.publish("granted:a", &json!(1));
    other.publish("free", &json!(2));
    assert_eq!(client.expect("event")["data"], 2);
    assert_eq!(outcome(&mut client, "subscribe", "granted:a"), "forbidden");
    assert_eq!(outcome(&mut client, "publish", "users:a"), "forbidden", "its role is gone");
}

/// Claims of the wrong kind fit no rule, and spoil nothing else that the token says.
#[test]
fn claims_of_the_wrong_type_fit_no_rule() {
    let gateway = gateway(RULES);
    let long = "4".repeat(300);
    for value in [
        json!([]),
        json!(["42"]),
        json!([42]),
        json!({}),
        json!({"id": 42}),
        json!(null),
        json!(""),
        json!(42.5),
        json!(4.2e1),
        json!("*"),
        json!("**"),
        json!("{organization_id}"),
        json!(long),
    ] {
        let mut one = client(&gateway, &json!({"organization_id": value, "role": "producer"}));
        for channel in ["organization:42:x", "organization:*", "organization::x"] {
            let found = outcome(&mut one, "subscribe", channel);
            assert!(found == "forbidden" || found == "bad_request", "{value} {channel}: {found}");
        }
        assert_eq!(outcome(&mut one, "publish", "users:a"), "published", "{value}: its role holds");
    }
    for role in
        [json!(5), json!(true), json!({"producer": true}), json!([["producer"]]), json!([5])]
    {
        let claims = json!({"role": role, "roles": role, "organization_id": 42});
        let mut one = client(&gateway, &claims);
        assert_eq!(outcome(&mut one, "publish", "users:a"), "forbidden", "{role}");
        assert_eq!(outcome(&mut one, "subscribe", "organization:42:x"), "subscribed", "{role}");
    }
}

#[test]
fn check_names_what_is_no_rule() {
    let text = "[defaults]\nsubscribe = [\"anyon\"]\npublish = [\"rolle:producer\"]\n\
                history_for = [\"app\"]\n[[namespace]]\nname = \"a\"\n\
                subscribe = [\"channel:a:{b\", \"user\"]\npublish = [\"nobody\", \"user\"]\n\
                presence_for = \"subscribers\"\nsignals_for = [\"role:\"]\n[[namespace]]\n\
                name = \"b\"\npublish = [\"subscribers\"]\nsubscrib = []\n";
    let config = scratch(".toml");
    fs::write(&config, text).unwrap();
    let output = finished(&mut weir(&["check", "--config", config.to_str().unwrap()]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = [
        ":2: defaults.subscribe: has \"anyon\", no such rule; the nearest is anyone; rules are ",
        ":3: defaults.publish: has \"rolle:producer\", no such rule; the nearest is role:; rules are ",
        ":4: defaults.history_for: has \"app\", and no application is asked in this version",
        ":7: namespace.subscribe: has \"channel:a:{b\": a claim is written {claim}, with both braces",
        ":8: namespace.publish: has \"nobody\" beside other rules, of which any one suffices",
        ":10: namespace.signals_for: has \"role:\": a role has a name, as in role:producer",
        ":13: namespace.publish: has \"subscribers\", which is for history_for, presence_for and",
        ":14: namespace.subscrib: no such setting; the nearest is namespace.subscribe",
    ];
    for text in wanted {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(said.starts_with("weir: 8 faults"), "{said}");
}

/// Presence that somebody may not ask for is not told in pieces either.
#[test]
fn whoever_may_not_see_who_is_there_is_told_of_no_joins_and_leaves() {
    let secret = scratch(".key");
    fs::write(&secret, made()["secret"].as_str().unwrap()).unwrap();
    // One shard, so that what one was told the other was told by then.
    let gateway = Gateway::configured(&format!(
        "shards = 1\n[auth]\nhmac_secret_file = {secret:?}\n[[namespace]]\nname = \"room\"\npresence = true\npresence_linger = \"0s\"\n\
         presence_for = [\"role:staff\"]\n"
    ));
    let mut staff = client(&gateway, &json!({"role": "staff"}));
    let mut guest = client(&gateway, &json!({}));
    staff.subscribe("room:1");
    guest.subscribe("room:1");
    assert_eq!(staff.expect("join")["member"]["client"], json!(guest.id));
    let mut told = |guest: &mut Client, claims: Option<&Value>| {
        if let Some(claims) = claims {
            guest.send(&json!({"type": "auth", "token": token(claims)}));
            guest.expect("welcome");
        }
        let mut other = Client::connect(&gateway);
        other.subscribe("room:1");
        assert_eq!(staff.expect("join")["member"]["client"], json!(other.id));
        assert_eq!(
            other.ask(json!({"type": "unsubscribe", "channel": "room:1"}))["type"],
            "unsubscribed"
        );
        staff.expect("leave");
        // Behind all that the room has told.
        other.publish("room:1", &json!(1));
        staff.expect("event");
        let mut seen = Vec::new();
        loop {
            let message = guest.next();
            if message["type"] == "event" {
                return seen;
            }
            seen.push(message["type"].as_str().unwrap().to_owned());
        }
    };
    assert!(told(&mut guest, None).is_empty());
    assert_eq!(told(&mut guest, Some(&json!({"role": "staff"}))), ["join", "leave"]);
    assert!(told(&mut guest, Some(&json!({"role": "guest"}))).is_empty(), "not any more");
    // What is shown of the guest to others is as of anybody.
    let answer = staff.ask(json!({"type": "presence", "channel": "room:1"}));
    assert_eq!(answer["clients"], 2, "{answer}");
}
