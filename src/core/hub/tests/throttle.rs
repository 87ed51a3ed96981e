//! Tests of `max_rate`: when a group is flushed, what it gets then, and what becomes of it when its
//! members come, change and go.

use super::latest::shown;
use super::rated::{feed_as, is_flushed_each, offsets};
use super::*;
use crate::core::outbox::tests::keyed_event;

/// How many members are in groups; each group is in the hub's list of dues as it should be.
pub(super) fn grouped(hub: &Hub) -> usize {
    let groups: usize = hub.topics.values().map(|topic| topic.groups()).map(|g| g.len()).sum();
    let pending = hub.topics.values().flat_map(|topic| topic.groups());
    let pending: Vec<_> = pending.filter(|(_, due_ms)| due_ms.is_some()).collect();
    assert_eq!(pending.len(), hub.dues.len(), "{groups} groups");
    hub.topics.values().flat_map(|topic| topic.groups()).map(|(members, _)| members).sum()
}

fn rated(policy: Policy, hz: f64) -> Join {
    Join { max_rate: Rate::new(hz), ..after(policy, 0) }
}

/// A seat on channel 1.
fn throttled(hub: &mut Hub, client: u64, join: Join) -> SeatId {
    let id = seat(hub, client);
    hub.subscribe(id, (&channel(1), Alias(1)), join);
    id
}

/// Publishes on channel 1 one event for each key, from that offset on.
fn feed(hub: &mut Hub, first: u64, keys: &str, now_ms: u64) -> Outcome {
    feed_as(hub, (first, keys), now_ms, |offset, key| keyed_event(1, offset, key))
}

/// Nothing comes, but the time.
fn tick(hub: &mut Hub, now_ms: u64) -> Outcome {
    feed(hub, 0, "", now_ms)
}

fn update(hub: &mut Hub, id: SeatId, join: Join) -> Outcome {
    hub.update((id, Alias(1)), join, &mut Kernel::default(), 1_000_000)
}

#[test]
fn the_first_event_comes_at_once_and_the_last_one_when_the_interval_is_over() {
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, rated(Policy::DropOldest, 10.0));
    let all = throttled(&mut hub, 2, after(Policy::DropOldest, 0));
    assert_eq!(hub.next_due(), None, "nothing waits");
    feed(&mut hub, 1, "a", 1_000);
    assert_eq!(received(&mut hub, id), offsets(&[1]));
    assert_eq!(hub.next_due(), None, "and no timer runs");
    feed(&mut hub, 2, "a", 1_001);
    feed(&mut hub, 3, "aab", 1_050);
    assert_eq!(hub.next_due(), Some(1_100));
    tick(&mut hub, 1_099);
    assert_eq!(received(&mut hub, id), []);
    let outcome = tick(&mut hub, 1_100);
    assert_eq!(received(&mut hub, id), offsets(&[4, 5]));
    assert_eq!(outcome.conflated, 2);
    assert_eq!(hub.next_due(), None);
    feed(&mut hub, 6, "-", 1_150);
    tick(&mut hub, 1_200);
    assert_eq!(received(&mut hub, id), offsets(&[6]));
    assert_eq!(received(&mut hub, all), offsets(&[1, 2, 3, 4, 5, 6]), "nobody else feels it");
}

#[test]
fn a_group_is_flushed_as_often_as_it_may_and_no_more() {
    for (hz, interval) in [(100.0, 10), (50.0, 20), (3.0, 334), (0.1, 10_000)] {
        let enter = |hub: &mut Hub| throttled(hub, 1, rated(Policy::DropOldest, hz));
        is_flushed_each(hz, interval, enter, feed);
    }
}

#[test]
fn what_is_held_back_meets_the_policy_that_it_had() {
    let mut hub = Hub::new(OutboxLimit { events: 1, ..LIMIT });
    let id = throttled(&mut hub, 1, rated(Policy::Disconnect, 0.1));
    feed(&mut hub, 1, "a", 1_000);
    assert_eq!(received(&mut hub, id), offsets(&[1]));
    feed(&mut hub, 2, "abc", 1_001);
    hub.seat(id).unwrap().blocked = true;
    let outcome = update(&mut hub, id, after(Policy::DropOldest, 0));
    assert_eq!(outcome.overflowed, [id]);
}

