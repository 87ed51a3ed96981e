//! Presence: who is told of whom, how soon, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, now, weir};

const LINGER: Duration = Duration::from_millis(400);

const ROOMS: &str = "shards = 2\ndrain = \"1s\"\n\
    [[namespace]]\nname = \"room\"\npresence = true\npresence_linger = \"400ms\"\npatterns = true\n\
    [[namespace]]\nname = \"long\"\npresence = true\npresence_linger = \"1m\"\n\
    [[namespace]]\nname = \"crowd\"\npresence = true\npresence_linger = \"0s\"\n\
    presence_max_members = 10\n";

/// How long a shard may gather changes, and one more turn for the other shards.
const TICK: Duration = Duration::from_millis(90);

/// Reads messages up to one of that kind about that client.
fn until(client: &mut Client, kind: &str, about: &str) -> (Value, Vec<Value>) {
    let mut before = Vec::new();
    loop {
        let message = client.next();
        if message["type"] == kind && message["member"]["client"] == about {
            return (message, before);
        }
        before.push(message);
    }
}

/// What `client` was told of the channel until now: everything is, once an event has come that is
/// published after it.
fn settled(client: &mut Client, publisher: &mut Client, channel: &str) -> Vec<Value> {
    publisher.send(&json!({"type": "publish", "channel": channel, "data": "settled"}));
    let mut told = Vec::new();
    loop {
        let message = client.next();
        if message["type"] == "event" && message["data"] == "settled" {
            return told;
        }
        told.push(message);
    }
}

/// The clients of a list.
fn clients(answer: &Value) -> BTreeSet<String> {
    let members = answer["members"].as_array().unwrap_or_else(|| panic!("{answer}"));
    members.iter().map(|member| member["client"].as_str().unwrap().to_owned()).collect()
}

/// Asks, whatever is told meanwhile; the answer.
fn ask(client: &mut Client, command: &Value) -> Value {
    let mut command = command.clone();
    command["id"] = json!(999_999);
    client.send(&command);
    loop {
        let message = client.next();
        if message["id"] == 999_999 {
            return message;
        }
    }
}

/// Asks who is there.
fn presence(client: &mut Client, channel: &str) -> Value {
    ask(client, &json!({"type": "presence", "channel": channel}))
}

/// Goal: a join is told to those who are there and not to oneself, a leave at once where it was
/// asked for, and after a while where the connection was lost; and whoever asks is told the truth,
/// over every door.
#[test]
fn who_comes_and_goes_is_told() {
    let gateway = Gateway::configured(ROOMS);
    let mut watcher = Client::connect(&gateway);
    watcher.subscribe("room:1");
    let mut guest = Client::connect(&gateway);
    guest.subscribe("room:1");
    let (join, before) = until(&mut watcher, "join", &guest.id);
    assert!(before.is_empty(), "{before:?}");
    let since = join["member"]["since"].as_u64().unwrap();
    let member = json!({"client": guest.id, "user": null, "since": since});
    assert_eq!(join, json!({"type": "join", "channel": "room:1", "member": member}));
    let of_itself = settled(&mut guest, &mut watcher, "room:1");
    assert!(of_itself.iter().all(|told| told["member"]["client"] == *watcher.id), "{of_itself:?}");
    watcher.expect("event");

    let both = BTreeSet::from([watcher.id.clone(), guest.id.clone()]);
    let answer = presence(&mut watcher, "room:1");
    assert_eq!((&answer["type"], &answer["channel"]), (&json!("presence"), &json!("room:1")));
    assert_eq!((&answer["clients"], &answer["users"]), (&json!(2), &json!(0)));
    assert_eq!(clients(&answer), both);
    // Whoever has no subscription may ask as well.
    let mut outside = Client::connect(&gateway);
    assert_eq!(clients(&presence(&mut outside, "room:1")), both);
    let http = gateway.get("/api/v1/channels/room:1/presence");
    let http: Value = serde_json::from_str(&http.text()).unwrap();
    assert_eq!((clients(&http), &http["clients"]), (both.clone(), &json!(2)));
    let output = finished(&mut weir(&["presence", "room:1", "--url", &gateway.url()]));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((clients(&line), &line["channel"]), (both, &json!("room:1")));
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(presence(&mut outside, "room:2")["members"], json!([]));

    guest.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    let (leave, _) = until(&mut watcher, "leave", &guest.id);
    let member = json!({"client": guest.id, "user": null});
    assert_eq!(leave, json!({"type": "leave", "channel": "room:1", "member": member}));

    let mut lost = Client::connect(&gateway);
    lost.subscribe("room:1");
    until(&mut watcher, "join", &lost.id);
    let (id, at) = (lost.id.clone(), now());
    drop(lost);
    until(&mut watcher, "leave", &id);
    assert!(at.elapsed() >= LINGER, "{:?}", at.elapsed());
    assert_eq!(clients(&presence(&mut outside, "room:1")), BTreeSet::from([watcher.id.clone()]));
    drop(watcher);
    crate::harness::wait_for("the room to be freed", || {
        (gateway.metric("weir_rooms") < 0.5).then_some(())
    });
}

