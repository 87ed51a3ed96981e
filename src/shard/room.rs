//! Rooms, as the shard of a client uses them: who enters and leaves, who asks, and when a room is
//! to be looked at.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::command::Asker;
use super::local::Shard;
use crate::core::access::{Act, Target};
use crate::core::presence::Parting;
use crate::core::signals::Signal;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::name::{Alias, ChannelName, ClientId};
use crate::proto::push::Push;
use crate::proto::room::RoomPush;
use crate::store::Now;
use crate::store::rooms::{Due, Entered, Visitor};

/// Rooms that are looked at before others have their chance.
const ROOMS_A_TURN: usize = 256;

/// What a member in an answer costs, where work is counted in bytes.
const MEMBER_COST: usize = 128;

/// When this shard looks at which room. What does not count any more is passed over.
#[derive(Debug, Default)]
pub(super) struct RoomDues(RefCell<BinaryHeap<Reverse<Due>>>);

impl RoomDues {
    pub(super) fn push(&self, due: Option<Due>) {
        if let Some(due) = due {
            self.0.borrow_mut().push(Reverse(due));
        }
    }

    /// Takes out what is due.
    fn take(&self, now_ms: u64) -> Vec<Due> {
        let mut dues = self.0.borrow_mut();
        let mut due = Vec::new();
        while dues.peek().is_some_and(|next| next.0.0 <= now_ms) {
            due.extend(dues.pop().map(|Reverse(next)| next));
        }
        if !due.is_empty() && dues.is_empty() {
            *dues = BinaryHeap::new();
        }
        due
    }
}

impl Shard {
    /// A client has a channel by name: it enters the room, where there is to be one. After it is
    /// in the hub and before it is answered.
    /// Returns the signals that are shown there, where some may be.
    pub(super) fn enter_room(
        &self,
        asker: &Asker<'_>,
        to: (&ChannelName, Alias),
    ) -> Option<Vec<Arc<Signal>>> {
        let rule = self.options().policies.room(to.0.as_str())?;
        let identity = self.identity(asker.id);
        let visitor = Visitor { client: asker.author.client, identity, shard: self.id };
        let Entered { due, signals, fence } = self.node.rooms().enter(to, rule, visitor, asker.now);
        self.room_dues.push(due);
        self.show_presence(asker, to);
        self.hub.borrow_mut().begin_behind(fence, (asker.author.client, to.1));
        signals
    }

    /// A client that has a channel by name is told of others who have it where it may ask for them.
    pub(super) fn show_presence(&self, asker: &Asker<'_>, (channel, alias): (&ChannelName, Alias)) {
        let name = channel.as_str();
        let Some(rule) = self.options().policies.of(name) else { return };
        if rule.room.presence.is_none() {
            return;
        }
        let target = (Act::Presence, Target::Name(name));
        let may =
            rule.access.is_open(Act::Presence) || self.allow(asker.id, None, &rule, target).is_ok();
        self.hub.borrow_mut().show_presence((asker.id, alias), may);
    }

    /// A client has a channel by name no longer; `last` says that it was the last one here.
    pub(super) fn leave_room(
        &self,
        client: ClientId,
        channel: &str,
        parting: (Parting, bool),
        now: Now,
    ) {
        // While there is another rule than the one that it may have entered under, always.
        if self.looking.get() > 0 || self.options().policies.room(channel).is_some() {
            let due = self.node.rooms().leave(channel, (client, self.id), parting, now);
            self.room_dues.push(due);
        }
    }

    /// Looks at the rooms whose time has come. What comes up meanwhile waits for the next time.
    pub(super) async fn look_at_rooms(&self) {
        let clock = self.node.clock();
        for (nth, (due_ms, channel)) in (1..).zip(self.room_dues.take(clock.node_ms())) {
            let next = self.node.rooms().tick(channel.as_str(), (due_ms, self.id), clock.now());
            self.room_dues.push(next);
            if nth % ROOMS_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Answers with who has a channel by name.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn presence(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        channel: &str,
    ) -> Result<(), CommandError> {
        let rule = self.policy(id, channel)?;
        self.allow(asker.id, id, &rule, (Act::Presence, Target::Name(channel)))?;
        if rule.room.presence.is_none() {
            let message = "presence is not enabled for this channel";
            return Err(CommandError::new(id, ErrorCode::NotEnabled, message));
        }
        let roster = self.node.rooms().presence(channel);
        let (clients, users) = (roster.clients, roster.users);
        let members = roster.told();
        asker.spend(members.len() * MEMBER_COST);
        let push = RoomPush::Presence { id, channel, clients, users, members: &members };
        self.answer(asker.id, &Push::Room(push));
        Ok(())
    }
}
