//! What the clients of one shard show: how often each name goes out, and when it ends. What a
//! client sends sooner than that replaces what waits, so that a cursor that moves a thousand times
//! a second is told of as often as people see, and its last place always arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::current::{BYTES_MAX, SIGNALS_MAX};
use super::{Budget, NAMES_MAX, Signal, Told, Who};
use crate::proto::event::Author;
use crate::proto::name::{Alias, ChannelName, ClientId};

/// Clients with a channel that are looked at before others have their chance.
const LOOKS_A_TURN: usize = 1_024;

/// What a client shows.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    /// Where.
    pub channel: &'a ChannelName,
    /// The node's number for it.
    pub alias: Alias,
    /// Who.
    pub from: &'a Arc<Author>,
    /// By what name.
    pub name: &'a str,
    /// What, as JSON; `None` ends it.
    pub data: Option<&'a [u8]>,
    /// For how long.
    pub ttl_ms: u64,
    /// The time between two values that the others are told of.
    pub interval_ms: u64,
}

/// Why a signal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The client has as many names as it may.
    #[error("a client shows at most {} signals to a channel at a time: end one first", NAMES_MAX)]
    Names,
    /// The channel has as many signals as it may.
    #[error(
        "the channel has no room for it: all its signals together are at most {} and {} bytes",
        SIGNALS_MAX,
        BYTES_MAX
    )]
    Channel,
    /// The node has.
    #[error("the node holds as many signals as it may: try again later")]
    Node,
}

/// A place of a channel of a client in time.
type Due = BTreeSet<(u64, ClientId, Alias)>;

/// What the clients of a shard show, and have just shown.
///
/// `tell` is handed what the readers are to be told, in order; and says whether the channel had
/// room for it.
#[derive(Debug, Default)]
pub struct Shown {
    own: BTreeMap<(ClientId, Alias), Own>,
    /// When something that waits goes out.
    sends: Due,
    /// When something ends, or is to be forgotten.
    ends: Due,
    hasher: RandomState,
}

/// What a client shows to a channel.
#[derive(Debug, Default)]
struct Own {
    /// At most [`NAMES_MAX`].
    slots: Vec<Slot>,
    send_at: Option<u64>,
    end_at: Option<u64>,
}

/// One name. Once it has ended its place is kept until the next value may go out, so that nobody
/// tells the readers more by changing names.
#[derive(Debug)]
struct Slot {
    who: Arc<Who>,
    /// The readers were told of a value, and of no end since.
    shown: bool,
    /// What they are to be told next: a value; or an end, where one is shown.
    waiting: Option<Arc<Signal>>,
    /// Not before this.
    ready_ms: u64,
    /// When the newest value ends.
    ends_ms: u64,
    interval_ms: u64,
}

impl Slot {
    /// Whether its sender has shown something and not ended it.
    fn is_live(&self) -> bool {
        self.waiting.as_ref().map_or(self.shown, |waiting| !waiting.is_end())
    }

    /// Ends it: what was not yet told is not told any more.
    fn end(&mut self, budget: &Budget) {
        self.waiting = self.shown.then(|| Signal::new(&self.who, None, budget));
    }

    /// Tells what waits. `false` where there was no room for it: then it ends, so that nobody goes
    /// on seeing what its sender does not show any more.
    fn send(&mut self, now_ms: u64, tell: &mut impl FnMut(Told) -> bool) -> bool {
        let Some(signal) = self.waiting.take() else { return true };
        let (begins, shows) = (!self.shown, !signal.is_end());
        let told = tell(Told { signal: Arc::clone(&signal), begins });
        if !told && self.shown {
            tell(Told { signal: signal.to_end(), begins: false });
        }
        self.shown = shows && told;
        self.ready_ms = now_ms + self.interval_ms;
        told
    }

    /// When there is something to send.
    fn send_at(&self) -> Option<u64> {
        self.waiting.as_ref().map(|_| self.ready_ms)
    }

    /// When it ends, or can be forgotten.
    fn end_at(&self) -> Option<u64> {
        match (self.is_live(), &self.waiting) {
            (true, _) => Some(self.ends_ms),
            (false, None) => Some(self.ready_ms),
            // It is sent before.
            (false, Some(_)) => None,
        }
    }
}

impl Shown {
    /// Takes what a client shows, or ends.
    ///
    /// # Errors
    ///
    /// [`Refused`] when it was not taken.
    pub fn put(
        &mut self,
        put: Put<'_>,
        now_ms: u64,
        budget: &Budget,
        mut tell: impl FnMut(Told) -> bool,
    ) -> Result<(), Refused> {
        if put.data.is_some() && budget.is_spent() {
            return Err(Refused::Node);
        }
        let key = (put.from.client, put.alias);
        let own = self.own.entry(key).or_default();
        let taken = own.put(put, now_ms, budget, (&self.hasher, &mut tell));
        self.arm(key);
        taken
    }

    /// When [`Shown::send_due`] is to be called next.
    pub fn next_due(&self) -> Option<u64> {
        self.sends.first().map(|(due_ms, ..)| *due_ms)
    }

