//! What a subscription's account says about what a server may do.

use super::*;

fn seat_at(offset: u64) -> Seat {
    let mut seat = Seat::default();
    seat.subscribed(at(offset));
    seat
}

fn at(offset: u64) -> Place {
    Place { epoch: 1, offset, recovered: None }
}

fn back(offset: u64, epoch: u32, recovered: bool) -> Place {
    Place { epoch, offset, recovered: Some(recovered) }
}

#[test]
fn in_order_exactly_once_is_no_violation() {
    let mut seat = seat_at(57);
    assert_eq!([58, 59, 60].map(|offset| seat.event(offset)), [None; 3]);
    assert_eq!(seat.finish(60), None);
}

#[test]
fn what_is_told_is_no_violation() {
    let mut seat = seat_at(0);
    assert_eq!(seat.event(1), None);
    assert_eq!(seat.lagged(2, 5), None);
    assert_eq!(seat.snapshot(4), None, "the latest value of what was lost");
    assert_eq!(seat.event(6), None);
    assert_eq!(seat.lagged(7, 9), None);
    assert_eq!(seat.finish(9), None);
}

#[test]
fn an_account_ends_when_the_subscription_is_left_and_goes_on_when_it_is_recovered() {
    let mut seat = seat_at(0);
    assert_eq!(seat.event(1), None);
    seat.leaving();
    assert_eq!((seat.event(2), seat.finish(9)), (None, None), "until it is answered");
    seat.left();
    assert_eq!((seat.stands(), seat.position()), (Stands::Off, Some((1, 2))));
    assert_eq!(seat.event(3), Some((Kind::NotSubscribed, 3, 3)));
    seat.asks();
    assert_eq!(seat.subscribed(back(9, 1, true)), None);
    assert_eq!(seat.event(5), Some((Kind::Skipped, 3, 4)), "recovered, but with a hole");
    seat.left();
    assert_eq!(seat.subscribed(back(8, 2, false)), None);
    assert_eq!((seat.event(9), seat.finish(9)), (None, None), "a new account");
    assert_eq!(Seat::default().position(), None);
}

#[test]
fn a_second_subscribed_hides_no_hole() {
    let mut seat = seat_at(0);
    assert_eq!(seat.event(1), None);
    assert_eq!(seat.subscribed(at(4)), Some((Kind::Skipped, 2, 4)));
    assert_eq!((seat.subscribed(at(4)), seat.event(5)), (None, None), "nothing between");
    assert_eq!(seat.subscribed(back(90, 2, false)), None, "another epoch counts anew");
    seat.left();
    assert_eq!(seat.subscribed(back(99, 2, false)), None, "nothing was owed");
}

#[test]
fn recovered_is_true_only_from_where_it_was_left() {
    for (place, broken) in [
        (back(5, 1, true), None),
        (back(3, 1, true), None),
        (back(5, 2, true), Some((Kind::Recovered, 5, 5))),
        (back(2, 1, true), Some((Kind::RolledBack, 3, 3))),
        (back(5, 1, false), None),
        (back(0, 2, false), None),
        (at(5), Some((Kind::SinceIgnored, 4, 5))),
    ] {
        let mut seat = seat_at(3);
        seat.left();
        seat.asks();
        assert_eq!(seat.subscribed(place), broken, "{place:?}");
    }
    assert_eq!(Seat::default().subscribed(back(1, 1, true)), Some((Kind::Recovered, 1, 1)));
    let mut living = seat_at(3);
    assert_eq!(living.subscribed(back(3, 1, true)), Some((Kind::Recovered, 3, 3)), "unasked");
}

#[test]
fn a_channel_never_goes_back_in_its_epoch() {
    for leaves in [false, true] {
        let mut seat = seat_at(0);
        assert_eq!((1..=5).find_map(|offset| seat.event(offset)), None);
        if leaves {
            seat.left();
        }
        assert_eq!(seat.subscribed(at(2)), Some((Kind::RolledBack, 3, 5)));
        assert_eq!(seat.event(3), Some((Kind::Again, 3, 3)), "what came is not owed anew");
        assert_eq!(seat.event(6), None);
    }
}

#[test]
fn a_snapshot_needs_a_subscribe_or_a_loss() {
    let mut seat = seat_at(7);
    assert_eq!(seat.snapshot(7), None);
    seat.left();
    seat.asks();
    assert_eq!(seat.subscribed(back(9, 1, true)), None);
    assert_eq!(seat.snapshot(7), Some((Kind::SnapshotUnasked, 7, 7)), "recovered");
    assert_eq!((seat.lagged(8, 9), seat.snapshot(8)), (None, None));
}