#[test]
fn what_is_held_back_is_counted_and_given_at_once_to_who_is_sent_away() {
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, rated(Policy::DropOldest, 0.1));
    feed(&mut hub, 1, "a", 1_000);
    assert_eq!((received(&mut hub, id), hub.held_back(id)), (offsets(&[1]), 0));
    feed(&mut hub, 2, "aab", 1_001);
    assert_eq!(hub.held_back(id), 2);
    let outcome = hub.settle_all(id, &mut Kernel::default(), 1_002);
    assert_eq!((outcome.conflated, hub.held_back(id)), (1, 0));
    assert_eq!(received(&mut hub, id), offsets(&[3, 4]));
}

#[test]
fn a_flush_that_comes_late_does_not_bring_the_next_one_nearer() {
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, rated(Policy::DropOldest, 10.0));
    feed(&mut hub, 1, "aa", 0);
    feed(&mut hub, 3, "a", 50);
    tick(&mut hub, 1_000);
    feed(&mut hub, 4, "a", 1_001);
    assert_eq!(hub.next_due(), Some(1_100));
    assert_eq!(received(&mut hub, id), offsets(&[2, 3]));
}

#[test]
fn members_of_one_rate_share_a_run_and_each_rate_has_its_own_time() {
    let mut hub = Hub::new(LIMIT);
    let slow = [1, 2].map(|client| throttled(&mut hub, client, rated(Policy::DropOldest, 1.0)));
    let fast = throttled(&mut hub, 3, rated(Policy::DropOldest, 100.0));
    feed(&mut hub, 1, "a", 0);
    let queued = [slow[0], slow[1], fast].map(|id| runs(&hub.seat(id).unwrap().outbox));
    assert!(Rc::ptr_eq(&queued[0][0], &queued[1][0]), "one encoding for the group");
    assert!(!Rc::ptr_eq(&queued[0][0], &queued[2][0]));
    for id in [slow[0], slow[1], fast] {
        assert_eq!(received(&mut hub, id), offsets(&[1]));
    }
    feed(&mut hub, 2, "ab", 1);
    assert_eq!(hub.next_due(), Some(10));
    tick(&mut hub, 10);
    assert_eq!(received(&mut hub, fast), offsets(&[2, 3]));
    feed(&mut hub, 4, "b", 11);
    tick(&mut hub, 1_000);
    assert_eq!(received(&mut hub, fast), offsets(&[4]));
    assert_eq!(received(&mut hub, slow[0]), offsets(&[2, 4]));
    assert_eq!(grouped(&hub), 3);
}

#[test]
fn a_key_that_would_be_forgotten_is_flushed_early() {
    let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
    let few = Join { keys_max: 3, ..rated(Policy::DropOldest, 1.0) };
    let id = throttled(&mut hub, 1, few);
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "abc", 1);
    assert_eq!(received(&mut hub, id), offsets(&[1]), "the interval is not over");
    feed(&mut hub, 5, "d", 2);
    assert_eq!(received(&mut hub, id), offsets(&[2, 3, 4]), "a would have gone");
    // And never more than what came, whatever the keys.
    feed(&mut hub, 6, "efghijkaabb", 3);
    tick(&mut hub, 5_000);
    let got = received(&mut hub, id);
    assert_eq!(got, offsets(&[5, 6, 7, 8, 9, 10, 11, 12, 14, 16]));
}

#[test]
fn a_member_gets_nothing_from_before_its_position() {
    let mut hub = Hub::new(LIMIT);
    let first = throttled(&mut hub, 1, rated(Policy::DropOldest, 1.0));
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "ab", 1);
    // The store is further than this shard has come.
    let second = throttled(&mut hub, 2, Join { position: 4, ..rated(Policy::DropOldest, 1.0) });
    feed(&mut hub, 4, "cd", 2);
    tick(&mut hub, 1_000);
    assert_eq!(received(&mut hub, first), offsets(&[1, 2, 3, 4, 5]));
    assert_eq!(received(&mut hub, second), offsets(&[5]));
}

