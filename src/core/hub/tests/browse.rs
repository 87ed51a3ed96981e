//! Tests of what a subscription to a pattern is shown first: the newest of each key of each channel,
//! before what comes as it is published, and nothing in both ways.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::pattern::{begin_pattern, end_pattern, join_pattern, name, on};
use super::*;
use crate::core::browse::{Bookmark, Leaf, Listing, Shelf};
use crate::core::keyed::Keyed;
use crate::proto::rate::Rate;

/// Channels by their number, and what is on its way to the shard.
#[derive(Default)]
struct Books {
    channels: RefCell<BTreeMap<u64, (Keyed, u64)>>,
    mail: Cell<u64>,
}

impl Books {
    /// Publishes an event, which is in the mail from then on.
    fn put(&self, alias: u64, key: &str) -> Arc<Event> {
        let mut channels = self.channels.borrow_mut();
        let (keyed, head) = channels.entry(alias).or_default();
        *head += 1;
        let event = on(alias, *head, Some(key));
        keyed.put(&event, 1_000);
        self.mail.set(self.mail.get() + 1);
        event
    }

    /// All mail is handed around.
    fn hand(&self, hub: &mut Hub, mail: &[Arc<Event>]) {
        publish(hub, mail, &mut Kernel::default());
        self.mail.set(self.mail.get() - mail.len() as u64);
    }
}

impl Shelf for Books {
    fn list(&self, prefix: &str, from: Bookmark) -> Listing {
        let channels = self.channels.borrow();
        let under = channels.keys().filter(|alias| **alias > from.after || from.part == 0);
        let mut under = under.filter(|alias| name(**alias).as_str().starts_with(prefix));
        // Two at a time.
        let some: Vec<_> = under.by_ref().take(2).map(|at| (name(*at), Alias(*at))).collect();
        let after = some.last().map_or(0, |(_, alias)| alias.0);
        let next = under.next().map(|_| Bookmark { part: 1, after });
        Listing { channels: some, next }
    }

    fn leaf(&self, _: &ChannelName, alias: Alias, after: u64) -> Option<Leaf> {
        let channels = self.channels.borrow();
        let (keyed, head) = channels.get(&alias.0)?;
        Some(Leaf { head: *head, chunk: Arc::clone(keyed.after(after).next()?) })
    }

    fn mail(&self) -> u64 {
        self.mail.get()
    }
}

/// All that the seat reads now.
fn read(hub: &mut Hub, id: SeatId, books: &Books) -> Vec<Got> {
    let mut got = received(hub, id);
    while hub.refill(id, || 0) || hub.turn_page(id, books) {
        got.extend(received(hub, id));
    }
    got
}

fn begin(hub: &mut Hub, id: SeatId, prefix: &str, books: &Books, max_rate: Option<Rate>) {
    let join = Join { max_rate, ..after(Policy::DropOldest, books.mail.get()) };
    begin_pattern(hub, id, prefix, join);
    hub.browse(id, prefix);
}

fn shown(alias: u64, offsets: impl IntoIterator<Item = u64>) -> Vec<Got> {
    offsets.into_iter().map(|offset| Got::Shown(alias, offset)).collect()
}

#[test]
fn the_newest_of_each_key_of_every_channel_comes_first() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let id = seat(&mut hub, 1);
    for (alias, key) in [(0, "a"), (0, "b"), (0, "a"), (1, "a"), (2, "c"), (2, "d"), (4, "a")] {
        books.put(alias, key);
    }
    for key in 0..150 {
        books.put(3, &key.to_string());
    }
    books.mail.set(0);
    begin(&mut hub, id, "c:", &books, None);
    let wanted = [shown(0, 2..=3), shown(1, 1..=1), shown(2, 1..=2), shown(3, 1..=150)].concat();
    assert_eq!(read(&mut hub, id, &books), wanted);
    let live = [books.put(1, "a")];
    books.hand(&mut hub, &live);
    assert_eq!(read(&mut hub, id, &books), [Got::Event(1, 2)]);
    let queues = hub.queues();
    assert_eq!((hub.memory(), queues.bytes), (0, 0), "nothing is kept");
}

