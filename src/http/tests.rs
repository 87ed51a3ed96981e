//! The doors over real sockets, with a stand-in shard.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::{HttpOptions, serve};
use crate::core::metrics::{Counter, Gauges, Metrics};
use crate::proto::event::Payload;
use crate::shard::{Local, Node, NodeOptions};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn local() -> Local {
    let node = Node {
        options: NodeOptions {
            node_name: "n1".into(),
            message_bytes: 1024,
            drain: Duration::from_secs(1),
        },
        draining: AtomicBool::new(false),
        full: AtomicBool::new(false),
        overloaded: AtomicBool::new(false),
        published: parking_lot::Mutex::new(Vec::new()),
    };
    let metrics = Rc::new(Metrics::default());
    Local { node: Arc::new(node), metrics, adopted: Rc::new(RefCell::new(Vec::new())) }
}

/// Runs `test` beside the doors of one shard.
fn with_doors<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr, Local) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shard = local();
        let options = HttpOptions {
            header_timeout: Duration::from_millis(300),
            header_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            origins: vec!["https://app.example".into()],
        };
        tokio::task::spawn_local(serve(listener, shard.clone(), Rc::new(options)));
        test(address, shard).await;
    });
}

/// Sends raw bytes and reads until the connection ends.
async fn talk(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(3), read).await.expect("ends").unwrap();
    String::from_utf8(answer).unwrap()
}

/// A request whose connection ends with its answer.
fn request(line: &str, headers: &str, body: &str) -> String {
    let length =
        if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n{body}"
    )
}

fn handshake(line: &str, headers: &str) -> String {
    format!("{line}\r\nHost: localhost\r\n{headers}\r\n")
}

#[test]
fn a_right_handshake_is_adopted_with_the_bytes_behind_it() {
    with_doors(|address, shard| async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = handshake(
            "GET /ws?was=1 HTTP/1.1",
            &format!(
                "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n{KEY}\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: other, weir.v1.json\r\n\
                 Sec-WebSocket-Extensions: constructor, permessage-deflate\r\n\
                 Origin: http://localhost\r\n",
            ),
        );
        socket.write_all(format!("{head}frame bytes").as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let len = socket.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..len]).to_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        assert!(answer.contains("sec-websocket-protocol: weir.v1.json\r\n"), "{answer}");
        assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
        assert!(!answer.contains("extensions") && !answer.contains("content-length"), "{answer}");
        let (socket, early) = shard.adopted.borrow_mut().pop().unwrap();
        assert_eq!(&*early, b"frame bytes");
        assert!(socket.nodelay().unwrap());
    });
}

