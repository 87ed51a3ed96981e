//! What a hub knows of those who are slow: their states, what they have lost, what their queues
//! take of memory, and who is the slowest.

use std::cmp::Reverse;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::seat::Seat;
use super::{Hub, SeatId};
use crate::core::account::{Account, Charge};
use crate::core::outbox::OutboxLimit;
use crate::core::ticket::Ticket;
use crate::proto::event::Author;
use crate::proto::name::ClientId;

/// How many of the slowest are named.
pub const SLOWEST: usize = 10;

/// How a connection is slow. Each is in one state at most, the first that is true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowState {
    /// Its queue was at the bound, and has not come down to half since.
    Full,
    /// A subscription of its lags under `latest`.
    Lagging,
    /// Its socket takes no more, and something waits.
    Blocked,
}

impl SlowState {
    /// Every state, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Full, Self::Lagging, Self::Blocked];

    /// Its name in metrics and stats.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lagging => "lagging",
            Self::Blocked => "blocked",
        }
    }
}

/// What a seat has beside an idle one of the anonymous.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// Since when its data lane is full (node milliseconds, from 1); `None` below half.
    full_since_ms: Option<NonZeroU64>,
    /// Events that it has lost.
    dropped: u64,
    /// Memory of what it has sent that was not carried out.
    input: usize,
    /// Memory of that, and of its queue alone.
    own: Option<Charge>,
    /// What its token says, or that it has yet to bring one. Here and not in the seat, where the
    /// anonymous would have a place for it.
    ticket: Option<Box<Ticket>>,
}

/// The queues of a shard, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queues {
    /// Bytes of events in all of them; shared bytes count once for each.
    pub bytes: u64,
    /// Memory that they take; what they share counts once.
    pub memory: u64,
    /// Connections by [`SlowState`].
    pub slow: [u64; SlowState::ALL.len()],
}

/// A slow connection, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowClient {
    /// Its seat.
    pub seat: SeatId,
    /// Who it is.
    pub author: Arc<Author>,
    /// How it is slow.
    pub state: SlowState,
    /// Bytes of events that wait, of signals, and of answers and notices.
    pub queued_bytes: usize,
    /// Events that wait.
    pub queued_events: usize,
    /// The age of the first event that waits, or is missing there.
    pub oldest_ms: Option<u64>,
    /// For how long its queue has been full.
    pub full_ms: Option<u64>,
    /// Events that it has lost since it came.
    pub dropped: u64,
    /// Its subscriptions.
    pub subscriptions: usize,
}

/// What the slowest has the most of: age, then bytes; then ids decide.
type Rank = (Option<u64>, usize, Reverse<u64>);

fn rank(oldest_ms: Option<u64>, queued_bytes: usize, author: &Author) -> Rank {
    (oldest_ms, queued_bytes, Reverse(author.client.0))
}

impl SlowClient {
    /// The slowest has the highest.
    pub fn rank(&self) -> Rank {
        rank(self.oldest_ms, self.queued_bytes, &self.author)
    }
}

impl Seat {
    /// What its token says, or that it has yet to bring one; `None` is the anonymous.
    pub fn ticket(&self) -> Option<&Ticket> {
        self.slow.as_ref()?.ticket.as_deref()
    }

    /// Whether it may send one more message: few, where it has yet to bring a token.
    pub fn may_send(&mut self) -> bool {
        let ticket = self.slow.as_mut().and_then(|slow| slow.ticket.as_mut());
        ticket.is_none_or(|ticket| ticket.send())
    }

    /// Takes what its token says, or that it has yet to bring one.
    pub fn set_ticket(&mut self, ticket: Ticket) {
        self.slow.get_or_insert_default().ticket = Some(Box::new(ticket));
    }

    /// From here on it is the anonymous.
    pub fn forget_ticket(&mut self) {
        if let Some(slow) = &mut self.slow {
            slow.ticket = None;
        }
        self.tidy();
    }

    pub(super) fn full_since_ms(&self) -> Option<u64> {
        self.slow.as_ref().and_then(|slow| slow.full_since_ms).map(NonZeroU64::get)
    }

    /// Its queue is full, since `now_ms` if it was not before; or not any more.
    pub(super) fn set_full(&mut self, now_ms: Option<u64>) {
        match now_ms {
            None => {
                if let Some(slow) = &mut self.slow {
                    slow.full_since_ms = None;
                }
                self.tidy();
            }
            Some(now_ms) => {
                let since = &mut self.slow.get_or_insert_default().full_since_ms;
                *since = since.or(NonZeroU64::new(now_ms.max(1)));
            }
        }
    }

    /// It has lost `events`, for which something stood or was to stand in its queue.
    pub fn lose(&mut self, events: u64) {
        if events > 0 {
            self.slow.get_or_insert_default().dropped += events;
        }
    }

    /// Events that it has lost, but for those that a subscription which lags is yet to be told of.
    pub fn dropped(&self) -> u64 {
        self.slow.as_ref().map_or(0, |slow| slow.dropped)
    }

    /// Memory that it takes for what it has sent and was not carried out.
    pub fn input_bytes(&self) -> usize {
        self.slow.as_ref().map_or(0, |slow| slow.input)
    }

    fn share_bytes(&self) -> usize {
        self.outbox.share_bytes() + self.input_bytes()
    }

    /// Whether closing it would free memory: its socket takes no more and something waits, or what
    /// it has sent is not carried out.
    pub fn holds_memory(&self) -> bool {
        self.blocked && !self.outbox.is_empty() || self.input_bytes() > 0
    }

