//! One shard's registry: the seats of its connections, who sits in which channel, and the fan-out
//! of a batch of events to them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::iter::once;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use super::latest::Latest;
use super::outbox::{OutboxLimit, Slice};
use super::policy::Policy;
use super::run::{Press, RUN_BYTES_MAX, Run, RunLimit};
use crate::proto::encoder::Made;
use crate::proto::event::{Author, Event};
use crate::proto::format::{Compression, Format};
use crate::proto::name::{Alias, ChannelName, ClientId};
use crate::proto::rate::Rate;

mod forms;
mod lag;
mod seat;
mod slow;
mod throttle;

pub use seat::Seat;
pub use slow::{Queues, SLOWEST, SlowClient, SlowState};

use forms::{Forms, Mixed};
use seat::{Listed, Member, Round, Standing, Sub, Target};
use throttle::{Dues, Groups};

/// Batches that fit into a queue: a connection may be that many rounds late before a policy acts.
/// With 2, healthy readers were measured to lose events at a full stream.
const BATCHES: usize = 8;

/// A connection's place in its shard's hub.
pub type SeatId = usize;

/// One channel with members on this shard.
#[derive(Debug)]
struct Topic {
    channel: ChannelName,
    /// Those who get every event as it comes.
    members: Vec<Member>,
    /// Those who do not.
    groups: Option<Box<Groups>>,
    /// The last offset that was fanned out.
    head: u64,
    /// Kept while a member may need it.
    latest: Option<Box<Latest>>,
    /// The run being filled by the batch, in the first form that is spoken.
    open: Option<Rc<Run>>,
    /// Its other forms; `None` where all members speak plain JSON.
    mixed: Option<Box<Mixed>>,
}

/// How a subscription begins.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// What happens at the bound of the queue.
    pub policy: Policy,
    /// The events after this offset are for it.
    pub position: u64,
    /// Keys whose newest event is kept, under [`Policy::Latest`] or with a rate.
    pub keys_max: usize,
    /// How often events are wanted at most; `None` for each as it comes.
    pub max_rate: Option<Rate>,
}

/// Writes a connection's queue out of turn, when the bound would be met only because its turn
/// has not come yet.
pub trait Writer {
    /// Writes what the kernel takes of the seat's outbox.
    fn write(&mut self, id: SeatId, seat: &mut Seat);
}

/// What a fan-out has to tell.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events dropped, by [`Policy`].
    pub dropped: [u64; Policy::ALL.len()],
    /// Events left out for newer ones of the same key, once for each throttled member.
    pub conflated: u64,
    /// Seats to be closed as slow consumers.
    pub overflowed: Vec<SeatId>,
}

/// A shard's registry.
#[derive(Debug)]
pub struct Hub {
    seats: Slab<Seat>,
    clients: HashMap<ClientId, u32, RandomState>,
    topics: HashMap<Alias, Topic, RandomState>,
    touched: Vec<Alias>,
    dues: Dues,
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
    /// As [`Hub::new`], and compresses as it is told.
    pub fn compressing(limit: OutboxLimit, compression: Compression) -> Self {
        Self { press: Press::new(compression), ..Self::new(limit) }
    }

    /// An empty hub whose seats have queues of `limit`.
    pub fn new(limit: OutboxLimit) -> Self {
        Self {
            seats: Slab::new(),
            clients: HashMap::default(),
            topics: HashMap::default(),
            touched: Vec::new(),
            dues: Dues::new(),
            dirty: VecDeque::new(),
            full: Vec::new(),
            near: Vec::new(),
            roomy: Vec::new(),
            press: Press::default(),
            limit,
            subscriptions: 0,
        }
    }

    /// Gives a connection a seat that gets plain JSON.
    pub fn open(&mut self, author: Arc<Author>, now_ms: u64) -> SeatId {
        self.open_in(Format::Json, author, now_ms)
    }

