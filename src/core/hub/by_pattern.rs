//! Subscriptions to patterns: how they begin and end, and the fan-out of a run to them.

use std::rc::Rc;
use std::sync::Arc;

use super::forms::Speakers;
use super::lag::Kept;
use super::pattern::{Pattern, PatternSub, Touched};
use super::seat::{Member, Round, Standing, Sub};
use super::{Hub, Join, Left, Outcome, SeatId, Topic, Writer, narrow};
use crate::core::outbox::OutboxLimit;
use crate::core::policy::Policy;
use crate::core::run::Run;
use crate::proto::event::Event;
use crate::proto::name::{Alias, ChannelName};

/// Things that may stand in the lane of a seat with patterns, in events of its limit; and at least
/// so many. The lane has a notice for each channel that has lost something, and a pattern has any
/// number of channels.
const LANE_TIMES: usize = 2;
const LANE_MIN: usize = 1_024;

/// Tables that one look gives back, or leaves, at most: some milliseconds.
const TABLES_A_LOOK: usize = 2_048;

impl Hub {
    /// Whether the connection has the pattern of that prefix.
    pub fn has_pattern(&self, id: SeatId, prefix: &str) -> bool {
        self.patterns.sub(id, prefix).is_some()
    }

    /// The prefixes of the patterns that the connection has.
    pub fn prefixes_of(&self, id: SeatId) -> Vec<Box<str>> {
        self.patterns.prefixes(id).map(Box::from).collect()
    }

    /// Whether the connection has a pattern that the channel is one of.
    pub fn has_by_pattern(&self, id: SeatId, channel: &str) -> bool {
        self.patterns.begins(id, channel).next().is_some()
    }

    /// Adds a subscription to every channel whose name begins with `prefix`, or changes the policy
    /// and the rate of the one that is there. As its position, `join` has how many events are on
    /// their way to the shard and not loaded yet. They are not for it, unless a shorter pattern
    /// has them: of a channel that the shard did not have all the time, there may be holes between
    /// them. What a rate has held back of channels that go on by this one comes first.
    pub fn subscribe_pattern(
        &mut self,
        (id, prefix): (SeatId, &str),
        join: Join,
        writer: &mut impl Writer,
        now_ms: u64,
    ) -> Outcome {
        let Join { policy, position, keys_max, max_rate: rate } = join;
        let mut outcome = Outcome::default();
        if let Some(sub) = self.patterns.sub(id, prefix) {
            let mut round = (writer, now_ms, &mut outcome);
            self.update_pattern((id, sub), join, &mut round);
            return outcome;
        }
        let Some(seat) = self.seats.get(id) else { return outcome };
        let (format, batch) = (seat.session.format.without_alias(), seat.session.batch);
        let mut position = self.loaded + position;
        if let Some(shorter) = self.patterns.shorter(id, prefix) {
            self.settle_pattern((id, shorter), &mut (writer, now_ms, &mut outcome));
            position = self.patterns.position(shorter).unwrap_or(position).max(self.loaded);
        }
        let patterns = &mut self.patterns;
        let all = &mut patterns.all;
        let key = *patterns.table.get_or_insert_with(prefix, || {
            let (members, rated, prefix) = (Vec::new(), Vec::new(), prefix.into());
            let (speakers, latest) = (Speakers::default(), 0);
            narrow(all.insert(Pattern { prefix, members, rated, latest, speakers, keys_max }))
        });
        let Some(pattern) = all.get_mut(key as usize) else { return outcome };
        if patterns.seats.len() <= id {
            patterns.seats.resize_with(id + 1, || None);
        }
        let mine = patterns.seats[id].get_or_insert_default();
        let standing = Standing::Live;
        let seat = narrow(id);
        let member = Member { seat, policy, standing, format, batch, position };
        let member = pattern.enter(member, rate);
        mine.subs.insert(PatternSub { pattern: key, member, rate });
        mine.rated += usize::from(rate.is_some());
        pattern.latest += usize::from(policy == Policy::Latest);
        pattern.keys_max = keys_max;
        patterns.next = None;
        patterns.fence(position);
        self.subscriptions += 1;
        self.recount_lags(id);
        outcome
    }

