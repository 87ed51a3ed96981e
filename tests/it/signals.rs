//! Signals: short-lived values that clients show to each other. They reach those who have the
//! channel by name, end whatever becomes of their sender, and never queue.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::auth::keys;
use crate::harness::{Client, Ended, Gateway, now, wait_for};
use crate::raw::{Raw, masked};
use crate::tokens::{hs256, unix_s};

const SHOWN: &str = "shards = 2\n\
    [[namespace]]\nname = \"room\"\nsignals = true\nhistory = 10\npatterns = true\n";

fn signal(name: &str, data: &Value) -> Value {
    json!({"type": "signal", "channel": "room:1", "name": name, "data": data})
}

/// So many clients that have the channel.
fn subscribed<const N: usize>(gateway: &Gateway) -> [Client; N] {
    std::array::from_fn(|_| {
        let mut client = Client::connect(gateway);
        assert_eq!(client.subscribe("room:1")["type"], "subscribed");
        client
    })
}

/// A client that has the channel and reads nothing, nor does its socket take any more: `publisher`
/// has sent it events until then.
fn stalled(gateway: &Gateway, publisher: &mut Client) -> Client {
    let mut stalled = Client::connect_narrow(gateway);
    stalled.subscribe("room:1");
    stalled.subscribe("feed");
    let data = json!("x".repeat(60_000));
    wait_for("a reader that has stalled", || {
        publisher.publish("feed", &data);
        (gateway.metric("weir_slow_consumers") >= 1.0).then_some(())
    });
    stalled
}

/// Shows a signal, and takes the answer.
fn show(client: &mut Client, name: &str, data: &Value) {
    let answer = client.ask(signal(name, data));
    assert_eq!(answer["type"], "ok", "{answer}");
}

/// The next message, which is that signal of that client.
fn expect(client: &mut Client, from: &str, name: &str, data: &Value) {
    let expected = json!({
        "type": "signal",
        "channel": "room:1",
        "from": {"client": from, "user": null},
        "name": name,
        "data": data,
    });
    assert_eq!(client.next(), expected);
}

/// Goal: a signal reaches the others, and whoever comes later is told of it; its sender is not,
/// and nothing of it is kept.
#[test]
fn a_signal_is_shown_to_the_others_and_to_those_who_come() {
    let gateway = Gateway::configured(SHOWN);
    let (mut ann, mut ben) = (Client::connect(&gateway), Client::connect(&gateway));
    for client in [&mut ann, &mut ben] {
        assert_eq!(client.subscribe("room:1")["signals"], json!([]));
        assert!(client.subscribe("plain").get("signals").is_none(), "none may be shown there");
    }
    show(&mut ann, "typing", &json!(true));
    let from = ann.id.clone();
    expect(&mut ben, &from, "typing", &json!(true));
    // Without an id there is no answer; and nobody is shown its own.
    ann.send(&signal("cursor", &json!({"x": 1, "y": [2]})));
    expect(&mut ben, &from, "cursor", &json!({"x": 1, "y": [2]}));
    ann.expect_nothing();
    let mut eve = Client::connect(&gateway);
    let list = eve.subscribe("room:1")["signals"].clone();
    let mut list: Vec<_> = list.as_array().unwrap().clone();
    list.sort_by_key(|signal| signal["name"].to_string());
    let author = json!({"client": from, "user": null});
    let expected = [
        json!({"from": author, "name": "cursor", "data": {"x": 1, "y": [2]}}),
        json!({"from": author, "name": "typing", "data": true}),
    ];
    assert_eq!(list, expected);
    show(&mut ann, "typing", &Value::Null);
    for client in [&mut ben, &mut eve] {
        expect(client, &from, "typing", &Value::Null);
    }
    // An update of the subscription, a pattern and the history know nothing of signals.
    let again = ben.subscribe("room:1");
    assert!(again["updated"] == true && again.get("signals").is_none(), "{again}");
    let history = ben.ask(json!({"type": "history", "channel": "room:1"}));
    assert_eq!((&history["offset"], &history["events"]), (&json!(0), &json!([])));
    let mut pat = Client::connect(&gateway);
    assert!(pat.subscribe("room:*").get("signals").is_none());
    show(&mut ann, "typing", &json!(1));
    expect(&mut ben, &from, "typing", &json!(1));
    pat.expect_nothing();
    assert!(gateway.metric("weir_commands_total{type=\"signal\"}") >= 4.0);
    assert!(gateway.metric("weir_signals_total") >= 4.0);
}

