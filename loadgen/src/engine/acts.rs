//! What a receiver thread does to its connections besides reading: holds the slow ones back, cuts,
//! closes, subscribes and unsubscribes, by plan or when told to.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use rustix::event::epoll::EventFlags;

use crate::clock::{self, SECOND};
use crate::engine::books::number;
use crate::engine::conduct::{Churn, Conduct, Cut, Slow};
use crate::engine::opening::subscribe;
use crate::engine::shared::Phase;
use crate::engine::socket;
use crate::engine::worker::{State, Worker, add};
use crate::fault::Fault;
use crate::plan::Plan;
use crate::verdict::Stands;
use crate::wire::frame;

/// Acts made between two looks at the sockets.
const ACTS_PER_TURN: u64 = 64;
/// How often a slow connection is read from.
const SLOW_EVERY: u64 = SECOND / 10;

/// Where a thread stands with its acts.
#[derive(Debug)]
pub(super) struct Acts {
    plan: Option<Plan>,
    done: u64,
    storms: u64,
    dice: fastrand::Rng,
    /// The slow connections of this thread.
    slow: Vec<usize>,
    slow_started: u64,
    slow_read_at: u64,
    slow_given: u64,
    awake: bool,
}

impl Acts {
    pub(super) fn new(id: u32) -> Self {
        Self {
            plan: None,
            done: 0,
            storms: 0,
            // Runs of the same shape do the same things.
            dice: fastrand::Rng::with_seed(0x5EED + u64::from(id)),
            slow: Vec::new(),
            slow_started: 0,
            slow_read_at: 0,
            slow_given: 0,
            awake: false,
        }
    }

    /// How many acts are due.
    fn due(&mut self, rate: f64, now: u64) -> u64 {
        let plan = *self.plan.get_or_insert_with(|| Plan::new(now, rate));
        plan.due_by(now).saturating_sub(self.done).min(ACTS_PER_TURN)
    }
}

impl Worker {
    /// Does what is due, and says how long to wait for the next.
    pub(super) fn act(&mut self, phase: Phase) -> u64 {
        let now = clock::now();
        let flows = matches!(phase, Phase::Warm | Phase::Measure);
        match &self.wanted.conduct {
            Conduct::Steady => return u64::MAX,
            Conduct::Slow(slow) => self.read_slow(*slow, phase, now),
            Conduct::Churn(churn) if flows => self.churn(*churn, now),
            Conduct::Cut(cut) if flows => self.cut_some(*cut, phase, now),
            Conduct::Echo(_) => return self.ask(phase, now),
            Conduct::Churn(_) | Conduct::Cut(_) => {}
        }
        SECOND / 500
    }

    fn shares(&self, rate: f64) -> f64 {
        rate / f64::from(self.wanted.threads)
    }

    /// A fresh connection that is slow on purpose is no longer read from.
    pub(super) fn slow_down(&mut self, at: usize) -> Result<(), Fault> {
        if !self.wanted.conduct.is_slow(number(at, self.id, self.wanted.threads)) {
            return Ok(());
        }
        self.acts.slow.push(at);
        self.watch(at, EventFlags::RDHUP | EventFlags::ONESHOT)
    }