    /// Ends a subscription to a pattern, and takes the events of the channels that the connection
    /// has neither by name nor by another pattern out of its queue. Those that it has by a shorter
    /// one go on by that, and what a rate has held back of them comes first. Says whether it was
    /// the shard's last of that prefix; `None` when there was none.
    pub fn unsubscribe_pattern(
        &mut self,
        (id, prefix): (SeatId, &str),
        writer: &mut impl Writer,
        now_ms: u64,
    ) -> Option<(bool, Outcome)> {
        let sub = self.patterns.sub(id, prefix)?;
        let mut outcome = Outcome::default();
        if let Some(shorter) = self.patterns.shorter(id, prefix) {
            let round = &mut (writer, now_ms, &mut outcome);
            self.settle_pattern((id, sub), round);
            self.settle_pattern((id, shorter), round);
        }
        self.take_over_by_name(id, prefix, sub);
        let mine = self.patterns.mine(id)?;
        mine.subs.remove(sub.pattern);
        mine.rated -= usize::from(sub.rate.is_some());
        let last = self.leave_pattern(sub).is_some_and(|(_, last)| last);
        let patterns = &self.patterns;
        let seat = self.seats.get_mut(id)?;
        let by_name = |alias| seat.subs.has(alias);
        seat.outbox.end_browse(Some(prefix));
        let purged = seat.outbox.purge_where(|alias, name: &ChannelName| {
            let name = name.as_str();
            name.starts_with(prefix) && !by_name(alias) && !patterns.covers(id, name)
        });
        let mut lags = std::mem::take(&mut self.patterns.mine(id)?.lags);
        lags.retain(|alias, _| {
            let Some(topic) = self.topics.get_mut(alias) else { return false };
            let goes_on = self.patterns.covers(id, topic.channel.as_str());
            if !goes_on {
                topic.end_user();
                if topic.is_spare() {
                    self.topics.remove(alias);
                }
            }
            goes_on
        });
        let mine = self.patterns.mine(id)?;
        mine.lags = lags;
        let topics = &self.topics;
        let outside = |topic: &Topic| !topic.channel.as_str().starts_with(prefix);
        mine.had.retain(|alias, _| topics.get(alias).is_some_and(outside));
        mine.weigh(self.press.account());
        self.recount_lags(id);
        self.patterns.tidy(id);
        outcome.purged += purged;
        Some((last, outcome))
    }

    /// Before a pattern ends: what is on its way to the seat on channels that it has by name as
    /// well is for it, whatever position the name began at.
    fn take_over_by_name(&mut self, id: SeatId, prefix: &str, sub: PatternSub) {
        let Some(seat) = self.seats.get(id) else { return };
        if self.patterns.position(sub).is_none_or(|position| position > self.patterns.batch) {
            return;
        }
        for sub in seat.subs.iter() {
            if let Some(topic) = self.topics.get_mut(&sub.alias)
                && topic.channel.as_str().starts_with(prefix)
            {
                topic.begin_after_head(*sub);
            }
        }
    }

