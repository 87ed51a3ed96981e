//! The patterns of a shard: who has which prefix, and which of them have a channel.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;
use slab::Slab;

use super::forms::{Forms, Speakers};
use super::implied::{Due, Rated};
use super::lag::Kept;
use super::seat::{Listed, Member, Standing};
use super::subs::Subs;
use super::{SeatId, Topic, narrow};
use crate::core::account::{Account, Charge};
use crate::core::prefix::PrefixTable;
use crate::proto::event::Event;
use crate::proto::name::Alias;
use crate::proto::rate::Rate;

/// Patterns of one seat that are walked along sooner than looked up.
const FEW: usize = if cfg!(test) { 2 } else { 8 };

/// One prefix with members on this shard.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) prefix: Box<str>,
    /// Those who get every event as it comes.
    pub(super) members: Vec<Member>,
    /// Those who do not, in the order of their rates. No list is empty.
    pub(super) rated: Vec<Rated>,
    /// How many of all have the policy `latest`.
    pub(super) latest: usize,
    /// The forms in which those without a rate get events.
    pub(super) speakers: Speakers,
    pub(super) keys_max: usize,
}

impl Pattern {
    /// The members without a rate, or with that one.
    pub(super) fn list(&self, rate: Option<Rate>) -> &[Member] {
        let Some(rate) = rate else { return &self.members };
        let at = self.rated.binary_search_by_key(&rate, |rated| rated.rate);
        at.ok().and_then(|at| self.rated.get(at)).map_or(&[], |rated| &rated.members)
    }

    /// Those with that rate.
    pub(super) fn rated(&mut self, rate: Rate) -> Option<&mut Rated> {
        let at = self.rated.binary_search_by_key(&rate, |rated| rated.rate).ok()?;
        self.rated.get_mut(at)
    }

    /// As [`Pattern::list`], to be changed.
    pub(super) fn list_mut(&mut self, rate: Option<Rate>) -> Option<&mut Vec<Member>> {
        match rate {
            None => Some(&mut self.members),
            Some(rate) => Some(&mut self.rated(rate)?.members),
        }
    }
}

/// A subscription to a pattern as its seat knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PatternSub {
    pub(super) pattern: u32,
    /// Its index in its list of members.
    pub(super) member: u32,
    /// Whose list: the pattern's own members are not throttled.
    pub(super) rate: Option<Rate>,
}

/// What one seat has by pattern.
#[derive(Debug, Default)]
pub(super) struct Mine {
    pub(super) subs: Subs<PatternSub>,
    /// The last run that was offered to it.
    pub(super) stamp: u64,
    /// The channels that it has by pattern alone, and lags on.
    pub(super) lags: HashMap<Alias, Standing, RandomState>,
    /// How many of `subs` have a rate.
    pub(super) rated: usize,
    /// Channels that it has by a pattern with a rate, and is owed nothing of up to these offsets,
    /// while the others are.
    pub(super) had: HashMap<Alias, u64, RandomState>,
    /// The memory of these.
    charge: Option<Charge>,
}

impl Mine {
    /// Notes how the seat stands on a channel where it lags.
    pub(super) fn note(&mut self, alias: Alias, standing: Standing, account: &Account) {
        self.lags.insert(alias, standing);
        self.weigh(account);
    }

    /// It is owed all that others are of a channel.
    pub(super) fn forget_had(&mut self, alias: Alias, account: &Account) {
        if self.had.remove(&alias).is_some() && self.had.is_empty() {
            self.weigh(account);
        }
    }

    /// Counts the memory of its tables, and gives that of empty ones back.
    pub(super) fn weigh(&mut self, account: &Account) {
        if self.lags.is_empty() {
            self.lags = HashMap::default();
        }
        if self.had.is_empty() {
            self.had = HashMap::default();
        }
        let bytes = self.footprint();
        match &mut self.charge {
            Some(charge) if charge.bytes() == bytes => {}
            charge => *charge = (bytes > 0).then(|| Charge::new(account, bytes)),
        }
    }

    fn footprint(&self) -> usize {
        // A table has a byte for each of its places, of which an eighth stays free.
        let places = |capacity: usize| capacity.div_ceil(7) * 8;
        places(self.lags.capacity()) * (size_of::<(Alias, Standing)>() + 1)
            + places(self.had.capacity()) * (size_of::<(Alias, u64)>() + 1)
    }
}

/// A channel with an open run, and the patterns that have it: a range of what was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touched {
    pub(super) alias: Alias,
    pub(super) first: u32,
    pub(super) end: u32,
}

/// A subscription by name that began behind mail that one by pattern will bring.
#[derive(Debug)]
pub(super) struct Late {
    /// Where in the mail that one begins.
    pub(super) fence: u64,
    pub(super) listed: Listed,
    pub(super) alias: Alias,
}

impl Touched {
    pub(super) fn has_patterns(self) -> bool {
        self.first < self.end
    }
}

