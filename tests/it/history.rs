//! The past of a channel: reading it, coming back to it, the newest of each key, and retries.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, finished, weir};
use crate::raw::http;

const KEPT: &str = "shards = 2\n\
    [[namespace]]\nname = \"room\"\nhistory = 1000\npatterns = true\n\
    [[namespace]]\nname = \"few\"\nhistory = 3\nrecovery_max_events = 2\n\
    [[namespace]]\nname = \"dash\"\nkeyed = true\nmax_keys = 3\n";

fn offset(message: &Value) -> u64 {
    message["offset"].as_u64().unwrap()
}

fn offsets(answer: &Value) -> Vec<u64> {
    answer["events"].as_array().unwrap().iter().map(offset).collect()
}

/// Publishes numbers, and gives the epoch.
fn fill(client: &mut Client, channel: &str, count: u64) -> String {
    let last = (1..=count).map(|n| client.publish(channel, &json!(n))).last().unwrap();
    last["epoch"].as_str().unwrap().to_owned()
}

fn since(epoch: &str, offset: u64) -> Value {
    json!({"epoch": epoch, "offset": offset})
}

/// Goal: `history` gives what is kept, the same over both doors, and says what it cannot give.
#[test]
fn what_is_kept_is_read() {
    let gateway = Gateway::configured(KEPT);
    let mut client = Client::connect(&gateway);
    let epoch = fill(&mut client, "few:1", 5);
    let mut ask = |fields: Value| {
        let mut command = json!({"type": "history", "channel": "few:1"});
        command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        client.ask(command)
    };
    let all = ask(json!({}));
    assert_eq!((all["type"].as_str(), offsets(&all)), (Some("history"), vec![3, 4, 5]));
    assert_eq!((all["epoch"].as_str(), offset(&all)), (Some(&*epoch), 5));
    assert_eq!(all["events"][2]["data"], 5);
    assert_eq!(offsets(&ask(json!({"limit": 2}))), [4, 5], "the newest");
    assert_eq!(offsets(&ask(json!({"since": since(&epoch, 3), "limit": 1}))), [4]);
    assert_eq!(offsets(&ask(json!({"reverse": true}))), [5, 4, 3]);
    assert_eq!(offsets(&ask(json!({"limit": 0}))), [0_u64; 0]);
    let refused = [
        (json!({"since": since("other", 1)}), "unknown_position"),
        (json!({"since": since(&epoch, 6)}), "unknown_position"),
        (json!({"since": since(&epoch, u64::MAX)}), "unknown_position"),
        (json!({"since": {"epoch": epoch, "offset": -1}}), "bad_request"),
        (json!({"limit": 1001}), "bad_request"),
        (json!({"limit": -1}), "bad_request"),
        (json!({"reverse": 1}), "bad_request"),
        (json!({"channel": "few:*"}), "bad_request"),
        (json!({"channel": "other:1"}), "not_enabled"),
    ];
    for (fields, code) in refused {
        assert_eq!(ask(fields.clone())["code"], code, "{fields}");
    }
    let get = |query: &str| gateway.get(&format!("/api/v1/channels/few:1/history{query}"));
    let answer: Value = serde_json::from_str(&get("").text()).unwrap();
    assert_eq!(answer["events"], all["events"]);
    assert_eq!((answer["channel"].as_str(), offset(&answer)), (Some("few:1"), 5));
    let answer = get(&format!("?since={epoch}.3&limit=9&reverse=1"));
    assert_eq!(offsets(&serde_json::from_str(&answer.text()).unwrap()), [5, 4]);
    for (query, status) in
        [("?since=x", 400), ("?since=x.1", 404), ("?limit=1001", 400), ("?reverse=yes", 400)]
    {
        assert_eq!(get(query).status, status, "{query}");
    }
    assert_eq!(gateway.get("/api/v1/channels/other:1/history").status, 409);
    assert_eq!(gateway.get("/api/v1/channels/few:*/history").status, 400);
}

/// Goal: whoever comes back gets what it has missed, in order and before anything new; or is told
/// that it does not.
#[test]
fn who_comes_back_gets_what_it_has_missed() {
    let gateway = Gateway::configured(KEPT);
    let mut publisher = Client::connect(&gateway);
    let epoch = fill(&mut publisher, "room:1", 500);
    for (from, recovered) in [(0, true), (250, true), (500, true), (501, false)] {
        let mut client = Client::connect(&gateway);
        let wanted = since(&epoch, from);
        let answer = client.ask(json!({"type": "subscribe", "channel": "room:1", "since": wanted}));
        assert_eq!((&answer["recovered"], offset(&answer)), (&json!(recovered), 500));
        for offset in from + 1..=500 {
            assert_eq!(client.expect("event")["offset"], offset);
        }
        client.expect_nothing();
    }
    // Three are kept, and two may be recovered.
    let epoch = fill(&mut publisher, "few:1", 5);
    for (from, recovered) in [(1, false), (2, false), (3, true), (5, true)] {
        let mut client = Client::connect(&gateway);
        let wanted = since(&epoch, from);
        let answer = client.ask(json!({"type": "subscribe", "channel": "few:1", "since": wanted}));
        assert_eq!(answer["recovered"], recovered, "{from}");
        if recovered {
            for offset in from + 1..=5 {
                assert_eq!(client.expect("event")["offset"], offset);
            }
        }
        client.expect_nothing();
    }
    assert!(gateway.metric("weir_events_recovered_total") >= 750.0);
    assert!(gateway.metric("weir_recoveries_total{whole=\"false\"}") >= 1.0);
}

