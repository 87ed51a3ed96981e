//! Readers who stall and go on a thousand times a second, or read one byte at a time, however they
//! have their channel: each is told the truth, and those beside them lose nothing.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, PATIENCE, now};
use crate::raw::{Raw, masked};

/// The most that a queue holds; far less than is published.
const LIMITS: &str = "[limits]\nmessage_bytes = \"8KiB\"\nqueue_bytes = \"16KiB\"\n\
                      [[namespace]]\nname = \"room\"\npatterns = true\n";

/// The ways to have a channel.
const WAYS: [(&str, &str); 5] = [
    ("drop_oldest", r#"{"type":"subscribe","channel":"room:1","slow":"drop_oldest"}"#),
    ("drop_newest", r#"{"type":"subscribe","channel":"room:1","slow":"drop_newest"}"#),
    ("latest", r#"{"type":"subscribe","channel":"room:1","slow":"latest"}"#),
    ("a pattern", r#"{"type":"subscribe","channel":"room:*","slow":"drop_oldest"}"#),
    ("a rate", r#"{"type":"subscribe","channel":"room:1","slow":"drop_oldest","max_rate":100}"#),
];

const KEYS: u64 = 8;

/// How somebody reads.
#[derive(Clone, Copy)]
enum Pace {
    /// At most half a kilobyte in the first half of each millisecond, so often.
    Fits(u64),
    /// So many bytes, each by a read of its own.
    Bytes(u64),
}

impl Pace {
    fn rounds(self) -> u64 {
        match self {
            Self::Fits(count) | Self::Bytes(count) => count,
        }
    }
}

/// What a reader was told.
#[derive(Default)]
struct Account {
    /// The last offset that was told, of an event or as lost.
    last: u64,
    /// Events and losses told.
    events: u64,
    lost: u64,
    /// The newest offset of each key that was seen.
    newest: BTreeMap<String, u64>,
}

impl Account {
    /// Takes one message. Whoever has a rate is told of fewer events, and not of which.
    fn take(&mut self, message: &Value, way: &str) {
        let number = |name: &str| message[name].as_u64().unwrap_or_else(|| panic!("{message}"));
        let rated = way == "a rate";
        if message["type"] == "lagged" {
            let (from, to) = (number("from"), number("to"));
            let next = if rated { from > self.last } else { from == self.last + 1 };
            assert!(next && from <= to, "{way}: {message:.200} after {}", self.last);
            let all = to - from + 1;
            let counted = if rated { number("dropped") <= all } else { number("dropped") == all };
            assert!(counted, "{way}: {message:.200}");
            (self.last, self.lost) = (to, self.lost + number("dropped"));
            return;
        }
        assert_eq!(message["type"], "event", "{way}: {message:.200}");
        let offset = number("offset");
        assert_eq!(message["data"]["n"], offset, "{way}");
        let key = message["key"].as_str().unwrap().to_owned();
        assert_eq!(key, format!("k{}", offset % KEYS), "{way}");
        let before = self.newest.insert(key, offset);
        assert!(before < Some(offset), "{way}: {offset} after {before:?}");
        if message["snapshot"] == true {
            assert!(way == "latest" && offset <= self.last, "{way}: {offset}, {}", self.last);
            return;
        }
        let next = if rated { offset > self.last } else { offset == self.last + 1 };
        assert!(next, "{way}: {offset} after {}", self.last);
        (self.last, self.events) = (offset, self.events + 1);
    }

    /// Whether all is told that is owed once `last` was the last event.
    fn is_whole(&self, last: u64, way: &str) -> bool {
        let shown = way != "latest"
            || (last + 1 - KEYS..=last).all(|at| {
                self.newest.get(&format!("k{}", at % KEYS)).is_some_and(|newest| *newest == at)
            });
        self.last == last && shown
    }
}

/// A reader that takes its bytes as it likes.
struct Slow {
    raw: Raw,
    bytes: Vec<u8>,
    way: &'static str,
    account: Account,
}

impl Slow {
    /// Takes at most so many bytes; none where none come in a while.
    fn read(&mut self, most: usize) {
        let mut room = [0; 4_096];
        match self.raw.0.read(&mut room[..most]) {
            Ok(0) => panic!("{}: its connection has ended", self.way),
            Ok(count) => self.bytes.extend_from_slice(&room[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{}: {error}", self.way),
        }
        loop {
            let (head, length) = match self.bytes[..] {
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
                [_, short, ..] if short < 126 => (2, usize::from(short)),
                _ => return,
            };
            let Some(message) = self.bytes.get(head..head + length) else { return };
            let message = serde_json::from_slice(message).unwrap();
            self.account.take(&message, self.way);
            self.bytes.drain(..head + length);
        }
    }

    /// Reads at that pace, then whatever comes until all is told; what was told.
    fn all(mut self, pace: Pace, done: &AtomicU64, last: &AtomicU64) -> Account {
        self.raw.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let deadline = now() + PATIENCE;
        let mut rounds = 0;
        // A machine that is slow to publish may take longer until something is lost.
        while rounds < pace.rounds() || self.account.lost == 0 {
            let begun = now();
            assert!(begun < deadline, "{}: nothing is lost", self.way);
            rounds += 1;
            match pace {
                Pace::Fits(_) => {
                    self.read(512);
                    let rest = Duration::from_millis(1).saturating_sub(begun.elapsed());
                    std::thread::sleep(rest.max(Duration::from_micros(500)));
                }
                Pace::Bytes(_) => self.read(1),
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        let deadline = now() + PATIENCE;
        loop {
            self.read(if matches!(pace, Pace::Bytes(_)) { 1 } else { 4_096 });
            let last = last.load(Ordering::Relaxed);
            if last > 0 && self.account.is_whole(last, self.way) {
                return self.account;
            }
            assert!(now() < deadline, "{}: {} of {last}", self.way, self.account.last);
        }
    }
}

/// One reader of each way at that pace, beside a healthy one, while as much is published as that
/// one takes.
fn read_by_all(pace: Pace) {
    let gateway = Gateway::configured(LIMITS);
    let mut publisher = Client::connect(&gateway);
    let mut healthy = Client::connect(&gateway);
    healthy.subscribe("room:1");
    let slow = WAYS.map(|(way, command)| {
        let mut raw = Raw::narrow(&gateway);
        raw.send(&masked(0x81, command.as_bytes()));
        let answer = raw.json();
        assert_eq!(answer["type"], "subscribed", "{way}: {answer}");
        Slow { raw, bytes: Vec::new(), way, account: Account::default() }
    });
    let (done, last, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let accounts = std::thread::scope(|scope| {
        let (done, last, failed) = (&done, &last, &failed);
        let readers = slow.map(|slow| {
            scope.spawn(move || {
                let _fails = Fails(failed);
                slow.all(pace, done, last)
            })
        });
        let (mut sent, pad) = (0, "x".repeat(2_000));
        let deadline = now() + PATIENCE;
        while done.load(Ordering::Relaxed) < WAYS.len() as u64 && !failed.load(Ordering::Relaxed) {
            assert!(now() < deadline, "they read for {PATIENCE:?}");
            // No more at once than a queue holds.
            for n in sent + 1..=sent + 5 {
                let key = format!("k{}", n % KEYS);
                let data = json!({"n": n, "pad": pad});
                publisher.send(
                    &json!({"type": "publish", "channel": "room:1", "key": key, "data": data}),
                );
            }
            for _ in 0..5 {
                sent += 1;
                assert_eq!(healthy.expect("event")["offset"], sent, "the healthy lose nothing");
            }
        }
        last.store(sent, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    for ((way, _), account) in WAYS.iter().zip(&accounts) {
        let Account { events, lost, .. } = account;
        assert!(*events > 0 && *lost > 0, "{way}: it was slow: {events} and {lost} lost");
    }
    assert!(gateway.metric("weir_events_conflated_total") > 0.0, "the rate held some back");
}

/// Says that a reader has failed, so that nobody waits for it.
struct Fails<'a>(&'a AtomicBool);

impl Drop for Fails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn who_stalls_and_goes_on_a_thousand_times_a_second_is_told_everything() {
    read_by_all(Pace::Fits(1_000));
}

#[test]
fn reads_of_one_byte_at_a_time_get_the_truth_in_order() {
    read_by_all(Pace::Bytes(500_000));
}