/// What is published after the subscription comes as it is, behind what is shown, whenever that is
/// read: before it was published, while it is in the mail, or when it waits in the queue.
#[test]
fn what_is_live_is_not_shown_as_well() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let id = seat(&mut hub, 1);
    for (alias, key) in [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a")] {
        books.put(alias, key);
    }
    // Mail from before the subscription is not for it, but shown.
    let early = [books.put(0, "c")];
    books.mail.set(1);
    begin(&mut hub, id, "c:", &books, None);
    let mail = [books.put(0, "a"), books.put(1, "c"), books.put(1, "b")];
    assert_eq!(read(&mut hub, id, &books), [], "it waits for the mail");
    assert_eq!(hub.next_dirty(), Some(id));
    books.hand(&mut hub, &early);
    assert_eq!((hub.next_dirty(), read(&mut hub, id, &books)), (None, vec![]), "for all of it");
    books.hand(&mut hub, &mail);
    assert_eq!(hub.next_dirty(), Some(id), "now it goes on");
    let live = [Got::Event(0, 4), Got::Event(1, 3), Got::Event(1, 4)];
    let first = [shown(0, 2..=3), shown(1, 1..=1), shown(2, 1..=1)].concat();
    assert_eq!(read(&mut hub, id, &books), [first, live.to_vec()].concat());
}

/// Where what came meanwhile is lost, the hole stands behind what is shown.
#[test]
fn a_hole_is_not_filled_by_what_is_shown() {
    let limit = OutboxLimit { events: 2, ..LIMIT };
    for policy in [Policy::DropOldest, Policy::DropNewest, Policy::Latest] {
        let (mut hub, books) = (Hub::new(limit), Books::default());
        let id = seat(&mut hub, 1);
        hub.seat(id).unwrap().blocked = true;
        for key in ["a", "b", "c"] {
            books.put(0, key);
        }
        books.mail.set(0);
        begin_pattern(&mut hub, id, "c:", after(policy, 0));
        hub.browse(id, "c:");
        for _ in 0..4 {
            let mail = [books.put(0, "a")];
            books.hand(&mut hub, &mail);
        }
        let got = read(&mut hub, id, &books);
        let behind = match policy {
            Policy::DropOldest => vec![Got::Lagged(0, 4, 5, 2), Got::Event(0, 6), Got::Event(0, 7)],
            Policy::DropNewest => vec![Got::Event(0, 4), Got::Event(0, 5), Got::Lagged(0, 6, 7, 2)],
            Policy::Disconnect | Policy::Latest => vec![Got::Lagged(0, 4, 7, 4), Got::Shown(0, 7)],
        };
        assert_eq!(got, [shown(0, 2..=3), behind].concat(), "{policy:?}");
    }
}

/// What a rate holds back is brought by that, and not shown before.
#[test]
fn what_a_rate_holds_back_comes_by_its_flush() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let id = seat(&mut hub, 1);
    books.put(0, "a");
    books.put(0, "b");
    books.mail.set(0);
    begin(&mut hub, id, "c:", &books, Rate::new(1.0));
    let mut kernel = Kernel::default();
    let mut outcome = Outcome::default();
    for key in ["c", "b"] {
        let event = books.put(0, key);
        assert!(hub.load(&event, 0));
        hub.fan_out(&mut kernel, 0, &mut outcome);
        books.mail.set(0);
    }
    // The first at once, the other when the interval is over.
    assert_eq!(read(&mut hub, id, &books), [shown(0, [1]), vec![Got::Event(0, 3)]].concat());
    hub.fan_out(&mut kernel, 1_000, &mut outcome);
    assert_eq!(read(&mut hub, id, &books), [Got::Event(0, 4)]);
}

