//! A client in another language: Python's `websockets` reads what `weir pub` sends.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Gateway, Kid, finished, weir};

/// Skips a test that lacks something, with a reason; fails it where CI is set.
pub(crate) fn skip(reason: &str) {
    let ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    assert!(!ci, "CI must not skip: {reason}");
    eprintln!("skipped: {reason}");
}

#[test]
fn python_reads_what_the_command_line_publishes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    let mut probe = Command::new(&python);
    if !python.exists() || !finished(probe.args(["-c", "import websockets"])).status.success() {
        skip("target/venv has no Python with `websockets`; tests/run makes it");
        return;
    }
    let gateway = Gateway::configured("[http]\nping = \"25s\"\n");
    let script = root.join("tests/it/client.py");
    let mut client = Command::new(&python);
    let client = Kid::start(client.arg(script).arg(gateway.url()).stdout(Stdio::piped()));
    let mut lines = client.stdout().lines();
    assert_eq!(lines.next().unwrap().unwrap(), "subscribed");
    let mut publisher = weir(&["pub", "room:1", "--stdin", "--url", &gateway.url()]);
    let publisher = Kid::start(publisher.stdin(Stdio::piped()).stdout(Stdio::null()));
    publisher.stdin().write_all(b"{\"v\":1}\n{\"v\":2}\n").unwrap();
    assert!(publisher.ended().success());
    let said: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(client.ended().success(), "{said:?}");
    assert_eq!(said, ["ok"]);
    // It has read them in each of these.
    let deflate = ["json_deflate", "json_deflate_narrow", "bin_deflate", "bin_deflate_narrow"];
    for format in ["json", "json_gzip", "bin"].into_iter().chain(deflate) {
        let name = format!("weir_event_encodings_total{{format=\"{format}\"}}");
        assert!(gateway.metric(&name) > 0.0, "{format}");
    }
}
