//! `weir check`: are the settings right, and which are in force.

use crate::cli::args::Check;
use crate::cli::failure::Failure;
use crate::cli::files;
use crate::cli::output::Output;

/// Validates the settings and prints those in force.
pub(super) fn run(flags: &Check) -> Result<(), Failure> {
    let (raw, config) = files::load(flags.config.as_deref(), Vec::new())?;
    let mut output = Output::new();
    output.write(&raw.effective(&config))?;
    output.flush()?;
    if config.exposed() {
        eprintln!("weir: {} is not loopback: serve needs --insecure", config.listen);
    }
    Ok(())
}
