//! Events in every form that a client may want: each encoded and compressed at most once for the
//! process, however many shards and subscribers ask.

use std::sync::{Arc, OnceLock};

use super::dialect::bin::{self, Kind};
use super::dialect::json;
use super::event::{Event, Payload};
use super::format::{Compression, Format, NARROW_BITS};
use super::large::{Bodies, Large};
use super::ws::deflate::{Deflater, WINDOW_BITS_MAX};
use super::ws::frame::{self, Opcode};

/// The frames of an event in the forms beside plain JSON, made by whoever needs them first. Takes
/// memory once somebody does.
#[derive(Debug, Default)]
pub struct Frames {
    cells: OnceLock<Box<[Cell; Format::ALL.len()]>>,
    /// What the frames of a large event are made from.
    bodies: Option<Box<Bodies>>,
}

/// `None` where the form is no other than the one it is made from.
type Cell = OnceLock<Option<Box<[u8]>>>;

impl Frames {
    /// Memory of the frames that were made so far.
    pub fn made_bytes(&self) -> usize {
        let Some(cells) = self.cells.get() else { return 0 };
        let frames = cells.iter().filter_map(|cell| cell.get()?.as_deref());
        size_of_val(&**cells) + frames.map(<[u8]>::len).sum::<usize>()
    }

    fn cell(&self, format: Format) -> Option<&Cell> {
        self.cells.get_or_init(Box::default).get(format.index())
    }

    /// Memory of what was made before the event had its place.
    pub fn bytes(&self) -> usize {
        self.bodies.as_ref().map_or(0, |bodies| bodies.bytes())
    }
}

impl From<Bodies> for Frames {
    fn from(bodies: Bodies) -> Self {
        Self { cells: OnceLock::new(), bodies: Some(Box::new(bodies)) }
    }
}

/// What an [`Encoder`] has done since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Events encoded, by [`Format::ALL`]. A form that is no other than the one it is made from
    /// does not count.
    pub encodings: [u64; Format::ALL.len()],
    /// Bytes that were compressed.
    pub plain: u64,
    /// What came of them.
    pub compressed: u64,
    /// Panics of a compressor; what it was to compress went out as it was.
    pub panics: u64,
}

/// Makes frames. Holds some 300 KiB for each window once it was needed: one serves a thread.
#[derive(Debug)]
pub struct Encoder {
    compression: Compression,
    wide: Option<Deflater>,
    narrow: Option<Deflater>,
    /// The message under way, kept for its memory.
    message: Vec<u8>,
    made: Made,
}

/// The most memory of a message that is kept for the next.
const KEPT_BYTES_MAX: usize = 256 * 1024;

impl Event {
    /// Whether most of its frames was made before it had its place.
    pub fn is_large(&self) -> bool {
        self.frames.bodies.is_some()
    }

    /// The message of a large event in that form; `None` where nothing was made for it: then
    /// [`Event::frame`] does it all.
    pub fn large(&self, format: Format, encoder: &mut Encoder) -> Option<Arc<Large>> {
        self.frames.bodies.as_ref()?.message(self, Kind::Event, format, encoder)
    }

    /// As [`Event::large`], to show it as the newest of its key.
    pub fn large_snapshot(&self, format: Format, encoder: &mut Encoder) -> Option<Arc<Large>> {
        self.frames.bodies.as_ref()?.message(self, Kind::Snapshot, format, encoder)
    }

