//! Standard output, where a closed pipe is a quiet end, and standard error, where it is none.

use crate::cli::failure::Failure;
use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};

/// Says something on standard error. Where nobody reads that, nobody is told.
pub(super) fn say(text: impl Display) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Buffered standard output.
pub(super) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Takes standard output for good.
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes `text` as it is.
    pub(super) fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes()).map_err(failure)
    }

    /// Writes `json` as one line. A line break in JSON can only be white space between tokens.
    pub(super) fn line(&mut self, json: &str) -> Result<(), Failure> {
        if json.contains(['\n', '\r']) {
            self.write(&json.replace(['\n', '\r'], " "))?;
        } else {
            self.write(json)?;
        }
        self.write("\n")
    }

    /// Hands everything to the reader.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(failure)
    }
}

fn failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::PipeClosed
    } else {
        Failure::System("write to standard output", error)
    }
}
