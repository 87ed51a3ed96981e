//! How a receiver thread's connections come up, and come back: connect, upgrade, subscribe, each
//! within its time; and how they end.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::clock::{self, SECOND};
use crate::engine::books::number;
use crate::engine::conduct::Conduct;
use crate::engine::ledger::Arrival;
use crate::engine::socket;
use crate::engine::worker::{State, Worker, add};
use crate::fault::Fault;
use crate::plan::Plan;
use crate::wire::template::Values;
use crate::wire::{command, frame};

impl Worker {
    /// Opens what may be opened, and says how long to wait for events.
    pub(super) fn open_more(&mut self) -> u64 {
        let rate = self.wanted.connect_rate / f64::from(self.wanted.threads);
        let plan = (rate > 0.0).then(|| Plan::new(self.opened_at, rate));
        let now = clock::now();
        let due = plan.map_or(u64::MAX, |plan| plan.due_by(now));
        if self.opening >= self.wanted.inflight {
            self.full_at = now;
        }
        let mut turn = 64;
        while self.next < self.conns.len()
            && (self.next as u64) < due
            && self.opening < self.wanted.inflight
            && turn > 0
        {
            let at = self.next;
            self.next += 1;
            turn -= 1;
            let born = plan.map_or_else(clock::now, |plan| plan.due(at as u64));
            if plan.is_some() {
                // While handshakes left no room, the server was late and not the generator.
                let late = clock::now().saturating_sub(born.max(self.full_at));
                self.books.opening_lateness.record(late);
                self.books.last_begun = clock::now();
            }
            self.begin(at, born);
        }
        let back = self.come_back(turn);
        let wait = if self.next == self.conns.len() {
            SECOND / 50
        } else if self.opening >= self.wanted.inflight {
            SECOND / 1_000
        } else {
            let next = plan.map_or(0, |plan| plan.due(self.next as u64));
            next.saturating_sub(clock::now()).min(SECOND / 50)
        };
        wait.min(back)
    }

    /// Opens those that are due to come back, and says how long to wait for the next.
    fn come_back(&mut self, mut turn: u32) -> u64 {
        let now = clock::now();
        while let Some(Reverse((due, at))) = self.returns.peek().copied() {
            if due > now {
                return due - now;
            }
            if self.opening >= self.wanted.inflight {
                self.full_at = now;
                return SECOND / 1_000;
            }
            if turn == 0 {
                return 0;
            }
            turn -= 1;
            self.returns.pop();
            if self.shared.span().has(due) {
                self.books.lateness.record(now.saturating_sub(due.max(self.full_at)));
            }
            self.begin(at, due);
        }
        u64::MAX
    }

    fn begin(&mut self, at: usize, born: u64) {
        if let Err(fault) = self.open(at, born) {
            self.fail(at, fault);
        }
    }

    fn open(&mut self, at: usize, born: u64) -> Result<(), Fault> {
        let index = number(at, self.id, self.wanted.threads);
        let conn = &mut self.conns[at];
        self.answered.remove(&at);
        conn.state = State::Connecting;
        conn.born = born;
        conn.deadline = clock::now() + self.wanted.timeout_ns;
        self.opening += 1;
        self.pending.push_back((conn.deadline, at));
        let buffer = match &self.wanted.subscribing.conduct {
            Conduct::Slow(slow) if slow.has(index) => Some(slow.buffer_bytes),
            Conduct::Slow(_)
            | Conduct::Steady
            | Conduct::Churn(_)
            | Conduct::Cut(_)
            | Conduct::Echo(_) => None,
        };
        let fd = socket::open(&self.wanted.target, self.wanted.sources, index, buffer)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        epoll::add(&self.poll, &fd, EventData::new_u64(at as u64), flags)
            .map_err(std::io::Error::from)?;
        conn.fd = Some(fd);
        Ok(())
    }

    pub(super) fn connected(&mut self, at: usize) -> Result<(), Fault> {
        let Some(fd) = &self.conns[at].fd else { return Ok(()) };
        socket::connected(fd)?;
        self.watch(at, EventFlags::IN | EventFlags::RDHUP)?;
        if self.secure.is_some() { self.shake(at) } else { self.ask_for_upgrade(at) }
    }

    /// Sends the request for the upgrade.
    pub(super) fn ask_for_upgrade(&mut self, at: usize) -> Result<(), Fault> {
        self.conns[at].state = State::Upgrading;
        self.out.clear();
        if self.wanted.target.tokens.len() > 1 {
            let index = number(at, self.id, self.wanted.threads);
            self.out.extend_from_slice(&self.wanted.target.request(index));
        } else {
            self.out.extend_from_slice(&self.request);
        }
        self.send(at)
    }

    /// Ends a connection's socket, and forgets what was read from it and not sent on it.
    pub(super) fn hang_up(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        (conn.fd, conn.carry) = (None, Vec::new());
        self.rests.remove(&at);
        if let Some(secure) = &mut self.secure {
            secure.forget(at);
        }
    }

    /// Changes what a connection's socket wakes this thread for.
    pub(super) fn watch(&self, at: usize, flags: EventFlags) -> Result<(), Fault> {
        let Some(fd) = &self.conns[at].fd else { return Ok(()) };
        let data = EventData::new_u64(at as u64);
        Ok(epoll::modify(&self.poll, fd, data, flags).map_err(std::io::Error::from)?)
    }