    /// The whole frame of this event in that form.
    pub fn frame<'a>(&'a self, format: Format, encoder: &mut Encoder) -> &'a [u8] {
        if format == Format::Json {
            return self.json_frame.get_or_init(|| {
                encoder.count_if(true, format);
                encoder.json(self, Kind::Event)
            });
        }
        let made = self.frames.cell(format);
        let made = made.and_then(|cell| cell.get_or_init(|| encoder.make(self, format)).as_deref());
        made.unwrap_or_else(|| self.frame(format.base(), encoder))
    }

    /// Appends [`Event::frame`] to `out`.
    ///
    /// The last holder of an event encodes plain JSON straight into `out`: nobody else will ask.
    pub fn append_frame(
        self: &Arc<Self>,
        format: Format,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) {
        let last = format == Format::Json
            && self.json_frame.get().is_none()
            && Arc::strong_count(self) == 1;
        if last {
            encoder.write(self, Kind::Event, format);
            frame::push_text(&encoder.message, out);
            encoder.rest();
            encoder.count_if(true, format);
        } else {
            out.extend_from_slice(self.frame(format, encoder));
        }
    }

    /// The frame that shows this event as the newest of its key.
    pub fn snapshot_frame(&self, format: Format, encoder: &mut Encoder) -> Box<[u8]> {
        match format {
            Format::Bin => {
                // Another kind, and the same bytes behind it.
                let mut frame: Box<[u8]> = Box::from(self.frame(format, encoder));
                let head_len = frame::unmasked_head_len(&frame);
                if let Some(kind) = frame.get_mut(head_len) {
                    *kind = Kind::Snapshot as u8;
                }
                frame
            }
            Format::Json => encoder.json(self, Kind::Snapshot),
            Format::BinDeflate
            | Format::BinDeflateNarrow
            | Format::JsonDeflate
            | Format::JsonDeflateNarrow
            | Format::JsonGzip => {
                let packed = encoder.packed(self, Kind::Snapshot, format);
                packed.unwrap_or_else(|| self.snapshot_frame(format.base(), encoder))
            }
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new(Compression::default())
    }
}

impl Encoder {
    /// One that has done nothing.
    pub fn new(compression: Compression) -> Self {
        Self { compression, wide: None, narrow: None, message: Vec::new(), made: Made::default() }
    }

    /// Compresses as that says from here on; frames that are there stay.
    pub fn compress_as(&mut self, compression: Compression) {
        if compression.level != self.compression.level {
            // Their panics would go with them.
            let made = self.take_made();
            (self.wide, self.narrow) = (None, None);
            self.made = made;
        }
        self.compression = compression;
    }

    /// What was done since the last call.
    pub fn take_made(&mut self) -> Made {
        let deflaters = self.wide.iter_mut().chain(&mut self.narrow);
        let panics: u64 = deflaters.map(Deflater::take_panics).sum();
        let made = std::mem::take(&mut self.made);
        Made { panics: panics + made.panics, ..made }
    }

    fn count_if(&mut self, made: bool, format: Format) {
        if let Some(count) = self.made.encodings.get_mut(format.index()) {
            *count += u64::from(made);
        }
    }

    /// Counts a large event in that form, with its bytes before and after, where it is compressed.
    pub(super) fn count_large(&mut self, packed: Option<(usize, usize)>, format: Format) {
        self.count_if(true, format);
        let (plain, to) = packed.unwrap_or_default();
        self.count_bytes(packed.is_some(), plain, to);
    }

    /// The frame of plain JSON.
    fn json(&mut self, event: &Event, kind: Kind) -> Box<[u8]> {
        self.write(event, kind, Format::Json);
        let frame = whole(Opcode::Text, &self.message);
        self.rest();
        frame
    }

    /// The message of an event, before any compression of the whole of it.
    fn write(&mut self, event: &Event, kind: Kind, base: Format) {
        self.message.clear();
        match (base, kind) {
            (Format::Json, Kind::Event) => json::encode_event(event, &mut self.message),
            (Format::Json, Kind::Snapshot) => json::encode_snapshot(event, &mut self.message),
            (_, kind) => bin::encode_event(event, kind, None, &mut self.message),
        }
    }

    /// Gives back the memory of a large message.
    fn rest(&mut self) {
        if self.message.capacity() > KEPT_BYTES_MAX {
            self.message = Vec::new();
        }
    }

