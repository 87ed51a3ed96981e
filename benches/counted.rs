//! Operations for `benches/check`, which counts their instructions under callgrind:
//! `counted OPERATION COUNT` does the operation so often and nothing else. Two runs that differ
//! only in the count say what one costs, without what it costs to start.
//!
//! With other arguments (cargo and criterion's users give `--bench` and `--test`) it does each a few
//! times.
#![expect(clippy::print_stdout, reason = "the names of the operations are printed")]

#[path = "shared/kernel.rs"]
mod kernel;

use std::borrow::Cow;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use weir::core::history::HistoryRule;
use weir::core::hub::{Hub, Join, Outcome, SeatId};
use weir::core::outbox::OutboxLimit;
use weir::core::policy::{Keep, Policy};
use weir::proto::dialect::json::{Parser, encode_event};
use weir::proto::event::{Author, Event, Payload};
use weir::proto::name::{Alias, ClientId, ShardId};
use weir::proto::rate::Rate;
use weir::proto::ws::frame::{Opcode, client_frame};
use weir::proto::ws::message::{Decoder, Message};
use weir::store::memory::Memory;
use weir::store::{Deliver, NewEvent, Now, Reading, Store, Wish};

use kernel::Kernel;

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Does its operation so often.
type Operation = fn(u32);

const OPERATIONS: [(&str, Operation); 18] = [
    ("decode-128", decode),
    ("parse-publish", parse),
    ("encode-event", encode),
    ("deliver-1x1000", deliver_one),
    ("deliver-64x1000", deliver_batch),
    ("deliver-joined-64x1000", deliver_joined),
    ("deliver-100x10", deliver_spread),
    ("throttle-1000x1000", throttle),
    ("drop-behind-x100", drop_behind),
    ("hidden-lagging-x50", hidden_while_lagging),
    ("close-lagging", close_lagging),
    ("unsubscribe-queued", unsubscribe_queued),
    ("close-shared", close_shared),
    ("patterns-many", patterns_many),
    ("publish-plain", publish_plain),
    ("publish-keyed", publish_keyed),
    ("begin-keyed", begin_keyed),
    ("read-history", read_history),
];

const ALIAS: Alias = Alias(1);
const NOW_MS: u64 = 1_000;
const SEATS: u64 = 1_000;
const KEYS: usize = 1_000;
const PAYLOAD: &[u8] = br#"{"host":"host-7","cpu":[12.5,88.25,3.75,41.0],"mem":7340032,"load":1.75,"up":123456,"note":"all work and no play makes Jack dull"}"#;

/// One masked frame with 128 bytes of text.
fn decode(count: u32) {
    // ASCII stays ASCII, so that a frame unmasked in place is a good frame again.
    const MASK: [u8; 4] = [0x01, 0x02, 0x03, 0x04];
    let mut frame = Vec::new();
    client_frame(Opcode::Text, &[b'a'; 128], MASK, &mut frame);
    let mut decoder = Decoder::new();
    for _ in 0..count {
        let mut input = black_box(frame.as_mut_slice());
        let message = decoder.next(&mut input, 1 << 20);
        assert!(matches!(message, Ok(Some(Message::Text(_)))), "not the text");
    }
}

