//! Connections that are begun and not gone on with, and such as come a byte at a time: what each
//! costs, when it ends, and that nobody beside them notices.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, now, wait_for};
use crate::raw::{Raw, handshake_request, masked};
use crate::tls::{client, gateway, metric, wait_for_handshakes};
use crate::way::handshake;

/// Peers that have sent `front` each and wait.
fn fronts(addr: SocketAddr, count: usize, front: &[u8]) -> Vec<Raw> {
    let open = || {
        let mut raw = Raw::open(addr);
        raw.send(front);
        raw
    };
    (0..count).map(|_| open()).collect()
}

/// Resident bytes of each such peer; `ask` is answered behind them all.
fn cost(gateway: &Gateway, front: &[u8], ask: impl Fn()) -> u64 {
    const MANY: u64 = 2_000;
    let settled = || {
        (0..3).for_each(|_| ask());
        gateway.rss()
    };
    // What is there once for all comes with these.
    let _first = fronts(gateway.addr, 500, front);
    let before = settled();
    let _all = fronts(gateway.addr, usize::try_from(MANY).unwrap(), front);
    settled().saturating_sub(before) / MANY
}

/// The most that each may cost, in bytes.
const COST_MAX: u64 = 4_096;

const PATIENT: &str = "shards = 1\n[http]\nheader_timeout = \"10m\"\n";

/// Whoever has yet to ask costs no buffers: what hyper reads into has 8 KiB, and 16 behind half of a
/// head.
#[test]
fn a_request_that_does_not_come_costs_what_was_sent() {
    let half = handshake_request("localhost", &[]);
    for front in ["", &half[..half.len() / 2]] {
        let gateway = Gateway::configured(PATIENT);
        let each = cost(&gateway, front.as_bytes(), || {
            assert_eq!(gateway.get("/healthz").status, 200);
        });
        assert!(each < COST_MAX, "{each} bytes behind {} bytes", front.len());
    }
}

/// And nothing of TLS, where not a byte of a handshake has come.
#[test]
fn a_handshake_of_tls_that_does_not_begin_costs_no_more() {
    let (gateway, certified) = gateway(PATIENT);
    let each = cost(&gateway, b"", || client(&gateway, &certified).expect_nothing());
    assert!(each < COST_MAX, "{each} bytes");
}

/// With the time-out that is there without a setting: each is counted, and cut, and whoever shakes
/// hands beside them notices nothing.
#[test]
fn a_thousand_half_open_handshakes_are_counted_and_cut() {
    const MANY: usize = 1_000;
    let (gateway, certified) = gateway("shards = 2\n");
    // Nothing, the front of a record, and the front of a ClientHello.
    let fronts: [&[u8]; 3] = [b"", &[0x16, 3, 1], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]];
    let begun = now();
    let mut half: Vec<_> = (0..MANY)
        .map(|at| {
            let mut raw = Raw::open(gateway.addr);
            raw.send(fronts[at % fronts.len()]);
            raw
        })
        .collect();
    client(&gateway, &certified).expect_nothing();
    wait_for_handshakes(&gateway, &certified, ("timeout", 1_000.0));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5), "{took:?}");
    for raw in &mut half {
        assert_eq!(raw.rest(), b"");
    }
    assert!(metric(&gateway, &certified, "weir_tls_handshakes_total{result=\"failed\"") < 0.5);
}

/// Handshake, upgrade and messages in records that have a byte each, as fast as they can be sent.
#[test]
fn records_of_a_byte_each_hold_nobody_up() {
    let (gateway, certified) = gateway("shards = 1\n");
    let mut healthy = client(&gateway, &certified);
    healthy.subscribe("room:1");
    let mut publisher = client(&gateway, &certified);
    let mut stream = handshake(gateway.addr, b"", &certified.client()).unwrap();
    let message = masked(0x81, br#"{"type":"publish","channel":"room:2","data":[1]}"#);
    let mut bytes = handshake_request(gateway.addr, &[]).into_bytes();
    // Until it is told to end, and then to the end of a message.
    let (stop, stopped) = std::sync::mpsc::channel();
    let trickle = std::thread::spawn(move || {
        let mut sent = 0_u64;
        let mut one_by_one =
            |bytes: &[u8]| bytes.iter().for_each(|b| stream.write_all(&[*b]).unwrap());
        one_by_one(&bytes);
        bytes.clear();
        while stopped.try_recv().is_err() {
            one_by_one(&message);
            sent += 1;
        }
        one_by_one(&masked(0x88, &1000_u16.to_be_bytes()));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(&[0x88, 2, 3, 0xE8]), "{:?}", &rest[rest.len() - 8..]);
        sent
    });
    let published = || metric(&gateway, &certified, "weir_events_published_total");
    wait_for("some of its messages", || (published() > 20.0).then_some(()));
    let mut slowest = Duration::ZERO;
    for at in 0..100 {
        let begun = now();
        publisher.publish("room:1", &json!(at));
        assert_eq!(healthy.expect("event")["data"], at);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    stop.send(()).unwrap();
    let sent = trickle.join().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let wanted = sent as f64 + 100.0;
    assert!((published() - wanted).abs() < 0.5, "{} of {wanted}", published());
}
