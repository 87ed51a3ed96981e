//! What changes the way on which a seat has a channel: a name, a longer pattern or another rate
//! comes or goes. What was held back on the old way comes first.

use super::implied::Moment;
use super::pattern::{Late, PatternSub};
use super::seat::{Listed, Member};
use super::{Hub, Join, Outcome, SeatId, Writer, narrow};
use crate::core::policy::Policy;
use crate::proto::name::{Alias, ClientId};

impl Hub {
    /// Before a seat subscribes to a channel by name that it has by pattern: gives it what the
    /// rate of that has held back.
    pub fn settle_channel(
        &mut self,
        (id, alias): (SeatId, Alias),
        writer: &mut impl Writer,
        now_ms: u64,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let topic = self.topics.get(&alias);
        let route = topic.and_then(|topic| self.patterns.route(id, topic.channel.as_str()));
        if let Some(sub) = route.filter(|_| !self.is_subscribed(id, alias)) {
            self.settle_one((id, sub), alias, &mut (writer, now_ms, &mut outcome));
        }
        outcome
    }

    /// Gives a seat all that the rates of its patterns have held back.
    pub(super) fn settle_patterns(&mut self, id: SeatId, moment: &mut Moment<'_, impl Writer>) {
        for sub in self.patterns.subs(id).to_vec() {
            self.settle_pattern((id, sub), moment);
        }
    }

    /// Gives a seat what the rate of one of its patterns has held back.
    pub(super) fn settle_pattern(
        &mut self,
        (id, sub): (SeatId, PatternSub),
        moment: &mut Moment<'_, impl Writer>,
    ) {
        for alias in self.owing(sub) {
            self.settle_one((id, sub), alias, moment);
        }
        self.forget_had(id, sub);
        if let Some(pattern) = self.patterns.all.get_mut(sub.pattern as usize)
            && sub.rate.is_some()
            && let Some(members) = pattern.list_mut(sub.rate)
            && let Some(member) = members.get_mut(sub.member as usize)
        {
            member.position = member.position.max(self.loaded);
        }
    }

    /// A seat is owed nothing of what was loaded so far by that pattern.
    fn forget_had(&mut self, id: SeatId, sub: PatternSub) {
        let Some(mine) = self.patterns.mine(id).filter(|mine| !mine.had.is_empty()) else { return };
        let mut had = std::mem::take(&mut mine.had);
        had.retain(|alias, _| {
            let topic = self.topics.get(alias);
            let route = topic.and_then(|topic| self.patterns.route(id, topic.channel.as_str()));
            route.is_some_and(|route| route.pattern != sub.pattern)
        });
        if let Some(mine) = self.patterns.mine(id) {
            mine.had = had;
            mine.weigh(self.press.account());
        }
    }

    /// The channels of which a pattern's groups with a rate owe something to that member: those
    /// that had events since it was last given all.
    fn owing(&self, sub: PatternSub) -> Vec<Alias> {
        let Some(position) = self.patterns.position(sub) else { return Vec::new() };
        let pattern = self.patterns.all.get(sub.pattern as usize);
        let mut rated = pattern.into_iter().flat_map(|pattern| &pattern.rated);
        let rated = rated.find(|rated| Some(rated.rate) == sub.rate);
        rated.map_or(Vec::new(), |rated| rated.recent.range(position..).map(|(_, a)| *a).collect())
    }

    fn settle_one(
        &mut self,
        (id, sub): (SeatId, PatternSub),
        alias: Alias,
        moment: &mut Moment<'_, impl Writer>,
    ) {
        let Some((after, mut member)) = self.held((id, sub), alias) else { return };
        let after = member.position.max(after);
        if let Some(mine) = self.patterns.mine(id) {
            mine.forget_had(alias, self.press.account());
        }
        self.give((alias, after), std::slice::from_mut(&mut member), moment);
    }

    /// What is held back for a seat by a pattern, of one channel: the events after an offset, for
    /// a member.
    pub(super) fn held(
        &self,
        (id, sub): (SeatId, PatternSub),
        alias: Alias,
    ) -> Option<(u64, Member)> {
        let pattern = self.patterns.all.get(sub.pattern as usize)?;
        let rated = pattern.rated.iter().find(|rated| Some(rated.rate) == sub.rate)?;
        let member = rated.members.get(sub.member as usize)?;
        debug_assert_eq!(member.seat as usize, id, "a seat and its member name each other");
        let group = rated.groups.get(&alias).filter(|group| group.owes())?;
        let latest = self.topics.get(&alias)?.latest.as_ref()?;
        let came = member.position > group.since;
        let loads = if came { latest.loads(group.flushed) } else { Vec::new() };
        let member = self.owed_to(*member, (alias, sub.pattern), (group.since, &loads))?;
        Some((group.flushed, member))
    }