#[test]
fn a_new_rate_settles_what_the_old_one_has_held_back() {
    let rates = [None, Some(1.0), Some(10.0), Some(0.1)];
    for (from, to) in rates.iter().flat_map(|from| rates.map(|to| (*from, to))) {
        let wish = |hz: Option<f64>| Join {
            max_rate: hz.and_then(Rate::new),
            ..after(Policy::DropOldest, 0)
        };
        let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
        // Somebody else keeps every group alive, so that the times of the groups differ.
        for (client, hz) in (5..).zip(rates) {
            let other = throttled(&mut hub, client, wish(hz));
            hub.seat(other).unwrap().blocked = true;
        }
        let id = throttled(&mut hub, 1, wish(from));
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "aaab", 1);
        update(&mut hub, id, wish(to));
        let held = if from.is_some() { vec![1, 4, 5] } else { vec![1, 2, 3, 4, 5] };
        let same = from == to && from.is_some();
        let now = if same { vec![1] } else { held };
        assert_eq!(received(&mut hub, id), offsets(&now), "{from:?} to {to:?}");
        feed(&mut hub, 6, "ba", 2);
        tick(&mut hub, 60_000);
        assert_eq!(received(&mut hub, id), offsets(&[6, 7]), "{from:?} to {to:?}");
        assert_eq!(grouped(&hub), 3 + usize::from(to.is_some()));
    }
}

#[test]
fn a_group_ends_with_its_last_member_and_what_waits_for_it_ends_too() {
    let mut hub = Hub::new(LIMIT);
    let ids = [1, 2].map(|client| throttled(&mut hub, client, rated(Policy::DropOldest, 1.0)));
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "a", 1);
    assert_eq!(end(&mut hub, ids[0], 1), Some(false));
    assert_eq!((hub.next_due(), received(&mut hub, ids[0])), (Some(1_000), vec![]));
    hub.close(ids[1], |_, last| assert!(last));
    assert_eq!((hub.next_due(), hub.topics.len(), hub.subscriptions()), (None, 0, 0));
    assert_eq!(tick(&mut hub, 5_000).conflated, 0);
    let again = throttled(&mut hub, 3, Join { position: 2, ..rated(Policy::DropOldest, 1.0) });
    feed(&mut hub, 3, "ab", 5_000);
    assert_eq!(received(&mut hub, again), offsets(&[3, 4]));
}

#[test]
fn what_a_client_does_not_want_to_see_is_not_shown_at_a_flush() {
    let mut hub = Hub::new(LIMIT);
    let own = throttled(&mut hub, 1, rated(Policy::DropOldest, 1.0));
    let other = throttled(&mut hub, 2, rated(Policy::DropOldest, 1.0));
    let batch = [
        keyed_event(1, 1, Some("a")),
        hidden_event(1, 2, 9, Some(ClientId(1))),
        keyed_event(1, 3, Some("b")),
    ];
    publish(&mut hub, &batch, &mut Kernel::default());
    assert_eq!(received(&mut hub, own), offsets(&[1, 3]));
    assert_eq!(received(&mut hub, other), offsets(&[1, 2, 3]));
}

/// One that reads nothing while four keys are flushed five times, into a queue for eight events.
fn slow(policy: Policy) -> (Hub, SeatId, Outcome) {
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, rated(policy, 1.0));
    hub.seat(id).unwrap().blocked = true;
    let mut sum = Outcome::default();
    for round in 0..5 {
        // Each key twice: the first of them is conflated.
        let outcome = feed(&mut hub, 8 * round + 1, "abcdabcd", 1_000 * round);
        sum.conflated += outcome.conflated;
        sum.overflowed.extend(outcome.overflowed);
        for (sum, dropped) in sum.dropped.iter_mut().zip(outcome.dropped) {
            *sum += dropped;
        }
    }
    (hub, id, sum)
}

