//! The end of connections, and what time does to them: pings, close deadlines, slow consumers and
//! the drain.

use std::time::Duration;

use super::flush::{Flushed, OutOfTurn, wake};
use super::inbound::unread_max;
use super::local::{Ending, Local, Shard};
use crate::core::hub::{Left, Seat, SeatId};
use crate::core::metrics::{Counter, Gauges};
use crate::core::presence::Parting;
use crate::core::session::Beat;
use crate::core::wheel::SLOT_MS;
use crate::proto::close::CloseReason;
use crate::proto::dialect::json;
use crate::proto::name::ClientId;
use crate::proto::push::{Last, Push};
use crate::proto::ws::frame::{self, Opcode};

/// How long a peer may take to answer a close, in milliseconds.
const CLOSE_MS: u64 = 5_000;

/// The same during a drain, so that silent clients do not hold up its end by five seconds.
const CLOSE_DRAINING_MS: u64 = 4_000;

/// The same where the memory is needed: it is not read anyway.
const CLOSE_OVERLOADED_MS: u64 = 100;

/// When a client may come back whose queue was among the fullest when all took too much.
const RETRY_OVERLOADED_MS: std::ops::RangeInclusive<u64> = 1_000..=5_000;

/// When a client may come back that was sent away for asking or coming too much.
const RETRY_LIMITED_MS: std::ops::RangeInclusive<u64> = 1_000..=5_000;

/// How often full queues are looked at, in slots of the wheel.
const FULL_EVERY: u64 = 5;

impl Shard {
    /// Begins to close a connection: no event reaches it any more, the notice and the close frame
    /// go out, and the socket ends when the peer has answered, or after five seconds.
    pub(super) fn begin_close(&self, id: SeatId, reason: CloseReason) {
        let Some(socket) = self.socket(id) else { return };
        if socket.ending.get().is_some() {
            return;
        }
        let patience_ms = if reason == CloseReason::Overloaded {
            CLOSE_OVERLOADED_MS
        } else if self.node.draining() {
            CLOSE_DRAINING_MS
        } else {
            CLOSE_MS
        };
        let deadline_ms = self.node.clock().node_ms() + patience_ms;
        socket.ending.set(Some(Ending { reason, deadline_ms, going: 0 }));
        self.metrics.closed(reason);
        if reason == CloseReason::Shutdown {
            let now_ms = self.node.clock().node_ms();
            let mut writer = OutOfTurn(self);
            let outcome = self.hub.borrow_mut().settle_all(id, &mut writer, now_ms);
            self.settle(outcome);
        }
        let held_back = self.leave_channels(id);
        let last = self.last_frames(reason);
        if let Some(seat) = self.hub.borrow_mut().seat(id) {
            if reason == CloseReason::Shutdown {
                // What was queued before goes out before.
                seat.outbox.push_last(last.into_boxed_slice());
            } else {
                let lost = seat.outbox.clear_data() + held_back;
                self.count_lost(reason, lost);
                seat.lose(lost);
                if reason.is_ours() {
                    let dropped = seat.dropped();
                    self.node.remember(socket.client, Last { reason, dropped });
                }
                if reason == CloseReason::Overloaded {
                    seat.outbox.clear_control();
                }
                seat.outbox.control().extend_from_slice(&last);
            }
            self.arm((id, socket.client), &mut seat.session, deadline_ms);
        }
        self.flush(id);
        self.note_closing(id, &socket);
        // The task of the connection sees the rest through; and gives up what it has read, also
        // where the socket takes nothing.
        wake(&socket);
    }

    /// Ends a connection soon that is being closed, where more than `most` of its answers are not
    /// read: they go, and the reason is told.
    pub(super) fn hasten(&self, id: SeatId, most: usize) {
        let Some(socket) = self.socket(id) else { return };
        let Some(ending) = socket.ending.get().filter(|ending| ending.may_hasten()) else { return };
        let mut hub = self.hub.borrow_mut();
        let Some(seat) = hub.seat(id).filter(|seat| seat.outbox.control_bytes() > most) else {
            return;
        };
        let soon_ms = self.node.clock().node_ms() + CLOSE_OVERLOADED_MS;
        let deadline_ms = ending.deadline_ms.min(soon_ms);
        socket.ending.set(Some(Ending { deadline_ms, ..ending }));
        seat.outbox.clear_control();
        seat.outbox.control().extend_from_slice(&self.last_frames(ending.reason));
        self.arm((id, socket.client), &mut seat.session, deadline_ms);
    }