/// What was published while nobody of the shard had the channel is held back by no rate, although
/// the shard still knows of an event before.
#[test]
fn a_name_with_a_rate_does_not_keep_from_being_shown() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let [before, id] = [1, 2].map(|client| seat(&mut hub, client));
    join_pattern(&mut hub, before, "c:", Policy::Latest);
    let seen = [books.put(0, "a")];
    books.hand(&mut hub, &seen);
    end_pattern(&mut hub, before, "c:");
    books.put(0, "b");
    books.put(0, "c");
    books.mail.set(0);
    begin(&mut hub, id, "c:", &books, None);
    let join = Join { max_rate: Rate::new(1.0), ..after(Policy::DropOldest, 3) };
    hub.subscribe(id, (&name(0), Alias(0)), join);
    assert_eq!(read(&mut hub, id, &books), shown(0, 1..=3));
    let live = [books.put(0, "a")];
    books.hand(&mut hub, &live);
    assert_eq!(read(&mut hub, id, &books), [Got::Event(0, 4)]);
}

#[test]
fn what_was_had_before_is_not_shown() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    (0..4).for_each(|alias| drop(books.put(alias, "a")));
    books.mail.set(0);
    let [names, longer, shorter] = [1, 2, 3].map(|client| seat(&mut hub, client));
    join(&mut hub, names, 3, Policy::DropOldest);
    hub.subscribe(names, (&name(2), Alias(2)), after(Policy::DropOldest, 1));
    join_pattern(&mut hub, longer, "c:eu/", Policy::DropOldest);
    join_pattern(&mut hub, shorter, "c:", Policy::DropOldest);
    begin(&mut hub, names, "c:eu/", &books, None);
    begin(&mut hub, longer, "c:", &books, None);
    begin(&mut hub, shorter, "c:eu/", &books, None);
    assert_eq!(read(&mut hub, names, &books), shown(1, [1]), "not what it has by name");
    let not_eu = [shown(0, [1]), shown(3, [1])].concat();
    assert_eq!(read(&mut hub, longer, &books), not_eu, "nor by a longer pattern");
    assert_eq!(read(&mut hub, shorter, &books), [], "a shorter one had all of it");
}

#[test]
fn it_ends_with_the_pattern() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let id = seat(&mut hub, 1);
    books.put(1, "a");
    books.mail.set(0);
    begin(&mut hub, id, "c:", &books, None);
    begin(&mut hub, id, "d:", &books, None);
    hub.subscribe(id, (&name(1), Alias(1)), after(Policy::DropOldest, 1));
    end_pattern(&mut hub, id, "c:");
    assert_eq!(read(&mut hub, id, &books), [], "nor is it shown by the name");
    begin(&mut hub, id, "c:", &books, None);
    hub.leave_all(id, |_, _| {});
    assert!(hub.seat(id).unwrap().outbox.is_empty());
}

/// When the node shuts down, what waits behind that which was not shown still comes.
#[test]
fn what_is_live_outlasts_what_was_not_shown() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let id = seat(&mut hub, 1);
    hub.seat(id).unwrap().blocked = true;
    books.put(0, "a");
    books.mail.set(0);
    begin(&mut hub, id, "c:", &books, None);
    let live = [books.put(0, "b")];
    books.hand(&mut hub, &live);
    hub.leave_all(id, |_, _| {});
    assert_eq!(read(&mut hub, id, &books), [Got::Event(0, 2)]);
}

/// A page that several have counts once, and is given back.
#[test]
fn what_waits_to_be_shown_is_on_the_account() {
    let (mut hub, books) = (Hub::new(LIMIT), Books::default());
    let ids = [1, 2, 3].map(|client| seat(&mut hub, client));
    (0..50).for_each(|key| drop(books.put(0, &key.to_string())));
    books.mail.set(0);
    let mut before = hub.memory();
    for (nth, id) in ids.into_iter().enumerate() {
        // Nothing is handed around, so the page stays.
        books.mail.set(1);
        begin(&mut hub, id, "c:", &books, None);
        assert!(!hub.turn_page(id, &books));
        hub.weigh(id);
        let more = hub.memory() - before;
        let page = 50 * size_of::<Event>();
        assert!(if nth == 0 { more > page } else { more < page / 4 }, "{nth}: {more}");
        before = hub.memory();
    }
    ids.into_iter().for_each(|id| hub.close(id, |_, _| {}));
    assert_eq!(hub.memory(), 0);
}
