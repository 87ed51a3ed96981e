//! Tests of the hub: who gets what of a batch, and the books of who sits where.

mod both;
mod browse;
mod edges;
mod forms;
mod implied;
mod joined;
mod latest;
mod many;
mod memory;
mod pattern;
mod rated;
mod reset;
mod signals;
mod tables;
mod tell;
mod throttle;

use std::collections::BTreeSet;
use std::io::IoSlice;

use super::*;
use crate::core::latest::Frame;
use crate::core::outbox::tests::{
    Got, Reader, channel, drain, event, hidden_event, lane_room, runs,
};
use crate::core::outbox::{Delivered, SLICES_MAX};
use crate::core::run::{PINNED_BYTES_MIN, PINNED_TIMES};
use crate::proto::event::Event;

const LIMIT: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 8 };

/// A kernel that takes everything, or nothing; it says when it was asked.
#[derive(Default)]
struct Kernel {
    takes: bool,
    asked: Vec<SeatId>,
    reader: Reader,
    got: Vec<Got>,
}

struct Sink;

impl Delivered for Sink {
    fn delivered(&mut self, _: &Run, _: u32) {}

    fn shown(&mut self, _: &Frame) {}
}

impl Writer for Kernel {
    fn write(&mut self, id: SeatId, seat: &mut Seat) {
        self.asked.push(id);
        while self.takes && !seat.outbox.is_idle() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = seat.outbox.gather(|| 0, &mut slices);
            let wire: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            seat.outbox.advance(wire.len(), &mut Sink);
            self.got.extend(self.reader.feed(&wire));
        }
    }
}

fn seat(hub: &mut Hub, client: u64) -> SeatId {
    hub.open(Arc::new(Author { client: ClientId(client), user: None }), 0)
}

fn after(policy: Policy, position: u64) -> Join {
    Join { policy, position, keys_max: 100, max_rate: None }
}

/// Ends a subscription by name.
fn end(hub: &mut Hub, id: SeatId, alias: u64) -> Option<bool> {
    let ended = hub.unsubscribe((id, Alias(alias)), &mut Kernel::default(), 0);
    ended.map(|(last, _)| last)
}

fn join(hub: &mut Hub, id: SeatId, alias: u64, policy: Policy) {
    hub.subscribe(id, (&channel(alias), Alias(alias)), after(policy, 0));
}

/// Loads and fans out as a shard does; returns what came of it.
fn publish(hub: &mut Hub, events: &[Arc<Event>], kernel: &mut Kernel) -> Outcome {
    let mut outcome = Outcome::default();
    for event in events {
        if !hub.load(event, 0) {
            hub.fan_out(kernel, 0, &mut outcome);
            assert!(hub.load(event, 0), "an empty run takes any event");
        }
    }
    hub.fan_out(kernel, 0, &mut outcome);
    outcome
}

fn events(alias: u64, offsets: std::ops::Range<u64>) -> Vec<Arc<Event>> {
    offsets.map(|offset| event(alias, offset, 9)).collect()
}

fn received(hub: &mut Hub, id: SeatId) -> Vec<Got> {
    drain(&mut hub.seat(id).unwrap().outbox)
}

/// Every seat and topic names the other, and the count is right.
fn check(hub: &Hub, model: &BTreeSet<(SeatId, u64)>) {
    let mut count = 0;
    for (id, seat) in &hub.seats {
        for sub in seat.subs.iter() {
            let member = hub.topics[&sub.alias].members(sub.rate)[sub.member as usize];
            assert_eq!(member.seat as usize, id, "the member of {sub:?}");
            assert!(model.contains(&(id, sub.alias.0)), "{id} has {sub:?}");
            count += 1;
        }
        assert_eq!(hub.seat_of(seat.author.client), Some(id));
    }
    assert_eq!(count, model.len());
    assert_eq!(hub.subscriptions(), model.len() as u64);
    let members: usize = hub.topics.values().map(|topic| topic.members.len()).sum();
    assert_eq!(members + throttle::grouped(hub), model.len());
    let empty = |topic: &Topic| topic.members.is_empty() && topic.groups.is_none();
    assert!(!hub.topics.values().any(empty), "no empty topic stays");
}

