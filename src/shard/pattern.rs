//! Subscriptions to patterns (`telemetry:*`), as a client asks for them.

use super::command::{Asker, chosen, not_subscribed, unavailable};
use super::durable::Until;
use super::flush::OutOfTurn;
use super::local::Shard;
use super::mailbox::Mailbox;
use crate::core::access::{Act, Target};
use crate::core::hub::{Join, Outcome};
use crate::core::policy::{Closed, PolicyRule};
use crate::proto::command::Subscribe;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::push::Push;

/// What beginning or ending a pattern counts as, in bytes of messages, for each subscription that
/// the client has: each is looked at. With ten thousand that is all the work of a turn.
const LOOK_BYTES: usize = 24;

impl Asker<'_> {
    fn spend_on_pattern(&self, shard: &Shard) {
        self.spend(shard.hub.borrow().subscriptions_of(self.id) * LOOK_BYTES);
    }
}

impl Shard {
    /// Subscribes to all channels under `prefix`, or changes the options of a subscription that is
    /// there. The answer has no position: what was published before is told of no channel. Returns
    /// what the command waits for.
    pub(super) fn subscribe_pattern(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        (prefix, subscribe): (&str, &Subscribe<'_>),
    ) -> Result<Option<Until>, CommandError> {
        if subscribe.since.is_some() {
            let message = "a pattern has no position: leave `since` out, or name one channel";
            return Err(CommandError::new(id, ErrorCode::BadRequest, message));
        }
        let rule = self.pattern_rule(id, prefix)?;
        self.allow(asker.id, id, &rule, (Act::Subscribe, Target::Prefix(prefix)))?;
        let policy = chosen(id, rule, subscribe.slow)?;
        let updated = self.hub.borrow().has_pattern(asker.id, prefix);
        let shown = !updated && subscribe.snapshot && rule.keep.keys > 0;
        if !updated {
            self.count_subscription(asker, id)?;
            let joined = self.node.store().subscribe_prefix(prefix, self.id);
            joined.map_err(|away| unavailable(id, away))?;
        }
        // After the store: its channels stay in memory from there on.
        if shown && rule.keep.durable {
            let until = self.load_prefix(id, prefix);
            if !matches!(until, Ok(None)) {
                if !self.hub.borrow().is_on_prefix(prefix) {
                    self.node.store().unsubscribe_prefix(prefix, self.id);
                }
                return until;
            }
        }
        // After the store: what is published from here on comes behind.
        let position = self.mailbox().map_or(0, Mailbox::depth);
        asker.spend_on_pattern(self);
        let (keys_max, max_rate) = (rule.keys_max, subscribe.max_rate);
        let join = Join { policy, position, keys_max, max_rate };
        let (which, mut writer) = ((asker.id, prefix), OutOfTurn(self));
        let now_ms = asker.now.node_ms();
        let outcome = {
            let mut hub = self.hub.borrow_mut();
            let outcome = hub.subscribe_pattern(which, join, &mut writer, now_ms);
            if shown {
                hub.browse(asker.id, prefix);
            }
            outcome
        };
        let pattern = subscribe.channel;
        self.answer(asker.id, &Push::SubscribedPattern { id, pattern, updated });
        // A close comes behind the answer.
        self.settle(outcome);
        Ok(None)
    }

    /// Ends a subscription to all channels under `prefix`.
    pub(super) fn unsubscribe_pattern(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        (prefix, pattern): (&str, &str),
    ) -> Result<(), CommandError> {
        let outcome = self.end_pattern(asker, id, prefix)?;
        self.answer(asker.id, &Push::Unsubscribed { id, channel: pattern, why: None });
        // A close comes behind the answer.
        self.settle(outcome);
        Ok(())
    }

    /// Ends a subscription to a pattern, and tells nobody yet.
    pub(super) fn end_pattern(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        prefix: &str,
    ) -> Result<Outcome, CommandError> {
        asker.spend_on_pattern(self);
        let now_ms = asker.now.node_ms();
        let (which, mut writer) = ((asker.id, prefix), OutOfTurn(self));
        let ended = self.hub.borrow_mut().unsubscribe_pattern(which, &mut writer, now_ms);
        let (last, outcome) = ended.ok_or_else(|| not_subscribed(id))?;
        if last {
            self.node.store().unsubscribe_prefix(prefix, self.id);
        }
        Ok(outcome)
    }

    pub(super) fn pattern_rule(
        &self,
        id: Option<u64>,
        prefix: &str,
    ) -> Result<PolicyRule, CommandError> {
        self.options().policies.of_prefix(prefix).map_err(|closed| {
            let (code, message) = match closed {
                Closed::Namespace => {
                    (ErrorCode::Forbidden, "patterns are off here: name one channel")
                }
                Closed::Several => (
                    ErrorCode::Forbidden,
                    "this pattern reaches into a namespace with rules of its own: begin it with a \
                     namespace and ':'",
                ),
                Closed::Unknown => (
                    ErrorCode::UnknownChannel,
                    "no such channels: their namespace is not configured, and only those exist here",
                ),
            };
            CommandError::new(id, code, message)
        })
    }
}
