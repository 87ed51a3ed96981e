//! A drain with some thousands of clients, while events are published and requests are answered.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Client, Gateway, PATIENCE, now, scratch, wait_for};
use crate::raw::{Answer, Raw, handshake_request};
use crate::way::{Certified, https, shake_hands};

const CLIENTS: u16 = 3_000;

/// The time over which they are sent away.
const DRAIN: Duration = Duration::from_secs(4);

/// How a client was sent away.
struct Farewell {
    at: Instant,
    code: u16,
    retry_ms: u64,
}

/// A subscribed client, of an address with room for its port.
async fn connect(addr: SocketAddr, nth: u16) -> WebSocket<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    let own = [127, 0, 1, u8::try_from(nth % 4 + 1).unwrap()];
    socket.bind(SocketAddr::from((own, 0))).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    stream.write_all(handshake_request(addr, &[]).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let mut socket = WebSocket::after_handshake(stream, Role::Client);
    socket.set_auto_close(false);
    let subscribe = br#"{"type":"subscribe","channel":"room:1","id":1}"#;
    socket.write_frame(Frame::text(Payload::Borrowed(subscribe))).await.unwrap();
    for _ in 0..2 {
        assert_eq!(socket.read_frame().await.unwrap().opcode, OpCode::Text);
    }
    socket
}

/// Reads to the end, and answers it.
async fn farewell(mut socket: WebSocket<TcpStream>) -> Farewell {
    let mut last = Value::Null;
    loop {
        let frame = socket.read_frame().await.unwrap();
        match frame.opcode {
            OpCode::Text => last = serde_json::from_slice(&frame.payload).unwrap(),
            OpCode::Close => {
                let at = now();
                let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                assert_eq!((&last["type"], &last["code"]), (&json!("disconnect"), &json!(code)));
                let retry_ms = last["retry_after_ms"].as_u64().unwrap();
                socket.write_frame(Frame::close(code, b"")).await.ok();
                return Farewell { at, code, retry_ms };
            }
            OpCode::Binary | OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

/// All of them, and a signal when they stand; the end of the thread is how each was sent away.
fn clients(addr: SocketAddr) -> std::thread::JoinHandle<Vec<Farewell>> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut sockets = Vec::new();
            for nth in 0..CLIENTS {
                sockets.push(connect(addr, nth).await);
            }
            ready.send(()).unwrap();
            let readers: Vec<_> = sockets
                .into_iter()
                .map(|socket| tokio::task::spawn_local(farewell(socket)))
                .collect();
            let mut all = Vec::new();
            for reader in readers {
                all.push(tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap());
            }
            all
        })
    });
    is_ready.recv_timeout(2 * PATIENCE).unwrap();
    thread
}

/// Publishes until the node does not want it any more; the offsets that were acknowledged.
fn publish(mut client: Client) -> BTreeSet<u64> {
    let mut offsets = BTreeSet::new();
    let command = json!({"type": "publish", "channel": "log:1", "data": "ws", "id": 1}).to_string();
    while client.try_send_text(&command) {
        match client.try_next() {
            Some(answer) if answer["type"] == "published" => {
                offsets.insert(answer["offset"].as_u64().unwrap());
            }
            Some(other) => assert_eq!(other["type"], "disconnect", "{other}"),
            None => break,
        }
    }
    offsets
}

/// One request on a connection of its own; an error where the node has gone meanwhile.
fn ask(addr: SocketAddr, request: &str) -> io::Result<Answer> {
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(Answer::read(&bytes))
}

fn publish_over_http(addr: SocketAddr) -> BTreeSet<u64> {
    let body = json!({"channel": "log:1", "data": "http"}).to_string();
    let request = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut offsets = BTreeSet::new();
    while let Ok(answer) = ask(addr, &request) {
        if answer.status == 200 {
            offsets.insert(answer.json()["offset"].as_u64().unwrap());
        }
    }
    offsets
}

/// How many are sent away in each second of the drain, and at what moments they are to come back.
fn check_spread(farewells: &[Farewell], begun: Instant) {
    let mut seconds = vec![0_u32; 60];
    let mut waits = BTreeSet::new();
    for farewell in farewells {
        assert_eq!(farewell.code, 4001);
        let second = farewell.at.duration_since(begun).as_secs();
        seconds[usize::try_from(second).unwrap()] += 1;
        assert!((200..=4_000).contains(&farewell.retry_ms), "{}", farewell.retry_ms);
        waits.insert(farewell.retry_ms / 400);
    }
    let average = u64::from(CLIENTS) / DRAIN.as_secs();
    let fullest = seconds.iter().max().unwrap();
    // On a machine that does other things as well; benches/drain asks for half more at most.
    assert!(u64::from(*fullest) <= average * 2, "{seconds:?}: at most twice {average}");
    assert!(waits.len() >= 9, "spread over all of the time: {waits:?}");
}