/// Goal: a place that is none is refused with a sentence, and one of another life is not recovered; the
/// subscription that begins all the same begins at the head.
#[test]
fn a_place_that_is_none_recovers_nothing() {
    let gateway = Gateway::configured(KEPT);
    let epoch = fill(&mut Client::connect(&gateway), "room:1", 3);
    let longest = "e".repeat(60_000);
    for (epoch, offset) in [
        ("other", "0"),
        ("", "0"),
        (&*longest, "3"),
        (&*epoch, "4"),
        (&*epoch, "18446744073709551615"),
    ] {
        let mut client = Client::connect(&gateway);
        client.send_text(&format!(
            r#"{{"type":"subscribe","channel":"room:1","id":1,"since":{{"epoch":"{epoch}","offset":{offset}}}}}"#
        ));
        let answer = client.next();
        assert_eq!(
            (&answer["recovered"], &answer["offset"]),
            (&json!(false), &json!(3)),
            "{offset}"
        );
        client.expect_nothing();
    }
    let mut client = Client::connect(&gateway);
    for offset in ["-1", "1.5", "1e3", "18446744073709551616", "\"1\"", "null", "[]", "1e400"] {
        client.send_text(&format!(
            r#"{{"type":"subscribe","channel":"room:1","id":1,"since":{{"epoch":"{epoch}","offset":{offset}}}}}"#
        ));
        let answer = client.next();
        assert_eq!(
            (&answer["code"], &answer["id"]),
            (&json!("bad_request"), &json!(1)),
            "{offset}"
        );
    }
    for since in [r#"{"epoch":"x"}"#, r#"{"offset":1}"#, "{}", "[1]", "-1"] {
        client.send_text(&format!(
            r#"{{"type":"subscribe","channel":"room:1","id":2,"since":{since}}}"#
        ));
        assert_eq!(client.next()["code"], "bad_request", "{since}");
    }
    assert!(client.subscribe("room:1").get("recovered").is_none(), "it has nothing yet");
}

/// Goal: no hole and nothing twice between the past and the live events, while publishers run at
/// full speed and the shards race.
#[test]
fn nothing_falls_between_the_past_and_the_present() {
    const COMINGS: usize = 60;
    let gateway = Gateway::configured(KEPT);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut publisher = Client::connect(&gateway);
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    publisher.publish("room:1", &json!("x".repeat(100)));
                }
            });
        }
        let end = End(&over);
        let mut client = Client::connect(&gateway);
        let first = client.subscribe("room:1");
        let epoch = first["epoch"].as_str().unwrap().to_owned();
        let mut place = offset(&first);
        let mut head = place;
        for coming in 0..COMINGS {
            // All that was missed, so that it never is more than may be recovered; and some more.
            while place < head + 20 {
                let event = client.expect("event");
                assert_eq!(offset(&event), place + 1, "{event}");
                place += 1;
            }
            if coming % 2 == 0 {
                client = Client::connect(&gateway);
            } else {
                client.send(&json!({"type": "unsubscribe", "channel": "room:1", "id": 9}));
                while client.next()["type"] != "unsubscribed" {}
            }
            let wanted = since(&epoch, place);
            let command =
                json!({"type": "subscribe", "channel": "room:1", "since": wanted, "id": 8});
            client.send(&command);
            let answer = client.next();
            assert_eq!(
                (&answer["type"], &answer["recovered"]),
                (&json!("subscribed"), &json!(true))
            );
            head = offset(&answer);
        }
        drop(end);
    });
}

