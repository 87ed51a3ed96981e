//! What `slow`, `churn`, `recover`, `storm` and `echo` say about servers that serve clients which
//! misbehave, and about servers that do not.

use std::process::Command;

use crate::relay::{self, Sin};
use crate::{Ran, run};

const SHORT: [&str; 16] = [
    "--timeout",
    "2",
    "-c",
    "6",
    "--channels",
    "2",
    "--warmup",
    "0.1",
    "--duration",
    "1",
    "--drain",
    "4",
    "--rate",
    "300",
    "--late-max",
    "2000",
];

fn fed(scenario: &str, sin: Sin, extra: &[&str]) -> Ran {
    let url = relay::start(sin);
    run(&[&[scenario, "--verify"], SHORT.as_slice(), extra, &[url.as_str()]].concat())
}

#[test]
fn a_server_that_does_not_grow_has_no_bytes_for_each_connection() {
    // A process that has nothing to do with it, as a server that has room from before.
    let mut other = Command::new("sleep").arg("60").spawn().expect("it starts");
    let path = std::env::temp_dir().join(format!("weir-idle-{}", std::process::id()));
    let file = |kind: &str| format!("{}.{kind}", path.display());
    let (url, pid) = (relay::start(Sin::None), other.id().to_string());
    let times = ["--settle", "0.1", "--hold", "0.2", "-c", "20", "--server-pid", &pid];
    let files = ["--json", &file("json"), "--html", &file("html")];
    let ran = run(&[["idle"].as_slice(), &times, &files, &[&url]].concat());
    other.kill().and_then(|()| other.wait()).expect("it can be ended");
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("server not measurable"), "{}", ran.text);
    let [report, page] = ["json", "html"].map(|kind| {
        let text = std::fs::read_to_string(file(kind)).expect("a file");
        std::fs::remove_file(file(kind)).expect("it is there");
        text
    });
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert!(report["idle"].get("client_bytes_per_connection").is_some());
    assert!(report["idle"].get("server_bytes_per_connection").is_none());
    assert!(page.contains("<b>not measurable</b>"), "{page}");
}

#[test]
fn a_slow_client_costs_only_itself() {
    let own_pid = std::process::id().to_string();
    let extra = ["--share", "0.34", "--size", "8000", "--server-pid", &own_pid];
    let ran = fed("slow", Sin::None, &extra);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("2 connections that stall"), "{}", ran.text);
    assert!(ran.text.contains("slow ended  "), "{}", ran.text);
    assert!(ran.text.contains("KiB at most"), "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
}

#[test]
fn a_trickle_is_enough_for_small_events() {
    let ran = fed("slow", Sin::None, &["--share", "0.5", "--bytes-per-second", "200000"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("3 connections that read 200000 B/s"), "{}", ran.text);
    assert!(ran.text.contains("slow see  "), "{}", ran.text);
    assert!(!ran.text.contains("slow ended"), "{}", ran.text);
}

#[test]
fn what_was_due_in_the_warm_up_is_in_no_distribution() {
    let path = std::env::temp_dir().join(format!("weir-warm-up-{}.json", std::process::id()));
    let file = path.to_str().expect("UTF-8").to_owned();
    // Of a second and a half, the last third is measured.
    let short = ["-c", "6", "--warmup", "1", "--duration", "0.5", "--rate", "100", "--json", &file];
    let late = ["--late-max", "2000"];
    for (scenario, extra, figures) in [
        ("churn", ["--churn-rate", "200", "--reconnect", "0.5"].as_slice(), ["answered", "back"]),
        ("recover", &["--cut-rate", "40", "--away", "0"], ["until_back", "until_served"]),
    ] {
        let url = relay::start(Sin::None);
        let ran = run(&[&[scenario], short.as_slice(), &late, extra, &[&url]].concat());
        assert_eq!(ran.code, 0, "{}", ran.text);
        let report = std::fs::read_to_string(&file).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let section = &report[scenario];
        let all = match scenario {
            "churn" => [
                section["subscribed"].as_u64().unwrap_or(0)
                    + section["unsubscribed"].as_u64().unwrap_or(0),
                section["reconnected"].as_u64().unwrap_or(0),
            ],
            _ => [section["back"].as_u64().unwrap_or(0), section["served"].as_u64().unwrap_or(0)],
        };
        for (figure, all) in figures.into_iter().zip(all) {
            let samples = section[figure]["samples"].as_u64().unwrap_or(0);
            assert!(samples > 0 && samples * 2 < all, "{figure}: {samples} of {all}");
        }
    }
    std::fs::remove_file(&path).expect("it was written");
}

#[test]
fn what_the_slow_miss_untold_is_a_violation() {
    // Connection 4 is slow and alone on its channel, so it is the first that suffers there.
    let url = relay::start(Sin::Drop);
    let channels = ["-c", "6", "--channels", "6", "--share", "0.2"].as_slice();
    let times = ["--warmup", "0.1", "--duration", "1", "--drain", "4", "--late-max", "2000"];
    let ran = run(&[&["slow", "--verify", "--rate", "300"], channels, &times, &[&url]].concat());
    assert_eq!(ran.code, 1, "{}", ran.text);
    let told = "connection 4, channel 4: offsets 5 to 5 neither came nor were told";
    assert!(ran.text.contains(told), "{}", ran.text);
    assert!(ran.text.contains("1 connections that stall"), "{}", ran.text);
}

#[test]
fn churn_keeps_every_account() {
    let extra = ["--per-connection", "2", "--churn-rate", "200", "--reconnect", "0.2"];
    for extra in [extra.as_slice(), &["--pattern", "--churn-rate", "200", "--reconnect", "0.2"]] {
        let ran = fed("churn", Sin::None, extra);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
        assert!(ran.text.contains("unsubscribed,"), "{}", ran.text);
        assert!(ran.text.contains("answered  "), "{}", ran.text);
    }
}

#[test]
fn events_after_unsubscribed_are_violations() {
    let ran = fed("churn", Sin::Repeat, &["--churn-rate", "200", "--reconnect", "0"]);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert!(ran.text.contains("came without a subscription"), "{}", ran.text);
}

#[test]
fn what_was_missed_is_owed_where_it_was_recovered() {
    for scenario in ["recover", "storm"] {
        let ran = fed(scenario, Sin::None, &[]);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains(" events, 0 not"), "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
        assert!(ran.text.contains("until served"), "{}", ran.text);
        let ran = fed(scenario, Sin::Hole, &[]);
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains("neither came nor were told"), "{}", ran.text);
    }
}