    /// The frame of an event in a form that is not plain JSON.
    fn make(&mut self, event: &Event, format: Format) -> Option<Box<[u8]>> {
        let frame = if format == Format::Bin {
            Some(self.binary(event))
        } else {
            self.packed(event, Kind::Event, format)
        };
        self.count_if(frame.is_some(), format);
        frame
    }

    /// A binary frame, with its payload in gzip where that pays.
    fn binary(&mut self, event: &Event) -> Box<[u8]> {
        let (Payload::Json(payload) | Payload::Opaque(payload)) = &event.payload;
        let pays = self.compression.gzip && payload.len() >= self.compression.threshold;
        let mut stream = Vec::new();
        let gzipped = pays && self.deflater(WINDOW_BITS_MAX).gzip(payload, &mut stream);
        self.count_bytes(gzipped, payload.len(), stream.len());
        self.message.clear();
        bin::encode_event(
            event,
            Kind::Event,
            gzipped.then_some(stream.as_slice()),
            &mut self.message,
        );
        let frame = whole(Opcode::Binary, &self.message);
        self.rest();
        frame
    }

    /// A frame whose message is compressed; `None` where that does not pay.
    fn packed(&mut self, event: &Event, kind: Kind, format: Format) -> Option<Box<[u8]>> {
        let base = format.base();
        let threshold = self.compression.threshold;
        // What cannot pay is not encoded: of binary events the payload counts.
        if base == Format::Bin && event.payload.len() < threshold {
            return None;
        }
        match (base, kind, event.json_frame.get()) {
            (Format::Json, Kind::Event, Some(frame)) => {
                let text = frame.get(frame::unmasked_head_len(frame)..).unwrap_or_default();
                self.message.clear();
                self.message.extend_from_slice(text);
            }
            _ => self.write(event, kind, base),
        }
        if base == Format::Json && self.message.len() < threshold {
            return None;
        }
        let message = std::mem::take(&mut self.message);
        let opcode = if base == Format::Bin { Opcode::Binary } else { Opcode::Text };
        let mut out = Vec::new();
        let packed = match format.window_bits() {
            Some(bits) => self.deflater(bits).frame(opcode, &message, bits, &mut out),
            None => {
                let mut stream = Vec::new();
                let smaller = self.deflater(WINDOW_BITS_MAX).gzip(&message, &mut stream);
                out = whole(Opcode::Binary, &stream).into_vec();
                smaller
            }
        };
        self.count_bytes(packed, message.len(), out.len());
        self.message = message;
        self.rest();
        packed.then(|| out.into_boxed_slice())
    }

    /// Appends the frame of a text that several events share: compressed where that form is, by
    /// permessage-deflate, and where it pays.
    pub fn push_text(&mut self, format: Format, text: &[u8], out: &mut Vec<u8>) {
        let small = text.len() < self.compression.threshold;
        let Some(bits) = format.window_bits().filter(|_| !small) else {
            return frame::push_text(text, out);
        };
        let before = out.len();
        let packed = self.deflater(bits).frame(Opcode::Text, text, bits, out);
        self.count_bytes(packed, text.len(), out.len() - before);
    }

    fn count_bytes(&mut self, compressed: bool, plain: usize, to: usize) {
        if compressed {
            self.made.plain += plain as u64;
            self.made.compressed += to as u64;
        }
    }

    fn deflater(&mut self, bits: u8) -> &mut Deflater {
        let level = self.compression.level;
        let one = if bits == NARROW_BITS { &mut self.narrow } else { &mut self.wide };
        one.get_or_insert_with(|| Deflater::with_window(level, 0, bits))
    }
}

/// A whole unmasked frame.
fn whole(opcode: Opcode, message: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(message.len() + 10);
    frame::header(opcode, true, message.len(), &mut out);
    out.extend_from_slice(message);
    out.into_boxed_slice()
}

#[cfg(test)]
mod tests;
