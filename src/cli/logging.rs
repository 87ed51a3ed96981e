//! Log lines on standard error.

use crate::config::{LogFormat, LogOptions};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// Starts the log. A log that somebody else started stays.
pub(super) fn start(options: &LogOptions) {
    let filter = EnvFilter::new(&options.level);
    let terminal = stderr().is_terminal();
    let json = match options.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let started = if json {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_ansi(terminal).with_target(false).try_init()
    };
    if let Err(error) = started {
        eprintln!("weir: failed to start the log: {error}");
    }
}
