//! What the command line refuses, what it calls the same work, and where reports go.

use std::path::PathBuf;

use crate::relay::{self, Sin};
use crate::{run, schema};

const NOBODY: &str = "ws://127.0.0.1:1/ws";

#[test]
fn what_would_be_ignored_is_refused_with_a_sentence() {
    let own = ["--publish-frame", "x{ts}{seq}"].as_slice();
    for (arguments, sentence) in [
        (["publish", "--sources", "2"].as_slice(), "--sources does not belong to publish"),
        (&["publish", "--connect-rate", "9"], "--connect-rate does not belong to publish"),
        (&["publish", "--inflight", "9"], "--inflight does not belong to publish"),
        (&["publish", "--via", "http", "--window", "9"], "--window belongs to --via ws"),
        (&["publish", "--batch", "9"], "--batch belongs to --via ndjson"),
        (&["publish", "--http-path", "/x"], "--http-path belongs to --via http"),
        (&["echo", "--size", "9"], "--request-frame does not have"),
        (&["echo", "--rate", "9", "--window", "2"], "--window bounds a run without a --rate"),
        (&["fanout", "--rate", "9", "--window", "2"], "--window bounds a run without a --rate"),
        (&["slow", "--window", "2"], "--window bounds a run without a --rate"),
        (&["fanout", "--verify", "--sample", "2"], "look at every event"),
        (&[["fanout", "--keys", "2"].as_slice(), own].concat(), "--keys are Weir's"),
        (&[["fanout", "--size", "99"].as_slice(), own].concat(), "--publish-frame does not have"),
        (&["fanout", "--size", "71", "--publish-frame", "{payload}"], "take up to 72 bytes"),
        (&["fanout", "--size", "39"], "39 is not in 40..=1000000"),
        (&["publish", "--size", "39"], "39 is not in 40..=1000000"),
        (&["connect", "--publish-frame", "{payload}"], "this scenario has no events"),
        (&["echo", "--publish-frame", "{payload}"], "`echo` sends --request-frame"),
        (&["recover", "--publish-frame", "{payload}"], "no hole for `since`"),
        (&["storm", "--hello-frame", "x"], "no hole for `since`"),
        (&["churn", "--subscribe-frame", "x"], "how to unsubscribe"),
        (&["publish", "--publish-frame", "{payload}"], "which event an answer acknowledges"),
        (&["publish", "--publish-frame", "{payload}"], "`echo` with a publish as its"),
    ] {
        let ran = run(&[arguments, &[NOBODY]].concat());
        assert_eq!(ran.code, 64, "{arguments:?}: {}", ran.text);
        assert!(ran.text.contains(sentence), "{arguments:?}: {}", ran.text);
    }
}

#[test]
fn a_self_test_that_no_machine_has_room_for_is_refused() {
    for arguments in [
        ["self-test", "--size", "18446744073709551615"].as_slice(),
        &["self-test", "--size", "1000000", "--batch", "65536"],
        &["self-test", "--size", "0"],
        &["self-test", "-c", "10001"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 64, "{arguments:?}: {}", ran.text);
        assert!(!ran.text.contains("panicked"), "{arguments:?}: {}", ran.text);
    }
}

fn file(name: &str) -> (PathBuf, String) {
    let path = std::env::temp_dir().join(format!("weir-usage-{name}-{}", std::process::id()));
    let text = path.to_str().expect("UTF-8").to_owned();
    (path, text)
}

const SHORT: [&str; 6] = ["-c", "3", "--warmup", "0.1", "--duration", "0.3"];

#[test]
fn what_makes_runs_the_same_work_is_in_the_report() {
    let (path, json) = file("work.json");
    let report = |arguments: &[&str]| {
        let ran = run(&[arguments, &SHORT, &["--json", &json]].concat());
        assert!([0, 2].contains(&ran.code), "{}", ran.text);
        schema::checked(&path)
    };
    let url = relay::start(Sin::None);
    let batched = format!("{url}?batch=1");
    let fanout = report(&["fanout", "--rate", "200", "--keys", "3", "--inflight", "2", &batched]);
    for (name, size) in [("keys", 3.0), ("sample", 17.0), ("inflight", 2.0), ("batched", 1.0)] {
        assert_eq!(fanout["sizes"][name], size, "{name}: {}", fanout["sizes"]);
    }
    assert_eq!(
        (&fanout["sizes"]["payload_bytes"], &fanout["texts"]["namespace"]),
        (&serde_json::json!(128.0), &serde_json::json!("load"))
    );
    let frame = r#"{"type":"ping","id":{seq},"x":{payload}}"#;
    let echo = report(&["echo", "--request-frame", frame, "--size", "9", &url]);
    assert_eq!(
        (echo["texts"]["request_frame"].as_str(), &echo["sizes"]["payload_bytes"]),
        (Some(frame), &serde_json::json!(9.0))
    );
    assert_eq!(echo["texts"]["answer_mark"], r#""id":"#);
    let recover = report(&["recover", "--rate", "200", "--retry", "0.3", &url]);
    assert_eq!(recover["sizes"]["retry_seconds"], 0.3);
    assert_eq!(recover["sizes"]["away_seconds"], 0.1);
    std::fs::remove_file(path).expect("it can go");
}

#[test]
fn a_report_that_has_no_place_costs_no_run() {
    // Nobody is there, and that is not what is said first.
    for flag in ["--json", "--html"] {
        let ran = run(&["connect", NOBODY, flag, "/nonexistent/x"]);
        assert_eq!(ran.code, 5, "{}", ran.text);
        assert!(ran.text.contains("cannot write the report to /nonexistent/x"), "{}", ran.text);
    }
}

#[test]
fn an_older_report_does_not_stand_for_a_run_that_failed() {
    let (path, text) = file("old.json");
    for (arguments, code, stays) in [
        (["connect", NOBODY].as_slice(), 3, false),
        (&["idle", "-c", "70000", "--sources", "1", "--threads", "64", NOBODY], 4, false),
        (&["echo", "--size", "9", NOBODY], 64, true),
    ] {
        std::fs::write(&path, "old").expect("a report");
        let ran = run(&[arguments, &["--json", &text]].concat());
        assert_eq!(ran.code, code, "{}", ran.text);
        let now = std::fs::read_to_string(&path).ok();
        assert_eq!(now.as_deref(), stays.then_some("old"), "{arguments:?}");
    }
    std::fs::remove_file(&path).expect("it can go");
    let ran = run(&["echo", "--size", "9", NOBODY, "--json", &text]);
    assert_eq!((ran.code, path.exists()), (64, false), "nothing is left behind");
    let ran = run(&["connect", NOBODY, "--json", "/dev/null"]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(std::fs::metadata("/dev/null").is_ok(), "only files are removed");
}
