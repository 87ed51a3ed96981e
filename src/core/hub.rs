//! One shard's registry: the seats of its connections, who sits in which channel, and the fan-out
//! of a batch of events to them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use super::account::Account;
use super::history::Past;
use super::latest::Latest;
use super::outbox::OutboxLimit;
use super::policy::Policy;
use super::run::{Press, Run};
use crate::proto::encoder::Made;
use crate::proto::event::Author;
use crate::proto::format::{Compression, Format};
use crate::proto::name::{Alias, ChannelName, ClientId};
use crate::proto::rate::Rate;

mod blind;
mod browse;
mod by_pattern;
mod fan_out;
mod forms;
mod implied;
mod joined;
mod lag;
mod lay;
mod own;
mod pattern;
mod reset;
mod seat;
mod slow;
mod subs;
mod tables;
mod tell;
mod throttle;
mod ways;

pub use seat::Seat;
pub use slow::{Queues, SLOWEST, SlowClient, SlowState};
pub use tell::Telling;

use blind::Blind;
use forms::Mixed;
use lag::Kept;
use pattern::{Patterns, Touched};
use seat::{Length, Listed, Member, Standing, Sub};
use tell::Fences;
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

impl Topic {
    fn new(channel: ChannelName) -> Self {
        let (groups, latest, open, mixed) = (None, None, None, None);
        Self { channel, members: Vec::new(), groups, head: 0, latest, open, mixed }
    }
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
    /// Events left out for newer ones of the same key, once for each throttled member.
    pub conflated: u64,
    /// Events taken out of a queue, because their subscription has ended.
    pub purged: u64,
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
    fences: Fences,
    blind: Blind,
    /// Events that were loaded so far.
    loaded: u64,
    touched: Vec<Touched>,
    dues: Dues,
    dirty: VecDeque<u32>,
    full: Vec<Listed>,
    /// Seats that have taken every event so far, and may not take the next batch.
    near: Vec<Listed>,
    /// Seats whose data lane was long at some time since the last look but one.
    roomy: Vec<Listed>,
    /// Seats whose next writes are to be fetched out of the past, in their turns.
    recalls: VecDeque<Listed>,
    press: Press,
    /// What all tables of newest events take, and may.
    tables: Account,
    tables_max: usize,
    /// Runs of the present round, and what they are to those who take several events in a frame.
    joined: Vec<(Rc<Run>, Rc<Run>)>,
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
            patterns: Patterns::default(),
            fences: Fences::default(),
            blind: Blind::default(),
            loaded: 0,
            touched: Vec::new(),
            dues: Dues::new(),
            dirty: VecDeque::new(),
            full: Vec::new(),
            near: Vec::new(),
            roomy: Vec::new(),
            recalls: VecDeque::new(),
            press: Press::default(),
            tables: Account::default(),
            tables_max: usize::MAX,
            joined: Vec::new(),
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
        self.give_up(id);
        let Some(seat) = self.seats.get_mut(id) else { return };
        let client = seat.author.client;
        for sub in std::mem::take(&mut seat.subs) {
            self.blind.forget((client, sub.alias));
            if let Some((channel, last)) = self.leave(sub) {
                left(Left::Channel(&channel), last);
            }
        }
        self.leave_patterns(id, left);
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
        self.seats.get(id).map_or(0, |seat| seat.subs.len()) + self.patterns.count(id)
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

    /// The channels that the connection has by name.
    pub fn channels_of(&self, id: SeatId) -> Vec<(ChannelName, Alias)> {
        let subs = self.seats.get(id).map(|seat| &*seat.subs).unwrap_or_default();
        let topics = subs.iter().filter_map(|sub| Some((self.topics.get(&sub.alias)?, sub.alias)));
        topics.map(|(topic, alias)| (topic.channel.clone(), alias)).collect()
    }

    fn sub(&self, id: SeatId, alias: Alias) -> Option<Sub> {
        self.seats.get(id)?.subs.get(alias).copied()
    }

