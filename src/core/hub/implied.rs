//! Rates of patterns: the members of a pattern that want the events of each of its channels no more
//! often than at one rate. What a channel's table of newest events has gathered since their last
//! flush is laid out once for all of them.
//!
//! Who gets a channel by which pattern is known at the flush alone: whatever changes it settles
//! first what was held back on the old way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use super::lag::Kept;
use super::lay::{conflated, lay};
use super::pattern::{Pattern, PatternSub, Patterns, Touched};
use super::seat::{Member, Round, Standing};
use super::throttle::ready_ms;
use super::{Hub, Outcome, SeatId, Topic, Writer, narrow};
use crate::core::account::Account;
use crate::proto::event::Event;
use crate::proto::name::Alias;
use crate::proto::rate::Rate;

/// Groups of patterns that a shard keeps times for: some 40 MB. Beyond it, those that have none
/// are flushed at once, and forgotten.
const GROUPS_MAX: usize = if cfg!(test) { 64 } else { 262_144 };

/// When the group of a channel, a pattern and a rate is flushed.
pub(super) type Due = (u64, Alias, u32, Rate);

/// Who writes out of turn, when it is, and what there is to tell.
pub(super) type Moment<'a, W> = (&'a mut W, u64, &'a mut Outcome);

/// The members of one pattern with one rate.
#[derive(Debug)]
pub(super) struct Rated {
    pub(super) rate: Rate,
    pub(super) members: Vec<Member>,
    /// By channel. Each is in the list of dues, but while its first batch is filled.
    pub(super) groups: HashMap<Alias, Group, RandomState>,
    /// The channels of those that owe something, by how many events had been loaded before the
    /// last batch of each.
    pub(super) recent: BTreeMap<u64, Alias>,
}

/// What is between two flushes of one channel.
#[derive(Debug)]
pub(super) struct Group {
    stage: Stage,
    /// Of the events up to this offset nothing is owed.
    pub(super) flushed: u64,
    /// How many events had been loaded before the first that is owed.
    pub(super) since: u64,
    /// As many before the last batch that is.
    last: u64,
    /// When it is flushed; or forgotten, where it rests.
    due_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is owed. The next flush is not before it is due.
    Rests,
    /// Something is, of the batch that is being filled.
    Begins,
    /// Something is.
    Owes,
}

impl Group {
    pub(super) fn owes(&self) -> bool {
        self.stage != Stage::Rests
    }

    fn set_due(&mut self, due_ms: u64, (alias, key, rate): Key, dues: &mut BTreeSet<Due>) {
        if let Some(before) = self.due_ms.replace(due_ms) {
            dues.remove(&(before, alias, key, rate));
        }
        dues.insert((due_ms, alias, key, rate));
    }
}

#[cfg(test)]
impl Patterns {
    /// Every group: when it is due, and whether it owes something.
    pub(super) fn groups(&self) -> impl Iterator<Item = (Due, bool)> {
        let rated = self
            .all
            .iter()
            .flat_map(|(key, pattern)| pattern.rated.iter().map(move |rated| (narrow(key), rated)));
        rated.flat_map(|(key, Rated { rate, groups, .. })| {
            let due = |group: &Group| group.due_ms.unwrap_or(u64::MAX);
            groups.iter().map(move |(alias, g)| ((due(g), *alias, key, *rate), g.owes()))
        })
    }
}

/// A group: its channel, its pattern and its rate.
type Key = (Alias, u32, Rate);

impl Pattern {
    /// Puts a member into its list. Returns its place there.
    pub(super) fn enter(&mut self, member: Member, rate: Option<Rate>) -> u32 {
        match rate {
            None => self.speakers.count(None, Some(member.format)),
            Some(rate) => {
                let at = self.rated.partition_point(|rated| rated.rate < rate);
                if self.rated.get(at).is_none_or(|rated| rated.rate != rate) {
                    let (members, groups) = (Vec::new(), HashMap::default());
                    let recent = BTreeMap::new();
                    self.rated.insert(at, Rated { rate, members, groups, recent });
                }
            }
        }
        let Some(members) = self.list_mut(rate) else { return 0 };
        members.push(member);
        narrow(members.len() - 1)
    }
}

