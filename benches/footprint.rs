//! What one shard asks of the allocator: allocations per event in steady state, and bytes of heap
//! per idle seat. Counts, not times: the same on every machine. Exits with 1 when a figure is
//! beyond its bound.
//!
//! The path measured is the store, a mailbox, the hub, and a kernel that takes everything. It
//! leaves out what a connection costs outside the hub: its task, its socket and its buffers.
#![expect(clippy::print_stdout, reason = "a report is printed")]

mod counting {
    //! The allocator of the `weir` program, counted.
    #![expect(unsafe_code, reason = "only an allocator sees every allocation")]

    use std::alloc::{GlobalAlloc, Layout};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mimalloc::MiMalloc;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static LIVE: AtomicUsize = AtomicUsize::new(0);

    struct Counting;

    // SAFETY: every call is handed to mimalloc as it came, and its answer back as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            CALLS.fetch_add(1, Ordering::Relaxed);
            LIVE.fetch_add(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller keeps the contract of this same method.
            unsafe { MiMalloc.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            CALLS.fetch_add(1, Ordering::Relaxed);
            LIVE.fetch_add(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller keeps the contract of this same method.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller keeps the contract of this same method.
            unsafe { MiMalloc.dealloc(ptr, layout) }
        }

        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            CALLS.fetch_add(1, Ordering::Relaxed);
            LIVE.fetch_add(size, Ordering::Relaxed);
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller keeps the contract of this same method.
            unsafe { MiMalloc.realloc(ptr, layout, size) }
        }
    }

    /// Allocations and reallocations since the start.
    pub(crate) fn calls() -> usize {
        CALLS.load(Ordering::Relaxed)
    }

    /// Bytes asked for and not given back.
    pub(crate) fn live() -> usize {
        LIVE.load(Ordering::Relaxed)
    }
}

#[path = "shared/kernel.rs"]
mod kernel;

use std::borrow::Cow;
use std::mem::size_of;
use std::process::ExitCode;
use std::sync::Arc;

use parking_lot::Mutex;
use weir::core::history::HistoryRule;
use weir::core::hub::{Hub, Join, Outcome, Seat, SeatId};
use weir::core::outbox::{Outbox, OutboxLimit, Slice};
use weir::core::policy::{Keep, Policy};
use weir::core::run::Run;
use weir::core::session::Session;
use weir::proto::event::{Author, Event, Payload};
use weir::proto::name::{Alias, ChannelName, ClientId, ShardId};
use weir::store::memory::Memory;
use weir::store::{Deliver, NewEvent, Now, Store, Wish};

use kernel::Kernel;

/// The most allocations for one published event: the event, its data, and now and then a longer
/// mailbox.
const PUBLISHED_ALLOCATIONS_MAX: f64 = 2.01;

/// The most allocations for one delivered event, beside those of its publication.
const DELIVERED_ALLOCATIONS_MAX: f64 = 0.01;

/// Idle seats measured at once. Not a power of two: tables are as full as they are on average.
const SEATS: u32 = 100_000;

/// Bytes of heap for an idle seat with one subscription: all on one channel, and each on its own.
const SEAT_BYTES: [u32; 2] = [341, 501];

/// How far [`SEAT_BYTES`] may be off, in percent.
const TOLERANCE: u32 = 5;

/// Seats that have stalled under `latest`, keys of their channel, and bytes of heap that each of
/// them may cost beside what it had before, with its share of what they share.
const STALLED: u32 = 10_000;
const KEYS: u32 = 1_000;
const STALLED_BYTES_MAX: u32 = 512;

/// Events that are kept of a channel, and bytes of heap that each of them may cost.
const KEPT: u32 = 1_000;
const KEPT_BYTES_MAX: u32 = 320;

const LIMIT: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 4_096 };
const SHARD: ShardId = ShardId(0);
const NOW: Now = Now { unix_ms: 1_732_153_200_123, node_ns: 1_000_000_000 };
const NOW_MS: u64 = 1_000;

