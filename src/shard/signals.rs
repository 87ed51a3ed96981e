//! Signals of the shard's clients: taken, told to their channels when it is time, and ended.

use std::sync::Arc;

use super::command::{Asker, not_subscribed};
use super::local::Shard;
use crate::core::access::{Act, Target};
use crate::core::metrics::Counter;
use crate::core::signals::{DATA_BYTES_MAX, Put, RATE, Refused, Shown, Signal, Told};
use crate::proto::command;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::name::{Alias, ClientId, ShardId};
use crate::proto::push::Push;

/// The time between two values of one name of a client, in milliseconds.
const INTERVAL_MS: u64 = 1_000 / RATE;

impl Shard {
    /// Shows a signal to a channel, or ends it. Returns the shard whose mailbox it filled.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn signal(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        signal: &command::Signal<'_>,
    ) -> Result<Option<ShardId>, CommandError> {
        let command::Signal { channel, name, data, ttl_ms } = *signal;
        let rule = self.policy(id, channel)?;
        self.allow(asker.id, id, &rule, (Act::Signal, Target::Name(channel)))?;
        if !rule.room.signals {
            let message = "signals are not enabled for this channel: `signals = true` does that";
            return Err(CommandError::new(id, ErrorCode::NotEnabled, message));
        }
        let bytes = data.map_or(0, <[u8]>::len);
        if bytes > DATA_BYTES_MAX {
            let message = format!(
                "the data of a signal has at most {DATA_BYTES_MAX} bytes, and this has {bytes}: \
                 publish it as an event"
            );
            return Err(CommandError::new(id, ErrorCode::TooLarge, message));
        }
        let have = self.node.store().find(channel);
        let have = have.filter(|have| self.hub.borrow().is_subscribed(asker.id, have.alias));
        let have = have.ok_or_else(|| not_subscribed(id))?;
        let author = asker.author();
        let put = Put {
            channel: &have.channel,
            alias: have.alias,
            from: &author,
            name,
            data,
            ttl_ms,
            interval_ms: INTERVAL_MS,
        };
        let mut crowded = None;
        let now_ms = asker.now.node_ms();
        let taken = self.change_signals(|shown| {
            let tell = |told| self.tell_signal(told, &mut crowded);
            shown.put(put, now_ms, self.node.signals(), tell)
        });
        taken.map_err(|refused| {
            let code = match refused {
                Refused::Names | Refused::Channel => ErrorCode::LimitExceeded,
                Refused::Node => ErrorCode::Overloaded,
            };
            CommandError::new(id, code, refused.to_string())
        })?;
        if let Some(id) = id {
            self.answer(asker.id, &Push::Ok { id });
        }
        Ok(crowded)
    }

    /// Changes what is shown; the turns, which may be waiting for something later, hear of it.
    fn change_signals<T>(&self, change: impl FnOnce(&mut Shown) -> T) -> T {
        let mut shown = self.shown.borrow_mut();
        let before = shown.next_due();
        let changed = change(&mut shown);
        let sooner = shown.next_due().is_some_and(|due| before.is_none_or(|before| due < before));
        if sooner && let Some(mailbox) = self.mailbox() {
            mailbox.wake();
        }
        changed
    }

    /// Tells a channel's readers. `false` where the channel has no room for it.
    fn tell_signal(&self, told: Told, crowded: &mut Option<ShardId>) -> bool {
        let room = self.node.rooms().signal(told);
        self.metrics.add(Counter::SignalsTold, u64::from(room.is_some()));
        if let Some(full) = room {
            *crowded = full.or(*crowded);
        }
        room.is_some()
    }

    /// Ends all that a client shows, for it has gone.
    pub(super) fn end_signals(&self, client: ClientId) {
        let mut shown = self.shown.borrow_mut();
        if !shown.is_empty() {
            shown.leave(client, self.node.signals(), |told| self.tell_signal(told, &mut None));
        }
    }

    /// Ends all that a client shows to a channel, for it has left that.
    pub(super) fn end_signals_on(&self, client: ClientId, alias: Alias) {
        let mut shown = self.shown.borrow_mut();
        if !shown.is_empty() {
            shown.leave_channel(client, alias, self.node.signals(), |told| {
                self.tell_signal(told, &mut None)
            });
        }
    }

    /// When a signal that waits is to be told.
    pub(super) fn next_signal(&self) -> Option<u64> {
        self.shown.borrow().next_due()
    }

    /// Tells of the signals whose time has come.
    pub(super) fn send_signals(&self) {
        let mut shown = self.shown.borrow_mut();
        if shown.next_due().is_some() {
            let now_ms = self.node.clock().node_ms();
            shown.send_due(now_ms, |told| self.tell_signal(told, &mut None));
        }
    }

    /// Ends the signals whose time has passed.
    pub(super) fn expire_signals(&self, now_ms: u64) {
        self.change_signals(|shown| {
            shown.expire(now_ms, self.node.signals(), |told| self.tell_signal(told, &mut None));
        });
    }
}

/// What a channel shows, as `subscribed` says it.
pub(super) fn entries(signals: &[Arc<Signal>]) -> Vec<&[u8]> {
    signals.iter().map(|signal| signal.entry()).collect()
}