/// One `publish` with 128 bytes of data.
fn parse(count: u32) {
    let data = std::str::from_utf8(PAYLOAD).expect("ASCII");
    let text = format!(r#"{{"type":"publish","id":7,"channel":"telemetry:host-7","data":{data}}}"#);
    let mut parser = Parser::new();
    for _ in 0..count {
        assert!(parser.parse(black_box(text.as_bytes())).is_ok());
    }
}

fn event(offset: u64) -> Event {
    Event {
        channel: "telemetry:host-7".parse().expect("a good name"),
        alias: ALIAS,
        offset,
        ts_ms: 1_732_153_200_123,
        taken_ns: 0,
        key: None,
        from: None,
        hidden_from: None,
        payload: Payload::Json(PAYLOAD.into()),
        json_frame: OnceLock::new(),
        frames: weir::proto::encoder::Frames::default(),
    }
}

/// One event as JSON.
fn encode(count: u32) {
    let event = event(123_456);
    let mut out = Vec::with_capacity(1024);
    for _ in 0..count {
        out.clear();
        encode_event(black_box(&event), &mut out);
        assert!(!black_box(&out).is_empty());
    }
}

/// One event to 1,000 seats.
fn deliver_one(count: u32) {
    deliver(count, 1, false);
}

/// 64 events at once to 1,000 seats.
fn deliver_batch(count: u32) {
    deliver(count, 64, false);
}

/// As [`deliver_batch`], to seats that take several events in a frame.
fn deliver_joined(count: u32) {
    deliver(count, 64, true);
}

/// A hub with 1,000 seats on one channel.
fn hub(max_rate: Option<Rate>, joined: bool) -> Hub {
    let mut hub = Hub::new(OutboxLimit { bytes: 1 << 20, events: 4_096 });
    let channel = "telemetry:host-7".parse().expect("a good name");
    for client in 0..SEATS {
        let id = hub.open(Arc::new(Author { client: ClientId(client), user: None }), NOW_MS);
        if let Some(seat) = hub.seat(id) {
            seat.session.batch = joined;
        }
        let join = Join { policy: Policy::DropOldest, position: 0, keys_max: 1, max_rate };
        hub.subscribe(id, (&channel, ALIAS), join);
    }
    hub
}

/// One turn of a shard, with the events from that offset on.
fn turn(hub: &mut Hub, kernel: &mut Kernel, (first, batch): (u64, u64), now_ms: u64) {
    for offset in first..first + batch {
        let event = Arc::new(event(offset));
        assert!(hub.load(&event, now_ms * 1_000_000), "a batch fits into one run");
    }
    hub.fan_out(kernel, now_ms, &mut Outcome::default());
    while let Some(id) = hub.next_dirty() {
        if let Some(seat) = hub.seat(id) {
            kernel.flush(seat);
        }
    }
}

/// `count` turns of a shard.
fn deliver(count: u32, batch: u64, joined: bool) {
    let (mut hub, mut kernel) = (hub(None, joined), Kernel::default());
    for nth in 0..u64::from(count) {
        turn(&mut hub, &mut kernel, (nth * batch + 1, batch), NOW_MS);
    }
    assert_eq!(kernel.events, u64::from(count) * batch * SEATS);
}

/// `count` turns with four events for each of 100 channels, which have 10 of 1,000 seats each.
fn deliver_spread(count: u32) {
    let mut hub = Hub::new(OutboxLimit { bytes: 1 << 20, events: 4_096 });
    for client in 0..SEATS {
        let id = hub.open(Arc::new(Author { client: ClientId(client), user: None }), NOW_MS);
        subscribe(&mut hub, id, client / 10, Policy::DropOldest);
    }
    let (mut kernel, turns) = (Kernel::default(), u64::from(count));
    for first in (0..turns).map(|nth| nth * 4 + 1) {
        // As a publisher that goes around sends them.
        for offset in first..first + 4 {
            for alias in 0..SEATS / 10 {
                let event = event_of(alias, offset, None);
                assert!(hub.load(&event, NOW_MS * 1_000_000), "four events fit into one run");
            }
        }
        hub.fan_out(&mut kernel, NOW_MS, &mut Outcome::default());
        while let Some(id) = hub.next_dirty() {
            if let Some(seat) = hub.seat(id) {
                kernel.flush(seat);
            }
        }
    }
    assert_eq!(kernel.events, turns * 4 * SEATS);
}

/// `count` seconds of 1,000 events one by one, for 1,000 seats with a `max_rate` of 1.
fn throttle(count: u32) {
    let (mut hub, mut kernel) = (hub(Rate::new(1.0), false), Kernel::default());
    for nth in 0..u64::from(count) * 1_000 {
        turn(&mut hub, &mut kernel, (nth + 1, 1), NOW_MS + nth);
    }
    assert_eq!(kernel.events, u64::from(count) * SEATS);
}

/// An event of the channel `t:ALIAS`.
fn event_of(alias: u64, offset: u64, hidden_from: Option<ClientId>) -> Arc<Event> {
    let channel = format!("t:{alias}").parse().expect("a good name");
    Arc::new(Event { channel, alias: Alias(alias), hidden_from, ..event(offset) })
}

/// A hub with so many seats whose sockets take nothing.
fn stalled(seats: u64, events: usize) -> (Hub, Vec<SeatId>) {
    let mut hub = Hub::new(OutboxLimit { bytes: 16 << 20, events });
    let open = |client| {
        let id = hub.open(Arc::new(Author { client: ClientId(client), user: None }), NOW_MS);
        if let Some(seat) = hub.seat(id) {
            seat.blocked = true;
        }
        id
    };
    let ids = (0..seats).map(open).collect();
    (hub, ids)
}

fn subscribe(hub: &mut Hub, id: SeatId, alias: u64, policy: Policy) {
    let channel = format!("t:{alias}").parse().expect("a good name");
    let join = Join { policy, position: 0, keys_max: 1, max_rate: None };
    hub.subscribe(id, (&channel, Alias(alias)), join);
}

/// Hands an event around, and writes nothing.
fn hand(hub: &mut Hub, event: &Arc<Event>) {
    assert!(hub.load(event, NOW_MS * 1_000_000), "one event fits into one run");
    hub.fan_out(&mut Kernel::default(), NOW_MS, &mut Outcome::default());
}

/// Events for 100 stalled seats, whose queues have 980 events of another channel in front.
fn drop_behind(count: u32) {
    let (mut hub, ids) = stalled(100, 1_024);
    for id in ids {
        subscribe(&mut hub, id, 1, Policy::DropOldest);
        subscribe(&mut hub, id, 2, Policy::DropOldest);
    }
    for offset in 1..=980 {
        hand(&mut hub, &event_of(1, offset, None));
    }
    for offset in 1..=u64::from(count) + 44 {
        hand(&mut hub, &event_of(2, offset, None));
    }
}

/// Events that their publisher does not want to see, for 50 stalled seats that lag on 1,000 other
/// channels as well.
fn hidden_while_lagging(count: u32) {
    let (mut hub, ids) = stalled(50, 64);
    for id in ids {
        let policy = Policy::Latest;
        let join = Join { policy, position: 0, keys_max: 1, max_rate: None };
        hub.subscribe_pattern((id, "t:"), join, &mut Kernel::default(), 0);
    }
    for offset in 1..=2 {
        (0..1_000).for_each(|alias| hand(&mut hub, &event_of(alias, offset, None)));
    }
    for offset in 3..=u64::from(count) + 3 {
        hand(&mut hub, &event_of(999, offset, Some(ClientId(77))));
    }
}

/// The end of a connection, for each of the channels on which it lags.
fn close_lagging(count: u32) {
    let (mut hub, ids) = stalled(1, 64);
    let aliases = 0..u64::from(count);
    for id in ids {
        aliases.clone().for_each(|alias| subscribe(&mut hub, id, alias, Policy::Latest));
        for offset in 1..=2 {
            aliases.clone().for_each(|alias| hand(&mut hub, &event_of(alias, offset, None)));
        }
        hub.close(id, |_, _| {});
    }
}

/// Leaving a channel that has an event in a queue, with all the others behind it.
fn unsubscribe_queued(count: u32) {
    let (mut hub, ids) = stalled(1, 4_096);
    let aliases = 0..u64::from(count);
    for id in ids {
        aliases.clone().for_each(|alias| subscribe(&mut hub, id, alias, Policy::DropOldest));
        aliases.clone().for_each(|alias| hand(&mut hub, &event_of(alias, 1, None)));
        for alias in aliases.clone().rev() {
            hub.unsubscribe((id, Alias(alias)), &mut Kernel::default(), NOW_MS);
        }
    }
}

/// The end of a connection, for each of its channels, which another connection has as well.
fn close_shared(count: u32) {
    let (mut hub, ids) = stalled(2, 64);
    for id in &ids {
        (0..u64::from(count)).for_each(|alias| subscribe(&mut hub, *id, alias, Policy::DropOldest));
    }
    hub.close(ids[0], |_, _| {});
}

/// A pattern that comes and goes, and a channel of it that does meanwhile, on a connection that has
/// all the others.
fn patterns_many(count: u32) {
    let (mut hub, ids) = stalled(1, 64);
    let (id, mut kernel) = (ids[0], Kernel::default());
    let join =
        |position, rate| Join { policy: Policy::DropOldest, position, keys_max: 1, max_rate: rate };
    for nth in 0..count {
        let prefix = format!("t:{nth}/");
        let outcome = hub.subscribe_pattern((id, &prefix), join(0, Rate::new(1.0)), &mut kernel, 0);
        assert_eq!(outcome.purged, 0);
    }
    for nth in (0..count).rev() {
        let channel = format!("t:{nth}/c").parse().expect("a good name");
        let alias = Alias(u64::from(nth));
        assert!(hub.has_by_pattern(id, black_box(&format!("t:{nth}/c"))));
        hub.subscribe(id, (&channel, alias), join(0, None));
        assert!(hub.unsubscribe((id, alias), &mut kernel, NOW_MS).is_some());
        let prefix = format!("t:{nth}/");
        assert!(hub.unsubscribe_pattern((id, &prefix), &mut kernel, NOW_MS).is_some());
    }
}

/// Hands events to nobody.
struct Away;

impl Deliver for Away {
    fn deliver(&self, _: ShardId, event: Arc<Event>) -> bool {
        black_box(event);
        false
    }
}

/// One event into the store, for one shard.
fn publish_plain(count: u32) {
    publish(count, Keep::default());
}

/// The same, where the last 1,000 events and the newest of each of 1,000 keys are kept.
fn publish_keyed(count: u32) {
    publish(
        count,
        Keep { history: HistoryRule { size: 1_000, ttl_ms: u64::MAX }, keys: KEYS, durable: false },
    );
}

fn publish(count: u32, keep: Keep) {
    let now = Now { unix_ms: 1_732_153_200_123, node_ns: 1_000_000_000 };
    let (store, channel) = (Memory::new(Arc::new(Away)), "telemetry:hosts");
    store.subscribe(channel, ShardId(0), Wish::default(), now).expect("memory is always there");
    let keys: Vec<Box<str>> = (0..KEYS).map(|key| format!("host-{key}").into()).collect();
    let mut seed = 1_u32;
    for _ in 0..count {
        // Keys as they come: not in turn.
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = keys[(seed >> 16) as usize % KEYS].clone();
        let event = NewEvent::new(Cow::Borrowed(channel), Payload::Json(PAYLOAD.into()));
        let event = NewEvent { key: Some(key), keep, ..event };
        assert!(store.publish(black_box(event), now).is_ok());
    }
}

/// Keys of a channel that has many.
const KEYS_MANY: usize = 10_000;

/// Events of a channel that keeps many.
const EVENTS_MANY: u64 = 100_000;

/// Somebody subscribes to a channel with 10,000 keys, after an event of one that has come again.
fn begin_keyed(count: u32) {
    let keep = Keep { keys: KEYS_MANY, ..Keep::default() };
    let now = Now { unix_ms: 1_732_153_200_123, node_ns: 1_000_000_000 };
    let (store, channel) = (Memory::new(Arc::new(Away)), "telemetry:hosts");
    let keys: Vec<Box<str>> = (0..KEYS_MANY).map(|key| format!("host-{key}").into()).collect();
    let mut seed = 1_u32;
    let mut publish = |nth: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Each once, then as they come.
        let key = keys.get(nth).or(keys.get((seed >> 16) as usize % KEYS_MANY)).cloned();
        let event = NewEvent::new(Cow::Borrowed(channel), Payload::Json(Box::from(&b"1"[..])));
        assert!(store.publish(NewEvent { key, keep, ..event }, now).is_ok());
    };
    (0..3 * KEYS_MANY).for_each(&mut publish);
    let wish = Wish { snapshot: true, keep, ..Wish::default() };
    for nth in 0..count as usize {
        publish(3 * KEYS_MANY + nth);
        let begun = store.subscribe(channel, ShardId(0), wish, now);
        assert!(black_box(begun).is_ok_and(|begun| begun.past.is_some()));
    }
}

