//! Tests of what the queues of a shard take of memory, and of who is slow.

use std::collections::BTreeMap;

use super::*;
use crate::core::hub::slow::{SLOWEST, SlowState};
use crate::core::outbox::tests::{keyed_event, weight};
use crate::core::run::RUN_BYTES_MAX;

const MIB: usize = 1 << 20;

/// What the books should say, found by looking at every queue.
fn counted(hub: &mut Hub) -> usize {
    let mut seen = BTreeSet::new();
    let mut sum = 0;
    for id in hub.seat_ids() {
        hub.weigh(id);
        let outbox = &hub.seat(id).unwrap().outbox;
        sum += outbox.own_bytes() + weight(outbox, &mut seen);
        sum += hub.patterns.lag_bytes(id);
    }
    sum
}

/// Writes `share` hundredths of what waits for a seat, and fetches what it has missed.
fn write(hub: &mut Hub, id: SeatId, share: usize) {
    while hub.refill(id, || 0) {
        let outbox = &mut hub.seat(id).unwrap().outbox;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.gather(|| 0, &mut slices);
        let ready: usize = slices[..used].iter().map(|slice| slice.len()).sum();
        let some = ready * share / 100;
        outbox.advance(some, &mut Sink);
        if some < ready {
            return outbox.withdraw();
        }
    }
}

/// The run that is made of the next chunk is on the account as any other.
#[test]
fn what_somebody_is_sent_of_the_past_counts_once() {
    use crate::core::history::{Chunk, Past};
    let mut hub = Hub::new(LIMIT);
    let ids = [1, 2].map(|client| seat(&mut hub, client));
    let chunk = Arc::new(Chunk::of(Box::from([event(1, 1, MIB / 2)])));
    for id in ids {
        join(&mut hub, id, 1, Policy::DropOldest);
        let past = Past { chunks: vec![Arc::clone(&chunk)], after: 0, upto: 1 };
        hub.recall(id, (&channel(1), Alias(1)), past);
        hub.seat(id).unwrap().blocked = true;
        assert!(hub.refill(id, || 0));
        hub.weigh(id);
        let memory = hub.memory();
        assert!(memory > MIB / 2 && memory < MIB / 2 + 16 * 1024, "{memory}");
    }
    let shares: Vec<usize> =
        hub.by_fullness(|_| true).into_iter().map(|(bytes, ..)| bytes).collect();
    assert!(shares.iter().all(|share| (MIB / 4..MIB / 3).contains(share)), "{shares:?}");
    assert_eq!(hub.fullest_taking(|_| true), 0, "their sockets take nothing");
    hub.seat(ids[0]).unwrap().blocked = false;
    assert_eq!(hub.by_fullness(|_| true).len(), 1);
    assert!((MIB / 4..MIB / 3).contains(&hub.fullest_taking(|_| true)), "one may be written to");
    assert_eq!(hub.fullest_taking(|id| id != ids[0]), 0);
    hub.seat(ids[0]).unwrap().blocked = true;
    for id in ids {
        received(&mut hub, id);
        hub.weigh(id);
    }
    assert_eq!((hub.memory(), hub.by_fullness(|_| true)), (0, vec![]));
}

#[test]
fn what_many_queues_share_counts_once() {
    let mut hub = Hub::new(OutboxLimit { bytes: 2 * MIB, events: 1_000 });
    for client in 0..1_000 {
        let id = seat(&mut hub, client);
        join(&mut hub, id, 1, Policy::DropOldest);
        hub.seat(id).unwrap().blocked = true;
    }
    for offset in 1..=16 {
        publish(&mut hub, &[event(1, offset, MIB / 16)], &mut Kernel::default());
    }
    let queues = hub.queues();
    assert!(queues.bytes > 1_000 * MIB as u64, "each of them counts them: {}", queues.bytes);
    let memory = hub.memory();
    assert!(memory > MIB && memory < MIB + 2 * RUN_BYTES_MAX, "{memory}");
    assert_eq!(memory, counted(&mut hub));
    // All but one of them go, and it is still the same.
    for id in hub.seat_ids().into_iter().skip(1) {
        hub.close(id, |_, _| {});
    }
    assert_eq!(hub.memory(), memory);
    hub.close(0, |_, _| {});
    assert_eq!(hub.memory(), 0);
    assert!(hub.memory_at_most() > 0, "kept for reuse");
    hub.forget_spare();
    assert_eq!(hub.memory_at_most(), 0);
}

