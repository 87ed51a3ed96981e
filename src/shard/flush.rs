//! Writes: what waits in a seat's outbox goes to its socket in as few calls as possible.

use std::io::{self, IoSlice};

use tokio::io::Interest;

use super::local::{Shard, Socket};
use crate::core::hub::{Seat, SeatId, Writer};
use crate::core::metrics::{Counter, Metrics, Timing};
use crate::core::outbox::{Delivered, SLICES_MAX};
use crate::core::run::Run;

/// Counts deliveries on their way.
struct Count<'a> {
    metrics: &'a Metrics,
    node_ns: u64,
}

impl Delivered for Count<'_> {
    fn delivered(&mut self, run: &Run, frames: u32) {
        let frames = u64::from(frames);
        let waited_us = self.node_ns.saturating_sub(run.taken_ns()) / 1_000;
        let queued_us = (self.node_ns / 1_000).saturating_sub(run.made_ms() * 1_000);
        self.metrics.add(Counter::EventsDelivered, frames);
        self.metrics.time(Timing::PublishToWrite, waited_us, frames);
        self.metrics.time(Timing::QueueAge, queued_us, frames);
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
        let sockets = self.sockets.borrow();
        let Some(socket) = sockets.get(id).and_then(Option::as_ref) else { return Flushed::All };
        let mut hub = self.hub.borrow_mut();
        let Some(seat) = hub.seat(id) else { return Flushed::All };
        self.flush_seat(socket, seat)
    }

    fn flush_seat(&self, socket: &Socket, seat: &mut Seat) -> Flushed {
        if seat.blocked {
            return Flushed::Blocked;
        }
        let now = self.node.clock().now();
        let mut count = Count { metrics: &self.metrics, node_ns: now.node_ns };
        while !seat.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = seat.outbox.gather(now.unix_ms, &mut slices);
            let slices = slices.get(..used).unwrap_or_default();
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            self.metrics.add(Counter::FlushSyscalls, 1);
            let written = match slices {
                [one] => socket.stream.try_write(one),
                many => socket.stream.try_write_vectored(many),
            };
            match written {
                Ok(0) if wanted > 0 => return Flushed::Broken,
                Ok(written) => {
                    self.metrics.add(Counter::BytesSent, written as u64);
                    seat.outbox.advance(written, &mut count);
                    if written < wanted {
                        // The kernel has said so: no need to ask it again.
                        forget_writable(socket);
                        return blocked(socket, seat);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return blocked(socket, seat);
                }
                Err(_) => return Flushed::Broken,
            }
        }
        Flushed::All
    }
}

/// Leaves the rest to the connection's own task, which waits for room.
fn blocked(socket: &Socket, seat: &mut Seat) -> Flushed {
    seat.blocked = true;
    wake(socket);
    Flushed::Blocked
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
        if let Some(socket) = sockets.get(id).and_then(Option::as_ref)
            && self.0.flush_seat(socket, seat) == Flushed::Broken
        {
            // Its task finds the same error and ends the connection.
            seat.blocked = true;
            wake(socket);
        }
    }
}

