//! A shard's turn: take the mailbox, fan out, write. And then again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Sleep;

use super::flush::{Flushed, OutOfTurn, wake};
use super::life;
use super::local::{Local, Shard};
use super::mailbox::{Mailbox, Order};
use super::tell::Notices;
use crate::core::hub::Outcome;
use crate::core::metrics::{Counter, Snapshot, Timing};
use crate::core::policy::Policy;
use crate::proto::close::CloseReason;
use crate::proto::event::Event;

/// Connections written before reads, accepts and timers have their chance.
const WRITES_A_TURN: usize = 256;

/// Members that a turn hands runs to before others have their chance; one channel may have more.
pub(super) const OFFERS_A_TURN: usize = 10_000;

/// Events that a turn lays out before others have their chance.
const EVENTS_A_TURN: usize = 8_192;

/// Writes that share one look at the clock.
const WRITES_A_CLOCK: usize = 16;

/// Rounds without a pause after which a shard counts as saturated.
const SATURATED: u32 = 8;

/// The longest that a saturated shard waits for readers that may be late, in milliseconds.
const HOLD_MS: u32 = 20;

/// How many times as long as it waited it then does not: readers who stall and recover on purpose
/// cost the others an eighth of the time at most.
const HOLD_REST: u64 = 7;

/// When a saturated shard may wait for its readers again.
#[derive(Debug, Default)]
struct Hold {
    not_before_ns: u64,
}

/// Runs the shard's turns, for as long as the shard lives.
async fn turns(local: Local) {
    let shard = &local.0;
    let Some(mailbox) = shard.mailbox() else { return };
    let clock = shard.node.clock();
    let (mut mail, mut orders) = (Vec::new(), Vec::new());
    let mut in_hand: VecDeque<Arc<Event>> = VecDeque::new();
    let mut notices = Notices::default();
    // Rounds since the shard last had nothing to do.
    let mut streak = 0_u32;
    let mut hold = Hold::default();
    // Whether others had their chance since the last events.
    let mut yielded = true;
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        shard.send_signals();
        // Orders do not wait for the end of a stream of events.
        mailbox.take_orders(&mut orders, &mut notices);
        for order in orders.drain(..) {
            shard.obey(order);
        }
        if in_hand.is_empty() {
            mailbox.take(&mut mail);
            in_hand.extend(mail.drain(..));
        }
        let recalls = shard.recalls();
        let idle = in_hand.is_empty() && notices.is_empty() && !recalls;
        let idle = idle && !shard.is_due() && !shard.is_cutting();
        // Answers of durable events may be all there is to write.
        if idle && shard.hub.borrow().dirty() == 0 {
            streak = 0;
            yielded |= pends(shard.rest(mailbox, sleep.as_mut())).await;
            continue;
        }
        if !std::mem::replace(&mut yielded, false) {
            // Nothing was written, and mail is there again: whoever publishes it may be read, but
            // sockets and timers were not looked at.
            tokio::task::yield_now().await;
        }
        streak = streak.saturating_add(1);
        if streak > SATURATED {
            shard.wait_for_readers(&mut hold).await;
        }
        let started_ns = clock.node_ns();
        let (events, bytes) = shard.fan_out(&mut in_hand);
        let bytes = if notices.is_empty() { bytes } else { bytes + shard.tell(&mut notices) };
        mailbox.settle(events, bytes);
        yielded = shard.write_round(started_ns).await;
        if shard.recalls() {
            shard.recall_round(clock.node_ns().saturating_sub(started_ns)).await;
            yielded = true;
        }
        shard.keep_memory().await;
    }
}

/// Waits for `future`; whether there was anything to wait for.
async fn pends(future: impl Future<Output = ()>) -> bool {
    let (mut future, mut pended) = (pin!(future), false);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        pended |= polled.is_pending();
        polled
    })
    .await;
    pended
}

impl Local {
    /// Runs the shard on this thread until `doors` end: its turns, its timer, its drain.
    ///
    /// # Panics
    ///
    /// Where one of them does: a shard that has lost its turns or its timer must not live on.
    pub async fn run(&self, doors: impl Future<Output = ()>) {
        // Also when one of them panics: who waits for this shard waits for nothing.
        let _ended = Ended(self);
        // Tasks, so that they take turns with those of the connections, and no more often.
        let turns = tokio::task::spawn_local(turns(self.clone()));
        let time = tokio::task::spawn_local(life::time(self.clone()));
        let over = tokio::select! {
            over = turns => over,
            over = time => over,
            () = doors => Ok(()),
        };
        if let Err(error) = over
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Ends the shard with its scope: its mailbox takes nothing any more.
struct Ended<'a>(&'a Local);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(mailbox) = self.0.0.mailbox() {
            mailbox.close();
        }
    }
}

impl Shard {
    /// When a throttle group is to be flushed, or a signal told.
    fn next_due(&self) -> Option<u64> {
        let (flush, signal) = (self.hub.borrow().next_due(), self.next_signal());
        flush.into_iter().chain(signal).min()
    }

    /// Whether that is now.
    fn is_due(&self) -> bool {
        let due_ms = self.next_due();
        due_ms.is_some_and(|due_ms| due_ms <= self.node.clock().node_ms())
    }

