//! The command line: what is printed where, and the exit codes.

use std::fs;
use std::io::{BufRead, Write};
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Kid, finished, scratch, wait_for, weir};

fn run(args: &[&str], input: &str) -> Output {
    let mut command = weir(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let kid = Kid::start(&mut command);
    kid.stdin().write_all(input.as_bytes()).ok();
    kid.output()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn pub_publishes_its_argument() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let args = ["pub", "room:1", r#"{"v":1}"#, "--key", "k", "--url", &gateway.url()];
    let output = run(&args, "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let printed: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&printed["channel"], &printed["offset"]), (&json!("room:1"), &json!(1)));
    assert!(printed["epoch"].is_string() && printed.as_object().unwrap().len() == 3, "{printed}");
    let event = client.expect("event");
    assert_eq!((&event["data"], &event["key"]), (&json!({"v": 1}), &json!("k")));
}

/// Goal: bytes that are no JSON arrive as they are, and large ones in gzip where that is asked for.
#[test]
fn pub_publishes_the_bytes_of_a_file() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let large = [&b"\xFF\x00\n"[..], &[7; 5_000]].concat();
    let path = scratch(".bin");
    fs::write(&path, &large).unwrap();
    let (path, url) = (path.to_str().unwrap(), gateway.url());
    let received = || gateway.metric("weir_bytes_received_total");
    let mut sizes = Vec::new();
    for format in [None, Some("bin"), Some("gzip"), Some("bin-gzip")] {
        let before = received();
        let mut args = vec!["pub", "room:1", "--raw", path, "--key", "k", "--url", &url];
        args.extend(format.into_iter().flat_map(|format| ["--format", format]));
        let output = run(&args, "");
        assert_eq!(output.status.code(), Some(0), "{format:?}: {}", err(&output));
        let event = client.expect("event");
        assert_eq!(event["data_b64"], BASE64_STANDARD.encode(&large), "{format:?}");
        assert_eq!(event["key"], "k");
        sizes.push(received() - before);
    }
    assert!(sizes[0] > 5_000.0 && sizes[1] > 5_000.0, "{sizes:?}");
    assert!(sizes[2] < 1_000.0 && sizes[3] < 1_000.0, "{sizes:?}");
    // Of standard input, and JSON in gzip.
    let args = ["pub", "room:1", "--raw", "-", "--url", &url];
    assert_eq!(run(&args, "{not JSON\n").status.code(), Some(0));
    assert_eq!(client.expect("event")["data_b64"], BASE64_STANDARD.encode("{not JSON\n"));
    let long = format!("\"{}\"", "y".repeat(5_000));
    let before = received();
    let args = ["pub", "room:1", &long, "--format", "bin-gzip", "--url", &url];
    assert_eq!(run(&args, "").status.code(), Some(0));
    assert_eq!(client.expect("event")["data"], "y".repeat(5_000));
    assert!(received() - before < 1_000.0, "it came in gzip");
    let output = run(&["pub", "room:1", "--raw", "/nowhere/at/all", "--url", &url], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("failed to read /nowhere/at/all: "), "{}", err(&output));
}

#[test]
fn pub_publishes_lines_and_takes_its_url_from_the_environment() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let mut command = weir(&["pub", "room:1", "--stdin"]);
    command.env("WEIR_URL", gateway.url());
    let kid = Kid::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    kid.stdin().write_all(b"{\"v\":1}\n{\"v\":2}\n").unwrap();
    let output = kid.output();
    assert_eq!(output.status.code(), Some(0));
    for v in 1..=2 {
        let event = client.expect("event");
        assert_eq!((&event["offset"], &event["data"]), (&json!(v), &json!({"v": v})));
    }
    let offsets = out(&output);
    let offsets = offsets.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(offsets.map(|line| line["offset"].clone()).collect::<Vec<_>>(), [1, 2]);
}

/// The gateway closes the connection over a message that is too large, so none is sent.
#[test]
fn pub_passes_over_a_line_that_is_too_large() {
    let gateway = Gateway::configured("[limits]\nmessage_bytes = 1024\n");
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let command = r#"{"type":"publish","id":1,"channel":"room:1","data":""}"#.len();
    let data = |message: usize| format!("\"{}\"\n", "x".repeat(message - command));
    let lines = format!("{}{}7\n", data(1024), data(1025));
    let output = run(&["pub", "room:1", "--stdin", "--url", &gateway.url()], &lines);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let said = err(&output);
    let wanted = "weir: line 2: too large: a message of 1025 bytes, at most 1024 here\n";
    assert!(said.starts_with(wanted), "{said}");
    assert_eq!(out(&output).lines().count(), 2, "{}", out(&output));
    assert_eq!(client.expect("event")["data"].as_str().unwrap().len(), 1024 - command);
    assert_eq!(client.expect("event")["data"], 7);
    let output = run(&["pub", "room:1", data(1025).trim(), "--url", &gateway.url()], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("weir: too large: "), "{}", err(&output));
    client.expect_nothing();
}

/// The gateway closes the connection after a hundred messages that it refuses, so none is sent.
#[test]
fn pub_passes_over_any_number_of_lines_that_the_gateway_refuses() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let deep = format!("{}1{}\n", "[".repeat(70), "]".repeat(70));
    let lines = format!("{}\"\\ud800\"\n7\n", deep.repeat(130));
    let output = run(&["pub", "room:1", "--stdin", "--url", &gateway.url()], &lines);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let said = err(&output);
    assert!(said.contains("weir: line 130: data is nested deeper than 64\n"), "{said}");
    assert!(said.contains("weir: line 131: data has half of a surrogate pair\n"), "{said}");
    assert_eq!(out(&output).lines().count(), 1, "{}", out(&output));
    assert_eq!(client.expect("event")["data"], 7);
    client.expect_nothing();
}

