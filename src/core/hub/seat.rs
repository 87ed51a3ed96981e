//! One connection's seat, and what becomes of a slice that is put into its queue.

use std::sync::Arc;

use slab::Slab;

use super::slow::Slow;
use super::subs::Subs;
use super::{Outcome, Writer};
use crate::core::account::Account;
use crate::core::outbox::{Full, Outbox, OutboxLimit, Slice};
use crate::core::policy::Policy;
use crate::core::session::{Heartbeat, Session};
use crate::core::ticket::Ticket;
use crate::proto::event::Author;
use crate::proto::format::Format;
use crate::proto::name::{Alias, ClientId};
use crate::proto::rate::Rate;

/// A subscription as its seat knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sub {
    pub(super) alias: Alias,
    /// Its index in its list of members.
    pub(super) member: u32,
    /// Whose group: the topic's own members are not throttled.
    pub(super) rate: Option<Rate>,
}

/// A subscription as its list in the topic knows it: all that the fan-out looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) seat: u32,
    pub(super) policy: Policy,
    pub(super) standing: Standing,
    /// The form in which it gets them.
    pub(super) format: Format,
    /// It takes several of them in one text frame.
    pub(super) batch: bool,
    /// Events up to this offset are not for this member.
    pub(super) position: u64,
}

impl Member {
    /// Whether it may need the newest event of each key.
    pub(super) fn uses_latest(self) -> bool {
        self.policy == Policy::Latest || !self.is_live()
    }

    pub(super) fn is_live(self) -> bool {
        self.standing == Standing::Live
    }
}

/// Whether a subscription gets its events as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It lags, and has a hole that it is yet to be told of.
    Lagging,
    /// It gets them.
    Live,
    /// It lags, and has been told of all that it has missed.
    Told,
}

/// A shard has millions of them.
const _: () = assert!(size_of::<Member>() == 16 && size_of::<Sub>() == 16);

/// An entry in a list of seats. It is of no account once another client has the place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub(super) seat: u32,
    pub(super) client: ClientId,
}

impl Listed {
    pub(super) fn find(self, seats: &mut Slab<Seat>) -> Option<&mut Seat> {
        seats.get_mut(self.seat as usize).filter(|seat| seat.author.client == self.client)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Seat {
    /// What waits to be written.
    pub outbox: Outbox,
    /// Its standing.
    pub session: Session,
    /// Who it is, as its events say.
    pub author: Arc<Author>,
    /// The kernel takes no more: writing waits until it does.
    pub blocked: bool,
    /// It is in the queue of those to be written.
    pub(super) dirty: bool,
    /// What it has beside an idle seat.
    pub(super) slow: Option<Box<Slow>>,
    /// It is in the list of those whose fullness is looked at.
    pub(super) listed: bool,
    /// It is in the list of those whose next batch may be too much.
    pub(super) near: bool,
    /// It was waited for, in vain: not again before it has come down to half.
    pub(super) excused: bool,
    /// It is to be closed as a slow consumer: no event may follow those it has missed.
    pub(super) over: bool,
    /// Whether its data lane was long.
    pub(super) length: Length,
    /// It is among those whose next writes are to be fetched out of the past.
    pub(super) recalling: bool,
    pub(super) subs: Subs<Sub>,
}

/// Whether a data lane was long: all but the first are in the list of such seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Short,
    /// Before the last look.
    WasLong,
    /// Since the last look.
    Long,
}

impl Seat {
    /// A connection that speaks `format`, and was heard of at `now_ms`.
    pub(super) fn new(author: Arc<Author>, format: Format, now_ms: u64) -> Self {
        let mut session = Session::new(now_ms);
        session.format = format;
        Self {
            outbox: Outbox::default(),
            session,
            author,
            blocked: false,
            dirty: false,
            slow: None,
            listed: false,
            near: false,
            excused: false,
            over: false,
            length: Length::Short,
            recalling: false,
            subs: Subs::default(),
        }
    }

    /// When its timer is to look at it.
    pub fn wake_at(&self, heartbeat: Heartbeat) -> u64 {
        let ticket = self.ticket().map_or(u64::MAX, Ticket::wake_at);
        self.session.wake_at(heartbeat).min(ticket)
    }

