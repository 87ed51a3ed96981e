//! Tests of the past: against a model that keeps everything.

use std::sync::OnceLock;

use super::*;
use crate::proto::event::{Author, Payload};
use crate::proto::name::{Alias, ClientId};

const MS: u64 = 1_000_000;

fn event(rng: &mut fastrand::Rng, offset: u64, at_ms: u64) -> Arc<Event> {
    let size = if rng.u8(0..50) == 0 { rng.usize(0..200_000) } else { rng.usize(0..300) };
    let bytes = vec![b'1'; size].into_boxed_slice();
    let author = |n| Arc::new(Author { client: ClientId(n), user: None });
    Arc::new(Event {
        channel: "a:b".parse().expect("a name"),
        alias: Alias(7),
        offset,
        ts_ms: 1_700_000_000_000 + at_ms,
        taken_ns: at_ms * MS,
        key: rng.bool().then(|| "k".repeat(rng.usize(0..256)).into()),
        from: rng.bool().then(|| author(rng.u64(..))),
        hidden_from: rng.bool().then(|| ClientId(rng.u64(..))),
        payload: if rng.bool() { Payload::Json(bytes) } else { Payload::Opaque(bytes) },
        json_frame: OnceLock::new(),
        frames: crate::proto::encoder::Frames::default(),
    })
}

fn same(one: &Event, other: &Event) -> bool {
    one.channel == other.channel
        && (one.alias, one.offset, one.ts_ms, one.taken_ns)
            == (other.alias, other.offset, other.ts_ms, other.taken_ns)
        && (&one.key, &one.from, one.hidden_from) == (&other.key, &other.from, other.hidden_from)
        && one.payload == other.payload
}

#[test]
fn what_the_rule_keeps_is_there_and_what_it_does_not_keep_is_not() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rule = HistoryRule { size: rng.u64(1..300), ttl_ms: rng.u64(1..2_000) };
        let (mut history, mut model, mut memory) = (History::default(), Vec::new(), 0);
        let mut now_ms = 0;
        for offset in 1..=600_u64 {
            now_ms += rng.u64(0..10);
            let event = event(&mut rng, offset, now_ms);
            memory += history.push(&event, rule);
            model.push(event);
            if rng.u8(0..20) == 0 {
                now_ms += rng.u64(0..1_000);
                memory += history.sweep(rule, now_ms * MS);
            }
            assert_eq!(usize::try_from(memory), Ok(history.memory()), "seed {seed}");
            assert!(history.len() <= rule.size.max(1) + CHUNK_EVENTS as u64 + 1);
            let young = |event: &&Arc<Event>| now_ms - event.taken_ns / MS <= rule.ttl_ms;
            let last = model.len() - model.len().min(usize::try_from(rule.size).unwrap());
            let kept: Vec<_> = model[last..].iter().filter(young).collect();
            let after = rng.u64(0..=offset);
            let before = history.memory();
            let past = history.since((after, offset), rule, now_ms * MS);
            let wanted = kept.iter().filter(|event| event.offset > after);
            match past {
                Some(past) => {
                    let got: Vec<_> = past.events().collect();
                    assert_eq!(got.len() as u64, offset - after);
                    assert!(got.iter().zip(wanted).all(|(got, wanted)| same(got, wanted)));
                }
                None => assert_ne!(wanted.count() as u64, offset - after, "seed {seed}"),
            }
            let first = history.kept_after(offset, rule, now_ms * MS);
            assert_eq!(offset - first, kept.len() as u64, "seed {seed} at {offset}");
            // Any part of it: just the chunks that have some of it are shared.
            let from = rng.u64(first..=offset);
            let to = rng.u64(from..=offset);
            for (from, to) in [(first, offset), (from, to)] {
                let past = history.read(from, to);
                let wanted = kept.iter().filter(|event| (from + 1..=to).contains(&event.offset));
                let got: Vec<_> = past.events().collect();
                assert_eq!(got.len() as u64, to - from, "seed {seed} at {offset}");
                assert!(got.iter().zip(wanted).all(|(got, wanted)| same(got, wanted)));
                let meant = |chunk: &Arc<Chunk>| chunk.last() > from && chunk.first() <= to;
                assert!(past.chunks.iter().all(meant), "seed {seed} at {offset}");
            }
            // A reading may end the tail.
            memory += history.memory().cast_signed() - before.cast_signed();
        }
        while history.shed() > 0 {}
        assert!(history.is_empty());
    }
}

/// What was made of a large event for every form lives as long as the event.
#[test]
fn a_large_event_counts_with_all_that_was_made_of_it() {
    use crate::proto::format::{Compression, Format};
    use crate::proto::large::{Bodies, FRAGMENT_BYTES};
    let mut rng = fastrand::Rng::with_seed(1);
    let payload = Payload::Opaque((0..300_000).map(|_| rng.u8(..)).collect());
    let bodies = Bodies::new(&payload, &Format::ALL, Compression::default(), FRAGMENT_BYTES);
    let like = event(&mut rng, 1, 0);
    let large = Arc::new(Event {
        channel: like.channel.clone(),
        key: Some("k".into()),
        from: None,
        payload,
        json_frame: OnceLock::new(),
        frames: bodies.into(),
        ..*like
    });
    let (mut history, mut keyed) = (History::default(), crate::core::keyed::Keyed::default());
    history.push(&large, HistoryRule { size: 10, ttl_ms: 1_000 });
    keyed.put(&large, 10);
    assert!(large.bytes() > 3 * large.payload.len(), "JSON of it is not compressed, for one");
    for memory in [history.memory(), keyed.memory()] {
        assert!(memory >= large.bytes(), "{memory} of {}", large.bytes());
    }
}

#[test]
fn an_event_takes_little_more_than_its_payload() {
    let rule = HistoryRule { size: 1_000, ttl_ms: 1_000 };
    let mut history = History::default();
    for offset in 1..=10_000 {
        let mut like = Arc::into_inner(event(&mut fastrand::Rng::with_seed(1), offset, 0)).unwrap();
        like.payload = Payload::Json(vec![b'1'; 128].into());
        like.key = None;
        history.push(&Arc::new(like), rule);
    }
    let each = history.memory() / usize::try_from(history.len()).unwrap();
    assert!(each <= 200, "{each} bytes");
}

#[test]
fn those_who_ask_between_two_events_share_what_they_get() {
    let rule = HistoryRule { size: 1_000, ttl_ms: 1_000 };
    let mut history = History::default();
    let mut rng = fastrand::Rng::with_seed(3);
    for offset in 1..=10 {
        history.push(&event(&mut rng, offset, 0), rule);
    }
    let [one, other] = [3, 5].map(|after| history.since((after, 10), rule, 0).unwrap());
    assert!(Arc::ptr_eq(&one.chunks[0], &other.chunks[0]));
}

#[test]
fn whoever_is_ahead_has_missed_nothing() {
    let mut history = History::default();
    let rule = HistoryRule { size: 10, ttl_ms: 1_000 };
    assert_eq!(history.since((0, 0), rule, 0).map(|past| past.len()), Some(0));
    assert!(history.since((0, 1), rule, 0).is_none(), "it was not kept");
    assert_eq!(history.kept_after(1, rule, 0), 1, "nothing");
    assert!(history.read(1, 1).is_empty());
}
