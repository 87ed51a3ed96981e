//! One thread's books: what each of its connections has received, what it was told, and how late.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::engine::alike::Alike;
use crate::engine::coded::Coded;
use crate::engine::conduct::Conduct;
use crate::engine::epochs::{Base, Epochs};
use crate::engine::holes::Holes;
use crate::engine::lasts::Lasts;
use crate::engine::shared::Phase;
use crate::engine::wanted::Wanted;
use crate::fault::Fault;
use crate::latency::Latency;
use crate::plan::{self, Span};
use crate::series::Slices;
use crate::verdict::{Broken, Kind, Place, Seat, Stands, Verdict};
use crate::wire::marks::{self, Event, Marks};

/// Where a text came from, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// The connection's place on its thread.
    pub(crate) at: usize,
    /// Its number in the run.
    pub(crate) connection: u32,
    /// Whether it is one of those that are slow on purpose.
    pub(crate) slow: bool,
    /// Whether its latency does not count.
    pub(crate) apart: bool,
    pub(crate) now: u64,
    pub(crate) phase: Phase,
    pub(crate) measured: Span,
    /// Events that the publisher has made, over all channels.
    pub(crate) made: u64,
}

/// What a text means to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Counted,
    /// One subscription stands; the answer to command `id`.
    Subscribed {
        id: u64,
    },
    /// One subscription has ended; the answer to command `id`.
    Unsubscribed {
        id: u64,
    },
    Wrong(Fault),
}

/// Events that came and events that were told lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) delivered: u64,
    pub(crate) told: u64,
    /// Latest values that were shown again.
    pub(crate) shown: u64,
}

/// The books. Invariant: `seats` has `subscriptions` entries for each connection of the thread.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(super) wanted: Arc<Wanted>,
    pub(super) marks: Marks,
    pub(super) seats: Vec<Seat>,
    lines: bool,
    /// What the last event was like.
    pub(super) alike: Alike,
    pub(super) coded: Coded,
    /// Whether events are looked at for being shown again, which costs a fifth of what an event
    /// does: without `verify`, from the first that were told lost on, or the first subscription to
    /// what has events already.
    pub(super) may_show: bool,
    until_sample: u64,
    dice: fastrand::Rng,
    /// Whether seats follow every event: to judge it, or to know where a connection was cut.
    pub(super) follows: bool,
    pub(crate) epochs: Epochs,
    /// Where each channel stood when it was subscribed to.
    pub(crate) bases: Vec<Base>,
    /// The keys that each seat was shown since it last subscribed or was told of a loss, as hashes.
    pub(super) shown: HashMap<usize, HashSet<u64>>,
    /// What is to be shown under `latest`; `None` where that was not asked for or nobody looks.
    pub(super) holes: Option<Holes>,
    pub(crate) all: Count,
    /// Of connections that are slow on purpose.
    pub(crate) slow: Count,
    /// Subscriptions that were answered with `recovered`: true, and false.
    pub(crate) recovered: (u64, u64),
    /// Events that were missed meanwhile and are owed by the former.
    pub(crate) owed: u64,
    /// Seats that wait for what they missed, and the last offset of it.
    pub(super) catching: HashMap<usize, u64>,
    /// What is to be recorded still: when the last events were due and came, and how many did so.
    same: ((u64, u64), u32),
    pub(crate) latency: Latency,
    /// How old what slow connections see is, while it is measured.
    pub(crate) ages: Latency,
    pub(crate) slices: Slices,
    /// With `until_last`.
    pub(crate) lasts: Lasts,
    pub(crate) verdict: Verdict,
}

