//! Tests of patterns with a rate: each channel is flushed alone, who has it on which way, and what
//! was held back comes before that changes.

use super::pattern::{begin_pattern, end_pattern, name, on, shown};
use super::rated::{feed_as, is_flushed_each, offsets};
use super::*;
use crate::core::hub::implied::Due;

/// Events of a channel, one for each key, from that offset on.
fn feed_on(hub: &mut Hub, (alias, first): (u64, u64), keys: &str, now_ms: u64) -> Outcome {
    feed_as(hub, (first, keys), now_ms, |offset, key| on(alias, offset, key))
}

fn feed(hub: &mut Hub, first: u64, keys: &str, now_ms: u64) -> Outcome {
    feed_on(hub, (1, first), keys, now_ms)
}

fn tick(hub: &mut Hub, now_ms: u64) -> Outcome {
    feed(hub, 0, "", now_ms)
}

fn rated(hz: impl Into<Option<f64>>) -> Join {
    Join { max_rate: hz.into().and_then(Rate::new), ..after(Policy::DropOldest, 0) }
}

/// A seat with that pattern.
fn patterned(hub: &mut Hub, client: u64, prefix: &str, join: Join) -> SeatId {
    let id = seat(hub, client);
    begin_pattern(hub, id, prefix, join);
    id
}

fn by_name(hub: &mut Hub, id: SeatId, join: Join) {
    let outcome = hub.settle_channel((id, Alias(1)), &mut Kernel::default(), 0);
    assert!(outcome.overflowed.is_empty());
    hub.subscribe(id, (&name(1), Alias(1)), join);
}

/// Nothing is kept of a channel that nobody is owed anything of.
fn rests(hub: &mut Hub) {
    hub.still_full(None);
    hub.still_full(None);
    assert!(hub.topics.is_empty() && hub.next_due().is_none(), "{:?}", hub.topics.keys());
    assert_eq!(hub.latest_bytes(), 0);
    for (_, pattern) in &hub.patterns.all {
        assert!(
            pattern.rated.iter().all(|rated| rated.groups.is_empty() && rated.recent.is_empty())
        );
    }
    for mine in hub.patterns.seats.iter().flatten() {
        assert!(mine.had.is_empty() && mine.lags.is_empty());
    }
}

#[test]
fn each_channel_is_flushed_when_its_own_interval_is_over() {
    let mut hub = Hub::new(LIMIT);
    let id = patterned(&mut hub, 1, "c:", rated(10.0));
    let all = patterned(&mut hub, 2, "c:", rated(None));
    feed(&mut hub, 1, "a", 1_000);
    assert_eq!(received(&mut hub, id), offsets(&[1]), "the first comes at once");
    feed(&mut hub, 2, "aab", 1_010);
    feed_on(&mut hub, (2, 1), "x", 1_050);
    feed_on(&mut hub, (2, 2), "xxy", 1_060);
    assert_eq!(received(&mut hub, id), [Got::Event(2, 1)]);
    tick(&mut hub, 1_099);
    assert_eq!(received(&mut hub, id), []);
    let outcome = tick(&mut hub, 1_100);
    assert_eq!((received(&mut hub, id), outcome.conflated), (offsets(&[3, 4]), 1));
    assert_eq!(hub.next_due(), Some(1_150));
    tick(&mut hub, 1_150);
    assert_eq!(received(&mut hub, id), [Got::Event(2, 3), Got::Event(2, 4)]);
    let every = [1, 2, 3, 4].map(|offset| Got::Event(2, offset));
    assert_eq!(received(&mut hub, all), [&offsets(&[1, 2, 3, 4])[..], &every].concat());
    tick(&mut hub, 1_250);
    rests(&mut hub);
}

#[test]
fn a_channel_is_flushed_as_often_as_it_may_and_no_more() {
    for (hz, interval) in [(100.0, 10), (3.0, 334), (0.1, 10_000)] {
        is_flushed_each(hz, interval, |hub| patterned(hub, 1, "c:", rated(hz)), feed);
    }
}

