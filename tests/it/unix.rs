//! Sockets in the file system: everything that is served over TCP, and what becomes of the file.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Gateway, PATIENCE, finished, wait_for, weir};
use crate::proxies::introduction;
use crate::raw::{Answer, handshake_request};
use crate::way::{Certified, Way};

/// A path for a socket: short, for it has 107 bytes at most.
fn socket_path() -> PathBuf {
    let name = crate::harness::scratch(".sock");
    std::env::temp_dir().join(format!("weir-{}", name.file_name().unwrap().to_str().unwrap()))
}

/// A gateway on TCP and on a socket.
fn gateway(path: &Path, toml: &str) -> Gateway {
    Gateway::listening(&format!("127.0.0.1:0,unix:{}", path.display()), toml)
}

fn client(path: &Path) -> Client {
    Client::connect_by(&Way::Unix(path.to_owned()), "", &[])
}

/// One request on a connection of its own.
fn http(path: &Path, head: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let end = format!("Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(format!("{head}{end}").as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    Answer::read(&all)
}

#[test]
fn events_go_from_and_to_a_socket() {
    let path = socket_path();
    let gateway = gateway(&path, "shards = 2\n");
    let mut subscribers: Vec<_> = (0..8).map(|_| client(&path)).collect();
    subscribers.push(Client::connect(&gateway));
    for subscriber in &mut subscribers {
        subscriber.subscribe("room:1");
    }
    let mut publisher = client(&path);
    publisher.publish("room:1", &json!("x".repeat(60_000)));
    Client::connect(&gateway).publish("room:1", &json!(2));
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.expect("event")["data"].as_str().unwrap().len(), 60_000);
        assert_eq!(subscriber.expect("event")["data"], 2);
    }
    let line = format!("listening on unix:{}", path.display());
    wait_for("the socket in the log", || gateway.log().contains(&line).then_some(()));
}

#[test]
fn its_peers_are_of_this_machine() {
    let path = socket_path();
    let _gateway = gateway(&path, "");
    let head = "POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\n";
    let body = r#"{"channel":"room:1","data":1}"#;
    assert_eq!(http(&path, head, body).json()["offset"], 1);
    let foreign = "POST /api/v1/publish HTTP/1.1\r\nHost: example.org\r\n";
    assert_eq!(http(&path, foreign, body).error(403), "forbidden");
    let forwarded = format!("{head}X-Forwarded-For: 127.0.0.1\r\n");
    assert_eq!(http(&path, &forwarded, body).error(403), "forbidden");
    assert_eq!(http(&path, "GET /healthz HTTP/1.1\r\nHost: a\r\n", "").status, 200);
}

#[test]
fn a_slow_reader_is_dropped_from_as_over_tcp() {
    let path = socket_path();
    let gateway = gateway(&path, "shards = 1\n");
    let mut slow = client(&path);
    slow.subscribe("room:1");
    let mut publisher = Client::connect(&gateway);
    let pad = "x".repeat(16 * 1024);
    let dropped = || gateway.metric("weir_events_dropped_total") > 0.5;
    let mut last = 0;
    while !dropped() {
        last = publisher.publish("room:1", &json!(pad))["offset"].as_u64().unwrap();
    }
    let (mut seen, mut missed, mut at) = (0, 0, 0);
    while at < last {
        let message = slow.next();
        match message["type"].as_str().unwrap() {
            "event" => (seen, at) = (seen + 1, message["offset"].as_u64().unwrap()),
            _ => missed += message["dropped"].as_u64().unwrap(),
        }
    }
    assert_eq!(seen + missed, last);
}

#[test]
fn its_file_is_there_while_it_runs() {
    let path = socket_path();
    let mut first = gateway(&path, "drain = \"100ms\"\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    // A second gateway leaves it to the first.
    let listen = format!("unix:{}", path.display());
    let output = finished(&mut weir(&["serve", "--listen", &listen]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("failed to listen on {listen}: somebody listens")), "{said}");
    client(&path).expect_nothing();
    // And it goes with the gateway.
    let mut last = client(&path);
    first.signal(Signal::TERM);
    assert_eq!(last.ended().code, Some(4001));
    assert_eq!(first.ended().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn the_file_of_a_gateway_that_was_killed_is_taken_over() {
    let path = socket_path();
    let mut first = gateway(&path, "");
    first.signal(Signal::KILL);
    first.ended();
    assert!(path.exists());
    let _second = gateway(&path, "");
    client(&path).expect_nothing();
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let path = socket_path();
    let refused = |wanted: &str| {
        let output =
            finished(&mut weir(&["serve", "--listen", &format!("unix:{}", path.display())]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(wanted), "{said}");
    };
    fs::write(&path, "mine").unwrap();
    refused("which is no socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    refused("somebody listens there");
    assert!(path.exists());
    fs::remove_file(&path).unwrap();
}

/// The socket is the proxy's, and whom it speaks for counts as over TCP. Who says nothing of others
/// is of this machine, and not counted.
#[test]
fn a_proxy_of_bytes_names_clients_on_a_socket() {
    let path = socket_path();
    let toml = "limits.connections_per_ip = 1
http.trusted_proxies = [\"127.0.0.1\"]\n";
    let _gateway = gateway(&path, toml);
    let ask = |before: &[u8], request: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[before, request.as_bytes()].concat()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (String::from_utf8_lossy(&first[9..]).into_owned(), stream)
    };
    let stats = "GET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(b"", stats).0, "200");
    assert_eq!(ask(&introduction("127.0.0.1", b""), stats).0, "200");
    assert_eq!(ask(&introduction("203.0.113.7", b""), stats).0, "403", "it is elsewhere");
    let upgrade = handshake_request("localhost", &[]);
    let first = ask(&introduction("203.0.113.8", b""), &upgrade);
    assert_eq!(first.0, "101");
    assert_eq!(ask(&introduction("203.0.113.8", b""), &upgrade).0, "429");
    assert_eq!(ask(&introduction("203.0.113.9", b""), &upgrade).0, "101");
    let itself = [ask(b"", &upgrade), ask(b"", &upgrade)];
    assert!(itself.iter().all(|(status, _)| status == "101"), "{itself:?}");
    // Of a header that cannot be read there is no answer.
    let mut bad = UnixStream::connect(&path).unwrap();
    bad.write_all(&introduction("203.0.113.7", b"")[..20]).unwrap();
    bad.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    bad.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

/// TLS is for what leaves the machine.
#[test]
fn a_socket_speaks_no_tls() {
    let path = socket_path();
    let certified = Certified::make();
    let gateway = gateway(&path, &certified.toml());
    let mut subscriber = client(&path);
    subscriber.subscribe("room:1");
    let way = Way::Tls(gateway.addr, None, certified.client());
    Client::connect_by(&way, "", &[]).publish("room:1", &json!(1));
    assert_eq!(subscriber.expect("event")["data"], 1);
}