    /// What tells a client why it is closed.
    fn last_frames(&self, reason: CloseReason) -> Vec<u8> {
        let mut last = Vec::new();
        if reason.announced() {
            let retry_after_ms = self.retry_after_ms(reason);
            let mut text = Vec::with_capacity(128);
            json::encode_push(&Push::Disconnect { reason, retry_after_ms }, &mut text);
            frame::push_text(&text, &mut last);
        }
        // A peer that closed has its own code sent back already.
        if let Some(code) = reason.code()
            && reason != CloseReason::PeerClosed
        {
            frame::close(code, reason.text(), &mut last);
        }
        last
    }

    /// Counts events that were queued for a connection and will not be written, because it ends.
    fn count_lost(&self, reason: CloseReason, events: u64) {
        let slow = reason == CloseReason::SlowConsumer;
        let counter = if slow { Counter::DroppedDisconnect } else { Counter::DroppedClosed };
        self.metrics.add(counter, events);
    }

    /// When a client that is not alone in being sent away should come back: at random, so that not
    /// all come at once.
    fn retry_after_ms(&self, reason: CloseReason) -> Option<u64> {
        if reason == CloseReason::Overloaded {
            return Some(fastrand::u64(RETRY_OVERLOADED_MS));
        }
        if matches!(reason, CloseReason::ConnectionLimit | CloseReason::RateLimited) {
            return Some(fastrand::u64(RETRY_LIMITED_MS));
        }
        let drain = u64::try_from(self.options().drain.as_millis()).unwrap_or(u64::MAX);
        (reason == CloseReason::Shutdown).then(|| fastrand::u64(200..=drain.clamp(1_000, 60_000)))
    }

    /// Returns how many events were held back for it.
    fn leave_channels(&self, id: SeatId) -> u64 {
        let held_back = self.hub.borrow().held_back(id);
        let now = self.node.clock().now();
        let store = self.node.store();
        let parting = if self.node.draining() { Parting::Drained } else { Parting::Lost };
        let mut hub = self.hub.borrow_mut();
        let Some(client) = hub.seat(id).map(|seat| seat.author.client) else { return held_back };
        self.end_signals(client);
        hub.leave_all(id, |left, last| match left {
            Left::Channel(channel) => {
                store.unsubscribe(channel.as_str(), self.id, last, now);
                self.leave_room(client, channel.as_str(), (parting, last), now);
            }
            Left::Prefix(prefix) if last => store.unsubscribe_prefix(prefix, self.id),
            Left::Prefix(_) => {}
        });
        held_back
    }

    /// Takes a connection away for good.
    pub(super) fn remove(&self, id: SeatId, reason: CloseReason) {
        let held_back = self.leave_channels(id);
        // What a socket that failed, or a close that had its time, has left unwritten.
        let seat = |seat: &mut Seat| (seat.outbox.data_events(), seat.session.format);
        let (left, format) = self.hub.borrow_mut().seat(id).map(seat).unwrap_or_default();
        self.count_lost(reason, left as u64 + held_back);
        self.hub.borrow_mut().close(id, |_, _| {});
        let socket = self.sockets.borrow_mut().get_mut(id).and_then(Option::take);
        if let Some(socket) = socket {
            drop(socket.place.take());
            self.node.speakers.left(format);
            match socket.ending.get() {
                Some(ending) => self.note_gone((id, socket.client), ending),
                None => self.metrics.closed(reason),
            }
        }
    }

    /// What a scrape reads beside the counters.
    pub(super) fn gauges(&self) -> Gauges {
        let hub = self.hub.borrow();
        let queues = hub.queues();
        Gauges {
            connections: hub.connections() as u64,
            subscriptions: hub.subscriptions(),
            queue_bytes: queues.bytes,
            queue_memory: queues.memory,
            latest_bytes: hub.latest_bytes(),
            slow_consumers: queues.slow,
            mailbox_depth: self.mailbox().map_or(0, super::mailbox::Mailbox::depth),
        }
    }

