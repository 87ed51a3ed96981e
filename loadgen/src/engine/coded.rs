//! Events in binary frames: those of `weir.v1.bin`, which name their channel by its alias, and
//! those of `weir.v1.json+gzip`, which are the text in a gzip stream.

use crate::engine::ledger::{Arrival, Ledger, Meaning};
use crate::fault::Fault;
use crate::target::Format;
use crate::wire::binary::{self, Event, Gunzip};
use crate::wire::marks;

/// What only binary frames need.
#[derive(Debug)]
pub(super) struct Coded {
    gunzip: Option<Gunzip>,
    /// The alias of each seat's channel; no entries where events are text.
    aliases: Vec<Option<u64>>,
}

impl Coded {
    pub(super) fn new(format: Format, seats: usize) -> Self {
        let gunzip = (format != Format::Json).then(Gunzip::new);
        let aliases = if format == Format::Bin { vec![None; seats] } else { Vec::new() };
        Self { gunzip, aliases }
    }

    /// A seat's channel is called so from now on.
    pub(super) fn call(&mut self, seat: usize, alias: Option<u64>) {
        if let Some(known) = self.aliases.get_mut(seat) {
            *known = alias;
        }
    }
}

impl Ledger {
    /// Takes the payload of a binary frame.
    pub(crate) fn binary(&mut self, frame: &[u8], from: Arrival) -> Meaning {
        match self.wanted.target.format {
            Format::Json => Meaning::Wrong(Fault::Binary),
            Format::Bin => match binary::event(frame) {
                Some(event) => self.coded(&event, from),
                None => Meaning::Wrong(Fault::UnreadableBinary),
            },
            Format::Gzip => self.zipped(frame, from),
        }
    }

    fn coded(&mut self, event: &Event<'_>, from: Arrival) -> Meaning {
        let (channel, seat) = if self.follows || self.wanted.subscribing.until_last {
            self.called(event.alias, from)
        } else {
            (None, None)
        };
        let offset = event.offset;
        if event.is_snapshot {
            self.snapshot((event.key, offset), channel, from);
            if from.slow
                && let Some(due) = self.due_of(event)
            {
                self.aged(due, from);
            }
            return Meaning::Counted;
        }
        if self.follows {
            self.check((channel, seat), (offset, offset), from, |seat| seat.event(offset));
        }
        self.count(from).delivered += 1;
        if self.is_sample()
            && let Some(due) = self.due_of(event)
        {
            self.arrived(due, channel.map(|channel| (channel, offset)), from);
        }
        Meaning::Counted
    }

    fn due_of(&mut self, event: &Event<'_>) -> Option<u64> {
        let gunzip = self.coded.gunzip.as_mut().filter(|_| event.is_gzip);
        let data = match gunzip {
            Some(gunzip) => gunzip.front(event.payload)?,
            None => event.payload,
        };
        marks::due_first(data).or_else(|| self.marks.due_in(data))
    }

    /// The channel that a connection knows by an alias, and its seat there.
    fn called(&self, alias: u64, from: Arrival) -> (Option<u32>, Option<usize>) {
        let first = from.at * self.wanted.subscribing.subscriptions as usize;
        let slot = (0..self.wanted.subscribing.subscriptions)
            .find(|slot| self.coded.aliases.get(first + *slot as usize) == Some(&Some(alias)));
        let channel = slot.map(|slot| self.wanted.channel(from.connection, slot));
        (channel, slot.map(|slot| first + slot as usize))
    }

    fn zipped(&mut self, frame: &[u8], from: Arrival) -> Meaning {
        // Set apart while it is read from.
        let mut gunzip = self.coded.gunzip.take();
        let front = gunzip.as_mut().and_then(|gunzip| gunzip.front(frame));
        let meaning = match front.and_then(marks::event) {
            Some(event) => self.event(&event, from),
            None => Meaning::Wrong(Fault::UnreadableBinary),
        };
        self.coded.gunzip = gunzip;
        meaning
    }
}
