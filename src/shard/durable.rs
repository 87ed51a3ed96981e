//! Durable events of clients: taken at once, answered when they are on disk. What a client waits for
//! in between, and how its answers come back to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::away::{Asked, Done, Worked};
use super::command::{Asker, unavailable};
use super::flush::wake;
use super::local::Shard;
use super::node::{Node, PublishError};
use super::verify::Verifying;
use crate::core::metrics::Counter;
use crate::core::policy::Keep;
use crate::proto::error::CommandError;
use crate::proto::name::ShardId;
use crate::proto::push::Push;
use crate::store::{
    Answered, Durable, Loading, NewEvent, Published, Read, Reading, StoreError, Ticket, Told,
};

/// Durable events of one connection that may wait to be on disk; it is not read beyond. So many that
/// one writes as fast as the disk takes them together.
const OWED_MAX: u16 = 256;

/// What it then comes down to.
const OWED_FEW: u8 = 128;

/// How long a command waits for its channel, or for its client's own events. A channel with a million
/// events is read in a few seconds; whoever asks again finds it in memory.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a subscription to a pattern waits for its channels, of which there may be a million.
const LOAD_PREFIX_TIMEOUT: Duration = Duration::from_secs(60);

/// Times that a read over HTTP finds its channel gone again, before it gives up.
const LOADS: usize = 3;

/// What a connection is owed. Small: every connection has one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owed {
    /// Answers to durable events.
    pub(super) answers: u16,
    /// Its task waits until there are no more than this.
    pub(super) wanted: Option<u8>,
    /// The shard whose mailbox one of its events has filled.
    pub(super) crowded: Option<ShardId>,
}

/// Why a client is not read for now.
pub(super) enum Pause {
    /// The mailbox of that shard is to have room.
    Mailbox(ShardId),
    /// It is to be owed no more answers than this.
    Owed(u8),
    /// A command is to be carried out, after that.
    Again(Box<Asked>, Until),
    /// The token of an `auth` with this `id` is to be checked.
    Verified(Option<u64>, Box<Verifying>),
}

/// What a command waits for.
pub(super) enum Until {
    /// The client's own events, which come before it.
    Settled,
    /// Its channel, or all of its pattern, for so long.
    Loaded(Loading, Duration),
}

impl Shard {
    /// Gives an event to be put on disk. Returns what the client waits for.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn publish_durable(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        event: NewEvent<'_>,
    ) -> Result<Option<Pause>, CommandError> {
        let away = || unavailable(id, StoreError::Away);
        let log = self.node.durable().ok_or_else(away)?;
        let (seat, client) = (asker.id, asker.author.client);
        let told = Told::Connection(Ticket { shard: self.id, seat, client, id });
        let crowded = log.publish(event.into_owned(), asker.now, told);
        let crowded = crowded.map_err(|error| unavailable(id, error))?;
        let mut owed = asker.socket.owed.get();
        // One a publish beyond the most, if at all: what is behind it is not read.
        owed.answers = owed.answers.saturating_add(1);
        asker.socket.owed.set(owed);
        Ok(if crowded {
            // Its own events are what it waits for: the last of them is the last in the queue.
            Some(Pause::Owed(0))
        } else {
            (owed.answers >= OWED_MAX).then_some(Pause::Owed(OWED_FEW))
        })
    }

    /// What a command about a durable channel waits for, before anything else.
    pub(super) fn unsettled(&self, asker: &Asker<'_>, durable: bool) -> Option<Until> {
        (durable && asker.socket.owed.get().answers > 0).then_some(Until::Settled)
    }

    /// Has a channel loaded that the store does not have.
    ///
    /// # Errors
    ///
    /// The answer for the client: it cannot be loaded, or `error` was another one.
    pub(super) fn load(
        &self,
        id: Option<u64>,
        (channel, keep): (&str, Keep),
        error: StoreError,
    ) -> Result<Until, CommandError> {
        let log = self.node.durable().filter(|_| error == StoreError::Unloaded);
        let loading = log.ok_or(error).and_then(|log| log.load(channel, keep));
        let until = loading.map(|loading| Until::Loaded(loading, LOAD_TIMEOUT));
        until.map_err(|error| unavailable(id, error))
    }

    /// What a subscription to a pattern waits for, which is shown the newest events of durable
    /// channels: that all of them are in memory. `None` where they are.
    ///
    /// # Errors
    ///
    /// The answer for the client: they cannot be loaded.
    pub(super) fn load_prefix(
        &self,
        id: Option<u64>,
        prefix: &str,
    ) -> Result<Option<Until>, CommandError> {
        let log = self.node.durable().ok_or_else(|| unavailable(id, StoreError::Away))?;
        if log.has_prefix(prefix) {
            return Ok(None);
        }
        let loading = log.load_prefix(prefix).map_err(|error| unavailable(id, error))?;
        Ok(Some(Until::Loaded(loading, LOAD_PREFIX_TIMEOUT)))
    }

    /// Tells clients what became of their durable events.
    pub(super) fn answered(&self, answers: Vec<Answered>) {
        for Answered { ticket, result } in answers {
            if let Ok((_, published)) = &result {
                self.metrics.add(counter(published, Counter::EventsPublishedWs), 1);
            }
            let Some(socket) = self.socket(ticket.seat) else { continue };
            if socket.client != ticket.client {
                continue;
            }
            let mut owed = socket.owed.get();
            owed.answers = owed.answers.saturating_sub(1);
            if let Ok((_, Published { crowded: Some(crowded), .. })) = &result {
                owed.crowded = Some(*crowded);
            }
            if owed.wanted.is_some_and(|wanted| owed.answers <= u16::from(wanted)) {
                owed.wanted = None;
                wake(&socket);
            }
            socket.owed.set(owed);
            if socket.ending.get().is_some() {
                // Nothing comes behind a close.
                continue;
            }
            match (result, ticket.id) {
                (Ok((channel, published)), Some(id)) => {
                    let Published { position, duplicate, .. } = published;
                    let channel = channel.as_str();
                    let push = Push::Published { id, channel, position, duplicate };
                    self.answer(ticket.seat, &push);
                }
                (Ok(_), None) => continue,
                (Err(error), id) => self.answer_error(ticket.seat, &unavailable(id, error)),
            }
            self.hub.borrow_mut().mark_dirty(ticket.seat);
        }
    }
}

