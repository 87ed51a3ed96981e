//! What the tests of `max_rate` share, by name and by pattern: events of keys, and how often a seat
//! is brought some.

use super::*;

/// Loads one event for each key, from that offset on, as `make` makes them, and hands them around.
pub(super) fn feed_as(
    hub: &mut Hub,
    (first, keys): (u64, &str),
    now_ms: u64,
    make: impl Fn(u64, Option<&str>) -> Arc<Event>,
) -> Outcome {
    let mut outcome = Outcome::default();
    for (key, offset) in keys.chars().zip(first..) {
        let key = (key != '-').then(|| key.to_string());
        let event = make(offset, key.as_deref());
        if !hub.load(&event, 0) {
            hub.fan_out(&mut Kernel::default(), now_ms, &mut outcome);
            assert!(hub.load(&event, 0), "an empty run takes any event");
        }
    }
    hub.fan_out(&mut Kernel::default(), now_ms, &mut outcome);
    outcome
}

pub(super) fn offsets(offsets: &[u64]) -> Vec<Got> {
    offsets.iter().map(|offset| Got::Event(1, *offset)).collect()
}

/// A member of that rate, as `enter` makes it, is brought up to date as often as it may and no more,
/// where there is something new every other millisecond.
pub(super) fn is_flushed_each(
    hz: f64,
    interval: u64,
    enter: impl Fn(&mut Hub) -> SeatId,
    feed: impl Fn(&mut Hub, u64, &str, u64) -> Outcome,
) {
    let mut hub = Hub::new(LIMIT);
    let id = enter(&mut hub);
    let mut flushes = Vec::new();
    // The timer is a millisecond late, always.
    for now_ms in (0..interval * 20).step_by(2) {
        feed(&mut hub, now_ms + 1, "a", now_ms);
        if !received(&mut hub, id).is_empty() {
            flushes.push(now_ms);
        }
    }
    assert_eq!(flushes.len(), 20, "{hz}: {flushes:?}");
    let mut gaps = flushes.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.all(|gap| gap.abs_diff(interval) < 2), "{hz}: {flushes:?}");
}
