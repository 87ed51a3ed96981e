//! Runs of the past: those who come back at the same time share them.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Weak as ArcWeak};

use foldhash::fast::RandomState;

use super::{ANY, Press, Run};
use crate::core::history::Chunk;
use crate::proto::format::Format;

/// Runs that are remembered before those are forgotten that nobody has any more.
const REMEMBERED: usize = 256;

/// The runs of chunks that somebody is being sent, by where the chunk lies and the form. The
/// chunk's memory is not given to another while its entry is there.
#[derive(Debug, Default)]
pub(super) struct Recalled(HashMap<(usize, Format), Known, RandomState>);

type Known = (ArcWeak<Chunk>, Weak<Run>);

impl Press {
    /// A run of the events of a chunk after the first of these offsets, up to the second, and
    /// perhaps of others of it; and which of its frames they are. `None` where there are none.
    pub fn recall(
        &mut self,
        chunk: &Arc<Chunk>,
        (after, upto): (u64, u64),
        format: Format,
    ) -> Option<(Rc<Run>, (u32, u32))> {
        let (from, to) = (chunk.after(after), chunk.after(upto));
        let key = (Arc::as_ptr(chunk).addr(), format);
        if let Some(run) = self.recalled.0.get(&key).and_then(|(_, run)| run.upgrade()) {
            let frames = frames_of(chunk, &run, (after, upto), 0);
            return Some((run, frames));
        }
        // All of it for everybody, unless little of it is wanted.
        let whole = 2 * (to.saturating_sub(from)) >= chunk.len();
        let (first, end) = if whole { (0, chunk.len()) } else { (from, to) };
        let run = self.lay_chunk(chunk, (first, end), format)?;
        if whole {
            let known = &mut self.recalled.0;
            if known.len() >= REMEMBERED {
                known.retain(|_, (_, run)| run.strong_count() > 0);
            }
            known.insert(key, (Arc::downgrade(chunk), Rc::downgrade(&run)));
        }
        let frames = frames_of(chunk, &run, (after, upto), first);
        Some((run, frames))
    }

    fn lay_chunk(
        &mut self,
        chunk: &Chunk,
        (first, end): (usize, usize),
        format: Format,
    ) -> Option<Rc<Run>> {
        let mut events = (first..end).filter_map(|index| chunk.event(index)).peekable();
        let first = events.peek()?;
        let mut run = self.take(&first.channel, first.alias, format);
        if let Some(fresh) = Rc::get_mut(&mut run) {
            for event in events {
                if chunk.is_snapshot() {
                    let frame = event.snapshot_frame(format, &mut self.encoder);
                    fresh.add_frame(&event, &frame);
                    fresh.offsets.push(event.offset);
                } else {
                    fresh.add(&event, ANY, &mut self.encoder);
                }
            }
            fresh.seal();
        }
        Some(run)
    }
}

/// The frames after the first of these offsets, up to the second, in a run of the events of a chunk
/// from `first` on: a vacant place has none.
fn frames_of(chunk: &Chunk, run: &Run, (after, upto): (u64, u64), first: usize) -> (u32, u32) {
    if chunk.is_snapshot() {
        return (run.after(after), run.after(upto));
    }
    (narrow(chunk.after(after) - first), narrow(chunk.after(upto) - first))
}

/// A chunk has at most as many events as a run has frames.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