    /// Ends all subscriptions of a seat to patterns, none of which lags any more; what is queued
    /// stays queued.
    pub(super) fn leave_patterns(&mut self, id: SeatId, mut left: impl FnMut(Left<'_>, bool)) {
        let Some(mine) = self.patterns.mine(id).map(std::mem::take) else { return };
        if let Some(seat) = self.seats.get_mut(id) {
            seat.outbox.end_browse(None);
        }
        for alias in mine.lags.keys() {
            let Some(topic) = self.topics.get_mut(alias) else { continue };
            topic.end_user();
            if topic.is_spare() {
                self.topics.remove(alias);
            }
        }
        for sub in mine.subs {
            if let Some((prefix, last)) = self.leave_pattern(sub) {
                left(Left::Prefix(&prefix), last);
            }
        }
        self.patterns.tidy(id);
    }

    fn leave_pattern(&mut self, sub: PatternSub) -> Option<(Box<str>, bool)> {
        let member = self.take_from_pattern(sub)?;
        let patterns = &mut self.patterns;
        let pattern = patterns.all.get_mut(sub.pattern as usize)?;
        pattern.latest -= usize::from(member.policy == Policy::Latest);
        self.subscriptions -= 1;
        patterns.next = None;
        let last = pattern.members.is_empty() && pattern.rated.is_empty();
        let prefix = pattern.prefix.clone();
        if last {
            patterns.table.remove(&prefix);
            patterns.all.remove(sub.pattern as usize);
        }
        Some((prefix, last))
    }

    /// Whether the seat of a subscription by name has the channel by pattern as well.
    pub(super) fn goes_on_by_pattern(&self, id: SeatId, sub: Sub) -> bool {
        let topic = self.topics.get(&sub.alias);
        topic.is_some_and(|topic| self.patterns.covers(id, topic.channel.as_str()))
    }

    /// A subscription by name ends, nothing is held back for it, and its seat has the channel by
    /// pattern as well: it goes on as it stands.
    pub(super) fn hand_to_pattern(&mut self, id: SeatId, sub: Sub) {
        let Some(topic) = self.topics.get_mut(&sub.alias) else { return };
        let route = self.patterns.route(id, topic.channel.as_str());
        let rated = route.is_some_and(|route| route.rate.is_some());
        self.patterns.note_had(id, route, (sub.alias, topic.head), self.press.account());
        let member = topic.members(sub.rate).get(sub.member as usize);
        if let Some(standing) = member.map(|member| member.standing)
            && standing != Standing::Live
            && let Some(mine) = self.patterns.mine(id)
            && let Some(seat) = self.seats.get_mut(id)
        {
            mine.note(sub.alias, standing, self.press.account());
            topic.count_user(false, true, Kept { keys_max: 0, account: &self.tables });
            seat.outbox.count_frames(sub.alias, rated, topic.head);
        }
    }

    /// Lays an event of a channel that nobody has by name. Where somebody has it by pattern, it
    /// has a topic from here on, for as long as that is needed.
    #[cold]
    pub(super) fn lay_by_pattern(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        if !self.patterns.reaches(event) {
            return true;
        }
        let channel = event.channel.clone();
        self.topics.insert(event.alias, Topic::new(channel));
        self.lay(event, now_ns)
    }

    /// Hands a run to those who speak its form and have its channel by pattern and not by name,
    /// once to each: by the longest prefix.
    #[inline(never)]
    pub(super) fn offer_by_pattern(
        &mut self,
        touched: Touched,
        by_name: &mut [Member],
        run: &Rc<Run>,
        round: &mut Round<'_, impl Writer>,
    ) {
        self.patterns.stamp += 1;
        for at in touched.first..touched.end {
            let Some(&key) = self.patterns.found.get(at as usize) else { continue };
            let Some(pattern) = self.patterns.all.get_mut(key as usize) else { continue };
            let members = std::mem::take(&mut pattern.members);
            let format = run.format();
            for member in members.iter().filter(|member| member.format == format) {
                // What was on its way when it came is not for it.
                if member.position > self.patterns.batch {
                    continue;
                }
                let turn = self.turn_of((member.seat, key), by_name, run);
                let Some(standing) = turn else { continue };
                let mut member = Member { standing, position: 0, ..*member };
                if member.batch {
                    self.offer_joined(&mut member, run, round);
                } else {
                    self.offer(&mut member, run, round);
                }
                if member.standing != Standing::Live {
                    self.note_lag(member, standing, run.alias());
                }
                self.bound_lane(member, round);
            }
            if let Some(pattern) = self.patterns.all.get_mut(key as usize) {
                pattern.members = members;
            }
        }
    }

    /// The standing of a member that gets the run by pattern, and has not yet got it. The members
    /// by name without a rate are given.
    fn turn_of(
        &mut self,
        (id, pattern): (u32, u32),
        by_name: &mut [Member],
        run: &Run,
    ) -> Option<Standing> {
        let (stamp, alias, seat) = (self.patterns.stamp, run.alias(), self.seats.get(id as usize)?);
        let mine = self.patterns.mine(id as usize)?;
        if std::mem::replace(&mut mine.stamp, stamp) == stamp {
            return None;
        }
        // All of the run is for one that has the name, whatever position that began at.
        match seat.subs.get(alias) {
            Some(Sub { rate: None, member, .. }) => {
                by_name.get_mut(*member as usize)?.position = 0;
                return None;
            }
            Some(sub) => {
                self.topics.get_mut(&alias)?.begin_with(*sub, run.offset(0));
                return None;
            }
            None => {}
        }
        let lag = if mine.lags.is_empty() { None } else { mine.lags.get(&alias) };
        let standing = lag.copied().unwrap_or(Standing::Live);
        // A longer pattern with a rate is not among those that the run is offered to.
        if mine.rated > 0 && self.patterns.is_rated(id as usize, run.channel().as_str(), pattern) {
            return None;
        }
        Some(standing)
    }

    pub(super) fn note_lag(&mut self, member: Member, before: Standing, alias: Alias) {
        if member.standing == before {
            return;
        }
        if before == Standing::Live
            && let Some(topic) = self.topics.get_mut(&alias)
        {
            topic.count_user(false, true, Kept { keys_max: 0, account: &self.tables });
        }
        if let Some(mine) = self.patterns.mine(member.seat as usize) {
            mine.note(alias, member.standing, self.press.account());
        }
    }

    /// Gives a seat up whose lane has too many notices: what it has lost can no longer be told.
    pub(super) fn bound_lane(&mut self, member: Member, round: &mut Round<'_, impl Writer>) {
        let OutboxLimit { events, .. } = self.limit;
        let Some(seat) = self.seats.get_mut(member.seat as usize) else { return };
        if seat.outbox.lane_len() > LANE_MIN.max(LANE_TIMES.saturating_mul(events))
            && !std::mem::replace(&mut seat.over, true)
        {
            round.outcome.overflowed.push(member.seat as usize);
        }
    }

    /// Begins a look at the tables that are held for patterns, unless one is under way: each goes
    /// where nobody lags and nothing was published since the look before.
    pub(super) fn look_at_tables(&mut self) {
        if self.patterns.unseen == 0 {
            self.patterns.unseen = self.patterns.held.len();
        }
        self.rest_tables();
    }

    /// Goes on with that look, at a part of the tables.
    pub fn rest_tables(&mut self) {
        for _ in 0..TABLES_A_LOOK {
            let Some(at) = self.patterns.unseen.checked_sub(1) else { break };
            self.patterns.unseen = at;
            if let Some(alias) = self.patterns.held.get(at).copied()
                && !self.goes_on_holding(alias)
            {
                self.patterns.held.swap_remove(at);
            }
        }
        if self.patterns.held.is_empty() {
            self.patterns.held = Vec::new();
        }
    }

    fn goes_on_holding(&mut self, alias: Alias) -> bool {
        let Some(topic) = self.topics.get_mut(&alias) else { return false };
        let Some(latest) = &mut topic.latest else { return false };
        if std::mem::take(&mut latest.fresh) || latest.users > 1 {
            return true;
        }
        latest.held = false;
        topic.end_user();
        if topic.is_spare() {
            self.topics.remove(&alias);
        }
        false
    }
}
