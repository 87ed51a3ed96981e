//! What a receiver thread does to its connections besides reading: holds the slow ones back, cuts,
//! closes, subscribes and unsubscribes, by plan or when told to.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use rustix::event::epoll::EventFlags;

use crate::clock::{self, SECOND};
use crate::engine::books::number;
use crate::engine::conduct::{Churn, Conduct, Credit, Cut, Slow};
use crate::engine::shared::Phase;
use crate::engine::socket;
use crate::engine::worker::{State, Worker, add};
use crate::fault::Fault;
use crate::plan::Plan;
use crate::verdict::Stands;
use crate::wire::{command, frame};

/// Acts made between two looks at the sockets.
const ACTS_PER_TURN: u64 = 64;
/// Connections that are looked at for one that is free to act on.
const PICKS_MAX: usize = 64;

/// A slow connection, and what it may read.
#[derive(Debug)]
struct Reader {
    at: usize,
    credit: Credit,
}

/// Where a thread stands with its acts.
#[derive(Debug)]
pub(super) struct Acts {
    plan: Option<Plan>,
    done: u64,
    /// When no connection was free to act on.
    held_at: u64,
    storms: u64,
    dice: fastrand::Rng,
    /// The slow connections of this thread.
    slow: Vec<Reader>,
    slow_read_at: Option<u64>,
    awake: bool,
}

impl Acts {
    pub(super) fn new(id: u32) -> Self {
        Self {
            plan: None,
            done: 0,
            held_at: 0,
            storms: 0,
            // Runs of the same shape do the same things.
            dice: fastrand::Rng::with_seed(0x5EED + u64::from(id)),
            slow: Vec::new(),
            slow_read_at: None,
            awake: false,
        }
    }

    /// When the next act is due, if that is by `now`.
    fn due(&mut self, rate: f64, now: u64) -> Option<u64> {
        let plan = *self.plan.get_or_insert_with(|| Plan::new(now, rate));
        (plan.due_by(now) > self.done).then(|| plan.due(self.done))
    }

    /// How long until the next act is due; while none can be done, until that may have changed.
    fn pause(&self, now: u64) -> u64 {
        let due = self.plan.map_or(0, |plan| plan.due(self.done));
        if self.held_at == now { SECOND / 1_000 } else { due.saturating_sub(now) }
    }
}

impl Worker {
    /// Does what is due, and says how long to wait for what comes next.
    pub(super) fn act(&mut self, phase: Phase) -> u64 {
        let now = clock::now();
        let flows = matches!(phase, Phase::Warm | Phase::Measure);
        match &self.wanted.subscribing.conduct {
            Conduct::Steady => u64::MAX,
            Conduct::Slow(slow) => self.read_slow(*slow, phase, now),
            Conduct::Churn(churn) if flows => self.churn(*churn, now),
            Conduct::Cut(cut) if flows => self.cut_some(*cut, phase, now),
            Conduct::Echo(_) => self.ask(phase, now),
            Conduct::Churn(_) | Conduct::Cut(_) => SECOND / 500,
        }
    }

    /// Books the acts that were due and not done when events were no longer measured.
    pub(super) fn count_skipped(&self) {
        let due = self
            .acts
            .plan
            .map_or(0, |plan| plan.due_before(self.shared.span().until, clock::now()));
        self.tally().skipped.fetch_add(due.saturating_sub(self.acts.done), Ordering::Relaxed);
    }

    fn shares(&self, rate: f64) -> f64 {
        rate / f64::from(self.wanted.threads)
    }

    /// A fresh connection that is slow on purpose is no longer read from.
    pub(super) fn slow_down(&mut self, at: usize) -> Result<(), Fault> {
        if !self.wanted.subscribing.conduct.is_slow(number(at, self.id, self.wanted.threads)) {
            return Ok(());
        }
        self.acts.slow.push(Reader { at, credit: Credit::default() });
        self.watch(at, EventFlags::RDHUP | EventFlags::ONESHOT)
    }

    /// Reads what slow connections may have; at the end, everything.
    fn read_slow(&mut self, slow: Slow, phase: Phase, now: u64) -> u64 {
        if phase >= Phase::Drain {
            if !std::mem::replace(&mut self.acts.awake, true) {
                for nth in 0..self.acts.slow.len() {
                    let at = self.acts.slow[nth].at;
                    if let Err(fault) = self.watch(at, EventFlags::IN | EventFlags::RDHUP) {
                        self.fail(at, fault);
                    }
                }
            }
            return SECOND / 50;
        }
        if slow.bytes_per_second == 0 || phase == Phase::Open {
            return SECOND / 50;
        }
        let every = slow.every();
        let from = *self.acts.slow_read_at.get_or_insert(now);
        if now - from < every {
            return every - (now - from);
        }
        self.acts.slow_read_at = Some(now);
        for nth in 0..self.acts.slow.len() {
            self.acts.slow[nth].credit.earn(slow.bytes_per_second, now - from);
            let at = self.acts.slow[nth].at;
            while self.conns[at].state == State::Ready && self.acts.slow[nth].credit.bytes() > 0 {
                match self.read(at, self.acts.slow[nth].credit.bytes()) {
                    Ok(0) => break,
                    Ok(read) => self.acts.slow[nth].credit.spend(read),
                    Err(fault) => self.fail(at, fault),
                }
            }
        }
        every
    }

