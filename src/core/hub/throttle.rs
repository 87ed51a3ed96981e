//! Throttle groups: the members of a channel that want its events no more often than at one rate.
//! What the channel's table of newest events has gathered since the group's last flush is laid out
//! once for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::lag::Kept;
use super::lay::{conflated, lay};
use super::own::Own;
use super::pattern::{Patterns, Touched};
use super::seat::{Member, Round, Sub};
use super::{Hub, Join, Outcome, SeatId, Topic, Writer, narrow};
use crate::core::account::Account;
use crate::core::latest::Latest;
use crate::proto::event::Event;
use crate::proto::name::Alias;
use crate::proto::rate::Rate;

/// Members that one fan-out flushes groups to, or looks at for that, before others have their
/// chance; one group may have more.
const FLUSHES_A_TURN: usize = 10_000;

/// When groups are to be flushed. Each pending group is in it once.
pub(super) type Dues = BTreeSet<(u64, Alias, Rate)>;

/// The members of one channel with one rate.
#[derive(Debug)]
struct Group {
    rate: Rate,
    members: Vec<Member>,
    /// Of the events up to this offset nothing is owed.
    flushed: u64,
    /// Its next flush is not before this.
    ready_ms: u64,
    /// When it is flushed; `None` while nothing waits.
    due_ms: Option<u64>,
}

/// The groups of one channel, in the order of their rates. None is empty.
#[derive(Debug, Default)]
pub(super) struct Groups {
    list: Vec<Group>,
    pub(super) own: Own,
}

impl Groups {
    fn get(&self, rate: Rate) -> Option<&Group> {
        let at = self.list.binary_search_by_key(&rate, |group| group.rate).ok()?;
        self.list.get(at)
    }

    fn find(&mut self, rate: Rate) -> Option<&mut Group> {
        let at = self.list.binary_search_by_key(&rate, |group| group.rate).ok()?;
        self.list.get_mut(at)
    }
}

impl Groups {
    /// Those that are owed events up to the offset `lost` are due at once. `false` if none is.
    fn hurry(&mut self, alias: Alias, lost: u64, dues: &mut Dues) -> bool {
        let mut waits = false;
        for group in self.list.iter_mut().filter(|group| group.flushed < lost) {
            group.set_due(alias, 0, dues);
            waits = true;
        }
        waits
    }
}

impl Topic {
    /// As [`Groups::hurry`].
    pub(super) fn hurry(&mut self, alias: Alias, lost: u64, dues: &mut Dues) {
        if let Some(groups) = &mut self.groups {
            groups.hurry(alias, lost, dues);
        }
    }

    /// The members without a rate, or with that one.
    pub(super) fn members(&self, rate: Option<Rate>) -> &[Member] {
        let Some(rate) = rate else { return &self.members };
        let list = self.groups.as_ref().map_or(&[][..], |groups| &groups.list);
        let at = list.binary_search_by_key(&rate, |group| group.rate);
        at.ok().and_then(|at| list.get(at)).map_or(&[], |group| &group.members)
    }

    /// The members with and without a rate.
    pub(super) fn all_members(&self) -> impl Iterator<Item = &Member> {
        let groups = self.groups.iter().flat_map(|groups| &groups.list);
        self.members.iter().chain(groups.flat_map(|group| &group.members))
    }

    /// How many members have a rate.
    pub(super) fn grouped(&self) -> usize {
        let groups = self.groups.iter().flat_map(|groups| &groups.list);
        groups.map(|group| group.members.len()).sum()
    }

    /// The offset after which a rate holds back events for a member, which are yet to come. Not
    /// that after which it is owed them: where nobody of the shard had the channel for a while,
    /// events that never came here lie in between.
    pub(super) fn held_after(&self, sub: Sub) -> Option<u64> {
        let group = self.groups.as_ref()?.get(sub.rate?)?;
        let member = group.members.get(sub.member as usize)?;
        let first = self.latest.as_ref()?.newer(group.flushed.max(member.position)).next()?;
        Some(first.offset.saturating_sub(1))
    }

    /// The offset after which the table has what was published after `after`: it may have seen
    /// nothing before.
    pub(super) fn known_after(&self, after: u64) -> u64 {
        let floor = self.latest.as_ref().map_or(u64::MAX, |latest| latest.floor());
        after.max(floor.saturating_sub(1))
    }

    /// What was not yet fanned out is for a member, whatever position it began at.
    pub(super) fn begin_after_head(&mut self, sub: Sub) {
        self.begin_with(sub, self.head + 1);
    }

    /// The events from `offset` on, none of which was fanned out, are for a member, likewise.
    pub(super) fn begin_with(&mut self, sub: Sub, offset: u64) {
        let member = self.parts(sub.rate).0.and_then(|list| list.get_mut(sub.member as usize));
        if let Some(member) = member {
            member.position = member.position.min(offset - 1);
        }
    }