impl Patterns {
    /// Of those of a seat whose prefix `prefix` begins with, but for that itself, the longest.
    pub(super) fn shorter(&self, id: SeatId, prefix: &str) -> Option<PatternSub> {
        let shorter = self.of(id, prefix).filter(|(_, other)| other.prefix.len() < prefix.len());
        shorter.max_by_key(|(_, other)| other.prefix.len()).map(|(sub, _)| sub)
    }

    /// Where in the mail a subscription begins.
    pub(super) fn position(&self, sub: PatternSub) -> Option<u64> {
        let pattern = self.all.get(sub.pattern as usize)?;
        pattern.list(sub.rate).get(sub.member as usize).map(|member| member.position)
    }

    /// A group has been flushed, and is not before `due_ms` again.
    fn rest(&mut self, key: Key, due_ms: u64) {
        let (alias, pattern, rate) = key;
        let rated = self.all.get_mut(pattern as usize).and_then(|pattern| pattern.rated(rate));
        if let Some(rated) = rated
            && let Some(group) = rated.groups.get_mut(&alias)
        {
            rated.recent.remove(&group.last);
            (group.stage, group.due_ms) = (Stage::Rests, None);
            group.set_due(due_ms, key, &mut self.dues);
        }
    }

    /// A group that is not in the list of dues goes.
    fn forget_group(&mut self, (alias, key, rate): Key) {
        let rated = self.all.get_mut(key as usize).and_then(|pattern| pattern.rated(rate));
        if let Some(rated) = rated {
            if let Some(group) = rated.groups.remove(&alias).filter(Group::owes) {
                rated.recent.remove(&group.last);
            }
            if rated.groups.is_empty() {
                rated.groups = HashMap::default();
            }
        }
    }

    fn group(&mut self, (alias, key, rate): Key) -> Option<&mut Group> {
        self.all.get_mut(key as usize)?.rated(rate)?.groups.get_mut(&alias)
    }

    /// A run begins with `event`: the groups of its patterns owe it.
    pub(super) fn begin_groups(
        &mut self,
        touched: Touched,
        (event, loaded): (&Event, u64),
        topic: &mut Topic,
        kept: Kept<'_>,
    ) {
        for at in touched.first..touched.end {
            let Some(key) = self.found.get(at as usize) else { continue };
            let Some(pattern) = self.all.get_mut(*key as usize) else { continue };
            for rated in &mut pattern.rated {
                let (stage, due_ms) = (Stage::Rests, None);
                let fresh = Group { stage, flushed: 0, since: 0, last: 0, due_ms };
                let group = rated.groups.entry(event.alias).or_insert(fresh);
                let owed = group.owes();
                if owed {
                    rated.recent.remove(&group.last);
                }
                group.last = loaded;
                rated.recent.insert(loaded, event.alias);
                if owed {
                    continue;
                }
                (group.stage, group.flushed, group.since) =
                    (Stage::Begins, event.offset - 1, loaded);
                topic.count_user(false, true, kept);
                if let Some(latest) = &mut topic.latest {
                    latest.owed += 1;
                }
            }
        }
    }

    /// A batch is handed around at `now_ms`: the groups that owe some of it are due when they may.
    pub(super) fn arm(&mut self, touched: Touched, now_ms: u64) {
        for at in touched.first..touched.end {
            let Some(key) = self.found.get(at as usize) else { continue };
            let Some(pattern) = self.all.get_mut(*key as usize) else { continue };
            for Rated { rate, groups, .. } in &mut pattern.rated {
                let Some(group) = groups.get_mut(&touched.alias) else { continue };
                if group.stage != Stage::Begins {
                    continue;
                }
                group.stage = Stage::Owes;
                if group.due_ms != Some(0) {
                    let due_ms = group.due_ms.map_or(now_ms, |due_ms| due_ms.max(now_ms));
                    group.set_due(due_ms, (touched.alias, *key, *rate), &mut self.dues);
                }
            }
        }
    }