#[test]
fn the_books_are_right_whoever_comes_and_goes() {
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(LIMIT);
        let mut model = BTreeSet::new();
        let mut seats = Vec::new();
        for client in 0..300 {
            let alias = rng.u64(0..6);
            let at = rng.usize(0..seats.len().max(1));
            match (rng.u8(0..10), seats.get(at).copied()) {
                (0 | 1, _) | (_, None) => seats.push(seat(&mut hub, client)),
                (2, Some(id)) => {
                    seats.swap_remove(at);
                    let mut left = Vec::new();
                    hub.close(id, |name, last| match name {
                        Left::Channel(name) => left.push((name.to_string(), last)),
                        Left::Prefix(prefix) => panic!("nobody has {prefix}"),
                    });
                    let had: Vec<u64> =
                        model.iter().filter(|(seat, _)| *seat == id).map(|(_, a)| *a).collect();
                    model.retain(|(seat, _)| *seat != id);
                    let last = |alias| model.iter().all(|(_, other)| *other != alias);
                    let mut expected: Vec<_> =
                        had.iter().map(|a| (channel(*a).to_string(), last(*a))).collect();
                    left.sort();
                    expected.sort();
                    assert_eq!(left, expected, "seed {seed}");
                    assert!(hub.seat(id).is_none());
                }
                (3..7, Some(id)) => {
                    assert_eq!(hub.is_subscribed(id, Alias(alias)), model.contains(&(id, alias)));
                    let hz = [None, Some(1.0), Some(50.0)][rng.usize(0..3)];
                    let wanted =
                        Join { max_rate: hz.and_then(Rate::new), ..after(Policy::DropOldest, 0) };
                    if model.insert((id, alias)) {
                        hub.subscribe(id, (&channel(alias), Alias(alias)), wanted);
                    } else {
                        hub.update((id, Alias(alias)), wanted, &mut Kernel::default(), 0);
                    }
                }
                (_, Some(id)) => {
                    let had = model.remove(&(id, alias));
                    let last = model.iter().all(|(_, other)| *other != alias);
                    assert_eq!(end(&mut hub, id, alias), had.then_some(last));
                }
            }
            check(&hub, &model);
        }
    }
}

#[test]
fn a_client_does_not_see_the_events_it_asked_not_to_see() {
    let mut hub = Hub::new(LIMIT);
    let (own, other) = (seat(&mut hub, 1), seat(&mut hub, 2));
    join(&mut hub, own, 1, Policy::DropOldest);
    join(&mut hub, other, 1, Policy::DropOldest);
    let hide = |offset| hidden_event(1, offset, 9, Some(ClientId(1)));
    let batch = [hide(1), event(1, 2, 9), hide(3), hide(4)];
    publish(&mut hub, &batch, &mut Kernel::default());
    assert_eq!(received(&mut hub, own), [Got::Event(1, 2)]);
    let all: Vec<Got> = (1..5).map(|offset| Got::Event(1, offset)).collect();
    assert_eq!(received(&mut hub, other), all);
}

/// The memory of all runs that a queue keeps alive.
fn pinned(hub: &mut Hub, id: SeatId) -> usize {
    let mut runs = runs(&hub.seat(id).unwrap().outbox);
    runs.dedup_by(|a, b| Rc::ptr_eq(a, b));
    runs.iter().map(|run| run.footprint()).sum()
}

#[test]
fn a_queue_pins_little_more_than_it_counts() {
    const EVENTS: usize = 160;
    let sized = |offset, size, hidden| hidden_event(1, offset, size, hidden);
    let own = Some(ClientId(1));
    // Batches of a large and a small event, of which only the small one is wanted.
    let cases = [("hidden", own, 0), ("dropped", None, 0), ("position", None, 1)];
    for (name, hidden_from, position) in cases {
        let mut hub = Hub::new(OutboxLimit { bytes: 1 << 20, events: EVENTS });
        let id = seat(&mut hub, 1);
        hub.subscribe(id, (&channel(1), Alias(1)), after(Policy::DropOldest, position));
        hub.seat(id).unwrap().blocked = true;
        for batch in 0..100 {
            let offset = 2 * batch + 1;
            // Only the first batch has more than small ones, but where they are hidden.
            let size = if hidden_from.is_some() || batch == 0 { 50_000 } else { 9 };
            let events = [sized(offset, size, hidden_from), sized(offset + 1, 9, None)];
            publish(&mut hub, &events, &mut Kernel::default());
        }
        let outbox = &hub.seat(id).unwrap().outbox;
        let bound = (outbox.data_bytes() * PINNED_TIMES).max(EVENTS * PINNED_BYTES_MIN);
        let counted = outbox.data_bytes();
        let found = pinned(&mut hub, id);
        assert!(counted < 60_000 && found <= bound, "{name}: {found} bytes for {counted}");
    }
}

