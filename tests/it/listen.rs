//! One gateway on several addresses.

use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Gateway, finished, scratch, wait_for, weir};
use crate::raw::{Raw, handshake_request, http};

/// Two addresses, and a third where there is IPv6, each with a port of the system's choice.
fn addresses() -> &'static str {
    if TcpListener::bind("[::1]:0").is_ok() {
        "127.0.0.1:0,127.0.0.2:0,[::1]:0"
    } else {
        eprintln!("no IPv6 here: 127.0.0.1 and 127.0.0.2 alone");
        "127.0.0.1:0,127.0.0.2:0"
    }
}

/// Each has a port of its own.
#[test]
fn port_0_may_stand_there_several_times() {
    let gateway = Gateway::listening("127.0.0.1:0,127.0.0.1:0,127.0.0.1:0", "shards = 2\n");
    let ports: std::collections::BTreeSet<_> =
        gateway.addrs.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    for addr in &gateway.addrs {
        assert_eq!(http(*addr, "GET", "/readyz", &[], b"").status, 200, "{addr}");
    }
}

#[test]
fn what_is_published_on_one_address_is_received_on_every_other() {
    let wanted = addresses();
    let gateway = Gateway::listening(wanted, "shards = 2\n");
    for (addr, wanted) in gateway.addrs.iter().zip(wanted.split(',')) {
        assert_eq!(addr.ip().to_string(), wanted.trim_end_matches(":0").trim_matches(['[', ']']));
        assert_ne!(addr.port(), 0);
        assert_eq!(http(*addr, "GET", "/readyz", &[], b"").status, 200, "{addr}");
    }
    let each_has = 8;
    let mut clients = Vec::new();
    for addr in &gateway.addrs {
        clients.extend((0..each_has).map(|_| Client::connect_with(*addr, "", None)));
    }
    gateway.wait_for_connections(each_has * gateway.addrs.len());
    for client in &mut clients {
        client.subscribe("room:1");
    }
    for (at, addr) in gateway.addrs.iter().enumerate() {
        let published =
            Client::connect_with(*addr, "", None).publish("room:1", &json!({"from": at}));
        assert_eq!(published["offset"], at + 1, "a channel has one sequence: {published}");
        for client in &mut clients {
            let event = client.expect("event");
            assert_eq!(event["data"], json!({"from": at}));
        }
        let body = format!(r#"{{"channel":"room:2","data":{at}}}"#);
        let answer = http(*addr, "POST", "/api/v1/publish", &[], body.as_bytes());
        assert_eq!(answer.json()["offset"], at + 1, "{}", answer.text());
    }
    for addr in &gateway.addrs {
        let line = format!("listening on ws://{addr}/ws and http://{addr}/");
        wait_for("the address in the log", || gateway.log().contains(&line).then_some(()));
    }
}

#[test]
fn the_limit_of_connections_holds_for_the_addresses_together() {
    let gateway = Gateway::listening(addresses(), "[limits]\nconnections = 2\n");
    let _first = Client::connect_with(gateway.addrs[0], "", None);
    let _second = Client::connect_with(gateway.addrs[1], "", None);
    for addr in &gateway.addrs {
        let mut third = Raw::open(*addr);
        third.send(handshake_request(*addr, &[]).as_bytes());
        assert_eq!(third.answer().error(503), "overloaded", "{addr}");
    }
}

#[test]
fn a_drain_ends_every_address() {
    let mut gateway = Gateway::listening(addresses(), "shards = 2\ndrain = \"100ms\"\n");
    let mut clients: Vec<_> =
        gateway.addrs.iter().map(|addr| Client::connect_with(*addr, "", None)).collect();
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.ended().code, Some(4001));
    }
    for addr in &gateway.addrs {
        wait_for("the listeners to close", || TcpStream::connect(addr).err());
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_used_address_among_several_is_named() {
    let gateway = Gateway::start();
    let free = "127.0.0.3:0";
    let output = finished(&mut weir(&["serve", "--listen", &format!("{free},{}", gateway.addr)]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("failed to listen on {}: ", gateway.addr)), "{said}");
    assert!(!said.contains("127.0.0.3"), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "nothing is announced");
}

#[test]
fn check_prints_the_list_and_refuses_the_exposed_ones_in_it() {
    let path = scratch(".toml");
    std::fs::write(&path, "listen = [\"127.0.0.1:7001\", \"127.0.0.2:7001\"]\n").unwrap();
    let path = path.to_str().unwrap();
    let printed = |output: &std::process::Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.lines().next().unwrap().split(" #").next().unwrap().trim().to_owned()
    };
    let file = finished(&mut weir(&["check", "--config", path]));
    assert_eq!(printed(&file), r#"listen = ["127.0.0.1:7001", "127.0.0.2:7001"]"#);
    let mut command = weir(&["check", "--config", path]);
    let environment = finished(command.env("WEIR_LISTEN", "127.0.0.1:7002,[::1]:7002"));
    assert_eq!(printed(&environment), r#"listen = ["127.0.0.1:7002", "[::1]:7002"]"#);
    let one = finished(&mut weir(&["check", "--config", path, "--listen", "127.0.0.1:7003"]));
    assert_eq!(printed(&one), r#"listen = "127.0.0.1:7003""#);

    let mixed = "127.0.0.1:7006,0.0.0.0:0,here,127.0.0.1:7006";
    for command in ["check", "serve"] {
        let output = finished(&mut weir(&[command, "--listen", mixed]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("weir: 3 faults in the settings\n"), "{said}");
        assert_eq!(said.matches("\n  --listen: listen: ").count(), 3, "{said}");
        assert!(said.contains("\"0.0.0.0:0\" is not loopback"), "{said}");
        assert!(said.contains("--insecure"), "{said}");
    }
    let open = "127.0.0.1:7004,0.0.0.0:7005";
    let taken = finished(&mut weir(&["check", "--insecure", "--listen", open]));
    assert_eq!(printed(&taken), r#"listen = ["127.0.0.1:7004", "0.0.0.0:7005"]"#);
}
