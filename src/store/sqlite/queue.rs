//! What waits for the thread that writes, in one lock that is held for a push or a swap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::watchdog::{HANG_MS, Watchdog};
use crate::core::metrics::Histogram;
use crate::core::policy::Keep;
use crate::proto::name::{ChannelName, ShardId};
use crate::store::{Answered, Deliver, NewEvent, Now, Published, StoreError, Ticket, Told};

/// Events that may wait; publishers are held back then.
const EVENTS_MAX: usize = 8_192;

/// Bytes of events that may wait.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many times as much is taken of those who publish all the same: each connection has one event
/// under way when it is held back, and there may be a hundred thousand.
const HARD: usize = 4;

/// How long those who were just answered are waited for, so that their next events are one batch.
const GATHER: Duration = Duration::from_millis(1);

/// An event that waits.
pub(super) struct Pending {
    pub(super) event: NewEvent<'static>,
    pub(super) now: Now,
    pub(super) told: Told,
}

/// Somebody who waits for a channel.
pub(super) struct Load {
    pub(super) what: Wanted,
    pub(super) done: Done,
}

/// Hears that it is there.
pub(super) type Done = oneshot::Sender<Result<(), StoreError>>;

/// What is to be brought into memory.
pub(super) enum Wanted {
    /// A channel, of which that is kept.
    Channel(Box<str>, Keep),
    /// Keyed channels with that prefix.
    Prefix(Box<str>),
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Pending>,
    loads: Vec<Load>,
    /// Bytes of the events that wait or are being written.
    bytes: usize,
    /// Events that are being written.
    in_hand: usize,
    /// The writer sleeps until this many events are there, or a load.
    wanted: usize,
    closed: bool,
}

impl Inner {
    fn is_crowded(&self) -> bool {
        self.events.len() + self.in_hand >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }

    fn is_full(&self) -> bool {
        self.events.len() + self.in_hand >= HARD * EVENTS_MAX || self.bytes >= HARD * BYTES_MAX
    }
}

/// The queue, and what others may know of the writer.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    bell: Condvar,
    room: Notify,
    up: AtomicBool,
    fault: Mutex<String>,
    pub(super) seconds: Mutex<Histogram>,
    /// Channels and patterns that the writer has set aside.
    faulty: AtomicU64,
    pub(super) watchdog: Arc<Watchdog>,
}

/// What the writer has taken.
pub(super) struct Work {
    pub(super) events: Batch,
    pub(super) loads: VecDeque<Load>,
}

/// Events that are being written. Whoever was not told when it goes is told that they were not taken.
pub(super) struct Batch {
    pub(super) pending: VecDeque<Pending>,
    /// The publisher of the one that is at hand and not among them any more.
    pub(super) at_hand: Option<Told>,
    deliver: Arc<dyn Deliver>,
    /// Answers for the connections of each shard.
    answers: Vec<(ShardId, Vec<Answered>)>,
}

