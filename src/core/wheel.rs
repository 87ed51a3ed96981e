//! The one timer of a shard: a hashed wheel of coarse slots.

/// Length of a slot, in milliseconds.
pub const SLOT_MS: u64 = 100;

/// Slots: a turn takes 51.2 s; later deadlines go around again.
const SLOTS: usize = 512;

/// Deadlines with something to remember each, such as a connection. Nothing is cancelled: whoever
/// is told of a deadline that no longer matters ignores it.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// The first slot that has not expired, counted from the start of time.
    next: u64,
}

impl<T> Wheel<T> {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: now_ms / SLOT_MS }
    }

    /// Remembers `item` until `at_ms`; a time in the past expires at the next turn.
    pub fn insert(&mut self, at_ms: u64, item: T) {
        let slot = (at_ms / SLOT_MS).max(self.next);
        self.slot(slot).push((at_ms, item));
    }

    /// How many deadlines are remembered.
    pub fn len(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Vec::is_empty)
    }

    /// Hands out everything due before the slot of `now_ms`, each with the time it was remembered
    /// for: up to one slot late, never early.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<(u64, T)>) {
        let end = now_ms / SLOT_MS;
        // After a long stop, one turn visits every slot.
        let mut turns = (end.saturating_sub(self.next)).min(SLOTS as u64);
        while turns > 0 {
            let slot = end - turns;
            let mut kept = Vec::new();
            for (at_ms, item) in std::mem::take(self.slot(slot)) {
                if at_ms / SLOT_MS < end {
                    due.push((at_ms, item));
                } else {
                    kept.push((at_ms, item));
                }
            }
            *self.slot(slot) = kept;
            turns -= 1;
        }
        self.next = self.next.max(end);
    }

    fn slot(&mut self, slot: u64) -> &mut Vec<(u64, T)> {
        let index = usize::try_from(slot % SLOTS as u64).unwrap_or_default();
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_early_and_nothing_is_two_slots_late() {
        let mut wheel = Wheel::new(1_000);
        for at in [0, 1_000, 1_050, 1_999, 2_000, 60_000, 200_000] {
            wheel.insert(at, at);
        }
        let mut seen = Vec::new();
        let mut now = 1_000;
        while now < 300_000 {
            let mut due = Vec::new();
            wheel.expire(now, &mut due);
            for (at_ms, at) in due {
                assert_eq!(at_ms, at);
                assert!(at <= now, "{at} was early at {now}");
                assert!(now.saturating_sub(at.max(1_000)) < 2 * SLOT_MS, "{at} was late at {now}");
                seen.push(at);
            }
            now += 70;
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1_000, 1_050, 1_999, 2_000, 60_000, 200_000]);
    }

    #[test]
    fn a_long_stop_loses_nothing() {
        let mut wheel = Wheel::new(0);
        for at in 0..1_000 {
            wheel.insert(at * 97, at);
        }
        assert_eq!(wheel.len(), 1_000);
        let mut due = Vec::new();
        wheel.expire(10_000_000, &mut due);
        assert_eq!(due.len(), 1_000);
        assert!(wheel.is_empty());
    }
}
