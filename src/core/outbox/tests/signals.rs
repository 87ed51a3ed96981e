//! Signals in a queue: the newest of each, in front of events, and no end without a beginning.

use super::*;
use crate::core::account::Account;
use crate::core::signals::Told;
use crate::core::signals::tests::signal;

/// News of the signal `name` of one client on the channel `c<alias>`.
pub(super) fn news(
    (alias, name): (u64, &str),
    value: Option<u64>,
    begins: bool,
    account: &Account,
) -> News {
    let signal = signal((alias, ClientId(7), name), value);
    News::new(Told { signal, begins }, account)
}

/// An outbox, and what puts signals into it.
#[derive(Default)]
struct Desk {
    outbox: Outbox,
    account: Account,
}

impl Desk {
    fn put(&mut self, of: (u64, &str), value: Option<u64>, begins: bool) -> Fits {
        self.put_within(of, value, begins, ROOMY)
    }

    fn put_within(
        &mut self,
        of: (u64, &str),
        value: Option<u64>,
        begins: bool,
        limit: OutboxLimit,
    ) -> Fits {
        self.outbox.put_signal(&news(of, value, begins, &self.account), limit)
    }

    fn drain(&mut self) -> Vec<Got> {
        let got = drain(&mut self.outbox);
        assert!(self.outbox.is_empty() && self.outbox.aside.is_none());
        assert_eq!(self.account.bytes(), 0);
        got
    }
}

fn got(alias: u64, name: &str, value: Option<u64>) -> Got {
    Got::Signal(alias, name.to_owned(), value)
}

#[test]
fn the_newest_value_of_each_waits_in_the_place_of_the_oldest() {
    let mut desk = Desk::default();
    desk.put((1, "a"), Some(1), true);
    desk.put((1, "b"), Some(2), true);
    for value in 3..1_000 {
        desk.put((1, "a"), Some(value), false);
    }
    desk.put((2, "a"), Some(1_000), true);
    assert_eq!(desk.outbox.signals(), 3);
    let expected = [got(1, "a", Some(999)), got(1, "b", Some(2)), got(2, "a", Some(1_000))];
    assert_eq!(desk.drain(), expected);
}

#[test]
fn an_end_is_told_to_those_alone_who_have_seen_something() {
    let mut desk = Desk::default();
    desk.put((1, "a"), Some(1), true);
    desk.put((1, "a"), Some(2), false);
    desk.put((1, "a"), None, false);
    assert!(desk.outbox.is_empty(), "nobody has seen it");
    desk.put((1, "a"), Some(3), true);
    assert_eq!(desk.drain(), [got(1, "a", Some(3))]);
    desk.put((1, "a"), Some(4), false);
    desk.put((1, "a"), None, false);
    assert_eq!(desk.outbox.signals(), 1, "the end has the place of the value");
    assert_eq!(desk.drain(), [got(1, "a", None)]);
    // It ends, and begins again, before the reader takes anything.
    desk.put((1, "a"), Some(5), true);
    desk.drain();
    desk.put((1, "a"), None, false);
    desk.put((1, "a"), Some(6), true);
    desk.put((1, "a"), None, false);
    assert_eq!(desk.drain(), [got(1, "a", None)], "it has seen 5");
}

#[test]
fn a_value_on_its_way_is_finished_and_its_end_follows() {
    let mut desk = Desk::default();
    desk.put((1, "a"), Some(1), true);
    let (mut reader, mut sink) = (Reader::default(), Sink::default());
    assert_eq!(reader.feed(&write(&mut desk.outbox, 5, &mut sink)), []);
    desk.put((1, "a"), Some(2), false);
    desk.put((1, "a"), None, false);
    frame::control(Opcode::Ping, b"7", desk.outbox.control());
    desk.outbox.push(slice(1, 1..2, 9), ROOMY).unwrap();
    let mut all = Vec::new();
    while !desk.outbox.is_empty() {
        all.extend(reader.feed(&write(&mut desk.outbox, 1, &mut sink)));
    }
    let expected = [got(1, "a", Some(1)), Got::Control(7), got(1, "a", None), Got::Event(1, 1)];
    assert_eq!(all, expected, "answers first, then signals, then events");
}

#[test]
fn a_channel_that_is_left_is_silent_and_a_close_leaves_nothing() {
    let mut desk = Desk::default();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        desk.put((1, name), Some(1), true);
        desk.put((2, name), Some(2), true);
    }
    desk.outbox.purge_signals(Alias(1));
    desk.put((2, "i"), Some(3), false);
    assert_eq!(desk.outbox.signals(), 9, "the table was made anew");
    desk.outbox.purge_signals(Alias(2));
    assert!(desk.outbox.is_empty());
    desk.put((1, "a"), Some(1), true);
    desk.put((1, "b"), Some(1), true);
    write(&mut desk.outbox, 1, &mut Sink::default());
    desk.outbox.clear_data();
    assert_eq!(desk.outbox.signals(), 0, "what is on its way is finished");
    assert!(!desk.outbox.is_empty());
}

#[test]
fn a_full_lane_refuses_and_stays_as_it_was() {
    let mut desk = Desk::default();
    let limit = OutboxLimit { events: 2, ..ROOMY };
    assert_eq!(desk.put_within((1, "a"), Some(1), true, limit), Fits::Yes);
    assert_eq!(desk.put_within((1, "b"), Some(2), true, limit), Fits::Yes);
    assert_eq!(desk.put_within((1, "c"), Some(3), true, limit), Fits::No);
    assert_eq!(desk.put_within((1, "b"), Some(4), false, limit), Fits::Yes, "it has a place");
    let bytes = OutboxLimit { bytes: desk.outbox.signal_bytes() + 1, ..ROOMY };
    assert_eq!(desk.put_within((1, "c"), Some(5), true, bytes), Fits::No);
    assert_eq!(desk.put_within((1, "b"), Some(500), false, bytes), Fits::No);
    assert_eq!(desk.put_within((1, "a"), None, false, bytes), Fits::Yes, "an end frees a place");
    assert_eq!(desk.put_within((1, "b"), Some(6), false, bytes), Fits::Yes);
    assert_eq!(desk.drain(), [got(1, "b", Some(6))]);
}

#[test]
fn a_signal_counts_once_for_all_queues_of_a_shard() {
    let account = Account::default();
    let news = news((1, "a"), Some(1), true, &account);
    let mut readers: Vec<Outbox> = (0..10).map(|_| Outbox::default()).collect();
    for reader in &mut readers {
        assert_eq!(reader.put_signal(&news, ROOMY), Fits::Yes);
    }
    let whole = news.signal().footprint();
    assert_eq!(account.bytes(), whole);
    drop(news);
    let shares: usize = readers.iter().map(|r| r.share_bytes() - r.own_bytes()).sum();
    assert!(shares <= whole && shares > whole - 10, "{shares} of {whole}");
    readers.clear();
    assert_eq!(account.bytes(), 0);
}
