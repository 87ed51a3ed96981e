//! `weir-loadgen`: finds out what a WebSocket event gateway does on this machine, and says so only
//! when the figures can be trusted.
//!
//! Exit codes: 0 the figures hold; 1 `--verify` found violations, or `compare` a regression; 2 the
//! run is invalid, or the reports cannot be compared; 3 the server cannot be measured; 4 the
//! machine's limits do not allow it; 5 the report cannot be written; 64 the command line makes no
//! sense; 130 a suite was interrupted.
#![deny(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used)]

mod blaster;
mod cli;
mod clock;
mod compare;
mod engine;
mod fault;
mod host;
mod html;
mod latency;
mod machine;
mod plan;
mod process;
mod progress;
mod reason;
mod report;
mod scenario;
mod sections;
mod series;
mod stream;
mod suite;
mod target;
mod trust;
mod verdict;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weir-loadgen: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