/// Ends the publishers, also when the test fails.
struct End<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Goal: what is recovered counts against no queue, and is never cut, however slowly it is read;
/// what is published meanwhile waits behind it, within the bounds.
#[test]
fn a_slow_return_is_whole_and_what_is_new_waits_behind() {
    let limits = "[limits]\nqueue_events = 16\nqueue_bytes = \"64KiB\"\n";
    let gateway = Gateway::configured(&format!("{limits}{}", KEPT.replace("shards = 2\n", "")));
    let mut publisher = Client::connect(&gateway);
    let data = json!("x".repeat(10_000));
    let mut epoch = String::new();
    for _ in 0..1_000 {
        let place = publisher.publish("room:1", &data);
        epoch = place["epoch"].as_str().unwrap().to_owned();
    }
    let mut slow = Client::connect_narrow(&gateway);
    let wanted = since(&epoch, 0);
    let answer = slow.ask(json!({"type": "subscribe", "channel": "room:1", "since": wanted}));
    assert_eq!(answer["recovered"], true);
    // Ten megabytes are more than the kernel takes.
    for n in 1_001..=1_100 {
        assert_eq!(publisher.publish("room:1", &json!("live"))["offset"], n);
    }
    // Answers do not wait for the past.
    for offset in 1..=1_000 {
        let event = slow.expect("event");
        assert_eq!((&event["offset"], &event["data"]), (&json!(offset), &data));
    }
    let lagged = slow.expect("lagged");
    assert_eq!((&lagged["from"], &lagged["to"]), (&json!(1_001), &json!(1_084)));
    for offset in 1_085..=1_100 {
        assert_eq!(slow.expect("event")["offset"], offset);
    }
    slow.expect_nothing();
}

/// Goal: a keyed channel shows the newest event of each key to whoever comes, until it is taken
/// back.
#[test]
fn whoever_comes_sees_the_newest_of_each_key() {
    let gateway = Gateway::configured(KEPT);
    let mut publisher = Client::connect(&gateway);
    let mut put = |key: &str, data: Value| {
        let answer = publisher
            .ask(json!({"type": "publish", "channel": "dash:1", "key": key, "data": data}));
        offset(&answer)
    };
    for (key, n) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
        put(key, json!(n));
    }
    let shown = |count: usize| -> Vec<(u64, bool)> {
        let mut client = Client::connect(&gateway);
        client.subscribe("dash:1");
        let events: Vec<_> = (0..count).map(|_| client.expect("event")).collect();
        client.expect_nothing();
        events.iter().map(|event| (offset(event), event["snapshot"] == true)).collect()
    };
    assert_eq!(shown(3), [(3, true), (4, true), (5, true)]);
    let mut client = Client::connect(&gateway);
    client.ask(json!({"type": "subscribe", "channel": "dash:1", "snapshot": false}));
    client.expect_nothing();
    assert_eq!(put("b", Value::Null), 6);
    assert_eq!(client.expect("event")["data"], Value::Null, "subscribers see it go");
    assert_eq!(shown(2), [(3, true), (4, true)]);
    for (key, n) in [("d", 7), ("e", 8)] {
        put(key, json!(n));
    }
    assert_eq!(shown(3), [(4, true), (7, true), (8, true)], "three keys at most");
    let answer = gateway.get("/api/v1/channels/dash:1/snapshot");
    let answer: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((offsets(&answer), offset(&answer)), (vec![4, 7, 8], 8));
    assert!(answer["events"].as_array().unwrap().iter().all(|event| event["snapshot"] == true));
    let part = |query: &str| {
        let answer = gateway.get(&format!("/api/v1/channels/dash:1/snapshot?{query}"));
        let value: Value = serde_json::from_str(&answer.text()).unwrap();
        let found = value["events"].as_array().map(|_| offsets(&value));
        (answer.status, found.unwrap_or_default(), value["more"] == true)
    };
    assert_eq!(part("limit=2"), (200, vec![4, 7], true));
    assert_eq!(part("limit=2&after=4"), (200, vec![7, 8], false));
    assert_eq!(part("after=8"), (200, vec![], false));
    for bad in ["limit=0", "limit=1001", "limit=x", "after=-1", "after=x"] {
        assert_eq!(part(bad).0, 400, "{bad}");
    }
    assert_eq!(gateway.get("/api/v1/channels/room:1/snapshot").status, 409);
}

/// Goal: no answer is larger than it may be, and who goes on from the last offset gets the rest.
#[test]
fn an_answer_over_http_has_its_bound() {
    let gateway = Gateway::configured(
        "[[namespace]]\nname = \"big\"\nhistory = 1000\nkeyed = true\nmax_keys = 100\n",
    );
    let data = "x".repeat(60_000);
    for key in 0..40 {
        let body = json!({"channel": "big:1", "key": key.to_string(), "data": data}).to_string();
        assert_eq!(gateway.post("/api/v1/publish", &body).status, 200);
    }
    let read = |query: &str| -> Value {
        let answer = gateway.get(&format!("/api/v1/channels/big:1/{query}"));
        assert!(answer.text().len() < 1_200_000, "{query}");
        serde_json::from_str(&answer.text()).unwrap()
    };
    let first = read("history?limit=1000");
    assert_eq!(offsets(&first).len(), 18, "until it is too much");
    let since = |offset: u64| format!("since={}.{offset}", first["epoch"].as_str().unwrap());
    let mut all = Vec::new();
    while all.len() < 40 {
        let since = since(all.last().copied().unwrap_or(0));
        all.extend(offsets(&read(&format!("history?limit=1000&{since}"))));
    }
    assert_eq!(all, (1..=40).collect::<Vec<u64>>());
    let (mut all, mut more) = (Vec::new(), true);
    while std::mem::take(&mut more) {
        let after = all.last().copied().unwrap_or(0);
        let part = read(&format!("snapshot?after={after}"));
        all.extend(offsets(&part));
        more = part["more"] == true;
    }
    assert_eq!(all, (1..=40).collect::<Vec<u64>>());
}

