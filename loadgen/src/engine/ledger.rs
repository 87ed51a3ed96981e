//! One thread's books: what each of its connections has received, what it was told, and how late.

use std::sync::Arc;

use crate::engine::lasts::Lasts;
use crate::engine::shared::{Phase, Wanted};
use crate::fault::Fault;
use crate::latency::Latency;
use crate::plan::{self, Span};
use crate::series::Slices;
use crate::verdict::{Broken, Kind, Seat, Stands, Verdict};
use crate::wire::marks::{self, Event, Marks, Push};

/// Epochs of a run that are told apart; a server has few.
const EPOCHS_MAX: usize = 10_000;

/// Where a text came from, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// The connection's place on its thread.
    pub(crate) at: usize,
    /// Its number in the run.
    pub(crate) connection: u32,
    /// Whether it is one of those that are slow on purpose.
    pub(crate) slow: bool,
    pub(crate) now: u64,
    pub(crate) phase: Phase,
    pub(crate) measured: Span,
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
}

/// The books. Invariant: `seats` has `subscriptions` entries for each connection of the thread.
#[derive(Debug)]
pub(crate) struct Ledger {
    wanted: Arc<Wanted>,
    marks: Marks,
    seats: Vec<Seat>,
    lines: bool,
    until_sample: u64,
    epochs: Vec<String>,
    /// Offset of each channel when it was subscribed to.
    pub(crate) bases: Vec<Option<u64>>,
    pub(crate) all: Count,
    /// Of connections that are slow on purpose.
    pub(crate) slow: Count,
    /// Subscriptions that were answered with `recovered`: true, and false.
    pub(crate) recovered: (u64, u64),
    pub(crate) latency: Latency,
    pub(crate) slices: Slices,
    /// With `until_last`.
    pub(crate) lasts: Lasts,
    pub(crate) verdict: Verdict,
}

impl Ledger {
    pub(crate) fn new(wanted: Arc<Wanted>, connections: usize) -> Self {
        let seats = connections * wanted.subscriptions as usize;
        Self {
            marks: Marks::new(),
            seats: vec![Seat::default(); seats],
            lines: wanted.target.is_batched(),
            until_sample: 0,
            epochs: Vec::new(),
            bases: vec![None; wanted.channels as usize],
            all: Count::default(),
            slow: Count::default(),
            recovered: (0, 0),
            latency: Latency::new(),
            slices: Slices::new(),
            lasts: Lasts::default(),
            verdict: Verdict::default(),
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
            None => self.push(text, from),
        }
    }

    fn count(&mut self, from: Arrival) -> &mut Count {
        if from.slow { &mut self.slow } else { &mut self.all }
    }

    fn event(&mut self, event: &Event<'_>, from: Arrival) -> Meaning {
        if self.wanted.verify {
            let channel = self.channel(event.channel);
            let snapshot = self.marks.is_snapshot(event);
            self.check(channel, (event.offset, event.offset), from, |seat| {
                if snapshot { seat.snapshot(event.offset) } else { seat.event(event.offset) }
            });
            if snapshot {
                return Meaning::Counted;
            }
        }
        self.count(from).delivered += 1;
        if self.until_sample > 0 {
            self.until_sample -= 1;
            return Meaning::Counted;
        }
        self.until_sample = self.wanted.sample.saturating_sub(1);
        if !from.slow
            && let Some(due) = self.marks.due(event)
            && from.measured.has(due)
        {
            let latency = plan::latency(due, from.now);
            self.latency.record(latency);
            self.slices.record(from.now, latency);
            if self.wanted.until_last
                && let Some(channel) = self.channel(event.channel)
            {
                self.lasts.note((channel, event.offset), due, from.now);
            }
        }
        Meaning::Counted
    }

