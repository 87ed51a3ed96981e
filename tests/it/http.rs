//! The HTTP API: publishing, looking, scraping, and who may not.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, PATIENCE, now, wait_for};
use crate::raw::{Answer, http, sum};

const PUBLISH: &str = "/api/v1/publish";

fn ndjson(gateway: &Gateway, body: &[u8]) -> Answer {
    http(gateway.addr, "POST", PUBLISH, &[("Content-Type", "application/x-ndjson")], body)
}

#[test]
fn a_published_event_reaches_subscribers_without_an_author() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    let subscribed = client.subscribe("room:1");
    let answer =
        gateway.post(PUBLISH, r#"{"channel":"room:1","key":"k","data":{"n":9007199254740993}}"#);
    assert_eq!(answer.status, 200, "{}", answer.head);
    let published = answer.json();
    assert_eq!(published["channel"], "room:1");
    assert_eq!(published["epoch"], subscribed["epoch"]);
    assert_eq!(published["offset"], 1);
    let text = client.next_text();
    assert!(text.ends_with(r#","data":{"n":9007199254740993}}"#), "{text}");
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&event["type"], &event["key"]), (&json!("event"), &json!("k")));
    assert!(event.get("from").is_none(), "{event}");
}

#[test]
fn a_bad_publish_is_refused_with_a_code() {
    let gateway = Gateway::start();
    for body in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"channel":"room:1"}"#,
        r#"{"data":1}"#,
        r#"{"channel":"a b","data":1}"#,
        r#"{"channel":5,"data":1}"#,
        r#"{"channel":"room:1","data":1,"key":2}"#,
        r#"{"channel":"room:1","data":1} x"#,
    ] {
        assert_eq!(gateway.post(PUBLISH, body).error(400), "bad_request", "{body}");
    }
    assert_eq!(gateway.get("/nowhere").status, 404);
    assert_eq!(gateway.get("/api/v1/nowhere").status, 404);
    assert_eq!(gateway.get(PUBLISH).status, 405);
    assert_eq!(gateway.get("/healthz").status, 200, "nothing else changed");
}

#[test]
fn a_bad_line_rejects_itself_alone() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let lines = [
        r#"{"channel":"room:1","data":1}"#,
        "not json",
        "",
        r#"{"channel":"room:1","data":2}"#,
        r#"{"channel":"a b","data":3}"#,
        "{\"channel\":\"room:1\",\"data\":4}\r",
    ];
    let answer = ndjson(&gateway, lines.join("\n").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.head);
    let answer = answer.json();
    assert_eq!(answer["accepted"], 3, "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    let places: Vec<_> = rejected.iter().map(|one| one["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 5], "lines count from 1, empty ones too: {answer}");
    for one in rejected {
        assert_eq!(one["code"], "bad_request");
        assert!(!one["message"].as_str().unwrap().is_empty());
    }
    for data in [1, 2, 4] {
        assert_eq!(client.expect("event")["data"], data);
    }
    client.expect_nothing();
    let bytes = ndjson(&gateway, b"{\"channel\":\"room:1\",\"data\":\"\xff\"}\n");
    assert_eq!(bytes.json()["rejected"][0]["line"], 1);
}

#[test]
fn a_raw_body_is_one_event() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1/x");
    let path = "/api/v1/channels/room%3A1%2Fx/events";
    let all_bytes: Vec<u8> = (0..=255).collect();
    let types = [("Content-Type", "application/octet-stream")];
    let answer = http(gateway.addr, "PUT", &format!("{path}?key=a%20b"), &types, &all_bytes);
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.json()["offset"], 1);
    let event = client.expect("event");
    assert!(event.get("data").is_none(), "{event}");
    assert_eq!(event["key"], "a b");
    let text = event["data_b64"].as_str().unwrap();
    let engine = base64::engine::general_purpose::STANDARD;
    assert_eq!(base64::Engine::decode(&engine, text).unwrap(), all_bytes);

    let types = [("Content-Type", "application/json")];
    let answer = http(gateway.addr, "PUT", path, &types, br#"{"v":1}"#);
    assert_eq!(answer.json()["offset"], 2);
    assert_eq!(client.expect("event")["data"], json!({"v": 1}));
    assert_eq!(http(gateway.addr, "PUT", path, &types, b"{").error(400), "bad_request");
    let bad = http(gateway.addr, "PUT", "/api/v1/channels/a%20b/events", &types, b"1");
    assert_eq!(bad.error(400), "bad_request");
    client.expect_nothing();
}