impl Ledger {
    pub(crate) fn new(wanted: Arc<Wanted>, connections: usize) -> Self {
        let seats = connections * wanted.subscribing.subscriptions as usize;
        Self {
            marks: Marks::new(),
            seats: vec![Seat::default(); seats],
            lines: wanted.target.is_batched(),
            alike: Alike::default(),
            coded: Coded::new(wanted.target.format, seats),
            until_sample: 0,
            dice: fastrand::Rng::with_seed(0x5EED),
            follows: wanted.subscribing.verify
                || matches!(wanted.subscribing.conduct, Conduct::Cut(_)),
            epochs: Epochs::default(),
            bases: vec![Base::default(); wanted.subscribing.channels as usize],
            shown: HashMap::new(),
            holes: wanted.subscribing.shows_latest().then(|| Holes::new(wanted.subscribing.keys)),
            all: Count::default(),
            slow: Count::default(),
            recovered: (0, 0),
            owed: 0,
            catching: HashMap::new(),
            same: ((0, 0), 0),
            latency: Latency::new(),
            ages: Latency::new(),
            slices: Slices::new(),
            lasts: Lasts::default(),
            verdict: Verdict::default(),
            may_show: wanted.subscribing.verify,
            wanted,
        }
    }

    /// Takes the text of one frame.
    pub(crate) fn text(&mut self, text: &[u8], from: Arrival, each: &mut impl FnMut(Meaning)) {
        if !self.lines {
            return each(self.message(text, from));
        }
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            each(self.message(line, from));
        }
    }

    fn message(&mut self, text: &[u8], from: Arrival) -> Meaning {
        match marks::event(text) {
            Some(event) => self.event(&event, from),
            None => self.told(text, from),
        }
    }

    pub(super) fn count(&mut self, from: Arrival) -> &mut Count {
        if from.slow { &mut self.slow } else { &mut self.all }
    }

    pub(super) fn event(&mut self, event: &Event<'_>, from: Arrival) -> Meaning {
        let is_snapshot = self.may_show && self.marks.is_snapshot(event);
        let channel = if self.follows || self.wanted.subscribing.until_last {
            self.channel(event.channel)
        } else {
            None
        };
        if is_snapshot {
            // What is shown again is neither a delivery nor in time.
            self.snapshot((self.marks.key(event), event.offset()), channel, from);
            if let Some(due) = self.marks.due(event).filter(|_| from.slow) {
                self.aged(due, from);
            }
            return Meaning::Counted;
        }
        if self.follows {
            let offset = event.offset();
            let seat = self.seat(channel, from);
            self.check((channel, seat), (offset, offset), from, |seat| seat.event(offset));
        }
        self.count(from).delivered += 1;
        if self.is_sample()
            && let Some(due) = self.marks.due(event)
        {
            self.arrived(due, channel.map(|channel| (channel, event.offset())), from);
        }
        Meaning::Counted
    }

    /// Takes a message of a server that is not Weir: its events are known by their marks alone.
    pub(crate) fn foreign(&mut self, text: &[u8], from: Arrival) {
        let mut rest = text;
        while let Some((event, behind)) = self.marks.foreign(rest) {
            rest = behind;
            let named = event.channel.and_then(|channel| u32::try_from(channel).ok());
            let channel = named.unwrap_or_else(|| self.wanted.channel(from.connection, 0));
            if self.wanted.subscribing.verify {
                let seq = (event.seq, event.seq);
                let seat = self.seat(Some(channel), from);
                self.check((Some(channel), seat), seq, from, |seat| seat.event(event.seq));
            }
            self.count(from).delivered += 1;
            if self.is_sample() {
                self.arrived(event.due, Some((channel, event.seq)), from);
            }
        }
    }

    /// Whether this event's due time is looked at: one in `sample`, drawn so that no order of the
    /// connections is a sample of itself.
    #[inline]
    pub(super) fn is_sample(&mut self) -> bool {
        if self.until_sample > 0 {
            self.until_sample -= 1;
            return false;
        }
        self.draw();
        true
    }

    /// Draws how many events are passed over until the next sample.
    #[cold]
    fn draw(&mut self) {
        let others = self.wanted.subscribing.sample.saturating_sub(1);
        if others > 0 {
            self.until_sample = self.dice.u64(0..=others.saturating_mul(2));
        }
    }

    /// Records how long an event took; `place` is its channel and offset.
    #[inline]
    pub(super) fn arrived(&mut self, due: u64, place: Option<(u32, u64)>, from: Arrival) {
        if from.apart || !from.measured.has(due) {
            return self.aged(due, from);
        }
        if (due, from.now) != self.same.0 {
            self.record();
            self.same.0 = (due, from.now);
        }
        self.same.1 += 1;
        if let Some(place) = place.filter(|_| self.wanted.subscribing.until_last) {
            self.lasts.note(place, due, from.now);
        }
    }

    /// What a slow connection sees, event or latest value, is as old as this.
    pub(super) fn aged(&mut self, due: u64, from: Arrival) {
        if from.slow && from.phase == Phase::Measure {
            self.ages.record(plan::latency(due, from.now));
        }
    }

    /// Records the latency that the last events had in common.
    pub(crate) fn record(&mut self) {
        let ((due, now), count) = std::mem::take(&mut self.same);
        if count > 0 {
            let latency = plan::latency(due, now);
            self.latency.record_n(latency, count);
            self.slices.record_n(now, latency, count);
        }
    }

    /// A latest value is shown: once for each key, behind a subscribe or a loss.
    pub(super) fn snapshot(
        &mut self,
        (key, offset): (Option<&[u8]>, u64),
        channel: Option<u32>,
        from: Arrival,
    ) {
        self.count(from).shown += 1;
        if !self.wanted.subscribing.verify {
            return;
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let seat = self.seat(channel, from);
        let is_new =
            seat.is_none_or(|seat| self.shown.entry(seat).or_default().insert(hasher.finish()));
        self.check((channel, seat), (offset, offset), from, |seat| {
            let again = (!is_new).then_some((Kind::SnapshotAgain, offset, offset));
            seat.snapshot(offset).or(again)
        });
        if let Some((seat, holes)) = seat.zip(self.holes.as_mut()) {
            let last = self.seats[seat].position().map_or(0, |(_, last)| last);
            let broken = holes.shown(seat, offset, last);
            broken.into_iter().for_each(|broken| self.accuse(channel, from, broken));
        }
    }

    /// A connection's accounts begin before the first event.
    pub(crate) fn begin(&mut self, at: usize) {
        for seat in self.of_connection(at) {
            self.seats[seat] = Seat::default();
            self.seats[seat].subscribed(Place { epoch: 0, offset: 0, recovered: None });
        }
    }

    /// A connection has ended: its subscriptions have.
    pub(crate) fn ended(&mut self, at: usize) {
        self.of_connection(at).for_each(|seat| self.leave(seat));
    }

    /// Nothing more is owed to a seat.
    pub(super) fn leave(&mut self, seat: usize) {
        self.seats[seat].left();
        self.catching.remove(&seat);
        self.holes.iter_mut().for_each(|holes| holes.forget(seat));
    }

    /// Whether a connection has all that it had missed and is to recover.
    pub(crate) fn caught_up(&mut self, at: usize) -> bool {
        if self.catching.is_empty() {
            return true;
        }
        let (seats, catching) = (&self.seats, &mut self.catching);
        let waits = |seat: &usize, last: u64| {
            seats[*seat].position().is_none_or(|(_, position)| position < last)
        };
        let mut all = true;
        let subscriptions = self.wanted.subscribing.subscriptions as usize;
        for seat in at * subscriptions..(at + 1) * subscriptions {
            match catching.get(&seat) {
                Some(last) if waits(&seat, *last) => all = false,
                Some(_) => drop(catching.remove(&seat)),
                None => {}
            }
        }
        all
    }

    /// How many subscriptions wait to be shown something.
    pub(crate) fn unshown(&self) -> u64 {
        self.holes.as_ref().map_or(0, Holes::unshown)
    }

    /// The seats of a connection.
    fn of_connection(&self, at: usize) -> Range<usize> {
        let subscriptions = self.wanted.subscribing.subscriptions as usize;
        at * subscriptions..(at + 1) * subscriptions
    }

    /// The seats of a connection's nth command: one, or by pattern all.
    pub(super) fn of_command(&self, at: usize, slot: u32) -> Range<usize> {
        let all = self.of_connection(at);
        if self.wanted.subscribing.pattern {
            return all;
        }
        let seat = all.start + slot as usize;
        seat..(seat + 1).min(all.end)
    }

    /// How the subscription of a connection's nth command stands.
    pub(crate) fn stands(&self, at: usize, slot: u32) -> Stands {
        self.of_command(at, slot).next().map_or(Stands::Off, |seat| self.seats[seat].stands())
    }

    /// An unsubscribe is sent.
    pub(crate) fn leaving(&mut self, at: usize, slot: u32) {
        self.of_command(at, slot).for_each(|seat| self.seats[seat].leaving());
    }

    /// Where a connection's nth subscription was left, which is asked for with `since`; a pattern
    /// has no place.
    pub(crate) fn since(&mut self, at: usize, slot: u32) -> Option<(&str, u64)> {
        if self.wanted.subscribing.pattern {
            return None;
        }
        let place = self.of_command(at, slot).next()?;
        let seat = self.seats.get_mut(place)?;
        let (epoch, offset) = seat.position()?;
        let name = self.epochs.name(epoch)?;
        seat.asks();
        Some((name, offset))
    }

    /// Holds what came against the promise.
    #[inline]
    pub(super) fn check(
        &mut self,
        (channel, seat): (Option<u32>, Option<usize>),
        came: (u64, u64),
        from: Arrival,
        judge: impl FnOnce(&mut Seat) -> Option<Broken>,
    ) {
        let broken = match seat {
            Some(seat) => judge(&mut self.seats[seat]),
            None => Some((Kind::NotSubscribed, came.0, came.1)),
        };
        // Where fewer events were asked for, those left out are no loss; the last one is due.
        let broken =
            broken.filter(|(kind, ..)| *kind != Kind::Skipped || !self.wanted.is_throttled());
        if let Some(broken) = broken {
            self.accuse(channel, from, broken);
        }
    }

    pub(super) fn accuse(&mut self, channel: Option<u32>, from: Arrival, broken: Broken) {
        if self.wanted.subscribing.verify {
            self.verdict.add(Some(from.connection), channel, broken);
        }
    }

    /// Every channel has ended at its head, where that is known: what is still missing is a
    /// violation.
    pub(crate) fn finish(&mut self, heads: &[Option<u64>], connection_of: impl Fn(usize) -> u32) {
        let wanted = Arc::clone(&self.wanted);
        for (at, seats) in
            self.seats.chunks(wanted.subscribing.subscriptions.max(1) as usize).enumerate()
        {
            let connection = connection_of(at);
            for (slot, seat) in (0..wanted.subscribing.subscriptions).zip(seats) {
                let channel = wanted.channel(connection, slot);
                let head = heads.get(channel as usize).copied().flatten();
                let Some(head) = head else { continue };
                let place = at * wanted.subscribing.subscriptions as usize + slot as usize;
                let hole = self.holes.as_ref().and_then(|holes| holes.finish(place));
                for broken in seat.finish(head).into_iter().chain(hole) {
                    self.verdict.add(Some(connection), Some(channel), broken);
                }
            }
        }
    }

    /// The number behind the prefix of a channel's name.
    pub(super) fn channel(&self, name: &[u8]) -> Option<u32> {
        let digits = name.strip_prefix(self.wanted.subscribing.prefix.as_bytes())?;
        let (number, rest) = marks::number(digits)?;
        if rest.is_empty() { u32::try_from(number).ok() } else { None }
    }

    pub(super) fn seat(&self, channel: Option<u32>, from: Arrival) -> Option<usize> {
        let slot = self.wanted.slot(from.connection, channel?)?;
        Some(from.at * self.wanted.subscribing.subscriptions as usize + slot as usize)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
pub(crate) mod tests;
