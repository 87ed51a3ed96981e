//! Tests of patterns: who has a channel by name, by a pattern, by several, gets each event once, and
//! each policy holds for each channel.

use std::collections::BTreeSet;

use super::*;
use crate::core::outbox::tests::keyed_event;

/// Channels by their alias.
const NAMES: [&str; 5] = ["c:0", "c:eu/1", "c:eu/2", "c:us/3", "d:4"];

pub(super) fn on(alias: u64, offset: u64, key: Option<&str>) -> Arc<Event> {
    let mut event = keyed_event(alias, offset, key);
    Arc::get_mut(&mut event).unwrap().channel = name(alias);
    event
}

pub(super) fn name(alias: u64) -> ChannelName {
    let known = usize::try_from(alias).ok().and_then(|at| NAMES.get(at));
    known.map_or_else(|| format!("c:us/{alias}"), |name| (*name).to_owned()).parse().unwrap()
}

fn batch(alias: u64, offsets: std::ops::Range<u64>) -> Vec<Arc<Event>> {
    offsets.map(|offset| on(alias, offset, None)).collect()
}

fn join_name(hub: &mut Hub, id: SeatId, alias: u64, policy: Policy) {
    hub.subscribe(id, (&name(alias), Alias(alias)), after(policy, 0));
}

pub(super) fn join_pattern(hub: &mut Hub, id: SeatId, prefix: &str, policy: Policy) {
    begin_pattern(hub, id, prefix, after(policy, 0));
}

pub(super) fn begin_pattern(hub: &mut Hub, id: SeatId, prefix: &str, join: Join) -> Outcome {
    hub.subscribe_pattern((id, prefix), join, &mut Kernel::default(), 0)
}

pub(super) fn end_pattern(hub: &mut Hub, id: SeatId, prefix: &str) -> Option<bool> {
    let ended = hub.unsubscribe_pattern((id, prefix), &mut Kernel::default(), 0);
    ended.map(|(last, _)| last)
}

/// A hub with a seat whose kernel takes nothing, and which has these patterns.
pub(super) fn stalled(prefixes: &[&str], policy: Policy) -> (Hub, SeatId) {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    hub.seat(id).unwrap().blocked = true;
    prefixes.iter().for_each(|prefix| join_pattern(&mut hub, id, prefix, policy));
    (hub, id)
}

pub(super) fn flood(hub: &mut Hub, alias: u64, offsets: std::ops::Range<u64>) -> Outcome {
    publish(hub, &batch(alias, offsets), &mut Kernel::default())
}

/// All that the seat reads when its kernel takes everything.
pub(super) fn shown(hub: &mut Hub, id: SeatId) -> Vec<Got> {
    let mut got = received(hub, id);
    while hub.refill(id, || 0) {
        got.extend(received(hub, id));
    }
    got
}

#[test]
fn a_pattern_has_every_channel_under_it_and_no_other() {
    let mut hub = Hub::new(LIMIT);
    let [all, some, none] = [1, 2, 3].map(|client| seat(&mut hub, client));
    join_pattern(&mut hub, all, "c:", Policy::DropOldest);
    join_pattern(&mut hub, some, "c:eu/", Policy::DropOldest);
    join_pattern(&mut hub, none, "c:eu/x/", Policy::DropOldest);
    for (alias, members) in (0..).zip([1, 2, 2, 1, 0]) {
        assert_eq!(hub.begins(&on(alias, 1, None)), members, "{alias}");
        flood(&mut hub, alias, 1..3);
        assert!(hub.topics.is_empty(), "a topic is there for as long as its run is open");
    }
    let both = |alias| [Got::Event(alias, 1), Got::Event(alias, 2)];
    let expected =
        |aliases: &[u64]| -> Vec<Got> { aliases.iter().flat_map(|a| both(*a)).collect() };
    assert_eq!(received(&mut hub, all), expected(&[0, 1, 2, 3]));
    assert_eq!(received(&mut hub, some), expected(&[1, 2]));
    assert_eq!(received(&mut hub, none), []);
    assert_eq!(hub.subscriptions(), 3);
}

