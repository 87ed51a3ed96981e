//! Signals: short-lived values that clients show to a channel, such as who is typing and where a
//! cursor is. Nothing of them is stored: what counts is the newest of each client and name.
//!
//! The shard of a sender has [`Shown`], which knows what each of its clients shows, how often that
//! may go out, and when it ends. A channel has [`Current`], which is what somebody who comes is
//! told. Each reader's queue has a lane in which at most the newest of each waits (`core/outbox`).

mod current;
mod shown;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use current::Current;
pub use shown::{Put, Refused, Shown};

use crate::proto::dialect::json;
use crate::proto::event::Author;
use crate::proto::name::{Alias, ChannelName};
use crate::proto::ws::frame;

/// Names that a client may show to one channel at a time.
pub const NAMES_MAX: usize = 16;

/// The longest data of a signal, in bytes.
pub const DATA_BYTES_MAX: usize = 4 * 1024;

/// Times a second that the readers of a channel are told of one name of one client, at most.
pub const RATE: u64 = 20;

/// What a signal takes of memory beside its frame, about.
const SIGNAL_BYTES: usize = size_of::<Signal>() + 64;

/// Which signal it is: of whom, on what channel, and by what name. All its values share this.
#[derive(Debug)]
pub struct Who {
    /// Where it is shown.
    pub channel: ChannelName,
    /// The node's number for that channel.
    pub alias: Alias,
    /// Who shows it.
    pub from: Arc<Author>,
    /// Its name.
    pub name: Box<str>,
    /// Of client, channel and name, always by the same shard.
    hash: u64,
}

impl Who {
    fn is(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.alias == other.alias
            && self.from.client == other.from.client
            && self.name == other.name
    }
}

/// One value of a signal, or its end; encoded once for the process.
#[derive(Debug)]
pub struct Signal {
    who: Arc<Who>,
    /// The text frame, for clients of every format.
    frame: Box<[u8]>,
    /// Where `"from"` begins in it, for the list in `subscribed`; 0 for an end.
    entry: u32,
    weight: Weight,
}

impl Signal {
    /// A value, or an end where there is no `data`.
    fn new(who: &Arc<Who>, data: Option<&[u8]>, budget: &Budget) -> Arc<Self> {
        let mut text = Vec::with_capacity(192 + data.map_or(0, <[u8]>::len));
        let entry = json::encode_signal(&who.channel, (&who.from, &who.name), data, &mut text);
        let frame = frame::text(&text).into_boxed_slice();
        let entry = frame.len() - text.len() + entry;
        let entry = data.and_then(|_| u32::try_from(entry).ok()).unwrap_or(0);
        let weight = budget.take(SIGNAL_BYTES + frame.len());
        Arc::new(Self { who: Arc::clone(who), frame, entry, weight })
    }

    /// The end of the same signal.
    fn to_end(&self) -> Arc<Self> {
        let budget = Budget { used: Arc::clone(&self.weight.used), max: AtomicUsize::new(0) };
        Self::new(&self.who, None, &budget)
    }

    /// Which signal.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// Whether it is the same signal, of another moment.
    pub fn is_same(&self, other: &Self) -> bool {
        self.who.is(&other.who)
    }

    /// Of client, channel and name.
    pub fn hash(&self) -> u64 {
        self.who.hash
    }

    /// Whether this is the end of it.
    pub fn is_end(&self) -> bool {
        self.entry == 0
    }

    /// The frame that tells of it.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// As it stands in the list of `subscribed`, without the brace in front.
    pub fn entry(&self) -> &[u8] {
        self.frame.get(self.entry as usize..).unwrap_or_default()
    }

    /// Memory that it takes.
    pub fn footprint(&self) -> usize {
        self.weight.bytes
    }
}

/// News of a signal, on its way to the readers of its channel.
#[derive(Debug, Clone)]
pub struct Told {
    /// The value, or the end.
    pub signal: Arc<Signal>,
    /// It was not shown before, or has ended since: nobody has seen it.
    pub begins: bool,
}

/// What all signals of a node take of memory, and may.
#[derive(Debug)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    max: AtomicUsize,
}

impl Budget {
    /// At most about so many bytes.
    pub fn new(max: usize) -> Self {
        Self { used: Arc::default(), max: AtomicUsize::new(max) }
    }

    /// From here on at most about so many bytes. What is shown stays until its time is over.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many bytes signals take.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_spent(&self) -> bool {
        self.used() >= self.max.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Weight {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Weight { used: Arc::clone(&self.used), bytes }
    }
}

/// A part of a [`Budget`], given back when it is dropped.
struct Weight {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({})", self.bytes)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