#[test]
fn members_of_one_rate_share_a_run() {
    let mut hub = Hub::new(LIMIT);
    let ids = [(1, 1.0), (2, 1.0), (3, 100.0)];
    let ids = ids.map(|(client, hz)| patterned(&mut hub, client, "c:", rated(hz)));
    feed(&mut hub, 1, "a", 0);
    let queued = ids.map(|id| runs(&hub.seat(id).unwrap().outbox));
    assert!(Rc::ptr_eq(&queued[0][0], &queued[1][0]), "one layout for the group");
    assert!(!Rc::ptr_eq(&queued[0][0], &queued[2][0]));
    for id in ids {
        assert_eq!(received(&mut hub, id), offsets(&[1]));
    }
    feed(&mut hub, 2, "ab", 1);
    tick(&mut hub, 10);
    assert_eq!(ids.map(|id| received(&mut hub, id).len()), [0, 0, 2]);
    tick(&mut hub, 1_000);
    assert_eq!(ids.map(|id| received(&mut hub, id).len()), [2, 2, 0]);
    tick(&mut hub, 3_000);
    rests(&mut hub);
}

/// Each format is laid out, and binary, whose events name a channel by its alias alone, is JSON.
#[test]
fn each_member_gets_the_form_that_it_speaks_without_an_alias() {
    let mut hub = Hub::new(LIMIT);
    let author = |client| Arc::new(Author { client: ClientId(client), user: None });
    let ids = [Format::Json, Format::Bin].map(|format| {
        let id = hub.open_in(format, author(format.index() as u64), 0);
        begin_pattern(&mut hub, id, "c:", rated(1.0));
        id
    });
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "aa", 1);
    tick(&mut hub, 1_000);
    for id in ids {
        assert_eq!(received(&mut hub, id), offsets(&[1, 3]));
    }
}

#[test]
fn who_comes_in_between_gets_nothing_from_before() {
    let mut hub = Hub::new(LIMIT);
    let first = patterned(&mut hub, 1, "c:", rated(1.0));
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "ab", 1);
    // Two more events are in the mail.
    let late = Join { position: 2, ..rated(1.0) };
    let second = patterned(&mut hub, 2, "c:", late);
    feed(&mut hub, 4, "cd", 2);
    feed(&mut hub, 6, "de", 3);
    tick(&mut hub, 1_000);
    assert_eq!(received(&mut hub, first), offsets(&[1, 2, 3, 4, 6, 7]));
    assert_eq!(received(&mut hub, second), offsets(&[6, 7]));
    feed(&mut hub, 8, "aa", 1_001);
    tick(&mut hub, 2_000);
    assert_eq!(received(&mut hub, second), offsets(&[9]));
}

#[test]
fn a_new_rate_settles_what_the_old_one_has_held_back() {
    let rates = [None, Some(1.0), Some(10.0), Some(0.1)];
    for (from, to) in rates.iter().flat_map(|from| rates.map(|to| (*from, to))) {
        let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
        // Somebody else keeps every group alive, so that the times of the groups differ.
        for (client, hz) in (5..).zip(rates) {
            patterned(&mut hub, client, "c:", rated(hz));
        }
        let id = patterned(&mut hub, 1, "c:", rated(from));
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "aaab", 1);
        begin_pattern(&mut hub, id, "c:", rated(to));
        let held = if from.is_some() { vec![1, 4, 5] } else { vec![1, 2, 3, 4, 5] };
        let now = if from == to && from.is_some() { vec![1] } else { held };
        assert_eq!(received(&mut hub, id), offsets(&now), "{from:?} to {to:?}");
        feed(&mut hub, 6, "ba", 2);
        tick(&mut hub, 60_000);
        assert_eq!(received(&mut hub, id), offsets(&[6, 7]), "{from:?} to {to:?}");
        assert_eq!(hub.subscriptions(), 5);
    }
}

#[test]
fn the_longest_prefix_decides_how_often() {
    for (short, long) in [(Some(1.0), None), (None, Some(1.0)), (Some(1.0), Some(0.1))] {
        let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
        let other = patterned(&mut hub, 2, "c:eu/", rated(long));
        let id = patterned(&mut hub, 1, "c:", rated(short));
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "aab", 1);
        let had = if short.is_some() { vec![1] } else { vec![1, 2, 3, 4] };
        assert_eq!(received(&mut hub, id), offsets(&had), "{short:?}");
        begin_pattern(&mut hub, id, "c:eu/", rated(long));
        let held = if short.is_some() { vec![3, 4] } else { Vec::new() };
        assert_eq!(received(&mut hub, id), offsets(&held), "{short:?}: it comes first");
        feed(&mut hub, 5, "aac", 2);
        let every = if long.is_none() { vec![5, 6, 7] } else { Vec::new() };
        assert_eq!(received(&mut hub, id), offsets(&every), "{long:?}");
        assert_eq!(end_pattern(&mut hub, id, "c:eu/"), Some(false));
        let held = if long.is_some() { vec![6, 7] } else { Vec::new() };
        assert_eq!(received(&mut hub, id), offsets(&held), "{long:?}: it comes first");
        feed(&mut hub, 8, "cc", 3);
        tick(&mut hub, 30_000);
        let last = if short.is_some() { vec![9] } else { vec![8, 9] };
        assert_eq!(received(&mut hub, id), offsets(&last), "{short:?}: nothing twice");
        assert!(!received(&mut hub, other).is_empty());
        tick(&mut hub, 60_000);
        rests(&mut hub);
    }
}

