//! Messages from a client's bytes.
//!
//! Decodes in place. What is whole in the input is lent from there; only what is incomplete is
//! copied to a carry, and then message bytes alone: a fragment costs nothing beyond its payload.

use super::carry::{Carry, Complete, Rules};
use super::deflate::inflater::deflated_bytes_max;
use super::deflate::{Inbound, Inflaters};
use super::error::ProtocolError;
use super::frame::{Opcode, parse_client_with};
use super::mask::unmask;
use super::utf8::unmask_text;

/// A message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text: valid UTF-8. Writable, for parsers that work in place.
    Text(&'a mut [u8]),
    /// Bytes.
    Binary(&'a mut [u8]),
    /// Asks for a pong with this payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// Answers a ping, or nothing.
    Pong(&'a [u8]),
    /// The peer's last frame: code and reason, if it gave any. What follows is to be ignored.
    Close(Option<(u16, &'a str)>),
}

/// Reads a client's messages from a stream that arrives in any pieces.
///
/// Holds no memory beyond itself between messages, but what the agreement with a client that
/// compresses its messages together asks for.
///
/// ```
/// use weir::proto::ws::frame::{Opcode, client_frame};
/// use weir::proto::ws::message::{Decoder, Message};
///
/// let mut bytes = Vec::new();
/// client_frame(Opcode::Text, b"hello", [1, 2, 3, 4], &mut bytes);
///
/// let mut decoder = Decoder::new();
/// let mut input = bytes.as_mut_slice();
/// while let Some(message) = decoder.next(&mut input, 65_536)? {
///     assert!(matches!(message, Message::Text(text) if text == b"hello"));
/// }
/// # Ok::<(), weir::proto::ws::ProtocolError>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    /// What has arrived in part, or was lent out by the last call; `None` when idle.
    carry: Option<Box<Carry>>,
    /// The client's side of permessage-deflate.
    deflate: Deflate,
}

const _: () = assert!(size_of::<Decoder>() <= 24);

/// What was negotiated about a client's messages.
#[derive(Debug, Default)]
enum Deflate {
    /// Each is compressed alone: there is nothing to keep.
    Alone,
    /// They are not compressed.
    #[default]
    Off,
    /// Each may point back to those before.
    Together(Box<Inbound>),
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder at the start of a stream whose messages may be compressed.
    pub fn inflating(inbound: Inbound) -> Self {
        let alone = inbound.is_alone();
        let deflate = if alone { Deflate::Alone } else { Deflate::Together(Box::new(inbound)) };
        Self { carry: None, deflate }
    }

    /// Takes the next message from the front of `input`, which it advances.
    ///
    /// On `Ok(None)` the input is empty: all of it was taken; but for a decoder that
    /// [pauses](Self::is_paused). Call until then, or memory of the last message stays.
    /// `message_bytes_max` limits a message's payload over all its fragments,
    /// from the headers, so before they arrive; of a
    /// compressed one, what comes out.
    ///
    /// # Errors
    ///
    /// How the peer broke the protocol, at the byte that shows it. Nothing more may be decoded.
    #[inline]
    pub fn next<'m, 'i: 'm>(
        &'m mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Message<'m>>, ProtocolError> {
        self.next_with(input, message_bytes_max, &mut Inflaters::default())
    }

    /// As [`Self::next`], with inflaters that others use too.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    #[inline]
    pub fn next_with<'m, 'i: 'm>(
        &'m mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
        inflaters: &mut Inflaters,
    ) -> Result<Option<Message<'m>>, ProtocolError> {
        if self.carry.as_ref().is_some_and(|carry| carry.is_idle()) {
            self.carry = None;
        }
        if self.carry.is_none() {
            if input.is_empty() {
                return Ok(None);
            }
            let deflated_max = self.inflates().then(|| deflated_bytes_max(message_bytes_max));
            if let Some((header, size)) = parse_client_with(input, message_bytes_max, deflated_max)?
                && header.fin
                && !header.deflated
                && header.opcode != Opcode::Continuation
                && let Some(frame) = input.split_off_mut(..size.saturating_add(header.payload_len))
            {
                let payload = frame.get_mut(size..).unwrap_or_default();
                if header.opcode == Opcode::Text {
                    unmask_text(payload, header.mask)?;
                    return Ok(Some(Message::Text(payload)));
                }
                unmask(payload, header.mask);
                return whole(header.opcode, payload).map(Some);
            }
        }
        self.next_in_parts(input, message_bytes_max, inflaters)
    }

    /// As [`Self::next`], for what is not one whole frame in the input, or is compressed.
    fn next_in_parts<'m, 'i: 'm>(
        &'m mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
        inflaters: &mut Inflaters,
    ) -> Result<Option<Message<'m>>, ProtocolError> {
        let carry = self.carry.get_or_insert_default();
        let mut alone = Inbound::alone();
        let inbound = match &mut self.deflate {
            Deflate::Alone => Some(&mut alone),
            Deflate::Off => None,
            Deflate::Together(inbound) => Some(&mut **inbound),
        };
        match carry.advance(input, &mut Rules { message_bytes_max, inbound, inflaters })? {
            None => Ok(None),
            // Its characters were checked as they arrived.
            Some(Complete::Carried(Opcode::Text)) => {
                Ok(Some(Message::Text(carry.lend(Opcode::Text))))
            }
            Some(Complete::Carried(opcode)) => whole(opcode, carry.lend(opcode)).map(Some),
            Some(Complete::InInput(opcode, payload)) => whole(opcode, payload).map(Some),
        }
    }

    /// Whether the inflaters were not [allowed](Inflaters::allow) what the message under way holds.
    /// It goes on with the next call, also where there is no input.
    pub fn is_paused(&self) -> bool {
        self.carry.as_ref().is_some_and(|carry| carry.is_paused())
    }

    /// The payload of the message that was lent out last, to keep; nothing where that stood in the
    /// input, which one never does that is longer than it.
    pub fn take_lent(&mut self) -> Vec<u8> {
        match &mut self.carry {
            Some(carry) if carry.is_idle() => carry.take_lent(),
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether messages may come compressed.
    #[inline]
    pub fn inflates(&self) -> bool {
        !matches!(self.deflate, Deflate::Off)
    }

    /// Whether no message and no frame is under way.
    pub fn is_idle(&self) -> bool {
        self.carry.as_ref().is_none_or(|carry| carry.is_idle())
    }

    /// Bytes that the client's next compressed message may point back to.
    pub fn kept(&self) -> usize {
        match &self.deflate {
            Deflate::Alone | Deflate::Off => 0,
            Deflate::Together(inbound) => inbound.kept(),
        }
    }

    /// Memory that it takes beside itself.
    pub fn footprint(&self) -> usize {
        self.kept() + self.carry.as_ref().map_or(0, |carry| carry.footprint())
    }

    /// Bytes of an incomplete message or frame that are held.
    pub fn carried(&self) -> usize {
        match &self.carry {
            Some(carry) if !carry.is_idle() => carry.bytes(),
            Some(_) | None => 0,
        }
    }
}

/// A message whose payload has arrived in one piece.
#[inline]
fn whole(opcode: Opcode, payload: &mut [u8]) -> Result<Message<'_>, ProtocolError> {
    match opcode {
        Opcode::Text => match simdutf8::basic::from_utf8(payload) {
            Ok(_) => Ok(Message::Text(payload)),
            Err(_) => Err(ProtocolError::Utf8),
        },
        Opcode::Binary => Ok(Message::Binary(payload)),
        Opcode::Close => close(payload).map(Message::Close),
        Opcode::Ping => Ok(Message::Ping(payload)),
        Opcode::Pong => Ok(Message::Pong(payload)),
        Opcode::Continuation => Err(ProtocolError::Continuation),
    }
}

/// The payload of a close frame, RFC 6455, sections 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Result<Option<(u16, &str)>, ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::CloseLength) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004, 1005, 1006 and 1015 are never on the wire; 1012 to 1014 were registered later.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(ProtocolError::CloseCode);
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(ProtocolError::CloseReason),
    }
}

#[cfg(test)]
mod tests;
