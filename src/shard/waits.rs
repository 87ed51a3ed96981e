//! What a connection waits for before it is read again.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::away::{Asked, Away, Done, Worked};
use super::durable::{Owed, Pause, Until};
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
    /// A command's channel.
    Loaded(Loading, Option<Box<Asked>>),
    /// Answers to its durable events, until it is owed no more than this; and a command behind them.
    Owed(u8, Option<Box<Asked>>),
    /// Room in the mailbox that it has filled.
    Room(Room),
    /// What comes of the token of an `auth` with this `id`.
    Verified(Option<u64>, Box<Verifying>),
}

impl Waits {
    /// The end of a pause.
    pub(super) fn of(pause: Pause, node: &Node) -> Self {
        match pause {
            Pause::Again(asked, Until::Loaded(loading)) => Self::Loaded(loading, Some(asked)),
            Pause::Again(asked, Until::Settled) => Self::Owed(0, Some(asked)),
            Pause::Mailbox(crowded) => Self::Room(node.mailboxes().room(crowded)),
            Pause::Owed(wanted) => Self::Owed(wanted, None),
            Pause::Verified(id, verifying) => Self::Verified(id, verifying),
        }
    }

    /// Memory of what it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Away(away) => away.bytes(),
            Self::Loaded(_, Some(asked)) | Self::Owed(_, Some(asked)) => asked.footprint(),
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
            Self::Loaded(loading, asked) => match Pin::new(loading).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(loaded) => {
                    let loaded = loaded.unwrap_or(Err(StoreError::Away));
                    Poll::Ready(Ok(asked.take().map(|asked| Until::worked(*asked, loaded))))
                }
            },
            Self::Owed(wanted, asked) => {
                let owed = socket.owed.get();
                if owed.answers > u16::from(*wanted) {
                    socket.owed.set(Owed { wanted: Some(*wanted), ..owed });
                    return Poll::Pending;
                }
                Poll::Ready(Ok(asked.take().map(|asked| Until::worked(*asked, Ok(())))))
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