    /// The groups of a channel that owe events up to the offset `lost` are due at once. `false` if
    /// none does.
    #[cold]
    pub(super) fn hurry(&mut self, (alias, channel): (Alias, &str), lost: u64) -> bool {
        let mut waits = false;
        for &key in self.table.of(channel) {
            let Some(pattern) = self.all.get_mut(key as usize) else { continue };
            for Rated { rate, groups, .. } in &mut pattern.rated {
                let group = groups.get_mut(&alias);
                if let Some(group) = group.filter(|group| group.owes() && group.flushed < lost) {
                    group.set_due(0, (alias, key, *rate), &mut self.dues);
                    waits = true;
                }
            }
        }
        waits
    }

    /// A seat has had a channel up to the offset `upto`, and has it by `route` from there on.
    pub(super) fn note_had(
        &mut self,
        id: SeatId,
        route: Option<PatternSub>,
        (alias, upto): (Alias, u64),
        account: &Account,
    ) {
        let Some(PatternSub { pattern, rate: Some(rate), .. }) = route else { return };
        let group = self.group((alias, pattern, rate));
        if group.is_some_and(|group| group.owes() && group.flushed < upto)
            && let Some(mine) = self.mine(id)
        {
            let had = mine.had.entry(alias).or_default();
            *had = upto.max(*had);
            mine.weigh(account);
        }
    }
}

impl Hub {
    /// The member of a pattern that has a rate, as a member of one channel: as it stands there, and
    /// with the offset from which on it is owed events. `None` where it has the channel by name or
    /// by a longer pattern. `loads` has what the table says of the events that are owed.
    pub(super) fn owed_to(
        &self,
        member: Member,
        (alias, pattern): (Alias, u32),
        (since, loads): (u64, &[(u64, u64)]),
    ) -> Option<Member> {
        let (id, topic) = (member.seat as usize, self.topics.get(&alias)?);
        let mine = self.patterns.seats.get(id)?.as_deref()?;
        let named = !topic.members.is_empty() || topic.groups.is_some();
        if member.position > self.patterns.batch || named && self.is_subscribed(id, alias) {
            return None;
        }
        if mine.subs.len() > 1 {
            let route = self.patterns.route(id, topic.channel.as_str());
            route.filter(|route| route.pattern == pattern)?;
        }
        let standing = mine.lags.get(&alias).copied().unwrap_or(Standing::Live);
        let mut position = mine.had.get(&alias).copied().unwrap_or(0);
        if member.position > since {
            // It came in between. Of those that the table has no more, nobody knows when they did.
            let before = loads.partition_point(|(loaded, _)| *loaded < member.position);
            let last = before.checked_sub(1).and_then(|at| loads.get(at));
            position = position.max(last.map_or(0, |(_, offset)| *offset));
        }
        Some(Member { standing, position, ..member })
    }

