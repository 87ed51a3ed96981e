//! What all shards of a node share, and what may be asked of it from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::clock::Clock;
use super::door::Speakers;
use super::durable::Publishing;
use super::limits::{LimitOptions, Limits};
use super::mailbox::{Mailbox, Mailboxes, Order};
use super::memory::Ledger;
use super::settings::Reloads;
use super::tokens::{AuthOptions, Taken};
use crate::core::farewell::Farewells;
use crate::core::metrics::{Counter, Snapshot};
use crate::core::outbox::OutboxLimit;
use crate::core::policy::Policies;
use crate::core::session::Heartbeat;
use crate::core::signals::Budget;
use crate::proto::format::Compression;
use crate::proto::name::{ClientId, ShardId};
use crate::proto::push::Last;
use crate::store::rooms::Rooms;
use crate::store::{ChannelInfo, Durable, NewEvent, Published, Store, StoreError};

/// The part of `limits.memory` that signals may take beside it.
pub(super) const SIGNALS_SHARE: usize = 8;

/// How long behind the time `drain` the last answers may still take, in milliseconds: so that the
/// end comes before five seconds.
const BEHIND_MS: u64 = 4_500;

/// How long whoever asks the shards waits for their answers.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How a node treats its connections.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The name told in `welcome`.
    pub node_name: String,
    /// How many connections there may be, and how often somebody may come or ask. Those in force
    /// are [`Node::limits`].
    pub limits: LimitOptions,
    /// The largest message of a client, in bytes.
    pub message_bytes: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// The bounds of each outbound queue.
    pub outbox: OutboxLimit,
    /// Memory of all queues together, in bytes.
    pub memory_max: usize,
    /// Silence after which a client is pinged.
    pub ping_interval: Duration,
    /// Silence after a ping that ends a connection.
    pub ping_timeout: Duration,
    /// How long a drain spreads its disconnects over.
    pub drain: Duration,
    /// How long the HTTP API waits for room in a mailbox.
    pub publish_timeout: Duration,
    /// A queue that has been full for this long ends its connection; `None` is never.
    pub slow_disconnect: Option<Duration>,
    /// What happens at the bound of a queue, by namespace.
    pub policies: Policies,
    /// What may be compressed on WebSockets, and how.
    pub compression: Compression,
    /// Who may come in.
    pub auth: AuthOptions,
}

impl NodeOptions {
    /// When a silent client is pinged and given up.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat { interval: self.ping_interval, timeout: self.ping_timeout }
    }
}

/// Why an event was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The data is not JSON that can be carried; says why.
    #[error("the data cannot be published: {0}")]
    Data(&'static str),
    /// The key is longer than 255 bytes.
    #[error("a key has at most 255 bytes")]
    Key,
    /// The mailboxes did not drain within `publish_timeout`.
    #[error("the node is overloaded: try again later")]
    Overloaded,
    /// The store is away.
    #[error("the store is away: try again later")]
    Unavailable,
    /// The store cannot read or write this channel; others go on.
    #[error("the channel cannot be read or written on disk now; the gateway's log says why")]
    ChannelFaulty,
    /// The node has as many channels as it holds, and none that nobody needs.
    #[error("the node has as many channels as it holds")]
    ChannelsFull,
    /// The channel's namespace is not configured, and only configured ones exist here.
    #[error("no such channel: its namespace is not configured")]
    UnknownChannel,
}

impl From<StoreError> for PublishError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away | StoreError::Unloaded => Self::Unavailable,
            StoreError::Faulty => Self::ChannelFaulty,
            StoreError::Crowded => Self::Overloaded,
            StoreError::Full => Self::ChannelsFull,
        }
    }
}

/// One gateway process, as its threads share it.
pub struct Node {
    options: Arc<ArcSwap<NodeOptions>>,
    store: Arc<dyn Store>,
    /// What keeps the durable events of it.
    pub(super) log: Option<Arc<dyn Durable>>,
    rooms: Rooms,
    signals: Budget,
    mailboxes: Arc<Mailboxes>,
    clock: Clock,
    /// When it is to be over, node milliseconds, once it is on its way out.
    ends_ms: OnceLock<u64>,
    limits: Limits,
    embedded: AtomicU64,
    memory: Ledger,
    farewells: Mutex<Farewells>,
    pub(super) taken: Taken,
    pub(super) speakers: Speakers,
    /// How often its settings were to change.
    pub reloads: Reloads,
}

impl Node {
    /// A node over `store`, which delivers into `mailboxes`.
    pub fn new(options: NodeOptions, store: Arc<dyn Store>, mailboxes: Arc<Mailboxes>) -> Self {
        let memory = Ledger::new(options.memory_max, mailboxes.all().len());
        Self {
            memory,
            signals: Budget::new(options.memory_max / SIGNALS_SHARE),
            farewells: Mutex::default(),
            taken: Taken::by(options.auth.verifier.clone()),
            reloads: Reloads::default(),
            speakers: Speakers::default(),
            limits: Limits::new(&options.limits),
            options: Arc::new(ArcSwap::from_pointee(options)),
            store,
            rooms: Rooms::new(Arc::clone(&mailboxes) as _),
            log: None,
            mailboxes,
            clock: Clock::start(),
            ends_ms: OnceLock::new(),
            embedded: AtomicU64::new(0),
        }
    }