    /// How many events a seat is yet to be brought that its patterns hold back.
    pub(super) fn held_back_by_pattern(&self, id: SeatId, client: ClientId) -> u64 {
        let of = |sub: PatternSub, alias: Alias| {
            let (after, member) = self.held((id, sub), alias).filter(|(_, m)| m.is_live())?;
            let newer = self.topics.get(&alias)?.latest.as_ref()?.newer(after.max(member.position));
            Some(newer.filter(|event| event.hidden_from != Some(client)).count() as u64)
        };
        let subs = self.patterns.subs(id).iter();
        let all = subs.flat_map(|sub| self.owing(*sub).into_iter().map(|alias| (*sub, alias)));
        all.filter_map(|(sub, alias)| of(sub, alias)).sum()
    }

    /// Changes the policy and the rate of a subscription to a pattern. Where it lags it goes on
    /// with them once it has caught up; what the old rate has held back comes first.
    pub(super) fn update_pattern(
        &mut self,
        (id, sub): (SeatId, PatternSub),
        join: Join,
        moment: &mut Moment<'_, impl Writer>,
    ) {
        let Join { policy, keys_max, max_rate: rate, .. } = join;
        if sub.rate != rate {
            // Under the policy that it had.
            self.settle_pattern((id, sub), moment);
        }
        let Some(pattern) = self.patterns.all.get_mut(sub.pattern as usize) else { return };
        pattern.keys_max = keys_max;
        let members = pattern.list_mut(sub.rate);
        let member = members.and_then(|members| members.get_mut(sub.member as usize));
        let Some(member) = member else { return };
        let before = std::mem::replace(&mut member.policy, policy);
        pattern.latest += usize::from(policy == Policy::Latest);
        pattern.latest -= usize::from(before == Policy::Latest);
        if sub.rate == rate {
            return;
        }
        let Some(member) = self.take_from_pattern(sub) else { return };
        let Some(pattern) = self.patterns.all.get_mut(sub.pattern as usize) else { return };
        let position = member.position.max(self.loaded);
        let at = pattern.enter(Member { position, ..member }, rate);
        self.patterns.fence(position);
        if let Some(mine) = self.patterns.mine(id)
            && let Some(own) = mine.subs.get_mut(sub.pattern)
        {
            *own = PatternSub { member: at, rate, ..sub };
            mine.rated += usize::from(rate.is_some());
            mine.rated -= usize::from(sub.rate.is_some());
        }
        self.recount_lags(id);
    }

    /// The ways on which a seat has channels by pattern have changed: where it lags, its losses
    /// are counted accordingly from here on.
    pub(super) fn recount_lags(&mut self, id: SeatId) {
        let Some(Some(mine)) = self.patterns.seats.get(id) else { return };
        let Some(seat) = self.seats.get_mut(id) else { return };
        for alias in mine.lags.keys() {
            let Some(topic) = self.topics.get(alias) else { continue };
            let route = self.patterns.route(id, topic.channel.as_str());
            let rated = route.is_some_and(|route| route.rate.is_some());
            seat.outbox.count_frames(*alias, rated, topic.head);
        }
    }

    /// A seat that has just subscribed by name may have the channel by pattern as well. Then what
    /// is on its way to that one is for the name, whatever position it began at.
    pub(super) fn begin_where_patterns_do(&mut self, id: SeatId, alias: Alias) {
        if self.patterns.count(id) == 0 {
            return;
        }
        let Some(sub) = self.sub(id, alias) else { return };
        let Some(topic) = self.topics.get_mut(&alias) else { return };
        let begins = self.patterns.begins(id, topic.channel.as_str());
        match begins.map(|(_, _, position)| position).min() {
            Some(fence) if fence > self.patterns.batch => {
                let Some(seat) = self.seats.get(id) else { return };
                let listed = Listed { seat: narrow(id), client: seat.author.client };
                self.patterns.late.push(Late { fence, listed, alias });
            }
            Some(_) => topic.begin_after_head(sub),
            None => {}
        }
    }

    /// All mail from before some subscriptions to patterns was handed around.
    #[cold]
    pub(super) fn begin_late(&mut self) {
        let mut late = std::mem::take(&mut self.patterns.late);
        late.retain(|Late { fence, listed, alias }| {
            if *fence > self.patterns.batch {
                return true;
            }
            let id = listed.seat as usize;
            let there = listed.find(&mut self.seats).is_some();
            if let Some(sub) = self.sub(id, *alias).filter(|_| there)
                && let Some(topic) = self.topics.get_mut(alias)
                && self.patterns.covers(id, topic.channel.as_str())
            {
                topic.begin_after_head(sub);
            }
            false
        });
        self.patterns.late = late;
    }
}