    /// Flushes the group of a pattern that is due first, or forgets it. Returns what that counts as,
    /// in members: those that were looked at too, for they may all have the channel on another way.
    pub(super) fn flush_by_pattern(&mut self, moment: &mut Moment<'_, impl Writer>) -> usize {
        let Some((due_ms, alias, key, rate)) = self.patterns.dues.pop_first() else { return 1 };
        let pattern = self.patterns.all.get(key as usize);
        let mut rated = pattern.into_iter().flat_map(|pattern| &pattern.rated);
        let Some(rated) = rated.find(|rated| rated.rate == rate) else { return 1 };
        let looks = rated.members.len();
        let group = rated.groups.get(&alias).filter(|group| group.owes());
        let latest = self.topics.get(&alias).and_then(|topic| topic.latest.as_ref());
        let Some((group, latest)) = group.zip(latest) else {
            self.patterns.forget_group((alias, key, rate));
            return 1;
        };
        let (after, since, head) = (group.flushed, group.since, latest.head());
        let came = rated.members.iter().any(|member| member.position > since);
        let loads = if came { latest.loads(after) } else { Vec::new() };
        let owed = |member: &Member| self.owed_to(*member, (alias, key), (since, &loads));
        let mut members: Vec<Member> = rated.members.iter().filter_map(owed).collect();
        for member in &members {
            if let Some(mine) = self.patterns.mine(member.seat as usize)
                && !mine.had.is_empty()
            {
                mine.forget_had(alias, self.press.account());
            }
        }
        let keep = self.patterns.dues.len() < GROUPS_MAX;
        if keep && members.iter().any(|member| member.position < head) {
            self.patterns.rest((alias, key, rate), ready_ms(rate, due_ms, moment.1));
        } else {
            self.patterns.forget_group((alias, key, rate));
        }
        self.give((alias, after), &mut members, moment);
        self.end_group(alias);
        looks
    }

    /// Gives members what the table of a channel has after the offset `after`.
    pub(super) fn give(
        &mut self,
        (alias, after): (Alias, u64),
        members: &mut [Member],
        (writer, now_ms, outcome): &mut Moment<'_, impl Writer>,
    ) {
        let (limit, now_ms) = (self.run_limit(), *now_ms);
        let topic = self.topics.get_mut(&alias);
        let Some(latest) = topic.and_then(|topic| topic.latest.as_mut()) else { return };
        let runs = lay(&mut self.press, (latest, after), members, now_ms, limit);
        outcome.conflated += conflated(members, latest, after, &runs);
        let (floor, account) = (latest.floor(), &self.press.account().clone());
        let mut round = Round { writer: &mut **writer, now_ms, floor, account, outcome };
        self.hand_laid(runs, members, &mut round);
        for member in members.iter().filter(|member| member.standing != Standing::Live) {
            let before = self.patterns.lag_of(member.seat as usize, alias).copied();
            self.note_lag(*member, before.unwrap_or(Standing::Live), alias);
        }
        for member in members {
            self.bound_lane(*member, &mut round);
        }
    }

    /// A group owes nothing any more.
    fn end_group(&mut self, alias: Alias) {
        let Some(topic) = self.topics.get_mut(&alias) else { return };
        if let Some(latest) = &mut topic.latest {
            latest.owed -= 1;
        }
        topic.end_user();
        if topic.is_spare() {
            self.topics.remove(&alias);
        }
    }

    /// Takes a member out of its pattern's list, and tells the seat whose member took its place
    /// there. A list that is empty goes, with its groups.
    pub(super) fn take_from_pattern(&mut self, sub: PatternSub) -> Option<Member> {
        let patterns = &mut self.patterns;
        let pattern = patterns.all.get_mut(sub.pattern as usize)?;
        let members = pattern.list_mut(sub.rate)?;
        let at = sub.member as usize;
        if at >= members.len() {
            return None;
        }
        let member = members.swap_remove(at);
        if let Some(moved) = members.get(at)
            && let Some(Some(mine)) = patterns.seats.get_mut(moved.seat as usize)
            && let Some(other) = mine.subs.get_mut(sub.pattern)
        {
            other.member = sub.member;
        }
        let empty = members.is_empty();
        let Some(rate) = sub.rate else {
            pattern.speakers.count(Some(member.format), None);
            return Some(member);
        };
        if empty && let Ok(at) = pattern.rated.binary_search_by_key(&rate, |rated| rated.rate) {
            for (alias, group) in pattern.rated.remove(at).groups {
                if let Some(due_ms) = group.due_ms {
                    self.patterns.dues.remove(&(due_ms, alias, sub.pattern, rate));
                }
                if group.owes() {
                    self.end_group(alias);
                }
            }
        }
        Some(member)
    }
}
