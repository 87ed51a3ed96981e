//! What other threads may give a shard: events in order, and orders of the node. One lock, swapped
//! whole, one wake when it goes from empty to non-empty.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Barrier, Notify, oneshot};

use super::node::NodeOptions;
use super::settings::Changed;
use super::slow::SlowPeer;
use super::tell::Notices;
use crate::core::metrics::Snapshot;
use crate::core::notice::Notice;
use crate::proto::event::Event;
use crate::proto::name::{ClientId, ShardId};
use crate::store::{Answered, Deliver, Tell};

/// Events in a mailbox at which publishers are held back.
const EVENTS_MAX: usize = 8_192;

/// Bytes of events at which they are held back too.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the node wants of a shard.
#[derive(Debug)]
pub(super) enum Order {
    /// What became of durable events of its connections.
    Answered(Vec<Answered>),
    /// Go by these settings; answers when all clients have been looked at.
    Change(Arc<NodeOptions>, Arc<Barrier>, oneshot::Sender<Changed>),
    /// Close that client; answers whether it was here.
    Disconnect(ClientId, oneshot::Sender<bool>),
    /// Close everybody, spread over the drain time.
    Drain,
    /// A copy of the counters.
    Stats(oneshot::Sender<Snapshot>),
    /// The same, and the slowest connections.
    StatsAndSlowest(oneshot::Sender<(Snapshot, Vec<SlowPeer>)>),
}

#[derive(Debug, Default)]
struct Inner {
    mail: Vec<Arc<Event>>,
    /// Payload of the mail and of notices, and of what is in hand.
    bytes: usize,
    orders: Vec<Order>,
    /// What rooms tell; counted in `bytes` too.
    notices: Vec<Arc<Notice>>,
    /// How many there were.
    told: u64,
    /// Events that the shard has taken and not yet fanned out.
    in_hand: usize,
    /// The shard has ended: nothing is taken any more.
    closed: bool,
    /// Who waits for room, by the numbers that [`Room`]s have.
    waiting: HashMap<u64, Waker, RandomState>,
    /// The last of these numbers.
    last_id: u64,
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
        inner.bytes += event.bytes();
        inner.mail.push(event);
        let first = inner.mail.len() == 1;
        let crowded = inner.crowded();
        drop(inner);
        if first {
            self.bell.notify_one();
        }
        crowded
    }

    fn notify(&self, notice: Arc<Notice>) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed {
            return false;
        }
        inner.bytes += notice.bytes();
        inner.notices.push(notice);
        inner.told += 1;
        let first = inner.notices.len() == 1;
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
        last.waiting.into_values().for_each(Waker::wake);
    }

    /// Waits for mail or orders; may come back without any.
    pub(super) async fn ring(&self) {
        self.bell.notified().await;
    }

    /// Ends a wait for mail.
    pub(super) fn wake(&self) {
        self.bell.notify_one();
    }

    /// Takes all mail. `mail` must be empty; its room is reused.
    pub(super) fn take(&self, mail: &mut Vec<Arc<Event>>) {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.mail, mail);
        inner.in_hand = mail.len();
    }

    /// Takes all orders and notices. `orders` must be empty; its room is reused.
    pub(super) fn take_orders(&self, orders: &mut Vec<Order>, notices: &mut Notices) {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.orders, orders);
        if !inner.notices.is_empty() {
            notices.take(&mut inner.notices);
        }
    }

    /// Says how many events of the last [`Mailbox::take`] were fanned out, and their payload and
    /// that of notices, and lets waiting publishers go on when there is room again.
    pub(super) fn settle(&self, events: usize, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.in_hand = inner.in_hand.saturating_sub(events);
        inner.bytes = inner.bytes.saturating_sub(bytes);
        if !inner.waiting.is_empty() && inner.at_half() {
            let waiting = std::mem::take(&mut inner.waiting);
            drop(inner);
            waiting.into_values().for_each(Waker::wake);
        }
    }

    /// Ready when the mailbox is at half or less, after it had been crowded.
    fn poll_room(&self, id: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.at_half() {
            return Poll::Ready(());
        }
        let id = *id.get_or_insert_with(|| {
            inner.last_id += 1;
            inner.last_id
        });
        inner
            .waiting
            .entry(id)
            .and_modify(|waker| waker.clone_from(cx.waker()))
            .or_insert_with(|| cx.waker().clone());
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
            mailbox.take(mail);
            if !mail.is_empty() {
                let bytes = mail.iter().map(|event| event.bytes()).sum();
                return mailbox.settle(mail.len(), bytes);
            }
            mailbox.ring().await;
        }
    }

    /// Room in a shard's mailbox, to be waited for.
    pub(super) fn room(self: &Arc<Self>, shard: ShardId) -> Room {
        Room { mailboxes: Arc::clone(self), shard, id: None }
    }
}

/// Resolves when a mailbox that was crowded is at half or less. Registered there exactly while it
/// waits.
#[derive(Debug)]
pub(super) struct Room {
    mailboxes: Arc<Mailboxes>,
    shard: ShardId,
    /// Its number in the mailbox, once it waits.
    id: Option<u64>,
}