#[test]
fn every_wrong_handshake_gets_its_own_answer() {
    let up = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let v13 = "Sec-WebSocket-Version: 13\r\n";
    let good = format!("{up}{KEY}{v13}");
    let get = "GET /ws HTTP/1.1";
    let with = |more: &str| handshake(get, &format!("{good}{more}"));
    let key = |value: &str| handshake(get, &format!("{up}{v13}Sec-WebSocket-Key: {value}\r\n"));
    let cases = [
        (handshake("POST /ws HTTP/1.1", &good), "405"),
        (handshake("PUT /ws HTTP/1.1", &good), "405"),
        (handshake("GET /ws HTTP/1.0", &good), "400"),
        (handshake("GET /ws HTTP/2.0", &good), "400"),
        (handshake("GET /wss HTTP/1.1", &good), "404"),
        (handshake("GET /ws?a=%zz HTTP/1.1", &good), "400"),
        (handshake(get, &format!("Connection: Upgrade\r\n{KEY}{v13}")), "426"),
        (handshake(get, &format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{KEY}{v13}")), "426"),
        (handshake(get, &format!("Upgrade: websocket\r\n{KEY}{v13}")), "400"),
        (handshake(get, &format!("Connection: close\r\nUpgrade: websocket\r\n{KEY}{v13}")), "400"),
        (handshake(get, &format!("{up}{v13}")), "400"),
        (with(KEY), "400"),
        (key(""), "400"),
        (key("dG9vIHNob3J0"), "400"),
        (key("dGhpcyBpcyBsb25nZXIgdGhhbiBzaXh0ZWVu"), "400"),
        (key("!!!!!!!!!!!!!!!!!!!!!!=="), "400"),
        (handshake(get, &format!("{up}{KEY}")), "426"),
        (handshake(get, &format!("{up}{KEY}Sec-WebSocket-Version: 8\r\n")), "426"),
        (with("Content-Length: 3\r\n") + "abc", "400"),
        (with("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", "400"),
        (with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", "400"),
        (with("Sec-WebSocket-Protocol: graphql-ws, weir.v1.bin\r\n"), "400"),
        (with("Host: localhost\r\n"), "400"),
        (format!("{get}\r\n{good}\r\n"), "400"),
        (with("Origin: http://evil.example\r\n"), "403"),
        (with("Origin: null\r\n"), "403"),
        (with(&format!("X: {}\r\n", "x".repeat(17_000))), "431"),
        (with(&"A: b\r\n".repeat(120)), "431"),
        (format!("GET /ws?{} HTTP/1.1\r\n{good}\r\n", "x".repeat(70_000)), "431"),
    ];
    with_doors(|address, shard| async move {
        for (head, status) in cases {
            let answer = talk(address, &head).await;
            let start = format!("HTTP/1.1 {status} ");
            let start_10 = format!("HTTP/1.0 {status} ");
            let right = answer.starts_with(&start) || answer.starts_with(&start_10);
            assert!(right, "{status}: {answer} to {}", &head[..head.len().min(300)]);
            assert_eq!(answer.contains("sec-websocket-version: 13"), status == "426", "{answer}");
            assert_eq!(answer.contains("allow: GET\r\n"), status == "405", "{answer}");
        }
        assert!(shard.adopted.borrow().is_empty());
        assert_eq!(shard.metrics().snapshot(Gauges::default()).counter(Counter::Upgrades), 0);
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(with_listed_origin().as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
    });
}

fn with_listed_origin() -> String {
    handshake(
        "GET /ws HTTP/1.1",
        &format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}Sec-WebSocket-Version: 13\r\n\
             Origin: https://app.example\r\n",
        ),
    )
}

#[test]
fn a_draining_or_full_node_says_503_and_when_to_come_back() {
    with_doors(|address, shard| async move {
        shard.node().full.store(true, Relaxed);
        let answer = talk(address, &with_listed_origin()).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("\"code\":\"overloaded\""), "{answer}");
        assert!(talk(address, &request("GET /readyz", "", "")).await.starts_with("HTTP/1.1 200"));
        shard.node().draining.store(true, Relaxed);
        let answer = talk(address, &with_listed_origin()).await;
        assert!(answer.contains("\"code\":\"unavailable\""), "{answer}");
        assert!(talk(address, &request("GET /readyz", "", "")).await.starts_with("HTTP/1.1 503"));
        assert!(talk(address, &request("GET /healthz", "", "")).await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn events_are_published_token_for_token() {
    with_doors(|address, shard| async move {
        let body =
            r#"{"channel":"room:1","key":"k","data": {"a" : 1.0e400, "a":9007199254740993}}"#;
        let answer = talk(address, &request("POST /api/v1/publish", "", body)).await;
        assert!(answer.contains(r#""channel":"room:1""#), "{answer}");
        assert!(answer.contains(r#""offset":1"#), "{answer}");
        let json = "Content-Type: application/json\r\n";
        let put = "PUT /api/v1/channels/room%3A1/events?key=a%20b";
        assert!(talk(address, &request(put, json, "[1, 2]")).await.contains("\"offset\":2"));
        assert!(talk(address, &request(put, "", "\u{1}raw")).await.contains("\"offset\":3"));
        let published = shard.node().published.lock();
        let exact = r#"{"a":1.0e400,"a":9007199254740993}"#;
        assert_eq!(published[0].payload, Payload::Json(exact.as_bytes().into()));
        assert_eq!(published[0].key.as_deref(), Some("k"));
        assert_eq!(published[1].payload, Payload::Json(b"[1,2]".as_slice().into()));
        assert_eq!(published[1].key.as_deref(), Some("a b"));
        assert_eq!(published[2].payload, Payload::Opaque(b"\x01raw".as_slice().into()));
    });
}

#[test]
fn a_bad_line_rejects_itself_alone() {
    with_doors(|address, shard| async move {
        let good = r#"{"channel":"a","data":1}"#;
        let body =
            format!("{good}\n\n{{bad\r\n{good}\r\n{{\"channel\":\"a:\",\"data\":2}}\n{good}");
        let head = "Content-Type: application/x-ndjson; charset=utf-8\r\n";
        let answer = talk(address, &request("POST /api/v1/publish", head, &body)).await;
        assert!(answer.contains(r#""accepted":3"#), "{answer}");
        assert!(answer.contains(r#""line":3"#) && answer.contains(r#""line":5"#), "{answer}");
        assert_eq!(shard.node().published.lock().len(), 3);
    });
}

#[test]
fn the_api_refuses_what_it_should() {
    let post = "POST /api/v1/publish";
    let ok = r#"{"channel":"a","data":1}"#;
    let long = format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(1100));
    let cases = [
        (request(post, "", "{"), "400"),
        (request(post, "", r#"{"channel":"a"}"#), "400"),
        (request(post, "", r#"{"channel":"a","data":"\ud800"}"#), "400"),
        (request(post, "", r#"{"channel":"a:*","data":1}"#), "400"),
        (request(post, "", &long), "413"),
        (request(post, "", &"x".repeat(70_000)), "413"),
        (request("PUT /api/v1/channels/a/events", "", &"x".repeat(1100)), "413"),
        (request("GET /api/v1/publish", "", ""), "405"),
        (request("GET /api/v1/channels?limit=0", "", ""), "400"),
        (request("POST /api/v1/disconnect", "", r#"{"client":"-"}"#), "400"),
        (request("GET /api/v2", "", ""), "404"),
        (request(post, "Origin: http://evil.example\r\n", ok), "403"),
        (request(post, "Origin: https://app.example\r\n", ok), "403"),
        (request(post, "X-Forwarded-For: 1.2.3.4\r\n", ok), "403"),
        (request("GET /metrics", "Forwarded: for=1.2.3.4\r\n", ""), "403"),
        (request(post, "", ok).replace("localhost", "rebound.example"), "403"),
        (request(post, "Transfer-Encoding: chunked\r\n", ok), "400"),
    ];
    with_doors(|address, shard| async move {
        for (text, status) in cases {
            let answer = talk(address, &text).await;
            let right = answer.starts_with(&format!("HTTP/1.1 {status} "));
            assert!(right && answer.contains(r#"{"error":{"code":""#), "{status}: {answer}");
        }
        assert!(shard.node().published.lock().is_empty());
        shard.node().overloaded.store(true, Relaxed);
        let answer = talk(address, &request(post, "", ok)).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains("retry_after_ms"), "{answer}");
    });
}

#[test]
fn what_is_read_is_there() {
    with_doors(|address, _| async move {
        let cases = [
            ("GET /", "text/html"),
            ("GET /weir.js", "export function connect"),
            ("GET /live.js", "text/javascript"),
            ("GET /live.css", "text/css"),
            ("GET /metrics", "weir_upgrades_total 0"),
            ("GET /api/v1/stats", "\"node\":\"n1\""),
            ("GET /api/v1/channels?prefix=room%3a&limit=2", "\"next\":\"room:2\""),
            ("GET /api/v1/channels?prefix=room:&limit=2&after=room:2", "\"next\":null"),
        ];
        for (line, part) in cases {
            let answer = talk(address, &request(line, "", "")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{line}: {answer}");
            assert!(answer.contains(part), "{line}: {answer}");
        }
        let body = r#"{"client":"0000000000001"}"#;
        let answer = talk(address, &request("POST /api/v1/disconnect", "", body)).await;
        assert!(answer.contains("{\"disconnected\":1}"), "{answer}");
        let answer = talk(address, &request("HEAD /", "", "")).await;
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn slow_heads_and_idle_connections_are_cut() {
    with_doors(|address, _| async move {
        assert_eq!(talk(address, "").await, "");
        assert!(!talk(address, "GET /ws HTT").await.contains("101"));
        let kept = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = talk(address, &kept.repeat(2)).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    });
}
