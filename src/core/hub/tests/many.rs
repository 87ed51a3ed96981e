//! Tests of seats that have many channels and patterns: what is looked up is what a walk along all of
//! them finds, and what is remembered of them is on the account. What it costs is a budget of
//! benches/check: `close-shared`, `patterns-many`.

use super::pattern::{begin_pattern, end_pattern, flood, join_pattern, name};
use super::*;
use crate::proto::rate::Rate;

#[test]
fn the_patterns_of_a_channel_are_those_that_it_begins_with() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(LIMIT);
        let ids = [1, 2].map(|client| seat(&mut hub, client));
        let some = |rng: &mut fastrand::Rng, most| -> String {
            (0..rng.usize(1..most)).map(|_| ["a:", "b/", "bb:"][rng.usize(0..3)]).collect()
        };
        let mut model = BTreeSet::new();
        for _ in 0..40 {
            let (id, prefix) = (ids[rng.usize(0..2)], some(&mut rng, 5));
            if model.remove(&(id, prefix.clone())) {
                assert!(end_pattern(&mut hub, id, &prefix).is_some());
            } else {
                join_pattern(&mut hub, id, &prefix, Policy::DropOldest);
                model.insert((id, prefix));
            }
            let (id, prefix) = (ids[rng.usize(0..2)], some(&mut rng, 6));
            let channel = format!("{prefix}x");
            let theirs = || model.iter().filter(|(other, _)| *other == id).map(|(_, one)| one);
            let wanted: BTreeSet<_> = theirs().filter(|one| channel.starts_with(&***one)).collect();
            let found =
                hub.patterns.of(id, &channel).map(|(_, pattern)| pattern.prefix.to_string());
            assert_eq!(found.collect::<BTreeSet<_>>().iter().collect::<BTreeSet<_>>(), wanted);
            assert_eq!(hub.has_by_pattern(id, &channel), !wanted.is_empty(), "seed {seed}");
            let shorter = theirs().filter(|one| prefix.starts_with(&***one) && **one != prefix);
            let found = hub.patterns.shorter(id, &prefix);
            let found = found.map(|sub| hub.patterns.all[sub.pattern as usize].prefix.to_string());
            assert_eq!(found.as_ref(), shorter.max_by_key(|one| one.len()), "seed {seed}");
            let own = theirs().any(|one| *one == prefix);
            assert_eq!(hub.has_pattern(id, &prefix), own, "seed {seed}");
        }
    }
}

#[test]
fn what_a_seat_had_before_it_is_shown_a_pattern_is_on_the_account() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    for alias in 100..1_100 {
        hub.subscribe(id, (&name(alias), Alias(alias)), after(Policy::DropOldest, 0));
    }
    for nth in 0..100 {
        join_pattern(&mut hub, id, &format!("c:us/{nth}/"), Policy::DropOldest);
    }
    let before = hub.memory();
    begin_pattern(&mut hub, id, "c:", after(Policy::DropOldest, 0));
    hub.browse(id, "c:");
    let more = hub.memory() - before;
    let least = 1_000 * size_of::<Alias>() + 100 * "c:us/9/".len();
    assert!(more > least, "{more} of {least} bytes");
    end_pattern(&mut hub, id, "c:");
    hub.weigh(id);
    assert_eq!(hub.memory(), before);
}

/// What a seat takes for itself, as it is on the account.
fn own_bytes(hub: &mut Hub, id: SeatId) -> usize {
    hub.weigh(id);
    hub.seat(id).unwrap().outbox.own_bytes()
}

#[test]
fn what_a_seat_has_had_and_others_are_owed_is_on_the_account() {
    let mut hub = Hub::new(LIMIT);
    let (id, other) = (seat(&mut hub, 1), seat(&mut hub, 2));
    let join = Join { max_rate: Rate::new(1.0), ..after(Policy::DropOldest, 0) };
    for id in [id, other] {
        begin_pattern(&mut hub, id, "c:", join);
    }
    for alias in 100..150 {
        hub.subscribe(id, (&name(alias), Alias(alias)), after(Policy::DropOldest, 0));
        // The first is nobody's debt for long, the second is for a second.
        flood(&mut hub, alias, 1..2);
        flood(&mut hub, alias, 2..3);
        assert_eq!(end(&mut hub, id, alias), Some(true));
        received(&mut hub, id);
        received(&mut hub, other);
    }
    let had = hub.patterns.lag_bytes(id);
    assert!(had >= 50 * size_of::<(Alias, u64)>(), "{had}");
    // Beside what the two have for themselves: that alone may be as much.
    let own: usize = [id, other].map(|id| own_bytes(&mut hub, id)).iter().sum();
    assert!(hub.memory() >= had + own, "{} of {had} and {own} bytes", hub.memory());
    hub.fan_out(&mut Kernel::default(), 10_000, &mut Outcome::default());
    assert_eq!((received(&mut hub, id).len(), received(&mut hub, other).len()), (0, 50));
    hub.weigh(other);
    hub.still_full(None);
    hub.still_full(None);
    assert_eq!(hub.memory(), 0);
}