/// About 128 bytes, as telemetry has it.
const PAYLOAD: &[u8] = br#"{"host":"host-7","cpu":[12.5,88.25,3.75,41.0],"mem":7340032,"load":1.75,"up":123456,"note":"all work and no play makes Jack dull"}"#;

/// A mailbox as the shards have it.
#[derive(Default)]
struct Mail(Mutex<Vec<Arc<Event>>>);

impl Deliver for Mail {
    fn deliver(&self, _: ShardId, event: Arc<Event>) -> bool {
        self.0.lock().push(event);
        false
    }
}

/// A store and one shard, without sockets.
struct Node {
    store: Memory,
    mail: Arc<Mail>,
    /// The mailbox's other half.
    taken: Vec<Arc<Event>>,
    hub: Hub,
    kernel: Kernel,
    seats: u64,
}

impl Node {
    fn new() -> Self {
        let mail = Arc::new(Mail::default());
        let deliver: Arc<dyn Deliver> = Arc::<Mail>::clone(&mail);
        let store = Memory::new(deliver);
        let (hub, kernel) = (Hub::new(LIMIT), Kernel::default());
        Self { store, mail, taken: Vec::new(), hub, kernel, seats: 0 }
    }

    fn open(&mut self) -> SeatId {
        self.seats += 1;
        self.hub.open(Arc::new(Author { client: ClientId(self.seats), user: None }), NOW_MS)
    }

    fn subscribe(&mut self, id: SeatId, channel: &str) {
        let joined = self
            .store
            .subscribe(channel, SHARD, Wish::default(), NOW)
            .expect("memory is there")
            .joined;
        let to = (&joined.channel, joined.alias);
        self.hub.subscribe(id, to, join(Policy::DropOldest, joined.head.offset));
    }

    /// Publishes `batch` events on each channel.
    fn publish(&self, channels: &[String], batch: usize) {
        for _ in 0..batch {
            for channel in channels {
                let payload = Payload::Json(PAYLOAD.into());
                let event = NewEvent::new(Cow::Borrowed(channel), payload);
                self.store.publish(event, NOW).expect("memory is always there");
            }
        }
    }

    /// Delivers what was published: one turn of a shard.
    fn turn(&mut self) {
        std::mem::swap(&mut *self.mail.0.lock(), &mut self.taken);
        let mut outcome = Outcome::default();
        for event in self.taken.drain(..) {
            assert!(self.hub.load(&event, NOW.node_ns), "a batch fits into one run");
        }
        self.hub.fan_out(&mut self.kernel, NOW_MS, &mut outcome);
        assert_eq!(outcome.dropped.iter().sum::<u64>(), 0, "nobody is slow");
        while let Some(id) = self.hub.next_dirty() {
            let seat = self.hub.seat(id).expect("a dirty seat is there");
            self.kernel.flush(seat);
        }
    }

    /// Allocations once everything has the size that it needs: per published event, and per
    /// delivered event beside those.
    fn allocations(&mut self, channels: &[String], batch: usize) -> (f64, f64) {
        const TURNS: u32 = 100;
        for _ in 0..TURNS {
            self.publish(channels, batch);
            self.turn();
        }
        let (mut publishing, mut delivering) = (0, 0);
        let events = self.kernel.events;
        for _ in 0..TURNS {
            let before = counting::calls();
            self.publish(channels, batch);
            let between = counting::calls();
            self.turn();
            publishing += between - before;
            delivering += counting::calls() - between;
        }
        let events = self.kernel.events - events;
        let expected = self.hub.subscriptions() * batch as u64 * u64::from(TURNS);
        assert_eq!(events, expected, "every subscriber has every event");
        let published = channels.len() * batch * TURNS as usize;
        (publishing as f64 / published as f64, delivering as f64 / events as f64)
    }

