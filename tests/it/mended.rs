//! What once went wrong, seen from outside.

use std::process::Command;

use crate::harness::WEIR;

/// The runtimes that were there already used to panic when they were dropped.
#[test]
fn a_start_without_descriptors_is_an_error_and_no_panic() {
    let mut command = Command::new("bash");
    let few = "ulimit -n 40 && exec \"$@\"";
    command.args(["-c", few, "bash", WEIR, "serve", "--listen", "127.0.0.1:0", "--shards", "30"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("failed to start a shard") && !said.contains("panicked"), "{said}");
}
