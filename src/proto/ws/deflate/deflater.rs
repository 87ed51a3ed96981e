//! Whole frames out, each compressed alone: the same bytes for whoever negotiated the extension.

use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use crate::proto::ws::frame::{Opcode, deflated_header, header};

/// What a sync flush ends with; the extension leaves it out (RFC 7692, section 7.2.1).
pub(in crate::proto) const FLUSH: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Compresses messages. Holds some 300 KiB: one serves a whole thread.
#[derive(Debug)]
pub struct Deflater {
    state: Compress,
    /// The compressed message under way, kept for its memory.
    compressed: Vec<u8>,
    level: Compression,
    /// Smaller messages stay as they are.
    threshold: usize,
    /// The bits of the window, 9 to 15.
    window_bits: u8,
    /// Panics of the compressor since somebody asked.
    panics: u64,
}

/// The most memory of a compressed message that is kept for the next.
const KEPT_BYTES_MAX: usize = 256 * 1024;

impl Deflater {
    /// A compressor of `level` 0 to 9, for messages of at least `threshold` bytes.
    pub fn new(level: u32, threshold: usize) -> Self {
        Self::with_window(level, threshold, WINDOW_BITS_MAX)
    }

    /// As [`Self::new`], for peers that allow no larger window.
    pub fn with_window(level: u32, threshold: usize, window_bits: u8) -> Self {
        let level = Compression::new(level.min(9));
        // Eight bits are too few for the algorithm.
        let window_bits = window_bits.clamp(WINDOW_BITS_MIN + 1, WINDOW_BITS_MAX);
        let state = Self::state(level, window_bits);
        Self { state, compressed: Vec::new(), level, threshold, window_bits, panics: 0 }
    }

    /// How often the compressor has panicked since the last call. What it was to compress then went
    /// out as it was.
    pub fn take_panics(&mut self) -> u64 {
        std::mem::take(&mut self.panics)
    }

    /// Runs the compressor. Its panic, which would end a shard with all its connections, counts as
    /// nothing gained; its state is made anew.
    pub(crate) fn caught(&mut self, work: impl FnOnce(&mut Self) -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            self.state = Self::state(self.level, self.window_bits);
            self.compressed = Vec::new();
            self.panics += 1;
            false
        })
    }

    /// Appends a whole frame around `payload` for a peer that gave us a window of `window_bits`.
    ///
    /// Left as it is where it is small, does not pay, or would not fit the window: a message
    /// alone never points further back than its own length, so what fits needs no other window.
    /// Returns whether it was compressed.
    pub fn frame(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        window_bits: u8,
        out: &mut Vec<u8>,
    ) -> bool {
        let window = 1_usize << window_bits.min(WINDOW_BITS_MAX);
        let fits = window_bits >= self.window_bits || payload.len() <= window;
        let compressed =
            payload.len() >= self.threshold && fits && self.caught(|it| it.compress(payload));
        if compressed {
            deflated_header(opcode, self.compressed.len(), out);
            out.extend_from_slice(&self.compressed);
        } else {
            header(opcode, true, payload.len(), out);
            out.extend_from_slice(payload);
        }
        self.rest();
        compressed
    }

    /// Appends one gzip member around `bytes`. Nothing, and false, where that does not pay.
    pub fn gzip(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        // Without a time and a name, from no known system.
        const HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
        let mut crc = Crc::new();
        crc.update(bytes);
        let ended = self.caught(|it| it.finish(bytes));
        let pays = ended && pays(HEAD.len() + self.compressed.len() + 8, bytes.len());
        if pays {
            out.extend_from_slice(&HEAD);
            out.extend_from_slice(&self.compressed);
            out.extend_from_slice(&crc.sum().to_le_bytes());
            out.extend_from_slice(&crc.amount().to_le_bytes());
        }
        self.rest();
        pays
    }

    /// Compresses into `compressed`, to the end of a stream; whether that was reached.
    fn finish(&mut self, bytes: &[u8]) -> bool {
        self.state.reset();
        self.compressed.clear();
        self.compressed.reserve(bytes.len() + bytes.len() / 4 + 64);
        let done = self.state.compress_vec(bytes, &mut self.compressed, FlushCompress::Finish);
        let ended = matches!(done, Ok(Status::StreamEnd));
        debug_assert!(ended, "no room for the stream");
        if !ended {
            self.state = Self::state(self.level, self.window_bits);
        }
        ended
    }

    /// The blocks that hold `bytes`, up to and with a flush, so that others may follow. `None` where
    /// that is not smaller.
    pub fn flushed(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        let smaller = self.caught(|it| it.compress(bytes));
        self.compressed.extend_from_slice(&FLUSH);
        (smaller && pays(self.compressed.len(), bytes.len())).then_some(&*self.compressed)
    }

    /// Gives back the memory of a large message.
    fn rest(&mut self) {
        if self.compressed.capacity() > KEPT_BYTES_MAX {
            self.compressed = Vec::new();
        }
    }

    /// Compresses into `compressed`; false where that does not pay.
    fn compress(&mut self, payload: &[u8]) -> bool {
        self.state.reset();
        self.compressed.clear();
        // Room for the worst of it (nine bits a byte, and the heads of blocks), although that is
        // thrown away: zlib-rs 0.6.8 panics at level 1 in the message behind one that found no room.
        self.compressed.reserve(payload.len() + payload.len() / 4 + 64);
        let done = self.state.compress_vec(payload, &mut self.compressed, FlushCompress::Sync);
        let whole = done.is_ok() && self.state.total_in() == payload.len() as u64;
        let flushed = self.compressed.len() < self.compressed.capacity();
        match self.compressed.strip_suffix(&FLUSH).map(<[u8]>::len) {
            Some(len) if whole && flushed => {
                self.compressed.truncate(len);
                pays(len, payload.len())
            }
            _ => {
                debug_assert!(false, "no room for the compressed message");
                self.state = Self::state(self.level, self.window_bits);
                false
            }
        }
    }

    fn state(level: Compression, window_bits: u8) -> Compress {
        Compress::new_with_window_bits(level, false, window_bits)
    }
}

/// Whether it pays to send `compressed` bytes instead of `plain` ones: each reader inflates them, so
/// they must be at least an eighth fewer.
fn pays(compressed: usize, plain: usize) -> bool {
    compressed < plain && compressed <= plain - plain / 8
}

/// A whole frame around `payload`, for every peer with a window that holds it.
///
/// One shot: builds a compressor and throws it away. A thread that compresses often keeps a
/// [`Deflater`].
pub fn compress(opcode: Opcode, payload: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(level, 0).frame(opcode, payload, WINDOW_BITS_MAX, &mut out);
    out
}