/// The patterns of a shard.
///
/// Invariants: `table` names the patterns of `all`, each of which has members; `latest` of each
/// counts those with that policy, and `speakers` all; a seat's entry is there while it has patterns.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    pub(super) table: PrefixTable<u32>,
    pub(super) all: Slab<Pattern>,
    /// By the seat's id; empty while there is no pattern, so that seats without cost nothing.
    pub(super) seats: Vec<Option<Box<Mine>>>,
    /// The patterns of each open run, those with the longest prefix first.
    pub(super) found: Vec<u32>,
    /// What was found for a run that is about to begin.
    pub(super) next: Option<Touched>,
    /// The last run that was offered to members of patterns.
    pub(super) stamp: u64,
    /// Channels whose table is held for patterns.
    pub(super) held: Vec<Alias>,
    /// How many of these, from the front, the look at them has not come to.
    pub(super) unseen: usize,
    /// Places in the shard's mail where a subscription begins, in order: no run has events from
    /// both sides.
    pub(super) fences: VecDeque<u64>,
    /// Events that were loaded before the present batch.
    pub(super) batch: u64,
    /// When groups of patterns are to be flushed, or forgotten.
    pub(super) dues: BTreeSet<Due>,
    pub(super) late: Vec<Late>,
    /// Who waits for so many events to be handed around, to be shown what was read meanwhile.
    pub(super) waiting: Vec<(u64, Listed)>,
}

impl Patterns {
    pub(super) fn mine(&mut self, id: SeatId) -> Option<&mut Mine> {
        self.seats.get_mut(id)?.as_deref_mut()
    }

    pub(super) fn subs(&self, id: SeatId) -> &[PatternSub] {
        let mine = self.seats.get(id).and_then(Option::as_deref);
        mine.map_or(&[], |mine| &*mine.subs)
    }

    /// How many a seat has.
    pub(super) fn count(&self, id: SeatId) -> usize {
        self.subs(id).len()
    }

    pub(super) fn sub(&self, id: SeatId, prefix: &str) -> Option<PatternSub> {
        let pattern = *self.table.get(prefix)?;
        self.seats.get(id)?.as_deref()?.subs.get(pattern).copied()
    }

    /// The prefixes that a seat has.
    pub(super) fn prefixes(&self, id: SeatId) -> impl Iterator<Item = &str> {
        let patterns = self.subs(id).iter().filter_map(|sub| self.all.get(sub.pattern as usize));
        patterns.map(|pattern| &*pattern.prefix)
    }

    /// Whether a seat has a channel by pattern, and the mail from before that has been handed
    /// around.
    pub(super) fn covers(&self, id: SeatId, channel: &str) -> bool {
        self.begins(id, channel).any(|(_, _, position)| position <= self.batch)
    }

    /// The subscription by which a seat has a channel by pattern: that with the longest prefix.
    pub(super) fn route(&self, id: SeatId, channel: &str) -> Option<PatternSub> {
        let begun = self.begins(id, channel).filter(|(_, _, position)| *position <= self.batch);
        begun.max_by_key(|(_, prefix, _)| prefix.len()).map(|(sub, ..)| sub)
    }

    /// Whether a seat has a channel that `pattern` has by a longer one with a rate.
    pub(super) fn is_rated(&self, id: SeatId, channel: &str, pattern: u32) -> bool {
        let own = self.all.get(pattern as usize).map_or(0, |own| own.prefix.len());
        self.begins(id, channel).any(|(sub, prefix, position)| {
            sub.rate.is_some() && prefix.len() > own && position <= self.batch
        })
    }

    /// The subscriptions of a seat to patterns that have the channel; their prefixes, and where in
    /// the mail they begin.
    pub(super) fn begins(
        &self,
        id: SeatId,
        channel: &str,
    ) -> impl Iterator<Item = (PatternSub, &str, u64)> {
        self.of(id, channel).filter_map(|(sub, pattern)| {
            let member = pattern.list(sub.rate).get(sub.member as usize)?;
            Some((sub, &*pattern.prefix, member.position))
        })
    }

    /// The patterns of a seat that a name, or a prefix, begins with.
    pub(super) fn of(
        &self,
        id: SeatId,
        name: &str,
    ) -> impl Iterator<Item = (PatternSub, &Pattern)> {
        let mine = self.seats.get(id).and_then(Option::as_deref);
        let subs = mine.map(|mine| &mine.subs);
        // Few are walked along; of many those are looked up that the name may have.
        let few = subs.filter(|subs| subs.len() <= FEW).map_or(&[][..], |subs| &**subs);
        let many = subs.filter(|subs| subs.len() > FEW);
        let few = few.iter().filter_map(move |sub| {
            let pattern = self.all.get(sub.pattern as usize)?;
            name.starts_with(&*pattern.prefix).then_some((*sub, pattern))
        });
        let many = many.into_iter().flat_map(move |subs| {
            let keys = self.table.of(name);
            keys.filter_map(|key| Some((*subs.get(*key)?, self.all.get(*key as usize)?)))
        });
        few.chain(many)
    }

