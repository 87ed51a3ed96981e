//! What a client's messages come to: commands carried out, errors told, and what the reader of the
//! connection does next.

use super::away::{self, Done, Job, Large, Worked};
use super::command::{Asker, New};
use super::door::LARGE_BYTES;
use super::local::Local;
use super::node::NodeOptions;
use crate::core::hub::SeatId;
use crate::core::metrics::Counter;
use crate::core::session;
use crate::proto::close::CloseReason;
use crate::proto::dialect::{bin, json};
use crate::proto::encoder::Frames;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::format::Subprotocol;
use crate::proto::gzip;
use crate::proto::name::ShardId;
use crate::proto::ws::ProtocolError;
use crate::proto::ws::frame::{self, Opcode};
use crate::proto::ws::message::Message;

/// Unread answers at which a client is not read any more, where `queue_bytes` is not less.
const UNREAD_MAX: usize = 64 * 1024;

/// What becomes of a connection after some of its bytes.
pub(super) enum Next {
    /// Not read until that is done; with the rest of the text frame.
    Away(Box<Job>, Vec<u8>),
    Close(CloseReason),
    /// The close has begun: nothing more of it is carried out.
    Ended,
    /// Not read until the mailbox of that shard has room; with the rest of the text frame.
    Hold(ShardId, Vec<u8>),
    Read,
    /// Not read until its answers have been written; with the rest of the text frame.
    Unread(Vec<u8>),
}

/// Unread answers at which a client is not read any more.
pub(super) fn unread_max(options: &NodeOptions) -> usize {
    options.outbox.bytes.min(UNREAD_MAX)
}

/// Whether a client leaves more of its answers unread than it may.
pub(super) fn unread(local: &Local, id: SeatId) -> bool {
    let shard = &local.0;
    let max = unread_max(shard.node.options());
    shard.hub.borrow_mut().seat(id).is_some_and(|seat| seat.outbox.control_bytes() > max)
}

/// The messages of a text frame that were not carried out, for later.
fn rest(messages: json::Messages<'_>) -> Vec<u8> {
    messages.collect::<Vec<_>>().join(&b'\n')
}

