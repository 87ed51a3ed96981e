//! Tests of `latest`: a reader that was too slow is told what it has missed, and shown the newest
//! event of each key in it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::outbox::tests::keyed_event;

/// Keys of the random test, that of events without a key among them.
const KEYS: usize = 5;

/// One reader of one channel, behind a kernel with little room, and what it has a right to.
struct Model {
    hub: Hub,
    id: SeatId,
    reader: Reader,
    /// The key of each event, and whether it is hidden from the reader; the first has offset 1.
    log: Vec<(usize, bool)>,
    told: u64,
    /// What is to be shown of the last hole.
    owed: BTreeMap<usize, u64>,
    shown: u64,
}

impl Model {
    fn new(limit: OutboxLimit) -> Self {
        let mut hub = Hub::new(limit);
        let id = seat(&mut hub, 1);
        join(&mut hub, id, 1, Policy::Latest);
        let (reader, log, owed) = Default::default();
        Self { hub, id, reader, log, told: 0, owed, shown: 0 }
    }

    fn publish(&mut self, batch: &[(usize, bool)]) {
        let keys = [None, Some("a"), Some("b"), Some("c"), Some("d")];
        let mut events = Vec::new();
        for (key, hidden) in batch {
            self.log.push((*key, *hidden));
            let mut event = keyed_event(1, self.log.len() as u64, keys[*key]);
            Arc::get_mut(&mut event).unwrap().hidden_from = hidden.then_some(ClientId(1));
            events.push(event);
        }
        // The seat is always blocked: the kernel took all it would when it was last asked.
        self.hub.seat(self.id).unwrap().blocked = true;
        let outcome = publish(&mut self.hub, &events, &mut Kernel::default());
        assert_eq!(outcome.overflowed, [0; 0]);
    }

    /// The kernel takes `room` bytes.
    fn write(&mut self, mut room: usize) {
        loop {
            let seat = self.hub.seat(self.id).unwrap();
            while room > 0 && !seat.outbox.is_idle() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = seat.outbox.gather(|| 0, &mut slices);
                let mut wire: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
                wire.truncate(room);
                room -= wire.len();
                seat.outbox.advance(wire.len(), &mut Sink);
                for got in self.reader.feed(&wire) {
                    read(got, (&self.log, &mut self.told), (&mut self.owed, &mut self.shown));
                }
            }
            if room == 0 {
                return seat.outbox.withdraw();
            }
            if !self.hub.refill(self.id, || 0) {
                return;
            }
        }
    }

    fn finish(mut self) {
        self.write(usize::MAX);
        let log = &self.log;
        let silent = log.iter().skip(usize::try_from(self.told).unwrap()).filter(|(_, own)| !own);
        assert_eq!(silent.count(), 0, "all is accounted for");
        settled(log, &self.owed);
        self.publish(&[(0, false)]);
        let last = self.log.len() as u64;
        assert_eq!(received(&mut self.hub, self.id), [Got::Event(1, last)], "live again");
    }
}

/// The ten lines: an offset comes, or lies in one hole, of which the newest of each key is shown.
fn read(
    got: Got,
    (log, told): (&[(usize, bool)], &mut u64),
    (owed, shown): (&mut BTreeMap<usize, u64>, &mut u64),
) {
    let index = |offset: u64| usize::try_from(offset).unwrap() - 1;
    let (from, to) = match got {
        Got::Event(_, offset) => {
            settled(log, owed);
            (offset, offset)
        }
        Got::Lagged(_, from, to, dropped) => {
            let hole = &log[index(from)..=index(to)];
            assert_eq!(dropped, hole.iter().filter(|(_, own)| !own).count() as u64);
            let newest: BTreeMap<_, _> = (from..=to).map(|at| (log[index(at)].0, at)).collect();
            owed.retain(|key, _| !newest.contains_key(key));
            settled(log, owed);
            *owed = newest.into_iter().filter(|(_, at)| !log[index(*at)].1).collect();
            *shown = 0;
            (from, to)
        }
        Got::Shown(_, offset) => {
            assert_eq!(owed.remove(&log[index(offset)].0), Some(offset), "{offset} in {owed:?}");
            assert!(offset > std::mem::replace(shown, offset), "in the order of offsets");
            return;
        }
        Got::Control(_) | Got::Last | Got::Signal(..) => panic!("not queued"),
    };
    assert!(from > *told && log[index(*told + 1)..index(from)].iter().all(|(_, own)| *own));
    *told = to;
}

