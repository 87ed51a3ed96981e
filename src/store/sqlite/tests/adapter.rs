//! A store whose every channel is durable, which waits where a shard would go on with others.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::browse::{Bookmark, Leaf, Listing};
use crate::core::policy::Keep;
use crate::proto::name::{Alias, ShardId};
use crate::store::memory::Memory;
use crate::store::sqlite::files;
use crate::store::sqlite::log::{Parts, Sqlite};
use crate::store::{
    Begun, ChannelInfo, Deliver, Durable, Joined, Loading, NewEvent, Now, Published, Read, Reading,
    Store, StoreError, Told, Wish,
};

/// Waits for what comes by itself, but not for ever.
#[expect(clippy::disallowed_methods, reason = "of the test, and of no shard")]
pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::yield_now();
    }
}

/// A file that goes with the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-{}-{count}.db", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

/// Every channel of it is durable.
pub(super) struct Blocking {
    pub(super) memory: Arc<Memory>,
    pub(super) log: Sqlite,
    /// The last time that anybody has named; what the writer takes for now.
    clock: Arc<(AtomicU64, AtomicU64)>,
    pub(super) scratch: Option<Scratch>,
}

/// Delivers to nobody.
pub(super) struct Nobody;

impl Deliver for Nobody {
    fn deliver(&self, _: ShardId, _: Arc<crate::proto::event::Event>) -> bool {
        false
    }
}

/// Delivers to nobody, and holds the writer at each event until it may go on.
#[derive(Default)]
pub(super) struct Gate {
    pub(super) go: Mutex<()>,
    /// Events that were delivered.
    pub(super) events: Mutex<usize>,
    /// A channel that is to be loaded, and whether it was when the last event was delivered.
    pub(super) watched: Mutex<Option<Loading>>,
    pub(super) loaded: Mutex<Option<bool>>,
}

impl Gate {
    /// Waits until the writer stands at that event.
    pub(super) fn until_held(&self, nth: usize) {
        wait_until("an event to be delivered", || *self.events.lock() >= nth);
    }
}

impl Deliver for Gate {
    fn deliver(&self, _: ShardId, _: Arc<crate::proto::event::Event>) -> bool {
        *self.events.lock() += 1;
        drop(self.go.lock());
        if let Some(watched) = &mut *self.watched.lock() {
            *self.loaded.lock() = Some(watched.try_recv().is_ok());
        }
        false
    }
}

/// So many milliseconds after a moment, by a clock that began long before the process.
pub(super) fn now(ms: u64) -> Now {
    Now { unix_ms: 1_700_000_000_000 + ms, node_ns: (1_000_000_000 + ms) * 1_000_000 }
}

/// A store in that file at that moment, whose events go to nobody.
pub(super) fn begun(scratch: Scratch, keep: Keep) -> Blocking {
    let store = opened(Blocking::open(scratch, Arc::new(Nobody), keep));
    store.tell_time(now(0));
    store
}

/// What was opened.
pub(super) fn opened(result: Result<Blocking, (String, Scratch)>) -> Blocking {
    result.unwrap_or_else(|(error, _)| panic!("{error}"))
}

impl Blocking {
    /// Opens the file, or makes it.
    pub(super) fn open(
        scratch: Scratch,
        deliver: Arc<dyn Deliver>,
        keep: Keep,
    ) -> Result<Self, (String, Scratch)> {
        let opened = match files::open(&scratch.0, false) {
            Ok(opened) => opened,
            Err(error) => return Err((error.to_string(), scratch)),
        };
        let memory = Arc::new(Memory::new(Arc::clone(&deliver)));
        let clock = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let (read, of) = (Arc::clone(&clock), Arc::clone(&memory));
        let log = Sqlite::start(opened, deliver, |queue, work| Parts {
            memory: of,
            queue,
            whole: Arc::default(),
            work,
            clock: Box::new(move || Now {
                unix_ms: read.0.load(Ordering::Relaxed),
                node_ns: read.1.load(Ordering::Relaxed),
            }),
            rules: Box::new(move |_| Some(Keep { durable: true, ..keep })),
        });
        Ok(Self { memory, log, clock, scratch: Some(scratch) })
    }

    /// Ends it; the file stays.
    pub(super) fn end(mut self) -> Scratch {
        self.log.close();
        self.scratch.take().expect("it is taken once")
    }

    pub(super) fn tell_time(&self, now: Now) {
        self.clock.0.store(now.unix_ms, Ordering::Relaxed);
        self.clock.1.store(now.node_ns, Ordering::Relaxed);
    }

    fn load(&self, channel: &str, keep: Keep, now: Now) -> Result<(), StoreError> {
        self.tell_time(now);
        self.log.load(channel, keep)?.blocking_recv().map_err(|_| StoreError::Away)?
    }

    /// Does what needs a channel in memory.
    fn with<T>(
        &self,
        (channel, keep): (&str, Keep),
        now: Now,
        call: impl Fn(Keep) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let keep = Keep { durable: true, ..keep };
        loop {
            match call(keep) {
                Err(StoreError::Unloaded) => self.load(channel, keep, now)?,
                done => return done,
            }
        }
    }
}

impl Store for Blocking {
    fn publish(&self, event: NewEvent<'_>, now: Now) -> Result<Published, StoreError> {
        self.tell_time(now);
        let (told, answer) = oneshot::channel();
        let keep = Keep { durable: true, ..event.keep };
        let event = NewEvent { keep, ..event }.into_owned();
        self.log.publish(event, now, Told::Waiter(told))?;
        answer.blocking_recv().map_err(|_| StoreError::Away)?
    }

    fn subscribe(
        &self,
        channel: &str,
        shard: ShardId,
        wish: Wish<'_>,
        now: Now,
    ) -> Result<Begun, StoreError> {
        self.with((channel, wish.keep), now, |keep| {
            self.memory.subscribe(channel, shard, Wish { keep, ..wish }, now)
        })
    }

    fn read(&self, channel: &str, reading: Reading<'_>, now: Now) -> Result<Read, StoreError> {
        self.with((channel, reading.keep), now, |keep| {
            self.memory.read(channel, Reading { keep, ..reading }, now)
        })
    }

    fn keyed(&self, prefix: &str, from: Bookmark) -> Listing {
        self.memory.keyed(prefix, from)
    }

    fn leaf(&self, channel: &str, alias: Alias, after: u64) -> Option<Leaf> {
        self.memory.leaf(channel, alias, after)
    }

    fn kept_bytes(&self) -> usize {
        self.memory.kept_bytes()
    }

    fn unsubscribe(&self, channel: &str, shard: ShardId, last: bool, now: Now) {
        self.memory.unsubscribe(channel, shard, last, now);
    }

    fn subscribe_prefix(&self, prefix: &str, shard: ShardId) -> Result<(), StoreError> {
        self.memory.subscribe_prefix(prefix, shard)
    }

    fn unsubscribe_prefix(&self, prefix: &str, shard: ShardId) {
        self.memory.unsubscribe_prefix(prefix, shard);
    }

    fn find(&self, channel: &str) -> Option<Joined> {
        self.memory.find(channel)
    }

    fn channels(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ChannelInfo> {
        self.memory.channels(prefix, after, limit)
    }

    fn channel_count(&self) -> u64 {
        self.memory.channel_count()
    }

    fn sweep(&self, now: Now) {
        self.memory.sweep(now);
    }
}
