//! The gateway itself, for what the small servers of these tests do not speak.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Its program: `WEIR_PROGRAM`, or what was built beside this one.
///
/// Where it is not there the test is skipped aloud, and fails where CI is set.
pub(crate) fn program(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_weir-loadgen")).with_file_name("weir");
    let path = std::env::var_os("WEIR_PROGRAM").map_or(beside, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    let is_ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    assert!(!is_ci, "{test}: there is no {}: cargo build --bin weir", path.display());
    eprintln!("skipped: {test}: there is no {}: cargo build --bin weir", path.display());
    None
}

/// Whether the figures of a report hold, but for what a machine that is busy with other tests does.
pub(crate) fn holds(report: &Value) -> bool {
    let busy = ["acts_missed", "generator_late", "generator_saturated", "rate_not_reached"];
    let reasons = report["invalid"].as_array().map(Vec::as_slice);
    let is_busy = |reason: &Value| busy.iter().any(|code| reason["code"] == *code);
    reasons.is_some_and(|reasons| reasons.iter().all(is_busy))
}

/// A folder that is removed in the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// A file in it, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    /// Where it listens, as `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Gateway {
    /// Starts it with this configuration, which is kept in `folder`.
    pub(crate) fn start(program: &Path, folder: &Folder, config: &str) -> Self {
        std::fs::write(folder.path("weir.toml"), config).expect("a file");
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("WEIR_")) {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--shards", "1", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(folder.path("weir.toml")).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = lines.next().expect("it says where it listens").expect("text");
        let address = line.split_once("://").map(|(_, address)| address.to_owned());
        Self { child, address: address.expect("an address") }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
