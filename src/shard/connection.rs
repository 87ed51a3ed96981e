//! The task of one connection: reads, decodes and asks; writes what the rounds could not; and sees
//! the close through.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::away::{Away, Worked};
use super::command::Asker;
use super::door::LARGE_BYTES;
use super::durable::{Owed, Pause};
use super::flush::{Flushed, others_first};
use super::held::{First, Held};
use super::inbound::{Next, Text, unread};
use super::local::{Local, Socket};
use super::waits::Waits;
use crate::core::hub::SeatId;
use crate::core::metrics::Counter;
use crate::proto::close::CloseReason;
use crate::proto::format::{Spoken, Subprotocol};
use crate::proto::ws::deflate::Inbound;
use crate::proto::ws::message::Decoder;

/// Reads of one connection in one turn, so that a flooding client does not hold the others up.
const READS_A_TURN: usize = 4;

/// Bytes that a client may go on sending after our close; more is answered by a reset.
const IGNORED_MAX: usize = 256 * 1024;

/// Bytes of messages that are inflated and carried out before the runtime looks at the sockets of
/// the others: a millisecond at the most for nearly all that a client may send.
const WORK_A_TURN: usize = 256 * 1024;

/// Bytes that are decoded at once. A message of more stands in the memory of the decoder, from where
/// it can be taken without a copy.
const INPUT_BYTES: usize = 64 * 1024;

/// A message that is worked on beside the shard has more.
const _: () = assert!(INPUT_BYTES < LARGE_BYTES);

/// One connection as its task knows it. Small: there are a hundred thousand of them.
pub(super) struct Connection {
    local: Local,
    id: SeatId,
    decoder: Decoder,
    /// What was read and not yet carried out.
    held: Option<Box<Held>>,
    /// Memory of it, of what is under way in the decoder and of work elsewhere, as it is counted.
    counted: usize,
    /// It is not read until that is there.
    waits: Option<Box<Waits>>,
    /// It is not read for now, and its session knows.
    waiting: bool,
    /// What its binary messages are.
    subprotocol: Subprotocol,
    /// Our half of the stream is shut.
    shut: bool,
    /// Bytes thrown away behind our close.
    ignored: usize,
}

/// With what the runtime adds it stays within 256 bytes.
const _: () = assert!(size_of::<Connection>() <= 96);

impl Connection {
    /// The task of the connection `id`; `early` is what came behind its handshake.
    pub(super) fn new(local: Local, id: SeatId, early: Vec<u8>, spoken: Spoken) -> Self {
        let inbound = spoken.deflate.map(|agreed| Inbound::new(&agreed));
        Self {
            local,
            id,
            decoder: inbound.map_or_else(Decoder::new, Decoder::inflating),
            held: Held::of(None, &early),
            counted: 0,
            waits: None,
            waiting: false,
            subprotocol: spoken.subprotocol,
            shut: false,
            ignored: 0,
        }
    }
}

/// Drives the connection to its end. By hand: an `async fn` would keep its arguments beside what
/// it makes of them, and the runtime rounds a task up to 128 bytes.
impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.get_mut();
        // A panic in one connection ends that connection alone; a panic over that, at once.
        let ended = catch_unwind(AssertUnwindSafe(|| connection.poll_alive(cx)))
            .or_else(|_| catch_unwind(AssertUnwindSafe(|| connection.panicked(cx))))
            .unwrap_or(Poll::Ready(CloseReason::Internal));
        ended.map(|reason| connection.local.0.remove(connection.id, reason))
    }
}

impl Connection {
    /// Gives up what the panic may have left half done, and closes with 1011.
    fn panicked(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let shard = Rc::clone(&self.local.0);
        shard.metrics.add(Counter::Panics, 1);
        self.give_up(0);
        let Some(socket) = shard.socket(self.id) else { return Poll::Ready(CloseReason::Internal) };
        shard.begin_close(self.id, CloseReason::Internal);
        remember_waker(&socket, cx);
        if self.poll_write(&socket, cx).is_err() {
            return Poll::Ready(CloseReason::Internal);
        }
        self.poll_ending(&socket, cx)
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(socket) = self.local.0.socket(self.id) else {
            return Poll::Ready(CloseReason::Socket);
        };
        remember_waker(&socket, cx);
        if self.poll_write(&socket, cx).is_err() {
            return Poll::Ready(over(&socket, CloseReason::Socket));
        }
        let over =
            if socket.ending.get().is_none() { self.poll_requests(&socket, cx) } else { None };
        self.weigh(socket.unsent());
        if let Some(reason) = over {
            if reason == CloseReason::Socket {
                return Poll::Ready(reason);
            }
            self.local.0.begin_close(self.id, reason);
            remember_waker(&socket, cx);
            if self.poll_write(&socket, cx).is_err() {
                return Poll::Ready(reason);
            }
        }
        match socket.ending.get() {
            Some(_) => {
                self.give_up(socket.unsent());
                self.poll_ending(&socket, cx)
            }
            None => Poll::Pending,
        }
    }

