//! Writes: what waits in a seat's outbox goes to its socket in as few calls as possible.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Waker};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;

use super::local::{Shard, Socket};
use crate::core::hub::{Hub, Seat, SeatId, Writer};
use crate::core::latest::Frame;
use crate::core::metrics::{Counter, Metrics, Timing};
use crate::core::outbox::{Delivered, SLICES_MAX};
use crate::core::run::Run;

/// Times that one flush fetches what a connection has missed, before others have their chance.
const REFILLS_A_FLUSH: usize = 64;

/// Counts deliveries on their way.
pub(super) struct Count<'a> {
    metrics: &'a Metrics,
    pub(super) node_ns: u64,
}

impl Delivered for Count<'_> {
    fn delivered(&mut self, run: &Run, frames: u32) {
        let frames = u64::from(frames);
        let waited_us = self.node_ns.saturating_sub(run.taken_ns()) / 1_000;
        let queued_us = self.node_ns.saturating_sub(run.made_ns()) / 1_000;
        self.metrics.add(Counter::EventsDelivered, frames);
        self.metrics.time(Timing::PublishToWrite, waited_us, frames);
        self.metrics.time(Timing::QueueAge, queued_us, frames);
    }

    fn recovered(&mut self, run: &Run, frames: u32) {
        // How old they are says nothing of this node.
        let counter =
            if run.is_conflated() { Counter::EventsShown } else { Counter::EventsRecovered };
        self.metrics.add(counter, u64::from(frames));
    }

    fn shown(&mut self, frame: &Frame) {
        let waited_us = self.node_ns.saturating_sub(frame.taken_ns) / 1_000;
        self.metrics.add(Counter::EventsShown, 1);
        self.metrics.time(Timing::ShownAge, waited_us, 1);
    }
}

/// What a flush left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything was written.
    All,
    /// The kernel takes no more for now.
    Blocked,
    /// The socket is dead.
    Broken,
}

impl Shard {
    /// Writes what waits for a connection, until the kernel takes no more.
    pub(super) fn flush(&self, id: SeatId) -> Flushed {
        self.flush_at(id, self.node.clock().node_ns())
    }

    /// As [`Shard::flush`], at a time that the caller has read.
    pub(super) fn flush_at(&self, id: SeatId, node_ns: u64) -> Flushed {
        let sockets = self.sockets.borrow();
        let Some(socket) = sockets.get(id).and_then(Option::as_ref) else { return Flushed::All };
        let mut hub = self.hub.borrow_mut();
        let flushed = self.flush_into(socket, &mut hub, id, node_ns);
        hub.weigh(id);
        flushed
    }

    fn flush_into(&self, socket: &Socket, hub: &mut Hub, id: SeatId, node_ns: u64) -> Flushed {
        for _ in 0..REFILLS_A_FLUSH {
            let Some(seat) = hub.seat(id) else { return Flushed::All };
            let flushed = self.flush_seat(socket, seat, node_ns);
            if flushed != Flushed::All {
                seat.outbox.withdraw();
                return flushed;
            }
            if seat.outbox.is_recalling() {
                // In its turn, and not before what is live.
                if hub.queue_recall(id)
                    && let Some(mailbox) = self.mailbox()
                {
                    mailbox.wake();
                }
                return Flushed::All;
            }
            if !seat.outbox.waits_for_refill() || !hub.refill(id, || node_ns) {
                return Flushed::All;
            }
        }
        // Others first: its task goes on.
        if let Some(seat) = hub.seat(id) {
            seat.outbox.withdraw();
        }
        if let Some(waker) = socket.waker.take() {
            others_first(&waker);
            socket.waker.set(Some(waker));
        }
        Flushed::All
    }

    fn flush_seat(&self, socket: &Socket, seat: &mut Seat, node_ns: u64) -> Flushed {
        if seat.blocked {
            return Flushed::Blocked;
        }
        let mut count = Count { metrics: &self.metrics, node_ns };
        if let Some(secure) = socket.secure() {
            return self.flush_secure(socket, secure, seat, &mut count);
        }
        while !seat.outbox.is_idle() {
            let (wanted, sent) = match seat.outbox.sole() {
                Some(bytes) => (bytes.len(), send(socket, bytes)),
                None => send_many(socket, seat, node_ns),
            };
            self.metrics.add(Counter::FlushSyscalls, 1);
            match sent {
                Ok(0) if wanted > 0 => return Flushed::Broken,
                Ok(written) => {
                    self.metrics.add(Counter::BytesSent, written as u64);
                    seat.outbox.advance(written, &mut count);
                    if written < wanted {
                        // The kernel has said so: no need to ask it again.
                        return blocked(socket, seat);
                    }
                }
                Err(Errno::AGAIN) => return blocked(socket, seat),
                Err(Errno::INTR) => {}
                Err(_) => return Flushed::Broken,
            }
        }
        Flushed::All
    }
}

/// Sends as much as one call takes of what waits in several pieces.
fn send_many(socket: &Socket, seat: &mut Seat, node_ns: u64) -> (usize, Result<usize, Errno>) {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let used = seat.outbox.gather(|| node_ns, &mut slices);
    let slices = slices.get(..used).unwrap_or_default();
    let wanted = slices.iter().map(|slice| slice.len()).sum();
    (wanted, send_slices(socket, slices))
}

/// As [`send`], of several pieces in one call.
pub(super) fn send_slices(socket: &Socket, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let mut nothing = SendAncillaryBuffer::default();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(&socket.stream, slices, &mut nothing, flags)
}

/// Sends without asking the runtime whether the socket is writable: the kernel knows.
fn send(socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(&socket.stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// Leaves the rest to the connection's own task, which waits for room.
pub(super) fn blocked(socket: &Socket, seat: &mut Seat) -> Flushed {
    seat.blocked = true;
    forget_writable(socket);
    wake(socket);
    Flushed::Blocked
}

/// Has a task polled again when the runtime has looked at sockets and timers. One that wakes itself
/// is polled dozens of times before that.
pub(super) fn others_first(waker: &Waker) {
    // The waker is left behind with the first poll: there is no future to be kept.
    let waits = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(waker));
    debug_assert!(waits.is_pending(), "it yields once");
}

/// Wakes the connection's task.
pub(super) fn wake(socket: &Socket) {
    if let Some(waker) = socket.waker.take() {
        waker.wake_by_ref();
        socket.waker.set(Some(waker));
    }
}

/// Tells the runtime that the socket is not writable, without a system call.
fn forget_writable(socket: &Socket) {
    let refuse = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    // The answer is the refusal itself.
    drop(socket.stream.try_io(Interest::WRITABLE, refuse));
}

/// Tells the runtime that the socket has nothing to read, without a system call.
pub(super) fn forget_readable(socket: &Socket) {
    let refuse = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    drop(socket.stream.try_io(Interest::READABLE, refuse));
}

/// Flushes out of turn for the hub.
pub(super) struct OutOfTurn<'a>(pub(super) &'a Shard);

impl Writer for OutOfTurn<'_> {
    fn write(&mut self, id: SeatId, seat: &mut Seat) {
        let sockets = self.0.sockets.borrow();
        let node_ns = self.0.node.clock().node_ns();
        if let Some(socket) = sockets.get(id).and_then(Option::as_ref)
            && self.0.flush_seat(socket, seat, node_ns) == Flushed::Broken
        {
            // Its task finds the same error and ends the connection.
            seat.blocked = true;
            wake(socket);
        }
    }
}