    /// Adds a subscription. What a pattern's rate has held back of the channel is to come first:
    /// [`Hub::settle_channel`].
    pub fn subscribe(&mut self, id: SeatId, to: (&ChannelName, Alias), join: Join) {
        let (channel, alias) = to;
        let Join { policy, position, keys_max, max_rate: rate } = join;
        let Some(seat) = self.seats.get_mut(id) else { return };
        let lag = self.patterns.end_lag(id, alias, self.press.account());
        let standing = lag.map_or(Standing::Live, |_| Standing::Told);
        let topic = match self.topics.entry(alias) {
            Entry::Occupied(topic) => topic.into_mut(),
            Entry::Vacant(free) => free.insert(Topic::new(channel.clone())),
        };
        let (format, batch) = (seat.session.format, seat.session.batch);
        let member = Member { seat: narrow(id), policy, standing, format, batch, position };
        let kept = Kept { keys_max, account: &self.tables };
        topic.count_user(standing != Standing::Live, member.uses_latest(), kept);
        let member = topic.enter(member, rate, kept);
        seat.subs.insert(Sub { alias, member, rate });
        if lag.is_some() {
            seat.outbox.count_frames(alias, rate.is_some(), topic.head);
        }
        self.subscriptions += 1;
        self.begin_where_patterns_do(id, alias);
    }

    /// Puts the time before a subscription in front of its events. Whoever has had the channel by
    /// pattern until then has had it already.
    pub fn recall(&mut self, id: SeatId, to: (&ChannelName, Alias), past: Past) {
        let (channel, alias) = to;
        if let Some(seat) = self.seats.get_mut(id) {
            seat.outbox.recall(channel.clone(), alias, past, &mut self.press);
        }
        self.mark_dirty(id);
    }

    /// Ends a subscription and takes its events out of the queue; unless a pattern has them as
    /// well: then it goes on by that one, and what a rate has held back comes first. Says whether
    /// it was the shard's last member of the channel; `None` when there was no subscription.
    pub fn unsubscribe(
        &mut self,
        (id, alias): (SeatId, Alias),
        writer: &mut impl Writer,
        now_ms: u64,
    ) -> Option<(bool, Outcome)> {
        let mut outcome = Outcome::default();
        let sub = self.sub(id, alias)?;
        let goes_on = self.goes_on_by_pattern(id, sub);
        if goes_on {
            self.settle(sub, writer, now_ms, &mut outcome);
            self.hand_to_pattern(id, sub);
        }
        let seat = self.seats.get_mut(id)?;
        seat.subs.remove(alias);
        self.blind.forget((seat.author.client, alias));
        seat.outbox.purge_signals(alias);
        if !goes_on {
            outcome.purged = seat.outbox.purge(alias);
            seat.weigh(self.press.account());
        }
        self.leave(sub).map(|(_, last)| (last, outcome))
    }

    fn leave(&mut self, sub: Sub) -> Option<(ChannelName, bool)> {
        let member = self.take_member(sub)?;
        let topic = self.topics.get_mut(&sub.alias)?;
        if member.uses_latest() {
            topic.end_user();
        }
        self.subscriptions -= 1;
        let channel = topic.channel.clone();
        let last = topic.members.is_empty() && topic.groups.is_none();
        if topic.is_spare() {
            self.topics.remove(&sub.alias);
        }
        Some((channel, last))
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
        self.look_at_tables();
        let (seats, limit) = (&mut self.seats, self.limit);
        self.near.retain(|listed| listed.find(seats).is_some());
        self.roomy.retain(|listed| {
            let Some(seat) = listed.find(seats) else { return false };
            let stays = seat.length == Length::Long || !seat.outbox.is_empty();
            seat.length = if stays { Length::WasLong } else { Length::Short };
            if !stays {
                seat.outbox.rest();
                seat.weigh(self.press.account());
            }
            stays
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
