//! One shard's registry: the seats of its connections, who sits in which channel, and the fan-out
//! of a batch of events to them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use super::latest::Latest;
use super::outbox::{OutboxLimit, Slice};
use super::policy::Policy;
use super::run::{Press, RUN_BYTES_MAX, Run, RunLimit};
use crate::proto::event::{Author, Event};
use crate::proto::name::{Alias, ChannelName, ClientId};

mod by_pattern;
mod lag;
mod pattern;
mod seat;

pub use seat::Seat;

use pattern::{Patterns, Touched};
use seat::{Listed, Member, Round, Standing, Sub, Target};

/// Batches that fit into a queue: a connection may be that many rounds late before a policy acts.
/// With 2, healthy readers were measured to lose events at a full stream.
const BATCHES: usize = 8;

/// A connection's place in its shard's hub.
pub type SeatId = usize;

/// One channel with members on this shard.
#[derive(Debug)]
struct Topic {
    channel: ChannelName,
    members: Vec<Member>,
    /// Kept while a member may need it.
    latest: Option<Box<Latest>>,
    /// The run being filled by the batch.
    open: Option<Rc<Run>>,
}

/// How a subscription begins.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// What happens at the bound of the queue.
    pub policy: Policy,
    /// The events after this offset are for it.
    pub position: u64,
    /// Keys whose newest event is kept, under [`Policy::Latest`].
    pub keys_max: usize,
}

/// Writes a connection's queue out of turn, when the bound would be met only because its turn
/// has not come yet.
pub trait Writer {
    /// Writes what the kernel takes of the seat's outbox.
    fn write(&mut self, id: SeatId, seat: &mut Seat);
}

/// What a seat has left.
#[derive(Debug, Clone, Copy)]
pub enum Left<'a> {
    /// This channel.
    Channel(&'a ChannelName),
    /// The pattern of this prefix.
    Prefix(&'a str),
}

/// What a fan-out has to tell.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events dropped, by [`Policy`].
    pub dropped: [u64; Policy::ALL.len()],
    /// Seats to be closed as slow consumers.
    pub overflowed: Vec<SeatId>,
}

/// A shard's registry.
#[derive(Debug)]
pub struct Hub {
    seats: Slab<Seat>,
    clients: HashMap<ClientId, u32, RandomState>,
    topics: HashMap<Alias, Topic, RandomState>,
    patterns: Patterns,
    /// Events that were loaded so far.
    loaded: u64,
    touched: Vec<Touched>,
    dirty: VecDeque<u32>,
    full: Vec<Listed>,
    /// Seats that have taken every event so far, and may not take the next batch.
    near: Vec<Listed>,
    /// Seats whose data lane was long at some time since the last look but one.
    roomy: Vec<Listed>,
    press: Press,
    limit: OutboxLimit,
    subscriptions: u64,
}

impl Hub {
    /// An empty hub whose seats have queues of `limit`.
    pub fn new(limit: OutboxLimit) -> Self {
        Self {
            seats: Slab::new(),
            clients: HashMap::default(),
            topics: HashMap::default(),
            patterns: Patterns::default(),
            loaded: 0,
            touched: Vec::new(),
            dirty: VecDeque::new(),
            full: Vec::new(),
            near: Vec::new(),
            roomy: Vec::new(),
            press: Press::default(),
            limit,
            subscriptions: 0,
        }
    }

    /// Gives a connection a seat.
    pub fn open(&mut self, author: Arc<Author>, now_ms: u64) -> SeatId {
        let client = author.client;
        let id = self.seats.insert(Seat::new(author, now_ms));
        self.clients.insert(client, narrow(id));
        id
    }

