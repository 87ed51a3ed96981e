//! TLS on the listeners: the same gateway inside, and what goes wrong before and around it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::json;

use crate::harness::{Client, Gateway, finished, scratch, wait_for, weir};
use crate::raw::{Raw, handshake_request, masked, sum};
use crate::way::{Blocking, Certified, Way, handshake, https};

/// A gateway with TLS, and the certificate of it.
pub(crate) fn gateway(toml: &str) -> (Gateway, Certified) {
    let certified = Certified::make();
    let gateway = Gateway::configured(&format!("{toml}\n{}", certified.toml()));
    (gateway, certified)
}

pub(crate) fn client(gateway: &Gateway, certified: &Certified) -> Client {
    Client::connect_by(&Way::Tls(gateway.addr, None, certified.client()), "", &[])
}

/// The sum of a metric's samples, asked for over TLS.
pub(crate) fn metric(gateway: &Gateway, certified: &Certified, prefix: &str) -> f64 {
    let answer = https(gateway.addr, &certified.client(), ("GET", "/metrics"), "");
    assert_eq!(answer.status, 200, "{}", answer.head);
    sum(&answer.text(), prefix)
}

/// Waits until this many handshakes have ended so.
pub(crate) fn wait_for_handshakes(
    gateway: &Gateway,
    certified: &Certified,
    (result, count): (&str, f64),
) {
    let name = format!("weir_tls_handshakes_total{{result=\"{result}\"");
    wait_for(result, || (metric(gateway, certified, &name) > count - 0.5).then_some(()));
}

#[test]
fn events_come_over_tls_whole_and_in_order() {
    let (gateway, certified) =
        gateway("[limits]\nmessage_bytes = \"1MiB\"\nqueue_bytes = \"8MiB\"\n");
    let mut subscribers: Vec<_> = (0..3).map(|_| client(&gateway, &certified)).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("room:1");
    }
    let mut publisher = client(&gateway, &certified);
    // From less than a record to many of them, and more than the kernel takes at once.
    let sizes = [0, 1, 100, 16_000, 16_384, 40_000, 70_000, 200_000, 900_000];
    for round in 0..3 {
        for size in sizes {
            publisher.publish("room:1", &json!([round, "x".repeat(size)]));
        }
    }
    for subscriber in &mut subscribers {
        for round in 0..3 {
            for size in sizes {
                let event = subscriber.expect("event");
                assert_eq!(event["data"][0], round);
                assert_eq!(event["data"][1].as_str().unwrap().len(), size);
            }
        }
        subscriber.expect_nothing();
    }
    assert!(metric(&gateway, &certified, "weir_events_delivered_total") > 80.5);
}

#[test]
fn many_events_of_one_turn_come_as_they_were() {
    let (gateway, certified) =
        gateway("[limits]\nqueue_bytes = \"64MiB\"\nqueue_events = 1000000\n");
    let mut subscriber = client(&gateway, &certified);
    subscriber.subscribe("room:1");
    let mut publisher = client(&gateway, &certified);
    let pad = "x".repeat(100);
    for at in 0..20_000 {
        publisher.send(&json!({"type": "publish", "channel": "room:1", "data": [at, pad]}));
    }
    for at in 0..20_000 {
        let event = subscriber.expect("event");
        assert_eq!((&event["offset"], &event["data"][0]), (&json!(at + 1), &json!(at)));
    }
}

#[test]
fn http_is_served_inside_and_nothing_else() {
    let (gateway, certified) = gateway("");
    let config = certified.client();
    let published = https(
        gateway.addr,
        &config,
        ("POST", "/api/v1/publish"),
        r#"{"channel":"room:1","data":{"a":1}}"#,
    );
    assert_eq!(published.json()["offset"], 1, "{}", published.head);
    let stream = handshake(gateway.addr, b"", &config).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let both = Arc::new(certified.client_offering(&["h2", "http/1.1"]));
    let stream = handshake(gateway.addr, b"", &both).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let other = Arc::new(certified.client_offering(&["h2"]));
    let refused = handshake(gateway.addr, b"", &other).map(drop).unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    wait_for_handshakes(&gateway, &certified, ("failed", 1.0));
}

