//! What a client may ask and what it is told.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway};
use crate::raw::Raw;

#[test]
fn a_client_is_welcomed_with_what_it_must_know() {
    let gateway = Gateway::configured("[limits]\nmessage_bytes = 4096\n[http]\nping = \"17s\"\n");
    let mut raw = Raw::open(gateway.addr);
    raw.send(crate::raw::handshake_request(gateway.addr, &[]).as_bytes());
    raw.head();
    let (_, text) = raw.frame().unwrap();
    let welcome: Value = serde_json::from_slice(&text).unwrap();
    assert!(text.starts_with(br#"{"type":"welcome""#), "type comes first");
    assert_eq!(welcome["client"].as_str().unwrap().len(), 13, "{welcome}");
    assert!(welcome.as_object().unwrap().contains_key("user"), "{welcome}");
    assert_eq!(welcome["user"], Value::Null);
    assert!(welcome["node"].is_string(), "{welcome}");
    assert_eq!(welcome["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(welcome["ping_ms"], 17000);
    assert_eq!(welcome["max_message"], 4096);
}

#[test]
fn an_event_reaches_every_subscriber_field_by_field() {
    let gateway = Gateway::start();
    let mut subscribers: Vec<_> = (0..8).map(|_| Client::connect(&gateway)).collect();
    let mut epochs = Vec::new();
    for subscriber in &mut subscribers {
        let answer = subscriber.subscribe("room:1");
        assert_eq!(answer["channel"], "room:1");
        assert_eq!(answer["offset"], 0);
        assert!(answer.get("recovered").is_none(), "only where since was given: {answer}");
        assert!(answer["alias"].is_u64(), "{answer}");
        epochs.push(answer["epoch"].clone());
    }
    let mut publisher = Client::connect(&gateway);
    let published = publisher.publish("room:1", &json!({"v": 1}));
    assert_eq!(published["channel"], "room:1");
    assert_eq!(published["offset"], 1);
    assert!(epochs.iter().all(|epoch| *epoch == published["epoch"]), "{epochs:?}");
    let texts: Vec<_> = subscribers.iter_mut().map(Client::next_text).collect();
    assert!(texts.windows(2).all(|two| two[0] == two[1]), "the same bytes for everybody");
    assert!(texts[0].starts_with(r#"{"type":"event","#), "{}", texts[0]);
    assert!(texts[0].ends_with(r#","data":{"v":1}}"#), "data comes last: {}", texts[0]);
    let event: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!(event["channel"], "room:1");
    assert_eq!(event["offset"], 1);
    assert!(event["ts"].as_u64().unwrap() > 1_700_000_000_000, "{event}");
    assert_eq!(event["from"]["client"], publisher.id);
    assert!(event.get("key").is_none(), "absent on events without one: {event}");
}

#[test]
fn a_publisher_sees_its_own_event_unless_it_says_no_echo() {
    let gateway = Gateway::start();
    let mut one = Client::connect(&gateway);
    let mut two = Client::connect(&gateway);
    one.subscribe("room:1");
    two.subscribe("room:1");
    one.send(&json!({"type": "publish", "channel": "room:1", "data": 1, "echo": false}));
    one.send(&json!({"type": "publish", "channel": "room:1", "data": 2}));
    let own = one.expect("event");
    assert_eq!((&own["data"], &own["offset"]), (&json!(2), &json!(2)));
    for data in 1..=2 {
        assert_eq!(two.expect("event")["data"], data);
    }
    one.expect_nothing();
    two.expect_nothing();
}

#[test]
fn a_key_travels_with_its_event() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("telemetry:h1");
    client.send_text(
        r#"{"type":"publish","channel":"telemetry:h1","key":"cpu \"0\"\u00e9","data":0.5}"#,
    );
    let event = client.expect("event");
    assert_eq!(event["key"], "cpu \"0\"\u{e9}");
    assert_eq!(event["data"], 0.5);
}

#[test]
fn offsets_count_from_one_without_holes_in_each_channel() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("a:1");
    reader.subscribe("a:2");
    let mut writer = Client::connect(&gateway);
    for offset in 1..=50 {
        assert_eq!(writer.publish("a:1", &json!(offset))["offset"], offset);
        assert_eq!(writer.publish("a:2", &json!(offset))["offset"], offset);
    }
    let mut next = [1, 1];
    for _ in 0..100 {
        let event = reader.expect("event");
        let channel = usize::from(event["channel"] == "a:2");
        assert_eq!(event["offset"], next[channel]);
        assert_eq!(event["data"], next[channel]);
        next[channel] += 1;
    }
}

#[test]
fn an_unsubscribed_client_hears_nothing_more() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    let mut writer = Client::connect(&gateway);
    reader.subscribe("room:1");
    let answer = reader.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    assert_eq!(answer["type"], "unsubscribed");
    assert_eq!(answer["channel"], "room:1");
    writer.publish("room:1", &json!(1));
    reader.expect_nothing();
    let again = reader.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    assert_eq!((&again["type"], &again["code"]), (&json!("error"), &json!("not_subscribed")));
}

#[test]
fn a_second_subscribe_only_changes_the_options() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    assert!(client.subscribe("room:1").get("updated").is_none());
    assert_eq!(client.subscribe("room:1")["updated"], true);
    client.send(&json!({"type": "publish", "channel": "room:1", "data": 1}));
    client.expect("event");
    client.expect_nothing();
}

#[test]
fn since_at_the_head_is_recovered_and_elsewhere_is_not() {
    let gateway = Gateway::start();
    let mut keeper = Client::connect(&gateway);
    keeper.subscribe("room:1");
    let mut writer = Client::connect(&gateway);
    let head = writer.publish("room:1", &json!(1));
    for (epoch, offset, recovered) in [
        (head["epoch"].as_str().unwrap(), 1, true),
        (head["epoch"].as_str().unwrap(), 0, false),
        (head["epoch"].as_str().unwrap(), 2, false),
        ("elsewhen", 1, false),
    ] {
        let mut client = Client::connect(&gateway);
        let since = json!({"epoch": epoch, "offset": offset});
        let command = json!({"type": "subscribe", "channel": "room:1", "since": since});
        let answer = client.ask(command);
        assert_eq!(answer["recovered"], recovered, "{since}: {answer}");
        assert_eq!(answer["offset"], 1);
    }
}

#[test]
fn a_success_without_an_id_is_silent_only_for_publish() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.send(&json!({"type": "publish", "channel": "room:1", "data": 1}));
    client.send(&json!({"type": "subscribe", "channel": "room:1"}));
    assert!(client.expect("subscribed").get("id").is_none());
    client.send(&json!({"type": "ping"}));
    assert!(client.expect("pong").get("id").is_none());
    client.send(&json!({"type": "unsubscribe", "channel": "room:1"}));
    client.expect("unsubscribed");
    client.send(&json!({"type": "publish", "channel": "a b", "data": 1}));
    assert_eq!(client.expect("error")["code"], "bad_request", "every failure is told");
}

#[test]
fn one_frame_may_hold_several_messages() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.send_text(
        "{\"type\":\"subscribe\",\"id\":1,\"channel\":\"room:1\"}\n\
         {\"type\":\"publish\",\"channel\":\"room:1\",\"data\":1}\r\n\n\
         nonsense\n\
         {\"type\":\"publish\",\"channel\":\"room:1\",\"data\":2}\n\
         {\"type\":\"ping\",\"id\":9007199254740991}\n",
    );
    let mut seen: Vec<_> = (0..5).map(|_| client.next()).collect();
    let events: Vec<_> = seen
        .extract_if(.., |message| message["type"] == "event")
        .map(|e| e["data"].clone())
        .collect();
    assert_eq!(events, [json!(1), json!(2)]);
    let answers: Vec<_> = seen.iter().map(|message| message["type"].as_str().unwrap()).collect();
    assert_eq!(answers, ["subscribed", "error", "pong"]);
    assert_eq!(seen[2]["id"], 9_007_199_254_740_991_u64);

    client.send_text("{\n \"type\": \"ping\",\n \"id\": 5\n}");
    assert_eq!(
        client.expect("pong")["id"],
        5,
        "one JSON value is one message, line breaks and all"
    );
    client.expect_nothing();
}

#[test]
fn data_survives_token_for_token() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let exact = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0",
        "1E5",
        "1e-7",
        "1e400",
        "-1e-400",
        "9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        r#""""#,
        r#""\u0041\/\n\t\"\\""#,
        r#""\ud83d\ude00""#,
        "\"\u{1F600} \u{e9} \u{2028}\"",
        r#""\u0000""#,
        "[]",
        "{}",
        r#"{"a":1,"a":2}"#,
        r#"{"":{"":[]}}"#,
        r#"{"data":1,"type":"x","id":7}"#,
        r#"[1,"a",{"b":[null,true]}]"#,
        &deep,
    ];
    for data in exact {
        client.send_text(&format!(r#"{{"type":"publish","channel":"room:1","data":{data}}}"#));
        let event = client.next_text();
        assert!(event.starts_with(r#"{"type":"event""#), "{data} brought {event}");
        assert!(event.ends_with(&format!(r#","data":{data}}}"#)), "{data} became {event}");
    }
    client.send_text(
        "{\"type\":\"publish\",\"data\":{ \"a\" : [ 1 , 2.50 ] },\"channel\":\"room:1\"}",
    );
    let event = client.next_text();
    let (_, data) = event.split_once(r#""data":"#).unwrap();
    let tight: String = data.chars().filter(|c| *c != ' ').collect();
    assert_eq!(tight, r#"{"a":[1,2.50]}}"#, "only white space may go");
}

/// Messages that are `bad_request`, each for a reason of its own.
fn bad_messages() -> Vec<String> {
    let hundred_thousand = "[".repeat(100_000);
    let too_deep = format!(
        r#"{{"type":"publish","channel":"room:1","data":{}{}}}"#,
        "[".repeat(80),
        "]".repeat(80)
    );
    let long = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, "x".repeat(256));
    let long_key =
        format!(r#"{{"type":"publish","channel":"room:1","key":"{}","data":1}}"#, "k".repeat(256));
    let plain = [
        "",
        " ",
        "x",
        "{",
        "[]",
        "1",
        "null",
        "\"ping\"",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"pong"}"#,
        r#"{"type":"PING"}"#,
        r#"{"type":"ping"} x"#,
        r#"{"type":"ping",}"#,
        r#"{"type":"ping" "id":1}"#,
        r#"{"type":"ping","id":0}"#,
        r#"{"type":"ping","id":-1}"#,
        r#"{"type":"ping","id":1.5}"#,
        r#"{"type":"ping","id":"1"}"#,
        r#"{"type":"ping","id":9007199254740992}"#,
        r#"{"type":"subscribe"}"#,
        r#"{"type":"subscribe","channel":1}"#,
        r#"{"type":"subscribe","channel":""}"#,
        r#"{"type":"subscribe","channel":":a"}"#,
        r#"{"type":"subscribe","channel":"a:"}"#,
        r#"{"type":"subscribe","channel":"a\u0007b"}"#,
        r#"{"type":"subscribe","channel":"a\nb"}"#,
        r#"{"type":"subscribe","channel":"caf\u00e9"}"#,
        r#"{"type":"subscribe","channel":"room:2","since":5}"#,
        r#"{"type":"subscribe","channel":"room:2","slow":"never"}"#,
        r#"{"type":"publish","channel":"room:1"}"#,
        r#"{"type":"publish","data":1}"#,
        r#"{"type":"publish","channel":"room:1","data":01}"#,
        r#"{"type":"publish","channel":"room:1","data":"\ud800"}"#,
        r#"{"type":"publish","channel":"room:1","data":1,"echo":"no"}"#,
        r#"{"type":"publish","channel":"room:1","data":1,"key":5}"#,
        r#"{"type":"unsubscribe"}"#,
    ];
    let long = [hundred_thousand, too_deep, long, long_key];
    plain.into_iter().map(str::to_owned).chain(long).collect()
}

#[test]
fn a_bad_message_is_answered_and_changes_nothing() {
    let gateway = Gateway::configured("[limits]\nmessage_bytes = \"128KiB\"\n");
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    for case in bad_messages() {
        client.send_text(&case);
        if case.trim().is_empty() {
            // Empty lines are skipped; whether an empty frame is one is not said.
            client.send_text(r#"{"type":"ping","id":77}"#);
            while client.next()["type"] != "pong" {}
            continue;
        }
        let error = client.next();
        let shown = &case[..case.len().min(80)];
        assert_eq!(error["type"], "error", "{shown} brought {error}");
        assert_eq!(error["code"], "bad_request", "{shown} brought {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    client.send_binary(b"\x00\x01");
    assert_eq!(client.expect("error")["code"], "bad_request");
    client.send_text(r#"{"type":"subscribe","id":3,"channel":"a b"}"#);
    assert_eq!(client.expect("error")["id"], 3, "an error names the command where it can");
    client.expect_nothing();
}

#[test]
fn what_is_not_there_yet_says_so() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    for (command, code) in [
        (json!({"type": "presence", "channel": "room:1"}), "not_enabled"),
        (json!({"type": "history", "channel": "room:1"}), "not_enabled"),
        (json!({"type": "signal", "channel": "room:1", "name": "t", "data": 1}), "not_enabled"),
        (json!({"type": "request", "method": "m"}), "unknown_method"),
    ] {
        let answer = client.ask(command.clone());
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{command}"
        );
    }
}

#[test]
fn subscriptions_end_at_their_limit() {
    let gateway = Gateway::configured("[limits]\nsubscriptions_per_connection = 3\n");
    let mut client = Client::connect(&gateway);
    for room in 1..=3 {
        client.subscribe(&format!("room:{room}"));
    }
    let refused = client.ask(json!({"type": "subscribe", "channel": "room:4"}));
    assert_eq!(refused["code"], "limit_exceeded", "{refused}");
    assert_eq!(client.subscribe("room:1")["updated"], true);
    client.ask(json!({"type": "unsubscribe", "channel": "room:1"}));
    client.subscribe("room:4");
}

#[test]
fn too_many_bad_messages_end_the_connection() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    let mut bystander = Client::connect(&gateway);
    client.send_text(&"x\n".repeat(101));
    let ended = client.ended();
    assert_eq!((ended.code, ended.reason.as_str()), (Some(4504), "too_many_errors"));
    let last = ended.messages.last().unwrap();
    assert_eq!(last["type"], "disconnect", "{last}");
    assert_eq!((&last["code"], &last["reconnect"]), (&json!(4504), &json!(false)));
    bystander.expect_nothing();
}
