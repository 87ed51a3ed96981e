//! Servers that are not there, refuse, answer garbage, fall silent or close: each is a sentence
//! and an exit code.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::relay::{self, CONSENT, Sin};
use crate::run;

/// A server that meets its clients one after the other, each with its number, and keeps those of
/// which `meet` says so.
fn meet(mut meet: impl FnMut(usize, &mut TcpStream) -> bool + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for (nth, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            if meet(nth, &mut stream) {
                kept.push(stream);
            }
        }
    });
    url
}

/// A server that reads a request, writes `answer` and then waits or closes.
fn server(answer: Vec<u8>, stays: bool) -> String {
    meet(move |_, stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
        drop(stream.read(&mut [0; 2048]));
        stream.write_all(&answer).ok();
        stays
    })
}

#[test]
fn a_server_that_cannot_be_measured_is_named() {
    let consent_then = |bytes: &[u8]| [CONSENT, bytes].concat();
    let cases: [(Vec<u8>, bool, i32, &str); 10] = [
        (b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec(), true, 3, "upgrade with HTTP/1.0 404 Not"),
        (consent_then(b"\x01\x00\x88\x06\x0F\xA1down"), true, 3, "code 4001 (down)"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n".to_vec(), true, 3, "with 503 Service"),
        (b"SSH-2.0-x\r\n".to_vec(), true, 3, "no HTTP server"),
        (b"".to_vec(), true, 3, "did not answer within 1 s"),
        (b"".to_vec(), false, 3, "without a close frame"),
        (consent_then(b"\xFF\xFF\xFF"), true, 3, "breaks RFC 6455: reserved bits"),
        (consent_then(b"\x88\x06\x0F\xA1down"), true, 3, "code 4001 (down)"),
        (CONSENT.to_vec(), true, 3, "did not answer within 1 s"),
        (consent_then(b"\x81\x02{}"), true, 3, "no Weir message: {}"),
    ];
    for (answer, stays, code, sentence) in cases {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let url = server(answer, stays);
        let ran = run(&["fanout", "--timeout", "1", "-c", "3", &url]);
        assert!(ran.text.contains(sentence), "{shown:?}: {}", ran.text);
        assert_eq!(ran.code, code, "{shown:?}: {}", ran.text);
    }
}

#[test]
fn a_format_that_is_not_agreed_on_is_a_sentence() {
    for (format, name) in [("bin", "weir.v1.bin"), ("json+gzip", "weir.v1.json+gzip")] {
        let url = server(CONSENT.to_vec(), true);
        let ran = run(&["fanout", "--format", format, "-c", "3", &url]);
        assert_eq!(ran.code, 3, "{}", ran.text);
        assert!(ran.text.contains(&format!("does not speak {name}")), "{}", ran.text);
    }
}

#[test]
fn a_time_out_is_told_as_it_was_asked_for() {
    let url = server(Vec::new(), true);
    let ran = run(&["connect", "--timeout", "0.3", "-c", "3", &url]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("did not answer within 0.3 s"), "{}", ran.text);
}

#[test]
fn a_run_that_was_stopped_and_goes_on_waits_as_before() {
    let url = server(Vec::new(), true);
    let program = env!("CARGO_BIN_EXE_weir-loadgen");
    let mut command = Command::new(program);
    command.args(["connect", "--timeout", "1", "-c", "3", &url]).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let pid = Pid::from_child(&child);
    while child.try_wait().expect("its state").is_none() {
        for signal in [Signal::STOP, Signal::CONT] {
            kill_process(pid, signal).expect("it is not waited for");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("its output");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("did not answer within 1 s"), "{said}");
}

#[test]
fn a_server_that_trickles_is_given_up_in_time() {
    let url = meet(|_, stream| {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nX: ";
        // Each byte in time, and no end.
        for byte in head.iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    });
    let ran = run(&["connect", "--timeout", "1", "-c", "3", &url]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("did not answer within 1 s"), "{}", ran.text);
}

#[test]
fn a_server_that_answers_no_subscribe_is_given_up_after_the_first_window() {
    // All windows would take 100 s, which the test does not wait for.
    let url = server(CONSENT.to_vec(), true);
    let ran = run(&["fanout", "--timeout", "1", "-c", "200", "--inflight", "2", &url]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("did not answer within 1 s"), "{}", ran.text);
}

#[test]
fn a_server_that_answers_only_the_first_is_given_up_after_a_window() {
    let url = meet(|nth, stream| {
        if nth < 2 {
            stream.write_all(CONSENT).ok();
        }
        true
    });
    // All windows would take 100 s, which the test does not wait for.
    let ran = run(&["connect", "--timeout", "1", "-c", "200", "--inflight", "2", &url]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(
        ran.text.contains("connections did not open; the first fault: the server did"),
        "{}",
        ran.text
    );
}

#[test]
fn a_connect_rate_that_handshakes_hold_back_makes_the_run_invalid() {
    let url = meet(|_, stream| {
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(CONSENT).ok();
        true
    });
    let plan = ["connect", "-c", "40", "--inflight", "1", "--connect-rate", "1000"];
    let ran = run(&[plan.as_slice(), &[&url]].concat());
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("of 1000 connections a second"), "{}", ran.text);
    assert!(ran.text.contains("own lateness"), "{}", ran.text);
}

#[test]
fn nobody_there_is_a_sentence() {
    let ran = run(&["connect", "ws://127.0.0.1:1/ws"]);
    assert_eq!(ran.code, 3);
    assert!(ran.text.contains("nothing listens there"), "{}", ran.text);
}

#[test]
fn a_server_that_closes_in_the_middle_makes_the_run_invalid() {
    let url = server([CONSENT, b"\x88\x00"].concat(), true);
    let ran = run(&["idle", "--timeout", "1", "--hold", "1", "-c", "3", &url]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("3 connections were lost"), "{}", ran.text);
}

#[test]
fn connections_that_never_opened_are_not_called_lost() {
    let url = meet(|nth, stream| {
        drop(stream.read(&mut [0; 2048]));
        // The first one only looks whether anybody is there.
        let answer = if nth < 2 { CONSENT } else { b"HTTP/1.1 503 Full\r\n\r\n" };
        stream.write_all(answer).ok();
        true
    });
    let ran = run(&["connect", "-c", "3", "--inflight", "1", &url]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    let sentence = "2 connections did not open; the first fault: the server refused the upgrade";
    assert!(ran.text.contains(sentence), "{}", ran.text);
    assert!(!ran.text.contains("lost"), "{}", ran.text);
}

#[test]
fn only_this_machine_and_only_sense() {
    for arguments in [
        ["connect", "ws://10.0.0.1:80/ws", "-q"].as_slice(),
        &["fanout", "--per-connection", "2", "ws://127.0.0.1:1/"],
        &["connect", "--server-pid", "4000000000", "ws://127.0.0.1:1/"],
        &["connect", "-c", "0", "ws://127.0.0.1:1/"],
        &["nonsense"],
        &["fanout", "--until-last", "ws://127.0.0.1:1/"],
        &["fanout", "--until-last", "--rate", "900000", "ws://127.0.0.1:1/"],
        &["fanout", "--max-rate", "1", "ws://127.0.0.1:1/"],
        &["fanout", "--max-rate", "101", "--rate", "9", "ws://127.0.0.1:1/"],
        &["churn", "--until-last", "--rate", "9", "ws://127.0.0.1:1/"],
    ] {
        assert_eq!(run(arguments).code, 64, "{arguments:?}");
    }
}

#[test]
fn the_self_test_holds_its_own_promise() {
    let path = std::env::temp_dir().join(format!("weir-self-test-{}.json", std::process::id()));
    let file = path.to_str().expect("UTF-8");
    let ran = run(&["self-test", "--verify", "--duration", "0.3", "--json", file]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    assert!(ran.text.contains("per receiver core"), "{}", ran.text);
    assert!(!ran.text.contains("expected"), "the blaster does not say what it owes: {}", ran.text);
    let report = crate::schema::checked(&path);
    std::fs::remove_file(&path).expect("it can go");
    let measured = report["client"]["receiver_cores"].as_f64().expect("cores") >= 0.9;
    assert_ne!(ran.text.contains("the ceiling is extrapolated"), measured, "{}", ran.text);
}

/// Every scenario that connects, with little to do.
fn scenarios() -> Vec<Vec<&'static str>> {
    let short = ["--warmup", "0.1", "--duration", "0.3", "--drain", "1"].as_slice();
    let with = |first: &[&'static str]| [first, short].concat();
    vec![
        vec!["connect"],
        vec!["idle", "--channels", "1", "--settle", "0.1", "--hold", "0.2"],
        with(&["fanout", "--rate", "100", "--verify"]),
        with(&["publish", "--rate", "100"]),
        with(&["publish", "--via", "http"]),
        with(&["publish", "--via", "ndjson"]),
        with(&["slow", "--share", "0.5", "--verify"]),
        with(&["churn", "--verify"]),
        with(&["recover", "--verify"]),
        with(&["storm", "--limit", "1", "--verify"]),
        with(&["echo"]),
        with(&["fanout", "--rate", "100", "--publish-frame", "{payload}"]),
    ]
}

#[test]
fn no_scenario_hangs_or_panics_whatever_answers() {
    let consent_then = |bytes: &[u8]| [CONSENT, bytes].concat();
    let answers: [(Vec<u8>, bool); 8] = [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n".to_vec(), true),
        (b"\x00\xFF garbage \r\n\r\n".to_vec(), true),
        (b"".to_vec(), true),
        (b"".to_vec(), false),
        (consent_then(b"\xFF\xFF\xFF"), true),
        (consent_then(b"\x88\x06\x0F\xA1down"), true),
        (consent_then(b"\x81\x02{}"), true),
        (consent_then(b""), false),
    ];
    for (answer, stays) in answers {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let url = server(answer, stays);
        for scenario in scenarios() {
            let ran = run(&[&scenario, ["--timeout", "1", "-c", "4", &url].as_slice()].concat());
            let shown = format!("{scenario:?} against {shown:?}: {}", ran.text);
            assert!(!ran.text.contains("panicked"), "{shown}");
            match ran.code {
                2 => assert!(ran.text.contains("INVALID: "), "{shown}"),
                3 => assert!(ran.text.starts_with("weir-loadgen: ws://127.0.0.1:"), "{shown}"),
                // Only these may find nothing wrong in a server that consents and says nothing.
                0 => assert!(["connect", "idle"].contains(&scenario[0]), "{shown}"),
                code => panic!("exit code {code}: {shown}"),
            }
        }
    }
}

/// A server that agrees to everything, reads nothing more and says the same for ever.
fn endless(said: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("its address"));
    let flood = said.repeat((1 << 20) / said.len());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, flood) = (stream.expect("a connection"), flood.clone());
            std::thread::spawn(move || {
                drop(stream.read(&mut [0; 2048]));
                let mut next = CONSENT;
                while stream.write_all(next).is_ok() {
                    next = &flood;
                }
            });
        }
    });
    url
}