/// Stalled subscribers of each of these channels, by what they do at their bound.
fn stalled(hub: &mut Hub, channels: impl IntoIterator<Item = u64>, policy: Policy) -> Vec<SeatId> {
    let mut ids = Vec::new();
    for alias in channels {
        let id = seat(hub, hub.connections() as u64);
        join(hub, id, alias, policy);
        hub.seat(id).unwrap().blocked = true;
        ids.push(id);
    }
    ids
}

/// What all have lost alike is shared alike, also where events come in batches.
#[test]
fn a_backlog_that_all_share_is_shared_when_its_oldest_go() {
    const BOUND: usize = 256 << 10;
    for policy in [Policy::DropOldest, Policy::DropNewest] {
        let mut hub = Hub::new(OutboxLimit { bytes: BOUND, events: 1_000 });
        let ids = stalled(&mut hub, std::iter::repeat_n(1, 60), policy);
        for batch in 0..20 {
            let events: Vec<_> = (1..=8).map(|nth| event(1, batch * 8 + nth, 7_700)).collect();
            publish(&mut hub, &events, &mut Kernel::default());
            if batch == 3 {
                // They have taken a part of what was in front.
                ids.iter().for_each(|id| hub.seat(*id).unwrap().outbox.advance(20_000, &mut Sink));
            }
            let memory = hub.memory();
            assert!(memory < BOUND + 3 * RUN_BYTES_MAX, "{memory} in {batch}, {policy:?}");
            assert_eq!(memory, counted(&mut hub));
        }
        assert!(hub.queues().bytes > 59 * (BOUND as u64 - 10_000));
        ids.into_iter().for_each(|id| hub.close(id, |_, _| {}));
        assert_eq!(hub.memory(), 0);
    }
}

/// Who is the fullest is a matter of what would be free without it.
#[test]
fn those_who_share_a_backlog_are_less_full_than_those_who_have_one_of_their_own() {
    let mut hub = Hub::new(OutboxLimit { bytes: MIB, events: 1_000 });
    let sharers = stalled(&mut hub, std::iter::repeat_n(100, 60), Policy::DropOldest);
    let owners = stalled(&mut hub, 1..=40, Policy::DropOldest);
    for offset in 1..=60 {
        publish(&mut hub, &[event(100, offset, 8_000)], &mut Kernel::default());
    }
    for alias in 1..=40 {
        for offset in 1..=3 {
            publish(&mut hub, &[event(alias, offset, 8_000)], &mut Kernel::default());
        }
    }
    hub.seat(sharers[7]).unwrap().outbox.control().extend_from_slice(&[0; 50_000]);
    hub.forget_spare();
    let ranks = hub.by_fullness(|id| id != owners[0]);
    let fullest: Vec<_> = ranks.iter().rev().map(|(_, id, _)| *id).collect();
    assert_eq!(fullest[0], sharers[7], "answers are its own");
    let next: BTreeSet<_> = fullest[1..40].iter().copied().collect();
    assert_eq!(next, owners[1..].iter().copied().collect(), "but for the one that was cut before");
    assert_eq!(fullest.len(), 99);
    let shares: usize = ranks.iter().map(|(bytes, ..)| bytes).sum();
    let owner = hub.seat(owners[0]).unwrap().outbox.share_bytes();
    for id in hub.seat_ids() {
        hub.weigh(id);
    }
    let memory = hub.memory();
    assert!(shares + owner <= memory && shares + owner + 60 * 60 > memory, "{shares} of {memory}");
}

#[test]
fn the_places_of_a_long_lane_and_unread_answers_count() {
    let mut hub = Hub::new(OutboxLimit { bytes: MIB, events: 1_000 });
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::DropOldest);
    hub.seat(id).unwrap().blocked = true;
    for offset in 1..=1_000 {
        publish(&mut hub, &events(1, offset..offset + 1), &mut Kernel::default());
    }
    let runs: usize = pinned(&mut hub, id);
    let own = hub.memory() - runs;
    assert!((1_000 * 16..1_024 * 32).contains(&own), "{own} bytes for its places");
    received(&mut hub, id);
    // Until the places are given back.
    (0..2).for_each(|_| drop(hub.still_full(None)));
    assert_eq!(hub.memory(), 0);
    hub.seat(id).unwrap().outbox.control().extend_from_slice(&[0; 5_000]);
    hub.weigh(id);
    assert!((5_000..10_000).contains(&hub.memory()), "{}", hub.memory());
    hub.close(id, |_, _| {});
    assert_eq!(hub.memory(), 0);
}

