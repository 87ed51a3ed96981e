//! Signals in a shard: who is told, who is not, and from where on.

use super::*;
use crate::core::hub::Telling;
use crate::core::notice::Notice;
use crate::core::signals::Told;
use crate::core::signals::tests::signal;
use crate::proto::rate::Rate;

/// News of a signal of the client 1 on the channel 7, one for each value: none takes the place of
/// another.
fn begin(hub: &mut Hub, value: Option<u64>, begins: bool) -> Telling {
    let signal = signal((7, ClientId(1), &name_of(value)), value);
    hub.begin_telling(Arc::new(Notice::Signal(Told { signal, begins })))
}

/// Tells everybody at once. Returns who is to be closed.
fn tell(hub: &mut Hub, mut telling: Telling, kernel: &mut Kernel) -> Vec<SeatId> {
    let mut outcome = Outcome::default();
    hub.tell(&mut telling, usize::MAX, kernel, &mut outcome);
    assert!(telling.is_done());
    outcome.overflowed
}

fn show(hub: &mut Hub, value: u64) {
    let telling = begin(hub, Some(value), false);
    assert_eq!(tell(hub, telling, &mut Kernel::default()), [0; 0]);
}

fn got(value: u64) -> Got {
    Got::Signal(7, name_of(Some(value)), Some(value))
}

fn name_of(value: Option<u64>) -> String {
    format!("a{value:?}")
}

#[test]
fn those_who_have_the_channel_are_told_but_for_the_sender() {
    let mut hub = Hub::new(LIMIT);
    let [sender, plain, rated, other] = [1, 2, 3, 4].map(|c| seat(&mut hub, c));
    for id in [sender, plain] {
        join(&mut hub, id, 7, Policy::DropOldest);
    }
    let max_rate = Rate::new(1.0);
    hub.subscribe(rated, (&channel(7), Alias(7)), Join { max_rate, ..after(Policy::Latest, 0) });
    join(&mut hub, other, 8, Policy::DropOldest);
    show(&mut hub, 5);
    for (id, expected) in [(sender, 0), (plain, 1), (rated, 1), (other, 0)] {
        let expected = vec![got(5); expected];
        assert_eq!(received(&mut hub, id), expected, "{id}");
    }
    let mut dirty: Vec<_> = std::iter::from_fn(|| hub.next_dirty()).collect();
    dirty.sort_unstable();
    assert_eq!(dirty, [plain, rated], "they are to be written, and no one else");
    // What waits goes with the subscription.
    show(&mut hub, 6);
    end(&mut hub, plain, 7);
    assert_eq!(received(&mut hub, plain), []);
    assert_eq!(received(&mut hub, rated), [got(6)]);
    [plain, rated].into_iter().for_each(|id| hub.weigh(id));
    hub.forget_spare();
    assert_eq!(hub.memory(), 0, "nothing is held any more");
}

/// A subscription is told what is shown, as of a number of notices: those are no news to it,
/// whatever of them is yet to be handed out.
#[test]
fn a_subscription_is_not_told_what_it_was_told_already() {
    let mut hub = Hub::new(LIMIT);
    let [old, new] = [2, 3].map(|client| seat(&mut hub, client));
    join(&mut hub, old, 7, Policy::DropOldest);
    show(&mut hub, 1);
    let kernel = &mut Kernel::default();
    // The second is under way when the new one comes, who was told of three.
    let mut second = begin(&mut hub, Some(2), false);
    hub.tell(&mut second, 0, kernel, &mut Outcome::default());
    join(&mut hub, new, 7, Policy::DropOldest);
    hub.begin_behind(3, (ClientId(3), Alias(7)));
    end(&mut hub, old, 7);
    join(&mut hub, old, 7, Policy::DropOldest);
    hub.begin_behind(3, (ClientId(2), Alias(7)));
    tell(&mut hub, second, kernel);
    show(&mut hub, 3);
    show(&mut hub, 4);
    for id in [old, new] {
        assert_eq!(received(&mut hub, id), [got(4)], "{id}");
    }
    assert_eq!(hub.fences.len(), 0);
    // With nothing on its way there is nothing to remember.
    hub.begin_behind(4, (ClientId(3), Alias(7)));
    assert_eq!(hub.fences.len(), 0);
    show(&mut hub, 5);
    assert_eq!(received(&mut hub, new), [got(5)]);
}

/// Where somebody subscribes before every notice, the newest fence is never passed.
#[test]
fn fences_that_were_passed_are_forgotten_while_others_are_ahead() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 2);
    join(&mut hub, id, 7, Policy::DropOldest);
    let mut most = 0;
    for number in 1..=10_000 {
        // One notice is on its way whenever somebody comes.
        hub.begin_behind(number + 1, (ClientId(10 + number), Alias(7)));
        show(&mut hub, number);
        assert_eq!(received(&mut hub, id), [got(number)]);
        most = most.max(hub.fences.len());
    }
    assert!((1..=64).contains(&most), "{most} are remembered, of which two are ahead");
    // Those that are ahead stay, however many.
    for client in 0..1_000 {
        hub.begin_behind(20_000, (ClientId(client), Alias(7)));
    }
    assert!(hub.fences.len() >= 1_000);
    show(&mut hub, 10_001);
    assert_eq!(received(&mut hub, id), [], "its own is among them");
}

#[test]
fn who_has_no_room_is_written_first_and_closed_where_that_does_not_help() {
    let mut hub = Hub::new(OutboxLimit { events: 1, ..LIMIT });
    let ids = [2, 3].map(|client| seat(&mut hub, client));
    for id in ids {
        join(&mut hub, id, 7, Policy::DropOldest);
    }
    show(&mut hub, 1);
    hub.seat(ids[1]).unwrap().blocked = true;
    let signal = signal((7, ClientId(1), "b"), Some(2));
    let notice = Arc::new(Notice::Signal(Told { signal, begins: true }));
    let telling = hub.begin_telling(Arc::clone(&notice));
    let mut kernel = Kernel { takes: true, ..Kernel::default() };
    assert_eq!(tell(&mut hub, telling, &mut kernel), [ids[1]]);
    assert_eq!((kernel.asked, kernel.got), (vec![ids[0]], vec![got(1)]));
    let second = Got::Signal(7, "b".to_owned(), Some(2));
    assert_eq!(received(&mut hub, ids[0]), [second]);
    let telling = hub.begin_telling(notice);
    assert_eq!(tell(&mut hub, telling, &mut Kernel::default()), [0; 0], "it is told once");
}
