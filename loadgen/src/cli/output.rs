//! The files that a report goes to: opened before the run, so that a path that cannot be written
//! costs no run, and never left with the report of an earlier one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;

use crate::fault::RunError;
use crate::html::page;
use crate::report::Report;

/// What a file holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Html,
    Json,
}

/// One file.
#[derive(Debug)]
pub(super) struct Output {
    form: Form,
    path: String,
    file: File,
    /// Whether something else stands there until it is written.
    is_old: bool,
}

impl Output {
    /// Opens a file and leaves what is in it.
    pub(super) fn open(form: Form, path: String) -> Result<Self, RunError> {
        match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => {
                let is_old = file.metadata().is_ok_and(|data| data.len() > 0);
                Ok(Self { form, path, file, is_old })
            }
            Err(error) => Err(RunError::Report { path, error }),
        }
    }

    /// Writes the report in the place of what was there.
    pub(super) fn write(mut self, report: &Report) -> Result<(), RunError> {
        let text = match self.form {
            Form::Html => Ok(page::page(report)),
            Form::Json => report.json(),
        };
        // A pipe has no length.
        self.file.set_len(0).ok();
        let written = text.and_then(|text| self.file.write_all(text.as_bytes()));
        written.map_err(|error| RunError::Report { path: self.path, error })
    }

    /// There is no report: removes the file, unless the command line was at fault and something
    /// else stood there.
    pub(super) fn discard(self, why: &RunError) {
        let is_file = fs::symlink_metadata(&self.path).is_ok_and(|data| data.is_file());
        let stays = self.is_old && matches!(why, RunError::Usage(_));
        if is_file && !stays {
            // What cannot be removed is at least empty.
            self.file.set_len(0).ok();
            fs::remove_file(&self.path).ok();
        }
    }
}
