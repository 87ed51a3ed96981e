//! What has arrived of a message that is not whole in one input: its fragments joined, its size
//! limited, its text checked as it arrives.

use super::deflate::inflater::{INFLATER_BYTES, Inbound, Inflater, Inflaters, deflated_bytes_max};
use super::error::ProtocolError;
use super::frame::{HEADER_BYTES_MAX, Header, Opcode, parse_client_with};
use super::mask::{push_unmasked, unmask};
use super::utf8::{BLOCK_BYTES, check_front};

/// What has arrived in part, of a message and of a frame in it or between.
///
/// Invariants: `checked` is at most `message.len()`; `head_len` is 0 while a frame is open.
#[derive(Debug, Default)]
pub(super) struct Carry {
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The kind of the message under way; `None` between messages.
    kind: Option<Kind>,
    /// Payload of the message under way, or of the one lent out.
    message: Vec<u8>,
    /// How much of `message` is known to be whole characters. Text only.
    checked: usize,
    /// Payload of a control frame under way, or of the one lent out.
    control: Vec<u8>,
    /// The front of a header.
    head: [u8; HEADER_BYTES_MAX],
    /// How many bytes of `head` have arrived.
    head_len: usize,
    /// What is compressed in the message under way.
    deflated: Option<Deflated>,
}

/// A compressed message under way. It waits until it is whole or [`SPOOL_BYTES_MAX`] are there, so
/// that a client that stops in the middle of a small one does not keep an inflater.
#[derive(Debug)]
enum Deflated {
    Inflating(Box<Inflating>),
    Spooled(Vec<u8>),
}

/// A compressed message that is being inflated.
#[derive(Debug)]
struct Inflating {
    inflater: Inflater,
    /// Compressed bytes that were not taken when there was no room for what they hold, from `at`.
    unread: Vec<u8>,
    at: usize,
    /// It goes on before more input is taken: there is more to come out.
    paused: bool,
    /// Nothing of it follows what is unread.
    ends: bool,
}

/// Compressed bytes that wait for the rest of their message.
const SPOOL_BYTES_MAX: usize = 16 * 1024;

/// What messages are held against.
pub(super) struct Rules<'a> {
    /// The most bytes of a message, over all its fragments, as it is after inflating.
    pub(super) message_bytes_max: usize,
    /// The client's side of permessage-deflate; `None` where it was not negotiated.
    pub(super) inbound: Option<&'a mut Inbound>,
    /// What inflates.
    pub(super) inflaters: &'a mut Inflaters,
}

#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    fin: bool,
    opcode: Opcode,
    /// Turned so that the next byte meets its first.
    mask: [u8; 4],
    /// Bytes that have not arrived.
    missing: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// Where a message that became complete stands.
pub(super) enum Complete<'i> {
    /// In the carry.
    Carried(Opcode),
    /// In the input, all of it.
    InInput(Opcode, &'i mut [u8]),
}