#[test]
fn a_name_holds_before_a_pattern_with_a_rate() {
    for hz in [None, Some(0.1)] {
        let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
        let [id, other] = [1, 2].map(|client| patterned(&mut hub, client, "c:", rated(1.0)));
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "aab", 1);
        assert_eq!(received(&mut hub, id), offsets(&[1]));
        by_name(&mut hub, id, Join { position: 4, ..rated(hz) });
        assert_eq!(received(&mut hub, id), offsets(&[3, 4]), "{hz:?}: it comes first");
        // The first event of a group of its own is not held back.
        feed(&mut hub, 5, "aa", 2);
        feed(&mut hub, 7, "ac", 3);
        let now = if hz.is_some() { vec![6] } else { vec![5, 6, 7, 8] };
        assert_eq!(received(&mut hub, id), offsets(&now), "{hz:?}");
        assert_eq!(end(&mut hub, id, 1), Some(true));
        let held = if hz.is_some() { vec![7, 8] } else { Vec::new() };
        assert_eq!(received(&mut hub, id), offsets(&held), "{hz:?}: it comes first");
        // What the group of the pattern owes to others this one has had.
        tick(&mut hub, 1_000);
        assert_eq!(received(&mut hub, id), [], "{hz:?}");
        assert_eq!(received(&mut hub, other), offsets(&[1, 4, 7, 8]));
        feed(&mut hub, 9, "dd", 1_001);
        tick(&mut hub, 2_000);
        assert_eq!(received(&mut hub, id), offsets(&[10]), "{hz:?}");
        tick(&mut hub, 30_000);
        rests(&mut hub);
    }
}

/// A name begins at an offset that the shard's mail has not come to, also before the pattern does.
#[test]
fn what_is_on_its_way_to_a_pattern_is_for_the_name_that_comes() {
    for (mail, expected) in [(0, [1, 2, 3, 4]), (1, [2, 3, 4, 0])] {
        let mut hub = Hub::new(LIMIT);
        let id = patterned(&mut hub, 1, "c:", Join { position: mail, ..rated(1.0) });
        by_name(&mut hub, id, Join { position: 3, ..rated(None) });
        feed(&mut hub, 1, "abcd", 0);
        let expected: Vec<u64> = expected.into_iter().filter(|offset| *offset > 0).collect();
        assert_eq!(received(&mut hub, id), offsets(&expected), "{mail}");
        assert!(hub.patterns.late.is_empty());
    }
}

#[test]
fn a_key_that_would_be_forgotten_is_flushed_early() {
    let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
    let few = Join { keys_max: 3, ..rated(1.0) };
    let id = patterned(&mut hub, 1, "c:", few);
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "abc", 1);
    assert_eq!(received(&mut hub, id), offsets(&[1]), "the interval is not over");
    feed(&mut hub, 5, "d", 2);
    assert_eq!(received(&mut hub, id), offsets(&[2, 3, 4]), "a would have gone");
    feed(&mut hub, 6, "efghijkaabb", 3);
    tick(&mut hub, 5_000);
    let got = received(&mut hub, id);
    assert_eq!(got, offsets(&[5, 6, 7, 8, 9, 10, 11, 12, 14, 16]));
    // And where all tables together take too much.
    feed(&mut hub, 17, "a", 9_000);
    feed(&mut hub, 18, "abc", 9_001);
    hub.bound_tables(1);
    tick(&mut hub, 9_002);
    assert_eq!(received(&mut hub, id), offsets(&[17, 18, 19, 20]));
}