#[test]
fn what_is_not_after_the_position_is_not_for_that_member() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    let hidden = hidden_event(1, 2, 9, Some(ClientId(1)));
    hub.subscribe(id, (&channel(1), Alias(1)), after(Policy::DropOldest, 2));
    publish(&mut hub, &[event(1, 1, 9), hidden, event(1, 3, 9)], &mut Kernel::default());
    assert_eq!(received(&mut hub, id), [Got::Event(1, 3)]);
    publish(&mut hub, &events(1, 4..5), &mut Kernel::default());
    assert_eq!(received(&mut hub, id), [Got::Event(1, 4)]);
}

#[test]
fn a_hole_in_the_sequence_begins_another_run() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    hub.subscribe(id, (&channel(1), Alias(1)), after(Policy::DropOldest, 4));
    publish(&mut hub, &[event(1, 2, 9), event(1, 6, 9), event(1, 7, 9)], &mut Kernel::default());
    assert_eq!(received(&mut hub, id), [Got::Event(1, 6), Got::Event(1, 7)]);
}

#[test]
fn all_members_share_one_run_and_it_comes_back() {
    let mut hub = Hub::new(LIMIT);
    let ids = [1, 2, 3].map(|client| seat(&mut hub, client));
    for id in ids {
        join(&mut hub, id, 1, Policy::DropOldest);
    }
    publish(&mut hub, &events(1, 1..4), &mut Kernel::default());
    let queued = ids.map(|id| runs(&hub.seat(id).unwrap().outbox));
    for other in &queued[1..] {
        assert_eq!((other.len(), queued[0].len()), (1, 1), "one reference for the batch");
        assert!(Rc::ptr_eq(&other[0], &queued[0][0]));
    }
    let address = Rc::as_ptr(&queued[0][0]);
    drop(queued);
    for id in ids {
        assert_eq!(received(&mut hub, id).len(), 3);
    }
    publish(&mut hub, &events(1, 4..5), &mut Kernel::default());
    let again = runs(&hub.seat(ids[0]).unwrap().outbox);
    assert_eq!(Rc::as_ptr(&again[0]), address, "the run is used again");
    assert_eq!(received(&mut hub, ids[0]), [Got::Event(1, 4)]);
}

#[test]
fn a_seat_that_is_not_blocked_is_written_before_a_policy_acts() {
    for policy in Policy::ALL {
        let mut hub = Hub::new(LIMIT);
        let id = seat(&mut hub, 1);
        join(&mut hub, id, 1, policy);
        let mut kernel = Kernel { takes: true, ..Kernel::default() };
        let outcome = publish(&mut hub, &events(1, 1..30), &mut kernel);
        assert_eq!(
            (outcome.dropped.iter().sum::<u64>(), outcome.overflowed.len()),
            (0, 0),
            "{policy:?}"
        );
        assert!(kernel.asked.iter().all(|asked| *asked == id) && !kernel.asked.is_empty());
        kernel.got.extend(received(&mut hub, id));
        let all: Vec<Got> = (1..30).map(|offset| Got::Event(1, offset)).collect();
        assert_eq!(kernel.got, all);
    }
}

#[test]
fn a_slow_subscriber_costs_only_itself() {
    let mut hub = Hub::new(LIMIT);
    let clients = [Policy::Disconnect, Policy::DropOldest, Policy::DropOldest];
    let ids = [1, 2, 3].map(|client| seat(&mut hub, client));
    for (id, policy) in ids.into_iter().zip(clients) {
        join(&mut hub, id, 1, policy);
        hub.seat(id).unwrap().blocked = id != ids[2];
    }
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    let outcome = publish(&mut hub, &events(1, 1..13), &mut kernel);
    assert_eq!(outcome.overflowed, [ids[0]], "named once");
    let dropped = |policy: Policy| outcome.dropped[policy as usize];
    assert_eq!([dropped(Policy::Disconnect), dropped(Policy::DropOldest)], [4, 4]);
    assert!(kernel.asked.iter().all(|id| *id == ids[2]), "a blocked seat is not written");
    let slow = received(&mut hub, ids[1]);
    assert_eq!(slow.first(), Some(&Got::Lagged(1, 1, 4, 4)));
    assert_eq!(slow.len(), 9);
    kernel.got.extend(received(&mut hub, ids[2]));
    assert_eq!(kernel.got.len(), 12);
}