#[test]
fn a_key_may_be_empty() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let output = run(&["pub", "room:1", "1", "--key", "", "--url", &gateway.url()], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(client.expect("event")["key"], "");
}

#[test]
fn sub_prints_events_until_its_count() {
    let gateway = Gateway::start();
    let mut command = weir(&["sub", "room:1", "room:2", "--count", "3", "--url", &gateway.url()]);
    let kid = Kid::start(command.stdout(Stdio::piped()));
    wait_for("both subscriptions", || (gateway.metric("weir_subscriptions") > 1.5).then_some(()));
    for (channel, data) in [("room:1", "1"), ("room:2", "{\"n\":1e400}"), ("room:1", "\"x\"")] {
        let body = format!(r#"{{"channel":"{channel}","data":{data}}}"#);
        assert_eq!(gateway.post("/api/v1/publish", &body).status, 200);
    }
    let lines: Vec<String> = kid.stdout().lines().map(Result::unwrap).collect();
    assert_eq!(kid.ended().code(), Some(0));
    assert_eq!(lines.len(), 3, "{lines:?}");
    // Only the order within a channel is promised.
    let of = |channel: &str| lines.iter().find(|line| line.contains(channel)).unwrap();
    assert!(of("room:2").contains(r#""data":{"n":1e400}"#), "as it came: {}", of("room:2"));
    let first: Value = serde_json::from_str(of("room:1")).unwrap();
    assert_eq!((&first["channel"], &first["data"]), (&json!("room:1"), &json!(1)));
}

/// Goal: a rate and a policy are asked for: only for these the newest events are kept.
#[test]
fn sub_asks_for_a_rate_or_a_policy() {
    for flags in [["--max-rate", "2.5"], ["--slow", "latest"]] {
        let gateway = Gateway::start();
        let url = gateway.url();
        let rest = ["--count", "2", "--url", &url];
        let mut command = weir(&[&["sub", "room:1"], &flags[..], &rest].concat());
        let kid = Kid::start(command.stdout(Stdio::piped()));
        wait_for("the subscription", || (gateway.metric("weir_subscriptions") > 0.5).then_some(()));
        for n in 1..=2 {
            let body = format!(r#"{{"channel":"room:1","key":"{n}","data":{n}}}"#);
            assert_eq!(gateway.post("/api/v1/publish", &body).status, 200);
            if n == 1 {
                let kept = || (gateway.metric("weir_latest_bytes") > 0.5).then_some(());
                wait_for("what is kept", kept);
            }
        }
        assert_eq!(kid.stdout().lines().count(), 2, "{flags:?}");
        assert_eq!(kid.ended().code(), Some(0));
    }
    let gateway = Gateway::start();
    let refused = run(&["sub", "room:1", "--slow", "never", "--url", &gateway.url()], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("`slow` must be one of"), "{}", err(&refused));
}

#[test]
fn a_failure_at_work_is_1_and_wrong_usage_is_2() {
    let gateway = Gateway::start();
    let url = gateway.url();
    let nobody = "ws://127.0.0.1:1/ws";
    let cases: [(&[&str], i32); 10] = [
        (&["pub", "room:1", "1", "--url", nobody], 1),
        (&["sub", "room:1", "--url", nobody], 1),
        (&["pub", "room:1", "{", "--url", &url], 2),
        (&["pub", "room:1", "1", "--key", &"k".repeat(256), "--url", &url], 2),
        (&["pub", "a b", "1", "--url", &url], 2),
        (&["check", "--config", "/nowhere/weir.toml"], 1),
        (&["pub"], 2),
        (&["sub"], 2),
        (&["frobnicate"], 2),
        (&["serve", "--no-such-flag"], 2),
    ];
    for (args, code) in cases {
        let output = run(args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", err(&output));
        assert!(!err(&output).trim().is_empty(), "{args:?} says what was wrong");
        assert!(!err(&output).contains("panicked"), "{args:?}: {}", err(&output));
    }
}

/// Goal: nobody reads what is wrong, and the exit code says so all the same.
#[test]
fn a_failure_that_nobody_reads_of_has_its_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = weir(&["check", "--config", "/nowhere/weir.toml"]);
    let status = command.stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

/// Goal: what a gateway would refuse is signed all the same, for whoever wants to see that, and said.
#[test]
fn token_says_what_a_gateway_would_refuse() {
    let secret = scratch(".key");
    fs::write(&secret, "s".repeat(32)).unwrap();
    let cases: [(&[&str], Option<&str>); 4] = [
        (&["--sub", "u1"], None),
        (&["--sub", ""], Some("`sub` is a text of 1 to 255 bytes")),
        (&["--sub", "u1", "--claim", "aud=others"], Some("does not name auth.audience")),
        (&["--sub", "u1", "--claim", "nbf=9999999999"], Some("yet to come")),
    ];
    for (args, why) in cases {
        let mut command = weir(&["token"]);
        command.args(args).env("WEIR_AUTH__HMAC_SECRET_FILE", &secret);
        let output = finished(command.env("WEIR_AUTH__AUDIENCE", "weir"));
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(out(&output).matches('.').count(), 2, "{}", out(&output));
        match why {
            Some(why) => {
                let said = err(&output);
                assert!(said.contains("will refuse this token") && said.contains(why), "{said}");
            }
            None => assert_eq!(err(&output), ""),
        }
    }
}

#[test]
fn help_of_each_command_has_an_example() {
    let all = out(&run(&["--help"], ""));
    let (_, listed) = all.split_once("Commands:\n").unwrap();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let commands: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"serve"), "{all}");
    let page = include_str!("../../docs/operation.md");
    for command in commands.into_iter().filter(|command| *command != "help") {
        assert!(page.contains(&format!("`weir {command}")), "{command} is not documented");
        let output = run(&[command, "--help"], "");
        assert_eq!(output.status.code(), Some(0));
        let text = out(&output);
        assert!(text.to_lowercase().contains("example"), "{command}: {text}");
        assert!(text.contains(&format!("weir {command}")), "{command}: {text}");
    }
    let version = run(&["--version"], "");
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(out(&version), concat!("weir ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn check_reports_every_fault_at_once_by_key() {
    let path = scratch(".toml");
    fs::write(
        &path,
        "drain = \"soon\"\n[limits]\nqueue_bytes = -1\nno_such_key = 1\n[http]\nping = \"5 parsecs\"\n\
         [[namespace]]\nname = \"a\"\nslow = \"sometimes\"\n",
    )
    .unwrap();
    let output = run(&["check", "--config", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "", "nothing is in force");
    let said = err(&output);
    let faults = [
        "1: drain",
        "3: limits.queue_bytes",
        "4: limits.no_such_key",
        "6: http.ping",
        "9: namespace.slow",
    ];
    for fault in faults {
        let fault = format!("\n  {}:{fault}: ", path.display());
        assert!(said.contains(&fault), "{fault} is not in: {said}");
    }
    assert!(said.starts_with("weir: 5 faults in the settings\n"), "{said}");
    let served = run(&["serve", "--config", path.to_str().unwrap()], "");
    assert_eq!(served.status.code(), Some(1), "no faulty configuration is served");
}

#[test]
fn a_broken_file_is_reported_with_its_line() {
    let path = scratch(".toml");
    fs::write(&path, "drain = \"1s\"\n\n[limits\n").unwrap();
    let output = run(&["check", "--config", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(said.contains(&format!("{}:3: is not TOML: ", path.display())), "{said}");
}

#[test]
fn the_printed_configuration_is_a_valid_one() {
    let printed = run(&["config"], "");
    assert_eq!(printed.status.code(), Some(0));
    let path = scratch(".toml");
    fs::write(&path, out(&printed)).unwrap();
    let text = out(&printed);
    let mut settings = text.lines().filter(|line| line.contains(" = "));
    assert!(settings.all(|line| line.contains('#')), "every setting is commented: {text}");
    let with = run(&["check", "--config", path.to_str().unwrap()], "");
    assert_eq!(with.status.code(), Some(0), "{}{}", out(&with), err(&with));
    let without = run(&["check"], "");
    assert_eq!(without.status.code(), Some(0), "{}", err(&without));
    let values = |output: &Output| -> Vec<String> {
        let text = out(output);
        text.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(values(&with), values(&without), "the printed configuration is the defaults");
    assert!(values(&with).contains(&"queue_bytes = \"256KiB\"".to_owned()), "{}", out(&with));
}

#[test]
fn flags_go_over_environment_over_file() {
    let path = scratch(".toml");
    fs::write(
        &path,
        "listen = \"127.0.0.1:7001\"\n[limits]\nqueue_events = 111\nqueue_bytes = 70000\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let mut command = weir(&["check", "--config", path, "--listen", "127.0.0.1:7003"]);
    command.env("WEIR_LISTEN", "127.0.0.1:7002").env("WEIR_LIMITS__QUEUE_EVENTS", "222");
    let text = out(&finished(&mut command));
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.unwrap_or_default().split(" #").next().unwrap_or_default().trim()
    };
    assert_eq!(value("listen"), "\"127.0.0.1:7003\"", "the flag");
    assert_eq!(value("queue_events"), "222", "the environment");
    assert_eq!(value("queue_bytes"), "70000", "the file");
    assert_eq!(value("drain"), "\"10s\"", "the default");
    let mut bad = weir(&["check"]);
    bad.env("WEIR_LIMITS__QUEUE_EVENTS", "many");
    let output = finished(&mut bad);
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(said.contains("WEIR_LIMITS__QUEUE_EVENTS: limits.queue_events: is \"many\""), "{said}");
}

#[test]
fn a_public_address_is_refused_without_insecure() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let output = run(&["serve", "--listen", address], "");
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        let said = err(&output);
        assert!(said.contains("--listen: listen:"), "it names the setting: {said}");
        assert!(said.contains("--insecure"), "it says what would be right: {said}");
        let checked = run(&["check", "--listen", address, "--shards", "many"], "");
        assert_eq!(checked.status.code(), Some(1), "{}", err(&checked));
        assert!(err(&checked).starts_with("weir: 2 faults"), "with the others: {}", err(&checked));
        let taken = run(&["check", "--listen", address, "--insecure"], "");
        assert_eq!(taken.status.code(), Some(0), "{}", err(&taken));
    }
    let mut open = weir(&["serve", "--listen", "0.0.0.0:0", "--insecure", "--log-format", "json"]);
    let kid = Kid::start(open.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut line = String::new();
    kid.stdout().read_line(&mut line).unwrap();
    assert!(line.contains("listening on http://"), "{line}");
}

#[test]
fn a_demo_moves_by_itself() {
    let mut command = weir(&["serve", "--demo", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    let kid = Kid::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut line = String::new();
    let mut stdout = kid.stdout();
    stdout.read_line(&mut line).unwrap();
    let (_, address) = line.trim().split_once("http://").unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let channel = format!("telemetry:{}", host.trim());
    let url = format!("ws://{address}/ws");
    for channel in [&*channel, "telemetry:*"] {
        let output = run(&["sub", channel, "--count", "20", "--url", &url], "");
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let text = out(&output);
        assert_eq!(text.lines().count(), 20);
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert!(event["key"].is_string(), "{event}");
        }
    }
}

/// Whatever goes over the wire, the same is published and the same is printed.
#[test]
fn pub_and_sub_speak_every_format() {
    let gateway = Gateway::start();
    let url = gateway.url();
    for format in ["json", "bin", "gzip"] {
        let channel = format!("room:{format}");
        let args = ["sub", &channel, "--count", "3", "--format", format, "--url", &url];
        let sub = Kid::start(weir(&args).stdout(Stdio::piped()));
        wait_for("the subscription", || {
            let found = gateway.get("/api/v1/channels?prefix=room:").text();
            found.contains(&format!("\"{channel}\"")).then_some(())
        });
        let args = ["pub", &channel, "--key", "k", "--stdin", "--format", format, "--url", &url];
        let large = format!("\"{}\"", "large ".repeat(500));
        let output = run(&args, &format!("{{\"n\":1.50}}\n[]\n{large}\n"));
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(out(&output).lines().count(), 3, "{}", out(&output));
        let printed = sub.output();
        assert!(printed.status.success());
        let lines: Vec<_> = out(&printed).lines().map(str::to_owned).collect();
        let large = format!("\"data\":{large}}}");
        for (line, data) in lines.iter().zip([r#""data":{"n":1.50}}"#, r#""data":[]}"#, &large]) {
            assert!(line.contains(r#""key":"k""#) && line.ends_with(data), "{format}: {line}");
        }
        assert_eq!(lines.len(), 3, "{format}: {lines:?}");
    }
    // Each subscriber got what it asked for; of the gzip the small events are the text.
    for (format, events) in [("json", 3 + 3), ("bin", 3), ("json_gzip", 1)] {
        let name = format!("weir_event_encodings_total{{format=\"{format}\"}}");
        assert!(
            gateway.metric(&name) <= f64::from(events) && gateway.metric(&name) > 0.0,
            "{format}"
        );
    }
}
