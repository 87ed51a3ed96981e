//! The past of a channel, as a client asks for it.

use super::command::Asker;
use super::durable::Until;
use super::local::Shard;
use crate::core::access::{Act, Target};
use crate::proto::command::History;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::push::Push;
use crate::store::{Read, Reading};

/// Payloads of one answer, unless it is one event. Whoever wants more goes on from the last.
const ANSWER_BYTES: usize = 1 << 20;

/// What an event in an answer costs beside its payload, where work is counted in bytes.
const EVENT_COST: usize = 128;

impl Shard {
    /// Answers with the kept events of a channel, or returns what the command waits for.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn history(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        history: &History<'_>,
    ) -> Result<Option<Until>, CommandError> {
        let History { channel, since, limit, reverse } = *history;
        let rule = self.policy(id, channel)?;
        self.allow(asker.id, id, &rule, (Act::History, Target::Name(channel)))?;
        let keep = rule.keep;
        if keep.history.size == 0 {
            let message = "nothing is kept of this channel's events";
            return Err(CommandError::new(id, ErrorCode::NotEnabled, message));
        }
        if let Some(until) = self.unsettled(asker, keep.durable) {
            return Ok(Some(until));
        }
        let reading = Reading { since, limit, reverse, bytes: ANSWER_BYTES, keep };
        let read = self.node.store().read(channel, reading, asker.now);
        let Read { head, events } = match read {
            Ok(read) => read,
            Err(error) => return self.load(id, (channel, keep), error).map(Some),
        };
        let Some(events) = events else {
            let message = format!(
                "no such position: the channel's epoch is {} and its last offset {}",
                head.epoch, head.offset
            );
            return Err(CommandError::new(id, ErrorCode::UnknownPosition, message));
        };
        let payload: usize = events.iter().map(|event| event.payload.len()).sum();
        asker.spend(payload + events.len() * EVENT_COST);
        let position = head;
        self.answer(asker.id, &Push::History { id, channel, position, events: &events });
        Ok(None)
    }
}
