//! Messages inflated, within a bound. What a client's next message may point back to is kept as
//! bytes, not as an inflater: a client that has sent little costs little.

use flate2::{Decompress, FlushDecompress, Status};

use super::WINDOW_BITS_MAX;
use super::offer::Agreed;
use crate::proto::ws::error::ProtocolError;

/// What ends a message: the flush that its sender left out, then a last block of nothing. Only a
/// message that was whole ends where that block ends.
const END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];

/// Last blocks inside one message (RFC 7692, section 7.2.3.4). Each costs a copy of the window.
const LAST_BLOCKS_MAX: usize = 256;

/// What an inflater takes of memory, to be counted.
pub(crate) const INFLATER_BYTES: usize = 50 * 1024;

/// The least memory for output that is asked for.
const ROOM_MIN: usize = 512;

/// The most compressed bytes that a message of `message_bytes_max` may have arrived as.
///
/// Deflate grows what it cannot shrink: by 5 bytes a block, or an eighth in the worst fixed code.
pub(crate) fn deflated_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 4).saturating_add(1024)
}

/// What is agreed about a client's messages, and what they have left behind.
#[derive(Debug)]
pub struct Inbound {
    /// The end of what it has sent compressed; stays empty where it compresses each alone.
    history: Vec<u8>,
    /// The bits of its window.
    window_bits: u8,
    /// It compresses each message alone.
    alone: bool,
}

const _: () = assert!(size_of::<Inbound>() <= 32);

impl Inbound {
    /// At the start of a connection.
    pub fn new(agreed: &Agreed) -> Self {
        Self {
            history: Vec::new(),
            window_bits: agreed.client_window_bits.min(WINDOW_BITS_MAX),
            alone: agreed.client_alone,
        }
    }

    /// Of any client that compresses each message alone: nothing is kept, and the largest window
    /// reads what was made for a smaller one.
    pub(crate) fn alone() -> Self {
        Self { history: Vec::new(), window_bits: WINDOW_BITS_MAX, alone: true }
    }

    /// Whether the client compresses each message alone.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Bytes that are kept between messages.
    pub fn kept(&self) -> usize {
        self.history.len()
    }

    /// Notes a message that was inflated.
    pub(crate) fn remember(&mut self, message: &[u8]) {
        if self.alone {
            return;
        }
        let window = 1 << self.window_bits;
        let fresh = message.get(message.len().saturating_sub(window)..).unwrap_or_default();
        let over = (self.history.len() + fresh.len()).saturating_sub(window);
        self.history.drain(..over);
        // Exact: there may be a hundred thousand of them, most of which never speak again.
        self.history.reserve_exact(fresh.len());
        self.history.extend_from_slice(fresh);
    }
}

/// Inflates one message at a time. Holds some 50 KiB.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Decompress,
    /// A last block has ended.
    ended: bool,
    /// Last blocks of this message.
    last_blocks: usize,
    /// Compressed bytes of this message that were taken.
    pub(crate) taken: usize,
}

impl Inflater {
    fn new() -> Self {
        Self { state: Decompress::new(false), ended: false, last_blocks: 0, taken: 0 }
    }

    /// Makes it ready for a message of that client.
    fn begin(&mut self, inbound: &Inbound) -> Result<(), ProtocolError> {
        self.last_blocks = 0;
        self.taken = 0;
        self.restart(inbound, &[])
    }

    /// Begins a stream in the middle of a message, with all before it in reach.
    fn restart(&mut self, inbound: &Inbound, message: &[u8]) -> Result<(), ProtocolError> {
        self.ended = false;
        self.state.reset(false);
        let window = 1_usize << inbound.window_bits;
        let old = window.saturating_sub(message.len()).min(inbound.history.len());
        let old = inbound.history.get(inbound.history.len() - old..).unwrap_or_default();
        let fresh = message.get(message.len().saturating_sub(window)..).unwrap_or_default();
        for part in [old, fresh].into_iter().filter(|part| !part.is_empty()) {
            self.state.set_dictionary(part).map_err(|_| ProtocolError::Deflate)?;
        }
        Ok(())
    }

    /// Takes a piece of a message and appends what it stands for, as far as there is `room`.
    /// Returns how much of the piece is left where that was not enough, which may be none of it:
    /// there may still be more to come out.
    ///
    /// `message` never grows past `max`, whatever the input says.
    pub(crate) fn take(
        &mut self,
        piece: &[u8],
        inbound: &Inbound,
        message: &mut Vec<u8>,
        (max, room): (usize, usize),
    ) -> Result<Option<usize>, ProtocolError> {
        let until = message.len().saturating_add(room);
        self.inflate(piece, inbound, message, (max, until))
    }

