//! What throttled members publish themselves and ask not to see: no event of theirs is left out for
//! a newer one, for it was never due to them.

use std::collections::VecDeque;

use super::Hub;
use super::seat::Member;
use crate::core::latest::Latest;
use crate::proto::event::Event;
use crate::proto::name::ClientId;

/// Events of one channel that are remembered at most; those before count like anybody's.
const OWN_MAX: usize = 4_096;

/// The events of a channel that a throttled member does not want to see, as far as a group has not
/// flushed them.
#[derive(Debug, Default)]
pub(super) struct Own(VecDeque<(u64, ClientId)>);

impl Own {
    fn note(&mut self, offset: u64, client: ClientId) {
        if self.0.len() == OWN_MAX {
            self.0.pop_front();
        }
        self.0.push_back((offset, client));
    }

    /// All groups have flushed up to this offset.
    pub(super) fn forget(&mut self, upto: u64) {
        while self.0.front().is_some_and(|(offset, _)| *offset <= upto) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    /// How many of the events after `known` that the table has no more were hidden from the member
    /// who published them.
    pub(super) fn missing(
        &self,
        latest: &Latest,
        known: u64,
        member_of: impl Fn(ClientId) -> Option<Member>,
    ) -> u64 {
        let mut last: Option<(ClientId, Option<Member>)> = None;
        let missing = |(offset, client): &&(u64, ClientId)| {
            let (_, member) = match last {
                Some(known) if known.0 == *client => known,
                _ => *last.insert((*client, member_of(*client))),
            };
            let after = member.filter(|member| member.is_live()).map(|member| member.position);
            let there = || latest.newer(offset - 1).next().is_some_and(|e| e.offset == *offset);
            after.is_some_and(|after| *offset > after.max(known)) && !there()
        };
        self.0.iter().filter(missing).count() as u64
    }
}

impl Hub {
    /// An event was loaded that one client does not want to see.
    #[cold]
    pub(super) fn note_own(&mut self, event: &Event) {
        let topic = self.topics.get_mut(&event.alias);
        let groups = topic.and_then(|topic| topic.groups.as_mut());
        let (Some(groups), Some(client)) = (groups, event.hidden_from) else { return };
        let seat = self.clients.get(&client).and_then(|id| self.seats.get(*id as usize));
        if seat.is_some_and(|seat| !seat.subs.is_empty()) {
            groups.own.note(event.offset, client);
        }
    }
}