#[test]
fn an_update_without_a_policy_leaves_it_as_it_is() {
    let overflowed = |update: Option<Policy>| {
        let mut hub = Hub::new(LIMIT);
        let id = seat(&mut hub, 1);
        join(&mut hub, id, 1, Policy::Disconnect);
        if let Some(policy) = update {
            hub.update((id, Alias(1)), after(policy, 0), &mut Kernel::default(), 0);
        }
        hub.seat(id).unwrap().blocked = true;
        publish(&mut hub, &events(1, 1..13), &mut Kernel::default()).overflowed.len()
    };
    let cases = [(None, 1), (Some(Policy::Disconnect), 1), (Some(Policy::DropOldest), 0)];
    for (update, expected) in cases {
        assert_eq!(overflowed(update), expected, "{update:?}");
    }
}

#[test]
fn nothing_follows_a_hole_that_only_the_close_tells() {
    let limit = OutboxLimit { bytes: 1_000, events: 100 };
    let mut hub = Hub::new(limit);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::Disconnect);
    hub.seat(id).unwrap().blocked = true;
    publish(&mut hub, &[event(1, 1, 500)], &mut Kernel::default());
    // The hidden one parts the batch: what is before it has no room, what is after it would.
    let hidden = hidden_event(1, 3, 9, Some(ClientId(1)));
    let batch = [event(1, 2, 390), hidden, event(1, 4, 9)];
    let outcome = publish(&mut hub, &batch, &mut Kernel::default());
    let dropped = outcome.dropped[Policy::Disconnect as usize];
    assert_eq!((outcome.overflowed, dropped), (vec![id], 2));
    assert_eq!(received(&mut hub, id), [Got::Event(1, 1)]);
}

#[test]
fn no_batch_overflows_an_empty_queue() {
    let limit = OutboxLimit { bytes: 1_000, events: 100 };
    let mut hub = Hub::new(limit);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::Disconnect);
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    let outcome = publish(&mut hub, &[event(1, 1, 200), event(1, 2, 800)], &mut kernel);
    assert_eq!(outcome.overflowed, [0; 0], "each of them has room");
}

#[test]
fn a_queue_is_full_until_it_is_at_half() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::DropOldest);
    hub.seat(id).unwrap().blocked = true;
    let full = |hub: &mut Hub, offsets, now_ms| {
        events(1, offsets).iter().for_each(|event| assert!(hub.load(event, now_ms)));
        hub.fan_out(&mut Kernel::default(), now_ms, &mut Outcome::default());
    };
    for from in [1, 5, 9] {
        full(&mut hub, from..from + 4, from);
    }
    assert_eq!(hub.queues().slow, [1, 0, 0]);
    assert_eq!(hub.still_full(Some(8)), [0; 0], "full since 9");
    assert_eq!(hub.still_full(Some(9)), [id]);
    assert_eq!(hub.still_full(None), [0; 0]);
    assert_eq!(hub.still_full(Some(9)), [id], "and still");
    // A queue that went below half between two looks was not full all the time.
    received(&mut hub, id);
    for from in [13, 17, 21] {
        full(&mut hub, from..from + 4, 100 + from);
    }
    assert_eq!(hub.still_full(Some(100)), [0; 0], "full since 121");
    assert_eq!(hub.still_full(Some(121)), [id], "named once");
    received(&mut hub, id);
    assert_eq!(hub.still_full(Some(u64::MAX)), [0; 0]);
    assert_eq!((hub.queues().bytes, hub.queues().slow), (0, [0, 0, 0]));
}

