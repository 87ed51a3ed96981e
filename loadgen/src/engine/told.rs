//! What a server says besides events: that a subscription stands or has ended, and what was lost.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::ledger::{Arrival, Ledger, Meaning};
use crate::engine::shared::Phase;
use crate::fault::Fault;
use crate::verdict::{Kind, Place, Seat, Stands};
use crate::wire::marks::Push;

impl Ledger {
    pub(super) fn told(&mut self, text: &[u8], from: Arrival) -> Meaning {
        let Ok(push) = serde_json::from_slice::<Push<'_>>(text) else {
            return Meaning::Wrong(Fault::not_json(text));
        };
        let channel = push.channel.as_ref().and_then(|name| self.channel(name.as_bytes()));
        match push.kind.as_ref() {
            "subscribed" if push.pattern => self.by_pattern(&push, from),
            "subscribed" => self.subscribed(channel, &push, from),
            "unsubscribed" if self.unsubscribed(self.addressed(channel, &push, from)) => {
                Meaning::Unsubscribed { id: push.id.unwrap_or(0) }
            }
            "lagged" => self.lagged(channel, &push, (text, from)),
            "event" => Meaning::Wrong(Fault::unreadable(text)),
            // The close frame behind it says the same.
            "disconnect" if from.slow => Meaning::Counted,
            "error" | "unsubscribed" | "disconnect" => {
                // Nothing more is owed of what the server has ended.
                match push.kind.as_ref() {
                    "disconnect" => self.ended(from.at),
                    "unsubscribed" => {
                        let seats = self.addressed(channel, &push, from);
                        seats.for_each(|seat| self.leave(seat));
                    }
                    _ => {}
                }
                let why = push.message.or(push.reason).unwrap_or_default();
                Meaning::Wrong(Fault::Denied(format!("{}: {why}", push.kind)))
            }
            _ => Meaning::Counted,
        }
    }

    /// Events are told lost.
    fn lagged(
        &mut self,
        channel: Option<u32>,
        push: &Push<'_>,
        (text, from): (&[u8], Arrival),
    ) -> Meaning {
        let first = push.from.as_ref().and_then(serde_json::Value::as_u64);
        let (Some(first), Some(last), Some(dropped)) = (first, push.to, push.dropped) else {
            return self.malformed(channel, (0, 0), (text, from));
        };
        if last < first || first == 0 {
            return self.malformed(channel, (first, last), (text, from));
        }
        self.may_show = true;
        let lost = (last - first).saturating_add(1);
        let told = &mut self.count(from).told;
        *told = told.saturating_add(lost);
        let seat = self.seat(channel, from);
        seat.into_iter().for_each(|seat| drop(self.shown.remove(&seat)));
        let before = seat.and_then(|seat| self.seats[seat].position()).map_or(0, |(_, last)| last);
        self.check((channel, seat), (first, last), from, |seat| seat.lagged(first, last));
        if let Some((seat, holes)) = seat.zip(self.holes.as_mut()) {
            let broken = holes.told(seat, (first, last), before);
            broken.into_iter().for_each(|broken| self.accuse(channel, from, broken));
        }
        // A hole may have events that were left out as was asked.
        let fewer = self.wanted.is_throttled();
        if if fewer { dropped > lost } else { dropped != lost } {
            self.accuse(channel, from, (Kind::Miscounted, first, last));
        }
        Meaning::Counted
    }

    fn malformed(
        &mut self,
        channel: Option<u32>,
        (first, last): (u64, u64),
        (text, from): (&[u8], Arrival),
    ) -> Meaning {
        self.accuse(channel, from, (Kind::Malformed, first, last));
        Meaning::Wrong(Fault::unreadable(text))
    }

    fn subscribed(&mut self, channel: Option<u32>, push: &Push<'_>, from: Arrival) -> Meaning {
        let Some((at, channel)) = self.seat(channel, from).zip(channel) else {
            return Meaning::Wrong(Fault::OtherChannel);
        };
        self.coded.call(at, push.alias);
        let answer = push.id.map_or(Meaning::Counted, |id| Meaning::Subscribed { id });
        if push.updated {
            return answer;
        }
        match push.recovered {
            Some(true) => self.recovered.0 += 1,
            Some(false) => self.recovered.1 += 1,
            // Who does not say that it recovered did not.
            None => self.recovered.1 += u64::from(self.seats[at].is_asked()),
        }
        // Behind a place the newest event of each key may be shown, and where it recovered none is.
        self.may_show |= push.offset > Some(0) && push.recovered != Some(true);
        let Some(epoch) = self.epochs.number(push.epoch.as_deref().unwrap_or_default()) else {
            return Meaning::Wrong(Fault::TooManyEpochs);
        };
        let said = push.offset.unwrap_or(0);
        let base = &mut self.bases[channel as usize];
        base.saw(epoch, said, from.phase == Phase::Open);
        let top = self.wanted.made(channel, from.made).map(|made| base.low.saturating_add(made));
        let offset = top.map_or(said, |top| said.min(top));
        if offset < said {
            self.accuse(Some(channel), from, (Kind::Ahead, offset + 1, said));
        }
        self.shown.remove(&at);
        self.holes.iter_mut().for_each(|holes| holes.forget(at));
        let place = Place { epoch, offset, recovered: push.recovered };
        let left = self.seats[at].position().filter(|left| left.0 == epoch);
        if push.recovered == Some(true) {
            let missed = left.map_or(0, |(_, left)| offset.saturating_sub(left));
            self.owed = self.owed.saturating_add(missed);
            if missed > 0 {
                self.catching.insert(at, offset);
            }
        }
        if let Some(broken) = self.seats[at].subscribed(place) {
            self.accuse(Some(channel), from, broken);
        }
        answer
    }

    /// A pattern stands: of each of its channels, whatever is published from here on is owed.
    fn by_pattern(&mut self, push: &Push<'_>, from: Arrival) -> Meaning {
        let wanted = Arc::clone(&self.wanted);
        let name = push.channel.as_deref().and_then(|name| name.strip_suffix('*'));
        if !wanted.subscribing.pattern || name != Some(&wanted.subscribing.prefix) {
            return Meaning::Wrong(Fault::OtherChannel);
        }
        let answer = push.id.map_or(Meaning::Counted, |id| Meaning::Subscribed { id });
        // Patterns tell no epochs; all channels are in one that nobody names.
        let Some(epoch) = self.epochs.number("") else {
            return Meaning::Wrong(Fault::TooManyEpochs);
        };
        if push.updated {
            return answer;
        }
        let early = from.phase == Phase::Open;
        for (slot, seat) in (0..).zip(self.of_command(from.at, 0)) {
            let channel = wanted.channel(from.connection, slot);
            // No channel of this run has an event before its publisher begins.
            let made = wanted.made(channel, from.made).filter(|_| !early).unwrap_or(0);
            self.may_show |= made > 0;
            self.bases[channel as usize].saw(epoch, 0, early);
            self.shown.remove(&seat);
            self.holes.iter_mut().for_each(|holes| holes.forget(seat));
            self.seats[seat].joined(epoch, made);
        }
        answer
    }

    /// The seats that an answer is about.
    fn addressed(&self, channel: Option<u32>, push: &Push<'_>, from: Arrival) -> Range<usize> {
        let is_pattern = self.wanted.subscribing.pattern
            && push.channel.as_ref().is_some_and(|name| name.ends_with('*'));
        if is_pattern {
            return self.of_command(from.at, 0);
        }
        self.seat(channel, from).map_or(0..0, |seat| seat..seat + 1)
    }

    /// Whether a subscription has ended because it was asked to.
    fn unsubscribed(&mut self, seats: Range<usize>) -> bool {
        let was_asked =
            self.seats[seats.clone()].first().map(Seat::stands) == Some(Stands::Leaving);
        if was_asked {
            seats.for_each(|seat| self.leave(seat));
        }
        was_asked
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