#[test]
fn a_client_that_comes_back_resumes_its_session() {
    let (gateway, certified) = gateway("shards = 2\n");
    let config = certified.client();
    let kind = |stream: &Blocking| stream.conn.handshake_kind();
    let ask = |mut stream: Blocking| {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n", gateway.addr);
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
        // The tickets come behind the handshake.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    let first = handshake(gateway.addr, b"", &config).unwrap();
    assert_eq!(kind(&first), Some(HandshakeKind::Full));
    ask(first);
    // Any shard takes the ticket of any other.
    for _ in 0..16 {
        let again = handshake(gateway.addr, b"", &config).unwrap();
        assert_eq!(kind(&again), Some(HandshakeKind::Resumed));
        ask(again);
    }
    wait_for_handshakes(&gateway, &certified, ("resumed", 16.0));
    // Another client has nothing to resume.
    let other = handshake(gateway.addr, b"", &certified.client()).unwrap();
    assert_eq!(kind(&other), Some(HandshakeKind::Full));
}

#[test]
fn a_handshake_that_does_not_come_is_cut() {
    let (gateway, certified) = gateway("[http]\nheader_timeout = \"200ms\"\n");
    let mut silent = Raw::open(gateway.addr);
    assert_eq!(silent.rest(), b"");
    // The front of a ClientHello that announces more.
    let mut slow = Raw::open(gateway.addr);
    slow.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC]);
    assert_eq!(slow.rest(), b"");
    wait_for_handshakes(&gateway, &certified, ("timeout", 2.0));
    // And so is one that says nothing once hands were shaken.
    let mut idle = handshake(gateway.addr, b"", &certified.client()).unwrap();
    let mut end = Vec::new();
    // Without a word, as without TLS.
    idle.read_to_end(&mut end).unwrap_err();
    assert_eq!(end, b"");
}

#[test]
fn what_is_no_tls_ends_before_it_begins() {
    let (gateway, certified) = gateway("");
    let mut plain = Raw::open(gateway.addr);
    plain.send(handshake_request(gateway.addr, &[]).as_bytes());
    let answer = plain.rest();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    wait_for_handshakes(&gateway, &certified, ("failed", 1.0));
    let mut junk = Raw::open(gateway.addr);
    junk.send(&[0xFF; 1_000]);
    junk.rest();
    wait_for_handshakes(&gateway, &certified, ("failed", 2.0));
}

/// What announces more than a record or a message of the handshake may have is not waited for.
#[test]
fn what_is_announced_too_long_ends_at_once() {
    let (gateway, certified) = gateway("[http]\nheader_timeout = \"10m\"\n");
    // A record of a byte more than 18 KiB; a ClientHello of 16 MiB in small records.
    let record: &[u8] = &[22, 3, 1, 0x48, 0x01];
    let message: &[u8] = &[22, 3, 1, 0, 8, 1, 0xFF, 0xFF, 0xFF, 3, 3, 0, 0];
    for (count, bytes) in [(1.0, record), (2.0, message)] {
        let mut raw = Raw::open(gateway.addr);
        raw.send(bytes);
        raw.rest();
        wait_for_handshakes(&gateway, &certified, ("failed", count));
    }
}