    /// How many members each group has, and when it is due.
    #[cfg(test)]
    pub(super) fn groups(&self) -> Vec<(usize, Option<u64>)> {
        let groups = self.groups.iter().flat_map(|groups| &groups.list);
        groups.map(|group| (group.members.len(), group.due_ms)).collect()
    }

    /// As [`Topic::members`], to be changed, and the table of newest events.
    pub(super) fn parts(
        &mut self,
        rate: Option<Rate>,
    ) -> (Option<&mut Vec<Member>>, Option<&mut Latest>) {
        let members = match rate {
            None => Some(&mut self.members),
            Some(rate) => {
                let group = self.groups.as_mut().and_then(|groups| groups.find(rate));
                group.map(|group| &mut group.members)
            }
        };
        (members, self.latest.as_deref_mut())
    }

    /// Puts a member into its list. Returns its place there.
    pub(super) fn enter(&mut self, member: Member, rate: Option<Rate>, kept: Kept<'_>) -> u32 {
        if let Some(rate) = rate
            && self.members(Some(rate)).is_empty()
        {
            self.count_user(false, true, kept);
            let (flushed, members) = (self.head, Vec::new());
            let group = Group { rate, members, flushed, ready_ms: 0, due_ms: None };
            let list = &mut self.groups.get_or_insert_default().list;
            let at = list.partition_point(|group| group.rate < rate);
            list.insert(at, group);
        }
        let Some(members) = self.parts(rate).0 else { return 0 };
        members.push(member);
        let at = narrow(members.len() - 1);
        if rate.is_none() {
            self.count_speaker(None, Some(member));
        }
        at
    }

    /// Takes a group away that has nobody left.
    fn free(&mut self, alias: Alias, rate: Rate, dues: &mut Dues) {
        let Some(groups) = &mut self.groups else { return };
        let Ok(at) = groups.list.binary_search_by_key(&rate, |group| group.rate) else { return };
        if let Some(due_ms) = groups.list.remove(at).due_ms {
            dues.remove(&(due_ms, alias, rate));
        }
        if groups.list.is_empty() {
            self.groups = None;
        }
        self.end_user();
    }

    /// What [`Hub::load`] does first where some want fewer events. `Some` is its answer.
    pub(super) fn load_throttled(
        &mut self,
        (event, loaded): (&Arc<Event>, u64),
        (touched, dues, patterns): (&mut Vec<Touched>, &mut Dues, &mut Patterns),
        tables: &Account,
    ) -> Option<bool> {
        let begun = self.latest.as_ref().is_some_and(|latest| latest.touched);
        if let (Some(groups), Some(latest)) = (&mut self.groups, &mut self.latest) {
            if let Some(lost) = latest.evicts(event) {
                // What a group has not had would go: it is flushed early.
                if groups.hurry(event.alias, lost, dues) {
                    return Some(false);
                }
            }
        } else if !begun
            && (!self.members.is_empty() || self.open.is_some() || !patterns.reaches(event))
        {
            return None;
        }
        if !begun {
            if !self.members.is_empty() || self.open.is_some() || patterns.reach(event) > 0 {
                return None;
            }
            // Nobody needs a run.
            touched.push(patterns.begin((event, loaded), self, tables).0);
        }
        if let Some(latest) = &mut self.latest {
            latest.touched = true;
            latest.record(event, loaded);
        }
        self.head = event.offset;
        Some(true)
    }

    /// Groups for which nothing waited have something now.
    pub(super) fn arm(&mut self, alias: Alias, now_ms: u64, dues: &mut Dues) {
        if let Some(latest) = &mut self.latest {
            latest.charge();
            latest.touched = false;
        }
        let Some(groups) = &mut self.groups else { return };
        for group in groups.list.iter_mut().filter(|group| group.due_ms.is_none()) {
            group.set_due(alias, group.ready_ms.max(now_ms), dues);
        }
    }
}

/// When the next flush may be after one at `now_ms` that was due at `due_ms`.
pub(super) fn ready_ms(rate: Rate, due_ms: u64, now_ms: u64) -> u64 {
    let interval = rate.interval_ms();
    // A timer that is a little late does not make the rate lower.
    let at_ms = if now_ms < due_ms + interval { due_ms } else { now_ms };
    at_ms + interval
}

impl Group {
    fn set_due(&mut self, alias: Alias, due_ms: u64, dues: &mut Dues) {
        if let Some(before) = self.due_ms.replace(due_ms) {
            dues.remove(&(before, alias, self.rate));
        }
        dues.insert((due_ms, alias, self.rate));
    }

    /// Notes a flush at `now_ms` that was due.
    fn flushes(&mut self, now_ms: u64, head: u64) {
        let due_ms = self.due_ms.take().unwrap_or(now_ms);
        self.ready_ms = ready_ms(self.rate, due_ms, now_ms);
        self.flushed = self.flushed.max(head);
    }
}

