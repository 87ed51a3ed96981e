//! What a person sees while connections open: a bar on a terminal, lines elsewhere.

use std::io::{IsTerminal, Write, stderr};

use crate::clock::{self, SECOND};
use crate::engine::shared::Total;

/// Columns of the bar.
const WIDTH: u64 = 40;

/// Shows how far the opening is; ends its line when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    wanted: u32,
    is_terminal: bool,
    shown_at: u64,
    /// A bar stands on the terminal.
    stands: bool,
}

impl Progress {
    /// For so many connections; nothing is shown before the first [`Progress::show`].
    pub(crate) fn new(wanted: u32) -> Self {
        let is_terminal = stderr().is_terminal();
        Self { wanted, is_terminal, shown_at: clock::now(), stands: false }
    }

    /// May be called often: a terminal is written five times a second, a file once.
    pub(crate) fn show(&mut self, total: Total) {
        let now = clock::now();
        let pause = if self.is_terminal { SECOND / 5 } else { SECOND };
        if now.saturating_sub(self.shown_at) < pause {
            return;
        }
        self.shown_at = now;
        let text = line(total, self.wanted);
        // Progress that cannot be shown must not end a run.
        if self.is_terminal {
            self.stands = write!(stderr(), "\r{} {text}\x1b[K", bar(total, self.wanted)).is_ok();
        } else {
            writeln!(stderr(), "opening: {text}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.stands {
            write!(stderr(), "\r\x1b[K").ok();
        }
    }
}

fn line(total: Total, wanted: u32) -> String {
    let Total { ready, failed, .. } = total;
    format!("{ready} of {wanted} ready, {failed} failed")
}

fn bar(total: Total, wanted: u32) -> String {
    let done = (total.ready + total.failed) * WIDTH / u64::from(wanted.max(1));
    let done = usize::try_from(done.min(WIDTH)).unwrap_or(0);
    let left = usize::try_from(WIDTH).unwrap_or(0) - done;
    format!("[{}{}]", "#".repeat(done), " ".repeat(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        let bar = |ready, failed| bar(Total { ready, failed, ..Total::default() }, 100_000);
        let marks = |text: String| text.matches('#').count();
        assert_eq!(bar(0, 0).len(), 42);
        let found = [bar(0, 0), bar(25_000, 25_000), bar(100_000, 0), bar(200_000, 0)].map(marks);
        assert_eq!(found, [0, 20, 40, 40]);
    }
}