#[test]
fn a_server_that_never_stops_ends_no_run_late() {
    for (said, sentence) in [
        (b"\x8A\x00".as_slice(), "INVALID: "),
        (b"\x81\x0F{\"type\":\"pong\"}", "INVALID: "),
        (b"\x89\x00", "does not take what is sent to it"),
    ] {
        let url = endless(said);
        let short = ["-c", "1", "--rate", "100", "--warmup", "0.1", "--drain", "1", "--duration"];
        for (scenario, duration) in
            [(["publish"].as_slice(), "2"), (&["fanout", "--publish-frame", "{payload}"], "0.3")]
        {
            let ran = run(&[scenario, short.as_slice(), &[duration, &url]].concat());
            assert_eq!(ran.code, 2, "{scenario:?}: {}", ran.text);
            let sentence = if scenario[0] == "publish" { sentence } else { "INVALID: " };
            assert!(ran.text.contains(sentence), "{scenario:?}: {}", ran.text);
        }
    }
}

#[test]
fn a_server_that_answers_and_dies_of_it_loses_each_connection_once() {
    // What was read before the reset is still there for the client, whose next request fails.
    let url = meet(|nth, stream| {
        drop(stream.read(&mut [0; 2048]));
        stream.write_all(CONSENT).ok();
        if nth == 0 {
            return false;
        }
        drop(stream.read_exact(&mut [0; 8]));
        stream.write_all(b"\x81\x16{\"type\":\"pong\",\"id\":1}\xFF\xFF").ok();
        false
    });
    let ran = run(&["echo", "-c", "1", "--window", "8", "--duration", "0.3", &url]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("INVALID: 1 connections were lost"), "{}", ran.text);
    assert!(!ran.text.contains("panicked"), "{}", ran.text);
}

