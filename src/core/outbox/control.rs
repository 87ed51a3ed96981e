//! The control lane: whole frames, one behind the other, of which none is dropped as long as the
//! connection goes on.

use super::Outbox;
use crate::proto::ws::frame::{self, Opcode};

/// Written bytes that the lane may keep in front of those that wait. Where more wait, it may keep
/// a quarter of what waits: cutting them off then moves no more than four times what was written.
pub(super) const WRITTEN_BYTES: usize = 4_096;

const PING: u8 = Opcode::Ping as u8;
const PONG: u8 = Opcode::Pong as u8;

/// Room for an answer. A lane that is longer than [`WRITTEN_BYTES`] grows by that, or by a quarter.
const ANSWER_BYTES: usize = 1_024;

impl Outbox {
    /// Bytes of answers and notices waiting.
    pub fn control_bytes(&self) -> usize {
        self.control.len() - self.control_from()
    }

    fn control_from(&self) -> usize {
        self.control_from as usize
    }

    /// The control lane's end, to append whole frames to.
    pub fn control(&mut self) -> &mut Vec<u8> {
        let len = self.control.len();
        if len >= WRITTEN_BYTES && self.control.capacity() - len < ANSWER_BYTES {
            self.control.reserve_exact(ANSWER_BYTES.max(len / 4));
        }
        &mut self.control
    }

    /// Whether `len` more bytes may wait that nobody asked for, where `max` may. Answers do not
    /// count: of those the client has as many as it asks for.
    pub fn takes_pushes(&self, len: usize, max: usize) -> bool {
        let pushed = (self.pushed as usize).min(self.control_bytes());
        pushed == 0 || pushed + len <= max
    }

    /// Appends frames that nobody asked for.
    pub fn push_notice(&mut self, parts: [&[u8]; 2]) {
        for part in parts {
            self.control().extend_from_slice(part);
            self.pushed = self.pushed.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
        }
    }

    /// Appends a ping or a pong. While a large event is on its way it passes the messages
    /// that wait: they cannot stand between fragments, and it can.
    pub fn push_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let passes = self.is_in_large() && self.control_bytes() > 0;
        let end = self.control().len();
        frame::control(opcode, payload, self.control());
        if passes {
            let at = self.control_from() + self.passing_until(end);
            let len = self.control.len() - end;
            if let Some(behind) = self.control.get_mut(at..) {
                behind.rotate_right(len);
            }
        }
    }

    /// Whether some of a large event is written, and not all.
    fn is_in_large(&self) -> bool {
        self.cut > 0 && self.data.front().is_some_and(|front| front.large().is_some())
    }

    /// Bytes in front of the lane that may stand between the fragments of a message: pings and
    /// pongs. A close may not, because nothing follows one.
    pub(super) fn passing(&self) -> usize {
        self.passing_until(self.control.len())
    }

    fn passing_until(&self, until: usize) -> usize {
        let mut end = self.frame_on_its_way();
        while let Some(rest) = self.control.get(end..until)
            && matches!(rest.first().map(|first| first & 0x0F), Some(PING | PONG))
        {
            end += frame::unmasked_len(rest);
        }
        end.saturating_sub(self.control_from())
    }

    /// Takes everything out of the control lane, but a frame that is on its way. For one that is
    /// closed.
    pub fn clear_control(&mut self) {
        let start = self.frame_on_its_way();
        let rest = self.control.get(start..).unwrap_or_default();
        let begun = if start < self.control_from() { frame::unmasked_len(rest) } else { 0 };
        self.control.truncate(start + begun);
        self.drop_written(start);
        self.control.shrink_to_fit();
    }

    /// Where the frame begins whose bytes are the next to be written.
    fn frame_on_its_way(&self) -> usize {
        let mut start = 0;
        loop {
            let rest = self.control.get(start..).unwrap_or_default();
            let end = start + frame::unmasked_len(rest);
            if rest.is_empty() || end > self.control_from() {
                return start;
            }
            start = end;
        }
    }

    fn drop_written(&mut self, bytes: usize) {
        self.control.drain(..bytes);
        self.control_from -= u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    pub(super) fn advance_control(&mut self, step: usize) {
        self.control_from += u32::try_from(step).unwrap_or(u32::MAX);
        if self.control_bytes() == 0 {
            self.control = Vec::new();
            self.control_from = 0;
            self.pushed = 0;
        } else if self.keeps_much() {
            self.drop_written(self.frame_on_its_way());
            if self.control.capacity() > 4 * self.control.len().max(WRITTEN_BYTES) {
                self.control.shrink_to(2 * self.control.len());
            }
        }
    }

    fn keeps_much(&self) -> bool {
        self.control_from() >= WRITTEN_BYTES.max(self.control_bytes() / 4)
    }

    pub(super) fn check_control(&self) {
        debug_assert!(self.control_from() <= self.control.len(), "control cursor");
        debug_assert!(
            !self.keeps_much() || self.frame_on_its_way() == 0,
            "written control bytes are cut off"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outbox::tests::Sink;

    /// So many pings of a hundred bytes each.
    fn full(frames: usize) -> Outbox {
        let mut outbox = Outbox::default();
        for _ in 0..frames {
            frame::control(Opcode::Ping, &[b'1'; 98], outbox.control());
        }
        outbox
    }

    #[test]
    fn a_reader_that_is_never_done_does_not_make_the_lane_grow() {
        let mut outbox = full(1);
        outbox.advance_control(50);
        for _ in 0..100_000 {
            frame::control(Opcode::Ping, &[b'1'; 98], outbox.control());
            outbox.advance_control(50);
            outbox.advance_control(50);
        }
        assert_eq!(outbox.control_bytes(), 50);
        let capacity = outbox.control.capacity();
        assert!(capacity <= 2 * WRITTEN_BYTES + ANSWER_BYTES, "{capacity} bytes for 50");
    }

    #[test]
    fn a_lane_takes_little_more_memory_than_what_waits_there() {
        let mut outbox = full(600);
        for _ in 0..1_000 {
            let capacity = outbox.control.capacity();
            assert!(capacity < 100_000, "{capacity} bytes for 60,000");
            outbox.advance_control(90);
            outbox.advance_control(10);
            frame::control(Opcode::Ping, &[b'1'; 98], outbox.control());
        }
        while outbox.control_bytes() > 1_000 {
            outbox.advance_control(70);
        }
        assert!(outbox.control.capacity() <= 5 * WRITTEN_BYTES, "{}", outbox.control.capacity());
    }

    #[test]
    fn a_frame_on_its_way_stays_when_the_lane_is_cleared() {
        for (written, left) in [(0, 0), (1, 99), (100, 0), (150, 50), (29_999, 1), (30_000, 0)] {
            let mut outbox = full(600);
            // In steps, as a kernel takes them.
            (0..written).for_each(|_| outbox.advance_control(1));
            outbox.clear_control();
            assert_eq!(outbox.control_bytes(), left, "{written} were written");
            frame::close(4004, "overloaded", outbox.control());
            assert!(outbox.control.capacity() < 400);
            outbox.advance(left, &mut Sink::default());
            let close = outbox.control.get(outbox.control_from()..).unwrap();
            assert_eq!(close.first(), Some(&0x88), "{written} were written");
        }
    }
}
