//! Chunks of the past that queues keep, on the account once however many keep them.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Press;
use crate::core::account::Charge;
use crate::core::history::Chunk;

/// Chunks that are remembered before those are forgotten that nobody has any more.
const REMEMBERED: usize = 256;

/// A chunk that some queues of a shard keep, whatever its store does with it.
#[derive(Debug)]
pub struct Pin {
    chunk: Arc<Chunk>,
    charge: Charge,
}

impl Pin {
    /// The chunk.
    pub fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }
}

/// The chunks that are kept, by where they lie: one stays there while it is.
#[derive(Debug, Default)]
pub(super) struct Pins {
    known: HashMap<usize, Weak<Pin>, RandomState>,
    /// How many there may be before it is looked for those that have gone.
    most: usize,
}

impl Press {
    /// Keeps a chunk.
    pub fn pin(&mut self, chunk: Arc<Chunk>) -> Rc<Pin> {
        let key = Arc::as_ptr(&chunk).addr();
        let pins = &mut self.pins;
        if let Some(pin) = pins.known.get(&key).and_then(Weak::upgrade) {
            return pin;
        }
        if pins.known.len() >= pins.most.max(REMEMBERED) {
            pins.known.retain(|_, pin| pin.strong_count() > 0);
            pins.most = 2 * pins.known.len();
        }
        let charge = Charge::new(&self.account, chunk.memory());
        let pin = Rc::new(Pin { chunk, charge });
        pins.known.insert(key, Rc::downgrade(&pin));
        pin
    }
}