impl Hub {
    /// When [`Hub::fan_out`] is to be called even if there is nothing to fan out; on the clock
    /// that it is given.
    pub fn next_due(&self) -> Option<u64> {
        self.first_due().map(|(due_ms, _)| due_ms)
    }

    /// What is due first: a group of a channel, or else one of a pattern.
    fn first_due(&self) -> Option<(u64, Option<(Alias, Rate)>)> {
        let by_name = self.dues.first().map(|(due_ms, alias, rate)| (*due_ms, (*alias, *rate)));
        let by_pattern = self.patterns.dues.first().map(|(due_ms, ..)| *due_ms);
        match (by_name, by_pattern) {
            (Some((due_ms, group)), other) if other.is_none_or(|other| due_ms <= other) => {
                Some((due_ms, Some(group)))
            }
            (_, other) => Some((other?, None)),
        }
    }

    /// Takes a member out of its list, and tells the seat whose member took its place there.
    pub(super) fn take_member(&mut self, sub: Sub) -> Option<Member> {
        let topic = self.topics.get_mut(&sub.alias)?;
        let members = topic.parts(sub.rate).0?;
        let at = sub.member as usize;
        if at >= members.len() {
            return None;
        }
        let member = members.swap_remove(at);
        let empty = members.is_empty();
        if let Some(moved) = members.get(at)
            && let Some(seat) = self.seats.get_mut(moved.seat as usize)
            && let Some(other) = seat.subs.get_mut(sub.alias)
        {
            other.member = sub.member;
        }
        match sub.rate {
            None => topic.count_speaker(Some(member), None),
            Some(rate) if empty => topic.free(sub.alias, rate, &mut self.dues),
            Some(_) => {}
        }
        Some(member)
    }

    /// Changes a subscription there is: its policy and its rate are those of `join`, its place in
    /// the stream of events stays what it is. One that lags goes on with the new policy once it
    /// has caught up; what the old rate has held back comes first.
    pub fn update(
        &mut self,
        (id, alias): (SeatId, Alias),
        join: Join,
        writer: &mut impl Writer,
        now_ms: u64,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(sub) = self.sub(id, alias) else { return outcome };
        if sub.rate != join.max_rate {
            // Under the policy that it had.
            self.settle(sub, writer, now_ms, &mut outcome);
        }
        if let Some(topic) = self.topics.get_mut(&alias)
            && let (Some(members), _) = topic.parts(sub.rate)
            && let Some(member) = members.get_mut(sub.member as usize)
        {
            let before = member.uses_latest();
            member.policy = join.policy;
            let after = member.uses_latest();
            let kept = Kept { keys_max: join.keys_max, account: &self.tables };
            topic.count_user(before, after, kept);
        }
        if sub.rate != join.max_rate {
            self.change_rate(id, sub, join);
        }
        outcome
    }

    /// Moves a member for whom nothing is held back into another list.
    fn change_rate(&mut self, id: SeatId, sub: Sub, join: Join) {
        let Some(member) = self.take_member(sub) else { return };
        let (Some(topic), Some(seat)) = (self.topics.get_mut(&sub.alias), self.seats.get_mut(id))
        else {
            return;
        };
        let position = member.position.max(topic.head);
        let rate = join.max_rate;
        let kept = Kept { keys_max: join.keys_max, account: &self.tables };
        let at = topic.enter(Member { position, ..member }, rate, kept);
        if let Some(own) = seat.subs.get_mut(sub.alias) {
            *own = Sub { member: at, rate, ..sub };
        }
        // Where a pattern has the channel as well, its position may lie further ahead.
        seat.outbox.count_frames(sub.alias, rate.is_some(), topic.head);
    }

    /// Before a seat is sent away: gives it all that is held back for it.
    pub fn settle_all(&mut self, id: SeatId, writer: &mut impl Writer, now_ms: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let subs = self.seats.get(id).map_or(&[][..], |seat| &*seat.subs);
        for sub in subs.iter().filter(|sub| sub.rate.is_some()).copied().collect::<Vec<_>>() {
            self.settle(sub, writer, now_ms, &mut outcome);
        }
        self.settle_patterns(id, &mut (writer, now_ms, &mut outcome));
        outcome
    }

    /// How many events a seat is yet to be brought that are held back for it.
    pub fn held_back(&self, id: SeatId) -> u64 {
        let Some(seat) = self.seats.get(id) else { return 0 };
        let client = seat.author.client;
        let held = |sub: &Sub| {
            let topic = self.topics.get(&sub.alias)?;
            let group = topic.groups.as_ref()?.get(sub.rate?)?;
            let member = group.members.get(sub.member as usize).filter(|m| m.is_live())?;
            let newer = topic.latest.as_ref()?.newer(group.flushed.max(member.position));
            Some(newer.filter(|event| event.hidden_from != Some(client)).count() as u64)
        };
        seat.subs.iter().filter_map(held).sum::<u64>() + self.held_back_by_pattern(id, client)
    }

