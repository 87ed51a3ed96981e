//! A kernel that takes everything: what the shard's flush does, but for the system call.

use std::hint::black_box;
use std::io::IoSlice;

use weir::core::hub::{Seat, SeatId, Writer};
use weir::core::latest::Frame;
use weir::core::outbox::{Delivered, SLICES_MAX};
use weir::core::run::Run;

/// Takes everything, and counts it.
#[derive(Default)]
pub(crate) struct Kernel {
    pub(crate) events: u64,
}

impl Kernel {
    /// Empties a seat's queue.
    pub(crate) fn flush(&mut self, seat: &mut Seat) {
        while !seat.outbox.is_idle() {
            let wanted = match seat.outbox.sole() {
                Some(bytes) => black_box(bytes).len(),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let used = seat.outbox.gather(|| 0, &mut slices);
                    slices.iter().take(used).map(|slice| black_box(slice).len()).sum()
                }
            };
            seat.outbox.advance(wanted, self);
        }
    }
}

impl Delivered for Kernel {
    fn delivered(&mut self, _: &Run, frames: u32) {
        self.events += u64::from(frames);
    }

    fn shown(&mut self, _: &Frame) {}
}

impl Writer for Kernel {
    fn write(&mut self, _: SeatId, seat: &mut Seat) {
        self.flush(seat);
    }
}
