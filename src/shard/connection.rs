//! The task of one connection: reads, decodes and asks; writes what the rounds could not; and sees
//! the close through.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::away::{Away, Worked};
use super::command::Asker;
use super::flush::{Flushed, forget_readable};
use super::inbound::{Next, unread};
use super::local::{Local, Socket};
use super::mailbox::Room;
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

/// Bytes that a client's messages are inflated to before others have their chance.
const INFLATED_A_READ: u64 = 256 * 1024;

/// Input of a client that compresses is taken in pieces of that many bytes, which inflate to
/// sixteen MiB at the very most, and to a hundredth of that as JSON has it.
const PIECE_BYTES: usize = 16 * 1024;

/// One connection as its task knows it. Small: there are a hundred thousand of them.
pub(super) struct Connection {
    local: Local,
    id: SeatId,
    decoder: Decoder,
    /// Bytes read and not yet decoded, while the client is held back.
    held: Vec<u8>,
    /// How many of these, at the front, are messages of a text frame that was decoded.
    held_text: usize,
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

/// What a connection waits for before it is read again.
enum Waits {
    /// Work on a message of its own.
    Away(Away),
    /// Room in the mailbox that it has filled.
    Room(Room),
}

impl Connection {
    /// The task of the connection `id`; `early` is what came behind its handshake.
    pub(super) fn new(local: Local, id: SeatId, early: Vec<u8>, spoken: Spoken) -> Self {
        let inbound = spoken.deflate.map(|agreed| Inbound::new(&agreed));
        Self {
            local,
            id,
            decoder: inbound.map_or_else(Decoder::new, Decoder::inflating),
            held: early,
            held_text: 0,
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
        self.decoder = Decoder::new();
        self.held = Vec::new();
        self.held_text = 0;
        self.waits = None;
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
        if socket.ending.get().is_none()
            && let Some(reason) = self.poll_requests(&socket, cx)
        {
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
            Some(_) => self.poll_ending(&socket, cx),
            None => Poll::Pending,
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
        for _ in 0..READS_A_TURN {
            if socket.ending.get().is_some() {
                return None;
            }
            let worked = match self.poll_waits(cx) {
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
            if worked.is_none() && self.held.is_empty() {
                match self.poll_read(socket, cx) {
                    Poll::Pending => return None,
                    Poll::Ready(Some(reason)) => return Some(reason),
                    Poll::Ready(None) => {}
                }
            } else {
                let mut held = std::mem::take(&mut self.held);
                if let Some(reason) = self.take_in(socket, &mut held, worked) {
                    return Some(reason);
                }
            }
            match self.local.0.flush(self.id) {
                Flushed::All | Flushed::Blocked => {}
                Flushed::Broken => return Some(CloseReason::Socket),
            }
            let blocked = self.local.0.hub.borrow_mut().seat(self.id).is_some_and(|s| s.blocked);
            if blocked && self.poll_write(socket, cx).is_err() {
                return Some(CloseReason::Socket);
            }
        }
        // Others first.
        cx.waker().wake_by_ref();
        None
    }

    /// Ready when there is nothing to wait for, with what was worked on meanwhile.
    fn poll_waits(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Worked>, CloseReason>> {
        let worked = match self.waits.as_deref_mut() {
            None => return Poll::Ready(Ok(None)),
            Some(Waits::Away(away)) => match Pin::new(away).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Err(CloseReason::Internal)),
                Poll::Ready(worked) => worked,
            },
            Some(Waits::Room(room)) => match Pin::new(room).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => None,
            },
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

    fn poll_read(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<Option<CloseReason>> {
        match socket.stream.poll_read_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Some(CloseReason::Socket)),
            Poll::Ready(Ok(())) => {}
        }
        let shard = Rc::clone(&self.local.0);
        let mut scratch = shard.scratch();
        let reason = match socket.stream.try_read(&mut scratch) {
            Ok(0) => Some(CloseReason::Socket),
            Ok(read) => {
                if read < scratch.len() {
                    forget_readable(socket);
                }
                shard.metrics.add(Counter::BytesReceived, read as u64);
                let now_ms = shard.node.clock().node_ms();
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    seat.session.heard(now_ms);
                }
                scratch.get_mut(..read).and_then(|bytes| self.take_in(socket, bytes, None))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(CloseReason::Socket),
        };
        Poll::Ready(reason)
    }

    /// Carries out what was `worked` on, then decodes `bytes` and carries out what they ask. Keeps
    /// what is left when the client is held.
    fn take_in(
        &mut self,
        socket: &Socket,
        bytes: &mut [u8],
        worked: Option<Worked>,
    ) -> Option<CloseReason> {
        let shard = Rc::clone(&self.local.0);
        let author = Arc::clone(&shard.hub.borrow_mut().seat(self.id)?.author);
        let now = shard.node.clock().now();
        let (id, subprotocol) = (self.id, self.subprotocol);
        let asker = Asker { id, socket, author: &author, now, subprotocol };
        let max = shard.node.options().message_bytes;
        let mut inflaters = shard.inflaters.borrow_mut();
        let before = inflaters.tally();
        let (text, mut rest) = bytes.split_at_mut(std::mem::take(&mut self.held_text));
        let piece_bytes = if self.decoder.inflates() { PIECE_BYTES } else { usize::MAX };
        let mut piece: &mut [u8] = &mut [];
        let mut finished = false;
        let mut next = match worked {
            Some(worked) => asker.resume_with(&self.local, worked, text),
            None => asker.requests(&self.local, text),
        };
        let reason = loop {
            let text = match next {
                Next::Away(job, text) => {
                    let away = Away::new(*job, max, shard.node.wanted());
                    self.waits = Some(Box::new(Waits::Away(away)));
                    Some(text)
                }
                Next::Close(reason) => break Some(reason),
                Next::Ended => break None,
                Next::Hold(crowded, text) => {
                    let room = shard.node.mailboxes().room(crowded);
                    self.waits = Some(Box::new(Waits::Room(room)));
                    Some(text)
                }
                Next::Read => None,
                Next::Unread(text) => Some(text),
            };
            if let Some(text) = text {
                self.hold(text, [piece, rest]);
                break None;
            }
            let left = piece.len() + rest.len() > 0;
            if left && inflaters.tally().1.wrapping_sub(before.1) > INFLATED_A_READ {
                self.hold(Vec::new(), [piece, rest]);
                self.note_unfinished(finished, now.node_ns / 1_000_000);
                break None;
            }
            if piece.is_empty() {
                piece = rest.split_off_mut(..piece_bytes.min(rest.len())).unwrap_or_default();
            }
            next = match self.decoder.next_with(&mut piece, max, &mut inflaters) {
                Ok(Some(message)) => {
                    let next = asker.take(&self.local, message);
                    // Not by a ping between the fragments of a message that goes on behind it.
                    finished |= self.decoder.is_idle();
                    next
                }
                Ok(None) if rest.is_empty() => {
                    self.note_unfinished(finished, now.node_ns / 1_000_000);
                    break None;
                }
                Ok(None) => Next::Read,
                Err(error) => Next::Close(CloseReason::Protocol(error)),
            };
        };
        let (compressed, plain) = inflaters.tally();
        shard.metrics.add(Counter::CompressedIn, compressed.wrapping_sub(before.0));
        shard.metrics.add(Counter::CompressedInPlain, plain.wrapping_sub(before.1));
        reason
    }

    /// Keeps messages that were decoded and bytes that were not.
    fn hold(&mut self, text: Vec<u8>, rest: [&mut [u8]; 2]) {
        self.held_text = text.len();
        self.held = text;
        for bytes in rest {
            self.held.extend_from_slice(bytes);
        }
    }

    /// Remembers since when a message is unfinished, and looks again when it has had its time.
    fn note_unfinished(&self, finished: bool, now_ms: u64) {
        let shard = &self.local.0;
        let inside = !self.decoder.is_idle();
        if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
            seat.session.unfinished(inside, finished, now_ms);
            if inside {
                let wake_at = seat.session.wake_at(shard.node.options().heartbeat());
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
        if written && !self.shut {
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
        cx.waker().wake_by_ref();
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