#[test]
fn thousands_are_sent_away_evenly_and_nothing_that_was_said_is_lost() {
    let db = scratch(".db");
    let toml = format!(
        "shards = 2\ndrain = \"4s\"\n[store]\nkind = \"sqlite\"\npath = {db:?}\n\
         [[namespace]]\nname = \"log\"\ndurable = true\nhistory = 1000000\n"
    );
    let mut gateway = Gateway::configured(&toml);
    let addr = gateway.addr;
    let everybody = clients(addr);
    let publisher = Client::connect(&gateway);
    let by_ws = std::thread::spawn(move || publish(publisher));
    let by_http = std::thread::spawn(move || publish_over_http(addr));
    // A request whose body comes when the node is on its way out.
    let mut late = Raw::open(addr);
    let head = "PUT /api/v1/channels/log:1/events HTTP/1.1\r\nContent-Length: 4\r\n";
    late.send(format!("{head}Expect: 100-continue\r\nHost: {addr}\r\n\r\n").as_bytes());
    assert!(late.head().starts_with("HTTP/1.1 100 "), "it waits for the body");
    let begun = now();
    gateway.signal(Signal::TERM);
    wait_for("readyz to say 503", || (gateway.get("/readyz").status == 503).then_some(()));
    let mut refused = Raw::open(addr);
    refused.send(handshake_request(addr, &[]).as_bytes());
    assert_eq!(refused.answer().error(503), "unavailable");
    late.send(b"late");
    assert_eq!(late.answer().status, 200, "it had begun");
    check_spread(&everybody.join().unwrap(), begun);
    assert_eq!(gateway.ended().code(), Some(0));
    let took = begun.elapsed();
    assert!(took < DRAIN + Duration::from_secs(5), "{took:?}");
    let (by_ws, by_http) = (by_ws.join().unwrap(), by_http.join().unwrap());
    assert!(!by_ws.is_empty() && !by_http.is_empty(), "{} {}", by_ws.len(), by_http.len());
    drop(gateway);
    // Every event that was acknowledged, over either door, is there, once.
    let gateway = Gateway::configured(&toml);
    let head = gateway.get("/api/v1/channels/log:1/history?limit=0").json();
    let last = by_ws.iter().chain(&by_http).max().copied().unwrap();
    assert!(head["offset"].as_u64().unwrap() >= last, "{head}, and {last} was acknowledged");
    assert!(by_ws.is_disjoint(&by_http));
}

/// A client that answers no close, and a request whose body never comes.
#[test]
fn the_end_comes_in_time_whoever_is_slow() {
    let mut gateway = Gateway::configured("shards = 2\ndrain = \"1s\"\n");
    let _silent: Vec<_> = (0..4).map(|_| Raw::websocket(&gateway)).collect();
    let mut stuck = Raw::open(gateway.addr);
    let head = "PUT /api/v1/channels/a/events HTTP/1.1\r\nContent-Length: 4\r\n";
    stuck.send(format!("{head}Expect: 100-continue\r\nHost: {}\r\n\r\n", gateway.addr).as_bytes());
    assert!(stuck.head().starts_with("HTTP/1.1 100 "), "it waits for the body");
    let begun = now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    let took = begun.elapsed();
    // The body alone would have half a minute.
    assert!(took < Duration::from_secs(1 + 8), "{took:?}");
}

/// Connections that have not asked for anything, or not all of it, when the drain begins. They are
/// answered while it goes on, and keep nobody from its end.
#[test]
fn a_handshake_that_was_not_read_yet_is_told_to_go_elsewhere() {
    let mut gateway = Gateway::configured("shards = 2\ndrain = \"1s\"\n");
    // Whoever answers no close keeps the drain open for a while.
    let _silent: Vec<_> = (0..4).map(|_| Raw::websocket(&gateway)).collect();
    let request = handshake_request(gateway.addr, &[]);
    let (front, back) = request.split_at(request.len() / 2);
    let mut whole = Raw::open(gateway.addr);
    let mut half = Raw::open(gateway.addr);
    half.send(front.as_bytes());
    let mut never = Raw::open(gateway.addr);
    let mut never_whole = Raw::open(gateway.addr);
    never_whole.send(front.as_bytes());
    gateway.signal(Signal::TERM);
    wait_for("the drain", || (gateway.get("/readyz").status == 503).then_some(()));
    whole.send(request.as_bytes());
    half.send(back.as_bytes());
    for (what, raw) in [("whole", &mut whole), ("half", &mut half)] {
        let answer = raw.answer();
        assert_eq!(answer.error(503), "unavailable", "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert_eq!(raw.rest(), b"", "{what}");
    }
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(never.rest(), b"");
    assert_eq!(never_whole.rest(), b"");
}

/// The same, where hands have yet to be shaken.
#[test]
fn a_handshake_of_tls_that_was_not_read_yet_is_finished_and_told() {
    let certified = Certified::make();
    let config = certified.client();
    let mut gateway =
        Gateway::configured(&format!("shards = 2\ndrain = \"1s\"\n{}", certified.toml()));
    let open = || std::net::TcpStream::connect(gateway.addr).unwrap();
    let _silent: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = shake_hands(open(), &config).unwrap();
            stream.write_all(handshake_request(gateway.addr, &[]).as_bytes()).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let (late, mut never) = (open(), Raw::open(gateway.addr));
    let mut idle = shake_hands(open(), &config).unwrap();
    gateway.signal(Signal::TERM);
    let ask = |stream: &mut crate::way::Blocking| {
        stream.write_all(handshake_request(gateway.addr, &[]).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Answer::read(&answer)
    };
    let ready = || https(gateway.addr, &config, ("GET", "/readyz"), "").status;
    wait_for("the drain", || (ready() == 503).then_some(()));
    assert_eq!(ask(&mut idle).error(503), "unavailable");
    assert_eq!(ask(&mut shake_hands(late, &config).unwrap()).error(503), "unavailable");
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(never.rest(), b"");
}