/// Nothing can be said before hands are shaken: where there is no place, there is no answer.
#[test]
fn one_beyond_a_limit_ends_without_an_answer() {
    const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    // One shard: whoever comes first is counted first.
    let (gateway, certified) =
        gateway("shards = 1\n[http]\nheader_timeout = \"10m\"\n[limits]\nconnections_per_ip = 1\n");
    let mut first = Raw::open_from(gateway.addr, HERE).unwrap();
    let mut second = Raw::open_from(gateway.addr, HERE).unwrap();
    assert_eq!(second.rest(), b"");
    let limited = |what: &str| {
        metric(&gateway, &certified, &format!("weir_rate_limited_total{{what=\"{what}\""))
    };
    assert!((limited("connections_per_ip") - 1.0).abs() < 0.5);
    // The other is listened to, and told in TLS that it speaks none.
    first.send(handshake_request(gateway.addr, &[]).as_bytes());
    assert_eq!(first.rest().first(), Some(&21), "an alert");
}

/// As many handshakes of an address as its rate allows: each costs a signature.
#[test]
fn whoever_shakes_hands_too_often_ends_without_an_answer() {
    let (gateway, certified) = gateway("[limits]\nconnects_per_second_per_ip = 5\n");
    let config = certified.client();
    let refused =
        wait_for("a refusal", || (0..11).find_map(|_| handshake(gateway.addr, b"", &config).err()));
    assert!(!matches!(refused.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{refused}");
    let limited = "weir_rate_limited_total{what=\"connects_per_ip\"";
    wait_for("its turn, and the count", || {
        let mut stream = handshake(gateway.addr, b"", &config).ok()?;
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n", gateway.addr);
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
        let mut scrape = String::new();
        stream.read_to_string(&mut scrape).ok()?;
        (sum(&scrape, limited) > 0.5).then_some(())
    });
}

/// The upgrade and the first message in one record; and a record of rubbish behind them.
#[test]
fn what_comes_with_the_handshake_is_read_and_a_bad_record_ends_it() {
    let (gateway, certified) = gateway("");
    let mut stream = handshake(gateway.addr, b"", &certified.client()).unwrap();
    let mut first = handshake_request(gateway.addr, &[]).into_bytes();
    first.extend_from_slice(&masked(0x81, br#"{"type":"ping","id":7}"#));
    stream.write_all(&first).unwrap();
    let mut seen = Vec::new();
    let pong = br#"{"type":"pong","id":7}"#;
    while !seen.windows(pong.len()).any(|some| some == pong) {
        let mut some = [0; 1024];
        let read = stream.read(&mut some).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&some[..read]);
    }
    stream.sock.write_all(&[23, 3, 3, 0, 32]).unwrap();
    stream.sock.write_all(&[7; 32]).unwrap();
    let error = stream.read_to_end(&mut seen).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "it is told: {error}");
    wait_for("its connection to be gone", || {
        (metric(&gateway, &certified, "weir_connections{") < 0.5).then_some(())
    });
}

#[test]
fn a_close_ends_with_the_word_of_tls() {
    let (gateway, certified) = gateway("");
    let mut stream = handshake(gateway.addr, b"", &certified.client()).unwrap();
    stream.write_all(handshake_request(gateway.addr, &[]).as_bytes()).unwrap();
    stream.write_all(&masked(0x88, &1000_u16.to_be_bytes())).unwrap();
    let mut all = Vec::new();
    // Without a close_notify this would be an error.
    stream.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(&[0x88, 2, 3, 0xE8]), "{:?}", &all[all.len() - 8..]);
}

/// The word of TLS that nothing follows ends a connection, also where the socket stays open.
#[test]
fn a_client_that_ends_its_side_is_gone() {
    let (gateway, certified) = gateway("");
    let mut stream = handshake(gateway.addr, b"", &certified.client()).unwrap();
    stream.write_all(handshake_request(gateway.addr, &[]).as_bytes()).unwrap();
    let mut some = [0; 1024];
    assert!(stream.read(&mut some).unwrap() > 0);
    wait_for("its connection", || {
        (metric(&gateway, &certified, "weir_connections{") > 0.5).then_some(())
    });
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    wait_for("its connection to be gone", || {
        (metric(&gateway, &certified, "weir_connections{") < 0.5).then_some(())
    });
}

/// Whoever does not read loses what the policy says, is told how much, and holds no more than its
/// queue and one batch.
#[test]
fn a_slow_reader_loses_what_it_is_told() {
    const EVENTS: u64 = 600;
    let (gateway, certified) =
        gateway("shards = 1\n[limits]\nqueue_bytes = \"256KiB\"\nmessage_bytes = \"64KiB\"\n");
    let way = Way::Tls(gateway.addr, Some(4096), certified.client());
    let mut slow = Client::connect_by(&way, "", &[]);
    slow.subscribe("room:1");
    let mut publisher = client(&gateway, &certified);
    let pad = "x".repeat(16 * 1024);
    for _ in 0..EVENTS {
        publisher.publish("room:1", &json!(pad));
    }
    wait_for("its queue to be counted", || {
        (metric(&gateway, &certified, "weir_events_dropped_total") > 0.5).then_some(())
    });
    let memory = metric(&gateway, &certified, "weir_queue_memory_bytes");
    assert!((65_536.0..1_500_000.0).contains(&memory), "{memory} bytes");
    let (mut seen, mut last, mut missed) = (0, 0, 0);
    while last < EVENTS {
        let message = slow.next();
        match message["type"].as_str().unwrap() {
            "event" => {
                let offset = message["offset"].as_u64().unwrap();
                assert!(offset > last, "{offset} behind {last}");
                (seen, last) = (seen + 1, offset);
            }
            "lagged" => missed += message["dropped"].as_u64().unwrap(),
            other => panic!("{other}: {message}"),
        }
    }
    assert!(missed > 0, "nothing was dropped");
    assert_eq!(seen + missed, EVENTS);
    // And goes on as before.
    publisher.publish("room:1", &json!("new"));
    assert_eq!(slow.expect("event")["data"], "new");
}

#[test]
fn a_drain_closes_them_in_tls() {
    let (mut gateway, certified) = gateway("drain = \"100ms\"\n");
    let mut clients: Vec<_> = (0..4).map(|_| client(&gateway, &certified)).collect();
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.ended().code, Some(4001));
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn it_says_where_tls_is_spoken() {
    let certified = Certified::make();
    let gateway = Gateway::listening("127.0.0.1:0,[::1]:0", &certified.toml());
    for addr in &gateway.addrs {
        let line = format!("listening on wss://{addr}/ws and https://{addr}/");
        wait_for("the address in the log", || gateway.log().contains(&line).then_some(()));
    }
}

/// What `weir check` says of these settings.
fn faults(toml: &str) -> String {
    let path = scratch(".toml");
    std::fs::write(&path, toml).unwrap();
    for command in ["check", "serve"] {
        let arguments = [command, "--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let output = finished(&mut weir(&arguments));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        if command == "check" {
            continue;
        }
        return String::from_utf8(output.stderr).unwrap();
    }
    unreachable!("serve is the last of them")
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_fault_with_a_sentence() {
    let certified = Certified::make();
    let toml = |cert: &Path, key: &Path| format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let missing = Path::new("/nowhere/weir.pem");
    let text = scratch(".pem");
    std::fs::write(&text, "not a certificate\n").unwrap();
    let other = Certified::make();
    let old = Certified::between(2010, 2011);
    let early = Certified::between(3010, 3011);
    for (toml, wanted) in [
        (toml(missing, &certified.key), "tls.cert: names \"/nowhere/weir.pem\", which cannot be"),
        (toml(&certified.cert, missing), "tls.key: names \"/nowhere/weir.pem\", which cannot be"),
        (toml(&text, &certified.key), "which has no certificate in PEM"),
        (toml(&certified.cert, &text), "which has no private key in PEM"),
        (toml(&certified.key, &certified.cert), "which has no certificate in PEM"),
        (toml(&certified.cert, &other.key), "does not belong to the first certificate of tls.cert"),
        (toml(&old.cert, &old.key), " days ago: renew it"),
        (toml(&early.cert, &early.key), "look at the clock"),
        (format!("tls.cert = {:?}\n", certified.cert), "TLS needs both: set tls.key, too"),
        (format!("[tls]\ncrt = {:?}\n", certified.cert), "tls.crt: no such setting"),
    ] {
        let said = faults(&toml);
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert!(!said.contains("PRIVATE KEY-----\nM"), "{said}");
    }
}

#[test]
fn a_key_that_everybody_may_read_is_warned_of() {
    let certified = Certified::make();
    let path = scratch(".toml");
    std::fs::write(&path, certified.toml()).unwrap();
    let check = || {
        let output = finished(&mut weir(&["check", "--config", path.to_str().unwrap()]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(check(), "");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&certified.key, open).unwrap();
    let said = check();
    assert!(said.contains("tls.key: names ") && said.contains("chmod o-r"), "{said}");
    let gateway = Gateway::configured(&certified.toml());
    wait_for("the warning", || gateway.log().contains("chmod o-r").then_some(()));
}

/// OpenSSL, by way of Python: both versions of TLS, the protocol inside, and a session resumed.
#[test]
fn another_implementation_agrees() {
    let (gateway, certified) = gateway("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/secure.py");
    let mut python = Command::new("python3");
    let port = gateway.addr.port().to_string();
    let output = finished(python.arg(script).arg(port).arg(&certified.cert));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "ok\n");
}

/// Handshakes that never end hold nobody up.
#[test]
fn half_open_handshakes_keep_nobody_out() {
    let (gateway, certified) = gateway("shards = 1\n[http]\nheader_timeout = \"10m\"\n");
    let half: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.addr).unwrap();
            stream.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
            stream
        })
        .collect();
    let mut client = client(&gateway, &certified);
    client.expect_nothing();
    assert_eq!(half.len(), 200);
}