/// A pattern has any number of channels, and so much is to be known of each.
#[test]
fn what_a_pattern_makes_a_queue_remember_counts() {
    for policy in [Policy::DropOldest, Policy::DropNewest, Policy::Latest] {
        let (mut hub, id) = pattern::stalled(&["c:"], policy);
        for alias in 10..910 {
            pattern::flood(&mut hub, alias, 1..2);
            // For `latest`: what is behind one that lags is looked for.
            let own = hidden_event(alias, 2, 9, Some(ClientId(1)));
            publish(&mut hub, &[renamed(own, alias)], &mut Kernel::default());
        }
        let outbox = &hub.seat(id).unwrap().outbox;
        let lane = outbox.own_bytes() + weight(outbox, &mut BTreeSet::new());
        let places = lane_room(outbox) * 24;
        // Beside the places: where each channel stands, and with `latest` that it lags.
        let least = places + 900 * if policy == Policy::Latest { 50 } else { 33 };
        let memory = hub.memory();
        let notices = weight(&hub.seat(id).unwrap().outbox, &mut BTreeSet::new());
        assert!(memory - notices > least, "{policy:?}: {} of {least}", memory - notices);
        assert!(lane <= memory, "{policy:?}");
        assert_eq!(memory, counted(&mut hub), "{policy:?}");
        hub.forget_spare();
        let ranks = hub.by_fullness(|_| true);
        assert_eq!(ranks[0].0, memory, "{policy:?}: it would all be free without it");
        pattern::shown(&mut hub, id);
        (0..3).for_each(|_| drop(hub.still_full(None)));
        assert_eq!((hub.memory(), counted(&mut hub)), (0, 0), "{policy:?}");
    }
}

fn renamed(mut event: Arc<Event>, alias: u64) -> Arc<Event> {
    Arc::get_mut(&mut event).unwrap().channel = pattern::name(alias);
    event
}

#[test]
fn the_books_are_right_whatever_is_queued_dropped_and_written() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = OutboxLimit { bytes: rng.usize(500..5_000), events: rng.usize(2..60) };
        let mut hub = Hub::new(limit);
        let mut ids: Vec<SeatId> = Vec::new();
        let mut offsets = [0; 4];
        for client in 0..400 {
            let at = rng.usize(0..ids.len().max(1));
            match (rng.u8(0..20), ids.get(at).copied()) {
                (0 | 1, _) | (_, None) => {
                    let id = seat(&mut hub, client);
                    for alias in 0..4 {
                        join(&mut hub, id, alias, Policy::ALL[rng.usize(0..4)]);
                    }
                    hub.seat(id).unwrap().blocked = true;
                    ids.push(id);
                }
                (2, Some(id)) => {
                    ids.swap_remove(at);
                    hub.close(id, |_, _| {});
                }
                (3, Some(id)) => drop(end(&mut hub, id, rng.u64(0..4))),
                (4..7, Some(id)) => write(&mut hub, id, 100),
                (7, Some(id)) => {
                    hub.leave_all(id, |_, _| {});
                    hub.seat(id).unwrap().outbox.clear_data();
                }
                (8, _) => drop(hub.still_full(None)),
                (9..12, Some(id)) => write(&mut hub, id, rng.usize(0..=100)),
                _ => {
                    let alias = rng.usize(0..4);
                    let batch: Vec<_> = (0..rng.u64(1..9))
                        .map(|_| {
                            offsets[alias] += 1;
                            keyed_event(alias as u64, offsets[alias], Some("k"))
                        })
                        .collect();
                    publish(&mut hub, &batch, &mut Kernel::default());
                }
            }
            let wanted = counted(&mut hub);
            assert_eq!(hub.memory(), wanted, "seed {seed}, step {client}");
        }
        for id in ids {
            hub.close(id, |_, _| {});
        }
        assert_eq!(hub.memory(), 0, "seed {seed}");
    }
}