    /// The same, whose store gets the events of durable channels from `log`, which goes by the
    /// node's clock.
    #[must_use]
    pub fn with_log(self, log: Arc<dyn Durable>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Its settings. A shard has its own, [`super::Local::options`].
    pub fn options(&self) -> Guard<Arc<NodeOptions>> {
        self.options.load()
    }

    /// Where its settings stand, whatever they are.
    pub fn settings(&self) -> &Arc<ArcSwap<NodeOptions>> {
        &self.options
    }

    /// Its clocks.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Where its events live.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Who has which channel, where that is shown.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// What signals take of memory, and may.
    pub(super) fn signals(&self) -> &Budget {
        &self.signals
    }

    pub(super) fn mailboxes(&self) -> &Arc<Mailboxes> {
        &self.mailboxes
    }

    /// Unix time in milliseconds.
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// How long the node has been there.
    pub fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    /// Whether it is on its way out: new clients are refused.
    pub fn draining(&self) -> bool {
        self.ends_ms.get().is_some()
    }

    /// How much of the time is left that a drain may take, whoever is slow.
    pub fn until_end(&self) -> Duration {
        let ends_ms = self.ends_ms.get().copied().unwrap_or(u64::MAX);
        Duration::from_millis(ends_ms.saturating_sub(self.clock.node_ms()))
    }

    /// Whether it has as many connections as it may.
    pub fn full(&self) -> bool {
        self.limits.open() >= self.limits.connections_max()
    }

    /// What the queues of all connections take of memory.
    pub fn memory(&self) -> &Ledger {
        &self.memory
    }

    /// Remembers why a connection is closed, for a client that comes back.
    pub(super) fn remember(&self, client: ClientId, last: Last) {
        self.farewells.lock().remember(client, last, self.clock.node_ms());
    }

    /// Why a connection was closed, where the node did that, lately.
    pub(super) fn recall(&self, client: ClientId) -> Option<Last> {
        self.farewells.lock().recall(client, self.clock.node_ms())
    }

    /// How many connections there may be, and how often somebody may come or ask.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Publishes an event, when the mailboxes have room for it.
    ///
    /// # Errors
    ///
    /// [`PublishError::Overloaded`] after `publish_timeout` without room.
    pub async fn publish(&self, event: NewEvent<'_>) -> Result<Published, PublishError> {
        self.submit(event).await?.done().await
    }

    /// As [`Node::publish`], and does not wait until a durable event is on disk.
    ///
    /// # Errors
    ///
    /// As of [`Node::publish`].
    pub async fn submit(&self, event: NewEvent<'_>) -> Result<Publishing, PublishError> {
        let Some(rule) = self.options().policies.of(&event.channel) else {
            return Err(PublishError::UnknownChannel);
        };
        let event = NewEvent { keep: rule.keep, ..event };
        if self.mailboxes.all().iter().any(Mailbox::is_crowded) {
            let patience = self.options().publish_timeout;
            tokio::time::timeout(patience, self.room())
                .await
                .map_err(|_| PublishError::Overloaded)?;
        }
        let NewEvent { payload, frames: _, .. } = event;
        let (payload, frames) = self.prepare(payload).await?;
        let event = NewEvent { payload, frames, ..event };
        if event.keep.durable {
            return self.submit_durable(event).await;
        }
        Ok(Publishing::Done(self.store.publish(event, self.clock.now())?))
    }

    /// Waits for room in every mailbox that has none, one after the other.
    async fn room(&self) {
        for (shard, mailbox) in (0..).map(ShardId).zip(self.mailboxes.all()) {
            if mailbox.is_crowded() {
                self.mailboxes.room(shard).await;
            }
        }
    }

    /// Counts an event that the embedding program published.
    pub fn count_embedded(&self) {
        self.embedded.fetch_add(1, Ordering::Relaxed);
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.mailboxes.all().len()
    }

    /// The counters of every shard, in their order; what has no shard is counted with the first.
    /// A shard that has ended, or does not answer in five seconds, is missing.
    pub async fn stats(&self) -> Vec<Snapshot> {
        let mut all = self.ask(Order::Stats).await;
        self.add_unsharded(&mut all);
        all
    }

    pub(super) fn add_unsharded(&self, all: &mut [Snapshot]) {
        if let Some(first) = all.first_mut() {
            first.counters[Counter::EventsPublishedEmbed as usize] +=
                self.embedded.load(Ordering::Relaxed);
        }
    }

    /// Closes a client's connection. Returns how many there were: 0 or 1.
    pub async fn disconnect(&self, client: ClientId) -> usize {
        let found = self.ask(|answer| Order::Disconnect(client, answer)).await;
        found.into_iter().filter(|found| *found).count()
    }

    pub(super) async fn ask<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let mut answers = Vec::new();
        for mailbox in self.mailboxes.all() {
            let (sender, answer) = oneshot::channel();
            mailbox.order(order(sender));
            answers.push(answer);
        }
        let mut all = Vec::new();
        let collect = async {
            for answer in answers {
                // A shard that has ended has nothing to say.
                all.extend(answer.await);
            }
        };
        if tokio::time::timeout(ANSWER, collect).await.is_err() {
            tracing::warn!("a shard has not answered within {ANSWER:?}");
        }
        all
    }

    /// Living channels by name.
    pub fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo> {
        self.store.channels(prefix, after, limit)
    }

    /// How many channels live.
    pub fn channel_count(&self) -> u64 {
        self.store.channel_count()
    }

    /// Begins the drain: new clients are refused, the present ones are closed bit by bit.
    pub fn drain(&self) {
        let drain = u64::try_from(self.options().drain.as_millis()).unwrap_or(u64::MAX);
        let ends_ms = self.clock.node_ms().saturating_add(drain).saturating_add(BEHIND_MS);
        if self.ends_ms.set(ends_ms).is_ok() {
            for mailbox in self.mailboxes.all() {
                mailbox.order(Order::Drain);
            }
        }
    }
}