    /// Whether the next event belongs to the present batch, after `loaded` others.
    pub(super) fn passes(&self, loaded: u64) -> bool {
        self.fences.front().is_none_or(|fence| *fence > loaded)
    }

    /// Remembers where in the mail a subscription begins.
    pub(super) fn fence(&mut self, position: u64) {
        if position > self.batch && self.fences.back() != Some(&position) {
            self.fences.push_back(position);
        }
    }

    /// The standing of a seat on a channel that it has by pattern alone, where it lags.
    pub(super) fn lag_of(&mut self, id: SeatId, alias: Alias) -> Option<&mut Standing> {
        self.mine(id)?.lags.get_mut(&alias)
    }

    /// Forgets that a seat lags on a channel by pattern.
    pub(super) fn end_lag(
        &mut self,
        id: SeatId,
        alias: Alias,
        account: &Account,
    ) -> Option<Standing> {
        let mine = self.mine(id)?;
        let before = mine.lags.remove(&alias);
        mine.weigh(account);
        before
    }

    /// Memory that is taken by what a seat lags on by pattern, and by what it has had.
    pub(super) fn lag_bytes(&self, id: SeatId) -> usize {
        self.seats.get(id).and_then(Option::as_deref).map_or(0, Mine::footprint)
    }

    /// The patterns that have the event's channel.
    fn find(&mut self, event: &Event) -> Touched {
        if let Some(next) = self.next.filter(|next| next.alias == event.alias) {
            return next;
        }
        let first = narrow(self.found.len());
        self.found.extend(self.table.of(event.channel.as_str()));
        let next = Touched { alias: event.alias, first, end: narrow(self.found.len()) };
        self.next = Some(next);
        next
    }

    fn found(&self, touched: Touched) -> impl Iterator<Item = &Pattern> {
        let found = self.found.get(touched.first as usize..touched.end as usize);
        found.unwrap_or_default().iter().filter_map(|key| self.all.get(*key as usize))
    }

    /// How many members without a rate the patterns of the event's channel have.
    pub(super) fn reach(&mut self, event: &Event) -> usize {
        if self.table.is_empty() {
            return 0;
        }
        let touched = self.find(event);
        self.found(touched).map(|pattern| pattern.members.len()).sum()
    }

    /// Whether somebody has the event's channel by pattern.
    pub(super) fn reaches(&mut self, event: &Event) -> bool {
        !self.table.is_empty() && self.find(event).has_patterns()
    }

    /// A run begins with `event`, before which `loaded` others were: finds its patterns, and holds
    /// the table of newest events that one of them may need. They are returned with the forms that
    /// their members speak.
    #[inline]
    pub(super) fn begin(
        &mut self,
        (event, loaded): (&Event, u64),
        topic: &mut Topic,
        account: &Account,
    ) -> (Touched, Forms) {
        if self.table.is_empty() {
            return (Touched { alias: event.alias, first: 0, end: 0 }, Forms::default());
        }
        self.begin_found((event, loaded), topic, account)
    }

    #[inline(never)]
    fn begin_found(
        &mut self,
        (event, loaded): (&Event, u64),
        topic: &mut Topic,
        account: &Account,
    ) -> (Touched, Forms) {
        let touched = self.find(event);
        self.next = None;
        let needs = |pattern: &&Pattern| pattern.latest > 0 || !pattern.rated.is_empty();
        let keys_max = self.found(touched).find(needs).map(|p| p.keys_max);
        if let Some(keys_max) = keys_max {
            let kept = Kept { keys_max, account };
            topic.hold(kept, event.alias, &mut self.held);
            self.begin_groups(touched, (event, loaded), topic, kept);
        }
        let forms = self.found(touched).map(|p| p.speakers.forms(p.members.len()));
        (touched, forms.fold(Forms::default(), Forms::and))
    }

    /// Forgets a seat that has no pattern any more, and all of them where none has.
    pub(super) fn tidy(&mut self, id: SeatId) {
        if self.count(id) == 0
            && let Some(mine) = self.seats.get_mut(id)
        {
            *mine = None;
        }
        if self.table.is_empty() {
            self.seats = Vec::new();
        }
    }

    /// Every run has been handed around.
    pub(super) fn end_batch(&mut self, loaded: u64) {
        self.batch = loaded;
        self.found.clear();
        self.next = None;
    }
}

impl Topic {
    /// Keeps a table until the look after next, or for longer where a run begins until then.
    fn hold(&mut self, kept: Kept<'_>, alias: Alias, held: &mut Vec<Alias>) {
        if self.latest.as_ref().is_none_or(|latest| !latest.held) {
            self.count_user(false, true, kept);
            held.push(alias);
        }
        if let Some(latest) = &mut self.latest {
            (latest.held, latest.fresh) = (true, true);
        }
    }
}
