//! A client in another language: Python's `websockets` reads what `weir pub` sends.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Gateway, skip, weir};

#[test]
fn python_reads_what_the_command_line_publishes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    let probe = Command::new(&python).args(["-c", "import websockets"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("target/venv has no Python with `websockets`; tests/run makes it");
        return;
    }
    let gateway = Gateway::start();
    let script = root.join("tests/it/client.py");
    let mut client = Command::new(&python)
        .arg(script)
        .arg(gateway.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "subscribed");
    let mut publisher = weir(&["pub", "room:1", "--stdin", "--url", &gateway.url()]);
    let mut publisher = publisher.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    publisher.stdin.take().unwrap().write_all(b"{\"v\":1}\n{\"v\":2}\n").unwrap();
    assert!(publisher.wait().unwrap().success());
    let said: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(client.wait().unwrap().success(), "{said:?}");
    assert_eq!(said, ["ok"]);
}
