//! What a client's messages come to: commands carried out, errors told, and what the reader of the
//! connection does next.

use super::away::{self, Done, Job, Large, Worked};
use super::command::{Asker, New};
use super::door::LARGE_BYTES;
use super::durable::Pause;
use super::local::Local;
use super::node::NodeOptions;
use crate::core::hub::{Seat, SeatId};
use crate::core::metrics::Counter;
use crate::core::session;
use crate::proto::close::CloseReason;
use crate::proto::dialect::{bin, json};
use crate::proto::encoder::Frames;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::format::Subprotocol;
use crate::proto::gzip;
use crate::proto::ws::ProtocolError;
use crate::proto::ws::frame::{self, Opcode};
use crate::proto::ws::message::Message;

/// Unread answers at which a client is not read any more, where `queue_bytes` is not less.
const UNREAD_MAX: usize = 64 * 1024;

/// What a message costs beside its bytes, where work is counted in bytes.
const MESSAGE_COST: usize = 64;

/// What becomes of a connection after some of its bytes.
pub(super) enum Next {
    /// Not read until that is done.
    Away(Box<Job>),
    Close(CloseReason),
    /// The close has begun: nothing more of it is carried out.
    Ended,
    /// Not read until that is over; with the rest of the text frame.
    Hold(Pause, Option<Text>),
    /// Not read until that is done with the message that the decoder has lent out.
    Lent(Box<Job>),
    Read,
    /// Nothing more for now: its answers are to be written, or others have their chance; with the
    /// rest of the text frame.
    Stop(Option<Text>),
}

impl Next {
    /// The same before the `rest` of the text frame.
    fn before(self, rest: Option<Text>) -> Self {
        match self {
            Self::Hold(pause, None) => Self::Hold(pause, rest),
            Self::Stop(None) => Self::Stop(rest),
            other @ (Self::Away(_)
            | Self::Close(_)
            | Self::Ended
            | Self::Hold(..)
            | Self::Lent(_)
            | Self::Read
            | Self::Stop(_)) => other,
        }
    }
}

/// Messages of a text frame that are yet to be carried out. Owned once, whatever happens in between.
#[derive(Debug, Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    /// Where the next message begins.
    at: usize,
    /// Messages of the frame were carried out: the rest is lines.
    lines: bool,
}

impl Text {
    /// A whole text frame.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, lines: false }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Its messages.
    pub(super) fn messages(&self) -> json::Messages<'_> {
        if self.lines { json::Messages::lines(self.rest()) } else { json::messages(self.rest()) }
    }

    /// Of its messages, which were `had` bytes, the last `left` are left. Whether that is any.
    pub(super) fn shorten(&mut self, had: usize, left: usize) -> bool {
        let end = self.at + had;
        self.bytes.truncate(end);
        self.at = end - left;
        self.lines = true;
        left > 0
    }

    /// Memory that it takes.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Unread answers at which a client is not read any more.
pub(super) fn unread_max(options: &NodeOptions) -> usize {
    options.outbox.bytes.min(UNREAD_MAX)
}

/// Whether a client leaves more of its answers unread than it may.
pub(super) fn unread(local: &Local, id: SeatId) -> bool {
    let shard = &local.0;
    let max = unread_max(&shard.options());
    shard.hub.borrow_mut().seat(id).is_some_and(|seat| seat.outbox.control_bytes() > max)
}

