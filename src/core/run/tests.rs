//! Tests of runs: where one ends, what its parts are, and when it is used again.

use super::spare::{SPARE_BYTES_MAX, SPARE_MAX};
use super::*;
use crate::core::outbox::tests::{event, hidden_event};

const ANY: RunLimit = RunLimit { bytes: usize::MAX, frames: usize::MAX };

/// The frame of an event in plain JSON.
fn json(event: &Event) -> Vec<u8> {
    event.frame(Format::Json, &mut Encoder::default()).to_vec()
}

#[test]
fn a_conflated_run_knows_the_offset_of_each_frame() {
    let offsets = [3, 7, 8, 20];
    let events = offsets.map(|offset| event(1, offset, 9));
    let mut press = Press::default();
    let runs = press.lay(&events, Format::Json, 5, ANY);
    let run = &runs[0];
    assert_eq!((runs.len(), run.len(), run.made_ns(), run.taken_ns()), (1, 4, 5, 5));
    let positions = [(0, 0), (2, 0), (3, 1), (6, 1), (7, 2), (8, 3), (19, 3), (20, 4), (99, 4)];
    for (position, index) in positions {
        assert_eq!(run.after(position), index, "after {position}");
    }
    let part = run.part(1, 3);
    assert_eq!([part.offset(0), part.offset(1)], [7, 8]);
    assert_eq!((part.after(7), part.is_conflated()), (1, true));
    assert_eq!(part.slice(0, 2), run.slice(1, 3));
    let parted = press.lay(&events, Format::Json, 5, RunLimit { frames: 3, ..ANY });
    assert_eq!(parted.iter().map(|run| run.len()).collect::<Vec<_>>(), [3, 1]);
    // Used again, it is a run like any other.
    runs.into_iter().chain(parted).for_each(|run| press.issue(run));
    let again = press.begin(&event(1, 30, 9), 0);
    assert!(!again.is_conflated() && again.after(30) == 1);
}

#[test]
fn its_parts_are_its_frames() {
    let mut press = Press::default();
    let events: Vec<Arc<Event>> =
        [9, 300, 1].into_iter().zip(5..).map(|(size, offset)| event(1, offset, size)).collect();
    let mut run = press.begin(&events[0], 7);
    assert!(events[1..].iter().all(|event| press.append(&mut run, event, ANY)));
    assert_eq!((run.len(), run.offset(0), run.offset(2), run.made_ns()), (3, 5, 7, 7));
    for (index, event) in (0..).zip(&events) {
        assert_eq!(run.slice(index, index + 1), json(event));
        assert_eq!(run.size(index, index + 1), json(event).len());
        for at in run.start(index)..run.start(index + 1) {
            assert_eq!(run.frame_at(at), index);
        }
    }
    assert_eq!(run.frame_at(run.start(3)), 3, "the end of all");
    assert_eq!(run.slice(0, 3), events.iter().flat_map(|e| json(e)).collect::<Vec<_>>());
}

#[test]
fn what_is_after_a_position() {
    let mut press = Press::default();
    let mut run = press.begin(&event(1, 5, 9), 0);
    assert!(press.append(&mut run, &event(1, 6, 9), ANY));
    for (position, index) in [(0, 0), (4, 0), (5, 1), (6, 2), (7, 2), (u64::from(u32::MAX) * 2, 2)]
    {
        assert_eq!(run.after(position), index, "{position}");
    }
}

#[test]
fn a_run_ends_before_its_limits_and_at_a_hole() {
    let mut press = Press::default();
    let one = json(&event(1, 1, 100)).len();
    let cases = [
        ("follows", 2, 100, ANY, true),
        ("hole", 3, 100, ANY, false),
        ("frames", 2, 100, RunLimit { frames: 1, ..ANY }, false),
        ("just fits", 2, 100, RunLimit { bytes: 2 * one, ..ANY }, true),
        ("a byte too many", 2, 101, RunLimit { bytes: 2 * one, ..ANY }, false),
    ];
    for (name, offset, size, limit, fits) in cases {
        let mut run = press.begin(&event(1, 1, 100), 0);
        assert_eq!(press.append(&mut run, &event(1, offset, size), limit), fits, "{name}");
        assert_eq!(run.len(), 1 + u32::from(fits), "{name}");
        assert_eq!(run.slice(0, 9).len(), run.start(run.len()), "{name}");
    }
}

#[test]
fn an_event_that_begins_the_next_run_is_encoded_once() {
    let mut press = Press::default();
    let mut run = press.begin(&event(1, 1, 100), 0);
    let limit = RunLimit { bytes: run.slice(0, 1).len() + 1, ..ANY };
    let mut next = event(1, 2, 100);
    assert!(!press.append(&mut run, &next, limit));
    // Were it encoded again, it would be with this number.
    Arc::get_mut(&mut next).unwrap().ts_ms = 7;
    let again = press.begin(&next, 0);
    assert_eq!(again.slice(0, 1), json(&event(1, 2, 100)));
}

#[test]
fn a_run_is_used_again_once_nobody_holds_it() {
    let mut press = Press::default();
    let held = press.begin(&hidden_event(1, 1, 99, Some(ClientId(1))), 0);
    press.issue(Rc::clone(&held));
    let other = press.begin(&event(2, 1, 9), 0);
    assert!(!Rc::ptr_eq(&held, &other), "a subscriber has it");
    let address = Rc::as_ptr(&held);
    drop(held);
    let again = press.begin(&event(2, 8, 9), 3);
    assert_eq!((Rc::as_ptr(&again), press.issued.len()), (address, 0));
    assert_eq!((again.alias(), again.offset(0), again.len()), (Alias(2), 8, 1));
    assert_eq!((again.hidden(), again.made_ns()), (&[][..], 3), "nothing is left of the first");
    assert_eq!(again.slice(0, 1), json(&event(2, 8, 9)));
}

#[test]
fn a_small_run_does_not_keep_the_room_of_a_large_one() {
    let mut press = Press::default();
    let mut large = press.begin(&event(1, 1, 100_000), 0);
    press.seal(&mut large);
    press.issue(large);
    let mut small = press.begin(&event(1, 2, 9), 0);
    assert!(small.footprint() > 100_000, "the room is used again");
    press.seal(&mut small);
    assert!(small.footprint() <= PINNED_BYTES_MIN, "{}", small.footprint());
    assert_eq!(small.slice(0, 1), json(&event(1, 2, 9)));
}

#[test]
fn what_is_kept_for_reuse_is_bounded_in_bytes() {
    let mut press = Press::default();
    let issue = |press: &mut Press, size| {
        let mut run = Press::default().begin(&event(1, 1, size), 0);
        press.seal(&mut run);
        press.issue(Rc::clone(&run));
        run
    };
    let pinned: Vec<Rc<Run>> = (0..100).map(|_| issue(&mut press, 100_000)).collect();
    let sum = |press: &Press| press.issued.iter().map(|run| run.footprint()).sum::<usize>();
    assert!(press.bytes <= SPARE_BYTES_MAX && press.bytes == sum(&press), "{}", press.bytes);
    let last = issue(&mut press, 9);
    assert!(Rc::ptr_eq(press.issued.back().unwrap(), &last), "pinned ones give way");
    drop(pinned);
    for _ in 0..2 * SPARE_MAX {
        issue(&mut press, 9);
    }
    assert!(press.issued.len() <= SPARE_MAX && press.bytes <= SPARE_BYTES_MAX);
    while press.next().is_some() {}
    assert_eq!(press.bytes, 0);
}
