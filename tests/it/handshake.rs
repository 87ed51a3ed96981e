//! The upgrade: what is refused and with what, and bytes that come early or late.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, PATIENCE, now};
use crate::raw::{Answer, Raw, handshake_request, masked};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// A request from its lines; `\n` stands for a line's end.
fn request(gateway: &Gateway, lines: &str) -> Vec<u8> {
    let text = lines.replace("HOST", &format!("Host: {}", gateway.addr)).replace("KEY", KEY);
    let text = text.replace("UP", UP).replace("V13", V13);
    (text.replace('\n', "\r\n") + "\r\n\r\n").into_bytes()
}

fn answer(gateway: &Gateway, bytes: &[u8]) -> Answer {
    let mut raw = Raw::open(gateway.addr);
    raw.send(bytes);
    raw.answer()
}

const UP: &str = "Upgrade: websocket\nConnection: Upgrade";
const V13: &str = "Sec-WebSocket-Version: 13";

/// What is wrong, the request, and the statuses that fit. `HOST`, `KEY`, `UP` and `V13` stand for
/// the right headers.
const BAD: &[(&str, &str, &[u16])] = &[
    ("a POST", "POST /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nContent-Length: 0", &[405]),
    ("a PUT", "PUT /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nContent-Length: 0", &[405]),
    ("another path", "GET /nowhere HTTP/1.1\nHOST\nUP\nKEY\nV13", &[404]),
    ("the echo that nobody asked for", "GET /echo HTTP/1.1\nHOST\nUP\nKEY\nV13", &[404]),
    ("no upgrade at all", "GET /ws HTTP/1.1\nHOST", &[400, 426]),
    ("no Upgrade", "GET /ws HTTP/1.1\nHOST\nConnection: Upgrade\nKEY\nV13", &[400, 426]),
    (
        "another Upgrade",
        "GET /ws HTTP/1.1\nHOST\nUpgrade: h2c\nConnection: Upgrade\nKEY\nV13",
        &[400, 426],
    ),
    ("no Connection", "GET /ws HTTP/1.1\nHOST\nUpgrade: websocket\nKEY\nV13", &[400, 426]),
    (
        "Connection: close",
        "GET /ws HTTP/1.1\nHOST\nUpgrade: websocket\nConnection: close\nKEY\nV13",
        &[400, 426],
    ),
    ("no key", "GET /ws HTTP/1.1\nHOST\nUP\nV13", &[400]),
    ("an empty key", "GET /ws HTTP/1.1\nHOST\nUP\nSec-WebSocket-Key:\nV13", &[400]),
    (
        "15 bytes of key",
        "GET /ws HTTP/1.1\nHOST\nUP\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\nV13",
        &[400],
    ),
    (
        "17 bytes of key",
        "GET /ws HTTP/1.1\nHOST\nUP\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\nV13",
        &[400],
    ),
    (
        "a key that is not base64",
        "GET /ws HTTP/1.1\nHOST\nUP\nSec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\nV13",
        &[400],
    ),
    (
        "two keys",
        "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nV13",
        &[400],
    ),
    ("no version", "GET /ws HTTP/1.1\nHOST\nUP\nKEY", &[400, 426]),
    ("version 8", "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nSec-WebSocket-Version: 8", &[426]),
    ("version 14", "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nSec-WebSocket-Version: 14", &[426]),
    ("version abc", "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nSec-WebSocket-Version: abc", &[400, 426]),
    ("HTTP/1.0", "GET /ws HTTP/1.0\nHOST\nUP\nKEY\nV13", &[400, 426, 505]),
    ("no Host", "GET /ws HTTP/1.1\nUP\nKEY\nV13", &[400]),
    (
        "a foreign subprotocol",
        "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nSec-WebSocket-Protocol: mqtt, wamp",
        &[400],
    ),
    (
        "a foreign Origin",
        "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nOrigin: https://evil.example",
        &[403],
    ),
    ("a body", "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nContent-Length: 5", &[400]),
    ("a chunked body", "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nTransfer-Encoding: chunked", &[400]),
    (
        "two lengths",
        "GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13\nContent-Length: 5\nTransfer-Encoding: chunked",
        &[400],
    ),
];

#[test]
fn wrong_handshakes_are_refused_and_never_upgraded() {
    let gateway = Gateway::start();
    for &(what, lines, wanted) in BAD {
        let got = answer(&gateway, &request(&gateway, lines));
        assert!(wanted.contains(&got.status), "{what}: wanted {wanted:?}, got {}", got.head);
        if got.status == 426 {
            assert_eq!(got.header("sec-websocket-version"), Some("13"), "{what}: {}", got.head);
        }
        assert!(!got.error(got.status).is_empty(), "{what}: the body says what was wrong");
    }
    assert!(gateway.metric("weir_upgrade_rejected_total") >= 15.0);
    Client::connect(&gateway).expect_nothing();
}