#[test]
fn a_reader_that_may_lose_is_waited_for_once() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::DropOldest);
    let mut offset = 0;
    let mut add = |hub: &mut Hub, count: u64| {
        for event in &events(1, offset + 1..offset + 1 + count) {
            assert!(hub.load(event, 1));
            hub.fan_out(&mut Kernel::default(), 1, &mut Outcome::default());
        }
        offset += count;
    };
    add(&mut hub, 6);
    assert!(!hub.is_near(false), "its turn to be written has not come");
    hub.seat(id).unwrap().blocked = true;
    add(&mut hub, 1);
    assert!(hub.is_near(false) && hub.is_near(false));
    received(&mut hub, id);
    assert!(!hub.is_near(false), "the moment was enough");
    hub.seat(id).unwrap().blocked = true;
    add(&mut hub, 6);
    assert!(hub.is_near(false));
    assert!(!hub.is_near(true), "waited for in vain");
    add(&mut hub, 1);
    assert!(!hub.is_near(false), "and not again");
    received(&mut hub, id);
    add(&mut hub, 1);
    hub.seat(id).unwrap().blocked = true;
    add(&mut hub, 6);
    assert!(hub.is_near(false), "until it has been below half");
    add(&mut hub, 10);
    assert!(!hub.is_near(false), "what has lost is a slow consumer");
}

#[test]
fn a_seat_is_written_once_and_its_successor_not_for_it() {
    let mut hub = Hub::new(LIMIT);
    let first = seat(&mut hub, 1);
    let second = seat(&mut hub, 2);
    [first, second, first].into_iter().for_each(|id| hub.mark_dirty(id));
    assert_eq!(hub.dirty(), 2);
    hub.close(first, |_, _| {});
    let successor = seat(&mut hub, 3);
    assert_eq!(successor, first, "the place is used again");
    assert_eq!([hub.next_dirty(), hub.next_dirty()], [Some(second), None]);
}

#[test]
fn the_lists_of_late_seats_name_each_once_whoever_had_its_place_before() {
    let mut hub = Hub::new(LIMIT);
    let mut offset = 0;
    let mut fill = |hub: &mut Hub, client, count| {
        let id = seat(hub, client);
        join(hub, id, 1, Policy::DropOldest);
        hub.seat(id).unwrap().blocked = true;
        for event in &events(1, offset + 1..offset + 1 + count) {
            assert!(hub.load(event, 1));
            hub.fan_out(&mut Kernel::default(), 1, &mut Outcome::default());
        }
        offset += count;
        id
    };
    for client in 0..10 {
        // Late, but nothing lost; then full.
        let near = fill(&mut hub, 2 * client, 6);
        hub.close(near, |_, _| {});
        let full = fill(&mut hub, 2 * client + 1, 12);
        assert_eq!(full, near, "the place is used again");
        hub.close(full, |_, _| {});
    }
    let id = fill(&mut hub, 30, 6);
    assert_eq!(hub.still_full(Some(u64::MAX)), [0; 0], "this one has lost nothing");
    assert!(hub.is_near(false));
    assert_eq!((hub.near.len(), hub.full.len()), (1, 0));
    hub.close(id, |_, _| {});
    let id = fill(&mut hub, 31, 12);
    assert_eq!(hub.still_full(Some(u64::MAX)), [id], "named once");
    assert!(!hub.is_near(false));
}

#[test]
fn the_room_of_a_long_queue_goes_back_when_it_was_not_used_between_two_looks() {
    let mut hub = Hub::new(OutboxLimit { events: 100, ..LIMIT });
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, Policy::DropOldest);
    let mut offset = 0;
    let mut burst = |hub: &mut Hub| {
        for _ in 0..40 {
            offset += 1;
            publish(hub, &events(1, offset..offset + 1), &mut Kernel::default());
        }
        assert_eq!(received(hub, id).len(), 40);
    };
    let room = |hub: &mut Hub| lane_room(&hub.seat(id).unwrap().outbox);
    for _ in 0..3 {
        burst(&mut hub);
        assert_eq!(hub.still_full(None), [0; 0]);
        assert!(room(&mut hub) >= 40, "used since the last look");
    }
    hub.still_full(None);
    assert_eq!((room(&mut hub), hub.roomy.len()), (0, 0));
    burst(&mut hub);
    assert_eq!(hub.roomy.len(), 1, "and all over again");
}