#[test]
fn bodies_are_bounded() {
    let gateway = Gateway::configured("[http]\nbody_bytes = 4096\n");
    let big = format!(r#"{{"channel":"room:1","data":"{}"}}"#, "x".repeat(8000));
    assert_eq!(gateway.post(PUBLISH, &big).error(413), "too_large");
    assert_eq!(ndjson(&gateway, big.as_bytes()).error(413), "too_large");
    let path = "/api/v1/channels/room:1/events";
    assert_eq!(http(gateway.addr, "PUT", path, &[], big.as_bytes()).error(413), "too_large");
    // Chunks have no length in the header; they count as they come.
    let mut raw = crate::raw::Raw::open(gateway.addr);
    let head = "POST /api/v1/publish HTTP/1.1\r\nConnection: close\r\nContent-Type: \
                application/json\r\nTransfer-Encoding: chunked\r\n";
    raw.send(format!("{head}Host: {}\r\n\r\n", gateway.addr).as_bytes());
    raw.send(format!("{:x}\r\n{big}\r\n0\r\n\r\n", big.len()).as_bytes());
    assert_eq!(Answer::read(&raw.rest()).status, 413);
}

/// Many are looked at beside the shard.
#[test]
fn many_channels_are_listed_as_few_are() {
    const MANY: usize = 10_000;
    let gateway = Gateway::start();
    let name = |n: usize| format!("many:{n:05}");
    let lines = (0..MANY).map(|n| format!("{{\"channel\":\"{}\",\"data\":{n}}}\n", name(n)));
    let lines = lines.collect::<String>();
    assert_eq!(ndjson(&gateway, lines.as_bytes()).json()["accepted"], MANY);
    for (query, first, count, next) in [
        ("limit=1000", 0, 1_000, Some(999)),
        ("limit=2&after=many:00009", 10, 2, Some(11)),
        ("limit=10&after=many:09994", 9_995, 5, None),
        ("prefix=many:012", 1_200, 100, None),
    ] {
        let page = gateway.get(&format!("/api/v1/channels?{query}")).json();
        let found = page["channels"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|one| one["channel"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, (first..first + count).map(name).collect::<Vec<_>>(), "{query}");
        assert_eq!(page["next"], json!(next.map(name)), "{query}");
    }
}

#[test]
fn live_channels_are_listed_in_order_and_pages() {
    let gateway = Gateway::start();
    let mut one = Client::connect(&gateway);
    let mut two = Client::connect(&gateway);
    for channel in ["room:1", "room:2", "room:3", "telemetry:a"] {
        one.subscribe(channel);
    }
    two.subscribe("room:2");
    one.send(&json!({"type": "publish", "channel": "room:2", "data": 1}));
    one.expect("event");
    let list = gateway.get("/api/v1/channels?prefix=room:").json();
    let row = |channel, subscribers, offset| json!({"channel": channel, "subscribers": subscribers, "offset": offset});
    assert_eq!(
        list["channels"],
        json!([row("room:1", 1, 0), row("room:2", 2, 1), row("room:3", 1, 0)])
    );
    let page = gateway.get("/api/v1/channels?limit=2").json();
    assert_eq!(page["channels"].as_array().unwrap().len(), 2);
    assert!(!page["next"].is_null(), "there is more: {page}");
    drop(two);
    wait_for("the subscriber to leave", || {
        let list = gateway.get("/api/v1/channels?prefix=room:2").json();
        (list["channels"][0]["subscribers"] == 1).then_some(())
    });
}

#[test]
fn health_readiness_stats_and_the_page_answer() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_eq!(gateway.get("/readyz").status, 200);
    let stats = gateway.get("/api/v1/stats");
    assert_eq!(stats.status, 200);
    assert!(stats.json().is_object(), "{}", stats.text());
    let page = gateway.get("/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().to_lowercase().contains("<!doctype html>"));
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        let head = http(gateway.addr, "HEAD", path, &[], b"");
        assert!(matches!(head.status, 200 | 405), "{path}: {}", head.head);
        assert!(head.body.is_empty(), "{path}");
    }
}

#[test]
fn a_scrape_parses_and_its_counters_move() {
    let gateway = Gateway::start();
    let before = gateway.get("/metrics");
    assert!(before.header("content-type").unwrap().contains("text"), "{}", before.head);
    let before = before.text();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    for _ in 0..10 {
        client.send(&json!({"type": "publish", "channel": "room:1", "data": 1}));
        client.expect("event");
    }
    client.send_text("nonsense");
    client.expect("error");
    gateway.post(PUBLISH, r#"{"channel":"room:1","data":1}"#);
    client.expect("event");
    let after = gateway.get("/metrics").text();
    let moved = |prefix: &str| (sum(&after, prefix) - sum(&before, prefix)).round();
    for (prefix, by) in [
        ("weir_connections_opened_total", 1.0),
        ("weir_events_published_total", 11.0),
        ("weir_events_delivered_total", 11.0),
        ("weir_errors_total{code=\"bad_request\"", 1.0),
        ("weir_publish_to_write_seconds_count", 11.0),
        ("weir_commands_total{type=\"publish\"", 10.0),
        ("weir_commands_total{type=\"subscribe\"", 1.0),
    ] {
        assert!((moved(prefix) - by).abs() < 0.5, "{prefix} moved by {}, not {by}", moved(prefix));
    }
    assert!(moved("weir_bytes_sent_total") > 500.0);
    assert!(moved("weir_bytes_received_total") > 500.0);
    assert!((sum(&after, "weir_subscriptions") - 1.0).abs() < 0.5);
    for line in after.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("weir_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(!line.contains("room:1"), "no user input in a label: {line}");
    }
    let id = client.id.clone();
    assert!(!after.contains(&id));
    drop(client);
    wait_for("the client's end to be counted", || {
        let scrape = gateway.get("/metrics").text();
        let left = sum(&scrape, "weir_connections{") + sum(&scrape, "weir_connections ");
        (left < 0.5 && sum(&scrape, "weir_subscriptions") < 0.5).then_some(())
    });
}

/// A page in a local browser, or everybody behind a local proxy, is not "loopback".
#[test]
fn strangers_behind_a_browser_or_proxy_are_refused() {
    let gateway = Gateway::start();
    let body = br#"{"channel":"room:1","data":1}"#;
    let port = gateway.addr.port();
    let foreign = [
        [("Origin", "https://evil.example".to_owned())],
        [("Origin", "null".to_owned())],
        [("Host", "evil.example".to_owned())],
        [("Host", format!("evil.example:{port}"))],
        [("Host", format!("127.0.0.1.evil.example:{port}"))],
        [("X-Forwarded-For", "203.0.113.9".to_owned())],
        [("Forwarded", "for=203.0.113.9".to_owned())],
        [("X-Real-IP", "203.0.113.9".to_owned())],
    ];
    for [(name, value)] in foreign {
        let headers = [("Content-Type", "application/json"), (name, value.as_str())];
        let answer = http(gateway.addr, "POST", PUBLISH, &headers, body);
        assert_eq!(answer.error(403), "forbidden", "{name}: {value}");
    }
    for (name, value) in [
        ("Host", format!("localhost:{port}")),
        ("Host", format!("[::1]:{port}")),
        ("Origin", format!("http://{}", gateway.addr)),
    ] {
        let headers = [("Content-Type", "application/json"), (name, value.as_str())];
        let answer = http(gateway.addr, "POST", PUBLISH, &headers, body);
        assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.head);
    }
}

#[test]
fn an_operator_can_end_a_connection() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    let body = json!({"client": client.id}).to_string();
    let answer = gateway.post("/api/v1/disconnect", &body);
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.json()["disconnected"], 1);
    let ended = client.ended();
    assert_eq!((ended.code, ended.reason.as_str()), (Some(4503), "disconnected_by_server"));
    assert_eq!(ended.messages.last().unwrap()["reconnect"], false);
    assert_eq!(gateway.post("/api/v1/disconnect", &body).json()["disconnected"], 0);
}

