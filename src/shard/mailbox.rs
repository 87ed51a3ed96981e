//! What other threads may give a shard: events in order, and orders of the node. One lock, swapped
//! whole, one wake when it goes from empty to non-empty.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::core::metrics::Snapshot;
use crate::proto::event::Event;
use crate::proto::name::{ClientId, ShardId};
use crate::store::Deliver;

/// Events in a mailbox at which publishers are held back.
const EVENTS_MAX: usize = 8_192;

/// Bytes of events at which they are held back too.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the node wants of a shard.
#[derive(Debug)]
pub(super) enum Order {
    /// Close that client; answers whether it was here.
    Disconnect(ClientId, oneshot::Sender<bool>),
    /// Close everybody, spread over the drain time.
    Drain,
    /// A copy of the counters.
    Stats(oneshot::Sender<Snapshot>),
}

#[derive(Debug, Default)]
struct Inner {
    mail: Vec<Arc<Event>>,
    bytes: usize,
    orders: Vec<Order>,
    /// Events that the shard has taken and not yet fanned out.
    in_hand: usize,
    /// The shard has ended: nothing is taken any more.
    closed: bool,
    waiting: Vec<Waker>,
}

impl Inner {
    fn crowded(&self) -> bool {
        self.mail.len() + self.in_hand >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }

    fn at_half(&self) -> bool {
        self.mail.len() + self.in_hand <= EVENTS_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }
}

/// One shard's mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    bell: Notify,
}

impl Mailbox {
    fn push(&self, event: Arc<Event>) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed {
            return false;
        }
        inner.bytes += event.payload.len();
        inner.mail.push(event);
        let first = inner.mail.len() == 1;
        let crowded = inner.crowded();
        drop(inner);
        if first {
            self.bell.notify_one();
        }
        crowded
    }

    pub(super) fn order(&self, order: Order) {
        let mut inner = self.inner.lock();
        if inner.closed {
            // Whoever waits for an answer sees the order dropped.
            return;
        }
        inner.orders.push(order);
        drop(inner);
        self.bell.notify_one();
    }

    /// Takes nothing any more, and lets go of everybody who waits.
    pub(super) fn close(&self) {
        let ended = Inner { closed: true, ..Inner::default() };
        let last = std::mem::replace(&mut *self.inner.lock(), ended);
        last.waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits for mail or orders; may come back without any.
    pub(super) async fn ring(&self) {
        self.bell.notified().await;
    }

    /// Takes everything. `mail` and `orders` must be empty; their room is reused.
    pub(super) fn take(&self, mail: &mut Vec<Arc<Event>>, orders: &mut Vec<Order>) {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.mail, mail);
        std::mem::swap(&mut inner.orders, orders);
        inner.in_hand = mail.len();
        inner.bytes = 0;
    }

    /// Says how many events of the last [`Mailbox::take`] are still to be fanned out, and lets
    /// waiting publishers go on when there is room again.
    pub(super) fn settle(&self, in_hand: usize) {
        let mut inner = self.inner.lock();
        inner.in_hand = in_hand;
        if !inner.waiting.is_empty() && inner.at_half() {
            let waiting = std::mem::take(&mut inner.waiting);
            drop(inner);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Ready when the mailbox is at half or less, after it had been crowded.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.at_half() {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.inner.lock().crowded()
    }

    pub(super) fn depth(&self) -> u64 {
        let inner = self.inner.lock();
        (inner.mail.len() + inner.in_hand) as u64
    }
}

/// The mailboxes of all shards.
#[derive(Debug)]
pub struct Mailboxes(Box<[Mailbox]>);

impl Mailboxes {
    /// One for each of `shards` threads.
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Mailbox::default()).collect())
    }

    pub(super) fn of(&self, shard: ShardId) -> Option<&Mailbox> {
        self.0.get(usize::from(shard.0))
    }

    pub(super) fn all(&self) -> &[Mailbox] {
        &self.0
    }

    /// Waits for mail of `shard` and takes all of it, as its turns do. For benches: `mail` must be
    /// empty.
    #[doc(hidden)]
    pub async fn collect(&self, shard: ShardId, mail: &mut Vec<Arc<Event>>) {
        let Some(mailbox) = self.of(shard) else { return };
        loop {
            mailbox.take(mail, &mut Vec::new());
            if !mail.is_empty() {
                return mailbox.settle(0);
            }
            mailbox.ring().await;
        }
    }
}

impl Deliver for Mailboxes {
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
        self.of(shard).is_some_and(|mailbox| mailbox.push(event))
    }
}
