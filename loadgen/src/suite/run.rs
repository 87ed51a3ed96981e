//! Runs the set: each run against a fresh gateway, by a fresh process of this program, so that no
//! run sees what another one left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fault::RunError;
use crate::suite::child::{self, Gateway, Interrupts};
use crate::suite::index::{self, Line};
use crate::suite::set::{Case, SET, Scale};

/// What to run, as the command line says.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) server: PathBuf,
    pub(crate) scale: Scale,
    pub(crate) out: PathBuf,
    pub(crate) progress: bool,
}

impl Suite {
    /// Runs all; the table of what was found, and the exit code.
    pub(crate) fn run(&self) -> Result<(String, u8), RunError> {
        let interrupts = Interrupts::catch()?;
        self.clear()?;
        let mut lines = Vec::new();
        for case in SET.iter().filter(|case| case.is_in(self.scale)) {
            if self.progress {
                eprintln!("{}: {}", case.name, case.arguments(self.scale).join(" "));
            }
            let code = self.one(case, &interrupts)?;
            lines.push(Line::read(case.name, code, &self.path(case, "json")));
            // After each run: what was found is there even if the next one fails.
            let path = self.out.join("index.html");
            fs::write(&path, index::page(&lines)).map_err(|error| cannot_write(&path, error))?;
        }
        Ok((index::table(&lines), worst(lines.iter().map(|line| line.code))))
    }

    /// Makes the folder, and removes what an earlier suite left in it.
    fn clear(&self) -> Result<(), RunError> {
        fs::create_dir_all(&self.out).map_err(|error| cannot_write(&self.out, error))?;
        for case in &SET {
            for extension in ["json", "html", "txt", "log", "err", "toml"] {
                // Most are not there.
                fs::remove_file(self.path(case, extension)).ok();
            }
        }
        Ok(())
    }

    fn path(&self, case: &Case, extension: &str) -> PathBuf {
        self.out.join(format!("{}.{extension}", case.name))
    }

    /// Writes the gateway's configuration, if the run has one.
    fn config(&self, case: &Case) -> Result<Option<PathBuf>, RunError> {
        if case.config.is_empty() {
            return Ok(None);
        }
        let path = self.path(case, "toml");
        fs::write(&path, case.config).map_err(|error| cannot_write(&path, error))?;
        Ok(Some(path))
    }

    /// One run; its exit code.
    fn one(&self, case: &Case, interrupts: &Interrupts) -> Result<u8, RunError> {
        let log = self.path(case, "log");
        let config = self.config(case)?;
        let gateway = Gateway::start(&self.server, case.shards, config, log, interrupts)?;
        let failed = |error| RunError::Machine(format!("cannot find this program: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(case.arguments(self.scale)).arg(gateway.url());
        command.args(["--server-pid", &gateway.pid().to_string()]);
        command.arg("--json").arg(self.path(case, "json"));
        command.arg("--html").arg(self.path(case, "html"));
        if !self.progress {
            command.arg("--quiet");
        }
        let output = self.path(case, "txt");
        let mut process = child::start(&mut command, &output).map_err(RunError::Machine)?;
        let status = process.wait(interrupts)?;
        // Killed by a signal: as bad as a server that cannot be measured.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(3))
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> RunError {
    RunError::Report { path: path.display().to_string(), error }
}

/// A broken promise outweighs what could not be measured, and that an invalid run.
fn worst(codes: impl Iterator<Item = u8> + Clone) -> u8 {
    if codes.clone().any(|code| code == 1) { 1 } else { codes.max().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_the_worst() {
        let worst = |codes: &[u8]| worst(codes.iter().copied());
        assert_eq!(
            [worst(&[0, 0]), worst(&[0, 2]), worst(&[2, 3]), worst(&[2, 1, 3])],
            [0, 2, 3, 1]
        );
    }
}
