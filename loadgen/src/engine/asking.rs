//! `echo`: a receiver thread sends requests on its connections, by plan or as fast as they are
//! answered, and finds each answer's request by its number.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memchr::memmem;

use crate::clock::{self, SECOND};
use crate::engine::books::number;
use crate::engine::conduct::{Conduct, Echo};
use crate::engine::pending::Stranger;
use crate::engine::shared::Phase;
use crate::engine::worker::{State, Worker};
use crate::fault::Fault;
use crate::plan::{self, Plan};
use crate::wire::frame;
use crate::wire::marks;
use crate::wire::template::Values;

/// Requests made between two looks at the sockets.
const ASKED_PER_TURN: u64 = 256;

impl Worker {
    /// Sends the requests that are due, and says how long to wait for the next.
    pub(super) fn ask(&mut self, phase: Phase, now: u64) -> u64 {
        let drains = phase >= Phase::Calm;
        if phase == Phase::Open || self.conns.is_empty() {
            self.is_settled = drains;
            return SECOND / 500;
        }
        let Conduct::Echo(Echo { rate, window, .. }) = &self.wanted.subscribing.conduct else {
            return u64::MAX;
        };
        let (rate, window) = (rate / f64::from(self.wanted.threads), *window);
        if rate == 0.0 {
            self.is_settled = drains;
            if !drains && !std::mem::replace(&mut self.asking, true) {
                for at in 0..self.conns.len() {
                    for _ in 0..window {
                        self.request(at, now);
                    }
                }
            }
            return SECOND / 50;
        }
        let begun_at = self.shared.begun_at.load(Ordering::Relaxed);
        let plan = *self.ask_plan.get_or_insert_with(|| Plan::new(begun_at, rate));
        // In the drain, what was due while it was measured is still asked.
        let until = if drains { self.shared.span().until } else { u64::MAX };
        let due = plan.due_before(until, now);
        let end = due.min(self.planned + ASKED_PER_TURN);
        let lanes = self.conns.len() as u64;
        while self.planned < end {
            let at = usize::try_from(self.planned % lanes).unwrap_or(0);
            let due = plan.due(self.planned);
            if self.shared.span().has(due) {
                self.books.lateness.record(now.saturating_sub(due));
            }
            self.planned += 1;
            self.request(at, due);
        }
        self.is_settled = drains && self.planned >= due;
        if self.is_settled {
            return SECOND / 50;
        }
        plan.due(self.planned).saturating_sub(clock::now())
    }

    /// Requests that were due while it was measured and were never sent.
    pub(super) fn unasked(&self) -> u64 {
        let Some(plan) = self.ask_plan else { return 0 };
        let due = plan.due_before(self.shared.span().until, clock::now());
        due.saturating_sub(self.planned)
    }

    fn request(&mut self, at: usize, due: u64) {
        if self.conns[at].state != State::Ready {
            return;
        }
        let Conduct::Echo(echo) = &self.wanted.subscribing.conduct else { return };
        let connection = number(at, self.id, self.wanted.threads);
        let threads = u64::from(self.wanted.threads);
        // Numbers of different threads differ.
        let seq = (self.asked.push(due, connection) - 1) * threads + u64::from(self.id) + 1;
        let payload = echo.payload.as_slice();
        let values = Values { payload, connection, id: seq, seq, ts: due, channel: "" };
        self.text.clear();
        echo.frame.fill(&values, &mut self.text);
        self.out.clear();
        let is_binary =
            self.wanted.subscribing.foreign.as_ref().is_some_and(|foreign| foreign.binary);
        let opcode = if is_binary { frame::Opcode::Binary } else { frame::Opcode::Text };
        frame::push_client(opcode, &self.text, &mut self.out);
        self.books.requests += 1;
        if let Err(fault) = self.send(at) {
            self.fail(at, fault);
        }
    }

    /// Finds the answers in a text; false when it holds none.
    pub(super) fn echoed(&mut self, at: usize, text: &[u8], phase: Phase) -> bool {
        let wanted = Arc::clone(&self.wanted);
        let Conduct::Echo(echo) = &wanted.subscribing.conduct else { return false };
        let closed = echo.rate == 0.0;
        let refused = text.starts_with(br#"{"type":"error""#);
        let (now, measured) = (clock::now(), self.shared.span());
        let mut taken = Vec::new();
        let mut rest = text;
        while let Some(start) = memmem::find(rest, &echo.mark) {
            rest = &rest[start + echo.mark.len()..];
            let Some((seq, behind)) = marks::number(rest) else { continue };
            rest = behind;
            let due = match self.answer_to(seq, at) {
                Ok(Some(due)) => due,
                Ok(None) => continue,
                Err(Stranger) => {
                    // An answer may say its number more than once.
                    if !taken.contains(&seq) {
                        self.books.strangers += 1;
                        self.shared.blame(Fault::Unasked { number: seq });
                    }
                    continue;
                }
            };
            taken.push(seq);
            if refused {
                self.books.refused += 1;
                let shown = String::from_utf8_lossy(&text[..text.len().min(120)]).into_owned();
                self.shared.blame(Fault::Denied(shown));
                continue;
            }
            self.books.ledger.all.delivered += 1;
            if measured.has(due) {
                let latency = plan::latency(due, now);
                self.books.answers.record(latency);
                self.books.ledger.slices.record(now, latency);
            }
        }
        if closed && phase < Phase::Drain {
            for _ in &taken {
                self.request(at, now);
            }
        }
        !taken.is_empty()
    }

    /// When the request that an answer names was due, by the number that its frame had.
    fn answer_to(&mut self, seq: u64, at: usize) -> Result<Option<u64>, Stranger> {
        let threads = u64::from(self.wanted.threads);
        let Some(place) = seq.checked_sub(1) else { return Ok(None) };
        if place % threads != u64::from(self.id) {
            // Of another thread, if it was ever given there.
            return if place / threads + 1 < self.asked.next() { Err(Stranger) } else { Ok(None) };
        }
        let connection = number(at, self.id, self.wanted.threads);
        self.asked.answer(place / threads + 1, connection)
    }
}
