//! Tests of notices: who gets them, in how many turns, and what becomes of those who do not read.

use super::pattern::{join_pattern, name};
use super::*;
use crate::core::notice::{Frames, Notice};
use crate::proto::ws::frame;

/// One frame for channel 1, which is that client's own.
fn notice(text: &str, own: u64) -> Arc<Notice> {
    let mut bytes = Vec::new();
    frame::push_text(text.as_bytes(), &mut bytes);
    let own = (ClientId(own), 0, u32::try_from(bytes.len()).unwrap());
    Arc::new(Notice::Presence(Frames::new(Alias(1), bytes, vec![own])))
}

/// A subscription by name, to a channel that has prefixes.
fn join_name(hub: &mut Hub, id: SeatId, alias: u64) {
    hub.subscribe(id, (&name(alias), Alias(alias)), after(Policy::DropOldest, 0));
}

/// What waits in the control lane.
fn control(hub: &mut Hub, id: SeatId) -> usize {
    hub.seat(id).map_or(0, |seat| seat.outbox.control_bytes())
}

fn tell(hub: &mut Hub, notice: Arc<Notice>, kernel: &mut Kernel) -> Outcome {
    let mut outcome = Outcome::default();
    let mut telling = hub.begin_telling(notice);
    hub.tell(&mut telling, 100, kernel, &mut outcome);
    assert!(telling.is_done());
    outcome
}

#[test]
fn a_notice_is_for_those_who_have_the_channel_by_name_but_for_its_own_client() {
    let mut hub = Hub::new(LIMIT);
    let seats: Vec<_> = (0..7).map(|client| seat(&mut hub, client)).collect();
    for at in [0, 1, 2] {
        join_name(&mut hub, seats[at], 1);
    }
    let rated = Join { max_rate: Rate::new(1.0), ..after(Policy::Latest, 0) };
    hub.subscribe(seats[3], (&name(1), Alias(1)), rated);
    join_name(&mut hub, seats[4], 2);
    join_pattern(&mut hub, seats[5], "c:eu/", Policy::DropOldest);
    let notice = notice("hello", 1);
    let begun = Arc::clone(&notice);
    tell(&mut hub, notice, &mut Kernel::default());
    let got: Vec<_> = seats.iter().map(|id| control(&mut hub, *id)).collect();
    assert_eq!(got, [7, 0, 7, 7, 0, 0, 0]);
    assert_eq!(hub.dirty(), 3, "they are written");

    // Whoever leaves while it is on its way does not get it behind the answer.
    let mut telling = hub.begin_telling(begun);
    end(&mut hub, seats[0], 1);
    hub.close(seats[2], |_, _| {});
    let late = seat(&mut hub, 99);
    join_name(&mut hub, late, 1);
    hub.tell(&mut telling, 100, &mut Kernel::default(), &mut Outcome::default());
    let got: Vec<_> = [seats[0], late, seats[3]].map(|id| control(&mut hub, id)).into();
    assert_eq!(got, [7, 0, 14]);
}

#[test]
fn whoever_may_not_see_who_is_there_is_told_nothing_until_it_may() {
    let mut hub = Hub::new(LIMIT);
    let seats: Vec<_> = (0..3).map(|client| seat(&mut hub, client)).collect();
    let told = |hub: &mut Hub| {
        tell(hub, notice("hello", 99), &mut Kernel::default());
        seats.iter().map(|id| control(hub, *id)).collect::<Vec<_>>()
    };
    for id in &seats {
        join_name(&mut hub, *id, 1);
        join_name(&mut hub, *id, 2);
    }
    hub.show_presence((seats[0], Alias(1)), false);
    hub.show_presence((seats[1], Alias(2)), false);
    hub.show_presence((seats[2], Alias(3)), false);
    assert_eq!(hub.blind(), 2, "who has no subscription has nothing to be kept from");
    assert_eq!(told(&mut hub), [0, 7, 7]);
    hub.show_presence((seats[0], Alias(1)), true);
    assert_eq!(told(&mut hub), [7, 14, 14]);
    // With the subscription ends what is remembered of it.
    hub.show_presence((seats[0], Alias(1)), false);
    end(&mut hub, seats[0], 1);
    join_name(&mut hub, seats[0], 1);
    assert_eq!(told(&mut hub), [14, 21, 21]);
    hub.close(seats[1], |_, _| {});
    assert_eq!(hub.blind(), 0);
}

#[test]
fn many_seats_take_several_turns_and_each_gets_it_once() {
    let mut hub = Hub::new(LIMIT);
    let seats: Vec<_> = (0..10).map(|client| seat(&mut hub, client)).collect();
    for id in &seats {
        join_name(&mut hub, *id, 1);
    }
    let mut telling = hub.begin_telling(notice("hello", 99));
    let mut turns = 0;
    while !telling.is_done() {
        let mut outcome = Outcome::default();
        let told = hub.tell(&mut telling, 3, &mut Kernel::default(), &mut outcome);
        assert!((1..=3).contains(&told));
        turns += 1;
        // The list of members changes meanwhile.
        hub.close(seats[turns], |_, _| {});
    }
    assert_eq!(turns, 4);
    for id in [0, 5, 6, 7, 8, 9] {
        assert_eq!(control(&mut hub, seats[id]), 7);
    }
}

#[test]
fn who_leaves_too_much_unread_is_closed_and_answers_are_not_held_against_it() {
    // Something that the reader of these tests knows.
    let text = r#"{"type":"lagged","channel":"c:1","from":1,"to":1,"dropped":1}"#;
    let size = text.len() + 2;
    let limit = OutboxLimit { bytes: 3 * size + 10, events: 8 };
    let mut hub = Hub::new(limit);
    let [deaf, slow, asking] = [0, 1, 2].map(|client| seat(&mut hub, client));
    for id in [deaf, slow, asking] {
        join_name(&mut hub, id, 1);
    }
    hub.seat(deaf).unwrap().blocked = true;
    hub.seat(asking).unwrap().blocked = true;
    frame::push_text(&[b'x'; 10_000], hub.seat(asking).unwrap().outbox.control());
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    for nth in 1..=4 {
        let outcome = tell(&mut hub, notice(text, 99), &mut kernel);
        let closed: &[SeatId] = if nth == 4 { &[asking, deaf] } else { &[] };
        let mut overflowed = outcome.overflowed;
        overflowed.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(overflowed, closed, "notice {nth}");
    }
    assert_eq!(kernel.asked, [slow], "whose turn to be written had not come");
    assert_eq!(kernel.got.len(), 3);
    assert_eq!(control(&mut hub, slow), size);
    assert!(tell(&mut hub, notice(text, 99), &mut kernel).overflowed.is_empty(), "told once");
    // A notice that is larger than the bound finds room where none waits.
    let large = tell(&mut hub, notice(&format!("{}{text}", " ".repeat(1_000)), 99), &mut kernel);
    assert!(large.overflowed.is_empty(), "{large:?}");
}