/// Goal: a signal ends for the others when its time has passed, when its sender unsubscribes, and
/// when its sender goes, whichever way.
#[test]
fn a_signal_ends_whatever_becomes_of_its_sender() {
    let gateway = Gateway::configured(SHOWN);
    let [mut ann, mut ben] = subscribed(&gateway);
    let from = ann.id.clone();
    let begun = now();
    let mut short = signal("typing", &json!(true));
    short["ttl_ms"] = json!(500);
    ann.ask(short);
    expect(&mut ben, &from, "typing", &json!(true));
    expect(&mut ben, &from, "typing", &Value::Null);
    // The gateway reckons in whole milliseconds.
    assert!(begun.elapsed().as_millis() >= 498, "it had its time");
    show(&mut ann, "typing", &json!(1));
    expect(&mut ben, &from, "typing", &json!(1));
    assert_eq!(
        ann.ask(json!({"type": "unsubscribe", "channel": "room:1"}))["type"],
        "unsubscribed"
    );
    expect(&mut ben, &from, "typing", &Value::Null);
    // Its connection ends: with a close, without one, and by the operator.
    for way in ["close", "drop", "operator"] {
        let [mut ann] = subscribed(&gateway);
        let from = ann.id.clone();
        show(&mut ann, "typing", &json!(way));
        expect(&mut ben, &from, "typing", &json!(way));
        match way {
            "close" => drop(ann.close(1000)),
            "drop" => drop(ann),
            _ => {
                let body = json!({"client": from}).to_string();
                assert_eq!(gateway.post("/api/v1/disconnect", &body).status, 200);
                assert_eq!(ann.ended().code, Some(4503));
            }
        }
        expect(&mut ben, &from, "typing", &Value::Null);
        ben.expect_nothing();
        assert_eq!(Client::connect(&gateway).subscribe("room:1")["signals"], json!([]));
    }
}

/// Goal: what somebody shows without a name ends when it says who it is, and what it shows from
/// then on is that user's, also in the same message.
#[test]
fn a_signal_is_the_users_from_the_token_on() {
    let gateway = Gateway::configured(&keys("[[namespace]]\nname = \"room\"\nsignals = true\n"));
    let [mut ann, mut ben] = subscribed(&gateway);
    let from = ann.id.clone();
    show(&mut ann, "typing", &json!(1));
    expect(&mut ben, &from, "typing", &json!(1));
    let token = hs256(&json!({"sub": "u1", "exp": unix_s() + 600}));
    // With as much time as there is, for a machine that is late.
    let long = |name, data: u64| {
        let mut signal = signal(name, &json!(data));
        signal["ttl_ms"] = json!(60_000);
        signal
    };
    let auth = json!({"type": "auth", "token": token});
    let commands = [auth, long("cursor", 2), long("typing", 3)];
    ann.send_text(&commands.map(|command| command.to_string()).join("\n"));
    assert_eq!(ann.expect("welcome")["user"], "u1");
    // The end may have given its place in the queue of a reader to the next value.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let told = ben.expect("signal");
        let author = if told["data"].is_null() { Value::Null } else { json!("u1") };
        assert_eq!(told["from"], json!({"client": from, "user": author}), "{told}");
        if author != Value::Null {
            seen.push((told["name"].clone(), told["data"].clone()));
        }
    }
    seen.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(seen, [(json!("cursor"), json!(2)), (json!("typing"), json!(3))]);
    // A newer token of the same user ends nothing.
    assert_eq!(ann.ask(json!({"type": "auth", "token": token}))["type"], "welcome");
    ben.expect_nothing();
    let mut eve = Client::connect(&gateway);
    let shown = eve.subscribe("room:1")["signals"].as_array().unwrap().clone();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.iter().all(|signal| signal["from"]["user"] == "u1"), "{shown:?}");
    // Without anything new, the end is told.
    let [mut sam] = subscribed(&gateway);
    show(&mut sam, "typing", &json!(4));
    let from = sam.id.clone();
    expect(&mut ben, &from, "typing", &json!(4));
    sam.ask(json!({"type": "auth", "token": token}));
    expect(&mut ben, &from, "typing", &Value::Null);
}

