//! How an outbox is written: the bytes that come next, and what is taken off when they went.

use std::io::IoSlice;

use super::item::{Item, Slice};
use super::signals::Signals;
use super::{Delivered, Outbox, SLICES_MAX};

impl Outbox {
    /// Encodes the notices that the next write reaches as they are true at `now_ns`, but one that
    /// is half written.
    fn write_notices(&mut self, now_ns: impl Fn() -> u64) {
        let begun = usize::from(self.cut > 0);
        let mut now = None;
        let items = self.data.iter_mut().filter(|item| !matches!(item, Item::Gone));
        for item in items.take(SLICES_MAX).skip(begun) {
            if let Item::Gap(gap) = item {
                gap.tell(*now.get_or_insert_with(&now_ns));
            }
        }
    }

    /// All that waits, where that is one slice that no byte was written of: the usual case. Not a
    /// large event.
    #[inline]
    pub fn sole(&self) -> Option<&[u8]> {
        self.sole_slice().and_then(|slice| slice.run.piece(slice.from, slice.to))
    }

    #[inline]
    fn sole_slice(&self) -> Option<&Slice> {
        match self.data.front() {
            Some(Item::Slice(slice))
                if self.data.len() == 1
                    && self.control.is_empty()
                    && self.cut == 0
                    && !self.has_signals() =>
            {
                Some(slice)
            }
            Some(_) | None => None,
        }
    }

    /// The bytes to write next, in order, as at most [`SLICES_MAX`] slices. Returns how many.
    pub fn gather<'a>(
        &'a mut self,
        now_ns: impl Fn() -> u64,
        slices: &mut [IoSlice<'a>; SLICES_MAX],
    ) -> usize {
        self.write_notices(now_ns);
        let mut count = 0;
        let mut add = |bytes: &'a [u8]| {
            if !bytes.is_empty()
                && let Some(slot) = slices.get_mut(count)
            {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
            count < SLICES_MAX
        };
        let mut items = self.data.iter();
        let mut control = self.control.get(self.control_from as usize..).unwrap_or_default();
        let signals = self.aside.as_deref().map(|aside| &aside.signals);
        let waiting = || signals.into_iter().flat_map(Signals::waiting);
        if let Some(begun) = signals.and_then(Signals::begun) {
            add(begun);
        }
        if self.cut > 0
            && let Some(front) = items.next()
        {
            // The frame on its way, then the other lanes, then what follows that frame. Between
            // the fragments of a large event only some of the lane may pass.
            let (end, last) = front.boundary(self.cut);
            if let Some(large) = front.large() {
                large.slices(self.cut, end).into_iter().all(&mut add);
                if end < last {
                    let (passing, rest) = control.split_at(self.passing());
                    control = rest;
                    add(passing);
                    large.slices(end, last).into_iter().all(&mut add);
                }
            }
            let (first, rest) = front.split();
            add(first.get(self.cut..).unwrap_or_default());
            add(control);
            waiting().all(&mut add);
            add(rest);
        } else {
            add(control);
            waiting().all(&mut add);
        }
        for item in items {
            let more = match item.large() {
                Some(large) => large.slices(0, large.len()).into_iter().all(&mut add),
                None => !matches!(item, Item::Lag(_) | Item::Recall(_)) && add(item.as_bytes()),
            };
            if !more {
                break;
            }
        }
        count
    }

    /// Takes `written` bytes off the front, in the order of [`Outbox::gather`].
    pub fn advance(&mut self, written: usize, sink: &mut impl Delivered) {
        if written == self.bytes && self.sole_slice().is_some() {
            return self.advance_sole(sink);
        }
        self.advance_many(written, sink);
    }

    // Apart, so that the usual case does not save the registers that this needs.
    #[inline(never)]
    fn advance_many(&mut self, mut written: usize, sink: &mut impl Delivered) {
        written -= self.advance_begun(written);
        if self.cut > 0 {
            let (end, last) = self.data.front().map_or((0, 0), |front| front.boundary(self.cut));
            let step = written.min(end - self.cut);
            written -= step;
            self.advance_front(step, sink);
            if end < last && self.cut == end {
                let step = written.min(self.passing());
                written -= step;
                self.advance_control(step);
                let step = written.min(last - end);
                written -= step;
                self.advance_front(step, sink);
            }
        }
        if self.cut == 0 || self.data.is_empty() {
            let step = written.min(self.control_bytes());
            written -= step;
            self.advance_control(step);
            written -= self.advance_signals(written);
        }
        while written > 0 && !self.data.is_empty() {
            let left = self.data.front().map_or(0, Item::len) - self.cut;
            let step = written.min(left);
            written -= step;
            self.advance_front(step, sink);
        }
        if self.data.is_empty() {
            self.forget_tally();
        }
        self.check();
    }

    /// Takes off the slice that is all that waits.
    fn advance_sole(&mut self, sink: &mut impl Delivered) {
        if let Some(Item::Slice(slice)) = self.data.pop_front() {
            sink.delivered(&slice.run, slice.to - slice.from);
        }
        (self.bytes, self.events) = (0, 0);
        // Most have none: to look is less than to drop what is not there.
        if self.aside.is_some() {
            self.forget_tally();
        }
        self.check();
    }

    /// Takes `step` bytes, at most what is left of it, off the front item.
    fn advance_front(&mut self, step: usize, sink: &mut impl Delivered) {
        let Some(front) = self.data.front_mut() else { return };
        let done = match front {
            Item::Slice(slice) => {
                self.bytes -= step;
                let at = slice.run.start(slice.from) + self.cut + step;
                let frame = slice.run.frame_at(at).min(slice.to);
                let frames = frame - slice.from;
                self.events -= frames as usize;
                self.cut = at - slice.run.start(frame);
                if frames > 0 {
                    sink.delivered(&slice.run, frames);
                }
                slice.from = frame;
                slice.from == slice.to
            }
            Item::Frame(frame) => {
                self.cut += step;
                let done = self.cut == frame.len();
                if done && frame.offset.is_some() {
                    sink.shown(frame);
                }
                done
            }
            Item::Past(slice) => {
                let at = slice.run.start(slice.from) + self.cut + step;
                let frame = slice.run.frame_at(at).min(slice.to);
                self.cut = at - slice.run.start(frame);
                if frame > slice.from {
                    sink.recovered(&slice.run, frame - slice.from);
                }
                slice.from = frame;
                let done = slice.from == slice.to;
                self.recalls -= u32::from(done);
                done
            }
            Item::Gap(_) | Item::Gone | Item::Lag(_) | Item::Last(_) | Item::Recall(_) => {
                self.cut += step;
                self.cut == front.as_bytes().len()
            }
        };
        if done {
            self.cut = 0;
            self.pop_front();
        }
    }
}