impl Future for Room {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { mailboxes, shard, id } = &mut *self;
        mailboxes.of(*shard).map_or(Poll::Ready(()), |mailbox| mailbox.poll_room(id, cx))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && let Some(mailbox) = self.mailboxes.of(self.shard)
        {
            mailbox.inner.lock().waiting.remove(&id);
        }
    }
}

impl Deliver for Mailboxes {
    fn deliver(&self, shard: ShardId, event: Arc<Event>) -> bool {
        self.of(shard).is_some_and(|mailbox| mailbox.push(event))
    }

    fn answer(&self, shard: ShardId, answers: Vec<Answered>) {
        if let Some(mailbox) = self.of(shard) {
            mailbox.order(Order::Answered(answers));
        }
    }
}

impl Tell for Mailboxes {
    fn tell(&self, shard: ShardId, notice: Arc<Notice>) -> bool {
        self.of(shard).is_some_and(|mailbox| mailbox.notify(notice))
    }

    fn told(&self, shard: ShardId) -> u64 {
        self.of(shard).map_or(0, |mailbox| mailbox.inner.lock().told)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::proto::event::Payload;
    use crate::proto::name::{Alias, ChannelName};

    /// One with so many bytes of payload.
    pub(in crate::shard) fn event(bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            channel: ChannelName::from_checked("room:1"),
            alias: Alias(1),
            offset: 1,
            ts_ms: 0,
            taken_ns: 0,
            key: None,
            from: None,
            hidden_from: None,
            payload: Payload::Opaque(vec![0; bytes].into()),
            json_frame: OnceLock::new(),
            frames: crate::proto::encoder::Frames::default(),
        })
    }

    fn is_ready(room: &mut Room) -> bool {
        Pin::new(room).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_a_shard_has_in_hand_still_counts() {
        let mailboxes = Arc::new(Mailboxes::new(1));
        let mailbox = &mailboxes.all()[0];
        for _ in 0..16 {
            mailbox.push(event(BYTES_MAX / 16));
        }
        assert!(mailbox.is_crowded());
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        let mut room = mailboxes.room(ShardId(0));
        assert!(mailbox.is_crowded() && !is_ready(&mut room), "nothing of it was fanned out");
        mailbox.settle(7, 7 * (BYTES_MAX / 16));
        assert!(!mailbox.is_crowded() && !is_ready(&mut room), "more than half");
        mailbox.settle(1, BYTES_MAX / 16);
        assert!(is_ready(&mut room));
        mailbox.settle(8, 8 * (BYTES_MAX / 16));
        assert_eq!((mailbox.depth(), mailbox.inner.lock().bytes), (0, 0));
    }

    #[test]
    fn whoever_waits_is_registered_once_and_as_long_as_it_waits() {
        let mailboxes = Arc::new(Mailboxes::new(1));
        let mailbox = &mailboxes.all()[0];
        mailbox.push(event(BYTES_MAX));
        let mut rooms = [mailboxes.room(ShardId(0)), mailboxes.room(ShardId(0))];
        for _ in 0..3 {
            assert!(!rooms.iter_mut().any(is_ready));
        }
        let waiting = || mailbox.inner.lock().waiting.len();
        assert_eq!(waiting(), 2);
        let [mut first, second] = rooms;
        drop(second);
        assert_eq!(waiting(), 1);
        mailbox.close();
        assert!(is_ready(&mut first), "a shard that has ended holds nobody back");
    }

    #[test]
    fn what_rooms_tell_counts_until_everybody_has_it() {
        use crate::core::notice::Frames;

        let mailboxes = Arc::new(Mailboxes::new(1));
        let mailbox = &mailboxes.all()[0];
        let notice =
            |bytes| Arc::new(Notice::Presence(Frames::new(Alias(1), vec![0; bytes], Vec::new())));
        assert!(!mailboxes.tell(ShardId(0), notice(10)));
        assert!(mailboxes.tell(ShardId(0), notice(BYTES_MAX)), "whoever floods is held back");
        let mut notices = Notices::default();
        mailbox.take_orders(&mut Vec::new(), &mut notices);
        assert!(!notices.is_empty() && mailbox.is_crowded(), "nobody has it yet");
        let mut room = mailboxes.room(ShardId(0));
        assert!(!is_ready(&mut room));
        mailbox.settle(0, notice(BYTES_MAX).bytes());
        assert!(is_ready(&mut room) && mailbox.depth() == 0);
        mailbox.close();
        assert!(!mailboxes.tell(ShardId(0), notice(BYTES_MAX)), "nobody is there");
        assert!(mailbox.inner.lock().notices.is_empty());
    }

    #[test]
    fn orders_come_without_the_mail() {
        let mailboxes = Mailboxes::new(1);
        let mailbox = &mailboxes.all()[0];
        mailbox.push(event(1));
        mailbox.order(Order::Drain);
        let mut orders = Vec::new();
        mailbox.take_orders(&mut orders, &mut Notices::default());
        assert_eq!((orders.len(), mailbox.depth()), (1, 1));
    }
}