    /// Counts what it takes of memory for itself.
    pub(super) fn weigh(&mut self, account: &Account) {
        let own = self.outbox.own_bytes() + self.input_bytes();
        if own == 0 && self.slow.is_none() {
            return;
        }
        let slow = self.slow.get_or_insert_default();
        match &mut slow.own {
            Some(charge) if own > 0 => charge.set(own),
            charge => *charge = (own > 0).then(|| Charge::new(account, own)),
        }
        self.tidy();
    }

    /// Forgets what an idle seat has not.
    fn tidy(&mut self) {
        self.slow.take_if(|slow| {
            let idle = slow.full_since_ms.is_none() && slow.dropped == 0 && slow.own.is_none();
            idle && slow.ticket.is_none()
        });
    }

    fn state(&self, limit: OutboxLimit) -> Option<SlowState> {
        if self.full_since_ms().is_some() && !self.at_half(limit) {
            Some(SlowState::Full)
        } else if !self.blocked || self.outbox.is_empty() {
            None
        } else if self.outbox.has_lag() {
            Some(SlowState::Lagging)
        } else {
            Some(SlowState::Blocked)
        }
    }

    fn queued_bytes(&self) -> usize {
        self.outbox.data_bytes() + self.outbox.signal_bytes() + self.outbox.control_bytes()
    }
}

impl Hub {
    /// Memory of all queues, and of what is kept for reuse. Costs nothing to ask.
    pub fn memory_at_most(&self) -> usize {
        self.press.account().bytes()
    }

    /// Memory of all queues.
    pub fn memory(&self) -> usize {
        self.memory_at_most().saturating_sub(self.press.spare())
    }

    /// Gives up what is kept for reuse: [`Hub::memory_at_most`] is exact until the next round.
    pub fn forget_spare(&mut self) {
        self.press.forget();
    }

    /// Counts what a seat's queue takes for itself.
    pub fn weigh(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(id) {
            seat.weigh(self.press.account());
        }
    }

    /// Counts what a client has sent and was not carried out.
    pub fn weigh_input(&mut self, id: SeatId, bytes: usize) {
        if let Some(seat) = self.seats.get_mut(id) {
            if bytes > 0 || seat.slow.is_some() {
                seat.slow.get_or_insert_default().input = bytes;
            }
            seat.weigh(self.press.account());
        }
    }

    /// Who of the `open` could be cut to save memory: everybody who
    /// [holds some](Seat::holds_memory), the fullest last; with their shares of the memory. Those are exact
    /// when nothing is kept for reuse.
    pub fn by_fullness(&self, open: impl Fn(SeatId) -> bool) -> Vec<(usize, SeatId, ClientId)> {
        let found = self.seats.iter().filter(|(id, seat)| seat.holds_memory() && open(*id));
        let mut ranks: Vec<_> =
            found.map(|(id, seat)| (self.share_bytes(id), id, seat.author.client)).collect();
        ranks.sort_unstable();
        ranks
    }

    /// The most that one of the `open` takes who could not be cut, as its socket takes what it has.
    pub fn fullest_taking(&self, open: impl Fn(SeatId) -> bool) -> usize {
        let taking = self.seats.iter().filter(|(id, seat)| !seat.holds_memory() && open(*id));
        taking.map(|(id, _)| self.share_bytes(id)).max().unwrap_or(0)
    }

    /// Memory that a seat takes: its own, and its share of what others have too.
    pub fn share_bytes(&self, id: SeatId) -> usize {
        let seat = self.seats.get(id).map_or(0, Seat::share_bytes);
        seat + self.patterns.lag_bytes(id)
    }

    /// All queues at this moment.
    pub fn queues(&self) -> Queues {
        let mut queues = Queues { memory: self.memory() as u64, ..Queues::default() };
        for (_, seat) in &self.seats {
            queues.bytes += seat.outbox.data_bytes() as u64;
            if let Some(state) = seat.state(self.limit) {
                queues.slow[state as usize] += 1;
            }
        }
        queues
    }

    /// The slowest connections, at most [`SLOWEST`], the slowest first.
    pub fn slowest(&self, now_ns: u64) -> Vec<SlowClient> {
        let mut found: Vec<SlowClient> = Vec::with_capacity(SLOWEST + 1);
        for (id, seat) in &self.seats {
            let Some(state) = seat.state(self.limit) else { continue };
            let oldest_ms = seat.outbox.oldest_ms(now_ns);
            let own = rank(oldest_ms, seat.queued_bytes(), &seat.author);
            let at = found.partition_point(|other| other.rank() > own);
            if at < SLOWEST {
                found.insert(at, self.picture((id, seat), (state, oldest_ms), now_ns));
                found.truncate(SLOWEST);
            }
        }
        found
    }

    fn picture(
        &self,
        (id, seat): (SeatId, &Seat),
        (state, oldest_ms): (SlowState, Option<u64>),
        now_ns: u64,
    ) -> SlowClient {
        let head = |alias| Some(self.topics.get(&alias)?.latest.as_ref()?.head());
        let now_ms = now_ns / 1_000_000;
        SlowClient {
            seat: id,
            author: Arc::clone(&seat.author),
            state,
            queued_bytes: seat.queued_bytes(),
            queued_events: seat.outbox.data_events(),
            oldest_ms,
            full_ms: seat.full_since_ms().map(|since_ms| now_ms.saturating_sub(since_ms)),
            dropped: seat.dropped() + seat.outbox.untold(head),
            subscriptions: self.subscriptions_of(id),
        }
    }
}
