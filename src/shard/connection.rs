//! The task of one connection: reads, decodes and asks; writes what the rounds could not; and sees
//! the close through.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::command::Asker;
use super::flush::{Flushed, forget_readable};
use super::local::{Local, Socket};
use super::mailbox::Room;
use super::node::NodeOptions;
use crate::core::hub::SeatId;
use crate::core::metrics::Counter;
use crate::proto::close::CloseReason;
use crate::proto::dialect::json;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::name::ShardId;
use crate::proto::ws::frame::{self, Opcode};
use crate::proto::ws::message::{Decoder, Message};

/// Reads of one connection in one turn, so that a flooding client does not hold the others up.
const READS_A_TURN: usize = 4;

/// Bytes that a client may go on sending after our close; more is answered by a reset.
const IGNORED_MAX: usize = 256 * 1024;

/// Unread answers at which a client is not read any more, where `queue_bytes` is not less.
const UNREAD_MAX: usize = 64 * 1024;

/// One connection as its task knows it. Small: there are a hundred thousand of them.
pub(super) struct Connection {
    local: Local,
    id: SeatId,
    decoder: Decoder,
    /// Bytes read and not yet decoded, while the client is held back.
    held: Vec<u8>,
    /// How many of these, at the front, are messages of a text frame that was decoded.
    held_text: usize,
    /// Room in the mailbox that this client has filled.
    crowded: Option<Box<Room>>,
    /// It is not read for now, and its session knows.
    waiting: bool,
    /// Our half of the stream is shut.
    shut: bool,
    /// Bytes thrown away behind our close.
    ignored: usize,
}

/// What becomes of a connection after some of its bytes.
enum Next {
    Close(CloseReason),
    /// Not read until the mailbox of that shard has room; with the rest of the text frame.
    Hold(ShardId, Vec<u8>),
    Read,
    /// Not read until its answers have been written; with the rest of the text frame.
    Unread(Vec<u8>),
}

