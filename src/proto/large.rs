//! Large events: what all their frames have in common is the payload, and that part of them is made
//! and compressed before the event has its place, away from the shards. A shard adds what stands
//! before and behind it, and copies none of it.
//!
//! On the wire such an event is one message in fragments, so that pings, pongs and closes may pass
//! between them: its head is the first fragment, the payload's pieces follow, and the last fragment
//! is what ends the message. The compressed forms join three streams: a stored block for the head,
//! the payload's own blocks up to a flush, and a stored block for the end.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use flate2::Crc;

use super::dialect::bin::{self, Kind};
use super::dialect::json;
use super::encoder::Encoder;
use super::event::{Event, Payload};
use super::format::{Compression, Format, NARROW_BITS};
use super::ws::deflate::deflater::FLUSH;
use super::ws::deflate::{Deflater, WINDOW_BITS_MAX};
use super::ws::frame::{self, Opcode};

/// A fragment of a payload has that many bytes, the four of its header included.
pub const FRAGMENT_BYTES: usize = 64 * 1024;

/// Of a gzip member: without a time and a name, from no known system.
const GZIP_HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];

/// A payload in fragments, laid end to end, of which none is the first or the last of its message.
/// All but the last of them are of the same size.
#[derive(Debug)]
struct Body {
    bytes: Box<[u8]>,
    /// Bytes of a fragment, with its header.
    fragment: usize,
    /// Of the text that it was made from, before any compression.
    crc: Crc,
    /// The bytes of that text, and what came of them.
    sizes: (usize, usize),
}

impl Body {
    fn new(text: &[u8], carried: &[u8], crc: Crc, fragment: usize) -> Self {
        let piece = fragment - 4;
        let mut bytes = Vec::with_capacity(carried.len() + 4 * carried.len().div_ceil(piece));
        for piece in carried.chunks(piece) {
            frame::header(Opcode::Continuation, false, piece.len(), &mut bytes);
            bytes.extend_from_slice(piece);
        }
        let sizes = (text.len(), carried.len());
        Self { bytes: bytes.into_boxed_slice(), fragment, crc, sizes }
    }
}

/// The message of one event in one form, in fragments.
#[derive(Debug)]
pub struct Large {
    /// The first fragment: what is the event's own.
    first: Box<[u8]>,
    body: Arc<Body>,
    /// The last fragment.
    last: Box<[u8]>,
}

impl Large {
    /// Bytes of the whole message, with the headers of its fragments.
    pub fn len(&self) -> usize {
        self.first.len() + self.body.bytes.len() + self.last.len()
    }

    /// Never: a message has a header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes `from..to`, as they stand in memory.
    pub fn slices(&self, from: usize, to: usize) -> [&[u8]; 3] {
        let mut start = 0;
        [&*self.first, &*self.body.bytes, &*self.last].map(|part| {
            let (low, high) = (from.saturating_sub(start), to.saturating_sub(start));
            start += part.len();
            part.get(low.min(part.len())..high.min(part.len())).unwrap_or_default()
        })
    }

    /// Where the fragment ends of which `at` bytes of the message are a part, or the end.
    pub fn boundary(&self, at: usize) -> usize {
        let (first, body) = (self.first.len(), self.body.bytes.len());
        match at.checked_sub(first) {
            None => first,
            Some(at) if at <= body => first + at.next_multiple_of(self.body.fragment).min(body),
            Some(_) => self.len(),
        }
    }
}

/// What one form of an event is made from.
#[derive(Debug)]
struct Slot {
    body: Arc<Body>,
    /// Whether the body is compressed: where that does not pay, it is the one of the plain form.
    packed: bool,
    made: OnceLock<Arc<Large>>,
}

/// What the frames of a large event are made from, in the forms that were asked for.
#[derive(Debug, Default)]
pub struct Bodies {
    slots: [Option<Slot>; Format::ALL.len()],
    /// The forms that are no other than their base, because compression does not pay.
    plain: Vec<Format>,
}

/// How a body is made of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Plain,
    Wide,
    Narrow,
}

impl How {
    fn of(format: Format, gzip: bool) -> Self {
        match format {
            Format::Bin if gzip => Self::Wide,
            Format::Bin | Format::Json => Self::Plain,
            Format::BinDeflate | Format::JsonDeflate | Format::JsonGzip => Self::Wide,
            Format::BinDeflateNarrow | Format::JsonDeflateNarrow => Self::Narrow,
        }
    }
}

/// The bodies made so far: each text in each way at most once.
struct Press<'a> {
    /// As JSON has it, and as binary frames have it.
    texts: [Cow<'a, [u8]>; 2],
    /// Both are the same.
    same: bool,
    /// Which text, in which way; nothing where it did not shrink.
    made: Vec<(usize, How, Option<Arc<Body>>)>,
    level: u32,
    fragment: usize,
}

impl Press<'_> {
    /// `None` where it would not be smaller.
    fn body(&mut self, text: usize, how: How) -> Option<Arc<Body>> {
        let text = if self.same { 0 } else { text };
        if let Some((.., body)) = self.made.iter().find(|made| (made.0, made.1) == (text, how)) {
            return body.clone();
        }
        let plain = self.texts.get(text)?;
        let body = match how {
            How::Plain => {
                let mut crc = Crc::new();
                crc.update(plain);
                Some(Arc::new(Body::new(plain, plain, crc, self.fragment)))
            }
            How::Wide => self.squeeze(plain, WINDOW_BITS_MAX),
            How::Narrow => self.squeeze(plain, NARROW_BITS),
        };
        self.made.push((text, how, body.clone()));
        body
    }

    fn squeeze(&self, text: &[u8], bits: u8) -> Option<Arc<Body>> {
        let mut deflater = Deflater::with_window(self.level, 0, bits);
        let stream = deflater.flushed(text)?;
        let mut crc = Crc::new();
        crc.update(text);
        Some(Arc::new(Body::new(text, stream, crc, self.fragment)))
    }
}