#[test]
fn who_has_a_channel_in_many_ways_gets_each_event_once() {
    let mut hub = Hub::new(LIMIT);
    let ids = [1, 2, 3, 4].map(|client| seat(&mut hub, client));
    for id in ids {
        join_pattern(&mut hub, id, "c:", Policy::DropOldest);
        join_pattern(&mut hub, id, "c:eu/", Policy::DropOldest);
    }
    // With fewer members than the seat has channels, and with more.
    join_name(&mut hub, ids[0], 1, Policy::DropOldest);
    for alias in [0, 2, 3] {
        ids.iter().for_each(|id| join_name(&mut hub, *id, alias, Policy::DropOldest));
    }
    for alias in 0..4 {
        flood(&mut hub, alias, 1..2);
    }
    for id in ids {
        assert_eq!(received(&mut hub, id), [0, 1, 2, 3].map(|alias| Got::Event(alias, 1)));
    }
}

#[test]
fn the_longest_prefix_decides_and_a_name_before_it() {
    let (mut hub, id) = stalled(&[], Policy::DropOldest);
    let dropped = |hub: &mut Hub, offset| {
        let outcome = flood(hub, 1, offset..offset + 20);
        Policy::ALL.into_iter().find(|policy| outcome.dropped[*policy as usize] > 0)
    };
    join_pattern(&mut hub, id, "c:", Policy::DropOldest);
    assert_eq!(dropped(&mut hub, 1), Some(Policy::DropOldest));
    join_pattern(&mut hub, id, "c:eu/", Policy::DropNewest);
    assert_eq!(dropped(&mut hub, 21), Some(Policy::DropNewest));
    join_name(&mut hub, id, 1, Policy::Disconnect);
    assert_eq!(dropped(&mut hub, 41), Some(Policy::Disconnect));
}

#[test]
fn each_policy_holds_for_each_channel_of_a_pattern() {
    let events = |alias, offsets: std::ops::Range<u64>| offsets.map(move |o| Got::Event(alias, o));
    for policy in Policy::ALL {
        let (mut hub, id) = stalled(&["c:"], policy);
        let outcomes = [flood(&mut hub, 1, 1..5), flood(&mut hub, 2, 1..7)];
        let dropped: u64 = outcomes.iter().map(|outcome| outcome.dropped[policy as usize]).sum();
        let over: Vec<_> = outcomes.into_iter().flat_map(|outcome| outcome.overflowed).collect();
        let (expected, lost): (Vec<Got>, _) = match policy {
            Policy::Disconnect => (events(1, 1..5).chain(events(2, 1..5)).collect(), 2),
            Policy::DropNewest => {
                let first = events(1, 1..5).chain(events(2, 1..5));
                (first.chain([Got::Lagged(2, 5, 6, 2)]).collect(), 2)
            }
            Policy::DropOldest => {
                let first = events(1, 1..5).chain([Got::Lagged(2, 1, 2, 2)]);
                (first.chain(events(2, 3..7)).collect(), 2)
            }
            Policy::Latest => {
                let lagged = [Got::Lagged(2, 1, 6, 6), Got::Shown(2, 6)];
                (events(1, 1..5).chain(lagged).collect(), 6)
            }
        };
        assert_eq!(dropped, lost, "{policy:?}");
        assert_eq!(over, if policy == Policy::Disconnect { vec![id] } else { Vec::new() });
        assert_eq!(shown(&mut hub, id), expected, "{policy:?}");
    }
}