impl Connection {
    /// The task of the connection `id`; `early` is what came behind its handshake.
    pub(super) fn new(local: Local, id: SeatId, early: Vec<u8>) -> Self {
        Self {
            local,
            id,
            decoder: Decoder::new(),
            held: early,
            held_text: 0,
            crowded: None,
            waiting: false,
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
        self.crowded = None;
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
            if let Some(room) = &mut self.crowded {
                if Pin::new(room).poll(cx).is_pending() {
                    self.wait(true);
                    return None;
                }
                self.crowded = None;
                self.go_on();
            }
            if self.unread() {
                // Answers wait for the socket, which wakes this task when it takes them.
                self.wait(false);
                return None;
            }
            self.go_on();
            if self.held.is_empty() {
                match self.poll_read(socket, cx) {
                    Poll::Pending => return None,
                    Poll::Ready(Some(reason)) => return Some(reason),
                    Poll::Ready(None) => {}
                }
            } else {
                let mut held = std::mem::take(&mut self.held);
                if let Some(reason) = self.take_in(&mut held) {
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
                scratch.get_mut(..read).and_then(|bytes| self.take_in(bytes))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(CloseReason::Socket),
        };
        Poll::Ready(reason)
    }

    /// Decodes `bytes` and carries out what they ask. Keeps what is left when the client is held.
    fn take_in(&mut self, bytes: &mut [u8]) -> Option<CloseReason> {
        let shard = Rc::clone(&self.local.0);
        let author = Arc::clone(&shard.hub.borrow_mut().seat(self.id)?.author);
        let now = shard.node.clock().now();
        let asker = Asker { id: self.id, author: &author, now };
        let max = shard.node.options().message_bytes;
        let (text, mut rest) = bytes.split_at_mut(std::mem::take(&mut self.held_text));
        let mut finished = false;
        let mut next = asker.requests(&self.local, text);
        loop {
            let (crowded, text) = match next {
                Next::Close(reason) => return Some(reason),
                Next::Hold(crowded, text) => (Some(crowded), Some(text)),
                Next::Read => (None, None),
                Next::Unread(text) => (None, Some(text)),
            };
            if let Some(text) = text {
                let room = crowded.map(|crowded| shard.node.mailboxes().room(crowded));
                self.crowded = room.map(Box::new);
                self.held_text = text.len();
                self.held = text;
                self.held.extend_from_slice(rest);
                return None;
            }
            next = match self.decoder.next(&mut rest, max) {
                Ok(Some(message)) => {
                    let next = asker.take(&self.local, message);
                    // Not by a ping between the fragments of a message that goes on behind it.
                    finished |= self.decoder.is_idle();
                    next
                }
                Ok(None) => {
                    self.note_unfinished(finished, now.node_ns / 1_000_000);
                    return None;
                }
                Err(error) => Next::Close(CloseReason::Protocol(error)),
            };
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

/// Unread answers at which a client is not read any more.
pub(super) fn unread_max(options: &NodeOptions) -> usize {
    options.outbox.bytes.min(UNREAD_MAX)
}

/// Whether a client leaves more of its answers unread than it may.
fn unread(local: &Local, id: SeatId) -> bool {
    let shard = &local.0;
    let max = unread_max(shard.node.options());
    shard.hub.borrow_mut().seat(id).is_some_and(|seat| seat.outbox.control_bytes() > max)
}

/// The messages of a text frame that were not carried out, for later.
fn rest(messages: json::Messages<'_>) -> Vec<u8> {
    messages.collect::<Vec<_>>().join(&b'\n')
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

impl Asker<'_> {
    /// Takes one message of the client.
    fn take(&self, local: &Local, message: Message<'_>) -> Next {
        let shard = &local.0;
        match message {
            Message::Text(text) => self.requests(local, text),
            Message::Binary(_) => {
                let error = CommandError::new(
                    None,
                    ErrorCode::BadRequest,
                    "this connection speaks JSON: send text frames",
                );
                self.refuse(local, &error)
            }
            Message::Ping(payload) => {
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    frame::control(Opcode::Pong, payload, seat.outbox.control());
                }
                self.unless_unread(local)
            }
            Message::Pong(_) => Next::Read,
            Message::Close(close) => {
                // Nothing of ours follows: the peer's code goes back, and the stream ends.
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    let (code, reason) = close.unwrap_or((1000, ""));
                    frame::close(code, reason, seat.outbox.control());
                }
                Next::Close(CloseReason::PeerClosed)
            }
        }
    }

    /// Carries out the messages of a text frame, up to the one behind which it is not read.
    fn requests(&self, local: &Local, text: &[u8]) -> Next {
        let shard = &local.0;
        let mut messages = json::messages(text);
        while let Some(message) = messages.next() {
            let result = match shard.parser.borrow_mut().parse(message) {
                Ok(request) => shard.execute(self, &request),
                Err(error) => Err(error),
            };
            match result {
                Ok(None) => {}
                Ok(Some(crowded)) => return Next::Hold(crowded, rest(messages)),
                Err(error) => {
                    if let Next::Close(reason) = self.refuse(local, &error) {
                        return Next::Close(reason);
                    }
                }
            }
            if unread(local, self.id) {
                return Next::Unread(rest(messages));
            }
        }
        Next::Read
    }

    /// Stops reading a client that does not read its answers.
    fn unless_unread(&self, local: &Local) -> Next {
        if unread(local, self.id) { Next::Unread(Vec::new()) } else { Next::Read }
    }

    /// Tells an error, and counts those that a working client does not make.
    fn refuse(&self, local: &Local, error: &CommandError) -> Next {
        let shard = &local.0;
        shard.answer_error(self.id, error);
        if error.code != ErrorCode::BadRequest {
            return Next::Read;
        }
        let now_ms = self.now.node_ns / 1_000_000;
        let over = shard.hub.borrow_mut().seat(self.id).and_then(|s| s.session.strike(now_ms));
        over.map_or(Next::Read, Next::Close)
    }
}
