//! How far a publisher without a plan may be ahead of its subscribers, and how long it waits for room.

use crate::clock::SECOND;

/// How long a publisher whose window is full waits for room. Each look takes the CPU from the server
/// or from a receiver where there are few, so it looks as seldom as does not hold the run up.
const PAUSE_MIN: u64 = SECOND / 10_000;
pub(super) const PAUSE_MAX: u64 = SECOND / 1_000;
/// In a narrower window every event that may leave is waited for.
const WINDOW_WIDE: u64 = 64;

/// Where a window stands. Invariant: `forgiven` never exceeds what was sent.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) forgiven: u64,
    pub(super) taken: u64,
    pub(super) moved_at: u64,
    pause: u64,
    /// A pause has just ended.
    rested: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { pause: PAUSE_MIN, ..Self::default() }
    }

    /// How long to wait for room.
    pub(super) fn rest(&mut self) -> u64 {
        self.rested = true;
        self.pause
    }

    /// There is `room` for events in a window of `size`. Where that is little after a pause, the next
    /// one may be longer; where it is much, subscribers may soon have nothing to take.
    pub(super) fn adapt(&mut self, room: u64, size: u64) {
        if !std::mem::take(&mut self.rested) || size < WINDOW_WIDE {
            return;
        }
        let pause = if room > size / 8 { self.pause / 2 } else { self.pause * 5 / 4 };
        self.pause = pause.clamp(PAUSE_MIN, PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_window_is_looked_at_seldom_and_never_runs_dry() {
        let mut window = Window::new();
        let mut after = |room, size| {
            assert!(window.rest() >= PAUSE_MIN);
            window.adapt(room, size);
            // Without a pause before it, a look says nothing about pauses.
            window.adapt(0, size);
            window.pause
        };
        assert_eq!(after(1, 1), PAUSE_MIN, "one event is waited for as closely as can be");
        assert_eq!(after(0, 63), PAUSE_MIN);
        assert_eq!(after(8, 64), PAUSE_MIN * 5 / 4);
        for _ in 0..20 {
            after(0, 512);
        }
        assert_eq!(after(64, 512), PAUSE_MAX);
        assert_eq!(after(65, 512), PAUSE_MAX / 2);
    }
}