    /// Takes the end of a message.
    pub(crate) fn finish(
        &mut self,
        inbound: &Inbound,
        message: &mut Vec<u8>,
        max: usize,
    ) -> Result<(), ProtocolError> {
        // A compressor that has nothing to flush writes nothing; some send that as it is.
        if self.taken == 0 {
            return Ok(());
        }
        // What may still come out is a match or two.
        self.inflate(&END, inbound, message, (max, usize::MAX))?;
        if self.ended { Ok(()) } else { Err(ProtocolError::Deflate) }
    }

    fn inflate(
        &mut self,
        mut input: &[u8],
        inbound: &Inbound,
        message: &mut Vec<u8>,
        (max, until): (usize, usize),
    ) -> Result<Option<usize>, ProtocolError> {
        loop {
            if self.ended {
                if input.is_empty() {
                    return Ok(None);
                }
                self.last_blocks += 1;
                if self.last_blocks > LAST_BLOCKS_MAX {
                    return Err(ProtocolError::Deflate);
                }
                self.restart(inbound, message)?;
            }
            if message.len() >= until {
                return Ok(Some(input.len()));
            }
            let (had_in, had_out) = (self.state.total_in(), message.len());
            let (status, filled) = self.step(input, message, (max, until))?;
            let taken = usize::try_from(self.state.total_in() - had_in).unwrap_or(usize::MAX);
            input = input.get(taken..).unwrap_or_default();
            self.ended = status == Status::StreamEnd;
            if !self.ended {
                // Output that did not fill its room is all there is of this input.
                let stuck = taken == 0 && message.len() == had_out;
                match (input.is_empty(), stuck) {
                    (true, _) if stuck || !filled => return Ok(None),
                    (false, true) => return Err(ProtocolError::Deflate),
                    _ => {}
                }
            }
        }
    }

    /// Inflates into the room of `message`, which is made where there is none. Whether it is full
    /// then.
    fn step(
        &mut self,
        input: &[u8],
        message: &mut Vec<u8>,
        (max, until): (usize, usize),
    ) -> Result<(Status, bool), ProtocolError> {
        let len = message.len();
        if len >= max {
            // Full. Whatever more comes out is too much; what ends the message is not.
            let before = self.state.total_out();
            let status = self.state.decompress(input, &mut [0], FlushDecompress::None);
            let more = self.state.total_out() > before;
            let status = status.map_err(corrupt)?;
            return if more { Err(ProtocolError::TooBig) } else { Ok((status, true)) };
        }
        if len == message.capacity() {
            let target = len.saturating_mul(2).max(input.len().saturating_mul(3)).max(ROOM_MIN);
            message.reserve_exact(target.max(len + 1).min(max) - len);
        }
        // No more than is wanted: what is filled with zeros first is what is written.
        let room = message.capacity().min(until);
        message.resize(room, 0);
        let before = self.state.total_out();
        let fresh = message.get_mut(len..).unwrap_or_default();
        let status = self.state.decompress(input, fresh, FlushDecompress::None);
        let came = usize::try_from(self.state.total_out() - before).unwrap_or(usize::MAX);
        message.truncate(len.saturating_add(came));
        Ok((status.map_err(corrupt)?, message.len() == room))
    }
}

/// Everything that inflating can fail of is the peer's fault.
fn corrupt<E>(_: E) -> ProtocolError {
    ProtocolError::Deflate
}

/// Inflaters without a message. A shard owns one of these for all its connections.
#[derive(Debug)]
pub struct Inflaters {
    free: Vec<Inflater>,
    /// Compressed bytes that were taken by all of them.
    compressed: u64,
    /// What came out.
    plain: u64,
    /// What may come out until the next [`Inflaters::allow`].
    room: usize,
}

impl Default for Inflaters {
    fn default() -> Self {
        Self { free: Vec::new(), compressed: 0, plain: 0, room: usize::MAX }
    }
}

/// Inflaters that are kept; a shard seldom has more messages under way.
const KEPT_MAX: usize = 4;

impl Inflaters {
    /// Compressed bytes that were taken so far, and what came out.
    pub fn tally(&self) -> (u64, u64) {
        (self.compressed, self.plain)
    }

    /// Lets so many bytes come out from here on; a decoder that needs more pauses. Without this
    /// there is no such bound.
    pub fn allow(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// What may still come out.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Counts a step of an inflater.
    pub(crate) fn count(&mut self, compressed: usize, plain: usize) {
        self.room = self.room.saturating_sub(plain);
        self.compressed = self.compressed.wrapping_add(compressed as u64);
        self.plain = self.plain.wrapping_add(plain as u64);
    }

    /// An inflater for one message.
    pub(crate) fn take(&mut self, inbound: &Inbound) -> Result<Inflater, ProtocolError> {
        let mut inflater = self.free.pop().unwrap_or_else(Inflater::new);
        inflater.begin(inbound)?;
        Ok(inflater)
    }

    /// Takes one back.
    pub(crate) fn put(&mut self, inflater: Inflater) {
        if self.free.len() < KEPT_MAX {
            self.free.push(inflater);
        }
    }
}