impl Carry {
    /// Whether no message and no frame is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.frame.is_none() && self.kind.is_none() && self.head_len == 0
    }

    /// Bytes held, also those lent out.
    pub(super) fn bytes(&self) -> usize {
        let spooled = match &self.deflated {
            Some(Deflated::Spooled(bytes)) => bytes.len(),
            Some(Deflated::Inflating(inflating)) => inflating.unread.len() - inflating.at,
            None => 0,
        };
        self.head_len + self.message.len() + self.control.len() + spooled
    }

    /// Memory that it takes.
    pub(super) fn footprint(&self) -> usize {
        let deflated = match &self.deflated {
            Some(Deflated::Spooled(bytes)) => bytes.capacity(),
            Some(Deflated::Inflating(inflating)) => INFLATER_BYTES + inflating.unread.capacity(),
            None => 0,
        };
        size_of::<Self>() + self.message.capacity() + self.control.capacity() + deflated
    }

    /// Whether there is more to come out of a compressed message than there was room for: then no
    /// input is taken before that.
    pub(super) fn is_paused(&self) -> bool {
        matches!(&self.deflated, Some(Deflated::Inflating(inflating)) if inflating.paused)
    }

    /// Takes input until something is complete, the input is empty, or it is to pause.
    pub(super) fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: &mut Rules<'_>,
    ) -> Result<Option<Complete<'i>>, ProtocolError> {
        loop {
            if self.is_paused() {
                let complete = self.go_on(rules)?;
                if complete.is_some() || self.is_paused() {
                    return Ok(complete);
                }
            }
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.take_header(input, rules)? {
                    Some(header) => self.open(header)?,
                    None => return Ok(None),
                },
            };
            let len = frame.missing.min(input.len());
            let payload = input.split_off_mut(..len).unwrap_or_default();
            let complete = if frame.opcode.is_control() {
                self.take_control(frame, payload)
            } else {
                self.take_data(frame, payload, rules)?
            };
            self.check();
            if complete.is_some() || self.frame.is_some() || self.is_paused() {
                return Ok(complete);
            }
        }
    }

    /// Takes a header, or the front of one: then `None`, and the input is empty.
    fn take_header(
        &mut self,
        input: &mut &mut [u8],
        rules: &Rules<'_>,
    ) -> Result<Option<Header>, ProtocolError> {
        let deflated_max = deflated_bytes_max(rules.message_bytes_max);
        let room = match &self.deflated {
            Some(Deflated::Inflating(inflating)) => {
                deflated_max.saturating_sub(inflating.inflater.taken)
            }
            Some(Deflated::Spooled(bytes)) => deflated_max.saturating_sub(bytes.len()),
            None => rules.message_bytes_max.saturating_sub(self.message.len()),
        };
        let deflated_max = rules.inbound.is_some().then_some(deflated_max);
        let had = self.head_len;
        // Through `head` also where the input holds it all: 14 bytes cost less than a second way.
        for (to, from) in self.head.iter_mut().skip(had).zip(input.iter()) {
            *to = *from;
            self.head_len += 1;
        }
        let head = self.head.get(..self.head_len).unwrap_or_default();
        let parsed = parse_client_with(head, room, deflated_max)?;
        let taken = match parsed {
            Some((_, size)) => size - had,
            None => self.head_len - had,
        };
        *input = std::mem::take(input).get_mut(taken..).unwrap_or_default();
        Ok(parsed.map(|(header, _)| {
            self.head_len = 0;
            header
        }))
    }

    /// Begins a frame, if it may stand here.
    fn open(&mut self, header: Header) -> Result<OpenFrame, ProtocolError> {
        let Header { fin, opcode, deflated, mask, payload_len } = header;
        match (opcode, self.kind) {
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ProtocolError::Interleaved),
            (Opcode::Text, None) => self.kind = Some(Kind::Text),
            (Opcode::Binary, None) => self.kind = Some(Kind::Binary),
            (Opcode::Continuation, None) => return Err(ProtocolError::Continuation),
            (Opcode::Continuation, Some(_)) => {}
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => self.control.clear(),
        }
        if deflated {
            self.deflated = Some(Deflated::Spooled(Vec::new()));
        }
        let frame = OpenFrame { fin, opcode, mask, missing: payload_len };
        self.frame = Some(frame);
        Ok(frame)
    }

    /// Counts a piece of the open frame. Closes the frame with its last byte, then true.
    fn count(&mut self, mut frame: OpenFrame, len: usize) -> bool {
        frame.mask.rotate_left(len % 4);
        frame.missing -= len;
        let closed = frame.missing == 0;
        self.frame = (!closed).then_some(frame);
        closed
    }

    /// Takes a piece of a control frame.
    fn take_control<'i>(
        &mut self,
        frame: OpenFrame,
        payload: &'i mut [u8],
    ) -> Option<Complete<'i>> {
        unmask(payload, frame.mask);
        let closed = self.count(frame, payload.len());
        if closed && self.control.is_empty() {
            return Some(Complete::InInput(frame.opcode, payload));
        }
        self.control.extend_from_slice(payload);
        closed.then_some(Complete::Carried(frame.opcode))
    }

    /// Takes a piece of a data frame.
    fn take_data<'i>(
        &mut self,
        frame: OpenFrame,
        payload: &'i mut [u8],
        rules: &mut Rules<'_>,
    ) -> Result<Option<Complete<'i>>, ProtocolError> {
        let ends = self.count(frame, payload.len()) && frame.fin;
        let taken = match self.deflated.take() {
            Some(deflated) => {
                unmask(payload, frame.mask);
                self.take_deflated(deflated, payload, ends, rules)
            }
            None if ends && self.message.is_empty() => {
                unmask(payload, frame.mask);
                let opcode = self.opcode();
                self.kind = None;
                return Ok(Some(Complete::InInput(opcode, payload)));
            }
            None => {
                self.grow(payload.len(), frame.missing, rules.message_bytes_max);
                self.copy(payload, frame.mask, self.kind == Some(Kind::Text)).map(|()| true)
            }
        };
        self.settle(ends, taken)
    }

    /// Goes on with a compressed message that was paused.
    fn go_on<'i>(&mut self, rules: &mut Rules<'_>) -> Result<Option<Complete<'i>>, ProtocolError> {
        let Some(Deflated::Inflating(inflating)) = self.deflated.take() else { return Ok(None) };
        let ends = inflating.ends;
        let taken = self.inflate(inflating, &[], rules);
        self.settle(ends, taken)
    }

    fn opcode(&self) -> Opcode {
        if self.kind == Some(Kind::Text) { Opcode::Text } else { Opcode::Binary }
    }

    /// Looks at what was added to the message by a piece of it, which may be the last, and may not
    /// all be `taken` yet.
    fn settle<'i>(
        &mut self,
        ends: bool,
        taken: Result<bool, ProtocolError>,
    ) -> Result<Option<Complete<'i>>, ProtocolError> {
        let complete = ends && taken != Ok(false);
        if self.kind == Some(Kind::Text) {
            // Also of a message that broke off: which fault is told must not depend on the cut.
            self.check_text(complete && taken.is_ok())?;
        }
        taken?;
        if !complete {
            return Ok(None);
        }
        let opcode = self.opcode();
        self.kind = None;
        Ok(Some(Complete::Carried(opcode)))
    }

    /// Takes a piece of a message that is not compressed. Checks its text block by block, while the
    /// nearest cache has it.
    fn copy(&mut self, payload: &[u8], mask: [u8; 4], text: bool) -> Result<(), ProtocolError> {
        for block in payload.chunks(BLOCK_BYTES) {
            let whole = self.checked == self.message.len();
            let ascii = push_unmasked(block, mask, &mut self.message);
            if text && whole && ascii {
                self.checked = self.message.len();
            } else if text {
                self.check_text(false)?;
            }
        }
        Ok(())
    }

    /// Takes a piece of a compressed message. Whether all of it was taken; else it is paused.
    fn take_deflated(
        &mut self,
        deflated: Deflated,
        payload: &[u8],
        ends: bool,
        rules: &mut Rules<'_>,
    ) -> Result<bool, ProtocolError> {
        let Some(inbound) = rules.inbound.as_deref() else {
            return Err(ProtocolError::ReservedBits);
        };
        let mut inflating = match deflated {
            Deflated::Inflating(inflating) => inflating,
            Deflated::Spooled(mut spool) => {
                if !ends && spool.len() + payload.len() <= SPOOL_BYTES_MAX {
                    spool.extend_from_slice(payload);
                    self.deflated = Some(Deflated::Spooled(spool));
                    return Ok(true);
                }
                let mut inflater = rules.inflaters.take(inbound)?;
                inflater.taken = spool.len();
                let (at, paused) = (0, false);
                Box::new(Inflating { inflater, unread: spool, at, paused, ends: false })
            }
        };
        inflating.inflater.taken = inflating.inflater.taken.saturating_add(payload.len());
        inflating.ends = ends;
        self.inflate(inflating, payload, rules)
    }

    /// Inflates what was left unread, then `payload`, then the end; as far as there is room.
    /// Whether there was.
    fn inflate(
        &mut self,
        mut inflating: Box<Inflating>,
        payload: &[u8],
        rules: &mut Rules<'_>,
    ) -> Result<bool, ProtocolError> {
        let max = rules.message_bytes_max;
        let Some(inbound) = rules.inbound.as_deref_mut() else {
            return Err(ProtocolError::ReservedBits);
        };
        let Inflating { inflater, unread, at, .. } = &mut *inflating;
        let spooled = unread.get(*at..).unwrap_or_default();
        let mut left = [spooled.len(), payload.len()];
        let mut paused = false;
        for (piece, left) in [spooled, payload].into_iter().zip(&mut left) {
            let had = self.message.len();
            let room = (max, rules.inflaters.room());
            let taken = inflater.take(piece, inbound, &mut self.message, room);
            let rest = taken.as_ref().map_or(Some(0), |rest| *rest);
            *left = rest.unwrap_or(0);
            rules.inflaters.count(piece.len() - *left, self.message.len() - had);
            taken?;
            paused = rest.is_some();
            if paused {
                break;
            }
        }
        if paused {
            *at = unread.len() - left[0];
            let rest = payload.get(payload.len() - left[1]..).unwrap_or_default();
            if !rest.is_empty() {
                unread.drain(..std::mem::take(at));
                unread.extend_from_slice(rest);
            }
            inflating.paused = true;
        } else if inflating.ends {
            let before = self.message.len();
            inflating.inflater.finish(inbound, &mut self.message, max)?;
            rules.inflaters.count(0, self.message.len() - before);
            inbound.remember(&self.message);
            rules.inflaters.put(inflating.inflater);
            return Ok(true);
        } else {
            inflating.unread = Vec::new();
            (inflating.at, inflating.paused) = (0, false);
        }
        self.deflated = Some(Deflated::Inflating(inflating));
        Ok(!paused)
    }

    /// Makes room for `more` bytes, the next ones of `missing` that end their frame. Takes what the
    /// frame still wants too, or doubles what has arrived: twice that is the most it reserves.
    fn grow(&mut self, more: usize, missing: usize, message_bytes_max: usize) {
        let len = self.message.len();
        let needed = len + more;
        if needed > self.message.capacity() {
            let framed = (len + missing).min(needed.saturating_mul(2));
            let doubled = len.saturating_mul(2).min(message_bytes_max);
            self.message.reserve_exact(framed.max(doubled) - len);
        }
    }

    /// Checks the text that arrived since the last time; a character may still be cut at the end.
    fn check_text(&mut self, ends: bool) -> Result<(), ProtocolError> {
        let fresh = self.message.get(self.checked..).unwrap_or_default();
        self.checked += check_front(fresh, ends)?;
        Ok(())
    }

    /// The payload of a message that is [`Complete::Carried`], kept until the next call.
    pub(super) fn lend(&mut self, opcode: Opcode) -> &mut [u8] {
        if opcode.is_control() { &mut self.control } else { &mut self.message }
    }

    /// The payload of a message that is [`Complete::Carried`], to keep.
    pub(super) fn take_lent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.message)
    }

    /// Bytes of message memory taken from the allocator.
    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.message.capacity()
    }

    fn check(&self) {
        debug_assert!(self.checked <= self.message.len());
        debug_assert!(self.head_len == 0 || self.frame.is_none());
    }
}