#[test]
fn a_get_with_two_lengths_is_not_smuggled() {
    let gateway = Gateway::start();
    let starts = [
        "POST /api/v1/publish HTTP/1.1\r\nContent-Type: application/json\r\n",
        "GET /api/v1/channels HTTP/1.1\r\n",
        "GET /api/v1/stats HTTP/1.1\r\n",
        "GET /healthz HTTP/1.1\r\n",
        "GET /nowhere HTTP/1.1\r\n",
        "GET /ws HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
    ];
    for start in starts {
        for headers in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ] {
            let mut raw = crate::raw::Raw::open(gateway.addr);
            let head = format!("{start}Host: {}\r\n{headers}\r\n", gateway.addr);
            raw.send(head.as_bytes());
            raw.send(b"0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(raw.answer().status, 400, "{start}{headers}");
            let rest = String::from_utf8_lossy(&raw.rest()).into_owned();
            assert!(!rest.contains("ready"), "{start}{headers} let one through: {rest}");
        }
    }
}

#[test]
fn a_good_request_before_a_bad_one_is_answered() {
    let gateway = Gateway::start();
    let host = format!("Host: {}\r\n", gateway.addr);
    let get = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
    let lengths = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let bad = format!("GET /healthz HTTP/1.1\r\n{host}{lengths}\r\n0\r\n\r\n");
    let mut raw = crate::raw::Raw::open(gateway.addr);
    raw.send(format!("{get}\r\n{get}{bad}{get}").as_bytes());
    let said = String::from_utf8_lossy(&raw.rest()).into_owned();
    let statuses: Vec<_> = said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{said}");
}

