//! The browser client and the live page that the gateway serves, run by Node.

use std::path::Path;
use std::process::Command;

use crate::harness::{Gateway, scratch};
use crate::outside::skip;
use crate::tokens::made;

/// A `node` that has a `WebSocket` of its own: with a flag from 20.10, without from 22.
fn node() -> Option<Command> {
    const PROBE: &str = "process.exit(typeof WebSocket === 'function' ? 0 : 1)";
    let ways: [&[&str]; 2] = [&[], &["--experimental-websocket"]];
    ways.into_iter().find_map(|way| {
        let probe = Command::new("node").args(way).args(["-e", PROBE]).output();
        probe.is_ok_and(|output| output.status.success()).then(|| {
            let mut node = Command::new("node");
            node.args(way);
            node
        })
    })
}

#[test]
fn the_live_page_shows_what_comes_as_text_and_no_more_than_it_can() {
    let Some(mut node) = node() else {
        skip("no `node` with a WebSocket: it needs Node 20.10 or later");
        return;
    };
    let gateway = Gateway::start();
    let file = scratch(".key");
    std::fs::write(&file, format!("ops:{}\n", "k".repeat(32))).unwrap();
    let guarded = Gateway::configured(&format!("[auth]\napi_keys_file = {file:?}\n"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/page.mjs");
    node.arg(script).arg(gateway.addr.to_string()).arg(guarded.addr.to_string());
    let output = node.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"ok\n", "{said}");
}

#[test]
fn the_browser_client_does_what_the_readme_says_comes_back_once_and_brings_tokens() {
    let Some(mut node) = node() else {
        skip("no `node` with a WebSocket: it needs Node 20.10 or later");
        return;
    };
    let gateway = Gateway::configured("[[namespace]]\nname = \"shown\"\nsignals = true\n");
    let secret = made()["secret"].as_str().unwrap().to_owned();
    let file = scratch(".key");
    std::fs::write(&file, &secret).unwrap();
    // The script knows the limit.
    let required = format!(
        "[auth]\nrequired = true\nhmac_secret_file = {file:?}\n\
         [limits]\nconnections_per_user = 8\n"
    );
    let guarded = Gateway::configured(&required);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("tests/it/browser.mjs");
    node.arg(script).arg(gateway.addr.to_string()).arg(root.join("README.md"));
    node.arg(guarded.addr.to_string()).arg(secret);
    let output = node.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"ok\n", "{said}");
}