#[test]
fn bytes_that_are_not_http_never_upgrade() {
    let gateway = Gateway::start();
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello over TLS\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ws\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost : x\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ];
    for case in cases {
        let got = answer(&gateway, case);
        assert!(matches!(got.status, 0 | 400 | 426 | 505), "{case:?}: {}", got.head);
        if got.status == 400 {
            assert_eq!(got.error(400), "bad_request", "{case:?}");
            assert_eq!(got.header("connection"), Some("close"), "{case:?}: {}", got.head);
        }
    }
    let many = "\nX: y".repeat(101);
    let long = format!("\nX: {}", "y".repeat(20_000));
    for headers in [many, long] {
        let lines = format!("GET /ws HTTP/1.1\nHOST\nUP\nKEY\nV13{headers}");
        assert_eq!(answer(&gateway, &request(&gateway, &lines)).error(431), "too_large");
    }
    assert!(gateway.metric("weir_errors_total{code=\"too_large\"}") > 1.5);
    Client::connect(&gateway).expect_nothing();
}

#[test]
fn a_good_handshake_in_every_spelling_is_upgraded() {
    let gateway = Gateway::start();
    let good = [
        format!("GET /ws HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}"),
        format!(
            "GET /ws HTTP/1.1\nhOsT: x\nupgrade: WebSocket\nCONNECTION: keep-alive, upgrade\nKEY\n{V13}"
        ),
        format!("GET /ws?was=abc&batch=1 HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}"),
        format!(
            "GET /ws HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}\nSec-WebSocket-Protocol: mqtt, weir.v1.json"
        ),
        format!("GET /ws HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}\nOrigin: http://{}", gateway.addr),
    ];
    for lines in good {
        let mut raw = Raw::open(gateway.addr);
        raw.send(&request(&gateway, &lines.replace("hOsT: x", "HOST")));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{lines}\n{head}");
        let answer = Answer::read(head.as_bytes());
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(answer.header("upgrade").is_some_and(|up| up.eq_ignore_ascii_case("websocket")));
        let chosen = lines.contains("mqtt").then_some("weir.v1.json");
        assert_eq!(answer.header("sec-websocket-protocol"), chosen, "{lines}");
        let (first, welcome) = raw.frame().unwrap();
        assert_eq!(first, 0x81);
        assert!(welcome.starts_with(br#"{"type":"welcome""#));
    }
}

#[test]
fn frames_in_the_packet_of_the_handshake_are_not_lost() {
    let gateway = Gateway::start();
    let ping = masked(0x81, br#"{"type":"ping","id":1}"#);
    let again = masked(0x81, br#"{"type":"ping","id":2}"#);
    for cut in [0, 1, ping.len(), ping.len() + 3] {
        let mut early = handshake_request(gateway.addr, &[]).into_bytes();
        early.extend_from_slice(&ping);
        early.extend_from_slice(&again);
        let late = early.split_off(early.len() - cut);
        let mut raw = Raw::open(gateway.addr);
        raw.send(&early);
        raw.head();
        assert!(raw.frame().unwrap().1.starts_with(br#"{"type":"welcome""#));
        raw.send(&late);
        assert_eq!(raw.frame().unwrap().1, br#"{"type":"pong","id":1}"#);
        assert_eq!(raw.frame().unwrap().1, br#"{"type":"pong","id":2}"#);
    }
}

/// Of a head that is nearly 8 KiB long, and comes behind empty lines so that what is read ends
/// anywhere.
#[test]
fn frames_behind_a_long_handshake_are_not_lost() {
    let gateway = Gateway::start();
    for lines in [0, 1, 100, 500, 900] {
        let padding = "a".repeat(7_700);
        let mut early = b"\r\n".repeat(lines);
        early.extend(handshake_request(gateway.addr, &[("X-Padding", &padding)]).into_bytes());
        for id in 1..40 {
            early.extend(masked(0x81, format!(r#"{{"type":"ping","id":{id}}}"#).as_bytes()));
        }
        let mut raw = Raw::open(gateway.addr);
        raw.send(&early);
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(raw.frame().unwrap().1.starts_with(br#"{"type":"welcome""#));
        for id in 1..40 {
            let pong = format!(r#"{{"type":"pong","id":{id}}}"#);
            assert_eq!(raw.frame().unwrap().1, pong.as_bytes(), "{lines}");
        }
    }
}

/// A mask of zeros leaves the text as it is, and the gateway watches what looks like headers.
#[test]
fn early_frames_that_look_like_headers_are_frames() {
    let gateway = Gateway::start();
    let text = b"{\"type\":\"ping\",\"id\":7}\nTransfer-Encoding: chunked\nContent-Length: 3\n";
    let mut early = handshake_request(gateway.addr, &[]).into_bytes();
    early.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
    early.extend(text);
    let mut raw = Raw::open(gateway.addr);
    raw.send(&early);
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(raw.frame().unwrap().1.starts_with(br#"{"type":"welcome""#));
    assert_eq!(raw.frame().unwrap().1, br#"{"type":"pong","id":7}"#);
}

#[test]
fn an_upgrade_may_follow_an_api_call_on_the_same_connection() {
    let gateway = Gateway::start();
    let mut raw = Raw::open(gateway.addr);
    raw.send(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr).as_bytes());
    let head = raw.head();
    let length: usize =
        Answer::read(head.as_bytes()).header("content-length").unwrap().parse().unwrap();
    let mut body = vec![0; length];
    std::io::Read::read_exact(&mut raw.0, &mut body).unwrap();
    raw.send(handshake_request(gateway.addr, &[]).as_bytes());
    assert!(raw.head().starts_with("HTTP/1.1 101 "), "{head}");
    assert!(raw.frame().unwrap().1.starts_with(br#"{"type":"welcome""#));
}

/// Half a request, nothing at all, and a byte now and then: all are cut.
#[test]
fn a_slow_handshake_is_cut() {
    // Long enough for the request at the end, short enough for a byte now and then.
    let gateway = Gateway::configured("[http]\nheader_timeout = \"2s\"\n");
    let begun = now();
    let mut silent = Raw::open(gateway.addr);
    let mut half = Raw::open(gateway.addr);
    half.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgra");
    let mut dripping = Raw::open(gateway.addr);
    let wait = Some(Duration::from_millis(100));
    dripping.0.set_read_timeout(wait).unwrap();
    let mut sent = 0_usize;
    loop {
        dripping.send(if sent == 0 { b"GET /ws?" } else { b"x" });
        sent += 1;
        let mut byte = [0];
        let timed_out = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        };
        match std::io::Read::read(&mut dripping.0, &mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if timed_out(&error) => {}
            Err(_) => break,
        }
        assert!(begun.elapsed() < PATIENCE, "{sent} bytes, and still open");
    }
    silent.rest();
    assert!(!half.rest().starts_with(b"HTTP/1.1 101"));
    assert_eq!(gateway.get("/healthz").status, 200);
}

/// The default: five seconds for a head, neither less nor much more.
#[test]
fn half_a_handshake_is_cut_after_five_seconds() {
    let gateway = Gateway::start();
    let begun = now();
    let mut half = Raw::open(gateway.addr);
    half.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgra");
    let answer = half.rest();
    let waited = begun.elapsed();
    assert!(!answer.starts_with(b"HTTP/1.1 101"), "never upgraded");
    let wanted = Duration::from_secs(5)..Duration::from_secs(25);
    assert!(wanted.contains(&waited), "cut after {waited:?}");
}

#[test]
fn an_idle_upgraded_client_is_not_cut_by_the_header_timeout() {
    let gateway = Gateway::configured("[http]\nheader_timeout = \"2s\"\n");
    let mut client = Client::connect(&gateway);
    let mut late = Raw::open(gateway.addr);
    late.rest();
    client.expect_nothing();
}

#[test]
fn headers_are_bounded_in_bytes_and_number() {
    let gateway = Gateway::start();
    let long = "x".repeat(20_000);
    let many: Vec<_> = (0..150).map(|i| format!("X-{i}: 1")).collect();
    let big = format!("GET /ws HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}\nX-Long: {long}");
    let numerous = format!("GET /ws HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}\n{}", many.join("\n"));
    let path = format!("GET /ws?{long} HTTP/1.1\nHOST\n{UP}\nKEY\n{V13}");
    let refuse_all = || {
        for (what, lines) in [("big", &big), ("numerous", &numerous), ("path", &path)] {
            let got = answer(&gateway, &request(&gateway, lines));
            assert!(matches!(got.status, 414 | 431), "{what}: {}", got.head);
        }
    };
    // What the first requests of a process cost is not what these cost.
    for _ in 0..10 {
        refuse_all();
    }
    let rss = gateway.rss();
    for _ in 0..10 {
        refuse_all();
    }
    // Headers for ever: refused long before they end.
    let mut raw = Raw::open(gateway.addr);
    raw.send(b"GET /ws HTTP/1.1\r\n");
    let line = format!("X-More: {}\r\n", "y".repeat(1000));
    let mut sent = 0_u32;
    while sent < 10_000 && raw.send_within(PATIENCE, line.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 10_000, "ten megabytes of headers were taken");
    let grown = gateway.rss().saturating_sub(rss);
    assert!(grown < 1 << 20, "grew by {grown}");
}

#[test]
fn a_full_gateway_answers_503_and_then_has_room_again() {
    let gateway = Gateway::configured("[limits]\nconnections = 2\n");
    let mut one = Client::connect(&gateway);
    let two = Client::connect(&gateway);
    let refused = answer(&gateway, handshake_request(gateway.addr, &[]).as_bytes());
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert_eq!(gateway.get("/healthz").status, 200, "HTTP goes on");
    drop(two);
    crate::harness::wait_for("room for one more", || {
        let mut raw = Raw::open(gateway.addr);
        raw.send(handshake_request(gateway.addr, &[]).as_bytes());
        raw.head().starts_with("HTTP/1.1 101 ").then_some(())
    });
    one.publish("room:1", &json!(1));
}
