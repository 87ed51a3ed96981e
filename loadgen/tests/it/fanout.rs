//! What `fanout --verify` says about a server that keeps the promise, and about each way to break
//! it.

use crate::relay::{self, Sin};
use crate::{Ran, run, schema};

const SHORT: [&str; 12] = [
    "--connections",
    "6",
    "--channels",
    "2",
    "--per-connection",
    "2",
    "--warmup",
    "0.2",
    "--duration",
    "0.5",
    "--drain",
    "3",
];

fn fanout(sin: Sin, extra: &[&str]) -> Ran {
    let url = relay::start(sin);
    run(&[&["fanout"], SHORT.as_slice(), extra, &[url.as_str()]].concat())
}

#[test]
fn a_server_that_keeps_the_promise_passes() {
    for extra in [["--rate", "200"], ["--window", "16"]] {
        let ran =
            fanout(Sin::None, &[extra.as_slice(), &["--verify", "--late-max", "2000"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
        assert!(ran.text.contains("latency"), "{}", ran.text);
    }
}

#[test]
fn what_is_told_lost_is_no_violation() {
    let ran = fanout(Sin::Lag, &["--rate", "200", "--verify", "--late-max", "2000"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("2 told lost"), "{}", ran.text);
}

#[test]
fn under_latest_what_is_told_lost_must_be_shown() {
    let asked = ["--rate", "200", "--verify", "--late-max", "2000", "--slow", "latest"];
    for (sin, code, said) in [
        (Sin::LagAndShow, 0, "2 told lost, 2 shown"),
        (Sin::Lag, 1, "offsets 5 to 5 hold newest events of keys that were missed and not shown"),
        (
            Sin::LagAndShowStale,
            1,
            "offsets 4 to 4 were shown although a newer event of their key was missed",
        ),
    ] {
        let ran = fanout(sin, &asked);
        assert_eq!(ran.code, code, "{}", ran.text);
        assert!(ran.text.contains(said), "{said}: {}", ran.text);
    }
    // Who does not ask for it is owed nothing but the telling.
    let ran = fanout(Sin::LagAndShow, &asked[..5]);
    assert_eq!(ran.code, 0, "{}", ran.text);
}

#[test]
fn by_pattern_each_channel_of_each_connection_has_an_account() {
    let run = |sin| {
        let url = relay::start(sin);
        let short = ["-c", "6", "--channels", "3", "--warmup", "0.2", "--duration", "0.5"];
        let rest = ["--rate", "200", "--late-max", "2000", "--pattern", "--verify", &url];
        run(&[["fanout"].as_slice(), &short, &rest].concat())
    };
    let ran = run(Sin::None);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    for (sin, how) in [
        (Sin::Drop, "neither came nor were told"),
        (Sin::Repeat, "came or were told twice"),
        (Sin::Miscount, "were told with another number than theirs"),
    ] {
        let ran = run(sin);
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains("3 violations"), "one per channel: {}", ran.text);
        assert!(ran.text.contains(&format!("offsets 5 to 5 {how}")), "{}", ran.text);
    }
}

#[test]
fn a_broken_promise_is_listed_with_connection_channel_and_offsets() {
    for (sin, how) in [
        (Sin::Drop, "neither came nor were told"),
        (Sin::Repeat, "came or were told twice"),
        (Sin::Miscount, "were told with another number than theirs"),
        (Sin::Restart, "neither came nor were told"),
        (Sin::Show, "were shown twice"),
    ] {
        let ran = fanout(sin, &["--rate", "200", "--verify", "--late-max", "2000"]);
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains("2 violations"), "one per channel: {}", ran.text);
        assert!(ran.text.contains(&format!("offsets 5 to 5 {how}")), "{}", ran.text);
    }
}

#[test]
fn a_channel_that_falls_back_is_named_with_what_it_repeats() {
    let ran = fanout(Sin::Rollback, &["--rate", "200", "--verify", "--late-max", "2000"]);
    assert_eq!(ran.code, 1, "{}", ran.text);
    for how in [
        "offsets 4 to 5 were there before, and the channel ends below them",
        "offsets 4 to 4 came or were told twice",
        "offsets 5 to 5 came or were told twice",
    ] {
        assert!(ran.text.contains(how), "{how}: {}", ran.text);
    }
}

#[test]
fn a_new_epoch_under_living_subscribers_is_no_violation() {
    let ran = fanout(Sin::Renew, &["--rate", "200", "--verify", "--late-max", "2000"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    assert!(ran.text.contains("the numbering of 2 channels began anew"), "{}", ran.text);
}

#[test]
fn without_verify_deliveries_must_still_add_up() {
    let ran = fanout(Sin::Drop, &["--rate", "200"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("INVALID: deliveries do not add up: 2 neither"), "{}", ran.text);
    let ran = fanout(Sin::Repeat, &["--rate", "200"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("2 more came than were published"), "{}", ran.text);
}

#[test]
fn what_nobody_owes_is_no_violation() {
    for (sin, why) in [
        (Sin::Close, "connections were lost; the first: the server closed the connection with"),
        (Sin::Cut, "connections were lost; the first: the server ended"),
        (Sin::CutPublisher, "the publisher lost its connection"),
        (Sin::Reject, "publishes were refused; the first: too much"),
    ] {
        let ran = fanout(sin, &["--rate", "200", "--verify", "--late-max", "2000"]);
        assert_eq!(ran.code, 2, "{}", ran.text);
        assert!(ran.text.contains(why), "{why}: {}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
    }
}

#[test]
fn hostile_numbers_end_no_run() {
    for extra in [["--rate", "200", "--verify"].as_slice(), &["--rate", "200"]] {
        let ran = fanout(Sin::Hostile, extra);
        assert!([1, 2].contains(&ran.code), "{}", ran.text);
        assert!(!ran.text.contains("panicked"), "{}", ran.text);
    }
}

#[test]
fn a_rate_that_is_never_reached_makes_the_run_invalid() {
    let ran = fanout(Sin::None, &["--rate", "9000000", "--size", "40"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("the rate was not reached"), "{}", ran.text);
    assert!(ran.text.contains("of 9000000 events a second"), "{}", ran.text);
    assert!(ran.text.contains("were not sent in time"), "{}", ran.text);
}

#[test]
fn a_short_drain_still_finds_what_is_missing_at_the_end() {
    // Nothing comes behind offset 5, so only the end of the channels tells.
    let short = ["-c", "3", "--rate", "5", "--warmup", "0", "--duration", "0.9", "--drain", "1"];
    let once = || {
        let url = relay::start(Sin::Drop);
        let ran = run(&[&["fanout", "--verify"], short.as_slice(), &[&url]].concat());
        let found = ran.text.contains("offsets 5 to 5 neither came nor were told");
        let is_late = ran.text.contains("still arrived");
        assert!(is_late || found && ran.code == 1, "{}", ran.text);
        !is_late
    };
    // On a busy machine some may come late, but not every time.
    assert!((0..4).any(|_| once()), "it waits for more at the end of each run");
}

#[test]
fn a_server_process_that_dies_is_named() {
    let url = relay::start(Sin::None);
    let mut process =
        std::process::Command::new("sleep").arg("0.4").spawn().expect("it is everywhere");
    let pid = process.id().to_string();
    // Taken from the table of processes when it ends.
    let reaper = std::thread::spawn(move || process.wait());
    let ran = run(&["idle", "-c", "2", "--hold", "1", "--settle", "0", "--server-pid", &pid, &url]);
    reaper.join().expect("no panic").expect("it ended");
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains(&format!("process {pid} has ended")), "{}", ran.text);
}

#[test]
fn the_last_subscriber_of_each_event_is_found() {
    for (sin, missed) in [(Sin::None, false), (Sin::Lag, true)] {
        // The sin is at offset 5, so nothing is warmed up.
        let extra = ["--rate", "100", "--until-last", "--late-max", "2000"];
        let url = relay::start(sin);
        let short = ["-c", "3", "--warmup", "0", "--duration", "0.5", "--drain", "3"];
        let ran = run(&[&["fanout"], short.as_slice(), &extra, &[url.as_str()]].concat());
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("until last  "), "{}", ran.text);
        assert_eq!(ran.text.contains("not by all       1 events"), missed, "{}", ran.text);
    }
}

#[test]
fn a_lost_connection_makes_the_run_invalid() {
    let ran = fanout(Sin::Cut, &["--rate", "200"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(
        ran.text.contains("connections were lost; the first: the server ended"),
        "{}",
        ran.text
    );
}

#[test]
fn text_that_is_no_message_makes_the_run_invalid() {
    let ran = fanout(Sin::Garbage, &["--rate", "200"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("no Weir message: no JSON"), "{}", ran.text);
}

#[test]
fn a_refused_subscribe_is_a_sentence() {
    let ran = fanout(Sin::Refuse, &["--rate", "200"]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("not today"), "{}", ran.text);
}

#[test]
fn the_json_report_holds_the_figures() {
    let path = std::env::temp_dir().join(format!("weir-loadgen-{}.json", std::process::id()));
    let file = path.to_str().expect("UTF-8");
    let html = path.with_extension("html");
    let page = html.to_str().expect("UTF-8");
    let ran = fanout(
        Sin::None,
        &["--rate", "200", "--late-max", "2000", "--verify", "--json", file, "--html", page],
    );
    assert_eq!(ran.code, 0, "{}", ran.text);
    let report = schema::checked(&path);
    std::fs::remove_file(&path).expect("it can go");
    assert_eq!(report["schema"], "weir-loadgen/2");
    assert_eq!(report["sizes"]["rate"], 200.0);
    let fanout = &report["fanout"];
    assert_eq!(fanout["expected_total"], fanout["delivered_total"]);
    assert!(fanout["latency"]["p99_ms"].as_f64().is_some_and(|ms| ms < 20_000.0), "{report}");
    assert_eq!(report["distributions"][0]["name"], "latency");
    let points = report["series"]["points"].as_array().expect("points");
    assert!(points.iter().any(|point| point["p99_ms"].is_f64()), "{points:?}");
    assert!(points.iter().all(|point| point["client_rss_bytes"].as_u64() > Some(0)), "{points:?}");
    let page = std::fs::read_to_string(&html).expect("the page");
    std::fs::remove_file(&html).expect("it can go");
    assert!(page.matches("<svg").count() >= 5, "{page}");
    assert!(page.contains("Valid, every offset") && page.contains("--late-max"), "{page}");
    assert!(!page.contains("<script") && !page.contains("href="), "it needs nothing else");
}