/// What each of the slow has lost, whoever told of it.
#[test]
fn every_event_that_is_dropped_is_counted_for_its_seat() {
    for policy in Policy::ALL {
        let mut hub = Hub::new(LIMIT);
        let id = seat(&mut hub, 1);
        join(&mut hub, id, 1, policy);
        hub.seat(id).unwrap().blocked = true;
        let outcome = publish(&mut hub, &events(1, 1..21), &mut Kernel::default());
        let dropped: u64 = outcome.dropped.iter().sum();
        let picture = &hub.slowest(400_000_000)[0];
        assert_eq!(picture.dropped, dropped, "{policy:?}");
        assert_eq!(picture.oldest_ms, Some(400), "{policy:?}");
        if policy == Policy::Disconnect {
            continue;
        }
        write(&mut hub, id, 100);
        assert_eq!(hub.seat(id).unwrap().dropped(), dropped, "{policy:?}");
        // And one that leaves while it lags knows as much.
        hub.seat(id).unwrap().blocked = true;
        let more = publish(&mut hub, &events(1, 21..41), &mut Kernel::default());
        hub.leave_all(id, |_, _| {});
        let all = dropped + more.dropped.iter().sum::<u64>();
        assert_eq!(hub.seat(id).unwrap().dropped(), all, "{policy:?}");
    }
}

#[test]
fn a_slow_connection_is_in_one_state() {
    let mut hub = Hub::new(LIMIT);
    let policies = [Policy::DropOldest, Policy::Latest, Policy::DropOldest, Policy::DropOldest];
    let ids: Vec<_> = policies
        .into_iter()
        .zip(1..)
        .map(|(policy, client)| {
            let id = seat(&mut hub, client);
            let alias = if client == 3 { 2 } else { 1 };
            join(&mut hub, id, alias, policy);
            hub.seat(id).unwrap().blocked = client < 4;
            id
        })
        .collect();
    publish(&mut hub, &[event(2, 1, 9)], &mut Kernel::default());
    publish(&mut hub, &events(1, 1..13), &mut Kernel { takes: true, ..Kernel::default() });
    assert_eq!(hub.queues().slow, [1, 1, 1], "and one is not slow");
    let states = |hub: &Hub| {
        let all = hub.slowest(0);
        all.iter().map(|one| (one.seat, one.state)).collect::<BTreeMap<_, _>>()
    };
    let expected = ids.iter().copied().zip(SlowState::ALL).collect::<BTreeMap<_, _>>();
    assert_eq!(states(&hub), expected);
    for id in &ids {
        write(&mut hub, *id, 100);
    }
    hub.still_full(None);
    assert_eq!(hub.queues().slow, [0, 0, 0]);
    assert!(hub.slowest(0).is_empty());
}

#[test]
fn the_slowest_are_those_whose_events_are_the_oldest() {
    let mut hub = Hub::new(LIMIT);
    for client in 1..=30 {
        let id = seat(&mut hub, client);
        join(&mut hub, id, client % 3, Policy::DropOldest);
        hub.seat(id).unwrap().blocked = true;
    }
    for alias in 0..3 {
        let mut event = event(alias, 1, 9);
        Arc::get_mut(&mut event).unwrap().taken_ns = (1_000 - alias * 100) * 1_000_000;
        publish(&mut hub, &[event], &mut Kernel::default());
    }
    let named: Vec<_> =
        hub.slowest(2_000_000_000).iter().map(|one| (one.author.client.0, one.oldest_ms)).collect();
    let expected: Vec<_> = (0..SLOWEST as u64).map(|n| (2 + 3 * n, Some(1_200))).collect();
    assert_eq!(named, expected, "of equals the lower id first");
}

/// Who lags, who has lost events and who has them queued are ranked by one clock, which is not that
/// of the wall: it may be set.
#[test]
fn the_slowest_are_ranked_by_one_clock() {
    let mut hub = Hub::new(LIMIT);
    let policies = [Policy::Latest, Policy::DropOldest, Policy::DropOldest];
    for (client, policy) in (1..).zip(policies) {
        let id = seat(&mut hub, client);
        join(&mut hub, id, client, policy);
        hub.seat(id).unwrap().blocked = true;
    }
    let mut taken_ns = 1_000_000_000;
    let mut ts_ms = 1_700_000_000_000;
    for (alias, count) in [(1, 20), (2, 20), (3, 2)] {
        for offset in 1..=count {
            let mut event = event(alias, offset, 9);
            let fresh = Arc::get_mut(&mut event).unwrap();
            (fresh.taken_ns, fresh.ts_ms) = (taken_ns, ts_ms);
            publish(&mut hub, &[event], &mut Kernel::default());
            taken_ns += 1_000_000;
        }
        ts_ms -= 3_600_000;
    }
    // What one that lags is shown has left the lane in part, and the rest of it waits.
    assert!(hub.refill(0, || taken_ns));
    let found = hub.slowest(taken_ns);
    let named: Vec<_> = found.iter().map(|one| (one.seat, one.oldest_ms)).collect();
    assert_eq!(named, [(0, Some(23)), (1, Some(22)), (2, Some(2))]);
}
