//! Tests of the bound of all tables of newest events, and of flushes that come early for one.

use super::*;
use crate::core::outbox::tests::keyed_event;

fn rated(keys_max: usize) -> Join {
    Join { max_rate: Rate::new(0.1), keys_max, ..after(Policy::DropOldest, 0) }
}

#[test]
fn beyond_the_bound_of_all_tables_the_oldest_go_and_who_is_owed_them_gets_them() {
    let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
    let id = seat(&mut hub, 1);
    for alias in 1..=3 {
        hub.subscribe(id, (&channel(alias), Alias(alias)), rated(100));
    }
    hub.bound_tables(4_000);
    let mut got = Vec::new();
    for n in 1..=40 {
        for alias in 1..=3 {
            let event = keyed_event(alias, n, Some(&format!("k{n}")));
            assert!(hub.load(&event, 0));
            hub.fan_out(&mut Kernel::default(), 1_000, &mut Outcome::default());
            got.extend(received(&mut hub, id));
            assert!(hub.latest_bytes() <= 4_000, "{}", hub.latest_bytes());
        }
    }
    assert!(hub.latest_bytes() > 1_000);
    hub.fan_out(&mut Kernel::default(), 20_000, &mut Outcome::default());
    got.extend(received(&mut hub, id));
    for alias in 1..=3 {
        let mine = got.iter().filter(|got| matches!(got, Got::Event(of, _) if *of == alias));
        let expected: Vec<_> = (1..=40).map(|n| Got::Event(alias, n)).collect();
        assert_eq!(mine.cloned().collect::<Vec<_>>(), expected, "nothing is lost");
    }
    hub.close(id, |_, _| {});
    assert_eq!(hub.latest_bytes(), 0);
}

#[test]
fn few_keys_do_not_end_the_batches_of_others() {
    let mut hub = Hub::new(OutboxLimit { events: 1_000, ..LIMIT });
    let id = seat(&mut hub, 1);
    hub.subscribe(id, (&channel(1), Alias(1)), rated(2));
    let other = seat(&mut hub, 2);
    hub.subscribe(other, (&channel(2), Alias(2)), after(Policy::DropOldest, 0));
    let (mut kernel, mut outcome) = (Kernel::default(), Outcome::default());
    for (n, key) in (1..=30).zip(["a", "b", "c"].into_iter().cycle()) {
        assert!(hub.load(&event(2, n, 9), 0), "its run goes on");
        let event = keyed_event(1, n, Some(key));
        if !hub.load(&event, 0) {
            assert_eq!(hub.flush_early(&event, &mut kernel, 1_000, &mut outcome), Some(1));
            assert!(hub.load(&event, 0));
        }
    }
    hub.fan_out(&mut kernel, 1_000, &mut outcome);
    hub.fan_out(&mut kernel, 20_000, &mut outcome);
    assert_eq!(outcome.conflated, 0);
    assert_eq!(received(&mut hub, id), (1..=30).map(|n| Got::Event(1, n)).collect::<Vec<_>>());
    assert_eq!(received(&mut hub, other).len(), 30);
}

/// Goal: what events keep in memory counts, in whichever form somebody gets them.
#[test]
fn the_frames_of_every_form_count() {
    let compression = Compression { threshold: 1, ..Compression::default() };
    let bytes = |rate: Option<Rate>, formats: &[Format]| {
        let mut hub = Hub::compressing(LIMIT, compression);
        let event = keyed_event(1, 1, Some(&"k".repeat(300)));
        for (format, client) in formats.iter().zip(1..) {
            let id =
                hub.open_in(*format, Arc::new(Author { client: ClientId(client), user: None }), 0);
            let join = Join { max_rate: rate, ..after(Policy::Latest, 0) };
            hub.subscribe(id, (&channel(1), Alias(1)), join);
        }
        assert!(hub.load(&event, 0));
        hub.fan_out(&mut Kernel::default(), 1_000, &mut Outcome::default());
        (hub.latest_bytes(), event.frames.made_bytes() as u64)
    };
    for rate in [None, Rate::new(1.0)] {
        let (plain, none) = bytes(rate, &[Format::Json]);
        let (all, frames) = bytes(rate, &Format::ALL);
        assert_eq!(none, 0);
        assert!(frames > 500 && all == plain + frames, "{all} of {plain} and {frames}");
    }
}
