//! Who has a channel by name, where its namespace shows that: members, and the shards that are to
//! be told of them. A table of its own, so that channels without a room pay nothing for it.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::shard_set::ShardSet;
use super::{Now, Tell};
use crate::core::identity::Identity;
use crate::core::notice::{Frames, Notice};
use crate::core::policy::RoomRule;
use crate::core::presence::{Change, Members, Parting, Roster, Shown, Told};
use crate::core::signals::{self, Current, Signal};
use crate::proto::dialect::json;
use crate::proto::name::{Alias, ChannelName, ClientId, ShardId};
use crate::proto::push::Push;
use crate::proto::room::{Member, RoomPush};
use crate::proto::ws::frame;

/// Locks that the rooms are spread over. A power of two.
const SEGMENTS: usize = 64;

/// Connections that ended and still count as there, of all rooms together. Beyond, whoever is lost
/// leaves at once: whoever comes and goes by the thousand fills no memory.
const LINGERING_MAX: usize = 1 << 18;

/// Members of one answer, in bytes; of more there are counts alone.
const ANSWER_BYTES: usize = 4 << 20;

/// What a member takes in an answer beside its user and info, about.
const MEMBER_BYTES: usize = 80;

/// A client as a room has it.
#[derive(Debug)]
pub struct Visitor {
    /// Its connection.
    pub client: ClientId,
    /// Who it is; `None` for the anonymous.
    pub identity: Option<Arc<Identity>>,
    /// Where it is served.
    pub shard: ShardId,
}

/// When a shard is to call [`Rooms::tick`], on the node's clock in milliseconds, and for which
/// channel.
pub type Due = (u64, ChannelName);

/// How a client has entered.
#[derive(Debug)]
pub struct Entered {
    /// For the shard that asked.
    pub due: Option<Due>,
    /// What is shown; `None` where nothing may be.
    pub signals: Option<Vec<Arc<Signal>>>,
    /// How many notices the shard had been given then: what they tell is in here already.
    pub fence: u64,
}

/// The room of one channel.
#[derive(Debug)]
struct Room {
    channel: ChannelName,
    alias: Alias,
    /// Those that have the channel by name.
    shards: ShardSet,
    presence: Option<Box<Members>>,
    signals: Current,
    /// When a shard looks at it next, and which.
    armed: Option<(u64, ShardId)>,
}

impl Room {
    fn new(channel: &ChannelName, alias: Alias, rule: RoomRule) -> Self {
        Self {
            channel: channel.clone(),
            alias,
            shards: ShardSet::default(),
            presence: rule.presence.map(|rule| Box::new(Members::new(rule))),
            signals: Current::default(),
            armed: None,
        }
    }

    fn set_rule(&mut self, rule: RoomRule) {
        match (rule.presence, &mut self.presence) {
            (Some(rule), Some(members)) => members.set_rule(rule),
            (Some(rule), none) => *none = Some(Box::new(Members::new(rule))),
            (None, members) => *members = None,
        }
    }

    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.presence.as_ref().is_none_or(|members| members.is_empty())
    }

    fn lingering(&self) -> usize {
        self.presence.as_ref().map_or(0, |members| members.lingering())
    }

    fn wake_at(&self) -> Option<u64> {
        self.presence.as_ref().and_then(|members| members.wake_at())
    }

    /// When `shard` is to look at the room, where that is not settled already.
    fn arm(&mut self, shard: ShardId) -> Option<Due> {
        if self.shards.is_empty()
            && let Some(members) = &mut self.presence
        {
            members.forget_news();
        }
        let wake_ms = self.wake_at()?;
        if self.armed.is_some_and(|(armed_ms, _)| armed_ms <= wake_ms) {
            return None;
        }
        self.armed = Some((wake_ms, shard));
        Some((wake_ms, self.channel.clone()))
    }

    /// Tells all shards that have the channel. Under the lock of the room, so that all mailboxes
    /// have what it tells in the same order.
    /// Returns one whose mailbox is beyond its bound.
    fn tell(&self, to: &dyn Tell, notice: Notice) -> Option<ShardId> {
        let (notice, mut crowded) = (Arc::new(notice), None);
        for shard in self.shards.iter() {
            if to.tell(shard, Arc::clone(&notice)) {
                crowded = Some(shard);
            }
        }
        crowded
    }

    fn tick(&mut self, to: &dyn Tell, now_ms: u64) {
        if let Some(told) = self.presence.as_mut().and_then(|members| members.tick(now_ms)) {
            let frames = encode(self.channel.as_str(), self.alias, &told);
            self.tell(to, Notice::Presence(frames));
        }
    }
}