/// There may be any number of channels and rates: the times of so many are kept.
#[test]
fn beyond_a_number_of_groups_events_come_at_once() {
    let mut hub = Hub::new(LIMIT);
    let ids = [1, 2].map(|client| patterned(&mut hub, client, "c:", rated(client as f64)));
    let (mut most, mut got) = (0, 0);
    for alias in 10..110 {
        for offset in 1..4 {
            feed_on(&mut hub, (alias, offset), "a", 0);
            most = most.max(hub.patterns.dues.len());
        }
        got = ids.map(|id| received(&mut hub, id).len()).iter().sum();
        check(&hub);
    }
    assert_eq!((most, got), (64, 6), "the last channel was not throttled any more");
    tick(&mut hub, 5_000);
    let held: usize = ids.map(|id| received(&mut hub, id).len()).iter().sum();
    assert_eq!(held, 64, "the newest of each that was");
    tick(&mut hub, 9_000);
    rests(&mut hub);
}

#[test]
fn what_is_held_back_is_counted_and_given_at_once_to_who_is_sent_away() {
    let mut hub = Hub::new(LIMIT);
    let id = patterned(&mut hub, 1, "c:", rated(0.1));
    for alias in [1, 2] {
        feed_on(&mut hub, (alias, 1), "a", 1_000);
        feed_on(&mut hub, (alias, 2), "aab", 1_001);
    }
    assert_eq!((received(&mut hub, id).len(), hub.held_back(id)), (2, 4));
    let outcome = hub.settle_all(id, &mut Kernel::default(), 1_002);
    assert_eq!((outcome.conflated, hub.held_back(id)), (2, 0));
    let expected = [1, 2].map(|alias| [Got::Event(alias, 3), Got::Event(alias, 4)]).concat();
    assert_eq!(received(&mut hub, id), expected);
}

#[test]
fn all_ends_with_the_last_member() {
    for close in [false, true] {
        let mut hub = Hub::new(LIMIT);
        let ids = [1, 2].map(|client| patterned(&mut hub, client, "c:", rated(1.0)));
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "a", 1);
        assert_eq!(end_pattern(&mut hub, ids[0], "c:"), Some(false));
        assert_eq!((hub.next_due(), received(&mut hub, ids[0])), (Some(1_000), vec![]));
        if close {
            hub.close(ids[1], |_, last| assert!(last));
        } else {
            assert_eq!(end_pattern(&mut hub, ids[1], "c:"), Some(true));
        }
        assert_eq!((hub.next_due(), hub.subscriptions()), (None, 0));
        assert_eq!(tick(&mut hub, 5_000).conflated, 0);
        rests(&mut hub);
        assert!(hub.patterns.seats.is_empty());
        let again = patterned(&mut hub, 3, "c:", rated(1.0));
        feed(&mut hub, 3, "ab", 5_000);
        assert_eq!(received(&mut hub, again), offsets(&[3, 4]));
    }
}

#[test]
fn what_is_held_back_meets_the_policy_that_it_had() {
    let mut hub = Hub::new(OutboxLimit { events: 1, ..LIMIT });
    let strict = Join { policy: Policy::Disconnect, ..rated(0.1) };
    let id = patterned(&mut hub, 1, "c:", strict);
    feed(&mut hub, 1, "a", 1_000);
    assert_eq!(received(&mut hub, id), offsets(&[1]));
    feed(&mut hub, 2, "abc", 1_001);
    hub.seat(id).unwrap().blocked = true;
    assert_eq!(begin_pattern(&mut hub, id, "c:", rated(None)).overflowed, [id]);
}

#[test]
fn a_slow_one_under_latest_is_shown_the_newest_and_nothing_twice() {
    let mut hub = Hub::new(LIMIT);
    let id = patterned(&mut hub, 1, "c:", Join { policy: Policy::Latest, ..rated(1.0) });
    hub.seat(id).unwrap().blocked = true;
    let mut dropped = 0;
    for round in 0..5 {
        let outcome = feed(&mut hub, 8 * round + 1, "abcdabcd", 1_000 * round);
        dropped += outcome.dropped[Policy::Latest as usize];
    }
    assert_eq!(dropped, 20);
    // These two are not flushed when the hole is told, and lie in it.
    feed(&mut hub, 41, "ab", 4_500);
    let mut expected = vec![Got::Lagged(1, 5, 42, 20)];
    expected.extend([39, 40, 41, 42].map(|offset| Got::Shown(1, offset)));
    assert_eq!(shown(&mut hub, id), expected);
    tick(&mut hub, 5_000);
    assert_eq!(shown(&mut hub, id), []);
    feed(&mut hub, 43, "a", 6_000);
    assert_eq!(shown(&mut hub, id), offsets(&[43]), "live again");
    tick(&mut hub, 8_000);
    rests(&mut hub);
}

