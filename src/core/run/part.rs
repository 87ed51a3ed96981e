//! Parts of a run, for queues that want few of its frames and would keep all of them in memory.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::{Frame, Run};
use crate::core::account::Charge;

/// Frames of a run, as a run of their own.
#[derive(Debug)]
pub(super) struct Part {
    from: u32,
    to: u32,
    run: Weak<Run>,
}

/// How many parts a run remembers: those who stall together are about as far.
const PARTS_MAX: usize = 4;

impl Run {
    /// A run with nothing but the frames `from..to`; what was hidden of them is not marked. All
    /// queues that ask for the same have the same.
    pub(in crate::core) fn part(&self, from: u32, to: u32) -> Rc<Self> {
        let mut parts = self.parts.borrow_mut();
        let same = parts.iter().find(|part| (part.from, part.to) == (from, to));
        if let Some(run) = same.and_then(|part| part.run.upgrade()) {
            return run;
        }
        let run = Rc::new(self.copy(from, to));
        parts.retain(|part| part.run.strong_count() > 0);
        if parts.len() == PARTS_MAX {
            parts.remove(0);
        }
        parts.push(Part { from, to, run: Rc::downgrade(&run) });
        run
    }

    fn copy(&self, from: u32, to: u32) -> Self {
        let start = u32::try_from(self.start(from)).unwrap_or(u32::MAX);
        let frames = self.frames.get(from as usize..to as usize).unwrap_or_default();
        let mut part = Self {
            channel: self.channel.clone(),
            first_offset: self.offset(from),
            bytes: self.slice(from, to).to_vec(),
            large: self.large.clone(),
            frames: frames.iter().map(|frame| Frame { end: frame.end - start, ..*frame }).collect(),
            hidden: Vec::new(),
            charge: Charge::new(self.account(), 0),
            parts: RefCell::default(),
            offsets: self.offsets.get(from as usize..to as usize).unwrap_or_default().to_vec(),
            ..*self
        };
        part.charge.set(part.footprint());
        part
    }
}