#[test]
fn nobody_there_is_a_sentence_in_every_scenario() {
    for scenario in scenarios() {
        let ran = run(&[scenario.as_slice(), &["-c", "4", "ws://127.0.0.1:1/ws"]].concat());
        assert_eq!(ran.code, 3, "{scenario:?}: {}", ran.text);
        assert!(ran.text.contains("nothing listens there"), "{scenario:?}: {}", ran.text);
    }
}

#[test]
fn a_server_that_resets_in_the_middle_is_a_sentence() {
    for (scenario, pace) in [
        // A channel for each: the one that stalls is no loss, and may be the first of a channel.
        ("slow", ["--channels", "10"].as_slice()),
        // Few acts: whoever is to be reset must not have left by itself.
        ("churn", &["--churn-rate", "1"]),
        ("recover", &["--cut-rate", "1"]),
        ("storm", &[]),
    ] {
        let url = relay::start(Sin::Cut);
        let short =
            ["-c", "10", "--rate", "200", "--warmup", "0.5", "--drain", "1", "--timeout", "1"];
        let last = ["--duration", "1", &url];
        let ran = run(&[&[scenario], short.as_slice(), pace, &last].concat());
        assert_eq!(ran.code, 2, "{scenario}: {}", ran.text);
        assert!(ran.text.contains("connections were lost"), "{scenario}: {}", ran.text);
    }
}

#[test]
fn the_machine_is_looked_at_before_the_run() {
    let ran =
        run(&["idle", "-c", "70000", "--sources", "1", "--threads", "64", "ws://127.0.0.1:1/"]);
    assert_eq!(ran.code, 4, "{}", ran.text);
    assert!(ran.text.contains("use --sources"), "{}", ran.text);
}