    /// Gives a connection a seat that gets its events in that form.
    pub fn open_in(&mut self, format: Format, author: Arc<Author>, now_ms: u64) -> SeatId {
        let client = author.client;
        let id = self.seats.insert(Seat::new(author, format, now_ms));
        self.clients.insert(client, narrow(id));
        id
    }

    /// Takes a seat away. `left` hears of each channel it had, and whether it was the shard's
    /// last member there.
    pub fn close(&mut self, id: SeatId, left: impl FnMut(&ChannelName, bool)) {
        self.leave_all(id, left);
        if let Some(seat) = self.seats.try_remove(id) {
            self.clients.remove(&seat.author.client);
        }
    }

    /// Ends every subscription of a seat; what is queued stays queued.
    pub fn leave_all(&mut self, id: SeatId, mut left: impl FnMut(&ChannelName, bool)) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        for sub in std::mem::take(&mut seat.subs) {
            self.give_up(id, sub);
            if let Some((channel, last)) = self.leave(sub) {
                left(&channel, last);
            }
        }
    }

    /// What was encoded and compressed since the last call.
    pub fn take_made(&mut self) -> Made {
        self.press.encoder().take_made()
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
        self.seats.get(id).map_or(0, |seat| seat.subs.len())
    }

    /// Whether the connection has the channel.
    pub fn is_subscribed(&self, id: SeatId, alias: Alias) -> bool {
        self.sub(id, alias).is_some()
    }

    /// The channel of that number, where the connection has it.
    pub fn channel(&self, id: SeatId, alias: Alias) -> Option<&ChannelName> {
        self.sub(id, alias)?;
        self.topics.get(&alias).map(|topic| &topic.channel)
    }

    fn sub(&self, id: SeatId, alias: Alias) -> Option<Sub> {
        self.seats.get(id)?.subs.iter().find(|sub| sub.alias == alias).copied()
    }

    /// Adds a subscription.
    pub fn subscribe(&mut self, id: SeatId, to: (&ChannelName, Alias), join: Join) {
        let (channel, alias) = to;
        let Join { policy, position, keys_max, max_rate: rate } = join;
        let Some(seat) = self.seats.get_mut(id) else { return };
        let topic = match self.topics.entry(alias) {
            Entry::Occupied(topic) => topic.into_mut(),
            Entry::Vacant(free) => {
                let channel = channel.clone();
                let members = Vec::new();
                let (groups, latest, open, mixed) = (None, None, None, None);
                free.insert(Topic { channel, members, groups, head: 0, latest, open, mixed })
            }
        };
        if seat.subs.is_empty() {
            // Most connections have one subscription: no room for four.
            seat.subs.reserve_exact(1);
        }
        let (format, standing) = (seat.format, Standing::Live);
        let member = Member { seat: narrow(id), policy, standing, format, position };
        topic.count_user(false, member.uses_latest(), keys_max);
        let member = topic.enter(member, rate, keys_max);
        seat.subs.push(Sub { alias, member, rate });
        self.subscriptions += 1;
    }

    /// Ends a subscription and takes its events out of the queue. Says whether it was the shard's
    /// last member of the channel; `None` when there was no subscription.
    pub fn unsubscribe(&mut self, id: SeatId, alias: Alias) -> Option<bool> {
        let seat = self.seats.get_mut(id)?;
        let at = seat.subs.iter().position(|sub| sub.alias == alias)?;
        let sub = seat.subs.swap_remove(at);
        seat.outbox.purge(alias);
        self.leave(sub).map(|(_, last)| last)
    }

    fn leave(&mut self, sub: Sub) -> Option<(ChannelName, bool)> {
        let member = self.take_member(sub)?;
        let topic = self.topics.get_mut(&sub.alias)?;
        topic.count_user(member.uses_latest(), false, 0);
        self.subscriptions -= 1;
        let channel = topic.channel.clone();
        let last = topic.members.is_empty() && topic.groups.is_none();
        if last {
            self.topics.remove(&sub.alias);
        }
        Some((channel, last))
    }

    /// Lays an event into its channel's open run. `false` when that run is full: fan out first,
    /// then come again.
    pub fn load(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        let limit = self.run_limit();
        let Some(topic) = self.topics.get_mut(&event.alias) else { return true };
        if let Some(answer) = topic.load_throttled(event, (&mut self.touched, &mut self.dues)) {
            return answer;
        }
        let loaded = match topic.append(&mut self.press, event, limit) {
            Some(loaded) => loaded,
            None => {
                topic.begin(&mut self.press, event, now_ns, Forms::default());
                self.touched.push(event.alias);
                true
            }
        };
        // After the run has it: until then nobody else may hold it.
        if let Some(latest) = topic.latest.as_mut().filter(|_| loaded) {
            latest.record(event);
        }
        loaded
    }

    /// A part of the queue, so that no batch alone can overflow one that was empty.
    fn run_limit(&self) -> RunLimit {
        let frames = (self.limit.events / BATCHES).max(4).min(self.limit.events.max(1));
        RunLimit { bytes: (self.limit.bytes / 2).min(RUN_BYTES_MAX), frames }
    }

    /// How many members the event's channel has, where [`Hub::load`] would begin its run: what
    /// it adds to the next [`Hub::fan_out`].
    pub fn begins(&self, event: &Event) -> usize {
        let topic = self.topics.get(&event.alias).filter(|topic| topic.open.is_none());
        topic.map_or(0, |topic| topic.members.len())
    }

    /// Hands every open run to the members of its channel, and flushes the throttle groups that
    /// are due.
    pub fn fan_out(&mut self, writer: &mut impl Writer, now_ms: u64, outcome: &mut Outcome) {
        let mut touched = std::mem::take(&mut self.touched);
        let account = &self.press.account().clone();
        for alias in touched.drain(..) {
            let Some(topic) = self.topics.get_mut(&alias) else { continue };
            topic.arm(alias, now_ms, &mut self.dues);
            let Some(mut run) = topic.open.take() else { continue };
            let mut others = topic.take_others();
            for run in once(&mut run).chain(&mut others) {
                self.press.seal(run);
            }
            topic.head = run.offset(run.len().saturating_sub(1));
            let floor = topic.latest.as_ref().map_or(u64::MAX, |latest| latest.floor());
            let mut members = std::mem::take(&mut topic.members);
            let mut round = Round { writer, now_ms, floor, account, outcome };
            if others.is_empty() {
                self.hand(run, &mut members, &mut round);
            } else {
                self.hand_mixed(run, others, &mut members, &mut round);
            }
            if let Some(topic) = self.topics.get_mut(&alias) {
                topic.members = members;
            }
        }
        self.touched = touched;
        self.flush_due(writer, now_ms, outcome);
    }

    /// Hands a run to members of its channel, all of which speak its form.
    fn hand(&mut self, run: Rc<Run>, members: &mut [Member], round: &mut Round<'_, impl Writer>) {
        for member in members {
            self.offer(member, &run, round);
        }
        self.press.issue(run);
    }

    // It is called from several places, and the loop over the members of a channel is no place for
    // a call.
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
        let (seats, limit) = (&mut self.seats, self.limit);
        self.near.retain(|listed| listed.find(seats).is_some());
        self.roomy.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            seat.roomy = std::mem::take(&mut seat.long) || !seat.outbox.is_empty();
            if !seat.roomy {
                seat.outbox.rest();
                seat.weigh(self.press.account());
            }
            seat.roomy
        });
        self.full.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            seat.look(limit);
            let since_ms = seat.full_since_ms();
            if since_ms.is_some_and(|since| before_ms.is_some_and(|before| since <= before)) {
                over.push(listed.seat as usize);
            }
            seat.listed = since_ms.is_some();
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
