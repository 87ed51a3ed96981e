//! Tests of slow readers at the edges: what is larger than the queue, what lags for long, and what
//! ends while it lags.

use super::*;
use crate::core::outbox::tests::keyed_event;

/// Everything that a seat is sent until nothing waits, as its client reads it.
fn all(hub: &mut Hub, id: SeatId) -> Vec<Got> {
    let mut got = Vec::new();
    loop {
        got.extend(received(hub, id));
        if !hub.refill(id, || 0) {
            return got;
        }
    }
}

/// An event that no queue can hold is told of, whatever the policy, also where the socket is free;
/// under `latest` it is shown, and nothing of it is ever queued.
#[test]
fn an_event_larger_than_the_queue_is_told_of_or_shown() {
    let limit = OutboxLimit { bytes: 1_000, events: 100 };
    for policy in Policy::ALL {
        for waits in [false, true] {
            let mut hub = Hub::new(limit);
            let id = seat(&mut hub, 1);
            join(&mut hub, id, 1, policy);
            let mut kernel = Kernel { takes: true, ..Kernel::default() };
            if waits {
                publish(&mut hub, &[event(1, 1, 9)], &mut Kernel::default());
            } else {
                publish(&mut hub, &[event(1, 1, 9)], &mut kernel);
            }
            let outcome = publish(&mut hub, &[event(1, 2, 2_000)], &mut kernel);
            assert_eq!(outcome.dropped[policy as usize], 1, "{policy:?}");
            let outcome = publish(&mut hub, &[event(1, 3, 9)], &mut kernel);
            kernel.got.extend(all(&mut hub, id));
            let got = |offset| Got::Event(1, offset);
            let (hole, shown) = (Got::Lagged(1, 2, 2, 1), Got::Shown(1, 2));
            let expected = match policy {
                Policy::Disconnect => vec![got(1)],
                Policy::DropNewest | Policy::DropOldest => vec![got(1), hole, got(3)],
                // Of a channel without keys it shows the newest.
                Policy::Latest => vec![got(1), Got::Lagged(1, 2, 3, 2), Got::Shown(1, 3)],
            };
            assert_eq!(kernel.got, expected, "{policy:?}, waits: {waits}");
            assert_eq!(outcome.overflowed.len(), 0, "named once");
            assert_eq!(hub.queues().slow, [0, 0, 0], "its queue is empty");
            if policy == Policy::Latest {
                publish(&mut hub, &[event(1, 4, 2_000)], &mut kernel);
                let shown_4 = [Got::Lagged(1, 4, 4, 1), Got::Shown(1, 4)];
                assert_eq!(all(&mut hub, id), shown_4, "not {shown:?}");
            }
        }
    }
}

/// A subscription that lags is not full: its queue has nothing, and costs nothing. It may stay so
/// for as long as its connection answers pings.
#[test]
fn one_that_lags_is_never_closed_for_a_full_queue() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::Latest);
    hub.seat(id).unwrap().blocked = true;
    publish(&mut hub, &events(1, 1..30), &mut Kernel::default());
    assert_eq!(hub.queues().slow, [0, 1, 0]);
    assert_eq!(hub.still_full(Some(u64::MAX)), [0; 0], "for however long");
    // But where another channel fills the queue, it is full.
    join(&mut hub, id, 2, Policy::DropOldest);
    publish(&mut hub, &events(2, 1..30), &mut Kernel::default());
    assert_eq!(hub.queues().slow, [1, 0, 0]);
    assert_eq!(hub.still_full(Some(u64::MAX)), [id]);
}

/// What a drain does: the subscriptions end, what is queued is written, the close comes last.
#[test]
fn the_hole_of_one_that_lags_is_told_before_the_close_of_a_drain() {
    for policy in [Policy::DropNewest, Policy::DropOldest, Policy::Latest] {
        let mut hub = Hub::new(LIMIT);
        let id = seat(&mut hub, 1);
        for alias in [1, 2] {
            join(&mut hub, id, alias, policy);
        }
        hub.seat(id).unwrap().blocked = true;
        for alias in [1, 2] {
            publish(&mut hub, &events(alias, 1..30), &mut Kernel::default());
        }
        hub.leave_all(id, |_, _| {});
        let mut close = Vec::new();
        crate::proto::ws::frame::close(4001, "shutdown", &mut close);
        hub.seat(id).unwrap().outbox.push_last(close.into_boxed_slice());
        let got = all(&mut hub, id);
        assert_eq!(got.last(), Some(&Got::Last), "{policy:?}");
        for alias in [1, 2] {
            let mut told = Vec::new();
            for one in &got {
                match *one {
                    Got::Event(of, offset) if of == alias => told.push(offset),
                    Got::Lagged(of, from, to, _) if of == alias => told.extend(from..=to),
                    Got::Control(_)
                    | Got::Event(..)
                    | Got::Lagged(..)
                    | Got::Shown(..)
                    | Got::Last
                    | Got::Signal(..) => {}
                }
            }
            assert_eq!(told, (1..30).collect::<Vec<_>>(), "{policy:?}, each once: {got:?}");
        }
    }
}

/// A key whose older event was told and not yet shown gets a newer one: that lies in the next hole,
/// which begins where the first ended.
#[test]
fn a_key_that_is_overtaken_lies_in_one_hole_with_each_of_its_events() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::Latest);
    hub.seat(id).unwrap().blocked = true;
    let keyed = |from: u64| {
        (from..from + 10).map(move |n| keyed_event(1, n, Some(&format!("k{}", n % 5)))).collect()
    };
    let batch: Vec<_> = keyed(1);
    publish(&mut hub, &batch, &mut Kernel::default());
    // The first hole is told, and one of its keys shown, when the socket takes no more.
    assert!(hub.refill(id, || 0));
    let seat = hub.seat(id).unwrap();
    let mut reader = Reader::default();
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    seat.outbox.gather(|| 0, &mut slices);
    let wire: Vec<u8> = slices[..2].iter().flat_map(|slice| slice.to_vec()).collect();
    seat.outbox.advance(wire.len(), &mut Sink);
    seat.outbox.withdraw();
    assert_eq!(reader.feed(&wire), [Got::Lagged(1, 1, 10, 10), Got::Shown(1, 6)]);
    let batch: Vec<_> = keyed(11);
    publish(&mut hub, &batch, &mut Kernel::default());
    let mut expected = vec![Got::Lagged(1, 11, 20, 10)];
    expected.extend((16..=20).map(|offset| Got::Shown(1, offset)));
    assert_eq!(all(&mut hub, id), expected, "7 to 10 are not shown: newer ones are");
}

/// An event counts as delivered, and its age is taken, with its last byte.
#[test]
fn an_event_is_delivered_with_its_last_byte() {
    struct Ages(Vec<u32>);

    impl Delivered for Ages {
        fn delivered(&mut self, _: &Run, frames: u32) {
            self.0.push(frames);
        }

        fn shown(&mut self, _: &Frame) {}
    }

    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::DropOldest);
    publish(&mut hub, &events(1, 1..4), &mut Kernel::default());
    let outbox = &mut hub.seat(id).unwrap().outbox;
    let frame = outbox.data_bytes() / 3;
    let mut ages = Ages(Vec::new());
    for (written, delivered) in [(frame - 1, 0), (1, 1), (1, 1), (2 * frame - 2, 2), (1, 3)] {
        outbox.advance(written, &mut ages);
        assert_eq!(ages.0.iter().sum::<u32>(), delivered);
    }
    assert!(outbox.is_empty());
}
