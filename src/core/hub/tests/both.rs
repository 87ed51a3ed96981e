//! Tests of channels that a seat has by name with a rate, and by a pattern without: each event comes
//! once, as the name asks, and nothing is lost where one of the two begins, changes or ends.

use super::pattern::{end_pattern, flood, join_pattern, name, on, shown, stalled};
use super::rated::{feed_as, offsets};
use super::*;

/// One event of channel 1 for each key, from that offset on.
fn feed(hub: &mut Hub, first: u64, keys: &str, now_ms: u64) -> Outcome {
    feed_as(hub, (first, keys), now_ms, |offset, key| on(1, offset, key))
}

fn join_rated(hub: &mut Hub, id: SeatId, position: u64) {
    let max_rate = Rate::new(1.0);
    hub.subscribe(
        id,
        (&name(1), Alias(1)),
        Join { max_rate, ..after(Policy::DropOldest, position) },
    );
}

/// A seat with the pattern of channel 1.
fn patterned(hub: &mut Hub, client: u64) -> SeatId {
    let id = seat(hub, client);
    join_pattern(hub, id, "c:", Policy::DropOldest);
    id
}

#[test]
fn the_rate_of_a_name_holds_for_what_a_pattern_would_bring() {
    // With fewer subscriptions than the channel has members, and with more.
    for others in [0, 5] {
        let mut hub = Hub::new(LIMIT);
        let id = patterned(&mut hub, 1);
        let all = patterned(&mut hub, 2);
        for alias in 2..2 + others {
            hub.subscribe(id, (&name(alias), Alias(alias)), after(Policy::DropOldest, 0));
        }
        join_rated(&mut hub, id, 0);
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "ab", 10);
        feed(&mut hub, 4, "a", 20);
        flood(&mut hub, 3, 1..3);
        let quick = [Got::Event(3, 1), Got::Event(3, 2)];
        assert_eq!(received(&mut hub, id), [&offsets(&[1])[..], &quick].concat(), "{others}");
        assert_eq!(received(&mut hub, all), [&offsets(&[1, 2, 3, 4])[..], &quick].concat());
        let outcome = feed(&mut hub, 0, "", 1_000);
        assert_eq!((received(&mut hub, id), outcome.conflated), (offsets(&[3, 4]), 1));
        hub.close(all, |_, last| assert!(!last));
        feed(&mut hub, 5, "c", 1_500);
        feed(&mut hub, 0, "", 2_000);
        assert_eq!(received(&mut hub, id), offsets(&[5]), "{others}: also without others");
    }
}

#[test]
fn what_a_name_has_held_back_comes_before_its_pattern_goes_on() {
    let mut hub = Hub::new(LIMIT);
    let [id, other] = [1, 2].map(|client| patterned(&mut hub, client));
    join_rated(&mut hub, id, 0);
    join_rated(&mut hub, other, 0);
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "aab", 10);
    assert_eq!(end(&mut hub, id, 1), Some(false));
    feed(&mut hub, 5, "ab", 20);
    assert_eq!(received(&mut hub, id), offsets(&[1, 3, 4, 5, 6]), "nothing twice");
    feed(&mut hub, 0, "", 1_000);
    assert_eq!(received(&mut hub, other), offsets(&[1, 5, 6]), "nobody else feels it");
    assert_eq!(end(&mut hub, other, 1), Some(true), "the last by name");
    assert_eq!(hub.next_due(), None);
    // Without a pattern that goes on, what is held back goes with the name.
    join_rated(&mut hub, id, 6);
    feed(&mut hub, 7, "a", 3_000);
    feed(&mut hub, 8, "a", 3_010);
    end_pattern(&mut hub, id, "c:");
    assert_eq!(end(&mut hub, id, 1), Some(true));
    assert_eq!(received(&mut hub, id), []);
}

/// A name begins at an offset that the shard's mail has not come to.
#[test]
fn what_is_on_its_way_to_a_pattern_is_for_the_name_that_comes() {
    for leaves in [false, true] {
        let mut hub = Hub::new(LIMIT);
        let [id, other] = [1, 2].map(|client| patterned(&mut hub, client));
        join_rated(&mut hub, other, 0);
        feed(&mut hub, 1, "a", 0);
        feed(&mut hub, 2, "bb", 10);
        // The other's group has something waiting, which this one has had.
        join_rated(&mut hub, id, 6);
        if leaves {
            end_pattern(&mut hub, id, "c:");
        }
        feed(&mut hub, 4, "aca", 20);
        feed(&mut hub, 0, "", 1_000);
        assert_eq!(received(&mut hub, other), offsets(&[1, 3, 5, 6]));
        assert_eq!(received(&mut hub, id), offsets(&[1, 2, 3, 5, 6]), "{leaves}");
        feed(&mut hub, 7, "a", 5_000);
        assert_eq!(received(&mut hub, id), offsets(&[7]));
    }
}

