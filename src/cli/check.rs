//! `weir check`: are the settings right, and which are in force.

use crate::cli::args::Settings;
use crate::cli::failure::Failure;
use crate::cli::files;
use crate::cli::output::{Output, say};

/// Validates the settings and prints those in force.
pub(super) fn run(flags: &Settings) -> Result<(), Failure> {
    let (raw, config) = files::load(flags)?;
    let mut output = Output::new();
    output.write(&raw.effective(&config))?;
    output.flush()?;
    for one in &config.warnings {
        say(format_args!("weir: {one}"));
    }
    for one in &raw.foreign {
        say(format_args!("weir: {one}; it is left alone"));
    }
    Ok(())
}