    /// As [`Node::allocations`]; prints the figures, and says which are beyond their bounds.
    fn measure(
        &mut self,
        shape: &str,
        (channels, batch): (&[String], usize),
        faults: &mut Vec<String>,
    ) {
        let (published, delivered) = self.allocations(channels, batch);
        println!(
            "allocations, {shape}, batch {batch}: {published:.6}/event published, \
             {delivered:.6}/event delivered"
        );
        for (found, bound, event) in [
            (published, PUBLISHED_ALLOCATIONS_MAX, "published"),
            (delivered, DELIVERED_ALLOCATIONS_MAX, "delivered"),
        ] {
            if found > bound {
                faults.push(format!(
                    "{found:.6} allocations per {event} event ({shape}, batch {batch}): \
                     at most {bound}"
                ));
            }
        }
    }
}

fn join(policy: Policy, position: u64) -> Join {
    Join { policy, position, keys_max: 10_000, max_rate: None }
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("telemetry:host-{n}")).collect()
}

/// Prints allocations per event; says what is beyond the bounds.
fn allocations(faults: &mut Vec<String>) {
    let (one, hundred) = (names(1), names(100));
    let mut crowd = Node::new();
    for _ in 0..1_000 {
        let id = crowd.open();
        crowd.subscribe(id, &one[0]);
    }
    let mut apart = Node::new();
    for channel in &hundred {
        for _ in 0..10 {
            let id = apart.open();
            apart.subscribe(id, channel);
        }
    }
    let mut together = Node::new();
    for _ in 0..10 {
        let id = together.open();
        for channel in &hundred {
            together.subscribe(id, channel);
        }
    }
    for batch in [1, 64] {
        crowd.measure("1,000 seats on 1 channel", (&one, batch), faults);
        apart.measure("100 channels with 10 seats each", (&hundred, batch), faults);
        together.measure("10 seats each on 100 channels", (&hundred, batch), faults);
    }
}

/// Bytes of heap of the hub for one seat, when seat `n` is on channel `n % channels`. After
/// `events` events on each channel.
fn seat_bytes(channels: &[String], events: usize) -> u32 {
    let mut node = Node::new();
    let joined: Vec<(ChannelName, Alias, u64)> = channels
        .iter()
        .map(|channel| {
            let joined = node
                .store
                .subscribe(channel, SHARD, Wish::default(), NOW)
                .expect("memory is there")
                .joined;
            (joined.channel, joined.alias, joined.head.offset)
        })
        .collect();
    let before = counting::live();
    for (_, (channel, alias, head)) in (0..SEATS).zip(joined.iter().cycle()) {
        let id = node.open();
        node.hub.subscribe(id, (channel, *alias), join(Policy::DropOldest, *head));
    }
    for _ in 0..events {
        node.publish(channels, 1);
        node.turn();
    }
    let bytes = counting::live() - before;
    u32::try_from(bytes).expect("less than 4 GiB").div_ceil(SEATS)
}

/// Prints the sizes of seats and their parts; says what is beyond the bound.
fn sizes(faults: &mut Vec<String>) {
    println!("size_of Seat: {}", size_of::<Seat>());
    println!("size_of   Outbox: {}", size_of::<Outbox>());
    println!("size_of   Session: {}", size_of::<Session>());
    println!("size_of Author: {}", size_of::<Author>());
    println!("size_of Slice: {}", size_of::<Slice>());
    println!("size_of Run: {}", size_of::<Run>());
    println!("size_of Event: {}", size_of::<Event>());
    println!("size_of Hub: {}", size_of::<Hub>());

    let (one, own) = (names(1), names(SEATS));
    let shapes = [("on 1 channel", &one), ("each on its own", &own)];
    for ((shape, channels), bound) in shapes.into_iter().zip(SEAT_BYTES) {
        let found = seat_bytes(channels, 0);
        println!("heap bytes/idle seat, {SEATS} {shape}: {found}");
        if found.abs_diff(bound) * 100 > bound * TOLERANCE {
            faults.push(format!(
                "{found} bytes for an idle seat ({shape}): meant to be {bound}, give or take \
                 {TOLERANCE} %; where that is meant, change SEAT_BYTES"
            ));
        }
    }
    let stalled = stalled_bytes();
    println!(
        "heap bytes/stalled seat under latest, {STALLED} on 1 channel, {KEYS} keys: {stalled}"
    );
    if stalled > STALLED_BYTES_MAX {
        faults.push(format!("{stalled} bytes for a stalled seat: at most {STALLED_BYTES_MAX}"));
    }
    println!("heap bytes/seat that has had events, {SEATS} on 1 channel: {}", seat_bytes(&one, 9));
    let kept = kept_bytes();
    println!("heap bytes/kept event of 128 bytes, {KEPT} on each of 100 channels: {kept}");
    if kept > KEPT_BYTES_MAX {
        faults.push(format!("{kept} bytes for a kept event: at most {KEPT_BYTES_MAX}"));
    }
}