/// Of a throttled subscription frames are lost, of one by pattern events: a hole may have both.
#[test]
fn a_hole_that_begins_in_one_way_and_ends_in_another_counts_right() {
    let latest = |position, hz: Option<f64>| Join {
        max_rate: hz.and_then(Rate::new),
        ..after(Policy::Latest, position)
    };
    let (mut hub, id) = stalled(&["c:"], Policy::Latest);
    let mut kernel = Kernel::default();
    feed(&mut hub, 1, &"a".repeat(20), 0);
    // By name it begins further ahead than the mail, and changes its mind before that.
    hub.subscribe(id, (&name(1), Alias(1)), latest(30, Some(1.0)));
    hub.update((id, Alias(1)), latest(30, None), &mut kernel, 0);
    hub.update((id, Alias(1)), latest(30, Some(1.0)), &mut kernel, 0);
    let slow = feed(&mut hub, 21, "aaabb", 0);
    assert_eq!(slow.dropped[Policy::Latest as usize], 2, "the newest of each key, at once");
    assert_eq!(end(&mut hub, id, 1), Some(true));
    // What was held back is lost as well.
    feed(&mut hub, 26, "ab", 10);
    let lost = Got::Lagged(1, 1, 27, 20 + 2 + 1 + 2);
    assert_eq!(shown(&mut hub, id), [lost, Got::Shown(1, 26), Got::Shown(1, 27)]);
    assert_eq!(hub.seat(id).unwrap().dropped(), 25, "all of it is on its account");
    feed(&mut hub, 28, "a", 20);
    assert_eq!(received(&mut hub, id), offsets(&[28]));
    assert!(hub.topics.values().all(|topic| topic.groups.is_none()));
}

#[test]
fn a_seat_that_is_closed_has_what_it_lost_by_pattern_on_its_account() {
    let (mut hub, id) = stalled(&["c:"], Policy::Latest);
    feed(&mut hub, 1, &"a".repeat(29), 0);
    let at_first = hub.seat(id).unwrap().dropped();
    assert!(at_first < 29, "events of one that lags are counted when they are told");
    let slowest = hub.slowest(0);
    assert_eq!((slowest[0].dropped, slowest[0].subscriptions), (29, 1));
    hub.leave_all(id, |_, _| {});
    assert_eq!(hub.seat(id).unwrap().dropped(), 29);
    assert!(hub.queues().memory > 0, "a notice waits");
    assert_eq!(shown(&mut hub, id), [Got::Lagged(1, 1, 29, 29)]);
    hub.close(id, |_, _| {});
    assert_eq!(hub.queues().memory, 0);
}

/// What was written or lost on the way is no loss of the end of a subscription.
#[test]
fn what_an_end_takes_out_of_a_queue_is_counted_and_nothing_else() {
    let mut hub = Hub::new(LIMIT);
    let id = patterned(&mut hub, 1);
    join_rated(&mut hub, id, 0);
    flood(&mut hub, 3, 1..8);
    feed(&mut hub, 1, "a", 0);
    feed(&mut hub, 2, "ab", 10);
    // The queue is full, and its socket takes bytes: what is held back has room then.
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    let (_, ended) = hub.unsubscribe((id, Alias(1)), &mut kernel, 10).unwrap();
    assert_eq!((ended.purged, ended.dropped), (0, [0; Policy::ALL.len()]));
    assert_eq!(hub.seat(id).unwrap().outbox.data_events(), 2);
    // By the pattern one more comes; that of another channel is taken out by itself.
    flood(&mut hub, 3, 8..9);
    hub.subscribe(id, (&name(4), Alias(4)), after(Policy::DropOldest, 0));
    flood(&mut hub, 4, 1..5);
    let (_, ended) = hub.unsubscribe((id, Alias(4)), &mut Kernel::default(), 10).unwrap();
    assert_eq!(ended.purged, 4);
    let (_, ended) = hub.unsubscribe_pattern((id, "c:"), &mut Kernel::default(), 10).unwrap();
    assert_eq!((ended.purged, received(&mut hub, id)), (3, vec![]));
}
