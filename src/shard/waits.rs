//! What a connection waits for before it is read again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::away::{Asked, Away, Done, Worked};
use super::durable::{LOAD_TIMEOUT, Owed, Pause, Until};
use super::local::Socket;
use super::mailbox::Room;
use super::node::Node;
use super::verify::Verifying;
use crate::core::token::TOKEN_BYTES_MAX;
use crate::proto::close::CloseReason;
use crate::store::{Loading, StoreError};

/// What is waited for, with what is to be done then.
pub(super) enum Waits {
    /// Work on a message of its own.
    Away(Away),
    /// A command's channel, until that moment.
    Loaded(Loading, Option<(Box<Asked>, Deadline)>),
    /// Answers to its durable events, until it is owed no more than this; and a command behind them,
    /// which waits until that moment.
    Owed(u8, Option<(Box<Asked>, Deadline)>),
    /// Room in the mailbox that it has filled.
    Room(Room),
    /// What comes of the token of an `auth` with this `id`.
    Verified(Option<u64>, Box<Verifying>),
}

/// When a command is answered that what it waits for has not come. A timer of its own: few wait, and
/// none for long, unless a disk hangs.
type Deadline = Pin<Box<tokio::time::Sleep>>;

/// A command that waits at most so long.
fn until(asked: Box<Asked>, patience: Duration) -> Option<(Box<Asked>, Deadline)> {
    Some((asked, Box::pin(tokio::time::sleep(patience))))
}

/// What comes of a command that has waited, or has waited long enough; `None` while it is to wait on.
fn answered(
    waiting: &mut Option<(Box<Asked>, Deadline)>,
    done: Option<Result<(), StoreError>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Worked>, CloseReason>> {
    let late = |(_, deadline): &mut (_, Deadline)| deadline.as_mut().poll(cx).is_ready();
    let done = match done {
        Some(done) => done,
        None if waiting.as_mut().is_some_and(late) => Err(StoreError::Away),
        None => return Poll::Pending,
    };
    Poll::Ready(Ok(waiting.take().map(|(asked, _)| Until::worked(*asked, done))))
}

impl Waits {
    /// The end of a pause.
    pub(super) fn of(pause: Pause, node: &Node) -> Self {
        match pause {
            Pause::Again(asked, Until::Loaded(loading, patience)) => {
                Self::Loaded(loading, until(asked, patience))
            }
            Pause::Again(asked, Until::Settled) => Self::Owed(0, until(asked, LOAD_TIMEOUT)),
            Pause::Mailbox(crowded) => Self::Room(node.mailboxes().room(crowded)),
            Pause::Owed(wanted) => Self::Owed(wanted, None),
            Pause::Verified(id, verifying) => Self::Verified(id, verifying),
        }
    }

    /// Memory of what it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Away(away) => away.bytes(),
            Self::Loaded(_, Some((asked, _))) | Self::Owed(_, Some((asked, _))) => {
                asked.footprint() + size_of::<tokio::time::Sleep>()
            }
            Self::Loaded(_, None) | Self::Owed(_, None) | Self::Room(_) => 0,
            Self::Verified(..) => TOKEN_BYTES_MAX,
        }
    }

    /// Ready when it is there, with what came of it.
    pub(super) fn poll(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Worked>, CloseReason>> {
        match self {
            Self::Away(away) => match Pin::new(away).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(Err(CloseReason::Internal)),
                Poll::Ready(worked) => Poll::Ready(Ok(worked)),
            },
            Self::Loaded(loading, asked) => {
                let loaded = match Pin::new(loading).poll(cx) {
                    Poll::Pending => None,
                    Poll::Ready(loaded) => Some(loaded.unwrap_or(Err(StoreError::Away))),
                };
                answered(asked, loaded, cx)
            }
            Self::Owed(wanted, asked) => {
                let owed = socket.owed.get();
                let waits = owed.answers > u16::from(*wanted);
                socket.owed.set(Owed { wanted: waits.then_some(*wanted), ..owed });
                answered(asked, (!waits).then_some(Ok(())), cx)
            }
            Self::Room(room) => match Pin::new(room).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => Poll::Ready(Ok(None)),
            },
            Self::Verified(id, verifying) => Pin::new(verifying.as_mut())
                .poll(cx)
                .map(|verdict| Ok(Some(Done::Verified(*id, Box::new(verdict)).into()))),
        }
    }
}