/// Many members and channels, and any order of things: the books name each other.
#[test]
fn the_books_are_right_whatever_rates_are_asked_for() {
    const PREFIXES: [&str; 3] = ["c:", "c:eu/", "c:us/"];
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(LIMIT);
        let ids: Vec<SeatId> = (0..6).map(|client| seat(&mut hub, client)).collect();
        let mut heads = [0; 4];
        for step in 0..300 {
            let id = ids[rng.usize(0..ids.len())];
            let prefix = PREFIXES[rng.usize(0..PREFIXES.len())];
            let alias = rng.usize(0..heads.len());
            match rng.u8(0..10) {
                0..3 => {
                    let hz = [None, Some(1.0), Some(50.0)][rng.usize(0..3)];
                    begin_pattern(&mut hub, id, prefix, rated(hz));
                }
                3 => {
                    end_pattern(&mut hub, id, prefix);
                }
                4 if rng.bool() => hub.leave_all(id, |_, _| {}),
                4 => drop(hub.still_full(None)),
                _ => {
                    let first = (alias as u64, heads[alias] + 1);
                    heads[alias] += 3;
                    feed_on(&mut hub, first, "abc", step * 100);
                }
            }
            check(&hub);
        }
        ids.into_iter().for_each(|id| hub.close(id, |_, _| {}));
        rests(&mut hub);
        assert!(hub.patterns.seats.is_empty() && hub.patterns.all.is_empty(), "seed {seed}");
    }
}

/// All who have the pattern have its channels by a longer one: a flush looks at each, for nobody.
#[test]
fn a_turn_is_bounded_also_where_its_flushes_reach_nobody() {
    const MEMBERS: u64 = 600;
    let mut hub = Hub::new(LIMIT);
    for client in 0..MEMBERS {
        let id = patterned(&mut hub, client, "c:", rated(1.0));
        begin_pattern(&mut hub, id, "c:us/", rated(None));
    }
    for alias in 10..60 {
        assert!(hub.load(&on(alias, 1, None), 0));
    }
    let mut turns = 1;
    hub.fan_out(&mut Kernel::default(), 1_000, &mut Outcome::default());
    while hub.next_due() == Some(1_000) {
        turns += 1;
        tick(&mut hub, 1_000);
    }
    assert!(turns >= 50 * MEMBERS / 10_000, "50 looks at {MEMBERS} members in {turns} turns");
    rests(&mut hub);
}

/// Every group is in the list of dues once, and counted where it owes something.
fn check(hub: &Hub) {
    let dues: BTreeSet<Due> = hub.patterns.groups().map(|(due, _)| due).collect();
    assert_eq!(dues, hub.patterns.dues);
    for (alias, topic) in &hub.topics {
        let owing = hub.patterns.groups().filter(|((_, of, ..), owes)| of == alias && *owes);
        let owed = topic.latest.as_ref().map_or(0, |latest| latest.owed as usize);
        assert_eq!(owing.count(), owed);
    }
    for (key, pattern) in &hub.patterns.all {
        assert!(!pattern.members.is_empty() || !pattern.rated.is_empty());
        for (rate, members) in pattern.rated.iter().map(|rated| (rated.rate, &rated.members)) {
            assert!(!members.is_empty(), "no empty list stays");
            let owing: BTreeSet<_> = hub.patterns.groups().filter(|(_, owes)| *owes).collect();
            let of = |((_, alias, of, hz), _): (Due, bool)| {
                (of as usize == key && hz == rate).then_some(alias)
            };
            let owing: BTreeSet<Alias> = owing.into_iter().filter_map(of).collect();
            let recent = pattern.rated.iter().find(|rated| rated.rate == rate).unwrap();
            assert_eq!(recent.recent.values().copied().collect::<BTreeSet<_>>(), owing);
            for (at, member) in members.iter().enumerate() {
                let subs = hub.patterns.subs(member.seat as usize);
                let sub = subs.iter().find(|sub| sub.pattern as usize == key).unwrap();
                assert_eq!((sub.member as usize, sub.rate), (at, Some(rate)));
            }
        }
    }
}