    /// Reads what slow connections may have; at the end, everything.
    fn read_slow(&mut self, slow: Slow, phase: Phase, now: u64) {
        if phase >= Phase::Drain {
            if !std::mem::replace(&mut self.acts.awake, true) {
                for nth in 0..self.acts.slow.len() {
                    let at = self.acts.slow[nth];
                    if let Err(fault) = self.watch(at, EventFlags::IN | EventFlags::RDHUP) {
                        self.fail(at, fault);
                    }
                }
            }
            return;
        }
        if self.acts.slow_started == 0 {
            self.acts.slow_started = now;
        }
        if slow.bytes_per_second == 0 || now - self.acts.slow_read_at < SLOW_EVERY {
            return;
        }
        self.acts.slow_read_at = now;
        let age = u128::from(now - self.acts.slow_started);
        let allowed = age * u128::from(slow.bytes_per_second) / u128::from(SECOND);
        let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
        let credit = usize::try_from(allowed - self.acts.slow_given).unwrap_or(usize::MAX);
        self.acts.slow_given = allowed;
        for nth in 0..self.acts.slow.len() {
            let at = self.acts.slow[nth];
            if self.conns[at].state == State::Ready
                && credit > 0
                && let Err(fault) = self.read(at, phase, credit)
            {
                self.fail(at, fault);
            }
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let at = self.acts.dice.usize(..self.conns.len().max(1));
        let conn = self.conns.get(at)?;
        (conn.state == State::Ready && conn.due == 0).then_some(at)
    }

    fn churn(&mut self, churn: Churn, now: u64) {
        for _ in 0..self.acts.due(self.shares(churn.rate), now) {
            self.acts.done += 1;
            let Some(at) = self.pick() else {
                add(&self.tally().skipped);
                continue;
            };
            if self.acts.dice.f64() < churn.reconnect {
                self.goodbye(at);
                self.leave(at, now);
            } else if let Err(fault) = self.toggle(at, now) {
                self.fail(at, fault);
            }
        }
    }

    /// Unsubscribes from what is subscribed to, or the other way round.
    fn toggle(&mut self, at: usize, now: u64) -> Result<(), Fault> {
        let slot = self.acts.dice.u32(..self.wanted.subscriptions.max(1));
        let name = self.wanted.channel_name(number(at, self.id, self.wanted.threads), slot);
        let asked = self.conns[at].asked;
        if asked > 0 {
            // One command at a time, so that its answer is known to be the last word.
            add(&self.tally().skipped);
            return Ok(());
        }
        let id = self.asked.push(now);
        self.conns[at].asked = id;
        let text = match self.books.ledger.stands(at, slot) {
            Stands::On => {
                self.books.ledger.leaving(at, slot);
                self.books.moves.unsubscribed += 1;
                format!(r#"{{"type":"unsubscribe","id":{id},"channel":"{name}"}}"#)
            }
            Stands::Off | Stands::Leaving => {
                self.books.moves.subscribed += 1;
                subscribe(&name, id, None, self.wanted.max_rate)
            }
        };
        self.out.clear();
        frame::push_client(frame::Opcode::Text, text.as_bytes(), &mut self.out);
        let Some(fd) = &self.conns[at].fd else { return Ok(()) };
        socket::send_all(fd, &self.out)
    }

    /// A command of `toggle` is answered.
    pub(super) fn answered(&mut self, at: usize, id: u64, now: u64) {
        if self.conns[at].asked == id
            && let Some(due) = self.asked.take(id)
        {
            self.conns[at].asked = 0;
            self.books.answers.record(now.saturating_sub(due));
        }
    }

    /// Says that this connection is about to end.
    fn goodbye(&mut self, at: usize) {
        self.out.clear();
        frame::push_client(frame::Opcode::Close, &1000_u16.to_be_bytes(), &mut self.out);
        if let Some(fd) = &self.conns[at].fd {
            // A full buffer is no reason to stay.
            socket::send_all(fd, &self.out).ok();
        }
    }

    fn cut_some(&mut self, cut: Cut, phase: Phase, now: u64) {
        if cut.rate > 0.0 {
            for _ in 0..self.acts.due(self.shares(cut.rate), now) {
                self.acts.done += 1;
                match self.pick() {
                    Some(at) => self.cut(at, now + cut.away_ns),
                    None => add(&self.tally().skipped),
                }
            }
            return;
        }
        if self.shared.storms.load(Ordering::Acquire) == self.acts.storms || phase < Phase::Measure
        {
            return;
        }
        self.acts.storms += 1;
        for at in 0..self.conns.len() {
            if self.conns[at].state == State::Ready {
                self.cut(at, now + cut.away_ns);
            }
        }
    }

    /// Resets a connection.
    fn cut(&mut self, at: usize, due: u64) {
        if let Some(fd) = &self.conns[at].fd {
            socket::reset_on_close(fd);
        }
        self.leave(at, due);
    }

    /// Drops a connection, which comes back at `due`.
    fn leave(&mut self, at: usize, due: u64) {
        self.books.ledger.ended(at);
        let conn = &mut self.conns[at];
        conn.fd = None;
        conn.carry = Vec::new();
        conn.state = State::Away;
        conn.due = due;
        let asked = std::mem::take(&mut conn.asked);
        self.asked.take(asked);
        self.returns.push(Reverse((due, at)));
        add(&self.tally().cut);
    }

    /// A connection that was away has its subscriptions again; next, an event must come.
    pub(super) fn returned(&mut self, at: usize, now: u64) {
        let waited = now.saturating_sub(self.conns[at].due);
        self.books.back.record(waited);
        add(&self.tally().back);
        self.tally().last_back.store(now, Ordering::Relaxed);
        if !matches!(self.wanted.conduct, Conduct::Cut(_)) || self.wanted.subscriptions == 0 {
            self.conns[at].due = 0;
        }
    }

    /// The first event since a connection came back is here.
    pub(super) fn served(&mut self, at: usize, now: u64) {
        let due = std::mem::take(&mut self.conns[at].due);
        self.books.served.record(now.saturating_sub(due));
        add(&self.tally().served);
        self.tally().last_served.store(now, Ordering::Relaxed);
    }
}
