//! Runs that are kept for reuse: most shards make the same few again and again.

use std::collections::VecDeque;
use std::rc::Rc;

use super::{Press, Run};

/// Runs kept for reuse at most.
pub(super) const SPARE_MAX: usize = 4_096;

/// Memory of the runs kept for reuse at most.
pub(super) const SPARE_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Press {
    /// The memory of runs that are kept for reuse alone.
    pub fn spare(&self) -> usize {
        let spare = self.issued.iter().filter(|run| Rc::strong_count(run) == 1);
        spare.map(|run| run.footprint()).sum()
    }

    /// Gives up what is kept for reuse.
    pub fn forget(&mut self) {
        self.issued = VecDeque::new();
        self.bytes = 0;
    }

    /// Remembers a sealed run for reuse once its subscribers are done with it.
    pub fn issue(&mut self, run: Rc<Run>) {
        if run.large.is_some() {
            return;
        }
        let bytes = run.footprint();
        let full =
            |press: &Self| press.issued.len() == SPARE_MAX || press.bytes + bytes > SPARE_BYTES_MAX;
        // One that a slow reader pins is of no use here.
        if full(self) && self.issued.front().is_some_and(|first| Rc::strong_count(first) > 1) {
            self.next();
        }
        if !full(self) {
            self.bytes += bytes;
            self.issued.push_back(run);
        }
    }

    pub(super) fn next(&mut self) -> Option<Rc<Run>> {
        let run = self.issued.pop_front()?;
        self.bytes -= run.footprint();
        Some(run)
    }
}