/// Another certificate in the same files: who is there stays, and a faulty one is not taken.
#[test]
fn a_reload_shows_another_certificate() {
    let (gateway, first) = gateway("");
    let mut there = client(&gateway, &first);
    let other = Certified::make();
    let take = |from: &Certified| {
        std::fs::copy(&from.cert, &first.cert).unwrap();
        std::fs::copy(&from.key, &first.key).unwrap();
    };
    take(&other);
    gateway.signal(Signal::HUP);
    let config = other.client();
    wait_for("the other certificate", || handshake(gateway.addr, b"", &config).ok());
    there.expect_nothing();
    take(&Certified::between(2010, 2011));
    gateway.signal(Signal::HUP);
    wait_for("the fault", || gateway.log().contains("renew it").then_some(()));
    client(&gateway, &other).expect_nothing();
    there.expect_nothing();
}

#[test]
fn the_command_line_trusts_whom_it_is_told_to() {
    let (gateway, certified) = gateway("");
    let url = format!("wss://{}/ws", gateway.addr);
    let publish = |trusted: &Path| {
        let mut command = weir(&["pub", "room:1", "1", "--url", &url]);
        command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR").output().unwrap()
    };
    let done = publish(&certified.cert);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("\"offset\":1"), "{done:?}");
    let refused = publish(&Certified::make().cert);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("invalid peer certificate") && said.contains("SSL_CERT_FILE"), "{said}");
}

/// Waits for the fixed half minute of an answer. It fits into the buffer of TLS, so that nothing
/// waits where it is written.
#[test]
fn an_answer_that_is_not_taken_is_given_up() {
    let (gateway, certified) = gateway("");
    let mut untaken = handshake(gateway.addr, b"", &certified.client()).unwrap();
    let page = format!("GET /weir.js HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.addr);
    untaken.write_all(page.repeat(300).as_bytes()).unwrap();
    let cut = "weir_http_cut_total{reason=\"untaken\"";
    wait_for("it to be given up", || (metric(&gateway, &certified, cut) > 0.5).then_some(()));
}