#[test]
fn a_pattern_lags_on_each_channel_alone_and_is_live_again() {
    let (mut hub, id) = stalled(&["c:"], Policy::Latest);
    let keyed = |alias| -> Vec<_> {
        (1..31).map(|o| on(alias, o, Some(if o % 2 == 0 { "a" } else { "b" }))).collect()
    };
    for alias in [1, 2] {
        publish(&mut hub, &keyed(alias), &mut Kernel::default());
    }
    flood(&mut hub, 3, 1..3);
    let lag = |alias| [Got::Lagged(alias, 1, 30, 30), Got::Shown(alias, 29), Got::Shown(alias, 30)];
    let mut expected = [lag(1), lag(2)].concat();
    expected.extend([Got::Event(3, 1), Got::Event(3, 2)]);
    assert_eq!(hub.patterns.seats[id].as_ref().unwrap().lags.len(), 2);
    assert_eq!(shown(&mut hub, id), expected);
    assert!(hub.patterns.seats[id].as_ref().unwrap().lags.is_empty());
    flood(&mut hub, 1, 31..33);
    assert_eq!(shown(&mut hub, id), [Got::Event(1, 31), Got::Event(1, 32)]);
}

#[test]
fn the_table_of_a_channel_goes_when_nobody_lags_and_nothing_is_published() {
    let (mut hub, id) = stalled(&["c:"], Policy::Latest);
    flood(&mut hub, 1, 1..30);
    flood(&mut hub, 2, 1..3);
    assert_eq!((hub.topics.len(), hub.patterns.held.len()), (2, 2));
    hub.still_full(None);
    assert_eq!(hub.topics.len(), 2, "used since the last look");
    hub.still_full(None);
    assert_eq!(hub.topics.keys().collect::<Vec<_>>(), [&Alias(1)], "it lags there");
    // What was queued before the table went is still delivered, and the account is whole.
    flood(&mut hub, 2, 3..30);
    let got = shown(&mut hub, id);
    let mut expected = vec![Got::Lagged(1, 1, 29, 29), Got::Shown(1, 29)];
    expected.extend([Got::Event(2, 1), Got::Event(2, 2)]);
    expected.extend([Got::Lagged(2, 3, 29, 27), Got::Shown(2, 29)]);
    assert_eq!(got, expected);
    end_pattern(&mut hub, id, "c:");
    hub.still_full(None);
    hub.still_full(None);
    assert!(hub.topics.is_empty() && hub.patterns.held.is_empty());
}

#[test]
fn the_end_of_a_pattern_takes_back_what_the_seat_has_in_no_other_way() {
    for policy in [Policy::DropOldest, Policy::Latest] {
        let (mut hub, id) = stalled(&["c:", "c:eu/"], policy);
        join_name(&mut hub, id, 3, policy);
        for alias in [0, 1, 3, 0] {
            flood(&mut hub, alias, 1..20);
        }
        assert_eq!(end_pattern(&mut hub, id, "c:us/"), None);
        assert_eq!(end_pattern(&mut hub, id, "c:"), Some(true));
        let got = shown(&mut hub, id);
        let of = |wanted| {
            got.iter().any(|got| match got {
                Got::Event(alias, _) | Got::Shown(alias, _) | Got::Lagged(alias, ..) => {
                    *alias == wanted
                }
                Got::Control(_) | Got::Last | Got::Signal(..) => false,
            })
        };
        assert_eq!([0, 1, 3].map(of), [false, true, true], "{policy:?}: {got:?}");
        flood(&mut hub, 0, 20..21);
        flood(&mut hub, 1, 20..21);
        assert_eq!(shown(&mut hub, id), [Got::Event(1, 20)], "{policy:?}");
        end_pattern(&mut hub, id, "c:eu/");
        end(&mut hub, id, 3);
        hub.still_full(None);
        hub.still_full(None);
        assert!(hub.topics.is_empty() && hub.patterns.seats.is_empty(), "{policy:?}");
        assert_eq!(hub.subscriptions(), 0);
    }
}

