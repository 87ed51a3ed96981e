//! From the command line to the command.

use crate::cli::args::{Arguments, Command};
use crate::cli::failure::Failure;
use crate::cli::output::say;
use crate::cli::{check, files, history, presence, publish, serve, subscribe, token};
use clap::Parser;
use std::process::ExitCode;

/// Runs what the command line says and gives the process's exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        None => serve::run(&arguments.serve),
        Some(Command::Serve(flags)) => serve::run(&flags),
        Some(Command::Pub(flags)) => block_on(publish::run(flags)),
        Some(Command::Sub(flags)) => block_on(subscribe::run(flags)),
        Some(Command::History(flags)) => block_on(history::run(flags)),
        Some(Command::Presence(flags)) => block_on(presence::run(flags)),
        Some(Command::Token(flags)) => token::run(flags),
        Some(Command::Check(flags)) => check::run(&flags),
        Some(Command::Config) => files::print_template(),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    if !matches!(failure, Failure::Partly | Failure::PipeClosed) {
        say(format_args!("weir: {failure}"));
    }
    ExitCode::from(failure.exit_code())
}

/// Runs `future` on a runtime of one thread, which does not wait for a blocked standard input.
pub(super) fn block_on<F>(future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System("start the runtime", error))?;
    let done = tokio::task::LocalSet::new().block_on(&runtime, future);
    runtime.shutdown_background();
    done
}