/// Somebody asks for the last event of a channel that keeps 100,000.
fn read_history(count: u32) {
    let keep =
        Keep { history: HistoryRule { size: EVENTS_MANY, ttl_ms: u64::MAX }, ..Keep::default() };
    let now = Now { unix_ms: 1_732_153_200_123, node_ns: 1_000_000_000 };
    let (store, channel) = (Memory::new(Arc::new(Away)), "telemetry:hosts");
    for _ in 0..EVENTS_MANY {
        let event = NewEvent::new(Cow::Borrowed(channel), Payload::Json(Box::from(&b"1"[..])));
        assert!(store.publish(NewEvent { keep, ..event }, now).is_ok());
    }
    for _ in 0..count {
        let reading = Reading { limit: 1, bytes: 1 << 20, keep, ..Reading::default() };
        let read = store.read(black_box(channel), reading, now).expect("memory is always there");
        assert_eq!(read.events.map(|events| events.len()), Some(1));
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map_or("", String::as_str);
    let operation = OPERATIONS.iter().find(|(name, _)| *name == wanted);
    let count = arguments.get(1).and_then(|count| count.parse().ok());
    match (operation, count) {
        (Some((_, run)), Some(count)) => run(count),
        (Some(_), None) => return ExitCode::FAILURE,
        (None, _) if wanted.is_empty() || wanted.starts_with("--") => {
            for (name, run) in OPERATIONS {
                run(3);
                println!("{name}");
            }
        }
        (None, _) => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
