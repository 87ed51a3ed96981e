//! What rooms tell, on its way from the mailbox to the seats of the shard.

use std::collections::VecDeque;
use std::sync::Arc;

use super::flush::OutOfTurn;
use super::local::Shard;
use super::turn::OFFERS_A_TURN;
use crate::core::hub::{Outcome, Telling};
use crate::core::notice::Notice;

/// Notices that a shard has taken and not yet handed out, in their order.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: VecDeque<Arc<Notice>>,
    telling: Option<Telling>,
}

impl Notices {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.telling.is_none() && self.waiting.is_empty()
    }

    /// Takes those of a mailbox behind the others.
    pub(super) fn take(&mut self, notices: &mut Vec<Arc<Notice>>) {
        self.waiting.extend(notices.drain(..));
    }
}

impl Shard {
    /// Hands out notices to as many seats as a turn does. Returns the bytes of those that
    /// everybody has.
    pub(super) fn tell(&self, notices: &mut Notices) -> usize {
        let mut outcome = Outcome::default();
        let (mut left, mut bytes) = (OFFERS_A_TURN, 0);
        let mut hub = self.hub.borrow_mut();
        while left > 0 {
            let next = notices.telling.take();
            let next = next.or_else(|| Some(hub.begin_telling(notices.waiting.pop_front()?)));
            let Some(mut telling) = next else { break };
            left = left.saturating_sub(
                hub.tell(&mut telling, left, &mut OutOfTurn(self), &mut outcome).max(1),
            );
            if telling.is_done() {
                bytes += telling.notice().bytes();
            } else {
                notices.telling = Some(telling);
            }
        }
        drop(hub);
        if notices.is_empty() {
            notices.waiting = VecDeque::new();
        }
        self.settle(outcome);
        bytes
    }
}