/// The frames of what is told of members.
fn encode(channel: &str, alias: Alias, told: &Told) -> Frames {
    let (mut bytes, mut own) = (Vec::new(), Vec::new());
    let mut text = Vec::new();
    let mut put = |push: RoomPush<'_>| {
        let from = bytes.len();
        text.clear();
        json::encode_push(&Push::Room(push), &mut text);
        frame::push_text(&text, &mut bytes);
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        (place(from), place(bytes.len()))
    };
    match told {
        Told::Changes(changes) => {
            for change in changes {
                match change {
                    Change::Join(shown, client) => {
                        let (from, to) = put(RoomPush::Join { channel, member: member(shown) });
                        own.push((*client, from, to));
                    }
                    Change::Leave(shown) => {
                        put(RoomPush::Leave { channel, member: member(shown) });
                    }
                }
            }
        }
        Told::Counts { clients, users, listed } => {
            let (clients, users) = (*clients, *users);
            put(RoomPush::Counts { channel, clients, users, listed: *listed });
        }
    }
    Frames::new(alias, bytes, own)
}

impl Roster {
    /// Its members, as clients are told of them; none where that would be too much.
    pub fn told(&self) -> Vec<Member<'_>> {
        let members: Vec<_> = self.members.iter().map(|shown| member(shown)).collect();
        let text = |text: Option<usize>| text.unwrap_or_default();
        let bytes = |member: &Member<'_>| {
            text(member.user.map(str::len)) + text(member.info.map(<[u8]>::len)) + MEMBER_BYTES
        };
        if members.iter().map(bytes).sum::<usize>() > ANSWER_BYTES { Vec::new() } else { members }
    }
}

/// A member as clients are told of it.
fn member(shown: &Shown) -> Member<'_> {
    let identity = shown.identity.as_deref();
    Member {
        client: shown.client,
        user: identity.map(|identity| &*identity.user),
        info: identity.and_then(|identity| identity.info.as_deref()),
        since_ms: shown.since_ms,
    }
}

/// The rooms of all channels that have one.
pub struct Rooms {
    segments: Box<[Mutex<HashTable<Box<Room>>>]>,
    hasher: RandomState,
    tell: Arc<dyn Tell>,
    /// What [`Room::lingering`] says, of all rooms.
    lingering: AtomicUsize,
}