    /// The handshake is done: asks for the channels, or is ready at once.
    pub(super) fn upgraded(&mut self, at: usize, now: u64) -> Result<(), Fault> {
        if self.conns[at].due == 0 {
            self.books.handshakes.record(now.saturating_sub(self.conns[at].born));
        }
        let connection = number(at, self.id, self.wanted.threads);
        if self.wanted.subscribing.foreign.is_some() {
            return self.greet(at, now);
        }
        let recovers = matches!(self.wanted.subscribing.conduct, Conduct::Cut(_));
        self.out.clear();
        for slot in 0..self.wanted.commands() {
            let since = recovers.then(|| self.books.ledger.since(at, slot)).flatten();
            let id = u64::from(slot) + 1;
            let name = self.wanted.name(connection, slot);
            let text = command::subscribe(&name, id, since, self.wanted.subscribing.wishes);
            frame::push_client(frame::Opcode::Text, text.as_bytes(), &mut self.out);
        }
        self.send(at)?;
        self.subscribed(at, self.wanted.commands(), now)
    }

    /// Says to a server that is not Weir what its templates say.
    fn greet(&mut self, at: usize, now: u64) -> Result<(), Fault> {
        let wanted = Arc::clone(&self.wanted);
        let Some(foreign) = &wanted.subscribing.foreign else { return Ok(()) };
        let connection = number(at, self.id, wanted.threads);
        self.out.clear();
        if let Some(hello) = &foreign.hello {
            let values = Values { connection, id: 1, ..Values::default() };
            foreign.push(hello, &values, &mut self.out);
        }
        if let Some(subscribe) = &foreign.subscribe {
            for slot in 0..wanted.subscribing.subscriptions {
                let name = wanted.channel_name(connection, slot);
                foreign.push(subscribe, &wanted.values(connection, slot, &name), &mut self.out);
            }
        }
        self.send(at)?;
        // The publisher begins when all are ready, so each account begins with the first event.
        self.books.ledger.begin(at);
        self.subscribed(at, foreign.answers(wanted.subscribing.subscriptions), now)
    }

    /// Takes a message of a server that is not Weir.
    pub(super) fn foreign(&mut self, text: &[u8], from: Arrival) -> Result<(), Fault> {
        let wanted = Arc::clone(&self.wanted);
        let Some(foreign) = &wanted.subscribing.foreign else { return Ok(()) };
        if let Some(pong) = foreign.pong.as_ref().filter(|_| foreign.is_ping(text)) {
            self.out.clear();
            let values = Values { connection: from.connection, ..Values::default() };
            foreign.push(pong, &values, &mut self.out);
            return self.send(from.at);
        }
        self.books.ledger.foreign(text, from);
        let State::Subscribing { left } = self.conns[from.at].state else { return Ok(()) };
        let names: Vec<String> = (0..wanted.subscribing.subscriptions.max(1))
            .map(|slot| wanted.channel_name(from.connection, slot))
            .collect();
        let each = (0..).zip(&names);
        let each = each.map(|(slot, name)| wanted.values(from.connection, slot, name));
        let seen = self.answered.entry(from.at).or_default();
        let found = foreign.answered(text, each, seen);
        if found == 0 {
            self.heard = String::from_utf8_lossy(&text[..text.len().min(120)]).into_owned();
            return Ok(());
        }
        self.subscribed(from.at, left.saturating_sub(found), from.now)
    }

    pub(super) fn subscribed(&mut self, at: usize, left: u32, now: u64) -> Result<(), Fault> {
        let conn = &mut self.conns[at];
        if left > 0 {
            conn.state = State::Subscribing { left };
            return Ok(());
        }
        conn.state = State::Ready;
        self.opening -= 1;
        self.answered.remove(&at);
        if conn.due > 0 {
            self.returned(at, now);
            return Ok(());
        }
        self.books.ready.record(now.saturating_sub(conn.born));
        self.books.last_ready = now;
        add(&self.tally().ready);
        self.slow_down(at)
    }

    /// Ends what has been under way for too long.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some((deadline, at)) = self.pending.front().copied() {
            let conn = &self.conns[at];
            let settled = matches!(conn.state, State::Ready | State::Gone | State::Away);
            let over = settled || conn.deadline != deadline;
            if !over && deadline > now {
                return;
            }
            self.pending.pop_front();
            if !over {
                let limit = Duration::from_nanos(self.wanted.timeout_ns);
                let subscribing = matches!(self.conns[at].state, State::Subscribing { .. });
                let fault = if subscribing && self.wanted.subscribing.foreign.is_some() {
                    Fault::Unexpected { limit, heard: self.heard.clone() }
                } else {
                    Fault::Silent { limit }
                };
                self.fail(at, fault);
            }
        }
    }

    /// A connection has ended by itself, which counts once: what was read before is looked at still,
    /// and may be at fault, too.
    pub(super) fn fail(&mut self, at: usize, fault: Fault) {
        if matches!(self.conns[at].state, State::Gone | State::Away) {
            return;
        }
        let slow =
            self.wanted.subscribing.conduct.is_slow(number(at, self.id, self.wanted.threads));
        self.books.ledger.ended(at);
        self.hang_up(at);
        let conn = &mut self.conns[at];
        let was = conn.state;
        if was != State::Ready {
            self.opening -= 1;
        }
        if was != State::Ready && conn.due > 0 {
            conn.state = State::Away;
            self.returns
                .push(Reverse((clock::now() + self.wanted.subscribing.conduct.retry_ns(), at)));
            add(&self.tally().retries);
            return self.shared.blame(fault);
        }
        conn.state = State::Gone;
        if was == State::Ready && slow {
            *self.books.closes.entry(fault.to_string()).or_default() += 1;
            return add(&self.tally().slow_gone);
        }
        add(if was == State::Ready { &self.tally().lost } else { &self.tally().failed });
        self.shared.blame(fault);
    }
}