impl Pending {
    /// Whether anybody still wants it published.
    pub(super) fn is_wanted(&self) -> bool {
        match &self.told {
            Told::Waiter(waiter) => !waiter.is_closed(),
            Told::Connection(_) => true,
        }
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            bell: Condvar::new(),
            room: Notify::new(),
            up: AtomicBool::new(true),
            fault: Mutex::default(),
            seconds: Mutex::default(),
            faulty: AtomicU64::new(0),
            watchdog: Arc::default(),
        }
    }

    /// Whether the writer can do its work.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set_up(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    /// The writer cannot do its work, for this reason.
    pub(super) fn set_fault(&self, fault: &str) {
        fault.clone_into(&mut self.fault.lock());
        self.up.store(false, Ordering::Relaxed);
    }

    /// Why the writer cannot do its work; `None` while it can.
    pub(super) fn fault(&self) -> Option<String> {
        if !self.is_up() {
            return Some(self.fault.lock().clone());
        }
        let hung = self.watchdog.is_hung();
        hung.then(|| format!("the disk of store.path has not answered for {} s", HANG_MS / 1_000))
    }

    /// How many channels and patterns could not be read or written lately.
    pub(super) fn faulty(&self) -> u64 {
        self.faulty.load(Ordering::Relaxed)
    }

    pub(super) fn set_faulty(&self, count: usize) {
        self.faulty.store(count as u64, Ordering::Relaxed);
    }

    /// The writer has ended: whoever waits for it is told so.
    pub(super) fn end(&self, deliver: Arc<dyn Deliver>) {
        self.close();
        self.refuse_all(deliver);
    }

    /// Tells everybody whose work the writer has not taken that it will not be done.
    pub(super) fn refuse_all(&self, deliver: Arc<dyn Deliver>) {
        let mut left = Work::new(deliver);
        let mut inner = self.inner.lock();
        left.events.pending.append(&mut inner.events);
        left.loads.extend(inner.loads.drain(..));
        let bytes: usize = left.events.pending.iter().map(|one| one.event.bytes()).sum();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        drop(inner);
        self.room.notify_waiters();
    }

    /// Takes an event; whether there is more than should be. Beyond several times that it takes none.
    pub(super) fn push(
        &self,
        event: NewEvent<'static>,
        now: Now,
        told: Told,
    ) -> Result<bool, StoreError> {
        let mut inner = self.inner.lock();
        if inner.closed || !self.is_up() || self.watchdog.is_hung() {
            return Err(StoreError::Away);
        }
        if inner.is_full() {
            return Err(StoreError::Crowded);
        }
        inner.bytes += event.bytes();
        inner.events.push_back(Pending { event, now, told });
        let (ring, crowded) = (inner.events.len() == inner.wanted, inner.is_crowded());
        drop(inner);
        if ring {
            self.bell.notify_one();
        }
        Ok(crowded)
    }

    pub(super) fn load(&self, load: Load) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        if inner.closed || self.watchdog.is_hung() {
            return Err(StoreError::Away);
        }
        inner.loads.push(load);
        drop(inner);
        self.bell.notify_one();
        Ok(())
    }

    /// Nothing is taken any more; the writer ends when it has done what is there.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.bell.notify_one();
        self.room.notify_waiters();
    }

    /// Resolves when there is room.
    pub(super) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            {
                let inner = self.inner.lock();
                // Where nothing is taken, whoever tries is told so.
                if inner.closed || !inner.is_crowded() || self.watchdog.is_hung() {
                    return;
                }
            }
            notified.await;
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        let inner = self.inner.lock();
        (inner.events.len() + inner.in_hand) as u64
    }

    /// Waits for work, at most for `patience`, and takes all of it. Where some is there, and time for
    /// it, waits a moment for as many events as were `answered` last. `false` at the end.
    pub(super) fn take(&self, work: &mut Work, patience: Duration, answered: usize) -> bool {
        let mut inner = self.inner.lock();
        let idle = |inner: &Inner| inner.events.is_empty() && inner.loads.is_empty();
        if idle(&inner) && !inner.closed && !patience.is_zero() {
            inner.wanted = 1;
            self.bell.wait_for(&mut inner, patience);
        }
        let few = !inner.events.is_empty() && inner.events.len() < answered;
        let more = !work.events.pending.is_empty() || !work.loads.is_empty();
        if few && !more && !patience.is_zero() && inner.loads.is_empty() && !inner.closed {
            inner.wanted = answered;
            self.bell.wait_for(&mut inner, GATHER);
        }
        inner.wanted = 0;
        work.loads.extend(inner.loads.drain(..));
        work.events.pending.append(&mut inner.events);
        inner.in_hand = work.events.pending.len();
        !(inner.closed && inner.in_hand == 0 && work.loads.is_empty())
    }

    /// Events were written, or given up.
    pub(super) fn settle(&self, events: usize, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.in_hand = inner.in_hand.saturating_sub(events);
        inner.bytes = inner.bytes.saturating_sub(bytes);
        let crowded = inner.is_crowded();
        drop(inner);
        if !crowded {
            self.room.notify_waiters();
        }
    }
}

impl Work {
    pub(super) fn new(deliver: Arc<dyn Deliver>) -> Self {
        let (pending, answers) = (VecDeque::new(), Vec::new());
        let events = Batch { pending, at_hand: None, deliver, answers };
        Self { events, loads: VecDeque::new() }
    }
}

impl Batch {
    /// Tells the publisher of an event what has become of it; connections hear it with
    /// [`Batch::send`].
    pub(super) fn tell(
        &mut self,
        told: Told,
        result: Result<(&ChannelName, Published), StoreError>,
    ) {
        match told {
            Told::Waiter(waiter) => {
                // Whoever has gone has no use for it.
                waiter.send(result.map(|(_, published)| published)).ok();
            }
            Told::Connection(ticket) => {
                let result = result.map(|(channel, published)| (channel.clone(), published));
                self.keep(ticket, result);
            }
        }
    }

    /// The same of the event that is at hand.
    pub(super) fn tell_at_hand(&mut self, result: Result<(&ChannelName, Published), StoreError>) {
        if let Some(told) = self.at_hand.take() {
            self.tell(told, result);
        }
    }

    fn keep(&mut self, ticket: Ticket, result: Result<(ChannelName, Published), StoreError>) {
        let answer = Answered { ticket, result };
        match self.answers.iter_mut().find(|(shard, _)| *shard == ticket.shard) {
            Some((_, answers)) => answers.push(answer),
            None => self.answers.push((ticket.shard, vec![answer])),
        }
    }

    /// Hands the answers to the shards.
    pub(super) fn send(&mut self) {
        for (shard, answers) in &mut self.answers {
            if !answers.is_empty() {
                self.deliver.answer(*shard, std::mem::take(answers));
            }
        }
    }

    /// Tells the publishers of the first `count` events that they were not taken.
    pub(super) fn refuse(&mut self, count: usize, error: StoreError) -> usize {
        let mut bytes = 0;
        for _ in 0..count {
            let Some(pending) = self.pending.pop_front() else { break };
            bytes += pending.event.bytes();
            self.tell(pending.told, Err(error));
        }
        self.send();
        bytes
    }
}

/// Also where the writer has panicked.
impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(told) = self.at_hand.take() {
            self.tell(told, Err(StoreError::Away));
        }
        self.refuse(usize::MAX, StoreError::Away);
    }
}
