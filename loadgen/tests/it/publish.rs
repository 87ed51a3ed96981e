//! What `publish` says about servers that take events, refuse them, or fall silent, over WebSocket
//! and HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::relay::{self, Sin};
use crate::{Ran, run};

const SHORT: [&str; 7] = ["publish", "-c", "4", "--warmup", "0.1", "--late-max", "2000"];

fn publish(url: &str, extra: &[&str]) -> Ran {
    let seconds =
        if extra.contains(&"--duration") { [].as_slice() } else { &["--duration", "0.4"] };
    let drain = if extra.contains(&"--drain") { [].as_slice() } else { &["--drain", "2"] };
    run(&[SHORT.as_slice(), &["--timeout", "1"], drain, seconds, extra, &[url]].concat())
}

/// Answers every POST with what `answer` makes of its body.
fn http(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("a connection"), answer.clone());
            std::thread::spawn(move || serve(stream, &answer));
        }
    });
    url
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&str) -> String) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let len = head.split("Content-Length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        let mut body = vec![0; len];
        stream.read_exact(&mut body).ok()?;
        stream.write_all(answer(&String::from_utf8(body).ok()?).as_bytes()).ok()?;
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn acknowledged_events_are_counted_and_verified() {
    for extra in [["--window", "8"], ["--rate", "400"]] {
        let url = relay::start(Sin::None);
        let ran = publish(&url, &[extra.as_slice(), &["--verify", "--channels", "2"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
        assert!(ran.text.contains("accepted, 0 refused"), "{}", ran.text);
        assert!(ran.text.contains("latency"), "{}", ran.text);
    }
}

#[test]
fn offsets_given_twice_are_violations() {
    let ran = publish(&relay::start(Sin::Repeat), &["--rate", "200", "--verify"]);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert!(ran.text.contains("channel 0: offsets 4 to 4 were acknowledged twice"), "{}", ran.text);
}

#[test]
fn refusals_are_counted_by_their_code() {
    let ran = publish(&relay::start(Sin::Refuse), &["--rate", "200"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("with overloaded"), "{}", ran.text);
    assert!(ran.text.contains("INVALID: no event was accepted"), "{}", ran.text);
}

#[test]
fn silence_and_nonsense_make_the_run_invalid() {
    for (sin, sentence) in [
        (Sin::Deaf, "did not answer within 1 s"),
        (Sin::Unasked, "answered what was not asked: 9999999"),
    ] {
        let ran = publish(&relay::start(sin), &["--rate", "200", "--duration", "2"]);
        assert_eq!(ran.code, 2, "{}", ran.text);
        assert!(ran.text.contains(sentence), "{}", ran.text);
    }
}

#[test]
fn http_answers_are_read_by_event_and_by_line() {
    let url = http(|body| match body.lines().count() {
        1 => ok(r#"{"channel":"a","epoch":"e","offset":1}"#),
        lines => ok(&format!(
            r#"{{"accepted":{},"rejected":[{{"line":1,"code":"too_large","message":""}}]}}"#,
            lines - 1
        )),
    });
    let ran = publish(&url, &["--via", "http"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("accepted, 0 refused"), "{}", ran.text);
    let ran = publish(&url, &["--via", "ndjson", "--batch", "10"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("with too_large"), "{}", ran.text);
}

#[test]
fn what_a_stall_at_the_end_holds_back_is_sent_in_the_drain_and_charged() {
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let url = http(move |_| {
        if seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 40 {
            // Longer than all that is measured, and only for those that are under way.
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        ok(r#"{"channel":"a","epoch":"e","offset":1}"#)
    });
    let json = std::env::temp_dir().join(format!("weir-stall-{}.json", std::process::id()));
    let file = json.to_str().expect("UTF-8");
    let ran = publish(&url, &["--via", "http", "--rate", "300", "--drain", "15", "--json", file]);
    let report = crate::schema::checked(&json);
    std::fs::remove_file(&json).expect("it can go");
    let samples = |name: &str| report["publish"][name]["samples"].as_u64().expect("a number");
    assert_eq!(samples("latency"), samples("lateness"), "all that was due: {}", ran.text);
    assert!(!ran.text.contains("not sent in time"), "{}", ran.text);
}

#[test]
fn what_is_not_sent_at_the_end_of_the_drain_is_counted() {
    let url = http(|_| {
        std::thread::sleep(std::time::Duration::from_millis(400));
        ok(r#"{"channel":"a","epoch":"e","offset":1}"#)
    });
    let ran = publish(&url, &["--via", "http", "--rate", "300"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("were not sent in time"), "{}", ran.text);
}

#[test]
fn bad_http_is_a_sentence() {
    let cases = [
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "with 503"),
        ("SSH-2.0", "no HTTP server"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "answers in chunks"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", "no Weir message: no"),
        ("", "did not answer within 1 s"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 32\r\n\r\n{\"accepted\":1999,\"rejected\":[] }",
            "accounts for 1999 of the ",
        ),
    ];
    for (answer, sentence) in cases {
        for via in ["http", "ndjson"] {
            let url = http(move |_| answer.to_owned());
            let ran = publish(&url, &["--via", via, "--duration", "2"]);
            assert_eq!(ran.code, 2, "{answer:?}: {}", ran.text);
            assert!(ran.text.contains(sentence), "{answer:?}: {}", ran.text);
        }
    }
    let ran = publish("ws://127.0.0.1:1/ws", &["--via", "http"]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("nothing listens there"), "{}", ran.text);
}