impl Bodies {
    /// Makes ready what the frames of an event with that payload have in common, in these forms and
    /// those that stand in for them. `fragment` is [`FRAGMENT_BYTES`], but in tests.
    pub fn new(
        payload: &Payload,
        formats: &[Format],
        compression: Compression,
        fragment: usize,
    ) -> Self {
        let (Payload::Json(raw) | Payload::Opaque(raw)) = payload;
        let text = json::payload_text(payload);
        // But for bytes and line breaks.
        let same = matches!(text, Cow::Borrowed(_));
        let texts = [text, Cow::Borrowed(&**raw)];
        let fragment = fragment.clamp(5 + 125, FRAGMENT_BYTES);
        let mut press = Press { texts, same, made: Vec::new(), level: compression.level, fragment };
        let mut bodies = Self::default();
        for format in formats {
            let text = usize::from(format.base() == Format::Bin);
            let pays = raw.len() >= compression.threshold;
            let how = if pays { How::of(*format, compression.gzip) } else { How::Plain };
            let packed = press.body(text, how).filter(|_| how != How::Plain);
            let (format, body, packed) = match packed {
                Some(body) => (*format, Some(body), true),
                None => {
                    bodies.plain.push(*format);
                    (format.base(), press.body(text, How::Plain), false)
                }
            };
            if let (Some(body), Some(slot @ None)) = (body, bodies.slots.get_mut(format.index())) {
                *slot = Some(Slot { body, packed, made: OnceLock::new() });
            }
        }
        bodies
    }

    /// Memory of all that was made.
    pub fn bytes(&self) -> usize {
        let mut seen: Vec<*const Body> = Vec::new();
        let bodies = self.slots.iter().flatten().map(|slot| &slot.body);
        let fresh = bodies.filter(|body| {
            let known = seen.contains(&Arc::as_ptr(body));
            seen.push(Arc::as_ptr(body));
            !known
        });
        fresh.map(|body| body.bytes.len()).sum()
    }

    /// The message of `event`, whose bodies these are; `None` where the form was not asked for.
    pub(super) fn message(
        &self,
        event: &Event,
        kind: Kind,
        format: Format,
        encoder: &mut Encoder,
    ) -> Option<Arc<Large>> {
        let format = if self.plain.contains(&format) { format.base() } else { format };
        let slot = self.slots.get(format.index())?.as_ref()?;
        if kind == Kind::Snapshot {
            return Some(Arc::new(slot.ends(event, kind, format)));
        }
        let made = slot.made.get_or_init(|| {
            encoder.count_large(slot.packed.then_some(slot.body.sizes), format);
            Arc::new(slot.ends(event, kind, format))
        });
        Some(Arc::clone(made))
    }
}

impl Slot {
    /// Puts the fragments before and behind the body.
    fn ends(&self, event: &Event, kind: Kind, format: Format) -> Large {
        let base = format.base();
        let gzip = self.packed && matches!(format, Format::Bin | Format::JsonGzip);
        let mut head = Vec::with_capacity(256);
        let end = if base == Format::Bin {
            bin::put_event_head(event, kind, gzip, &mut head);
            &b""[..]
        } else {
            json::put_event_head(event, kind == Kind::Snapshot, &mut head);
            json::payload_end(&event.payload)
        };
        let deflated = self.packed && !gzip;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        if deflated {
            stored(&head, false, &mut first);
            stored(end, false, &mut last);
            // The flush that the extension leaves out, but for its first byte.
            last.push(0);
        } else if gzip && base == Format::Bin {
            first.extend_from_slice(&head);
            first.extend_from_slice(&GZIP_HEAD);
            stored(b"", true, &mut last);
            last.extend_from_slice(&self.body.crc.sum().to_le_bytes());
            last.extend_from_slice(&self.body.crc.amount().to_le_bytes());
        } else if gzip {
            first.extend_from_slice(&GZIP_HEAD);
            stored(&head, false, &mut first);
            stored(end, true, &mut last);
            let mut crc = Crc::new();
            crc.update(&head);
            crc.combine(&self.body.crc);
            crc.update(end);
            last.extend_from_slice(&crc.sum().to_le_bytes());
            last.extend_from_slice(&crc.amount().to_le_bytes());
        } else {
            first = head;
            last.extend_from_slice(end);
        }
        let binary = base == Format::Bin || gzip;
        let opcode = if binary { Opcode::Binary } else { Opcode::Text };
        let mut framed = Vec::with_capacity(first.len() + 10);
        frame::first_header(opcode, deflated, first.len(), &mut framed);
        framed.extend_from_slice(&first);
        let mut ending = Vec::with_capacity(last.len() + 2);
        frame::header(Opcode::Continuation, true, last.len(), &mut ending);
        ending.extend_from_slice(&last);
        Large { first: framed.into(), body: Arc::clone(&self.body), last: ending.into() }
    }
}

/// Appends stored blocks of deflate around `bytes`, which begin and end with a byte. A block of no
/// bytes is there where it is the last.
fn stored(bytes: &[u8], ends: bool, out: &mut Vec<u8>) {
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    if ends && bytes.is_empty() {
        out.push(1);
        out.extend_from_slice(&FLUSH);
    }
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(ends && blocks.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
}

#[cfg(test)]
mod tests;