impl Asker<'_> {
    /// Takes one message of the client.
    pub(super) fn take(&self, local: &Local, message: Message<'_>) -> Next {
        let shard = &local.0;
        match message {
            Message::Text(text) if text.len() > shard.node.large_bytes() => {
                Next::Away(Box::new(Job::Text(text.to_vec())), Vec::new())
            }
            Message::Text(text) => self.requests(local, text),
            Message::Binary(bytes) => self.binary(local, bytes),
            Message::Ping(payload) => {
                if let Some(seat) = shard.hub.borrow_mut().seat(self.id) {
                    seat.outbox.push_control(Opcode::Pong, payload);
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
    pub(super) fn requests(&self, local: &Local, text: &[u8]) -> Next {
        let shard = &local.0;
        let mut messages = json::messages(text);
        while let Some(message) = messages.next() {
            // One that fills its frame has been there already.
            if message.len() > LARGE_BYTES && message.len() < text.len() {
                let job = Job::Text(message.to_vec());
                return Next::Away(Box::new(job), rest(messages));
            }
            let result = match shard.parser.borrow_mut().parse(message) {
                Ok(request) => shard.execute(self, &request),
                Err(error) => Err(error),
            };
            if self.socket.ending.get().is_some() {
                // It was closed for what it asked: the answer stands before the close.
                return Next::Ended;
            }
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

    /// Takes a binary message, in the dialect of the connection.
    fn binary(&self, local: &Local, bytes: &[u8]) -> Next {
        match self.subprotocol {
            Subprotocol::Bin => self.published(local, bytes),
            Subprotocol::Json => {
                let message = "this connection speaks JSON: send text frames";
                self.refuse(local, &CommandError::new(None, ErrorCode::BadRequest, message))
            }
            Subprotocol::JsonGzip => {
                if gzip::says(bytes).max(bytes.len()) > local.0.node.large_bytes() {
                    return Next::Away(Box::new(Job::Gzip(bytes.to_vec())), Vec::new());
                }
                self.resume(local, away::gunzip(bytes, local.0.node.options().message_bytes))
            }
        }
    }

    /// Takes a binary publish.
    fn published(&self, local: &Local, bytes: &[u8]) -> Next {
        self.try_published(local, bytes).unwrap_or_else(|error| self.refused(local, &error))
    }

    fn try_published(&self, local: &Local, bytes: &[u8]) -> Result<Next, CommandError> {
        let shard = &local.0;
        let options = shard.node.options();
        let publish = bin::parse_publish(bytes)?;
        let refuse = |code, message| CommandError::new(publish.id, code, message);
        if publish.gzip && !options.compression.gzip {
            return Err(refuse(ErrorCode::BadRequest, "compression.gzip is off on this node"));
        }
        let channel: Box<str> = match publish.place {
            bin::Place::Name(name) => {
                session::check_channel(publish.id, name)?;
                name.into()
            }
            bin::Place::Alias(alias) => match shard.hub.borrow().channel(self.id, alias) {
                Some(channel) => channel.as_str().into(),
                None => {
                    let message = "this connection has no subscription with that alias";
                    return Err(refuse(ErrorCode::UnknownChannel, message));
                }
            },
        };
        let says = if publish.gzip { gzip::says(publish.payload) } else { 0 };
        if says.max(bytes.len()) > shard.node.large_bytes() {
            let job = Job::Bin { message: bytes.to_vec(), channel };
            return Ok(Next::Away(Box::new(job), Vec::new()));
        }
        let payload = publish.open(options.message_bytes)?;
        if publish.gzip {
            self.count_inflated(local, (publish.payload.len(), payload.len()));
        }
        let (id, key, echo) = (publish.id, publish.key.map(Box::from), publish.echo);
        let frames = Frames::default();
        Ok(self.publish(local, Large { id, channel, key, echo, payload, frames }))
    }

    fn count_inflated(&self, local: &Local, (compressed, plain): (usize, usize)) {
        local.0.metrics.add(Counter::CompressedIn, compressed as u64);
        local.0.metrics.add(Counter::CompressedInPlain, plain as u64);
    }

    /// Goes on with what was done of a message, and then with the `text` that waited behind it.
    pub(super) fn resume_with(&self, local: &Local, worked: Worked, text: &[u8]) -> Next {
        let behind = |mut rest: Vec<u8>| {
            if !rest.is_empty() && !text.is_empty() {
                rest.push(b'\n');
            }
            rest.extend_from_slice(text);
            rest
        };
        match self.resume(local, worked) {
            Next::Away(job, rest) => Next::Away(job, behind(rest)),
            Next::Hold(crowded, rest) => Next::Hold(crowded, behind(rest)),
            Next::Unread(rest) => Next::Unread(behind(rest)),
            Next::Read => self.requests(local, text),
            next @ (Next::Close(_) | Next::Ended) => next,
        }
    }

    /// Goes on with what was done of a message.
    pub(super) fn resume(&self, local: &Local, worked: Worked) -> Next {
        self.count_inflated(local, worked.inflated);
        match worked.done {
            Done::Bad(error) => self.refused(local, &error),
            Done::Publish(large) => self.publish(local, large),
            Done::Text(text) => self.requests(local, &text),
            Done::TooBig => Next::Close(CloseReason::Protocol(ProtocolError::TooBig)),
        }
    }

    fn publish(&self, local: &Local, large: Large) -> Next {
        let shard = &local.0;
        shard.metrics.add(Counter::CommandsPublish, 1);
        let Large { id, channel, key, echo, payload, frames } = large;
        let new = New { channel: &channel, key, echo, payload, frames };
        let published =
            session::check_channel(id, &channel).and_then(|()| shard.publish(self, id, new));
        match published {
            Ok(None) => self.unless_unread(local),
            Ok(Some(crowded)) => Next::Hold(crowded, Vec::new()),
            Err(error) => self.refused(local, &error),
        }
    }

    /// Stops reading a client that does not read its answers.
    fn unless_unread(&self, local: &Local) -> Next {
        if unread(local, self.id) { Next::Unread(Vec::new()) } else { Next::Read }
    }

    /// As [`Asker::refuse`], at the end of a message.
    fn refused(&self, local: &Local, error: &CommandError) -> Next {
        let next = self.refuse(local, error);
        if matches!(next, Next::Read) { self.unless_unread(local) } else { next }
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