    /// The timer of a connection has fired that was set for `at_ms`.
    fn tick(&self, (id, client): (SeatId, ClientId), at_ms: u64, now_ms: u64) {
        let Some(socket) = self.socket(id).filter(|socket| socket.client == client) else { return };
        let heartbeat = self.options().heartbeat();
        let beat = {
            let mut hub = self.hub.borrow_mut();
            let Some(seat) = hub.seat(id) else { return };
            if !seat.session.fired(at_ms) {
                return;
            }
            if let Some(ending) = socket.ending.get() {
                if now_ms >= ending.deadline_ms {
                    wake(&socket);
                } else {
                    self.arm((id, client), &mut seat.session, ending.deadline_ms);
                }
                return;
            }
            let mut beat = match seat.ticket().and_then(|it| it.over(now_ms)) {
                Some(reason) => Beat::Close(reason),
                None => seat.session.tick(heartbeat, now_ms),
            };
            let deaf = seat.outbox.control_bytes() > unread_max(&self.options());
            if deaf && beat == Beat::Close(CloseReason::PingTimeout) {
                // It was not read, for it has taken none of its answers.
                beat = Beat::Close(CloseReason::SlowConsumer);
            }
            // Where its socket takes nothing either, one who is held needs no more of them.
            if beat == Beat::Ping && !(seat.blocked && seat.session.is_held()) {
                seat.outbox.push_control(Opcode::Ping, &[]);
            }
            let wake_at = seat.wake_at(heartbeat);
            self.arm((id, client), &mut seat.session, wake_at);
            beat
        };
        match beat {
            Beat::Close(reason) => self.begin_close(id, reason),
            Beat::Ping | Beat::Wait => {
                if self.flush(id) == Flushed::Broken {
                    wake(&socket);
                }
            }
        }
    }

    /// Looks at every connection whose time has come.
    pub(super) fn expire(&self, now_ms: u64, due: &mut Vec<(u64, (u32, ClientId))>) {
        self.wheel.borrow_mut().expire(now_ms, due);
        for (at_ms, (seat, client)) in due.drain(..) {
            self.tick((seat as usize, client), at_ms, now_ms);
        }
    }

    fn cut_slow(&self, now_ms: u64) {
        let limit = self.options().slow_disconnect;
        let patience =
            limit.map_or(u64::MAX, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        // Even without a limit: queues that have drained are forgotten here.
        let before_ms = now_ms.checked_sub(patience);
        let over = self.hub.borrow_mut().still_full(before_ms);
        for id in over {
            self.begin_close(id, CloseReason::SlowConsumer);
        }
    }

    /// Closes as many connections as the time since the drain began asks for.
    fn drain_some(&self, now_ms: u64) {
        let due: Vec<SeatId> = {
            let mut drain = self.drain.borrow_mut();
            let Some((left, since_ms, total)) = drain.as_mut() else { return };
            let span = u64::try_from(self.options().drain.as_millis()).unwrap_or(u64::MAX);
            let passed = now_ms.saturating_sub(*since_ms).min(span);
            let gone = (*total as u64 * passed).checked_div(span).unwrap_or(*total as u64);
            let keep = total.saturating_sub(usize::try_from(gone).unwrap_or(usize::MAX));
            left.split_off(keep.min(left.len()))
        };
        for id in due {
            self.begin_close(id, CloseReason::Shutdown);
        }
        // Whoever keeps a handshake unread has a place, and no connection that could be closed.
        if self.node.limits().open() == 0 || self.node.until_end().is_zero() {
            self.empty.notify_one();
        }
    }

    /// Begins the drain.
    pub(super) fn start_drain(&self) {
        let ids = self.hub.borrow().seat_ids();
        let total = ids.len();
        let now_ms = self.node.clock().node_ms();
        *self.drain.borrow_mut() = Some((ids, now_ms, total));
    }
}

/// Drives the shard's wheel, for as long as the shard lives.
pub(super) async fn time(local: Local) {
    let shard = &local.0;
    let clock = shard.node.clock();
    let mut ticks = tokio::time::interval(Duration::from_millis(SLOT_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = Vec::new();
    let mut turn = 0_u64;
    let (mut last_ms, mut skipped) = (clock.node_ms(), false);
    loop {
        ticks.tick().await;
        let now_ms = clock.node_ms();
        let late = now_ms - last_ms > SLOT_MS * 3;
        last_ms = now_ms;
        // After a pause of the process the answers to our pings may lie in the sockets: they are
        // read before anybody is judged. Once, for a shard may also be late for its load.
        skipped = late && !skipped;
        if skipped {
            continue;
        }
        turn += 1;
        shard.expire(now_ms, &mut due);
        shard.expire_signals(now_ms);
        if turn.is_multiple_of(FULL_EVERY) {
            shard.cut_slow(now_ms);
        } else {
            shard.hub.borrow_mut().rest_tables();
        }
        shard.look_at_memory(now_ms);
        shard.drain_some(now_ms);
        shard.look_at_rooms().await;
        if shard.id.0 == 0 {
            shard.node.store().sweep(clock.now());
            if let Some(log) = shard.node.durable() {
                log.watch(clock.now());
            }
        }
    }
}