    /// Whether it waits for its socket with more than half of its queue in use, has lost nothing
    /// since it was last below, and has not been waited for.
    pub(super) fn is_near(&self, limit: OutboxLimit) -> bool {
        self.blocked && self.full_since_ms().is_none() && !self.excused && !self.at_half(limit)
    }

    pub(super) fn at_half(&self, limit: OutboxLimit) -> bool {
        self.outbox.data_bytes() <= limit.bytes / 2 && self.outbox.data_events() <= limit.events / 2
    }

    /// Forgets what was of a queue that is at half or less.
    pub(super) fn look(&mut self, limit: OutboxLimit) {
        if (self.full_since_ms().is_some() || self.excused) && self.at_half(limit) {
            self.set_full(None);
            self.excused = false;
        }
    }
}

/// One round of a fan-out: who writes out of turn, when it is, and what there is to tell.
pub(super) struct Round<'a, W> {
    pub(super) writer: &'a mut W,
    pub(super) now_ms: u64,
    /// The first offset that the channel's table of newest events has seen.
    pub(super) floor: u64,
    /// Where the memory of queues counts.
    pub(super) account: &'a Account,
    pub(super) outcome: &'a mut Outcome,
}

/// Where a slice is put.
pub(super) struct Target<'a> {
    pub(super) seat: &'a mut Seat,
    pub(super) member: &'a mut Member,
    pub(super) full: &'a mut Vec<Listed>,
    pub(super) near: &'a mut Vec<Listed>,
    pub(super) roomy: &'a mut Vec<Listed>,
    pub(super) limit: OutboxLimit,
}

impl Target<'_> {
    fn listed(&self) -> Listed {
        Listed { seat: self.member.seat, client: self.seat.author.client }
    }

    /// Remembers a seat whose data lane has grown, to take the room back when it is not used.
    fn note_length(&mut self, account: &Account) {
        if self.seat.outbox.is_long() {
            self.seat.weigh(account);
            if std::mem::replace(&mut self.seat.length, Length::Long) == Length::Short {
                let listed = self.listed();
                self.roomy.push(listed);
            }
        }
    }

    pub(super) fn put(&mut self, slice: Slice, round: &mut Round<'_, impl Writer>) {
        if slice.from >= slice.to {
            return;
        }
        let lost = u64::from(slice.to - slice.from);
        if self.seat.over {
            round.outcome.dropped[Policy::Disconnect as usize] += lost;
            self.seat.lose(lost);
            return;
        }
        // It may have been written since the last look, and be full again at the next.
        self.seat.look(self.limit);
        let Err(Full(mut slice)) = self.seat.outbox.push(slice, self.limit) else {
            if self.seat.is_near(self.limit) && !std::mem::replace(&mut self.seat.near, true) {
                let listed = self.listed();
                self.near.push(listed);
            }
            self.note_length(round.account);
            return;
        };
        if !self.seat.blocked {
            round.writer.write(self.member.seat as usize, self.seat);
            match self.seat.outbox.push(slice, self.limit) {
                Ok(()) => return,
                Err(Full(refused)) => slice = refused,
            }
        }
        self.seat.look(self.limit);
        self.seat.set_full(Some(round.now_ms));
        if !std::mem::replace(&mut self.seat.listed, true) {
            let listed = self.listed();
            self.full.push(listed);
        }
        let dropped = match self.member.policy {
            Policy::Disconnect => {
                self.seat.over = true;
                round.outcome.overflowed.push(self.member.seat as usize);
                lost
            }
            Policy::DropNewest => self.seat.outbox.push_dropping_newest(slice, self.limit),
            Policy::DropOldest => self.seat.outbox.push_dropping_oldest(slice, self.limit),
            Policy::Latest => {
                self.member.standing = Standing::Lagging;
                self.seat.outbox.lag(&slice, round.floor)
            }
        };
        round.outcome.dropped[self.member.policy as usize] += dropped;
        self.seat.lose(dropped);
        // Under `latest` the queue is empty enough; and memory has moved.
        self.seat.look(self.limit);
        self.seat.weigh(round.account);
        // Notices make it long, too.
        self.note_length(round.account);
    }
}