/// Goal: whoever has the channel by pattern does not get the same again by name.
#[test]
fn a_name_beside_a_pattern_repeats_nothing() {
    let gateway = Gateway::configured(KEPT);
    let mut publisher = Client::connect(&gateway);
    let epoch = fill(&mut publisher, "room:1", 5);
    let mut client = Client::connect(&gateway);
    client.subscribe("room:*");
    publisher.publish("room:1", &json!(6));
    assert_eq!(client.expect("event")["offset"], 6);
    let wanted = since(&epoch, 2);
    let answer = client.ask(json!({"type": "subscribe", "channel": "room:1", "since": wanted}));
    assert_eq!(answer["recovered"], false);
    publisher.publish("room:1", &json!(7));
    assert_eq!(client.expect("event")["offset"], 7);
    client.expect_nothing();
}

/// Goal: a retry is harmless, over both doors and from another connection.
#[test]
fn the_same_message_is_published_once() {
    let gateway = Gateway::start();
    let mut reader = Client::connect(&gateway);
    reader.subscribe("room:1");
    let publish = json!({"type": "publish", "channel": "room:1", "data": 1, "message_id": "m1"});
    let first = Client::connect(&gateway).ask(publish.clone());
    assert!(first.get("duplicate").is_none(), "{first}");
    let again = Client::connect(&gateway).ask(publish);
    assert_eq!((offset(&again), &again["duplicate"]), (offset(&first), &json!(true)));
    let body = r#"{"channel":"room:1","data":2,"message_id":"m1"}"#;
    let over_http: Value =
        serde_json::from_str(&gateway.post("/api/v1/publish", body).text()).unwrap();
    assert_eq!((offset(&over_http), &over_http["duplicate"]), (1, &json!(true)));
    let ndjson = format!("{body}\n{}\n", body.replace("m1", "m2"));
    let headers = [("Content-Type", "application/x-ndjson")];
    let lines = http(gateway.addr, "POST", "/api/v1/publish", &headers, ndjson.as_bytes());
    assert!(lines.text().contains("\"accepted\":2"), "{}", lines.text());
    let long = format!(r#"{{"channel":"room:1","data":2,"message_id":"{}"}}"#, "x".repeat(65));
    assert_eq!(gateway.post("/api/v1/publish", &long).status, 400);
    assert_eq!(reader.expect("event")["offset"], 1);
    assert_eq!(reader.expect("event")["offset"], 2);
    reader.expect_nothing();
    assert!(gateway.metric("weir_events_duplicate_total") >= 3.0);
}

/// Goal: the command line reads the past, and goes on from a place.
#[test]
fn the_command_line_reads_the_past() {
    let gateway = Gateway::configured(KEPT);
    let mut publisher = Client::connect(&gateway);
    let epoch = fill(&mut publisher, "room:1", 5);
    let url = gateway.url();
    let lines = |args: &[&str]| -> Vec<u64> {
        let output = finished(weir(args).args(["--url", &url]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| offset(&serde_json::from_str(line).unwrap())).collect()
    };
    assert_eq!(lines(&["history", "room:1"]), [1, 2, 3, 4, 5]);
    assert_eq!(lines(&["history", "room:1", "--limit", "2", "--reverse"]), [5, 4]);
    let place = format!("{epoch}.3");
    assert_eq!(lines(&["history", "room:1", "--since", &place]), [4, 5]);
    assert_eq!(lines(&["sub", "room:1", "--since", &place, "--count", "2"]), [4, 5]);
    // More than one answer has.
    let data = json!("x".repeat(60_000));
    for _ in 6..=45 {
        publisher.publish("room:1", &data);
    }
    assert_eq!(lines(&["history", "room:1"]), (1..=45).collect::<Vec<_>>());
    assert_eq!(lines(&["history", "room:1", "--limit", "30"]), (16..=45).collect::<Vec<_>>());
    let refused = finished(&mut weir(&["history", "other:1", "--url", &url]));
    assert_eq!(refused.status.code(), Some(1));
    let usage = finished(&mut weir(&["sub", "a", "b", "--since", &place]));
    assert_eq!(usage.status.code(), Some(2), "a place is of one channel");
}