    /// One of the connections that wait for nothing, from a random place on.
    fn pick(&mut self) -> Option<usize> {
        let (id, threads) = (self.id, self.wanted.threads);
        let conduct = &self.wanted.subscribing.conduct;
        let stays =
            |at: usize| matches!(conduct, Conduct::Cut(cut) if !cut.has(number(at, id, threads)));
        let count = self.conns.len();
        let start = self.acts.dice.usize(..count.max(1));
        let places = (0..count.min(PICKS_MAX)).map(|nth| (start + nth) % count);
        places.into_iter().find(|at| {
            let conn = &self.conns[*at];
            conn.state == State::Ready && conn.due == 0 && conn.asked == 0 && !stays(*at)
        })
    }

    /// The next act that is due and the connection to act on; while none is free, it waits.
    fn next_act(&mut self, rate: f64, now: u64) -> Option<(usize, u64)> {
        let due = self.acts.due(self.shares(rate), now)?;
        let Some(at) = self.pick() else {
            self.acts.held_at = now;
            return None;
        };
        self.acts.done += 1;
        if self.shared.span().has(due) {
            // While no connection was free, the server was late and not the generator.
            self.books.lateness.record(now.saturating_sub(due.max(self.acts.held_at)));
        }
        Some((at, due))
    }

    fn churn(&mut self, churn: Churn, now: u64) -> u64 {
        for _ in 0..ACTS_PER_TURN {
            let Some((at, due)) = self.next_act(churn.rate, now) else { break };
            if self.acts.dice.f64() < churn.reconnect {
                self.goodbye(at);
                self.leave(at, due);
            } else if let Err(fault) = self.toggle(at, due) {
                self.fail(at, fault);
            }
        }
        self.acts.pause(now)
    }

    /// Unsubscribes from what is subscribed to, or the other way round.
    fn toggle(&mut self, at: usize, due: u64) -> Result<(), Fault> {
        let slot = self.acts.dice.u32(..self.wanted.commands().max(1));
        let name = self.wanted.name(number(at, self.id, self.wanted.threads), slot);
        // One command at a time, so that its answer is known to be the last word.
        let id = self.asked.push(due, number(at, self.id, self.wanted.threads));
        self.conns[at].asked = id;
        let text = match self.books.ledger.stands(at, slot) {
            Stands::On => {
                self.books.ledger.leaving(at, slot);
                self.books.moves.unsubscribed += 1;
                command::unsubscribe(&name, id)
            }
            Stands::Off | Stands::Leaving => {
                self.books.moves.subscribed += 1;
                command::subscribe(&name, id, None, self.wanted.subscribing.wishes)
            }
        };
        self.out.clear();
        frame::push_client(frame::Opcode::Text, text.as_bytes(), &mut self.out);
        self.send(at)
    }

    /// A command of `toggle` is answered.
    pub(super) fn answered(&mut self, at: usize, id: u64, now: u64) {
        if self.conns[at].asked == id
            && let Some(due) = self.asked.take(id)
        {
            self.conns[at].asked = 0;
            if self.shared.span().has(due) {
                self.books.answers.record(now.saturating_sub(due));
            }
        }
    }

    /// Says that this connection is about to end.
    fn goodbye(&mut self, at: usize) {
        self.out.clear();
        frame::push_client(frame::Opcode::Close, &1000_u16.to_be_bytes(), &mut self.out);
        // A server that takes nothing is no reason to stay.
        self.send(at).ok();
    }

    fn cut_some(&mut self, cut: Cut, phase: Phase, now: u64) -> u64 {
        if cut.rate > 0.0 {
            for _ in 0..ACTS_PER_TURN {
                let Some((at, _)) = self.next_act(cut.rate, now) else { break };
                self.cut(at, now + cut.away_ns);
            }
            return self.acts.pause(now);
        }
        if self.shared.storms.load(Ordering::Acquire) > self.acts.storms && phase >= Phase::Measure
        {
            self.acts.storms += 1;
            let due = self.shared.storm_at.load(Ordering::Relaxed) + cut.away_ns;
            for at in 0..self.conns.len() {
                let is_cut = cut.has(number(at, self.id, self.wanted.threads));
                if is_cut && self.conns[at].state == State::Ready {
                    self.cut(at, due);
                }
            }
        }
        SECOND / 500
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
        self.hang_up(at);
        let conn = &mut self.conns[at];
        (conn.state, conn.due) = (State::Away, due);
        let asked = std::mem::take(&mut conn.asked);
        self.asked.take(asked);
        self.returns.push(Reverse((due, at)));
        add(&self.tally().cut);
    }

    /// A connection that was away has its subscriptions again; next, an event must come.
    pub(super) fn returned(&mut self, at: usize, now: u64) {
        let due = self.conns[at].due;
        if self.shared.span().has(due) {
            self.books.back.record(now.saturating_sub(due));
        }
        add(&self.tally().back);
        self.tally().last_back.store(now, Ordering::Relaxed);
        if !matches!(self.wanted.subscribing.conduct, Conduct::Cut(_))
            || self.wanted.subscribing.subscriptions == 0
        {
            self.conns[at].due = 0;
        }
    }

    /// The first event since a connection came back is here, and all that it had missed.
    pub(super) fn served(&mut self, at: usize, now: u64) {
        let due = std::mem::take(&mut self.conns[at].due);
        if self.shared.span().has(due) {
            self.books.served.record(now.saturating_sub(due));
        }
        add(&self.tally().served);
        self.tally().last_served.store(now, Ordering::Relaxed);
    }
}
