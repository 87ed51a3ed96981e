//! A run for those who take several events in one text frame: the same events as another run has,
//! of which neighbours share a frame.

use std::rc::Rc;

use super::{Frame, Press, Run};
use crate::proto::ws::frame;

/// A text frame of several events has at most that many bytes of text, before compression.
pub const JOINED_BYTES_MAX: usize = 16 * 1024;

/// The first byte of a text frame that is whole and plain.
const PLAIN_TEXT: u8 = 0x81;

impl Run {
    /// The first event behind the frame that has event `index`.
    pub fn frame_end(&self, index: u32) -> u32 {
        match self.frames.get(index as usize) {
            Some(frame) => self.frame_at(frame.end as usize),
            None => self.len(),
        }
    }

    /// The first event from `index` on that begins a frame; the end where there is none.
    pub fn frame_from(&self, index: u32) -> u32 {
        index.checked_sub(1).map_or(0, |before| self.frame_end(before))
    }

    /// The last event up to `index` that begins a frame, or the end.
    pub fn frame_upto(&self, index: u32) -> u32 {
        let Some(Frame { end, .. }) = self.frames.get(index as usize) else { return self.len() };
        let first = self.frames.partition_point(|frame| frame.end < *end);
        u32::try_from(first).unwrap_or(u32::MAX)
    }

    /// The text of an event that has a plain text frame for itself.
    fn text(&self, index: u32) -> Option<&[u8]> {
        let bytes = self.slice(index, index + 1);
        bytes.first().filter(|first| **first == PLAIN_TEXT)?;
        bytes.get(frame::unmasked_head_len(bytes)..)
    }

    /// The first event that does not go into a frame of `max` bytes with event `first` and what is
    /// between.
    fn joined_end(&self, first: u32, max: usize) -> u32 {
        let mut bytes = 0;
        let fits = |index: &u32| {
            let Some(text) = self.text(*index) else { return false };
            bytes += text.len() + usize::from(*index > first);
            bytes <= max
        };
        (first..self.len()).take_while(fits).last().unwrap_or(first) + 1
    }
}

impl Press {
    /// The events of `run`, of which neighbours share a text frame, a line for each, as far as
    /// `max` bytes of text go. What is compressed alone, large or no text stays alone. It is
    /// `run` itself where nothing is joined.
    pub fn join(&mut self, run: &Rc<Run>, max: usize) -> Rc<Run> {
        if (0..run.len()).all(|index| run.joined_end(index, max) == index + 1) {
            return Rc::clone(run);
        }
        let mut joined = self.take(&run.channel, run.alias, run.format);
        if let Some(fresh) = Rc::get_mut(&mut joined) {
            (fresh.first_offset, fresh.taken_ns) = (run.first_offset, run.taken_ns);
            (fresh.made_ns, fresh.first_ns) = (run.made_ns, run.first_ns);
            fresh.hidden.extend_from_slice(&run.hidden);
            fresh.offsets.extend_from_slice(&run.offsets);
            let mut first = 0;
            while first < run.len() {
                let to = run.joined_end(first, max);
                self.push_joined((first, to), run, &mut fresh.bytes);
                let end = u32::try_from(fresh.bytes.len()).unwrap_or(u32::MAX);
                let frames = run.frames.get(first as usize..to as usize).unwrap_or_default();
                fresh.frames.extend(frames.iter().map(|frame| Frame { end, ..*frame }));
                first = to;
            }
            fresh.seal();
        }
        joined
    }

