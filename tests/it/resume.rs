//! Coming back to channels whose publishers go as fast as they can: what was missed, then what is
//! new, without a hole and nothing twice, however often and wherever somebody begins.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Gateway, WEIR};
use crate::raw::{Raw, masked};

/// Subscriptions with `since`: some here, `WEIR_RESUMES=100000` for the whole.
fn resumes() -> u64 {
    std::env::var("WEIR_RESUMES").ok().map_or(200, |text| text.parse().unwrap())
}

/// The program: another build of it where `WEIR_PROGRAM` says so.
fn program() -> String {
    std::env::var("WEIR_PROGRAM").unwrap_or_else(|_| WEIR.to_owned())
}

const CHANNELS: u64 = 50;
/// Channels that a publisher fills in turn.
const EACH: usize = 5;
/// On each channel, so that both shards append to it at the same time.
const PUBLISHERS: usize = 2;
/// Events that are kept of a channel, and that one subscription may recover.
const KEPT: u64 = 1_000;

/// What is known of a channel.
struct Channel {
    name: String,
    epoch: String,
}

/// What subscriptions came to.
#[derive(Debug, Default)]
struct Tally {
    recovered: u64,
    refused: u64,
    /// Events that were missed and came.
    missed: u64,
    /// Events that came as they were published.
    live: u64,
    lagged: u64,
}

/// Goal: 100,000 subscriptions with `since` against publishers at full speed, and no violation: each
/// `recovered` is what the places say, and every stream goes on from its place, in order, without a
/// hole, with nothing twice, and with the events of that place.
#[test]
fn whoever_comes_back_to_a_saturated_channel_misses_nothing() {
    let toml = "shards = 2\n[limits]\nslow_disconnect = \"10m\"\n[[namespace]]\nname = \"room\"\n\
                history = 1000\nhistory_ttl = \"1h\"\nrecovery_max_events = 1000\n";
    let gateway = Gateway::of(&program(), toml);
    let channels: Vec<_> = (0..CHANNELS).map(|n| begun(&gateway, n)).collect();
    let (resumes, over) = (resumes(), AtomicBool::new(false));
    // Where shards are saturated an answer takes a turn: many wait for theirs at the same time.
    let connections = (resumes / 2).min(200);
    let before = Tally::default();
    // All of them before the publishers: a handshake takes a turn as well.
    let clients: Vec<_> = (0..connections)
        .map(|n| {
            let channel = &channels[usize::try_from(n % CHANNELS).unwrap()];
            Returning::connect(&gateway, channel, n)
        })
        .collect();
    let pace = if resumes < 10_000 { Pace::Answered } else { Pace::FlatOut };
    let tally = std::thread::scope(|scope| {
        for channels in channels.chunks(EACH) {
            for publisher in 0..PUBLISHERS {
                let (gateway, over) = (&gateway, &over);
                scope.spawn(move || publish(gateway, channels, (publisher, pace), over));
            }
        }
        let end = End(&over);
        let clients: Vec<_> = clients
            .into_iter()
            .zip(0..)
            .map(|(mut client, n)| {
                let count = resumes / connections + u64::from(n < resumes % connections);
                scope.spawn(move || {
                    for _ in 0..count {
                        client.come_and_go();
                    }
                    client.tally
                })
            })
            .collect();
        let all = clients.into_iter().map(|client| client.join().unwrap()).fold(before, add);
        drop(end);
        all
    });
    eprintln!("{resumes} subscriptions on {connections} connections: {tally:?}");
    assert_eq!(tally.recovered + tally.refused, resumes);
    assert!(tally.recovered > resumes / 10 * 8 && tally.refused > 0, "{tally:?}");
    assert!(tally.missed > resumes / 2 && tally.live > resumes / 8, "nobody published: {tally:?}");
    let whole = gateway.metric("weir_recoveries_total{whole=\"true\"}");
    assert!((whole - tally.recovered as f64).abs() < 0.5, "it counts as we do: {whole}");
}