/// Goal: where the linger is long, who asks to leave goes at once, and who is lost stays a while.
#[test]
fn only_who_is_lost_lingers() {
    let gateway = Gateway::configured(ROOMS);
    let mut watcher = Client::connect(&gateway);
    watcher.subscribe("long:1");
    let [mut asks, mut lost] = [0, 1].map(|_| Client::connect(&gateway));
    asks.subscribe("long:1");
    until(&mut watcher, "join", &asks.id);
    ask(&mut lost, &json!({"type": "subscribe", "channel": "long:1"}));
    let id = lost.id.clone();
    assert_eq!(lost.close(1000), Some(1000));
    asks.send(&json!({"type": "unsubscribe", "channel": "long:1"}));
    let (_, before) = until(&mut watcher, "leave", &asks.id);
    assert!(before.iter().all(|told| told["type"] == "join"), "{before:?}");
    let there = clients(&presence(&mut watcher, "long:1"));
    assert_eq!(there, BTreeSet::from([watcher.id.clone(), id]));
}

/// Goal: whoever has the channel by pattern alone is not there, and hears of nobody; with the name
/// as well it is, once.
#[test]
fn by_pattern_nobody_is_there_or_told() {
    let gateway = Gateway::configured(ROOMS);
    let mut shadow = Client::connect(&gateway);
    shadow.subscribe("room:*");
    let mut guest = Client::connect(&gateway);
    guest.subscribe("room:1");
    let mut watcher = Client::connect(&gateway);
    watcher.subscribe("room:1");
    let (_, before) = until(&mut guest, "join", &watcher.id);
    assert!(before.is_empty(), "{before:?}");
    let told = settled(&mut shadow, &mut guest, "room:1");
    assert!(told.is_empty(), "{told:?}");
    let there = BTreeSet::from([guest.id.clone(), watcher.id.clone()]);
    assert_eq!(clients(&presence(&mut shadow, "room:1")), there);
    shadow.subscribe("room:1");
    until(&mut guest, "join", &shadow.id);
    shadow.send(&json!({"type": "subscribe", "channel": "room:1", "max_rate": 5}));
    shadow.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    let (_, before) = until(&mut guest, "leave", &shadow.id);
    assert!(before.iter().all(|told| told["type"] != "join"), "subscribing again is no join");
}

/// Goal: every way that a connection ends is one leave, and one only.
#[test]
fn every_end_is_one_leave() {
    type End = fn(&Gateway, Client);
    let ends: [(&str, End); 6] = [
        ("dropped", |_, client| drop(client)),
        ("closed", |_, mut client| assert_eq!(client.close(1000), Some(1000))),
        ("disconnected by an operator", |gateway, mut client| {
            let body = json!({"client": client.id}).to_string();
            assert_eq!(gateway.post("/api/v1/disconnect", &body).status, 200);
            assert_eq!(client.ended().code, Some(4503));
        }),
        ("too many errors", |_, mut client| {
            client.send_text(&"{\n".repeat(101));
            assert_eq!(client.ended().code, Some(4504));
        }),
        ("too large a message", |_, mut client| {
            client.send_text(&" ".repeat(70_000));
            client.ended();
        }),
        ("unsubscribed and closed", |_, mut client| {
            client.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
            client.close(1000);
        }),
    ];
    let gateway = Gateway::configured(ROOMS);
    let mut watcher = Client::connect(&gateway);
    watcher.subscribe("room:1");
    let mut left = Vec::new();
    for (name, end) in ends {
        let mut guest = Client::connect(&gateway);
        guest.subscribe("room:1");
        let id = guest.id.clone();
        until(&mut watcher, "join", &id);
        end(&gateway, guest);
        let (_, before) = until(&mut watcher, "leave", &id);
        assert!(before.is_empty(), "{name}: {before:?}");
        left.push(id);
    }
    // A last one, who would come behind any leave too many.
    let mut last = Client::connect(&gateway);
    last.subscribe("room:1");
    let (_, before) = until(&mut watcher, "join", &last.id);
    assert!(before.is_empty(), "{before:?}");
}

/// Goal: a client that comes and goes as fast as it can costs the others a message a tick.
#[test]
fn who_flips_is_told_once_a_tick() {
    const FLIPS: usize = 500;
    let gateway = Gateway::configured(ROOMS);
    let mut watcher = Client::connect(&gateway);
    watcher.subscribe("room:1");
    let mut flipper = Client::connect(&gateway);
    let begun = now();
    for _ in 0..FLIPS {
        flipper.send(&json!({"type": "subscribe", "channel": "room:1"}));
        flipper.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    }
    let mut unsubscribed = 0;
    while unsubscribed < FLIPS {
        unsubscribed += usize::from(flipper.next()["type"] == "unsubscribed");
    }
    let mut last = Client::connect(&gateway);
    last.subscribe("room:1");
    let (_, told) = until(&mut watcher, "join", &last.id);
    let ticks = begun.elapsed().as_millis() / TICK.as_millis() + 2;
    assert!(told.len() as u128 <= ticks, "{} in {ticks} ticks", told.len());
    let kinds: Vec<_> = told.iter().map(|told| told["type"].as_str().unwrap()).collect();
    assert!(kinds.chunks(2).all(|pair| pair == ["join", "leave"]), "{kinds:?}");
    let there = BTreeSet::from([watcher.id.clone(), last.id.clone()]);
    assert_eq!(clients(&presence(&mut watcher, "room:1")), there);
}

