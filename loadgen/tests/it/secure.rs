//! `wss://`: every scenario over TLS against the gateway itself, whom it trusts, and which sessions
//! are taken up again.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::gateway::{Folder, Gateway, holds, program};
use crate::{Ran, run};

const CONFIG: &str = "[defaults]\nhistory = 10000\n";

/// A gateway that speaks TLS for `localhost` and its address, and the file of its certificate.
struct Secure {
    gateway: Gateway,
    folder: Folder,
}

impl Secure {
    fn start(name: &str) -> Option<Self> {
        let program = program(name)?;
        let folder = Folder::new(&format!("secure-{name}"));
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let one = rcgen::generate_simple_self_signed(names).expect("a key");
        let (cert, key) = (folder.path("tls.crt"), folder.path("tls.key"));
        std::fs::write(&cert, one.cert.pem()).expect("a file");
        std::fs::write(&key, one.signing_key.serialize_pem()).expect("a file");
        let config = format!("{CONFIG}[tls]\ncert = {cert:?}\nkey = {key:?}\n");
        Some(Self { gateway: Gateway::start(&program, &folder, &config), folder })
    }

    fn url(&self) -> String {
        format!("wss://{}/ws", self.gateway.address)
    }

    /// Runs `scenario` with `extra`, trusting the certificate; what it said, and its report.
    fn run(&self, scenario: &str, extra: &[&str]) -> (Ran, Value) {
        let (cert, json) =
            (self.folder.path("tls.crt"), self.folder.path(&format!("{scenario}.json")));
        let common = [scenario, "--quiet", "--json", &json, "--cacert", &cert];
        let ran = run(&[&common, extra, &[&self.url()]].concat());
        let report = std::fs::read_to_string(&json).unwrap_or_default();
        (ran, serde_json::from_str(&report).unwrap_or_default())
    }

    /// The same, of which the figures must hold.
    fn holds(&self, scenario: &str, extra: &[&str]) -> Value {
        let (ran, report) = self.run(scenario, extra);
        let is_good = [0, 2].contains(&ran.code) && holds(&report);
        assert!(is_good, "{scenario} {extra:?}: {}: {}", ran.code, ran.text);
        report
    }
}

/// Short, and long enough for a build without optimization beside other tests.
const FLOW: [&str; 10] =
    ["-c", "20", "--rate", "100", "--warmup", "0.2", "--duration", "0.5", "--late-max", "1000"];

fn shaken(report: &Value) -> (Option<u64>, Option<u64>) {
    (report["tls"]["full"].as_u64(), report["tls"]["resumed"].as_u64())
}

