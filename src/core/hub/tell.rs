//! Notices of rooms, handed to those who have the channel by name.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::seat::{Listed, Member, Seat};
use super::{Hub, Outcome, SeatId, Writer};
use crate::core::notice::Notice;
use crate::core::outbox::{Fits, News, OutboxLimit};
use crate::proto::name::{Alias, ClientId};

/// A notice on its way to the seats of a shard. Many of them take several turns.
#[derive(Debug)]
pub struct Telling {
    notice: Arc<Notice>,
    /// Its number among those of the shard, from 1.
    number: u64,
    /// The same for the lanes of signals.
    news: Option<News>,
    /// Those that are yet to get it, the last one first.
    left: Vec<Listed>,
}

impl Telling {
    /// What is told.
    pub fn notice(&self) -> &Notice {
        &self.notice
    }

    /// Whether everybody has it.
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}

/// Fences that are not looked through for those that were passed.
const FENCES_MIN: usize = 64;

/// Which notices are told, and to whom they are no news: a subscription is told what a room shows
/// at a place in the shard's mail (a fence), and what was told until then may be on its way here.
///
/// Invariant: `late` has at most twice as many fences as were ahead when it was last looked
/// through, or [`FENCES_MIN`].
#[derive(Debug, Default)]
pub(super) struct Fences {
    begun: u64,
    done: u64,
    /// The first notices up to here are not for a client on a channel.
    late: HashMap<(ClientId, Alias), u64, RandomState>,
    last: u64,
    /// So many are kept before those go that were passed.
    late_max: usize,
}

impl Fences {
    fn is_for(&self, number: u64, (client, alias): (ClientId, Alias)) -> bool {
        self.late.is_empty() || self.late.get(&(client, alias)).is_none_or(|fence| *fence < number)
    }

    /// How many it remembers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.late.len()
    }

    fn begin(&mut self, fence: u64, to: (ClientId, Alias)) {
        if fence <= self.done {
            return;
        }
        if self.late.len() >= self.late_max.max(FENCES_MIN) {
            // Where somebody always subscribes, the newest is never passed.
            let done = self.done;
            self.late.retain(|_, fence| *fence > done);
            self.late_max = 2 * self.late.len();
            self.late.shrink_to(self.late_max);
        }
        self.late.insert(to, fence);
        self.last = self.last.max(fence);
    }

    fn end(&mut self, number: u64) {
        self.done = number;
        if number >= self.last && !self.late.is_empty() {
            self.late = HashMap::default();
            self.late_max = 0;
        }
    }
}

impl Hub {
    /// The first `fence` notices of the shard are no news to a client that has just subscribed.
    pub fn begin_behind(&mut self, fence: u64, to: (ClientId, Alias)) {
        self.fences.begin(fence, to);
    }

    /// Finds those whom a notice is for. Whoever subscribes later has no need of it.
    pub fn begin_telling(&mut self, notice: Arc<Notice>) -> Telling {
        self.fences.begun += 1;
        let mut left = Vec::new();
        let news = match &*notice {
            Notice::Presence(_) => None,
            Notice::Signal(told) => Some(News::new(told.clone(), self.press.account())),
        };
        if let Some(topic) = self.topics.get(&notice.alias()) {
            left.reserve_exact(topic.members.len() + topic.grouped());
            let listed = |member: &Member| {
                let seat = self.seats.get(member.seat as usize)?;
                Some(Listed { seat: member.seat, client: seat.author.client })
            };
            left.extend(topic.all_members().filter_map(listed));
        }
        Telling { notice, number: self.fences.begun, news, left }
    }

    /// Hands a notice to at most `most` of those who are yet to get it. A client that leaves more
    /// of what cannot wait unread than its queue may have is told as overflowed. Returns how many
    /// seats were looked at.
    pub fn tell(
        &mut self,
        telling: &mut Telling,
        most: usize,
        writer: &mut impl Writer,
        outcome: &mut Outcome,
    ) -> usize {
        let alias = telling.notice.alias();
        let mut told = 0;
        while told < most
            && let Some(listed) = telling.left.pop()
        {
            told += 1;
            let limit = self.limit.bytes;
            let Some(seat) = listed.find(&mut self.seats) else { continue };
            if seat.over
                || !seat.subs.has(alias)
                || !self.fences.is_for(telling.number, (listed.client, alias))
            {
                continue;
            }
            let parts = match (&*telling.notice, &telling.news) {
                (Notice::Presence(_), _) if self.blind.has((listed.client, alias)) => continue,
                (Notice::Presence(frames), _) => frames.of(listed.client),
                (Notice::Signal(_), Some(news)) => {
                    let id = listed.seat as usize;
                    if news.signal().who().from.client == listed.client {
                        continue;
                    }
                    if seat.put_signal(id, news, self.limit, writer) == Fits::No {
                        seat.over = true;
                        outcome.overflowed.push(id);
                        continue;
                    }
                    seat.weigh(self.press.account());
                    self.mark_dirty(id);
                    continue;
                }
                (Notice::Signal(_), None) => continue,
            };
            let len = parts[0].len() + parts[1].len();
            if len == 0 {
                continue;
            }
            if !seat.outbox.takes_pushes(len, limit) {
                if !seat.blocked {
                    writer.write(listed.seat as usize, seat);
                }
                if !seat.outbox.takes_pushes(len, limit) {
                    seat.over = true;
                    outcome.overflowed.push(listed.seat as usize);
                    continue;
                }
            }
            seat.outbox.push_notice(parts);
            self.mark_dirty(listed.seat as usize);
        }
        if telling.is_done() {
            self.fences.end(telling.number);
        }
        told
    }
}

impl Seat {
    /// Queues a signal; where there is no room but the socket may take some, after that was
    /// written.
    fn put_signal(
        &mut self,
        id: SeatId,
        news: &News,
        limit: OutboxLimit,
        writer: &mut impl Writer,
    ) -> Fits {
        let fits = self.outbox.put_signal(news, limit);
        if fits == Fits::Yes || self.blocked {
            return fits;
        }
        writer.write(id, self);
        self.outbox.put_signal(news, limit)
    }
}