/// A subscription that lags becomes one by pattern, and one by name, and lags on all the time.
#[test]
fn a_channel_that_changes_between_name_and_pattern_goes_on_as_it_stands() {
    let (mut hub, id) = stalled(&[], Policy::Latest);
    join_name(&mut hub, id, 1, Policy::Latest);
    flood(&mut hub, 1, 1..20);
    join_pattern(&mut hub, id, "c:", Policy::DropOldest);
    assert_eq!(end(&mut hub, id, 1), Some(true));
    flood(&mut hub, 1, 20..40);
    // What is on its way is for it, whatever position a name begins at.
    hub.subscribe(id, (&name(1), Alias(1)), after(Policy::DropNewest, 50));
    flood(&mut hub, 1, 40..60);
    end_pattern(&mut hub, id, "c:");
    flood(&mut hub, 1, 60..80);
    assert_eq!(shown(&mut hub, id), [Got::Lagged(1, 1, 79, 79), Got::Shown(1, 79)]);
    flood(&mut hub, 1, 80..90);
    let mut expected: Vec<Got> = (80..88).map(|offset| Got::Event(1, offset)).collect();
    expected.push(Got::Lagged(1, 88, 89, 2));
    assert_eq!(shown(&mut hub, id), expected, "and then its own policy holds");
}

#[test]
fn what_a_seat_that_is_closed_has_missed_is_told() {
    let (mut hub, id) = stalled(&["c:"], Policy::Latest);
    flood(&mut hub, 1, 1..30);
    let mut left = Vec::new();
    hub.leave_all(id, |what, last| left.push((format!("{what:?}"), last)));
    assert_eq!(left, [("Prefix(\"c:\")".to_owned(), true)]);
    assert_eq!(shown(&mut hub, id), [Got::Lagged(1, 1, 29, 29)]);
    hub.still_full(None);
    hub.still_full(None);
    assert!(hub.topics.is_empty());
}

/// A pattern has any number of channels: nobody waits until all their tables have been looked at.
#[test]
fn tables_that_nobody_needs_go_in_parts() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join_pattern(&mut hub, id, "c:", Policy::Latest);
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    for alias in 10..5_010 {
        publish(&mut hub, &batch(alias, 1..2), &mut kernel);
        received(&mut hub, id);
    }
    assert_eq!(hub.topics.len(), 5_000);
    hub.still_full(None);
    publish(&mut hub, &batch(5_009, 2..3), &mut kernel);
    let mut looks = 0;
    while hub.topics.len() > 1 {
        let before = hub.topics.len();
        hub.rest_tables();
        if hub.patterns.unseen == 0 {
            hub.still_full(None);
        }
        looks += 1;
        assert!(before - hub.topics.len() < 2 * 2_048 + 1, "{before} to {}", hub.topics.len());
    }
    assert!(looks >= 4, "{looks}");
    (0..4).for_each(|_| drop(hub.still_full(None)));
    assert!(hub.topics.is_empty() && hub.patterns.held.is_empty());
}

/// The shard had the channel, then not, and has it again, while its mail was not fanned out.
#[test]
fn what_was_on_its_way_when_a_pattern_came_is_not_for_it() {
    let mut hub = Hub::new(LIMIT);
    let [early, late, named] = [1, 2, 3].map(|client| seat(&mut hub, client));
    join_pattern(&mut hub, early, "c:", Policy::DropOldest);
    // Two events are in the mail, and two more come behind.
    begin_pattern(&mut hub, late, "c:", after(Policy::DropOldest, 2));
    begin_pattern(&mut hub, named, "c:", after(Policy::DropOldest, 2));
    hub.subscribe(named, (&name(1), Alias(1)), after(Policy::DropOldest, 9));
    let mut mail = batch(1, 1..3);
    mail.extend(batch(1, 6..8));
    let mut batches = 0;
    for event in &mail {
        while !hub.load(event, 0) {
            hub.fan_out(&mut Kernel::default(), 0, &mut Outcome::default());
            batches += 1;
        }
    }
    hub.fan_out(&mut Kernel::default(), 0, &mut Outcome::default());
    assert_eq!(batches, 1);
    assert_eq!(received(&mut hub, early), [1, 2, 6, 7].map(|offset| Got::Event(1, offset)));
    for id in [late, named] {
        assert_eq!(received(&mut hub, id), [6, 7].map(|offset| Got::Event(1, offset)));
    }
    assert!(hub.patterns.fences.is_empty());
}