#[test]
fn events_come_over_tls_as_they_do_without() {
    let Some(server) = Secure::start("events") else { return };
    for extra in [
        ["--verify", "--size", "100"].as_slice(),
        // Events of several records, and several of a record.
        &["--verify", "--size", "60000"],
        &["--verify", "--deflate", "--payload", "telemetry"],
        &["--verify", "--format", "bin"],
        &["--verify", "--until-last"],
    ] {
        let report = server.holds("fanout", &[&FLOW, extra].concat());
        assert_eq!(shaken(&report), (Some(20), Some(0)), "{extra:?}");
        assert_eq!(report["tls"]["version"], "TLSv1_3");
        let wire = report["fanout"]["wire_bytes_per_delivery"].as_f64().expect("a figure");
        assert!(wire > 100.0 || extra.contains(&"--deflate"), "{wire}");
    }
    let slow = [&FLOW, ["--share", "0.2", "--verify"].as_slice()].concat();
    let report = server.holds("slow", &slow);
    assert!(report["slow"]["delivered_total"].as_u64() > Some(0), "they read in the end");
    let hostile = ["--half-open", "5", "--garbage-rate", "20"];
    let report = server.holds("hostile", &[FLOW.as_slice(), &hostile].concat());
    assert!(report["hostile"]["refused_per_second"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn what_is_asked_over_tls_is_answered() {
    let Some(server) = Secure::start("answers") else { return };
    let report = server.holds("idle", &["-c", "20", "--settle", "0.1", "--hold", "0.2"]);
    assert_eq!(shaken(&report), (Some(20), Some(0)));
    server.holds("echo", &["-c", "5", "--warmup", "0.2", "--duration", "0.5"]);
    for extra in [
        ["--via", "ws", "--verify"].as_slice(),
        &["--via", "ws", "--verify", "--size", "60000", "--window", "8"],
        &["--via", "http", "--verify"],
        &["--via", "ndjson", "--batch", "500"],
    ] {
        let short = ["-c", "4", "--warmup", "0.2", "--duration", "0.5"];
        let report = server.holds("publish", &[short.as_slice(), extra].concat());
        assert!(report["publish"]["accepted"].as_u64() > Some(0), "{extra:?}: {report}");
    }
}

#[test]
fn why_a_publisher_was_closed_is_heard() {
    let Some(server) = Secure::start("closed") else { return };
    let large = ["-c", "4", "--warmup", "0.1", "--duration", "0.2", "--size", "200000"];
    for scenario in ["publish", "fanout"] {
        let (ran, _) = server.run(scenario, &large);
        assert_eq!(ran.code, 2, "{}", ran.text);
        assert!(ran.text.contains("with code 1009"), "{}", ran.text);
    }
}

#[test]
fn who_comes_back_takes_up_its_session() {
    let Some(server) = Secure::start("tickets") else { return };
    let storm = ["--rounds", "2", "--verify", "--expect-recovered"];
    let storm = [FLOW.as_slice(), &storm].concat();
    assert_eq!(shaken(&server.holds("storm", &storm)), (Some(20), Some(40)));
    let whole = [storm.as_slice(), &["--no-sessionid"]].concat();
    assert_eq!(shaken(&server.holds("storm", &whole)), (Some(60), Some(0)));
    let cut = [FLOW.as_slice(), &["--cut-rate", "20", "--verify"]].concat();
    let report = server.holds("recover", &cut);
    assert_eq!(shaken(&report), (Some(20), report["recover"]["back"].as_u64()));
    let churn = ["--churn-rate", "50", "--reconnect", "0.5", "--verify"];
    let report = server.holds("churn", &[FLOW.as_slice(), &churn].concat());
    assert_eq!(shaken(&report), (Some(20), report["churn"]["reconnected"].as_u64()));
    // One after the other, so that each but the first has a ticket of the one before.
    let one = ["-c", "30", "--inflight", "1"];
    assert_eq!(shaken(&server.holds("connect", &one)), (Some(30), Some(0)));
    let resume = [one.as_slice(), &["--resume"]].concat();
    assert_eq!(shaken(&server.holds("connect", &resume)), (Some(1), Some(29)));
}

#[test]
fn who_is_not_trusted_is_a_sentence() {
    let Some(server) = Secure::start("trust") else { return };
    let said = |arguments: &[&str]| {
        let ran = run(&[["connect", "-c", "2"].as_slice(), arguments].concat());
        (ran.code, ran.text)
    };
    let (code, text) = said(&[&server.url()]);
    assert!(code == 3 && text.contains("certificate is not trusted"), "{code}: {text}");
    assert!(text.contains("--cacert") && text.contains("--insecure"), "{text}");
    assert_eq!(said(&["-k", &server.url()]).0, 0);
    let cert = server.folder.path("tls.crt");
    let named = server.url().replace("127.0.0.1", "localhost");
    assert_eq!(said(&["--cacert", &cert, &named]).0, 0);
    let (code, text) = said(&["--cacert", &cert, "--server-name", "elsewhere.test", &named]);
    assert!(code == 3 && text.contains("certificate is not trusted"), "{code}: {text}");
    let (code, text) = said(&["-k", "--server-name", "elsewhere.test", &named]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = said(&[&server.url().replace("wss", "ws")]);
    assert!(code == 3 && text.contains("wss://"), "{code}: {text}");
}

#[test]
fn a_server_without_tls_and_flags_without_tls_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain = format!("ws://{}/ws", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it listens");
        // Until it has gone: a reset would overtake the answer.
        client.read_to_end(&mut Vec::new()).ok();
    });
    let ran = run(&["connect", "-k", &plain.replace("ws://", "wss://")]);
    assert!(ran.code == 3 && ran.text.contains("does not speak TLS"), "{}", ran.text);
    for flag in [["-k"].as_slice(), &["--no-sessionid"], &["--server-name", "a"], &["--resume"]] {
        let ran = run(&[["connect"].as_slice(), flag, &[&plain]].concat());
        assert!(ran.code == 64 && ran.text.contains("belongs to wss://"), "{}", ran.text);
    }
    let ran = run(&["connect", "--cacert", "/no/such/file", "wss://127.0.0.1:1/"]);
    assert!(ran.code == 64 && ran.text.contains("/no/such/file cannot be read"), "{}", ran.text);
}