/// What is still owed, the reader has superseded by events of its own that it asked not to see.
fn settled(log: &[(usize, bool)], owed: &BTreeMap<usize, u64>) {
    for (key, offset) in owed {
        let newer = &log[usize::try_from(*offset).unwrap()..];
        assert!(newer.contains(&(*key, true)), "{offset} was not shown");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn the_newest_of_each_key_that_was_missed_is_shown(
        ops in prop::collection::vec(
            (
                prop::collection::vec((0..KEYS, prop::bool::weighted(0.2)), 0..12),
                prop_oneof![2 => Just(0_usize), 2 => 1_usize..300, 1 => 1_usize..3_000],
            ),
            1..60,
        ),
        bytes in 150_usize..3_000,
        events in 1_usize..16,
    ) {
        let mut model = Model::new(OutboxLimit { bytes, events });
        for (batch, room) in &ops {
            model.publish(batch);
            model.write(*room);
        }
        model.finish();
    }
}

/// A hub with one seat on channel 1, whose kernel takes nothing.
fn stalled(policy: Policy) -> (Hub, SeatId) {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    join(&mut hub, id, 1, policy);
    hub.seat(id).unwrap().blocked = true;
    (hub, id)
}

pub(super) fn flood(hub: &mut Hub, offsets: std::ops::Range<u64>) -> Outcome {
    let keys = [Some("a"), Some("b"), None];
    let key = |offset| keys[usize::try_from(offset % 3).unwrap()];
    let events: Vec<_> = offsets.map(|offset| keyed_event(1, offset, key(offset))).collect();
    publish(hub, &events, &mut Kernel::default())
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
fn nothing_is_queued_for_one_that_lags_and_it_is_live_when_all_is_written() {
    let (mut hub, id) = stalled(Policy::Latest);
    let outcome = flood(&mut hub, 1..1_001);
    assert_eq!(outcome.dropped[Policy::Latest as usize], 1_000);
    let outbox = &hub.seat(id).unwrap().outbox;
    assert_eq!((outbox.data_events(), runs(outbox).len()), (0, 0));
    assert!(lane_room(outbox) <= 4);
    let last = [998, 999, 1_000].map(|offset| Got::Shown(1, offset));
    let expected: Vec<Got> = [Got::Lagged(1, 1, 1_000, 1_000)].into_iter().chain(last).collect();
    assert_eq!(shown(&mut hub, id), expected);
    flood(&mut hub, 1_001..1_003);
    assert_eq!(shown(&mut hub, id), [Got::Event(1, 1_001), Got::Event(1, 1_002)]);
}

#[test]
fn what_is_missed_while_it_is_shown_is_another_hole() {
    let (mut hub, id) = stalled(Policy::Latest);
    flood(&mut hub, 1..30);
    assert!(hub.refill(id, || 0));
    assert_eq!(received(&mut hub, id).len(), 4, "but it is not known to be all");
    flood(&mut hub, 30..32);
    let expected = [Got::Lagged(1, 30, 31, 2), Got::Shown(1, 30), Got::Shown(1, 31)];
    assert_eq!(shown(&mut hub, id), expected);
}

#[test]
fn a_policy_that_is_changed_holds_when_it_has_caught_up() {
    let (mut hub, id) = stalled(Policy::Latest);
    flood(&mut hub, 1..30);
    hub.update((id, Alias(1)), after(Policy::DropOldest, 0), &mut Kernel::default(), 0);
    flood(&mut hub, 30..60);
    assert_eq!(shown(&mut hub, id)[0], Got::Lagged(1, 1, 59, 59));
    assert!(hub.topics[&Alias(1)].latest.is_none(), "nobody needs it any more");
    flood(&mut hub, 60..72);
    assert_eq!(shown(&mut hub, id)[0], Got::Lagged(1, 60, 63, 4));
}

#[test]
fn what_no_table_has_seen_stays_in_the_queue() {
    let (mut hub, id) = stalled(Policy::DropOldest);
    flood(&mut hub, 1..5);
    hub.update((id, Alias(1)), after(Policy::Latest, 0), &mut Kernel::default(), 0);
    flood(&mut hub, 5..30);
    let mut expected: Vec<Got> = (1..5).map(|offset| Got::Event(1, offset)).collect();
    expected.push(Got::Lagged(1, 5, 29, 25));
    expected.extend([27, 28, 29].map(|offset| Got::Shown(1, offset)));
    assert_eq!(shown(&mut hub, id), expected);
}

#[test]
fn the_end_of_a_subscription_ends_its_lagging() {
    let (mut hub, id) = stalled(Policy::Latest);
    flood(&mut hub, 1..30);
    end(&mut hub, id, 1);
    assert_eq!(shown(&mut hub, id), []);
    join(&mut hub, id, 1, Policy::Latest);
    flood(&mut hub, 30..60);
    hub.leave_all(id, |_, _| {});
    assert_eq!(shown(&mut hub, id), [Got::Lagged(1, 30, 59, 30)], "what a shutdown still tells");
    assert!(hub.topics.is_empty());
}

#[test]
fn two_channels_that_lag_take_turns() {
    let (mut hub, id) = stalled(Policy::Latest);
    join(&mut hub, id, 2, Policy::Latest);
    flood(&mut hub, 1..30);
    publish(&mut hub, &events(2, 1..30), &mut Kernel::default());
    assert!(hub.refill(id, || 0));
    flood(&mut hub, 30..40);
    let aliases = shown(&mut hub, id).into_iter().filter_map(|got| match got {
        Got::Lagged(alias, ..) => Some(alias),
        Got::Control(_) | Got::Event(..) | Got::Last | Got::Signal(..) | Got::Shown(..) => None,
    });
    assert_eq!(aliases.collect::<Vec<_>>(), [1, 2, 1]);
}