#[test]
fn by_pattern_nothing_is_recovered_and_nothing_that_follows_is_left_out() {
    let ran = fed("recover", Sin::None, &["--pattern"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 subscriptions with 0 events, 0 not"), "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    let url = "ws://127.0.0.1:1/";
    let ran = run(&["storm", "--pattern", "--expect-recovered", url]);
    assert_eq!(ran.code, 64, "{}", ran.text);
    assert!(ran.text.contains("a pattern has no place to come back to"), "{}", ran.text);
}

#[test]
fn what_is_said_of_since_must_be_true() {
    for (sin, how) in [
        (Sin::WrongEpoch, "were said to be recovered, but not from where it was left"),
        (Sin::Ignore, "were asked for with since, and the answer has no recovered"),
    ] {
        let ran = fed("storm", sin, &[]);
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains(how), "{}", ran.text);
    }
}

#[test]
fn without_verify_a_return_asks_for_no_more_than_it_missed() {
    let json = std::env::temp_dir().join(format!("weir-recover-{}.json", std::process::id()));
    let file = json.to_str().expect("UTF-8");
    for verify in [["--verify"].as_slice(), &[]] {
        let url = relay::start(Sin::None);
        let storm = ["storm", "-c", "6", "--rate", "300", "--warmup", "0.5", "--drain", "4"];
        let rounds = ["--rounds", "4", "--duration", "0.3", "--late-max", "2000", "--json", file];
        let ran = run(&[storm.as_slice(), &rounds, verify, &[&url]].concat());
        assert_eq!(ran.code, 0, "{}", ran.text);
        let report = crate::schema::checked(&json);
        // All six are on one channel, and each event is owed to each once.
        let delivered = report["fanout"]["delivered_total"].as_u64().expect("a number");
        let published = report["fanout"]["published_total"].as_u64().expect("a number");
        assert_eq!(delivered, published * 6, "{verify:?}: {}", ran.text);
    }
    std::fs::remove_file(&json).expect("it can go");
}

#[test]
fn a_share_is_cut_and_the_others_are_measured() {
    let json = std::env::temp_dir().join(format!("weir-share-{}.json", std::process::id()));
    let file = json.to_str().expect("UTF-8");
    for scenario in ["recover", "storm"] {
        let extra = ["--share", "0.5", "--expect-recovered", "--away", "1", "--json", file];
        let ran = fed(scenario, Sin::None, &extra);
        assert_eq!(ran.code, 0, "{}", ran.text);
        let report = crate::schema::checked(&json);
        let recovered = report["recover"]["recovered_events"].as_u64().expect("a number");
        assert!(recovered > 0, "{}", ran.text);
        if scenario == "storm" {
            assert_eq!(report["recover"]["rounds"][0]["cut"], 3, "{}", ran.text);
        }
        // Whoever was away has events that are a second late; nobody else has.
        let latency = report["fanout"]["latency"]["max_ms"].as_f64().expect("a number");
        assert!(latency < 900.0, "{}", ran.text);
    }
    std::fs::remove_file(&json).expect("it can go");
    let ran = run(&["storm", "--share", "0", "ws://127.0.0.1:1/"]);
    assert_eq!(ran.code, 64, "{}", ran.text);
}

#[test]
fn where_nothing_is_recovered_a_new_account_begins() {
    for scenario in ["recover", "storm"] {
        let ran = fed(scenario, Sin::Forget, &[]);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(
            ran.text.contains("recovered        0 subscriptions with 0 events"),
            "{}",
            ran.text
        );
        assert!(ran.text.contains("note: no subscription that had missed"), "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
    }
    for sin in [Sin::Forget, Sin::Ignore] {
        let url = relay::start(sin);
        let last = ["--expect-recovered", &url];
        let ran = run(&[["storm"].as_slice(), SHORT.as_slice(), &last].concat());
        assert_eq!(ran.code, 2, "{}", ran.text);
        assert!(ran.text.contains("INVALID: 6 subscriptions were not recovered"), "{}", ran.text);
    }
}

#[test]
fn who_comes_back_and_gets_nothing_is_not_called_served() {
    // The first event is for all; the second would come after 20 s.
    let url = relay::start(Sin::None);
    let storm = ["storm", "-c", "6", "--rate", "0.05", "--warmup", "1", "--duration", "0.1"];
    let ran = run(&[storm.as_slice(), &["--limit", "0.5", "--drain", "0.4", &url]].concat());
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("6 of 6 back in "), "{}", ran.text);
    assert!(ran.text.contains("0 of 6 served in "), "{}", ran.text);
    let why = "INVALID: 6 connections that came back received no event";
    assert!(ran.text.contains(why), "{}", ran.text);
}

fn echo(sin: Sin, extra: &[&str]) -> Ran {
    let url = relay::start(sin);
    let short = ["echo", "-c", "4", "--warmup", "0.1", "--duration", "0.4", "--late-max", "2000"]
        .as_slice();
    run(&[short, extra, &[url.as_str()]].concat())
}

#[test]
fn every_request_finds_its_answer() {
    for extra in [["--rate", "300"], ["--window", "4"]] {
        let ran = echo(Sin::None, &extra);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("answered, 0 refused"), "{}", ran.text);
        assert!(ran.text.contains("latency"), "{}", ran.text);
    }
}

