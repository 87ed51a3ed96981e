//! One thread's books: what each of its connections has received, what it was told, and how late.

use std::sync::Arc;

use crate::engine::shared::{Phase, Wanted};
use crate::fault::Fault;
use crate::latency::Latency;
use crate::plan;
use crate::series::Slices;
use crate::verdict::{Broken, Seat, Verdict};
use crate::wire::marks::{self, Event, Marks, Push};

/// Where a text came from, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// The connection's place on its thread.
    pub(crate) at: usize,
    /// Its number in the run.
    pub(crate) connection: u32,
    pub(crate) now: u64,
    pub(crate) phase: Phase,
}

/// What a text means to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Counted,
    /// One subscription stands.
    Subscribed,
    Wrong(Fault),
}

/// The books. Invariant: `seats` has `subscriptions` entries for each connection of the thread.
#[derive(Debug)]
pub(crate) struct Ledger {
    wanted: Arc<Wanted>,
    marks: Marks,
    seats: Vec<Seat>,
    lines: bool,
    until_sample: u64,
    /// Offset of each channel when it was subscribed to.
    pub(crate) bases: Vec<Option<u64>>,
    pub(crate) delivered: u64,
    pub(crate) told: u64,
    pub(crate) latency: Latency,
    pub(crate) slices: Slices,
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
            bases: vec![None; wanted.channels as usize],
            delivered: 0,
            told: 0,
            latency: Latency::new(),
            slices: Slices::new(),
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
        self.delivered += 1;
        if self.until_sample > 0 {
            self.until_sample -= 1;
            return Meaning::Counted;
        }
        self.until_sample = self.wanted.sample.saturating_sub(1);
        if from.phase == Phase::Measure
            && let Some(due) = self.marks.due(event)
        {
            let latency = plan::latency(due, from.now);
            self.latency.record(latency);
            self.slices.record(from.now, latency);
        }
        Meaning::Counted
    }

    fn push(&mut self, text: &[u8], from: Arrival) -> Meaning {
        let Ok(push) = serde_json::from_slice::<Push<'_>>(text) else {
            let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
            return Meaning::Wrong(Fault::NotJson(shown));
        };
        let channel = push.channel.as_ref().map(|name| self.channel(name.as_bytes()));
        match push.kind.as_ref() {
            "subscribed" => self.subscribed(channel.flatten(), push.offset.unwrap_or(0), from),
            "lagged" => {
                let first = push.from.and_then(|from| from.as_u64()).unwrap_or(0);
                let last = push.to.unwrap_or(first).max(first);
                self.told += last - first + 1;
                self.check(channel.flatten(), (first, last), from, |seat| seat.lagged(first, last));
                Meaning::Counted
            }
            "error" | "unsubscribed" | "disconnect" => {
                let why = push.message.or(push.reason).unwrap_or_default();
                Meaning::Wrong(Fault::Denied(format!("{}: {why}", push.kind)))
            }
            _ => Meaning::Counted,
        }
    }

    fn subscribed(&mut self, channel: Option<u32>, offset: u64, from: Arrival) -> Meaning {
        let Some(seat) = self.seat(channel, from) else {
            return Meaning::Wrong(Fault::Denied("subscribed to a channel not asked for".into()));
        };
        self.seats[seat].subscribed(offset);
        if let Some(base) = channel.and_then(|channel| self.bases.get_mut(channel as usize)) {
            *base = Some(base.map_or(offset, |known| known.min(offset)));
        }
        Meaning::Subscribed
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
            None => Some((crate::verdict::Kind::NotSubscribed, came.0, came.1)),
        };
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
mod tests;