/// Bytes of heap for an event that is kept, with its part of the channel.
fn kept_bytes() -> u32 {
    let node = Node::new();
    let channels = names(100);
    let history = HistoryRule { size: u64::from(KEPT), ttl_ms: 1 << 40 };
    let keep = Keep { history, ..Keep::default() };
    let author = Arc::new(Author { client: ClientId(1), user: Some("user-1".into()) });
    let before = counting::live();
    for channel in &channels {
        // Some more than are kept.
        for _ in 0..KEPT + KEPT / 2 {
            let payload = Payload::Json(PAYLOAD.into());
            let channel = Cow::Borrowed(channel.as_str());
            let from = Some(Arc::clone(&author));
            let event = NewEvent { keep, from, ..NewEvent::new(channel, payload) };
            node.store.publish(event, NOW).expect("memory is always there");
        }
    }
    let bytes = u32::try_from(counting::live().saturating_sub(before)).expect("less than 4 GiB");
    bytes.div_ceil(KEPT * 100)
}

/// Bytes of heap for a subscriber of a channel with 1,000 keys that has stalled under `latest`,
/// beside what it had before: the kernel has taken half of a batch, and nothing since.
fn stalled_bytes() -> u32 {
    let mut node = Node::new();
    let channel = names(1);
    let joined = node
        .store
        .subscribe(&channel[0], SHARD, Wish::default(), NOW)
        .expect("memory is there")
        .joined;
    let ids: Vec<SeatId> = (0..STALLED).map(|_| node.open()).collect();
    for id in &ids {
        node.hub.subscribe(*id, (&joined.channel, joined.alias), join(Policy::Latest, 0));
    }
    let publish = |node: &mut Node| {
        for key in 0..KEYS {
            let payload = Payload::Json(PAYLOAD.into());
            let event = NewEvent {
                key: Some(format!("key-{key}").into()),
                ..NewEvent::new(Cow::Borrowed(&channel[0]), payload)
            };
            node.store.publish(event, NOW).expect("memory is always there");
        }
        std::mem::swap(&mut *node.mail.0.lock(), &mut node.taken);
        let mut outcome = Outcome::default();
        for event in std::mem::take(&mut node.taken) {
            if !node.hub.load(&event, NOW.node_ns) {
                node.hub.fan_out(&mut node.kernel, NOW_MS, &mut outcome);
                assert!(node.hub.load(&event, NOW.node_ns), "an empty run takes any event");
            }
        }
        node.hub.fan_out(&mut node.kernel, NOW_MS, &mut outcome);
    };
    let before = counting::live();
    publish(&mut node);
    for id in &ids {
        let seat = node.hub.seat(*id).expect("it is open");
        seat.outbox.advance(1_000, &mut node.kernel);
        seat.blocked = true;
    }
    for _ in 0..20 {
        publish(&mut node);
    }
    let full = ids.iter().filter(|id| {
        let seat = node.hub.seat(**id).expect("it is open");
        seat.outbox.data_events() > 1
    });
    assert_eq!(full.count(), 0, "all of them lag");
    let bytes = counting::live().saturating_sub(before);
    u32::try_from(bytes).expect("less than 4 GiB").div_ceil(STALLED)
}

/// Takes no notice of its arguments: cargo and criterion's users give `--bench` and `--test`.
fn main() -> ExitCode {
    let mut faults = Vec::new();
    allocations(&mut faults);
    sizes(&mut faults);
    for fault in &faults {
        eprintln!("footprint: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