/// A body that nobody asked for is a body: what stands in it is not a request.
#[test]
fn the_body_of_a_get_is_no_request() {
    let gateway = Gateway::start();
    let inner = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let chunked = [format!("{:x}\r\n", inner.len()).as_bytes(), inner, b"\r\n0\r\n\r\n"].concat();
    let length = format!("Content-Length: {}", inner.len());
    for path in ["/", "/healthz", "/api/v1/channels", "/api/v1/stats", "/metrics"] {
        let bodies = [(length.as_str(), &inner[..]), ("Transfer-Encoding: chunked", &chunked)];
        for (header, body) in bodies {
            let mut raw = crate::raw::Raw::open(gateway.addr);
            let host = format!("Host: {}\r\n", gateway.addr);
            let head = format!("GET {path} HTTP/1.1\r\n{host}{header}\r\n\r\n");
            let next = format!("GET /readyz HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
            raw.send(&[head.as_bytes(), body, next.as_bytes()].concat());
            let said = String::from_utf8_lossy(&raw.rest()).into_owned();
            let statuses: Vec<_> =
                said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
            let fits = matches!(&statuses[..], ["200" | "400"] | ["200", "200"]);
            assert!(fits, "{path} with {header}: {statuses:?}");
        }
    }
}

#[test]
fn a_namespace_that_is_not_configured_does_not_exist_where_that_is_asked() {
    let gateway = Gateway::configured("strict_namespaces = true\n[[namespace]]\nname = \"room\"\n");
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    for channel in ["rooms:1", "roo:1", "other:room:1"] {
        for command in ["subscribe", "publish"] {
            let asked = json!({"type": command, "channel": channel, "data": 1});
            let answer = client.ask(asked);
            assert_eq!(answer["code"], "unknown_channel", "{command} {channel}: {answer}");
        }
        let body = json!({"channel": channel, "data": 1}).to_string();
        assert_eq!(gateway.post(PUBLISH, &body).error(404), "unknown_channel", "{channel}");
        let path = format!("/api/v1/channels/{channel}/events");
        let put = http(gateway.addr, "PUT", &path, &[], b"1");
        assert_eq!(put.error(404), "unknown_channel", "{channel}");
        let good = json!({"channel": "room:1", "data": channel}).to_string();
        let lines = ndjson(&gateway, format!("{body}\n{good}\n").as_bytes()).json();
        assert_eq!(lines["accepted"], 1, "{lines}");
        assert_eq!(lines["rejected"][0]["code"], "unknown_channel", "{lines}");
        assert_eq!(client.expect("event")["data"], channel);
    }
    let names = gateway.get("/api/v1/channels").json();
    assert_eq!(names["channels"].as_array().unwrap().len(), 1, "a refusal makes no channel");
    client.expect_nothing();
}

/// Waits for the fixed half minute of a body, and of an answer.
#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    let gateway = Gateway::start();
    let begun = now();
    let post = |header: &str, some: &[u8]| {
        let mut raw = crate::raw::Raw::open(gateway.addr);
        raw.0.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let kind = "Content-Type: application/json";
        let host = gateway.addr;
        let head = format!("POST {PUBLISH} HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n{header}\r\n\r\n");
        raw.send(head.as_bytes());
        raw.send(some);
        raw
    };
    // As long has whoever takes no answer, and is then given up.
    let mut untaken = crate::raw::Raw::open_narrow(gateway.addr);
    let page = format!("GET /weir.js HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr);
    untaken.send(page.repeat(300).as_bytes());
    let slow = [
        post("Content-Length: 40", b"{\"channel\":\"room:1\""),
        post("Content-Length: 40", b""),
        post("Transfer-Encoding: chunked", b"3\r\n{\"c"),
    ];
    for mut raw in slow {
        assert_eq!(raw.answer().error(408), "timeout");
        assert!(begun.elapsed() >= Duration::from_secs(29), "{:?}", begun.elapsed());
    }
    assert_eq!(gateway.post(PUBLISH, r#"{"channel":"room:1","data":1}"#).json()["offset"], 1);
    assert!(gateway.metric("weir_errors_total{code=\"timeout\"") > 2.5);
    wait_for("it to be given up", || {
        (gateway.metric("weir_http_cut_total{reason=\"untaken\"") > 0.5).then_some(())
    });
    untaken.rest();
}