    /// Gives up what was read: nothing more of it is carried out. As [`Connection::weigh`].
    fn give_up(&mut self, unsent: usize) {
        self.decoder = Decoder::new();
        self.held = None;
        self.waits = None;
        self.weigh(unsent);
    }

    /// Counts what was read and is not carried out, and what is encrypted and `unsent`.
    fn weigh(&mut self, unsent: usize) {
        let held = self.held.as_ref().map_or(0, |held| held.footprint());
        let away = self.waits.as_ref().map_or(0, |waits| waits.bytes());
        let bytes = held + away + self.decoder.footprint() + unsent;
        if std::mem::replace(&mut self.counted, bytes) != bytes {
            self.local.0.hub.borrow_mut().weigh_input(self.id, bytes);
        }
    }

    /// Writes what waits; where the kernel takes no more, waits for it.
    fn poll_write(&self, socket: &Socket, cx: &mut Context<'_>) -> Result<(), ()> {
        let shard = &self.local.0;
        loop {
            let blocked = shard.hub.borrow_mut().seat(self.id).is_none_or(|seat| seat.blocked);
            if blocked {
                match socket.stream.poll_write_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => return Err(()),
                    Poll::Ready(Ok(())) => {}
                }
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    seat.blocked = false;
                    if self.waiting {
                        // It takes its answers, so it lives, though none of its bytes are read.
                        seat.session.heard(shard.node.clock().node_ms());
                    }
                }
            }
            match shard.flush(self.id) {
                Flushed::All => return Ok(()),
                Flushed::Blocked => {}
                Flushed::Broken => return Err(()),
            }
        }
    }

    /// Reads and carries out requests. A reason ends the connection.
    fn poll_requests(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Option<CloseReason> {
        let budget = Cell::new(WORK_A_TURN);
        for _ in 0..READS_A_TURN {
            if socket.ending.get().is_some() {
                return None;
            }
            let worked = match self.poll_waits(socket, cx) {
                Poll::Pending => {
                    self.wait(true);
                    return None;
                }
                Poll::Ready(Err(reason)) => return Some(reason),
                Poll::Ready(Ok(worked)) => worked,
            };
            if worked.is_none() && self.unread() {
                // Answers wait for the socket, which wakes this task when it takes them.
                self.wait(false);
                return None;
            }
            self.go_on();
            if worked.is_none() && self.held.is_none() && !self.decoder.is_paused() {
                match self.poll_read(socket, &budget, cx) {
                    Poll::Pending => return None,
                    Poll::Ready(Some(reason)) => return Some(reason),
                    Poll::Ready(None) => {}
                }
            } else if let Some(reason) = self.take_held(socket, &budget, worked) {
                return Some(reason);
            }
            match self.local.0.flush(self.id) {
                Flushed::All | Flushed::Blocked => {}
                Flushed::Broken => return Some(CloseReason::Socket),
            }
            let blocked = self.local.0.hub.borrow_mut().seat(self.id).is_some_and(|s| s.blocked);
            if blocked && self.poll_write(socket, cx).is_err() {
                return Some(CloseReason::Socket);
            }
            if budget.get() == 0 {
                break;
            }
        }
        others_first(cx.waker());
        None
    }

    /// Ready when there is nothing to wait for, with what was worked on meanwhile.
    fn poll_waits(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Worked>, CloseReason>> {
        if self.waits.is_none()
            && let owed @ Owed { crowded: Some(crowded), .. } = socket.owed.get()
        {
            // One of its durable events has filled a mailbox, when it came there.
            socket.owed.set(Owed { crowded: None, ..owed });
            let waits = Waits::of(Pause::Mailbox(crowded), &self.local.0.node);
            self.waits = Some(Box::new(waits));
        }
        let Some(waits) = self.waits.as_deref_mut() else { return Poll::Ready(Ok(None)) };
        let worked = match waits.poll(socket, cx) {
            Poll::Ready(Ok(worked)) => worked,
            other @ (Poll::Pending | Poll::Ready(Err(_))) => return other,
        };
        self.waits = None;
        self.go_on();
        Poll::Ready(Ok(worked))
    }

    /// Tells the session that it is not read: for no fault of its own (`held`), or for answers that
    /// it does not take.
    fn wait(&mut self, held: bool) {
        if !std::mem::replace(&mut self.waiting, true) {
            let shard = &self.local.0;
            let now_ms = shard.node.clock().node_ms();
            if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                seat.session.hold(held, now_ms);
            }
        }
    }

    /// Tells the session that it is read again.
    fn go_on(&mut self) {
        if std::mem::take(&mut self.waiting) {
            let shard = &self.local.0;
            let now_ms = shard.node.clock().node_ms();
            if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                seat.session.release(now_ms);
            }
        }
    }

    /// Whether its unread answers exceed the bound: then it is not read.
    fn unread(&self) -> bool {
        unread(&self.local, self.id)
    }

    fn poll_read(
        &mut self,
        socket: &Socket,
        budget: &Cell<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<CloseReason>> {
        match socket.poll_readable(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Some(CloseReason::Socket)),
            Poll::Ready(Ok(())) => {}
        }
        let shard = Rc::clone(&self.local.0);
        let mut scratch = shard.scratch();
        let reason = match shard.read(socket, &mut scratch) {
            Ok(0) => Some(CloseReason::Socket),
            Ok(read) => {
                let now_ms = shard.node.clock().node_ms();
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    seat.session.heard(now_ms);
                }
                let bytes = scratch.get_mut(..read).unwrap_or_default();
                match self.take_in((socket, budget), bytes, First::Nothing) {
                    Ok((text, left)) => {
                        self.held = Held::of(text, bytes.get(read - left..).unwrap_or_default());
                        None
                    }
                    Err(reason) => Some(reason),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(CloseReason::Socket),
        };
        Poll::Ready(reason)
    }

    /// Goes on with what was held, behind what was `worked` on.
    fn take_held(
        &mut self,
        socket: &Socket,
        budget: &Cell<usize>,
        worked: Option<Worked>,
    ) -> Option<CloseReason> {
        let shard = Rc::clone(&self.local.0);
        if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
            // Its bytes came long ago; what it has sent since is not read for that.
            seat.session.heard(shard.node.clock().node_ms());
        }
        let mut held = self.held.take().unwrap_or_default();
        let first = First::of(worked, held.text.take());
        let end = held.input.len().min(held.at + INPUT_BYTES);
        let bytes = held.input.get_mut(held.at..end).unwrap_or_default();
        match self.take_in((socket, budget), bytes, first) {
            Ok((text, left)) => {
                (held.text, held.at) = (text, end - left);
                self.held = (!held.is_empty()).then_some(held);
                None
            }
            Err(reason) => Some(reason),
        }
    }

    /// Carries out what comes first, then decodes `bytes` and carries out what they ask, within the
    /// budget. Returns messages that are left of a text frame, and how many of the bytes are.
    fn take_in(
        &mut self,
        (socket, budget): (&Socket, &Cell<usize>),
        bytes: &mut [u8],
        first: First,
    ) -> Result<(Option<Text>, usize), CloseReason> {
        let shard = Rc::clone(&self.local.0);
        let Some((author, stranger)) = shard.who(self.id) else { return Ok((None, 0)) };
        let now = shard.node.clock().now();
        let (id, subprotocol) = (self.id, self.subprotocol);
        let (author, became) = (&author, RefCell::default());
        let asker = Asker { id, socket, author, now, subprotocol, budget, stranger, became };
        let max = || asker.message_max(shard.options().message_bytes);
        let mut inflaters = shard.inflaters.borrow_mut();
        let before = inflaters.tally();
        let mut rest = bytes;
        let mut finished = false;
        let mut next = match first {
            First::Nothing => Next::Read,
            First::Text(text) => asker.text(&self.local, text),
            First::Worked(worked) => asker.resume(&self.local, worked),
        };
        let kept = loop {
            match next {
                Next::Away(job) => {
                    let away = Away::new(*job, max(), shard.node.wanted());
                    self.waits = Some(Box::new(Waits::Away(away)));
                    break Ok(None);
                }
                Next::Close(reason) => break Err(reason),
                Next::Ended => {
                    rest = &mut [];
                    break Ok(None);
                }
                Next::Hold(pause, text) => {
                    self.waits = Some(Box::new(Waits::of(pause, &shard.node)));
                    break Ok(text);
                }
                Next::Lent(job) => {
                    let job = job.of(self.decoder.take_lent());
                    self.waits =
                        Some(Box::new(Waits::Away(Away::new(job, max(), shard.node.wanted()))));
                    break Ok(None);
                }
                Next::Read => {}
                Next::Stop(text) => break Ok(text),
            }
            if asker.is_spent() && (!rest.is_empty() || self.decoder.is_paused()) {
                break Ok(None);
            }
            let plain = inflaters.tally().1;
            inflaters.allow(budget.get());
            let decoded = self.decoder.next_with(&mut rest, max(), &mut inflaters);
            let came = inflaters.tally().1.wrapping_sub(plain);
            asker.spend(usize::try_from(came).unwrap_or(usize::MAX));
            next = match decoded {
                Ok(Some(message)) => {
                    let next = asker.take(&self.local, message);
                    // Not by a ping between the fragments of a message that goes on behind it.
                    finished |= self.decoder.is_idle();
                    next
                }
                // All of the input was taken, or the decoder pauses.
                Ok(None) => break Ok(None),
                Err(error) => Next::Close(CloseReason::Protocol(error)),
            };
        };
        let (compressed, plain) = inflaters.tally();
        shard.metrics.add(Counter::CompressedIn, compressed.wrapping_sub(before.0));
        shard.metrics.add(Counter::CompressedInPlain, plain.wrapping_sub(before.1));
        let kept = kept?;
        self.note_unfinished(finished, now.node_ms());
        Ok((kept, rest.len()))
    }

    /// Remembers since when a message is unfinished, and looks again when it has had its time.
    fn note_unfinished(&self, finished: bool, now_ms: u64) {
        let shard = &self.local.0;
        let inside = !self.decoder.is_idle();
        if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
            seat.session.unfinished(inside, finished, now_ms);
            if inside {
                let wake_at = seat.session.wake_at(shard.options().heartbeat());
                shard.arm((self.id, seat.author.client), &mut seat.session, wake_at);
            }
        }
    }

    /// Waits for the peer's own end, or for the deadline.
    fn poll_ending(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(ending) = socket.ending.get() else { return Poll::Pending };
        let shard = Rc::clone(&self.local.0);
        if ending.reason.code().is_none() || shard.node.clock().node_ms() >= ending.deadline_ms {
            return Poll::Ready(ending.reason);
        }
        let written = shard.hub.borrow_mut().seat(self.id).is_none_or(|s| s.outbox.is_empty());
        if written && !self.shut && shard.say_end(self.id, socket) {
            self.shut = true;
            let stream = socket2::SockRef::from(&socket.stream);
            if stream.shutdown(std::net::Shutdown::Write).is_err() {
                return Poll::Ready(ending.reason);
            }
        }
        if self.ignored > IGNORED_MAX {
            return Poll::Ready(ending.reason);
        }
        // What still comes is read and thrown away, so that the close is not turned into a reset.
        for _ in 0..READS_A_TURN {
            match socket.stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(ending.reason),
                Poll::Ready(Ok(())) => {}
            }
            match socket.stream.try_read(&mut shard.scratch()) {
                Ok(0) => return Poll::Ready(ending.reason),
                Ok(read) => self.ignored += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(ending.reason),
            }
        }
        others_first(cx.waker());
        Poll::Pending
    }
}

/// The reason under which a connection is counted whose socket failed.
fn over(socket: &Socket, otherwise: CloseReason) -> CloseReason {
    socket.ending.get().map_or(otherwise, |ending| ending.reason)
}

fn remember_waker(socket: &Socket, cx: &Context<'_>) {
    let waker = match socket.waker.take() {
        Some(waker) if waker.will_wake(cx.waker()) => waker,
        Some(_) | None => cx.waker().clone(),
    };
    socket.waker.set(Some(waker));
}
