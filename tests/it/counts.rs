//! What is counted against limits is given back, however a connection ends: tens of thousands of
//! them over real sockets, of many addresses and users, cut off at every moment.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gateway, scratch, wait_for};
use crate::raw::{Raw, handshake_request, masked};
use crate::tokens::{hs256, made, unix_s};

/// Connections of the churn.
const CONNECTIONS: u32 = 24_000;

/// Clients that churn at once.
const THREADS: u32 = 6;

/// Addresses that they come from.
const ADDRESSES: u32 = 8;

/// Ends a connection by a reset.
fn reset(raw: &Raw) {
    socket2::SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Lives one of the lives that a connection may have. Whether it was let in.
fn live(addr: SocketAddr, nth: u32, token: &str) -> bool {
    let octet = u8::try_from(10 + nth % ADDRESSES).unwrap();
    let Ok(mut raw) = Raw::open_from(addr, Ipv4Addr::new(127, 0, 0, octet)) else { return false };
    let request = handshake_request(addr, &[]);
    let bearing = request.replacen("/ws", &format!("/ws?token={token}"), 1);
    let auth = json!({"type": "auth", "token": token}).to_string();
    match nth % 8 {
        0 => reset(&raw),
        1 => {
            let half = usize::try_from(nth).unwrap() % request.len();
            raw.send(&request.as_bytes()[..half]);
            reset(&raw);
        }
        // In the middle of a handshake.
        2 => {
            raw.send(bearing.as_bytes());
            reset(&raw);
        }
        3 => raw.send(request.replacen("/ws", "/ws?token=a.b.c", 1).as_bytes()),
        4 => {
            raw.send(bearing.as_bytes());
            if raw.head().starts_with("HTTP/1.1 101 ") {
                raw.send(&masked(0x88, &1000_u16.to_be_bytes()));
                raw.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                while raw.frame().is_some() {}
                return true;
            }
        }
        5 => {
            raw.send(request.as_bytes());
            raw.send(&masked(0x81, auth.as_bytes()));
            if raw.head().starts_with("HTTP/1.1 101 ") {
                raw.frame();
                reset(&raw);
                return true;
            }
        }
        // Breaks the rules, and goes.
        6 => {
            raw.send(bearing.as_bytes());
            raw.send(&[0x81, 0x01, 0x00]);
            raw.head();
        }
        _ => {
            raw.send(bearing.as_bytes());
            reset(&raw);
            return raw.head().starts_with("HTTP/1.1 101 ");
        }
    }
    false
}

#[test]
fn counts_are_back_at_zero_after_tens_of_thousands_of_connections() {
    let path = scratch(".key");
    fs::write(&path, made()["secret"].as_str().unwrap()).unwrap();
    let gateway = Gateway::configured(&format!(
        "shards = 2\n[auth]\nhmac_secret_file = {path:?}\n[limits]\nconnections = 24\n\
         connections_per_ip = 2\nconnections_per_user = 2\nconnects_per_second_per_ip = 100000\n"
    ));
    let tokens: Vec<String> = (0..20)
        .map(|user| hs256(&json!({"sub": format!("u{user}"), "exp": unix_s() + 3_600})))
        .collect();
    let upgraded = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (gateway, tokens, upgraded) = (&gateway, &tokens, &upgraded);
            scope.spawn(move || {
                for nth in (thread..CONNECTIONS).step_by(THREADS as usize) {
                    let token = &tokens[nth as usize / 7 % tokens.len()];
                    upgraded.fetch_add(live(gateway.addr, nth, token).into(), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(upgraded.into_inner() > 1_000);
    // The one that asks is counted, too.
    wait_for("all counts to be given back", || {
        let scrape = gateway.get("/metrics").text();
        let of = |name: &str| crate::raw::sum(&scrape, &format!("weir_{name} "));
        let counts = ["places", "strangers", "counted_by_user", "counted_users"].map(of);
        let by_ip = [of("counted_by_ip"), of("counted_ips")];
        (counts.iter().sum::<f64>() < 0.5 && by_ip.iter().all(|n| (n - 1.0).abs() < 0.5))
            .then_some(())
    });
    let stats = gateway.get("/api/v1/stats").json();
    let limits = &stats["limits"];
    assert_eq!(limits["connections"]["count"], 0, "{stats}");
    assert_eq!((&limits["per_user"]["count"], &limits["per_ip"]["count"]), (&json!(0), &json!(1)));
    // Nobody is kept out by those who were there.
    for octet in 10..18 {
        for _ in 0..2 {
            let mut raw = Raw::open_from(gateway.addr, Ipv4Addr::new(127, 0, 0, octet)).unwrap();
            raw.send(handshake_request(gateway.addr, &[]).as_bytes());
            let head = raw.head();
            assert!(head.starts_with("HTTP/1.1 101 "), "127.0.0.{octet}: {head}");
            reset(&raw);
            drop(raw);
            gateway.wait_for_connections(0);
        }
    }
    let refused: Value = stats["total"]["counters"]["rate_limited"].clone();
    assert!(refused["connections_per_ip"].as_u64() > Some(0), "{refused}");
}