    /// Appends the frame of the events `from..to` of a run.
    fn push_joined(&mut self, (from, to): (u32, u32), run: &Run, out: &mut Vec<u8>) {
        if to - from == 1 {
            out.extend_from_slice(run.slice(from, to));
            return;
        }
        self.text.clear();
        for text in (from..to).filter_map(|index| run.text(index)) {
            if !self.text.is_empty() {
                self.text.push(b'\n');
            }
            self.text.extend_from_slice(text);
        }
        self.encoder.push_text(run.format, &self.text, out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::outbox::tests::event;
    use crate::core::run::RunLimit;
    use crate::proto::encoder::Encoder;
    use crate::proto::event::Event;
    use crate::proto::format::{Compression, Format};

    const ANY: RunLimit = RunLimit { bytes: usize::MAX, frames: usize::MAX };
    const MAX: usize = 1_000;

    fn run(press: &mut Press, format: Format, events: &[Arc<Event>]) -> Rc<Run> {
        let mut run = press.begin_in(format, &events[0], 7);
        assert!(events[1..].iter().all(|event| press.append(&mut run, event, ANY)));
        press.seal(&mut run);
        run
    }

    /// The text of an event's plain frame.
    fn text(event: &Event) -> Vec<u8> {
        let frame = event.frame(Format::Json, &mut Encoder::default());
        frame[frame::unmasked_head_len(frame)..].to_vec()
    }

    #[test]
    fn neighbours_share_a_frame_as_far_as_it_goes() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let count = rng.u64(1..30);
            let size = |rng: &mut fastrand::Rng| [9, 300, 930, 2_000][rng.usize(0..4)];
            let events: Vec<_> =
                (5..5 + count).map(|offset| event(1, offset, size(&mut rng))).collect();
            let mut press = Press::default();
            let plain = run(&mut press, Format::Json, &events);
            let joined = press.join(&plain, MAX);
            assert_eq!((joined.len(), joined.offset(0), joined.made_ns()), (plain.len(), 5, 7));
            let (mut from, mut texts, mut frames) = (0, Vec::new(), 0);
            while from < joined.len() {
                let to = joined.frame_end(from);
                let bytes = joined.slice(from, to);
                assert_eq!(bytes, joined.slice(from, from + 1), "all are of the first");
                let body = &bytes[frame::unmasked_head_len(bytes)..];
                assert!(body.len() <= MAX || to == from + 1, "seed {seed}");
                let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
                let next = events.get(to as usize).map_or(MAX, |event| text(event).len());
                assert!(body.len() + 1 + next > MAX, "seed {seed}: there was room for another");
                texts.extend(lines);
                for within in from + 1..to {
                    assert_eq!(joined.frame_from(within), to);
                    assert_eq!(joined.frame_upto(within), from);
                }
                assert_eq!((joined.frame_from(from), joined.frame_upto(to)), (from, to));
                (from, frames) = (to, frames + 1);
            }
            assert_eq!(texts, events.iter().map(|event| text(event)).collect::<Vec<_>>());
            assert_eq!(Rc::ptr_eq(&joined, &plain), frames == count, "seed {seed}");
            assert_eq!(joined.size(0, joined.len()), joined.bytes.len());
        }
    }

    #[test]
    fn a_frame_may_have_all_that_it_may() {
        let events = [event(1, 1, 9), event(1, 2, 9)];
        let bytes = text(&events[0]).len() + 1 + text(&events[1]).len();
        let mut press = Press::default();
        let plain = run(&mut press, Format::Json, &events);
        assert_eq!(press.join(&plain, bytes).frame_end(0), 2);
        assert!(Rc::ptr_eq(&press.join(&plain, bytes - 1), &plain));
    }

    #[test]
    fn what_is_compressed_alone_stays_alone_and_the_others_are_compressed_together() {
        let compression = Compression { threshold: 400, ..Compression::default() };
        let sizes = [9, 9, 9, 900, 9, 9, 9, 9, 9, 9, 9, 9];
        let events: Vec<_> = (1..).zip(sizes).map(|(at, size)| event(1, at, size)).collect();
        let mut press = Press::new(compression);
        let source = run(&mut press, Format::JsonDeflate, &events);
        assert_eq!(press.encoder().take_made().encodings[Format::JsonDeflate.index()], 1);
        let joined = press.join(&source, MAX);
        let ends = [0, 3, 4].map(|from| joined.frame_end(from));
        assert_eq!(ends, [3, 4, 12]);
        // RSV1 is on what is compressed.
        let firsts = [0, 3, 4].map(|from| joined.slice(from, from + 1)[0]);
        assert_eq!(firsts, [0x81, 0xC1, 0xC1]);
        let made = press.encoder().take_made();
        assert_eq!(made.encodings, [0; 7], "no event is encoded again");
        assert!(made.compressed > 0 && made.compressed < made.plain / 2);
        assert!(joined.slice(4, 5).len() < source.slice(4, 12).len() / 2);
    }
}