    /// Takes a message of a server that is not Weir: its events are known by their marks alone.
    pub(crate) fn foreign(&mut self, text: &[u8], from: Arrival) {
        let mut rest = text;
        while let Some((event, behind)) = self.marks.foreign(rest) {
            rest = behind;
            if self.wanted.verify {
                let named = event.channel.and_then(|channel| u32::try_from(channel).ok());
                let channel = named.or_else(|| Some(self.wanted.channel(from.connection, 0)));
                let seq = (event.seq, event.seq);
                self.check(channel, seq, from, |seat| seat.event(event.seq));
            }
            self.count(from).delivered += 1;
            if self.until_sample > 0 {
                self.until_sample -= 1;
                continue;
            }
            self.until_sample = self.wanted.sample.saturating_sub(1);
            if !from.slow && from.measured.has(event.due) {
                let latency = plan::latency(event.due, from.now);
                self.latency.record(latency);
                self.slices.record(from.now, latency);
                if self.wanted.until_last {
                    let channel = event.channel.and_then(|channel| u32::try_from(channel).ok());
                    let channel =
                        channel.unwrap_or_else(|| self.wanted.channel(from.connection, 0));
                    self.lasts.note((channel, event.seq), event.due, from.now);
                }
            }
        }
    }

    /// A connection's accounts begin before the first event.
    pub(crate) fn begin(&mut self, at: usize) {
        let subscriptions = self.wanted.subscriptions as usize;
        for seat in &mut self.seats[at * subscriptions..(at + 1) * subscriptions] {
            *seat = Seat::default();
            seat.subscribed(0, 0);
        }
    }

