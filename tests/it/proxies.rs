//! Proxies that speak for clients: whose word is taken about where a client is, and whose is not.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, wait_for};
use crate::raw::{Answer, Raw, handshake_request, http, masked};
use crate::way::{Certified, handshake};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TRUSTED: &str = "shards = 1\n[http]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";

/// A header of version 2 for a client with this address, with these bytes behind.
pub(crate) fn introduction(ip: &str, further: &[u8]) -> Vec<u8> {
    let (family, mut rest) = match ip.parse().unwrap() {
        IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[127, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [&ip.octets()[..], &[0; 16]].concat()),
    };
    rest.extend_from_slice(&[0x30, 0x39, 0x1F, 0x90]);
    rest.extend_from_slice(further);
    header(0x21, family, &rest)
}

fn header(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[kind, family], &length, rest].concat()
}

/// Where a client is that subscribes and reads nothing, as the gateway sees it.
fn seen(gateway: &Gateway, before: &[u8], headers: &[(&str, &str)]) -> Value {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&gateway.addr.into()).unwrap();
    let mut client = Raw(socket.into());
    client.send(before);
    client.send(handshake_request(gateway.addr, headers).as_bytes());
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.frame().unwrap();
    assert_eq!(client.ask(r#"{"type":"subscribe","channel":"room:1"}"#)["type"], "subscribed");
    let mut publisher = Client::connect(gateway);
    let pad = "x".repeat(32 * 1024);
    wait_for("it to be slow", || {
        publisher.publish("room:1", &json!(pad));
        let stats = gateway.get("/api/v1/stats").json();
        stats["slowest"].get(0).map(|slow| slow["ip"].clone())
    })
}

fn stats(addr: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    http(addr, "GET", "/api/v1/stats", headers, b"")
}

/// The answer to a request behind these bytes.
fn behind(gateway: &Gateway, before: &[u8], path: &str) -> Answer {
    let mut raw = Raw::open(gateway.addr);
    raw.send(before);
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    raw.send(head.as_bytes());
    Answer::read(&raw.rest())
}

#[test]
fn a_header_of_http_names_the_client() {
    let gateway = Gateway::configured(TRUSTED);
    // What the client wrote itself comes first, and is nobody's word.
    let forwarded = [("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.1.1.1")];
    assert_eq!(seen(&gateway, b"", &forwarded), "203.0.113.7");
    let several = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "[2001:db8::7]:80")];
    let gateway = Gateway::configured(TRUSTED);
    assert_eq!(seen(&gateway, b"", &several), "2001:db8::7");
}

#[test]
fn nobody_else_names_a_client() {
    let gateway = Gateway::configured("shards = 1\nhttp.trusted_proxies = [\"10.0.0.0/8\"]\n");
    assert_eq!(seen(&gateway, b"", &[("X-Forwarded-For", "203.0.113.7")]), "127.0.0.1");
    let refused = behind(&gateway, &introduction("203.0.113.7", b""), "/healthz");
    assert_eq!(refused.error(400), "bad_request");
}

#[test]
fn the_proxy_protocol_names_the_client() {
    for (ip, wanted) in [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ] {
        let gateway = Gateway::configured(TRUSTED);
        // With what else a proxy tells, more than is read at once.
        let further = [&[0x04, 0x04, 0x00][..], &[0; 1024]].concat();
        assert_eq!(seen(&gateway, &introduction(ip, &further), &[]), wanted);
    }
    // A proxy of HTTP behind one that passes bytes on.
    let gateway = Gateway::configured(TRUSTED);
    let through = [("X-Forwarded-For", "203.0.113.7")];
    assert_eq!(seen(&gateway, &introduction("10.0.0.9", b""), &through), "203.0.113.7");
    let gateway = Gateway::configured(TRUSTED);
    assert_eq!(seen(&gateway, &introduction("192.0.2.9", b""), &through), "192.0.2.9");
}

#[test]
fn a_header_may_come_in_pieces() {
    let gateway = Gateway::configured(TRUSTED);
    let mut raw = Raw::open(gateway.addr);
    for byte in introduction("203.0.113.7", &[9; 5]) {
        raw.send(&[byte]);
    }
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(raw.answer().status, 200);
}

#[test]
fn a_proxy_may_speak_for_itself() {
    let gateway = Gateway::configured(TRUSTED);
    for itself in [header(0x20, 0, b""), header(0x20, 0x11, &[7; 12]), header(0x21, 0, &[7; 3])] {
        assert_eq!(behind(&gateway, &itself, "/api/v1/stats").status, 200, "it is on loopback");
    }
    assert_eq!(behind(&gateway, b"", "/api/v1/stats").status, 200, "it need not say anything");
}