/// A reader that stalls on ever more channels has a notice for each in its queue.
#[test]
fn a_queue_with_too_many_notices_ends_its_connection() {
    for policy in [Policy::DropOldest, Policy::DropNewest, Policy::Latest] {
        let (mut hub, id) = stalled(&["c:"], policy);
        let mut over = Vec::new();
        let mut channels = 0;
        while over.is_empty() {
            channels += 1;
            over = flood(&mut hub, 10 + channels, 1..3).overflowed;
        }
        assert_eq!(over, [id]);
        assert!(channels > 1_000 && hub.seat(id).unwrap().outbox.lane_len() < 1_100, "{policy:?}");
        assert_eq!(flood(&mut hub, 5, 1..3).overflowed, [0; 0], "named once");
    }
}

#[test]
fn the_books_of_patterns_are_right_whoever_comes_and_goes() {
    const PREFIXES: [&str; 4] = ["c:", "c:eu/", "d:", "e:"];
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(LIMIT);
        let mut model = BTreeSet::new();
        let mut seats = Vec::new();
        for client in 0..300 {
            let prefix = PREFIXES[rng.usize(0..PREFIXES.len())];
            let at = rng.usize(0..seats.len().max(1));
            let last = |model: &BTreeSet<(usize, &str)>| model.iter().all(|(_, p)| *p != prefix);
            match (rng.u8(0..10), seats.get(at).copied()) {
                (0 | 1, _) | (_, None) => seats.push(seat(&mut hub, client)),
                (2, Some(id)) => {
                    seats.swap_remove(at);
                    hub.close(id, |_, _| {});
                    model.retain(|(seat, _)| *seat != id);
                }
                (3..7, Some(id)) => {
                    assert_eq!(hub.has_pattern(id, prefix), !model.insert((id, prefix)));
                    let policy = Policy::ALL[rng.usize(0..Policy::ALL.len())];
                    join_pattern(&mut hub, id, prefix, policy);
                }
                (_, Some(id)) => {
                    let had = model.remove(&(id, prefix));
                    let expected = had.then(|| last(&model));
                    assert_eq!(end_pattern(&mut hub, id, prefix), expected, "seed {seed}");
                }
            }
            check_patterns(&hub, &model);
        }
    }
}

/// Every seat and pattern names the other.
fn check_patterns(hub: &Hub, model: &BTreeSet<(SeatId, &str)>) {
    let mut members = 0;
    for (_, pattern) in &hub.patterns.all {
        let latest = pattern.members.iter().filter(|member| member.policy == Policy::Latest);
        assert_eq!(pattern.latest, latest.count());
        assert!(hub.patterns.table.get(&pattern.prefix).is_some() && !pattern.members.is_empty());
        members += pattern.members.len();
    }
    assert_eq!((members, hub.subscriptions()), (model.len(), model.len() as u64));
    for (id, prefix) in model {
        let sub = hub.patterns.sub(*id, prefix).unwrap();
        let pattern = &hub.patterns.all[sub.pattern as usize];
        assert_eq!(pattern.members[sub.member as usize].seat as usize, *id);
    }
    for (id, mine) in hub.patterns.seats.iter().enumerate() {
        let count = model.iter().filter(|(seat, _)| *seat == id).count();
        assert_eq!(mine.as_ref().map_or(0, |mine| mine.subs.len()), count);
        assert!(mine.is_none() || count > 0, "no empty entry stays");
    }
}