impl Asker<'_> {
    /// Counts work on so many bytes of a message.
    pub(super) fn spend(&self, bytes: usize) {
        self.budget.set(self.budget.get().saturating_sub(bytes));
    }

    /// Whether others have their chance now.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.get() == 0
    }

    /// Whether a client that has yet to say who it is has sent too much to be read on. Lines of
    /// text are counted one by one, later.
    fn sends_too_much(&self, local: &Local, message: &Message<'_>) -> bool {
        let counts = matches!(message, Message::Binary(_) | Message::Ping(_) | Message::Pong(_));
        self.stranger.get() && counts && !self.may_send(local)
    }

    /// Whether it may send one more message.
    fn may_send(&self, local: &Local) -> bool {
        local.0.hub.borrow_mut().seat(self.id).is_none_or(Seat::may_send)
    }

    /// Takes one message of the client.
    pub(super) fn take(&self, local: &Local, message: Message<'_>) -> Next {
        let shard = &local.0;
        self.spend(MESSAGE_COST);
        if self.sends_too_much(local, &message) {
            return Next::Close(CloseReason::Unauthorized);
        }
        match message {
            Message::Text(text) if text.len() > shard.node.large_bytes() => {
                Next::Lent(Box::new(Job::Text(Text::default())))
            }
            Message::Text(text) => {
                let messages = json::messages(text);
                let had = messages.rest().len();
                let (next, left) = self.requests(local, messages);
                let rest = text.get(had - left..had).filter(|rest| !rest.is_empty());
                next.before(rest.map(|rest| Text { bytes: rest.to_vec(), at: 0, lines: true }))
            }
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

    /// Carries out messages of a text frame that was kept, as far as it goes.
    pub(super) fn text(&self, local: &Local, mut text: Text) -> Next {
        if !text.lines && text.rest().len() > LARGE_BYTES {
            return Next::Away(Box::new(Job::Text(text)));
        }
        let messages = text.messages();
        let had = messages.rest().len();
        let (next, left) = self.requests(local, messages);
        if !text.shorten(had, left) {
            return next;
        }
        let is_large = text.messages().is_longer_than(LARGE_BYTES);
        if is_large && matches!(next, Next::Stop(None)) && !unread(local, self.id) {
            return Next::Away(Box::new(Job::Text(text)));
        }
        next.before(Some(text))
    }

    /// Carries out messages, up to the one behind which it stops; or before one that is large.
    /// Returns how many bytes of them are left.
    fn requests(&self, local: &Local, mut messages: json::Messages<'_>) -> (Next, usize) {
        let shard = &local.0;
        loop {
            let left = messages.rest().len();
            if left > 0 && (self.is_spent() || messages.is_longer_than(LARGE_BYTES)) {
                return (Next::Stop(None), left);
            }
            let Some(message) = messages.line() else { return (Next::Read, 0) };
            self.spend(message.len() + MESSAGE_COST);
            if json::is_blank(message) {
                continue;
            }
            if self.stranger.get() && !self.may_send(local) {
                return (Next::Close(CloseReason::Unauthorized), 0);
            }
            let result = match shard.parser.borrow_mut().parse(message) {
                Ok(request) => shard.execute(self, &request),
                Err(error) => Err(error),
            };
            let next = self.carried_out(local, result);
            if !matches!(next, Next::Read) {
                return (next, messages.rest().len());
            }
        }
    }

    /// What follows a request that was carried out.
    fn carried_out(&self, local: &Local, result: Result<Option<Pause>, CommandError>) -> Next {
        if self.socket.ending.get().is_some() {
            // It was closed for what it asked: the answer stands before the close.
            return Next::Ended;
        }
        match result {
            Ok(None) => self.unless_unread(local),
            Ok(Some(pause)) => Next::Hold(pause, None),
            Err(error) => self.refused(local, &error),
        }
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
                let large_bytes = local.0.node.large_bytes();
                if bytes.len() > large_bytes {
                    return Next::Lent(Box::new(Job::Gzip(Vec::new())));
                }
                if gzip::says(bytes) > large_bytes {
                    return Next::Away(Box::new(Job::Gzip(bytes.to_vec())));
                }
                let max = self.message_max(local.0.options().message_bytes);
                self.resume(local, away::gunzip(bytes, max))
            }
        }
    }

    /// Takes a binary publish.
    fn published(&self, local: &Local, bytes: &[u8]) -> Next {
        self.try_published(local, bytes).unwrap_or_else(|error| self.refused(local, &error))
    }

    fn try_published(&self, local: &Local, bytes: &[u8]) -> Result<Next, CommandError> {
        let shard = &local.0;
        let options = shard.options();
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
        let large_bytes = shard.node.large_bytes();
        if bytes.len() > large_bytes {
            return Ok(Next::Lent(Box::new(Job::Bin { message: Vec::new(), channel })));
        }
        if publish.gzip && gzip::says(publish.payload) > large_bytes {
            return Ok(Next::Away(Box::new(Job::Bin { message: bytes.to_vec(), channel })));
        }
        self.spend(bytes.len());
        let payload = publish.open(options.message_bytes)?;
        if publish.gzip {
            self.count_inflated(local, (publish.payload.len(), payload.len()));
        }
        let (id, key, echo) = (publish.id, publish.key.map(Box::from), publish.echo);
        let (message_id, frames) = (None, Frames::default());
        let large = Large { id, channel, key, echo, payload, message_id, frames };
        Ok(self.publish(local, large))
    }

    fn count_inflated(&self, local: &Local, (compressed, plain): (usize, usize)) {
        self.spend(plain);
        local.0.metrics.add(Counter::CompressedIn, compressed as u64);
        local.0.metrics.add(Counter::CompressedInPlain, plain as u64);
    }

    /// Goes on with what was done of a message.
    pub(super) fn resume(&self, local: &Local, worked: Worked) -> Next {
        self.count_inflated(local, worked.inflated);
        let next = match worked.done {
            Done::Bad(error) => self.refused(local, &error),
            Done::Again(asked) => {
                self.carried_out(local, local.0.carry_out(self, &asked.request()))
            }
            Done::Nothing => Next::Read,
            Done::Publish(large) => self.publish(local, large),
            Done::Request(asked) => {
                self.carried_out(local, local.0.execute(self, &asked.request()))
            }
            Done::TooBig => Next::Close(CloseReason::Protocol(ProtocolError::TooBig)),
            Done::Verified(id, verdict) => {
                let result = local.0.verified(*verdict);
                self.carried_out(local, local.0.authenticated(self, id, result).map(|()| None))
            }
        };
        match (next, worked.rest) {
            (Next::Read, Some(rest)) => self.text(local, rest),
            (next, rest) => next.before(rest),
        }
    }

    fn publish(&self, local: &Local, large: Large) -> Next {
        let shard = &local.0;
        shard.metrics.add(Counter::CommandsPublish, 1);
        let Large { id, channel, key, echo, payload, message_id, frames } = large;
        let message_id = message_id.as_deref();
        let new = New { channel: &channel, key, echo, payload, message_id, frames };
        let published = shard
            .check_pace(self, id)
            .and_then(|()| session::check_channel(id, &channel))
            .and_then(|()| shard.publish(self, id, new));
        match published {
            Ok(None) => self.unless_unread(local),
            Ok(Some(pause)) => Next::Hold(pause, None),
            Err(error) => self.refused(local, &error),
        }
    }

    /// Stops reading a client that does not read its answers.
    fn unless_unread(&self, local: &Local) -> Next {
        if unread(local, self.id) { Next::Stop(None) } else { Next::Read }
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
        let now_ms = self.now.node_ms();
        let over = if error.code == ErrorCode::BadRequest {
            shard.hub.borrow_mut().seat(self.id).and_then(|s| s.session.strike(now_ms))
        } else if error.code == ErrorCode::RateLimited {
            shard.paces.borrow_mut().refuse(self.id, now_ms)
        } else {
            None
        };
        over.map_or(Next::Read, Next::Close)
    }
}