#[test]
fn a_violation_names_what_is_known() {
    let violation = |connection, channel, kind| {
        Violation { connection, channel, kind, from: 1, to: 2 }.to_string()
    };
    assert_eq!(
        violation(Some(3), Some(4), Kind::Again),
        "connection 3, channel 4: offsets 1 to 2 came or were told twice"
    );
    assert_eq!(
        violation(None, Some(4), Kind::AcknowledgedTwice),
        "channel 4: offsets 1 to 2 were acknowledged twice"
    );
    let unknown = violation(Some(3), None, Kind::NotSubscribed);
    assert!(unknown.starts_with("connection 3, a channel of another name: "), "{unknown}");
}

#[test]
fn no_number_is_too_large() {
    let numbers = [0, 1, 7, u64::MAX - 1, u64::MAX];
    for nth in 0..numbers.len().pow(3) {
        let [a, b, c] = [1, 5, 25].map(|unit| numbers[nth / unit % 5]);
        let (mut seat, mut verdict) = (seat_at(a), Verdict::default());
        let broken = [
            seat.event(b),
            seat.lagged(b, c),
            seat.snapshot(c),
            seat.finish(c),
            seat.subscribed(at(c)),
            seat.event(a),
            seat.finish(b),
        ];
        broken.into_iter().flatten().for_each(|broken| verdict.add(Some(0), None, broken));
        let mut all = verdict.clone();
        all.merge(verdict);
    }
}

#[test]
fn every_way_to_break_the_promise_is_named() {
    let mut seat = seat_at(0);
    assert_eq!(seat.event(3), Some((Kind::Skipped, 1, 2)), "a hole");
    assert_eq!(seat.event(3), Some((Kind::Again, 3, 3)), "twice");
    assert_eq!(seat.event(2), Some((Kind::Again, 2, 2)), "out of order");
    assert_eq!(seat.lagged(3, 5), Some((Kind::Again, 3, 3)), "told although it came");
    assert_eq!(seat.event(6), None, "the told ones are not missed again");
    assert_eq!(seat.lagged(9, 9), Some((Kind::Skipped, 7, 8)), "told too little");
    assert_eq!(seat.snapshot(10), Some((Kind::SnapshotAhead, 10, 10)));
    assert_eq!(seat.finish(12), Some((Kind::Skipped, 10, 12)), "the end is missing");
    assert_eq!(seat.finish(7), Some((Kind::Unpublished, 8, 9)));
    let mut early = Seat::default();
    assert_eq!(early.event(1), Some((Kind::NotSubscribed, 1, 1)));
    assert_eq!(early.event(0), Some((Kind::NotSubscribed, 0, 0)));
}

#[test]
fn all_are_counted_and_the_first_are_listed() {
    let mut verdict = Verdict::default();
    for connection in 0..250 {
        verdict.add(Some(connection), Some(0), (Kind::Skipped, 1, 2));
    }
    let mut all = Verdict::default();
    all.merge(verdict.clone());
    all.merge(verdict);
    assert_eq!((all.violations, all.offsets_missing, all.listed.len()), (500, 1000, 100));
}

/// An account of a pattern's channel, with `made` events published before.
fn joined(seat: &mut Seat, made: u64) {
    seat.joined(1, made);
    assert_eq!(seat.stands(), Stands::On);
}

#[test]
fn by_pattern_an_account_begins_with_what_comes_first_and_owes_what_is_published_behind_it() {
    let mut fresh = Seat::default();
    joined(&mut fresh, 0);
    assert_eq!(fresh.event(2), Some((Kind::Skipped, 1, 1)), "nothing came before the pattern");
    for (first, broken) in
        [(1, None), (7, None), (10, None), (11, None), (12, Some((Kind::Skipped, 11, 11)))]
    {
        let mut seat = Seat::default();
        joined(&mut seat, 10);
        assert_eq!(seat.event(first), broken, "{first}");
        assert_eq!(seat.event(first + 1), None);
        assert_eq!(seat.event(first), Some((Kind::Again, first, first)));
        assert_eq!(seat.event(first + 4), Some((Kind::Skipped, first + 2, first + 3)));
    }
}

#[test]
fn by_pattern_nothing_that_came_before_comes_again() {
    let mut seat = Seat::default();
    joined(&mut seat, 0);
    assert_eq!((1..=6).find_map(|offset| seat.event(offset)), None);
    seat.left();
    joined(&mut seat, 10);
    assert_eq!(seat.event(6), Some((Kind::Again, 6, 6)));
    assert_eq!((seat.lagged(8, 9), seat.event(10)), (None, None), "a loss begins it as well");
    assert_eq!(seat.finish(10), None);
}

#[test]
fn by_pattern_a_silent_channel_owes_what_was_published_since() {
    let mut seat = Seat::default();
    joined(&mut seat, 10);
    assert_eq!(seat.finish(10), None, "all of it was before");
    assert_eq!(seat.finish(12), Some((Kind::Skipped, 11, 12)));
    // As when an event comes at its very end.
    assert_eq!((seat.event(11), seat.event(5)), (None, Some((Kind::Again, 5, 5))));
}