#[test]
fn an_answer_belongs_to_who_asked_and_comes_once() {
    for (sin, code) in [(Sin::Repeat, "twice"), (Sin::Unasked, "a connection that did not ask")] {
        for extra in [["--rate", "100"].as_slice(), &["--threads", "2", "--rate", "100"]] {
            let ran = echo(sin, &[extra, &["--drain", "1"]].concat());
            assert_eq!(ran.code, 2, "{}", ran.text);
            assert!(ran.text.contains(code), "{}", ran.text);
        }
    }
}

#[test]
fn a_window_that_no_buffer_takes_is_sent_piece_by_piece() {
    let frame = r#"{"type":"ping","id":{seq},"fill":{payload}}"#;
    let large = ["--size", "60000", "--window", "100", "--request-frame", frame];
    let url = relay::start(Sin::None);
    let short = ["echo", "-c", "1", "--warmup", "0", "--duration", "0.3", "--drain", "30"];
    let ran = run(&[short.as_slice(), &large, &[&url]].concat());
    // How fast the answers come is not what is tested.
    assert!([0, 2].contains(&ran.code), "{}", ran.text);
    assert!(ran.text.contains("answered, 0 refused"), "{}", ran.text);
    assert!(!ran.text.contains("lost") && !ran.text.contains("never"), "{}", ran.text);
}

#[test]
fn requests_without_answers_make_the_run_invalid() {
    let ran = echo(Sin::Deaf, &["--rate", "100"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("commands were never answered"), "{}", ran.text);
    let ran = echo(Sin::Refuse, &["--rate", "100"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("the server refused a command"), "{}", ran.text);
}

#[test]
fn what_makes_no_sense_is_usage() {
    for arguments in [
        ["slow", "--share", "0", "ws://127.0.0.1:1/"],
        ["slow", "--share", "2", "ws://127.0.0.1:1/"],
        ["churn", "--churn-rate", "0", "ws://127.0.0.1:1/"],
        ["echo", "--request-frame", "no number", "ws://127.0.0.1:1/"],
        ["fanout", "--slow", "never", "ws://127.0.0.1:1/"],
    ] {
        assert_eq!(run(&arguments).code, 64, "{arguments:?}");
    }
}

#[test]
fn a_fan_out_beside_hostile_peers_is_measured_with_and_without_them() {
    let ran = fed("hostile", Sin::None, &["--half-open", "20", "--garbage-rate", "50"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    for words in ["20 on average", " 0/s cut", "without", "times that without"] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    let garbage = ran.text.lines().find(|line| line.trim_start().starts_with("garbage"));
    assert!(garbage.is_some_and(|line| line.contains(" 0 connects failed")), "{}", ran.text);
    let refused = fed("hostile", Sin::None, &["--publish-frame", "{payload}"]);
    assert_eq!(refused.code, 64, "{}", refused.text);
}
