//! `weir config`, and how every command loads its settings.

use crate::cli::args::Settings;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{BadSetting, Config, Inputs, Machine, RawConfig, template};

/// Prints a commented configuration with every default.
pub(super) fn print_template() -> Result<(), Failure> {
    let mut output = Output::new();
    output.write(&template())?;
    output.flush()
}

/// Reads file, environment and flags, and checks them.
pub(super) fn load(flags: &Settings) -> Result<(RawConfig, Config), Failure> {
    let mut bad: Vec<BadSetting> = Vec::new();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        })
        .collect();
    let inputs = Inputs {
        file: flags.config.as_deref(),
        environment,
        flags: flags.keys(),
        insecure: flags.insecure,
    };
    let raw = RawConfig::load(inputs, &mut bad);
    let config = raw.check(&Machine::detect(), bad).map_err(Failure::Settings)?;
    Ok((raw, config))
}
