//! Members of one channel that speak different forms: each gets its own, and each is made once.

use super::*;
use crate::core::outbox::tests::keyed_event;
use crate::proto::encoder::Encoder;

/// Small enough for the events of these tests to be compressed.
const COMPRESSION: Compression =
    Compression { deflate: true, gzip: true, level: 1, threshold: 100 };

fn hub() -> Hub {
    Hub::compressing(LIMIT, COMPRESSION)
}

fn speaker(hub: &mut Hub, client: u64, format: Format) -> SeatId {
    hub.open_in(format, Arc::new(Author { client: ClientId(client), user: None }), 0)
}

/// What waits for a seat, as bytes.
fn wire(hub: &mut Hub, id: SeatId) -> Vec<u8> {
    let mut wire = Vec::new();
    loop {
        let outbox = &mut hub.seat(id).unwrap().outbox;
        while !outbox.is_idle() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = outbox.gather(|| 0, &mut slices);
            let bytes: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            outbox.advance(bytes.len(), &mut Sink);
            wire.extend(bytes);
        }
        if outbox.lagging().is_none() || !hub.refill(id, || 0) {
            return wire;
        }
    }
}

fn frames<'a>(events: impl IntoIterator<Item = &'a Arc<Event>>, format: Format) -> Vec<u8> {
    let mut encoder = Encoder::new(COMPRESSION);
    events.into_iter().flat_map(|event| event.frame(format, &mut encoder).to_vec()).collect()
}

#[test]
fn each_form_is_made_once_however_many_speak_it() {
    let mut hub = hub();
    let seats: Vec<(SeatId, Format)> = (0..70)
        .map(|client| (client, Format::ALL[usize::try_from(client).unwrap() % 7]))
        .map(|(client, format)| (speaker(&mut hub, client, format), format))
        .collect();
    seats.iter().for_each(|(id, _)| join(&mut hub, *id, 1, Policy::DropOldest));
    let large: Vec<_> = (1..5).map(|offset| event(1, offset, 300)).collect();
    publish(&mut hub, &large, &mut Kernel::default());
    assert_eq!(hub.take_made().encodings, [4; 7]);
    for (id, format) in &seats {
        assert_eq!(wire(&mut hub, *id), frames(&large, *format), "{format:?}");
    }
    // What is too small to be compressed is the form that it would be made from.
    let small: Vec<_> = (5..7).map(|offset| event(1, offset, 9)).collect();
    publish(&mut hub, &small, &mut Kernel::default());
    let made = hub.take_made();
    assert_eq!((made.encodings, made.plain), ([2, 0, 0, 2, 0, 0, 0], 0));
    for (id, format) in &seats {
        assert_eq!(wire(&mut hub, *id), frames(&small, *format), "{format:?}");
    }
}

#[test]
fn whoever_comes_and_goes_each_gets_its_own_form() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hub = hub();
        let mut offset = 0;
        let mut seats: Vec<(SeatId, Format, u64)> = Vec::new();
        for client in 0..60 {
            match rng.u8(0..4) {
                0 | 1 => {
                    let format = Format::ALL[rng.usize(0..7)];
                    let id = speaker(&mut hub, client, format);
                    let position = rng.u64(offset..offset + 3);
                    let to = (&channel(1), Alias(1));
                    hub.subscribe(id, to, after(Policy::DropOldest, position));
                    seats.push((id, format, position));
                }
                2 if !seats.is_empty() => {
                    let (id, ..) = seats.swap_remove(rng.usize(0..seats.len()));
                    hub.close(id, |_, last| assert_eq!(last, seats.is_empty()));
                }
                _ => {}
            }
            let batch: Vec<_> = (0..rng.usize(0..8))
                .map(|_| {
                    offset += 1;
                    let hidden_from = rng.bool().then(|| ClientId(rng.u64(0..60)));
                    hidden_event(1, offset, rng.usize(1..400), hidden_from)
                })
                .collect();
            publish(&mut hub, &batch, &mut Kernel::default());
            let mut spoken = [false; 7];
            for (id, format, position) in &seats {
                spoken[format.index()] = true;
                let client = hub.seat(*id).unwrap().author.client;
                let meant = batch
                    .iter()
                    .filter(|event| event.offset > *position && event.hidden_from != Some(client));
                assert_eq!(wire(&mut hub, *id), frames(meant, *format), "{format:?}, seed {seed}");
            }
            let mixed = hub.topics.values().any(|topic| topic.mixed.is_some());
            let json = |(at, _): &(usize, &bool)| *at == Format::Json.index();
            let others = spoken.iter().enumerate().filter(|one| !json(one)).any(|(_, it)| *it);
            assert_eq!(mixed, others, "no room is kept for what nobody speaks");
            for made in hub.take_made().encodings {
                assert!(made <= batch.len() as u64, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_hole_is_told_in_json_and_filled_in_the_form_that_is_spoken() {
    for format in Format::ALL {
        let mut hub = hub();
        let id = speaker(&mut hub, 1, format);
        join(&mut hub, id, 1, Policy::Latest);
        hub.seat(id).unwrap().blocked = true;
        let names: Vec<String> = (0..2).map(|nth| format!("k{nth}").repeat(60)).collect();
        let key = |offset: u64| names[usize::try_from(offset).unwrap() % 2].as_str();
        let batch: Vec<_> = (1..30).map(|at| keyed_event(1, at, Some(key(at)))).collect();
        for event in &batch {
            publish(&mut hub, std::slice::from_ref(event), &mut Kernel::default());
        }
        let seat = hub.seat(id).unwrap();
        seat.blocked = false;
        let wire = wire(&mut hub, id);
        let mut encoder = Encoder::new(COMPRESSION);
        let shown = batch[27..].iter().map(|event| event.snapshot_frame(format, &mut encoder));
        let shown: Vec<u8> = shown.flat_map(Vec::from).collect();
        assert!(wire.ends_with(&shown), "{format:?}");
        let told = br#"{"type":"lagged","channel":"c1","#;
        assert!(wire.windows(told.len()).any(|part| part == told), "{format:?}");
    }
}

#[test]
fn a_flush_of_a_rate_reaches_every_form() {
    let mut hub = hub();
    let seats: Vec<(SeatId, Format)> = (0..14)
        .map(|client| (client, Format::ALL[usize::try_from(client).unwrap() % 7]))
        .map(|(client, format)| (speaker(&mut hub, client, format), format))
        .collect();
    for (id, _) in &seats {
        let wanted = Join { max_rate: Rate::new(1.0), ..after(Policy::DropOldest, 0) };
        hub.subscribe(*id, (&channel(1), Alias(1)), wanted);
    }
    let batch: Vec<_> = (1..6).map(|offset| event(1, offset, 300)).collect();
    let outcome = publish(&mut hub, &batch, &mut Kernel::default());
    assert_eq!(outcome.conflated, 4 * 14, "the newest alone is flushed");
    assert_eq!(hub.take_made().encodings, [1; 7]);
    for (id, format) in &seats {
        assert_eq!(wire(&mut hub, *id), frames(&batch[4..], *format), "{format:?}");
    }
}
