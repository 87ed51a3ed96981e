//! The program as a user runs it, against servers that keep the protocol, break it, or are none.

mod bad_servers;
mod compare;
mod conduct;
mod fanout;
mod foreign;
mod formats;
mod gateway;
mod publish;
mod relay;
mod schema;
mod secure;
mod suite;
mod usage;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a run said.
struct Ran {
    code: i32,
    text: String,
}

/// Runs the program, which must end by itself within a minute.
fn run(arguments: &[&str]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir-loadgen"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let limit = Duration::from_secs(60);
    #[expect(clippy::disallowed_methods, reason = "a bound for the whole run")]
    let start = Instant::now();
    while child.try_wait().expect("its state").is_none() {
        if start.elapsed() > limit {
            child.kill().expect("it can be ended");
            panic!("{arguments:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    let text = [output.stdout, output.stderr].concat();
    Ran {
        code: output.status.code().expect("it was not killed"),
        text: String::from_utf8(text).expect("UTF-8"),
    }
}