    /// Tells what has waited for its time; a part of it where that is much.
    pub fn send_due(&mut self, now_ms: u64, mut tell: impl FnMut(Told) -> bool) {
        for _ in 0..LOOKS_A_TURN {
            let Some((due_ms, client, alias)) = self.sends.first().copied() else { return };
            if due_ms > now_ms {
                return;
            }
            for slot in self.own.get_mut(&(client, alias)).iter_mut().flat_map(|own| &mut own.slots)
            {
                if slot.ready_ms <= now_ms {
                    slot.send(now_ms, &mut tell);
                }
            }
            self.arm((client, alias));
        }
    }

    /// Ends what has had its time; a part of it where that is much.
    pub fn expire(&mut self, now_ms: u64, budget: &Budget, mut tell: impl FnMut(Told) -> bool) {
        for _ in 0..LOOKS_A_TURN {
            let Some((due_ms, client, alias)) = self.ends.first().copied() else { return };
            if due_ms > now_ms {
                return;
            }
            if let Some(own) = self.own.get_mut(&(client, alias)) {
                for slot in &mut own.slots {
                    if slot.is_live() && slot.ends_ms <= now_ms {
                        slot.end(budget);
                        if slot.ready_ms <= now_ms {
                            slot.send(now_ms, &mut tell);
                        }
                    }
                }
                own.slots
                    .retain(|slot| slot.shown || slot.waiting.is_some() || slot.ready_ms > now_ms);
            }
            self.arm((client, alias));
        }
    }

    /// Ends all that a client shows, for it has gone.
    pub fn leave(&mut self, client: ClientId, budget: &Budget, mut tell: impl FnMut(Told) -> bool) {
        let all = (client, Alias(0))..=(client, Alias(u64::MAX));
        while let Some((key, _)) = self.own.range(all.clone()).next() {
            let (client, alias) = *key;
            self.leave_channel(client, alias, budget, &mut tell);
        }
    }

    /// Ends all that a client shows to a channel, for it has left that.
    pub fn leave_channel(
        &mut self,
        client: ClientId,
        alias: Alias,
        budget: &Budget,
        mut tell: impl FnMut(Told) -> bool,
    ) {
        let Some(own) = self.own.get_mut(&(client, alias)) else { return };
        for mut slot in own.slots.drain(..) {
            slot.end(budget);
            slot.send(0, &mut tell);
        }
        self.arm((client, alias));
    }

    /// Channels of clients that something is known of.
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether nothing is shown, and nothing was just now.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Timers that are set.
    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.sends.len() + self.ends.len()
    }

    /// Sets the timers of a client's channel as they should be; forgets it where nothing is left.
    fn arm(&mut self, key: (ClientId, Alias)) {
        let Some(own) = self.own.get_mut(&key) else { return };
        let send_at = own.slots.iter().filter_map(Slot::send_at).min();
        let end_at = own.slots.iter().filter_map(Slot::end_at).min();
        set(&mut self.sends, key, &mut own.send_at, send_at);
        set(&mut self.ends, key, &mut own.end_at, end_at);
        if own.slots.is_empty() {
            self.own.remove(&key);
        }
    }
}

fn set(due: &mut Due, (client, alias): (ClientId, Alias), is: &mut Option<u64>, to: Option<u64>) {
    if *is == to {
        return;
    }
    if let Some(at_ms) = is.take() {
        due.remove(&(at_ms, client, alias));
    }
    if let Some(at_ms) = to {
        due.insert((at_ms, client, alias));
    }
    *is = to;
}

impl Own {
    fn put(
        &mut self,
        put: Put<'_>,
        now_ms: u64,
        budget: &Budget,
        (hasher, tell): (&RandomState, &mut impl FnMut(Told) -> bool),
    ) -> Result<(), Refused> {
        let Put { channel, alias, from, name, data, ttl_ms, interval_ms } = put;
        let found = self.slots.iter().position(|slot| *slot.who.name == *name);
        let at = match found {
            Some(at) => at,
            // Nothing is shown that could end.
            None if data.is_none() => return Ok(()),
            None => {
                let hash = hasher.hash_one((from.client, alias, name));
                let (channel, from) = (channel.clone(), Arc::clone(from));
                let who = Arc::new(Who { channel, alias, from, name: name.into(), hash });
                self.place(who, tell).ok_or(Refused::Names)?
            }
        };
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        (slot.ends_ms, slot.interval_ms) = (now_ms + ttl_ms, interval_ms);
        match data {
            Some(_) => slot.waiting = Some(Signal::new(&slot.who, data, budget)),
            None => slot.end(budget),
        }
        if slot.ready_ms > now_ms || slot.send(now_ms, tell) {
            return Ok(());
        }
        Err(Refused::Channel)
    }

    /// A place for one more name: a free one, or that of one which has ended.
    fn place(&mut self, who: Arc<Who>, tell: &mut impl FnMut(Told) -> bool) -> Option<usize> {
        let slot =
            Slot { who, shown: false, waiting: None, ready_ms: 0, ends_ms: 0, interval_ms: 0 };
        if self.slots.len() < NAMES_MAX {
            self.slots.push(slot);
            return Some(self.slots.len() - 1);
        }
        let at = self.slots.iter().position(|slot| !slot.is_live())?;
        let ended = self.slots.get_mut(at)?;
        let ready_ms = ended.ready_ms;
        ended.send(0, tell);
        *ended = Slot { ready_ms, ..slot };
        Some(at)
    }
}