/// Goal: what is wrong is refused with a sentence, and harms nothing.
#[test]
fn bad_signals_are_refused() {
    let limits = "[limits]\nmessage_bytes = \"2MiB\"\nqueue_bytes = \"2MiB\"\n";
    let gateway = Gateway::configured(&SHOWN.replacen("[[", &format!("{limits}[["), 1));
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    client.subscribe("plain");
    client.subscribe("room:x/*");
    let long = "n".repeat(65);
    let cases = [
        (json!({"data": "x".repeat(1_000_000)}), "too_large"),
        (json!({"data": "x".repeat(4_095)}), "too_large"),
        (json!({"name": null}), "bad_request"),
        (json!({"name": ""}), "bad_request"),
        (json!({"name": 7}), "bad_request"),
        (json!({"name": long}), "bad_request"),
        (json!({"ttl_ms": 0}), "bad_request"),
        (json!({"ttl_ms": -1}), "bad_request"),
        (json!({"ttl_ms": 1.5}), "bad_request"),
        (json!({"ttl_ms": "5000"}), "bad_request"),
        (json!({"channel": "room:2"}), "not_subscribed"),
        (json!({"channel": "room:x/1"}), "not_subscribed"),
        (json!({"channel": "room:*"}), "bad_request"),
        (json!({"channel": "plain"}), "not_enabled"),
        (json!({"channel": null}), "bad_request"),
    ];
    for (fields, code) in cases {
        let mut command = signal("typing", &json!(true));
        command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = client.ask(command);
        let shown = fields.to_string();
        let shown = &shown[..shown.len().min(60)];
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{shown}");
        assert!(answer["message"].as_str().unwrap().len() > 20, "{answer}");
    }
    for missing in ["name", "data"] {
        let mut command = signal("typing", &json!(true));
        command.as_object_mut().unwrap().remove(missing);
        let answer = client.ask(command);
        assert_eq!(answer["code"], "bad_request", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(missing), "{answer}");
    }
    // What is just within the bounds, an end of nothing, and a time that is cut.
    show(&mut client, &long[..64], &json!("x".repeat(4_094)));
    show(&mut client, "nothing", &Value::Null);
    let mut eternal = signal("1", &json!(1));
    eternal["ttl_ms"] = json!(u64::MAX);
    assert_eq!(client.ask(eternal)["type"], "ok");
    for name in 2..16 {
        show(&mut client, &name.to_string(), &json!(1));
    }
    assert_eq!(client.ask(signal("17th", &json!(1)))["code"], "limit_exceeded");
    show(&mut client, "7", &Value::Null);
    show(&mut client, "17th", &json!(1));
    assert_eq!(gateway.metric("weir_errors_total{code=\"too_large\"}"), 2.0);
    assert_eq!(gateway.metric("weir_errors_total{code=\"limit_exceeded\"}"), 1.0);
}

/// What a reader sees of others, by client and name.
#[derive(Default, PartialEq, Debug)]
struct View(BTreeMap<(String, String), Value>);

impl View {
    fn see(&mut self, signal: &Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = (text(&signal["from"]["client"]), text(&signal["name"]));
        if signal["data"].is_null() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, signal["data"].clone());
        }
    }

    fn of(subscribed: &Value) -> Self {
        let mut view = Self::default();
        subscribed["signals"].as_array().unwrap().iter().for_each(|signal| view.see(signal));
        view
    }
}

/// Goal: sixteen cursors at a thousand places a second are told of some twenty times a second, and
/// the last place of each arrives; in the queue of a reader that has stalled each stands once.
#[test]
fn a_flood_of_cursors_does_not_queue() {
    const PLACES: u64 = 1_500;
    let gateway = Gateway::configured(SHOWN);
    let [mut ann, mut ben] = subscribed(&gateway);
    let mut stalled = stalled(&gateway, &mut ann);
    let begun = now();
    for place in 1..=PLACES {
        for cursor in 0..16 {
            ann.send(&signal(&cursor.to_string(), &json!(place)));
        }
        ann.expect_nothing();
    }
    let took = begun.elapsed();
    let mut last = View::default();
    let mut told = 0;
    while last.0.len() < 16 || last.0.values().any(|place| *place != PLACES) {
        last.see(&ben.expect("signal"));
        told += 1;
    }
    // At 20 a second, with one at the beginning and one at the end.
    let most = 16 * (took.as_millis() / 50 + 3);
    assert!(told <= most, "{told} of {} in {took:?}", 16 * PLACES);
    assert!(told < 16 * u128::from(PLACES) / 4, "{told} in {took:?}");
    let mut seen = Vec::new();
    stalled.send(&json!({"type": "ping", "id": 4}));
    while seen.len() < 16 {
        let message = stalled.next();
        match message["type"].as_str() {
            Some("signal") => seen.push(message),
            Some("event" | "lagged" | "pong") => {}
            _ => panic!("{message}"),
        }
    }
    let mut view = View::default();
    seen.iter().for_each(|signal| view.see(signal));
    assert_eq!(view, last, "each once, and the newest");
}