    fn push(&mut self, text: &[u8], from: Arrival) -> Meaning {
        let Ok(push) = serde_json::from_slice::<Push<'_>>(text) else {
            return Meaning::Wrong(Fault::not_json(text));
        };
        let channel = push.channel.as_ref().and_then(|name| self.channel(name.as_bytes()));
        match push.kind.as_ref() {
            "subscribed" => self.subscribed(channel, &push, from),
            "unsubscribed" if self.unsubscribed(channel, from) => {
                Meaning::Unsubscribed { id: push.id.unwrap_or(0) }
            }
            "lagged" => {
                let first = push.from.and_then(|from| from.as_u64()).unwrap_or(0);
                let last = push.to.unwrap_or(first).max(first);
                let lost = (last - first).saturating_add(1);
                let told = &mut self.count(from).told;
                *told = told.saturating_add(lost);
                self.check(channel, (first, last), from, |seat| seat.lagged(first, last));
                // A hole may have events that were left out as was asked.
                let fewer = self.wanted.is_throttled();
                let wrong = |dropped: u64| if fewer { dropped > lost } else { dropped != lost };
                if push.dropped.is_some_and(wrong) {
                    let miscounted = (Kind::Miscounted, first, last);
                    self.verdict.add(from.connection, channel.unwrap_or(u32::MAX), miscounted);
                }
                Meaning::Counted
            }
            // The close frame behind it says the same.
            "disconnect" if from.slow => Meaning::Counted,
            "error" | "unsubscribed" | "disconnect" => {
                // Nothing more is owed of what the server has ended.
                match push.kind.as_ref() {
                    "disconnect" => self.ended(from.at),
                    "unsubscribed" => {
                        self.seat(channel, from).into_iter().for_each(|at| self.seats[at].left());
                    }
                    _ => {}
                }
                let why = push.message.or(push.reason).unwrap_or_default();
                Meaning::Wrong(Fault::Denied(format!("{}: {why}", push.kind)))
            }
            _ => Meaning::Counted,
        }
    }

    fn subscribed(&mut self, channel: Option<u32>, push: &Push<'_>, from: Arrival) -> Meaning {
        let Some(at) = self.seat(channel, from) else {
            return Meaning::Wrong(Fault::Denied("subscribed to a channel not asked for".into()));
        };
        let answer = Meaning::Subscribed { id: push.id.unwrap_or(0) };
        if push.updated {
            return answer;
        }
        match push.recovered {
            Some(true) => self.recovered.0 += 1,
            Some(false) => self.recovered.1 += 1,
            None => {}
        }
        let offset = push.offset.unwrap_or(0);
        if push.recovered == Some(true) && self.seats[at].position().is_some() {
            self.seats[at].recovered();
        } else {
            let epoch = self.epoch(push.epoch.as_deref().unwrap_or_default());
            let broken = self.seats[at].subscribed(offset, epoch);
            if let Some(broken) = broken.filter(|_| self.wanted.verify) {
                self.verdict.add(from.connection, channel.unwrap_or(u32::MAX), broken);
            }
        }
        if let Some(base) = channel.and_then(|channel| self.bases.get_mut(channel as usize)) {
            *base = Some(base.map_or(offset, |known| known.min(offset)));
        }
        answer
    }

    /// Whether a subscription has ended because it was asked to.
    fn unsubscribed(&mut self, channel: Option<u32>, from: Arrival) -> bool {
        let asked = self.seat(channel, from).map(|at| &mut self.seats[at]);
        asked.filter(|seat| seat.stands() == Stands::Leaving).map(Seat::left).is_some()
    }

    /// An epoch's number.
    fn epoch(&mut self, name: &str) -> u32 {
        let known = self.epochs.iter().rposition(|known| known == name);
        let at = known.unwrap_or_else(|| {
            if self.epochs.len() < EPOCHS_MAX {
                self.epochs.push(name.to_owned());
            }
            self.epochs.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// A connection has ended: its subscriptions have.
    pub(crate) fn ended(&mut self, at: usize) {
        let subscriptions = self.wanted.subscriptions as usize;
        for seat in &mut self.seats[at * subscriptions..(at + 1) * subscriptions] {
            seat.left();
        }
    }

    /// How a connection's nth subscription stands.
    pub(crate) fn stands(&self, at: usize, slot: u32) -> Stands {
        self.seats[at * self.wanted.subscriptions as usize + slot as usize].stands()
    }

    /// An unsubscribe is sent.
    pub(crate) fn leaving(&mut self, at: usize, slot: u32) {
        self.seats[at * self.wanted.subscriptions as usize + slot as usize].leaving();
    }

    /// Where a connection's nth subscription was left, as `since` says it.
    pub(crate) fn since(&self, at: usize, slot: u32) -> Option<(&str, u64)> {
        let seat = self.seats.get(at * self.wanted.subscriptions as usize + slot as usize)?;
        let (epoch, offset) = seat.position()?;
        Some((self.epochs.get(epoch as usize)?, offset))
    }

    /// Holds what came against the promise.
    fn check(
        &mut self,
        channel: Option<u32>,
        came: (u64, u64),
        from: Arrival,
        judge: impl FnOnce(&mut Seat) -> Option<Broken>,
    ) {
        let broken = match self.seat(channel, from) {
            Some(seat) => judge(&mut self.seats[seat]),
            None => Some((Kind::NotSubscribed, came.0, came.1)),
        };
        // Where fewer events were asked for, those left out are no loss; the last one is due.
        let broken =
            broken.filter(|(kind, ..)| *kind != Kind::Skipped || !self.wanted.is_throttled());
        if let Some(broken) = broken {
            self.verdict.add(from.connection, channel.unwrap_or(u32::MAX), broken);
        }
    }

    /// Every channel has ended at its head: what is still missing is a violation.
    pub(crate) fn finish(&mut self, heads: &[u64], connection_of: impl Fn(usize) -> u32) {
        let wanted = Arc::clone(&self.wanted);
        for (at, seats) in self.seats.chunks(wanted.subscriptions.max(1) as usize).enumerate() {
            let connection = connection_of(at);
            for (slot, seat) in (0..wanted.subscriptions).zip(seats) {
                let channel = wanted.channel(connection, slot);
                let head = heads.get(channel as usize).copied().unwrap_or(0);
                if let Some(broken) = seat.finish(head) {
                    self.verdict.add(connection, channel, broken);
                }
            }
        }
    }

    /// The number behind the prefix of a channel's name.
    fn channel(&self, name: &[u8]) -> Option<u32> {
        let digits = name.strip_prefix(self.wanted.prefix.as_bytes())?;
        let (number, rest) = marks::number(digits)?;
        if rest.is_empty() { u32::try_from(number).ok() } else { None }
    }

    fn seat(&self, channel: Option<u32>, from: Arrival) -> Option<usize> {
        let slot = self.wanted.slot(from.connection, channel?)?;
        Some(from.at * self.wanted.subscriptions as usize + slot as usize)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
pub(crate) mod tests;