    /// Waits for mail, orders, the next flush of a throttle group or the next signal; may come back
    /// without any.
    async fn rest(&self, mailbox: &Mailbox, mut sleep: Pin<&mut Sleep>) {
        let Some(due_ms) = self.next_due() else { return mailbox.ring().await };
        // The wheel of the shard is too coarse for a hundred flushes a second.
        sleep.as_mut().reset(self.node.clock().instant(due_ms));
        tokio::select! {
            () = mailbox.ring() => {}
            () = sleep => {}
        }
    }

    /// Fans out as much of `in_hand` as one run a channel holds, and not many channels with many
    /// members at once. Returns how many events, and their payload.
    pub(super) fn fan_out(&self, in_hand: &mut VecDeque<Arc<Event>>) -> (usize, usize) {
        let now_ns = self.node.clock().node_ns();
        let (mut events, mut bytes) = (0, 0);
        let mut offers = 0;
        let mut outcome = Outcome::default();
        let made = {
            let mut hub = self.hub.borrow_mut();
            while let Some(event) = in_hand.front() {
                offers += hub.begins(event);
                if events >= EVENTS_A_TURN || offers > OFFERS_A_TURN && events > 0 {
                    break;
                }
                if !hub.load(event, now_ns) {
                    // Only what is in its way, so that the others keep their batches.
                    let (mut writer, now_ms) = (OutOfTurn(self), now_ns / 1_000_000);
                    let flushed = hub.flush_early(event, &mut writer, now_ms, &mut outcome);
                    let Some(members) = flushed else { break };
                    offers += members;
                    if !hub.load(event, now_ns) {
                        break;
                    }
                }
                events += 1;
                bytes += event.bytes();
                in_hand.pop_front();
            }
            hub.fan_out(&mut OutOfTurn(self), now_ns / 1_000_000, &mut outcome);
            hub.take_made()
        };
        self.metrics.made(&made);
        if events > 0 {
            self.metrics.batch(events as u64);
        }
        self.settle(outcome);
        (events, bytes)
    }

    /// Counts what became of events, and closes those who were too slow.
    pub(super) fn settle(&self, outcome: Outcome) {
        self.metrics.add(Counter::EventsConflated, outcome.conflated);
        self.metrics.add(Counter::DroppedUnsubscribed, outcome.purged);
        for (policy, dropped) in Policy::ALL.into_iter().zip(outcome.dropped) {
            let counter = match policy {
                Policy::Disconnect => Counter::DroppedDisconnect,
                Policy::DropNewest => Counter::DroppedNewest,
                Policy::DropOldest => Counter::DroppedOldest,
                Policy::Latest => Counter::DroppedLatest,
            };
            self.metrics.add(counter, dropped);
        }
        for id in outcome.overflowed {
            self.begin_close(id, CloseReason::SlowConsumer);
        }
    }

    /// Writes every dirty connection once, and lets others in between; whether there was any.
    async fn write_round(&self, mut started_ns: u64) -> bool {
        let clock = self.node.clock();
        let mut left = self.hub.borrow().dirty();
        let wrote = left > 0;
        while left > 0 {
            let mut node_ns = started_ns;
            for nth in 0..left.min(WRITES_A_TURN) {
                let Some(id) = self.hub.borrow_mut().next_dirty() else { break };
                if nth % WRITES_A_CLOCK == 0 {
                    node_ns = clock.node_ns();
                }
                if self.flush_at(id, node_ns) == Flushed::Broken
                    && let Some(socket) = self.socket(id)
                {
                    // Its task finds the same error and ends the connection.
                    wake(&socket);
                }
            }
            left = left.saturating_sub(WRITES_A_TURN);
            self.metrics.time(Timing::Tick, (clock.node_ns() - started_ns) / 1_000, 1);
            tokio::task::yield_now().await;
            started_ns = clock.node_ns();
        }
        wrote
    }

    /// Gives the sockets a moment when a connection that kept up so far is about to lose events:
    /// the mailbox fills meanwhile, and publishers who send as fast as is taken feel it.
    async fn wait_for_readers(&self, hold: &mut Hold) {
        let begun_ns = self.node.clock().node_ns();
        if begun_ns < hold.not_before_ns {
            return;
        }
        for nth in 0..=HOLD_MS {
            // A flush that is due does not wait for readers.
            if !self.hub.borrow_mut().is_near(nth == HOLD_MS) || self.is_due() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let now_ns = self.node.clock().node_ns();
        hold.not_before_ns = now_ns + (now_ns - begun_ns) * HOLD_REST;
    }

    /// The counters and gauges as they are now.
    fn snapshot(&self) -> Snapshot {
        // What was made for those who lag belongs to no batch.
        self.metrics.made(&self.hub.borrow_mut().take_made());
        self.metrics.snapshot(self.gauges())
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Answered(answers) => self.answered(answers),
            Order::Change(options, looked, done) => self.change(&options, looked, done),
            Order::Disconnect(client, answer) => {
                let id = self.hub.borrow().seat_of(client);
                let open = id.filter(|id| {
                    self.socket(*id).is_some_and(|socket| socket.ending.get().is_none())
                });
                if let Some(id) = open {
                    self.begin_close(id, CloseReason::Disconnected);
                }
                if answer.send(open.is_some()).is_err() {
                    tracing::debug!("whoever asked for a disconnect has gone");
                }
            }
            Order::Drain => self.start_drain(),
            Order::Stats(answer) => drop(answer.send(self.snapshot())),
            Order::StatsAndSlowest(answer) => {
                drop(answer.send((self.snapshot(), self.slowest())));
            }
        }
    }
}
