//! The time before subscriptions, seat by seat in turns; and what a subscription to a pattern is
//! shown first: the newest events of each of its channels, read as the socket takes them.
//!
//! A subscription to a pattern begins at a place in the shard's mail. Of a channel the events from
//! there on come as they are published, and stand in the lane behind what is shown, or a hole does
//! that they left there. So what was read of a channel is shown up to the first of these, once all
//! that had been published until then was handed around: no event is shown that comes as well, and
//! none is left out for one that does not.

use super::seat::Listed;
use super::{Hub, SeatId, narrow};
use crate::core::account::Charge;
use crate::core::browse::Shelf;
use crate::core::outbox::{Browse, Had, Leaf, Slice};
use crate::proto::name::Alias;

impl Hub {
    /// Shows a seat, behind what is queued for it, the newest events of the channels of a pattern
    /// that it has just subscribed to: of those that it did not have before.
    pub fn browse(&mut self, id: SeatId, prefix: &str) {
        if self.patterns.shorter(id, prefix).is_some() {
            return;
        }
        let longer = self.patterns.prefixes(id).filter(|other| other.len() > prefix.len());
        let longer = longer.filter(|other| other.starts_with(prefix)).map(Box::from).collect();
        let Some(seat) = self.seats.get_mut(id) else { return };
        let topics = &self.topics;
        let under = |alias: &Alias| {
            topics.get(alias).is_some_and(|topic| topic.channel.as_str().starts_with(prefix))
        };
        let names = seat.subs.iter().map(|sub| sub.alias).filter(under).collect();
        let charge = Charge::new(self.press.account(), 0);
        seat.outbox.browse(Browse::new(prefix.into(), Had::new(names, longer), charge));
        self.mark_dirty(id);
    }

    /// Whether any seat has the pattern with that prefix.
    pub fn is_on_prefix(&self, prefix: &str) -> bool {
        self.patterns.table.get(prefix).is_some()
    }

    /// Puts a seat, whose next writes are to be fetched out of the past, behind the others of which
    /// that is true. Whether it is the first.
    pub fn queue_recall(&mut self, id: SeatId) -> bool {
        let Some(seat) = self.seats.get_mut(id) else { return false };
        if std::mem::replace(&mut seat.recalling, true) {
            return false;
        }
        self.recalls.push_back(Listed { seat: narrow(id), client: seat.author.client });
        self.recalls.len() == 1
    }

    /// The next of them.
    pub fn next_recall(&mut self) -> Option<SeatId> {
        while let Some(listed) = self.recalls.pop_front() {
            if let Some(seat) = listed.find(&mut self.seats) {
                seat.recalling = false;
                return Some(listed.seat as usize);
            }
        }
        None
    }

    /// How many there are.
    pub fn recalls(&self) -> usize {
        self.recalls.len()
    }

    /// Fetches some of what a seat is to be shown of a pattern, where that is next. `false` when
    /// it is not, or has to wait for mail: then the seat is put among those to be written later.
    pub fn turn_page(&mut self, id: SeatId, shelf: &impl Shelf) -> bool {
        let (loaded, handed) = (self.loaded, self.patterns.batch);
        let Some(seat) = self.seats.get_mut(id) else { return false };
        let client = seat.author.client;
        let Some(browse) = seat.outbox.browsed() else { return false };
        if !browse.read(shelf, &mut self.press, loaded) {
            seat.outbox.end_browsed();
            return true;
        }
        let page = match browse.take_page(handed) {
            Ok(page) => page,
            Err(ready_at) => {
                self.patterns.waiting.push((ready_at, Listed { seat: narrow(id), client }));
                return false;
            }
        };
        let shown: Vec<_> = page.iter().filter_map(|leaf| self.lay_leaf(id, leaf)).collect();
        if let Some(seat) = self.seats.get_mut(id) {
            for Slice { run, from, to } in shown.into_iter().rev() {
                seat.outbox.show_past(&run, (from, to), client);
            }
        }
        true
    }

    /// What of a leaf is for a seat, as frames of a run.
    fn lay_leaf(&mut self, id: SeatId, leaf: &Leaf) -> Option<Slice> {
        let seat = self.seats.get_mut(id)?;
        let by_name = seat.subs.has(leaf.alias);
        let format = seat.session.format;
        let format = if by_name { format } else { format.without_alias() };
        let first = seat.outbox.first_of(leaf.alias);
        let held = self.held_after(id, leaf);
        let upto = first.map_or(leaf.upto, |first| leaf.upto.min(first - 1));
        let upto = held.map_or(upto, |held| upto.min(held));
        if leaf.after >= upto {
            return None;
        }
        let (run, (from, to)) = self.press.recall(leaf.pin.chunk(), (leaf.after, upto), format)?;
        (from < to).then_some(Slice { run, from, to })
    }

    /// The offset after which a rate holds back events of the channel for a seat, which are yet to
    /// come.
    fn held_after(&self, id: SeatId, leaf: &Leaf) -> Option<u64> {
        if let Some(sub) = self.sub(id, leaf.alias) {
            return self.topics.get(&leaf.alias)?.held_after(sub);
        }
        let route = self.patterns.route(id, leaf.channel.as_str())?;
        let (after, member) = self.held((id, route), leaf.alias)?;
        Some(self.topics.get(&leaf.alias)?.known_after(after.max(member.position)))
    }

    /// Seats that wait to be shown something go on, where all that they wait for was handed around.
    #[cold]
    pub(super) fn wake_browsers(&mut self) {
        let mut waiting = std::mem::take(&mut self.patterns.waiting);
        waiting.retain(|(ready_at, listed)| {
            let ready = *ready_at <= self.patterns.batch;
            if ready && listed.find(&mut self.seats).is_some() {
                self.mark_dirty(listed.seat as usize);
            }
            !ready
        });
        self.patterns.waiting = waiting;
    }
}