impl Rooms {
    /// None yet; what they tell goes to `tell`.
    pub fn new(tell: Arc<dyn Tell>) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            tell,
            lingering: AtomicUsize::new(0),
        }
    }

    fn segment(&self, channel: &str) -> (u64, &Mutex<HashTable<Box<Room>>>) {
        let hash = self.hasher.hash_one(channel);
        // The table inside uses the low bits and the top seven; these are in between.
        let index = usize::try_from(hash >> 40).unwrap_or_default() % SEGMENTS;
        (hash, &self.segments[index])
    }

    /// A client has a channel by name from here on, and whatever its room tells later reaches the
    /// client's shard. To be called when the client is in the shard's hub, on the shard's thread.
    pub fn enter(
        &self,
        (channel, alias): (&ChannelName, Alias),
        rule: RoomRule,
        visitor: Visitor,
        now: Now,
    ) -> Entered {
        let (hash, segment) = self.segment(channel.as_str());
        let mut rooms = segment.lock();
        let room = rooms
            .entry(
                hash,
                |room| room.channel == *channel,
                |room| self.hasher.hash_one(room.channel.as_str()),
            )
            .or_insert_with(|| Box::new(Room::new(channel, alias, rule)))
            .into_mut();
        room.alias = alias;
        room.shards.insert(visitor.shard);
        if let (Some(rule), None) = (rule.presence, &room.presence) {
            // It was made under a rule of before.
            room.presence = Some(Box::new(Members::new(rule)));
        }
        if let Some(members) = &mut room.presence {
            members.enter(visitor.client, visitor.identity, now.unix_ms);
        }
        let signals = rule.signals.then(|| room.signals.list());
        let fence = self.tell.told(visitor.shard);
        Entered { due: room.arm(visitor.shard), signals, fence }
    }

    /// The room of a channel, where there is one, goes by that rule from here on. Nobody is told;
    /// whoever is there and is to be shown has yet to [`Rooms::enter`].
    pub fn set_rule(&self, channel: &str, rule: RoomRule) {
        self.with(channel, |room| room.set_rule(rule));
    }

    /// A channel has no room any more, as far as a shard goes: nobody is told who leaves it. To be
    /// called when what it showed has ended, on all shards.
    pub fn close(&self, channel: &str, shard: ShardId) {
        self.with(channel, |room| {
            room.set_rule(RoomRule::default());
            room.shards.remove(shard);
        });
    }

    /// A client on its channel has shown a signal, or it has ended. Returns the shard, if any,
    /// whose mailbox is beyond its bound; `None` where the channel has no room for the signal, and
    /// nobody is told.
    pub fn signal(&self, told: signals::Told) -> Option<Option<ShardId>> {
        let who = told.signal.who();
        let channel = who.channel.clone();
        let taken = self.with(channel.as_str(), |room| {
            let taken = room.signals.tell(&told);
            taken.then(|| room.tell(&*self.tell, Notice::Signal(told)))
        });
        // Without a room there is nobody to be told.
        taken.unwrap_or(Some(None))
    }

    /// A client has a channel by name no longer; `last` says that its shard has no other that has.
    /// More than once is as good as once.
    pub fn leave(
        &self,
        channel: &str,
        (client, shard): (ClientId, ShardId),
        (parting, last): (Parting, bool),
        now: Now,
    ) -> Option<Due> {
        let full = self.lingering.load(Ordering::Relaxed) >= LINGERING_MAX;
        let parting = if full && parting == Parting::Lost { Parting::Asked } else { parting };
        self.with(channel, |room| {
            if let Some(members) = &mut room.presence {
                members.leave(client, parting, now.node_ms());
            }
            if last {
                room.shards.remove(shard);
            }
            room.arm(shard)
        })?
    }

    /// The time has come that was named to a shard.
    pub fn tick(&self, channel: &str, armed: (u64, ShardId), now: Now) -> Option<Due> {
        self.with(channel, |room| {
            if room.armed != Some(armed) {
                // Somebody else looks at it, sooner.
                return None;
            }
            room.armed = None;
            room.tick(&*self.tell, now.node_ms());
            room.arm(armed.1)
        })?
    }

    /// Who has a channel by name.
    pub fn presence(&self, channel: &str) -> Roster {
        let roster = self.with(channel, |room| room.presence.as_ref().map(|m| m.roster()));
        roster.flatten().unwrap_or_default()
    }

    /// How many rooms there are.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.lock().len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does something with the room of a channel, where it has one; and frees it where nobody is
    /// left there.
    fn with<T>(&self, channel: &str, act: impl FnOnce(&mut Room) -> T) -> Option<T> {
        let (hash, segment) = self.segment(channel);
        let mut rooms = segment.lock();
        let mut found = rooms.find_entry(hash, |room| room.channel.as_str() == channel).ok()?;
        let before = found.get().lingering();
        let done = act(found.get_mut());
        let empty = found.get().is_empty();
        let after = if empty { 0 } else { found.get().lingering() };
        if before != after {
            // Wraps around where there are fewer.
            self.lingering.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        }
        if empty {
            found.remove();
            if rooms.capacity() > 64 && rooms.len() < rooms.capacity() / 4 {
                rooms.shrink_to_fit(|room| self.hasher.hash_one(room.channel.as_str()));
            }
        }
        Some(done)
    }
}

#[cfg(test)]
mod tests;
