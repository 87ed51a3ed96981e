//! Members that take several events in one text frame: what shares one, and what does not.

use super::pattern::join_pattern;
use super::*;
use crate::core::outbox::tests::runs;
use crate::proto::rate::Rate;
use crate::proto::ws::frame;

const ROOMY: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 4_096 };

/// A seat that takes several events in a frame.
fn taker(hub: &mut Hub, client: u64) -> SeatId {
    let id = seat(hub, client);
    hub.seat(id).unwrap().session.batch = true;
    id
}

/// The offsets of the events that wait for a seat, frame by frame; all of them are plain text.
fn frames(hub: &mut Hub, id: SeatId) -> Vec<Vec<u64>> {
    let outbox = &mut hub.seat(id).unwrap().outbox;
    let mut wire = Vec::new();
    while !outbox.is_idle() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.gather(|| 0, &mut slices);
        wire.extend(slices[..used].iter().flat_map(|slice| slice.to_vec()));
        let bytes = slices[..used].iter().map(|slice| slice.len()).sum();
        outbox.advance(bytes, &mut Sink);
    }
    let (mut frames, mut rest) = (Vec::new(), wire.as_slice());
    while !rest.is_empty() {
        let (one, more) = rest.split_at(frame::unmasked_len(rest));
        let text = std::str::from_utf8(&one[frame::unmasked_head_len(one)..]).unwrap();
        let offset = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["offset"].as_u64().unwrap()
        };
        frames.push(text.split('\n').map(offset).collect());
        rest = more;
    }
    frames
}

#[test]
fn a_batch_is_joined_once_for_all_who_take_it() {
    let mut hub = Hub::new(ROOMY);
    let plain = seat(&mut hub, 1);
    let takers: Vec<_> = (2..50).map(|client| taker(&mut hub, client)).collect();
    for id in takers.iter().chain([&plain]) {
        join(&mut hub, *id, 1, Policy::DropOldest);
    }
    for batch in 0..3 {
        let first = batch * 10 + 1;
        publish(&mut hub, &events(1, first..first + 10), &mut Kernel::default());
        let mut seen = BTreeSet::new();
        for id in &takers {
            let runs = runs(&hub.seat(*id).unwrap().outbox);
            assert_eq!(runs.len(), 1);
            seen.insert(Rc::as_ptr(&runs[0]).addr());
            assert_eq!(frames(&mut hub, *id), [(first..first + 10).collect::<Vec<_>>()]);
        }
        assert_eq!(seen.len(), 1, "pointed to, and not copied");
        assert_eq!(frames(&mut hub, plain).len(), 10);
        assert_eq!(hub.take_made().encodings.iter().sum::<u64>(), 10);
        assert!(hub.joined.is_empty());
        assert_eq!(hub.memory(), 0, "what is left is kept for reuse");
    }
    for id in takers {
        hub.close(id, |_, last| assert!(!last));
    }
    assert!(hub.topics[&Alias(1)].mixed.is_none(), "no room is kept for nobody");
}

#[test]
fn what_is_not_for_a_member_is_in_no_frame_of_its() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(ROOMY);
        let position = rng.u64(0..20);
        let id = taker(&mut hub, 1);
        hub.subscribe(id, (&channel(1), Alias(1)), after(Policy::DropOldest, position));
        let other = taker(&mut hub, 2);
        join(&mut hub, other, 1, Policy::DropOldest);
        let hidden = |rng: &mut fastrand::Rng| (rng.u8(0..4) == 0).then_some(ClientId(1));
        let batch: Vec<_> =
            (1..31).map(|at| hidden_event(1, at, rng.usize(1..3_000), hidden(&mut rng))).collect();
        publish(&mut hub, &batch, &mut Kernel::default());
        let meant: Vec<u64> = batch
            .iter()
            .filter(|event| event.offset > position && event.hidden_from.is_none())
            .map(|event| event.offset)
            .collect();
        let whole = frames(&mut hub, other);
        assert_eq!(whole.concat(), (1..31).collect::<Vec<_>>());
        let got = frames(&mut hub, id);
        assert_eq!(got.concat(), meant, "seed {seed}");
        for frame in whole.iter().filter(|frame| frame.iter().all(|at| meant.contains(at))) {
            assert!(got.contains(frame), "seed {seed}: {frame:?} comes as it is");
        }
    }
}

#[test]
fn flushes_and_patterns_are_joined_too() {
    let mut hub = Hub::new(ROOMY);
    let (by_rate, by_pattern) = (taker(&mut hub, 1), taker(&mut hub, 2));
    let max_rate = Rate::new(1.0);
    let to = (&"c:1".parse().unwrap(), Alias(1));
    hub.subscribe(by_rate, to, Join { max_rate, ..after(Policy::DropOldest, 0) });
    join_pattern(&mut hub, by_pattern, "c:", Policy::DropOldest);
    let on = |offset: u64| {
        let mut event = event(1, offset, 9);
        let fresh = Arc::get_mut(&mut event).unwrap();
        (fresh.channel, fresh.key) = (to.0.clone(), Some(format!("k{}", offset % 5).into()));
        event
    };
    let mut outcome = Outcome::default();
    for event in (1..21).map(on) {
        assert!(hub.load(&event, 0));
    }
    hub.fan_out(&mut Kernel::default(), 1_000, &mut outcome);
    assert_eq!(frames(&mut hub, by_pattern), [(1..21).collect::<Vec<_>>()]);
    assert_eq!(frames(&mut hub, by_rate), [(16..21).collect::<Vec<_>>()]);
    assert!(hub.joined.is_empty());
}