fn add(one: Tally, other: Tally) -> Tally {
    Tally {
        recovered: one.recovered + other.recovered,
        refused: one.refused + other.refused,
        missed: one.missed + other.missed,
        live: one.live + other.live,
        lagged: one.lagged + other.lagged,
    }
}

/// Ends the publishers, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn begun(gateway: &Gateway, n: u64) -> Channel {
    let name = format!("room:{n}");
    let ask = format!(r#"{{"type":"history","channel":"{name}","limit":0,"id":1}}"#);
    let answer = Raw::websocket(gateway).ask(&ask);
    let epoch = answer["epoch"].as_str().unwrap().to_owned();
    Channel { name, epoch }
}

/// How publishers go on.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// When the last events are answered, so that a run among others takes little of the machine.
    Answered,
    /// As fast as the gateway takes it.
    FlatOut,
}

/// Publishes who it is and a number of its own.
fn publish(
    gateway: &Gateway,
    channels: &[Channel],
    (publisher, pace): (usize, Pace),
    over: &AtomicBool,
) {
    let mut raw = Raw::websocket(gateway);
    let pad = "x".repeat(80);
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let mut frames = Vec::new();
        for Channel { name, .. } in channels {
            let text = format!(
                r#"{{"type":"publish","channel":"{name}","data":["{pad}",{publisher},{number}]}}"#
            );
            // A mask of zeros leaves the text as it is: to publish is to cost the test little.
            frames.extend([0x81, 0xFE]);
            frames.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            frames.extend([0; 4]);
            frames.extend_from_slice(text.as_bytes());
        }
        raw.send(&frames);
        if pace == Pace::Answered {
            raw.ask(r#"{"type":"ping","id":1}"#);
        }
    }
}

/// A client that comes back again and again.
struct Returning<'a> {
    channel: &'a Channel,
    frames: Frames,
    rng: fastrand::Rng,
    /// What an event of the channel begins with.
    head: Vec<u8>,
    /// The next offset, and the last number of each publisher, where there was no gap since.
    next: u64,
    numbers: [Option<u64>; PUBLISHERS],
    tally: Tally,
}

impl<'a> Returning<'a> {
    fn connect(gateway: &Gateway, channel: &'a Channel, seed: u64) -> Self {
        let Raw(stream) = Raw::websocket(gateway);
        let head = format!(r#"{{"type":"event","channel":"{}","offset":"#, channel.name);
        Self {
            channel,
            frames: Frames { stream, bytes: Vec::new(), at: (0, 0) },
            rng: fastrand::Rng::with_seed(seed),
            head: head.into_bytes(),
            next: 0,
            numbers: [None; PUBLISHERS],
            tally: Tally::default(),
        }
    }

    fn send(&self, text: &str) {
        (&self.frames.stream).write_all(&masked(0x81, text.as_bytes())).unwrap();
    }

    /// Asks something, and reads the answer.
    fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        serde_json::from_slice(self.frames.next()).unwrap()
    }

