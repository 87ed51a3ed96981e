//! Members that lag under `latest`: what passes by them, and what they are shown when there is room.

use super::seat::{Member, Round, Standing};
use super::{Hub, SeatId, Topic, Writer, narrow};
use crate::core::account::Account;
use crate::core::latest::Latest;
use crate::core::outbox::{Reader, Shown};
use crate::core::policy::Policy;
use crate::core::run::Run;
use crate::proto::name::ClientId;

impl Hub {
    /// The frames of `run` from `from` on pass by a member that lags.
    pub(super) fn miss(
        &mut self,
        member: &mut Member,
        run: &Run,
        from: u32,
        round: &mut Round<'_, impl Writer>,
    ) {
        let mut meant = run.len() - from;
        // Nothing about it changes, but for the end of its hole, which is the table's head.
        let counted = !run.hidden().is_empty() || run.is_conflated();
        if member.standing == Standing::Told || counted {
            let Some(seat) = self.seats.get_mut(member.seat as usize) else { return };
            let client = seat.author.client;
            let own = |(at, hidden_from): &&(u32, ClientId)| *at >= from && *hidden_from == client;
            meant -= narrow(run.hidden().iter().filter(own).count());
            let missed = seat.outbox.miss(run, from, client);
            seat.weigh(round.account);
            member.standing = if missed { Standing::Lagging } else { Standing::Told };
        }
        round.outcome.dropped[Policy::Latest as usize] += u64::from(meant);
    }

    /// Ends the lagging of all subscriptions of a seat, which are about to end.
    pub(super) fn give_up(&mut self, id: SeatId) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        if seat.outbox.has_lag() {
            let topics = &self.topics;
            let head = |alias| Some(topics.get(&alias)?.latest.as_ref()?.head());
            let dropped = seat.outbox.give_up_where(head);
            seat.lose(dropped);
        }
    }

    /// Once all is written that could be: fetches what a subscription that lags has missed.
    /// `false` when there is nothing.
    pub fn refill(&mut self, id: SeatId, now_ns: impl Fn() -> u64) -> bool {
        while let Some(seat) = self.seats.get_mut(id) {
            if let Some((chunk, meant)) = seat.outbox.next_chunk() {
                let format = seat.session.format;
                if let Some((run, frames)) = self.press.recall(&chunk, meant, format) {
                    seat.outbox.show_past(&run, frames, seat.author.client);
                }
                continue;
            }
            let Some(alias) = seat.outbox.lagging() else { return !seat.outbox.is_idle() };
            let client = seat.author.client;
            let Some(topic) = self.topics.get_mut(&alias) else {
                // It has been left: nobody is there to be told.
                seat.outbox.purge(alias);
                continue;
            };
            let sub = seat.subs.get(alias);
            let (members, latest) = topic.parts(sub.and_then(|sub| sub.rate));
            let member = sub.zip(members).and_then(|(sub, all)| all.get_mut(sub.member as usize));
            let by_name = member.is_some();
            // Whether it still uses the table once it has caught up.
            let uses = member.as_ref().is_some_and(|member| member.policy == Policy::Latest);
            let (standing, position) = match member {
                Some(member) => (Some(&mut member.standing), Some(&mut member.position)),
                None => (self.patterns.lag_of(id, alias), None),
            };
            let (Some(latest), Some(standing)) = (latest, standing) else {
                seat.outbox.purge(alias);
                continue;
            };
            let format = seat.session.format;
            let format = if by_name { format } else { format.without_alias() };
            let reader = Reader { client, format, encoder: self.press.encoder() };
            match seat.outbox.show(latest, reader, now_ns()) {
                Shown::CaughtUp => {
                    *standing = Standing::Live;
                    if !uses {
                        topic.end_user();
                    }
                    if !by_name {
                        let account = self.press.account().clone();
                        self.patterns.end_lag(id, alias, &account);
                    }
                    if topic.is_spare() {
                        self.topics.remove(&alias);
                    }
                }
                Shown::Later => {}
                Shown::Ready { told, upto, dropped } => {
                    seat.lose(dropped);
                    // Events that a throttled member was not to get yet are in the hole as well.
                    if let Some(position) = position {
                        *position = (*position).max(upto);
                    }
                    *standing = if told { Standing::Told } else { Standing::Lagging };
                    if !by_name {
                        let route = self.patterns.route(id, topic.channel.as_str());
                        self.patterns.note_had(id, route, (alias, upto), self.press.account());
                    }
                    return true;
                }
            }
        }
        false
    }
}

/// What a table keeps, and where its memory counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) keys_max: usize,
    pub(super) account: &'a Account,
}

impl Topic {
    /// A member that needed the newest event of each key (`before`), or did not, does so or not.
    pub(super) fn count_user(&mut self, before: bool, after: bool, kept: Kept<'_>) {
        if after {
            let new = || Box::new(Latest::new(kept.keys_max, kept.account));
            self.latest.get_or_insert_with(new).users += 1;
        }
        if before {
            self.end_user();
        }
    }

    /// A member needs the newest event of each key no more.
    pub(super) fn end_user(&mut self) {
        self.latest.take_if(|latest| {
            latest.users -= 1;
            latest.users == 0
        });
    }

    /// Whether nobody needs it: it is there for members, and for those who have the channel by
    /// pattern and need its table, or the run that is being filled.
    pub(super) fn is_spare(&self) -> bool {
        self.members.is_empty()
            && self.groups.is_none()
            && self.latest.is_none()
            && self.open.is_none()
    }
}