#[test]
fn a_bad_header_ends_the_connection() {
    let gateway = Gateway::configured(TRUSTED);
    let cut = &introduction("203.0.113.7", b"")[..20];
    for (bad, why) in [
        (header(0x31, 0x11, &[0; 12]), "it is of version 3"),
        (header(0x22, 0x11, &[0; 12]), "its command is 2"),
        (header(0x21, 0x12, &[0; 12]), "not by TCP"),
        (header(0x21, 0x11, &[0; 11]), "too few for its addresses"),
        (b"\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "does not begin as version 2"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), "only version 2 is read"),
    ] {
        // Of several in one second only the first is told.
        let fresh = Gateway::configured(TRUSTED);
        let answer = behind(&fresh, &bad, "/healthz");
        assert_eq!(answer.status, 0, "{why}: {}", answer.head);
        wait_for(why, || fresh.log().contains(why).then_some(()));
        assert!((fresh.metric("weir_proxy_headers_bad_total") - 1.0).abs() < 0.5);
    }
    let mut raw = Raw::open(gateway.addr);
    raw.send(cut);
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.rest(), b"");
    wait_for("the end to be counted", || {
        (gateway.metric("weir_proxy_headers_bad_total") > 0.5).then_some(())
    });
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    let toml = TRUSTED.replace("[http]\n", "[http]\nheader_timeout = \"200ms\"\n");
    let gateway = Gateway::configured(&toml);
    for part in [&b""[..], &SIGNATURE[..7], &introduction("203.0.113.7", b"")[..22]] {
        let mut raw = Raw::open(gateway.addr);
        raw.send(part);
        assert_eq!(raw.rest(), b"");
    }
    wait_for("the last of them", || {
        (gateway.metric("weir_proxy_headers_bad_total") > 2.5).then_some(())
    });
}

/// The header comes before TLS, in which the client speaks.
#[test]
fn it_stands_before_tls() {
    let certified = Certified::make();
    let gateway = Gateway::configured(&format!("{TRUSTED}{}", certified.toml()));
    let config = certified.client();
    for (ip, status) in [("203.0.113.7", "403"), ("127.0.0.1", "200")] {
        let mut stream = handshake(gateway.addr, &introduction(ip, b""), &config).unwrap();
        let head = "GET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{ip}: {answer}");
    }
    let mut inside = handshake(gateway.addr, b"", &config).unwrap();
    std::io::Write::write_all(&mut inside, &introduction("203.0.113.7", b"")).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut inside, &mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "within TLS it is rubbish");
}

/// Without keys the API is for this machine, whoever asks for others.
#[test]
fn the_api_answers_this_machine_alone() {
    let gateway = Gateway::configured(TRUSTED);
    for (headers, status) in [
        (&[][..], 200),
        (&[("X-Forwarded-For", "127.0.0.1")], 200),
        (&[("X-Forwarded-For", "127.0.0.1"), ("Via", "1.1 nginx")], 200),
        (&[("X-Forwarded-For", "203.0.113.7")], 403),
        (&[("X-Forwarded-For", "203.0.113.7, 127.0.0.1")], 403),
        (&[("X-Forwarded-For", "127.0.0.1, unknown")], 403),
        (&[("X-Forwarded-For", "10.0.0.1")], 403),
        (&[("Forwarded", "for=127.0.0.1")], 403),
        (&[("X-Real-IP", "127.0.0.1")], 403),
        (&[("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1")], 200),
        (&[("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "203.0.113.9")], 403),
        (&[("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=203.0.113.9")], 403),
        (&[("Via", "1.1 nginx")], 403),
    ] {
        assert_eq!(stats(gateway.addr, headers).status, status, "{headers:?}");
    }
    assert_eq!(behind(&gateway, &introduction("203.0.113.7", b""), "/api/v1/stats").status, 403);
    assert_eq!(behind(&gateway, &introduction("10.0.0.1", b""), "/api/v1/stats").status, 403);
    assert_eq!(behind(&gateway, &introduction("127.0.0.1", b""), "/api/v1/stats").status, 200);
    // A proxy that is not believed is refused as before, whatever it says.
    let gateway = Gateway::configured("http.trusted_proxies = [\"10.0.0.0/8\"]\n");
    for ip in ["127.0.0.1", "203.0.113.7"] {
        assert_eq!(stats(gateway.addr, &[("X-Forwarded-For", ip)]).error(403), "forbidden");
    }
}

/// Whoever is refused once it is a WebSocket, too.
#[test]
fn the_log_names_the_client_and_not_its_proxy() {
    let gateway = Gateway::configured(&format!("limits.commands_per_second = 1\n{TRUSTED}"));
    let mut raw = Raw::open(gateway.addr);
    raw.send(handshake_request(gateway.addr, &[("X-Forwarded-For", "203.0.113.9")]).as_bytes());
    assert_eq!(raw.answer().status, 101);
    for _ in 0..20 {
        raw.send(&masked(0x81, br#"{"type":"ping"}"#));
    }
    let line = wait_for("a line in the log", || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("limits.commands_per_second")).map(str::to_owned)
    });
    assert!(line.contains("203.0.113.9"), "{line}");
}

/// A client each, of one proxy.
#[test]
fn limits_count_clients_and_not_their_proxy() {
    let gateway = Gateway::configured(&format!("limits.connections_per_ip = 1\n{TRUSTED}"));
    let ask = |before: &[u8], headers: &[(&str, &str)]| {
        let mut raw = Raw::open(gateway.addr);
        raw.send(before);
        raw.send(handshake_request(gateway.addr, headers).as_bytes());
        let status = raw.answer().status;
        (status, raw)
    };
    let introduced = |ip| ask(&introduction(ip, b""), &[]);
    let forwarded = |ip| ask(b"", &[("X-Forwarded-For", ip)]);
    let first = [introduced("203.0.113.7"), forwarded("203.0.113.8"), introduced("203.0.113.9")];
    for (status, _) in &first {
        assert_eq!(*status, 101);
    }
    // However they come.
    for ip in ["203.0.113.7", "203.0.113.8"] {
        assert_eq!(introduced(ip).0, 429, "{ip}");
        assert_eq!(forwarded(ip).0, 429, "{ip}");
    }
    drop(first);
    wait_for("their places", || (introduced("203.0.113.7").0 == 101).then_some(()));
}