#[test]
fn the_slow_lose_frames_and_not_what_was_conflated() {
    let (mut hub, id, outcome) = slow(Policy::DropOldest);
    assert_eq!(outcome.dropped[Policy::DropOldest as usize], 12);
    assert_eq!(outcome.conflated, 20);
    let mut expected = vec![Got::Lagged(1, 5, 24, 12)];
    expected.extend(offsets(&[29, 30, 31, 32, 37, 38, 39, 40]));
    assert_eq!(received(&mut hub, id), expected);

    let (mut hub, id, outcome) = slow(Policy::DropNewest);
    assert_eq!(outcome.dropped[Policy::DropNewest as usize], 12);
    let mut expected = offsets(&[5, 6, 7, 8, 13, 14, 15, 16]);
    expected.push(Got::Lagged(1, 21, 40, 12));
    assert_eq!(received(&mut hub, id), expected);

    let (mut hub, id, outcome) = slow(Policy::Disconnect);
    assert_eq!((outcome.overflowed, outcome.dropped[0]), (vec![id], 12));
    assert_eq!(received(&mut hub, id), offsets(&[5, 6, 7, 8, 13, 14, 15, 16]));
}

#[test]
fn a_slow_one_under_latest_is_shown_the_newest_and_nothing_twice() {
    let (mut hub, id, outcome) = slow(Policy::Latest);
    assert_eq!(outcome.dropped[Policy::Latest as usize], 20);
    // These two are not flushed when the hole is told, and lie in it.
    feed(&mut hub, 41, "ab", 4_500);
    let mut expected = vec![Got::Lagged(1, 5, 42, 20)];
    expected.extend([39, 40, 41, 42].map(|offset| Got::Shown(1, offset)));
    assert_eq!(shown(&mut hub, id), expected);
    tick(&mut hub, 5_000);
    assert_eq!(shown(&mut hub, id), []);
    feed(&mut hub, 43, "a", 6_000);
    assert_eq!(shown(&mut hub, id), offsets(&[43]), "live again");
}

#[test]
fn one_that_lags_counts_as_its_rate_asks_across_a_change() {
    let latest = after(Policy::Latest, 0);
    // Throttled first: 20 frames, then four events as they come.
    let (mut hub, id, _) = slow(Policy::Latest);
    update(&mut hub, id, latest);
    feed(&mut hub, 41, "aabb", 5_000);
    assert_eq!(shown(&mut hub, id)[0], Got::Lagged(1, 5, 44, 24));
    feed(&mut hub, 45, "aa", 5_001);
    assert_eq!(shown(&mut hub, id), offsets(&[45, 46]));
    // And the other way: twelve events as they come, then two frames.
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, latest);
    hub.seat(id).unwrap().blocked = true;
    feed(&mut hub, 1, "aaaaaaaaaaaa", 0);
    update(&mut hub, id, rated(Policy::Latest, 1.0));
    feed(&mut hub, 13, "aabb", 1);
    assert_eq!(shown(&mut hub, id)[0], Got::Lagged(1, 1, 16, 14));
}

/// An event that its publisher does not want to see is not due to it, and so not left out for it.
#[test]
fn what_is_not_for_a_member_is_not_left_out_for_it() {
    let publish_own = |hub: &mut Hub, offsets: std::ops::RangeInclusive<u64>| {
        for offset in offsets {
            let mut event = keyed_event(1, offset, Some("a"));
            Arc::get_mut(&mut event).unwrap().hidden_from = Some(ClientId(1));
            assert!(hub.load(&event, 0));
        }
    };
    let mut hub = Hub::new(LIMIT);
    let id = throttled(&mut hub, 1, rated(Policy::DropOldest, 1.0));
    let other = throttled(&mut hub, 2, rated(Policy::DropOldest, 1.0));
    feed(&mut hub, 1, "a", 0);
    publish_own(&mut hub, 2..=6);
    feed(&mut hub, 7, "aa", 10);
    assert_eq!(tick(&mut hub, 1_000).conflated, 6 + 1, "of seven; of the two that were for it");
    publish_own(&mut hub, 9..=11);
    feed(&mut hub, 0, "", 1_010);
    assert_eq!(tick(&mut hub, 2_000).conflated, 2, "the other's alone");
    assert_eq!(received(&mut hub, id), offsets(&[1, 8]));
    assert_eq!(received(&mut hub, other), offsets(&[1, 8, 11]));
    // What is given out because the rate changes counts alike.
    publish_own(&mut hub, 12..=14);
    feed(&mut hub, 15, "aa", 2_010);
    assert_eq!(update(&mut hub, id, rated(Policy::DropOldest, 2.0)).conflated, 1);
    assert_eq!(received(&mut hub, id), offsets(&[16]));
}
