//! Large events before they have a place: what their frames have in common is made off the shards'
//! threads, in the forms that somebody on the node speaks.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinError;

use super::node::{Node, PublishError};
use crate::proto::encoder::Frames;
use crate::proto::event::Payload;
use crate::proto::format::{Compression, Format};
use crate::proto::large::{Bodies, FRAGMENT_BYTES};

/// Where nothing is compressed, events and messages of more bytes are worked on elsewhere. A shard
/// reads some 1 GB/s: a quarter of a millisecond for this many.
pub(super) const LARGE_BYTES: usize = 256 * 1024;

/// And where something is. A shard compresses some 100 MB/s.
const SQUEEZED_BYTES: usize = 64 * 1024;

/// How many connections of a node speak each form.
#[derive(Debug, Default)]
pub(super) struct Speakers([AtomicUsize; Format::ALL.len()]);

impl Speakers {
    /// One more speaks it.
    pub(super) fn came(&self, format: Format) {
        if let Some(count) = self.0.get(format.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One less does.
    pub(super) fn left(&self, format: Format) {
        if let Some(count) = self.0.get(format.index()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn speaks(&self, format: Format) -> bool {
        self.0.get(format.index()).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// What is to be made of the payload of a large event.
#[derive(Debug)]
pub(super) struct Wanted {
    formats: Vec<Format>,
    compression: Compression,
    /// Payloads of more bytes are large.
    pub(super) bytes: usize,
}

impl Wanted {
    /// Makes it, where the payload is large. Takes long.
    pub(super) fn make(&self, payload: &Payload) -> Frames {
        if payload.len() <= self.bytes || self.formats.is_empty() {
            return Frames::default();
        }
        Bodies::new(payload, &self.formats, self.compression, FRAGMENT_BYTES).into()
    }
}

impl Node {
    /// Messages and payloads of more bytes are not worked on by a shard.
    pub(super) fn large_bytes(&self) -> usize {
        let compressed = |format: &Format| format.is_compressed() && self.speakers.speaks(*format);
        if Format::ALL.iter().any(compressed) { SQUEEZED_BYTES } else { LARGE_BYTES }
    }

    /// What somebody may need of a large event. One who comes later may need more: that is left to
    /// its shard.
    pub(super) fn wanted(&self) -> Wanted {
        // By pattern a binary connection gets JSON.
        let spoken = Format::ALL.into_iter().filter(|format| self.speakers.speaks(*format));
        let spoken: Vec<Format> = spoken.flat_map(|one| [one, one.without_alias()]).collect();
        let formats = Format::ALL.into_iter().filter(|format| spoken.contains(format)).collect();
        let compression = self.options().compression;
        Wanted { formats, compression, bytes: self.large_bytes() }
    }

    /// Does work on so many bytes of a request: on another thread where they are many.
    ///
    /// # Errors
    ///
    /// [`PublishError::Unavailable`] where that thread has not done it: the node is on its way out,
    /// or the work has panicked, which ends nothing else.
    pub async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PublishError> {
        if bytes <= LARGE_BYTES {
            return Ok(work());
        }
        tokio::task::spawn_blocking(work).await.map_err(undone)
    }

    /// What the frames of an event with that payload have in common, made on another thread where
    /// there is a runtime that has some.
    pub(super) async fn prepare(
        &self,
        payload: Payload,
    ) -> Result<(Payload, Frames), PublishError> {
        if payload.len() <= self.large_bytes() {
            return Ok((payload, Frames::default()));
        }
        let wanted = self.wanted();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // Somebody's own thread, and no shard's.
            let frames = wanted.make(&payload);
            return Ok((payload, frames));
        };
        let made = runtime.spawn_blocking(move || {
            let frames = wanted.make(&payload);
            (payload, frames)
        });
        made.await.map_err(undone)
    }
}

/// Work on another thread has come to nothing.
fn undone(error: JoinError) -> PublishError {
    tracing::error!(%error, "large data was not worked on");
    PublishError::Unavailable
}