    /// Takes a seat away. `left` hears of each channel and pattern it had, and whether it was the
    /// shard's last member there.
    pub fn close(&mut self, id: SeatId, left: impl FnMut(Left<'_>, bool)) {
        self.leave_all(id, left);
        if let Some(seat) = self.seats.try_remove(id) {
            self.clients.remove(&seat.author.client);
        }
    }

    /// Ends every subscription of a seat; what is queued stays queued.
    pub fn leave_all(&mut self, id: SeatId, mut left: impl FnMut(Left<'_>, bool)) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        for sub in std::mem::take(&mut seat.subs) {
            self.give_up(id, sub);
            if let Some((channel, last)) = self.leave(sub) {
                left(Left::Channel(&channel), last);
            }
        }
        self.leave_patterns(id, left);
    }

    /// The seat of that id.
    pub fn seat(&mut self, id: SeatId) -> Option<&mut Seat> {
        self.seats.get_mut(id)
    }

    /// The seat of that client.
    pub fn seat_of(&self, client: ClientId) -> Option<SeatId> {
        self.clients.get(&client).map(|id| *id as usize)
    }

    /// Every seat, for a drain or a picture.
    pub fn seat_ids(&self) -> Vec<SeatId> {
        self.seats.iter().map(|(id, _)| id).collect()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.seats.len()
    }

    /// How many subscriptions they have together.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// How many subscriptions one of them has.
    pub fn subscriptions_of(&self, id: SeatId) -> usize {
        self.seats.get(id).map_or(0, |seat| seat.subs.len()) + self.patterns.count(id)
    }

    /// Bytes of events in all queues, and how many queues are full.
    pub fn queues(&self) -> (u64, u64) {
        let bytes = self.seats.iter().map(|(_, seat)| seat.outbox.data_bytes() as u64).sum();
        let full = self.seats.iter().filter(|(_, seat)| seat.full_since_ms.is_some()).count();
        (bytes, full as u64)
    }

    /// Whether the connection has the channel.
    pub fn is_subscribed(&self, id: SeatId, alias: Alias) -> bool {
        self.sub(id, alias).is_some()
    }

    fn sub(&self, id: SeatId, alias: Alias) -> Option<Sub> {
        self.seats.get(id)?.subs.iter().find(|sub| sub.alias == alias).copied()
    }

    /// Changes the policy of a subscription there is. One that lags goes on with it once it has
    /// caught up.
    pub fn update(&mut self, id: SeatId, alias: Alias, policy: Policy, keys_max: usize) {
        if let Some(sub) = self.sub(id, alias)
            && let Some(topic) = self.topics.get_mut(&alias)
            && let Some(member) = topic.members.get_mut(sub.member as usize)
        {
            let before = member.uses_latest();
            member.policy = policy;
            let after = member.uses_latest();
            topic.count_user(before, after, keys_max);
        }
    }

    /// Adds a subscription.
    pub fn subscribe(&mut self, id: SeatId, to: (&ChannelName, Alias), join: Join) {
        let (channel, alias) = to;
        let Join { policy, position, keys_max } = join;
        let Some(seat) = self.seats.get_mut(id) else { return };
        let lag = self.patterns.end_lag(id, alias);
        let standing = lag.map_or(Standing::Live, |_| Standing::Told);
        let topic = match self.topics.entry(alias) {
            Entry::Occupied(topic) => topic.into_mut(),
            Entry::Vacant(free) => {
                let channel = channel.clone();
                free.insert(Topic { channel, members: Vec::new(), latest: None, open: None })
            }
        };
        if seat.subs.is_empty() {
            // Most connections have one subscription: no room for four.
            seat.subs.reserve_exact(1);
        }
        seat.subs.push(Sub { alias, member: narrow(topic.members.len()) });
        let member = Member { seat: narrow(id), policy, standing, position };
        topic.count_user(standing != Standing::Live, member.uses_latest(), keys_max);
        topic.members.push(member);
        self.subscriptions += 1;
    }

    /// Ends a subscription and takes its events out of the queue, unless a pattern has them as well.
    /// Says whether it was the shard's last member of the channel; `None` when there was no
    /// subscription.
    pub fn unsubscribe(&mut self, id: SeatId, alias: Alias) -> Option<bool> {
        let seat = self.seats.get_mut(id)?;
        let at = seat.subs.iter().position(|sub| sub.alias == alias)?;
        let sub = seat.subs.swap_remove(at);
        if !self.goes_on_by_pattern(id, sub)
            && let Some(seat) = self.seats.get_mut(id)
        {
            seat.outbox.purge(alias);
        }
        self.leave(sub).map(|(_, last)| last)
    }

    fn leave(&mut self, sub: Sub) -> Option<(ChannelName, bool)> {
        let topic = self.topics.get_mut(&sub.alias)?;
        let at = sub.member as usize;
        if at >= topic.members.len() {
            return None;
        }
        let member = topic.members.swap_remove(at);
        topic.count_user(member.uses_latest(), false, 0);
        self.subscriptions -= 1;
        if let Some(moved) = topic.members.get(at)
            && let Some(seat) = self.seats.get_mut(moved.seat as usize)
            && let Some(other) = seat.subs.iter_mut().find(|other| other.alias == sub.alias)
        {
            other.member = sub.member;
        }
        let channel = topic.channel.clone();
        let last = topic.members.is_empty();
        if topic.is_spare() {
            self.topics.remove(&sub.alias);
        }
        Some((channel, last))
    }

    /// Lays an event into its channel's open run. `false` when that run is full: fan out first,
    /// then come again.
    pub fn load(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        let loaded = self.patterns.passes(self.loaded, &self.touched) && self.lay(event, now_ns);
        self.loaded += u64::from(loaded);
        loaded
    }

    #[inline(always)]
    fn lay(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        let Some(topic) = self.topics.get_mut(&event.alias) else {
            return self.lay_by_pattern(event, now_ns);
        };
        // A part of the queue, so that no batch alone can overflow one that was empty.
        let frames = (self.limit.events / BATCHES).max(4).min(self.limit.events.max(1));
        let bytes = (self.limit.bytes / 2).min(RUN_BYTES_MAX);
        let loaded = match &mut topic.open {
            Some(run) => self.press.append(run, event, RunLimit { bytes, frames }),
            None => {
                self.touched.push(self.patterns.begin(event, topic));
                topic.open = Some(self.press.begin(event, now_ns));
                true
            }
        };
        // After the run has it: until then nobody else may hold it.
        if let Some(latest) = topic.latest.as_mut().filter(|_| loaded) {
            latest.record(event);
        }
        loaded
    }

    /// How many members the event's channel has, where [`Hub::load`] would begin its run: what
    /// it adds to the next [`Hub::fan_out`].
    pub fn begins(&mut self, event: &Event) -> usize {
        let topic = self.topics.get(&event.alias);
        if topic.is_some_and(|topic| topic.open.is_some()) {
            return 0;
        }
        topic.map_or(0, |topic| topic.members.len()) + self.patterns.reach(event)
    }

    /// Hands every open run to the members of its channel.
    pub fn fan_out(&mut self, writer: &mut impl Writer, now_ms: u64, outcome: &mut Outcome) {
        let mut touched = std::mem::take(&mut self.touched);
        for touched in touched.drain(..) {
            let alias = touched.alias;
            let Some(topic) = self.topics.get_mut(&alias) else { continue };
            let Some(mut run) = topic.open.take() else { continue };
            self.press.seal(&mut run);
            let floor = topic.latest.as_ref().map_or(u64::MAX, |latest| latest.floor());
            let mut members = std::mem::take(&mut topic.members);
            if touched.has_patterns() {
                let round = &mut Round { writer, now_ms, floor, outcome };
                self.offer_by_pattern(touched, &mut members, &run, round);
            }
            for member in &mut members {
                self.offer(member, &run, &mut Round { writer, now_ms, floor, outcome });
            }
            if let Some(topic) = self.topics.get_mut(&alias) {
                topic.members = members;
                if topic.is_spare() {
                    self.topics.remove(&alias);
                }
            }
            self.press.issue(run);
        }
        self.patterns.end_batch(self.loaded);
        self.touched = touched;
    }

    // For patterns it is called a second time, and the loop over the members of a channel is no
    // place for a call.
    #[inline(always)]
    fn offer(&mut self, member: &mut Member, run: &Rc<Run>, round: &mut Round<'_, impl Writer>) {
        if member.standing != Standing::Live {
            return self.miss(member, run, run.after(member.position), round);
        }
        let Some(seat) = self.seats.get_mut(member.seat as usize) else { return };
        if !seat.dirty {
            seat.dirty = true;
            self.dirty.push_back(member.seat);
        }
        let mut from = run.after(member.position);
        let (full, near, roomy) = (&mut self.full, &mut self.near, &mut self.roomy);
        let mut target = Target { seat, member, full, near, roomy, limit: self.limit };
        for (hidden, client) in run.hidden() {
            if *client == target.seat.author.client && *hidden >= from {
                target.put(Slice { run: Rc::clone(run), from, to: *hidden }, round);
                if target.member.standing != Standing::Live {
                    return self.miss(member, run, *hidden, round);
                }
                from = hidden + 1;
            }
        }
        let slice = Slice { run: Rc::clone(run), from, to: run.len() };
        target.put(slice, round);
    }

    /// Puts a seat among those to be written.
    pub fn mark_dirty(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(id)
            && !seat.dirty
        {
            seat.dirty = true;
            self.dirty.push_back(narrow(id));
        }
    }

    /// The next seat to be written.
    pub fn next_dirty(&mut self) -> Option<SeatId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(seat) = self.seats.get_mut(id as usize)
                && std::mem::take(&mut seat.dirty)
            {
                return Some(id as usize);
            }
        }
        None
    }

    /// How many seats wait to be written.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether a connection that has taken every event so far might not take the next batch, and
    /// a moment for its socket would help. With `excuse`, those that are so now are not counted
    /// again before they have come down to half.
    pub fn is_near(&mut self, excuse: bool) -> bool {
        let (seats, limit) = (&mut self.seats, self.limit);
        self.near.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            seat.near = seat.is_near(limit);
            seat.near
        });
        if excuse {
            for listed in self.near.drain(..) {
                if let Some(seat) = listed.find(seats) {
                    seat.near = false;
                    seat.excused = true;
                }
            }
        }
        !self.near.is_empty()
    }

    /// Forgets the fullness of queues that are at half or less, gives back the room of queues that
    /// were short and are empty since the last look, and names those that have been
    /// full since `before_ms` or longer; `None` names none.
    pub fn still_full(&mut self, before_ms: Option<u64>) -> Vec<SeatId> {
        let mut over = Vec::new();
        self.rest_tables();
        let (seats, limit) = (&mut self.seats, self.limit);
        self.near.retain(|listed| listed.find(seats).is_some());
        self.roomy.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            seat.roomy = std::mem::take(&mut seat.long) || !seat.outbox.is_empty();
            if !seat.roomy {
                seat.outbox.rest();
            }
            seat.roomy
        });
        self.full.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            seat.look(limit);
            if seat
                .full_since_ms
                .is_some_and(|since| before_ms.is_some_and(|before| since.get() <= before))
            {
                over.push(listed.seat as usize);
            }
            seat.listed = seat.full_since_ms.is_some();
            seat.listed
        });
        over
    }
}

/// Seats and members are counted in 32 bits: a shard never has four thousand million.
fn narrow(id: usize) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