/// Goal: of a crowd everybody hears how large it is, once a second and at the end; and who is there
/// again, when it is small.
#[test]
fn a_crowd_is_counted() {
    const CROWD: usize = 500;
    let gateway = Gateway::configured(ROOMS);
    let begun = now();
    let mut crowd: Vec<Client> = (0..CROWD)
        .map(|_| {
            let mut client = Client::connect(&gateway);
            client.send(&json!({"type": "subscribe", "channel": "crowd:1"}));
            client
        })
        .collect();
    let mut told = 0;
    for client in &mut crowd {
        loop {
            let message = client.next();
            match message["type"].as_str().unwrap() {
                "subscribed" => {}
                "join" => told += 1,
                "presence" => {
                    told += 1;
                    assert_eq!((&message["users"], message.get("listed")), (&json!(0), None));
                    if message["clients"] == CROWD {
                        break;
                    }
                }
                other => panic!("{other}"),
            }
        }
    }
    // Ten hear of ten, and all of them of a second.
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!(told <= 100 + CROWD * seconds, "{told} in {seconds} s");
    let mut last = crowd.pop().unwrap();
    let answer = presence(&mut last, "crowd:1");
    assert_eq!((&answer["clients"], clients(&answer).len()), (&json!(CROWD), 0));

    crowd.truncate(4);
    let counts = loop {
        let message = last.expect("presence");
        if message["listed"] == true {
            break message;
        }
    };
    assert!(counts["clients"].as_u64().unwrap() <= 9, "{counts}");
    let mut there: BTreeSet<_> = crowd.iter().map(|client| client.id.clone()).collect();
    there.insert(last.id.clone());
    // Who leaves from here on is told of.
    let mut known = clients(&presence(&mut last, "crowd:1"));
    while known != there {
        let message = last.expect("leave");
        known.remove(message["member"]["client"].as_str().unwrap());
    }
    let mut guest = Client::connect(&gateway);
    guest.subscribe("crowd:1");
    until(&mut last, "join", &guest.id);
}

/// Goal: a node that goes sends everybody away, and tells nobody of the others.
#[test]
fn a_drain_is_no_storm_of_leaves() {
    let mut gateway = Gateway::configured(ROOMS);
    let mut crowd: Vec<_> = (0..20).map(|_| Client::connect(&gateway)).collect();
    for client in &mut crowd {
        ask(client, &json!({"type": "subscribe", "channel": "room:1"}));
        ask(client, &json!({"type": "subscribe", "channel": "crowd:2"}));
    }
    let last = crowd.last().unwrap().id.clone();
    for client in crowd.iter_mut().rev().skip(1) {
        until(client, "join", &last);
    }
    gateway.signal(Signal::TERM);
    for client in &mut crowd {
        let ended = client.ended();
        assert_eq!(ended.code, Some(4001));
        let leaves = ended.messages.iter().filter(|told| told["type"] == "leave").count();
        assert_eq!(leaves, 0, "{:?}", ended.messages);
    }
    assert!(gateway.ended().success());
}

#[test]
fn where_it_is_off_it_says_so() {
    let gateway = Gateway::configured(ROOMS);
    let mut client = Client::connect(&gateway);
    let mut ask = |channel: &str| client.ask(json!({"type": "presence", "channel": channel}));
    assert_eq!(ask("other:1")["code"], "not_enabled");
    assert_eq!(ask("room:*")["code"], "bad_request");
    assert_eq!(client.ask(json!({"type": "presence"}))["code"], "bad_request");
    let answer = client.ask(json!({"type": "request", "method": "m", "data": [1]}));
    assert_eq!(answer["code"], "unknown_method");
    assert_eq!(gateway.get("/api/v1/channels/other:1/presence").status, 409);
    assert_eq!(gateway.get("/api/v1/channels/room:*/presence").status, 400);
    assert_eq!(gateway.post("/api/v1/channels/room:1/presence", "").status, 405);
    let output = finished(&mut weir(&["presence", "other:1", "--url", &gateway.url()]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not_enabled"), "{said}");
    // Off is off: nobody is told of those who come.
    client.subscribe("other:1");
    let mut guest = Client::connect(&gateway);
    guest.subscribe("other:1");
    assert!(settled(&mut client, &mut guest, "other:1").is_empty());
    assert!(gateway.metric("weir_rooms") < 0.5);
}