/// Goal: a reader in whose queue more signals wait than it may have is closed, and not shown less
/// than there is.
#[test]
fn a_reader_that_cannot_be_told_is_closed() {
    let gateway = Gateway::configured(
        "shards = 1\n[limits]\nqueue_events = 8\n\
         [[namespace]]\nname = \"room\"\nsignals = true\n",
    );
    let [mut ann] = subscribed(&gateway);
    let mut stalled = stalled(&gateway, &mut ann);
    for name in 0..8 {
        show(&mut ann, &name.to_string(), &json!(1));
    }
    assert_eq!(gateway.connections(), 2);
    show(&mut ann, "one more", &json!(1));
    let Ended { code, messages, .. } = stalled.ended();
    assert_eq!(code, Some(4000));
    assert!(messages.iter().all(|message| message["type"] != "signal"));
}

/// Goal: whoever subscribes while signals begin and end on another shard sees in the end what is
/// shown; and after `unsubscribed` nothing of the channel comes.
#[test]
fn who_comes_and_goes_sees_what_is_shown() {
    let gateway = Gateway::configured(SHOWN);
    let mut readers: Vec<(Client, Option<View>)> =
        (0..6).map(|_| (Client::connect(&gateway), None)).collect();
    let [mut ann] = subscribed(&gateway);
    for round in 0..600_usize {
        let name = (round % 5).to_string();
        ann.send(&signal(&name, &json!(round)));
        if round % 3 == 0 {
            ann.send(&signal(&name, &Value::Null));
        }
        let at = round % readers.len();
        let (reader, view) = &mut readers[at];
        // With a second command behind it, so that what comes after the first is seen.
        let kind = if view.is_some() { "unsubscribe" } else { "subscribe" };
        reader.send(&json!({"type": kind, "channel": "room:1", "id": 1}));
        reader.send(&json!({"type": "ping", "id": 2}));
        loop {
            let message = reader.next();
            match message["type"].as_str() {
                Some("signal") => view.as_mut().expect("it has the channel").see(&message),
                Some("subscribed") => *view = Some(View::of(&message)),
                Some("unsubscribed") => *view = None,
                Some("pong") => break,
                _ => panic!("{message}"),
            }
        }
    }
    ann.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    let mut last = Client::connect(&gateway);
    assert_eq!(View::of(&last.subscribe("room:1")), View::default());
    show(&mut last, "last", &json!(1));
    let mut expected = View::default();
    expected.0.insert((last.id.clone(), "last".to_owned()), json!(1));
    for (mut reader, view) in readers {
        let Some(mut view) = view else {
            reader.expect_nothing();
            continue;
        };
        loop {
            let message = reader.expect("signal");
            view.see(&message);
            if message["name"] == "last" {
                break;
            }
        }
        assert_eq!(view, expected);
    }
}

/// Goal: clients of every form get signals as JSON text, uncompressed and each in a frame of its
/// own.
#[test]
fn a_signal_is_text_in_every_form() {
    let gateway = Gateway::configured(SHOWN);
    let [mut ann] = subscribed(&gateway);
    let forms: [&[(&str, &str)]; 4] = [
        &[],
        &[("Sec-WebSocket-Protocol", "weir.v1.bin")],
        &[("Sec-WebSocket-Protocol", "weir.v1.json+gzip")],
        &[("Sec-WebSocket-Extensions", "permessage-deflate")],
    ];
    let mut readers: Vec<Raw> =
        forms.iter().map(|headers| Raw::offering(&gateway, headers).0).collect();
    for reader in &mut readers {
        reader.send(&masked(0x81, br#"{"type":"subscribe","channel":"room:1"}"#));
        let subscribed = reader.json();
        assert_eq!(subscribed["signals"], json!([]), "{subscribed}");
    }
    let mut batch = Client::connect_with(gateway.addr, "?batch=1", None);
    batch.subscribe("room:1");
    let data = json!("y".repeat(2_000));
    show(&mut ann, "a", &data);
    show(&mut ann, "b", &data);
    for reader in &mut readers {
        for name in ["a", "b"] {
            let (first, text) = reader.frame().unwrap();
            assert_eq!(first, 0x81);
            let message: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!((&message["name"], &message["data"]), (&json!(name), &data));
        }
    }
    let from = ann.id.clone();
    expect(&mut batch, &from, "a", &data);
    expect(&mut batch, &from, "b", &data);
}