    /// Subscribes somewhere, reads what was missed and some of what is new, and goes.
    fn come_and_go(&mut self) {
        let channel = self.channel;
        let name = &channel.name;
        let ask = format!(r#"{{"type":"history","channel":"{name}","limit":0,"id":3}}"#);
        let known = self.ask(&ask)["offset"].as_u64().unwrap();
        let (epoch, from) = match self.rng.u8(0..50) {
            // Most are away for a moment; some for about as long as is kept.
            0 => (channel.epoch.as_str(), known.saturating_sub(self.rng.u64(KEPT - 90..KEPT + 10))),
            1 => ("other", known),
            2 => (channel.epoch.as_str(), known + 1_000_000_000),
            _ => (channel.epoch.as_str(), known.saturating_sub(self.rng.u64(0..60))),
        };
        let answer = self.ask(&format!(
            r#"{{"type":"subscribe","channel":"{name}","since":{{"epoch":"{epoch}","offset":{from}}},"id":1}}"#
        ));
        assert_eq!(answer["type"], "subscribed", "{answer}");
        assert_eq!(answer["epoch"], channel.epoch.as_str(), "{answer}");
        let head = answer["offset"].as_u64().unwrap();
        let wanted = epoch == channel.epoch && from <= head && head - from <= KEPT;
        assert_eq!(answer["recovered"], wanted, "since {from}: {answer}");
        self.next = if wanted { from } else { head } + 1;
        self.numbers = [None; PUBLISHERS];
        if wanted {
            self.tally.recovered += 1;
            self.tally.missed += head - from;
        } else {
            self.tally.refused += 1;
        }
        let live = self.rng.u8(0..4) == 0;
        let upto = if live { head + self.rng.u64(1..10) } else { head };
        while self.next <= upto {
            let (begun, next) = (head, self.next);
            assert!(self.take(begun), "after {next}: {}", self.frames.said());
        }
        self.send(&format!(r#"{{"type":"unsubscribe","channel":"{name}","id":2}}"#));
        while self.take(head) {}
        assert!(self.frames.said().starts_with(r#"{"type":"unsubscribed","id":2"#));
    }

    /// Takes the next event or `lagged`; `false` when it is something else. Nothing up to `head`, where the
    /// subscription has begun, may be left out.
    fn take(&mut self, head: u64) -> bool {
        let text = self.frames.next();
        if let Some(rest) = text.strip_prefix(&*self.head) {
            let offset = number(rest);
            assert_eq!(offset, self.next, "began at {head}: {}", String::from_utf8_lossy(text));
            // `"data":["xxx",0,17]}` stands last.
            let at = text.iter().rposition(|byte| *byte == b'"').unwrap();
            let publisher = usize::try_from(number(&text[at + 2..])).unwrap();
            let own = number(&text[at + 4..]);
            if let Some(last) = self.numbers[publisher].replace(own) {
                assert_eq!(own, last + 1, "{offset} has another event than it had");
            }
            self.next += 1;
            self.tally.live += u64::from(offset > head);
            return true;
        }
        if text.starts_with(br#"{"type":"lagged""#) {
            let lagged: Value = serde_json::from_slice(text).unwrap();
            assert!(self.next > head, "of what is recovered nothing is cut: {lagged}");
            assert_eq!(lagged["from"], self.next, "{lagged}");
            self.next = lagged["to"].as_u64().unwrap() + 1;
            self.numbers = [None; PUBLISHERS];
            self.tally.lagged += 1;
            return true;
        }
        false
    }
}

/// The number that a text begins with.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Frames of a server, read without a copy of each: there are millions.
struct Frames {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Where the payload of the frame at hand begins and ends.
    at: (usize, usize),
}

impl Frames {
    /// The payload of the next text frame.
    fn next(&mut self) -> &[u8] {
        loop {
            let rest = &self.bytes[self.at.1..];
            let head = match rest {
                [first, short @ 0..126, ..] => Some((*first, 2, usize::from(*short))),
                [first, 126, high, low, ..] => {
                    Some((*first, 4, usize::from(u16::from_be_bytes([*high, *low]))))
                }
                _ => None,
            };
            if let Some((first, head, length)) = head
                && rest.len() >= head + length
            {
                assert_eq!(first, 0x81, "a text frame of less than 64 KiB");
                let start = self.at.1 + head;
                self.at = (start, start + length);
                return &self.bytes[start..start + length];
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        self.bytes.drain(..std::mem::take(&mut self.at).1);
        let had = self.bytes.len();
        self.bytes.resize(had + 64 * 1024, 0);
        let read = match self.stream.read(&mut self.bytes[had..]) {
            Ok(0) => panic!("the connection has ended"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => panic!("{error}"),
        };
        self.bytes.truncate(had + read);
    }

    /// The frame at hand.
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.bytes[self.at.0..self.at.1]).into_owned()
    }
}