    /// Gives a throttled member what is held back for it.
    pub(super) fn settle(
        &mut self,
        sub: Sub,
        writer: &mut impl Writer,
        now_ms: u64,
        outcome: &mut Outcome,
    ) {
        let limit = self.run_limit();
        let Some(topic) = self.topics.get_mut(&sub.alias) else { return };
        let Some(group) =
            sub.rate.and_then(|rate| topic.groups.as_mut().and_then(|groups| groups.find(rate)))
        else {
            return;
        };
        let (Some(latest), Some(member)) =
            (&mut topic.latest, group.members.get(sub.member as usize).copied())
        else {
            return;
        };
        let client = self.seats.get(member.seat as usize).map(|seat| seat.author.client);
        let mut members = [member];
        let after = group.flushed.max(member.position);
        let runs = lay(&mut self.press, (latest, after), &members, now_ms, limit);
        outcome.conflated += conflated(&members, latest, after, &runs);
        let member_of = |other| (Some(other) == client).then_some(member);
        let known = after.max(latest.floor().saturating_sub(1));
        let own = topic.groups.as_ref().map_or(0, |g| g.own.missing(latest, known, member_of));
        outcome.conflated = outcome.conflated.saturating_sub(own);
        let (floor, head, account) = (latest.floor(), latest.head(), &self.press.account().clone());
        self.hand_laid(runs, &mut members, &mut Round { writer, now_ms, floor, account, outcome });
        let members_now = self.topics.get_mut(&sub.alias).and_then(|t| t.parts(sub.rate).0);
        if let Some(place) = members_now.and_then(|list| list.get_mut(sub.member as usize)) {
            let [member] = members;
            *place = Member { position: member.position.max(head), ..member };
        }
    }

    /// Flushes the groups that are due at `upto_ms`. Returns what that counts as, in members.
    pub(super) fn flush_due(
        &mut self,
        writer: &mut impl Writer,
        upto_ms: u64,
        (now_ms, outcome): (u64, &mut Outcome),
    ) -> usize {
        let mut sum = 0;
        let mut left = FLUSHES_A_TURN;
        while let Some((due_ms, group)) = self.first_due()
            && due_ms <= upto_ms
            && (left > 0 || due_ms == 0)
        {
            let offers = match group {
                Some(group) => {
                    self.dues.pop_first();
                    self.flush(group, writer, now_ms, outcome)
                }
                None => self.flush_by_pattern(&mut (&mut *writer, now_ms, &mut *outcome)),
            };
            left = left.saturating_sub(offers);
            sum += offers;
        }
        sum
    }

    /// Flushes one group. Returns to how many members.
    fn flush(
        &mut self,
        (alias, rate): (Alias, Rate),
        writer: &mut impl Writer,
        now_ms: u64,
        outcome: &mut Outcome,
    ) -> usize {
        let limit = self.run_limit();
        let Some(topic) = self.topics.get_mut(&alias) else { return 0 };
        let Some(group) = topic.groups.as_mut().and_then(|groups| groups.find(rate)) else {
            return 0;
        };
        let Some(latest) = &mut topic.latest else { return 0 };
        let (after, floor) = (group.flushed, latest.floor());
        let mut members = std::mem::take(&mut group.members);
        let runs = lay(&mut self.press, (latest, after), &members, now_ms, limit);
        let head = latest.head();
        if members.iter().any(|member| member.position < head) {
            group.flushes(now_ms, head);
        } else {
            (group.flushed, group.due_ms) = (after.max(head), None);
        }
        outcome.conflated += conflated(&members, latest, after, &runs);
        if let Some(groups) = &mut topic.groups {
            let (clients, seats) = (&self.clients, &self.seats);
            let member_of = |client| {
                let seat = seats.get(*clients.get(&client)? as usize)?;
                let mine = seat.subs.get(alias).filter(|sub| sub.rate == Some(rate));
                members.get(mine?.member as usize).copied()
            };
            let own = groups.own.missing(latest, after.max(floor.saturating_sub(1)), member_of);
            outcome.conflated = outcome.conflated.saturating_sub(own);
            groups.own.forget(groups.list.iter().map(|group| group.flushed).min().unwrap_or(0));
        }
        let account = &self.press.account().clone();
        self.hand_laid(runs, &mut members, &mut Round { writer, now_ms, floor, account, outcome });
        let offers = members.len();
        if let Some(list) = self.topics.get_mut(&alias).and_then(|t| t.parts(Some(rate)).0) {
            *list = members;
        }
        offers
    }
}