/// The counter of an event that was taken, at this door.
pub(super) fn counter(published: &Published, door: Counter) -> Counter {
    if published.duplicate { Counter::EventsDuplicate } else { door }
}

impl Until {
    /// What the command comes to, when it was waited for.
    pub(super) fn worked(asked: Asked, loaded: Result<(), StoreError>) -> Worked {
        match loaded {
            Ok(()) => Done::Again(asked).into(),
            Err(error) => Done::Bad(unavailable(asked.id(), error)).into(),
        }
    }
}

/// An event that was published over HTTP or by a program, or is on its way to the disk.
#[derive(Debug)]
pub enum Publishing {
    /// It has its place.
    Done(Published),
    /// It is told here, and is waited for until then.
    Waits(oneshot::Receiver<Result<Published, StoreError>>, Instant),
}

impl Publishing {
    /// Waits for its place, until `publish_timeout` has passed since it was given. An event of which
    /// nobody waits for the end is not published, unless it is on its way already.
    ///
    /// # Errors
    ///
    /// Why it was not published; [`PublishError::Overloaded`] where that took too long.
    pub async fn done(self) -> Result<Published, PublishError> {
        let (answer, until) = match self {
            Self::Done(published) => return Ok(published),
            Self::Waits(answer, until) => (answer, until),
        };
        let told = tokio::time::timeout_at(until, answer).await;
        let told = told.map_err(|_| PublishError::Overloaded)?;
        Ok(told.map_err(|_| PublishError::Unavailable)??)
    }
}

impl Node {
    /// What keeps durable events, where something does.
    pub fn durable(&self) -> Option<&Arc<dyn Durable>> {
        self.log.as_ref()
    }

    /// Gives an event to be put on disk, when there is room.
    pub(super) async fn submit_durable(
        &self,
        event: NewEvent<'_>,
    ) -> Result<Publishing, PublishError> {
        let log = self.durable().ok_or(PublishError::Unavailable)?;
        if log.fault().is_some() {
            return Err(PublishError::Unavailable);
        }
        let begun_ms = self.clock().node_ms();
        // For both: the room in the queue, and the disk.
        let until = self.clock().instant(begun_ms) + self.options().publish_timeout;
        tokio::time::timeout_at(until, log.room()).await.map_err(|_| PublishError::Overloaded)?;
        // Many may have waited for the same room: beyond its bound the log refuses.
        let (told, answer) = oneshot::channel();
        let now = self.clock().now();
        log.publish(event.into_owned(), now, Told::Waiter(told))?;
        Ok(Publishing::Waits(answer, until))
    }

    /// Reads events of a channel that are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the channel cannot be read.
    pub async fn read(&self, channel: &str, reading: Reading<'_>) -> Result<Read, StoreError> {
        for _ in 0..LOADS {
            match self.store().read(channel, reading, self.clock().now()) {
                Err(StoreError::Unloaded) => self.load(channel, reading.keep).await?,
                done => return done,
            }
        }
        Err(StoreError::Away)
    }

    async fn load(&self, channel: &str, keep: Keep) -> Result<(), StoreError> {
        let log = self.durable().ok_or(StoreError::Away)?;
        let loading = log.load(channel, keep)?;
        let patience = self.options().publish_timeout;
        let told = tokio::time::timeout(patience, loading).await;
        told.map_err(|_| StoreError::Away)?.map_err(|_| StoreError::Away)?
    }
}
