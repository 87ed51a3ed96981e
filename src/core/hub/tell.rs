//! Notices of rooms, handed to the control lanes of those who have the channel by name.

use std::sync::Arc;

use super::seat::{Listed, Member};
use super::{Hub, Outcome, Writer};
use crate::core::notice::Notice;

/// A notice on its way to the seats of a shard. Many of them take several turns.
#[derive(Debug)]
pub struct Telling {
    notice: Arc<Notice>,
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

impl Hub {
    /// Finds those whom a notice is for. Whoever subscribes later has no need of it.
    pub fn begin_telling(&self, notice: Arc<Notice>) -> Telling {
        let mut left = Vec::new();
        if let Some(topic) = self.topics.get(&notice.alias()) {
            left.reserve_exact(topic.members.len() + topic.grouped());
            let listed = |member: &Member| {
                let seat = self.seats.get(member.seat as usize)?;
                Some(Listed { seat: member.seat, client: seat.author.client })
            };
            left.extend(topic.all_members().filter_map(listed));
        }
        Telling { notice, left }
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
            if seat.over || !seat.subs.iter().any(|sub| sub.alias == alias) {
                continue;
            }
            let parts = match &*telling.notice {
                Notice::Presence(frames) => frames.of(listed.client),
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
        told
    }
}
