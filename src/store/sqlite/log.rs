//! The store of durable channels as the others see it: a queue, and a thread behind it.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::files::{self, OpenError, Opened};
use super::queue::{Load, Queue, Wanted, Work};
use super::watchdog::{Change, HANG_MS};
use super::whole::Whole;
use super::writer::Writer;
use crate::core::metrics::Histogram;
use crate::core::policy::Keep;
use crate::store::memory::Memory;
use crate::store::{Deliver, Durable, Loading, NewEvent, Now, StoreError, Told};

/// Reads the clocks of the node.
pub(super) type Clock = Box<dyn Fn() -> Now + Send>;

/// What is kept of a channel, by its name.
pub(super) type Rules = Box<dyn Fn(&str) -> Option<Keep> + Send>;

/// How long a shutdown waits for the disk.
const CLOSE: Duration = Duration::from_secs(10);

/// Durable channels in a SQLite file. Closed, with all that it has taken, when it is dropped.
pub struct Sqlite {
    queue: Arc<Queue>,
    whole: Arc<Whole>,
    deliver: Arc<dyn Deliver>,
    thread: Mutex<Option<Thread>>,
}

/// The thread, and what ends with it.
struct Thread(JoinHandle<()>, mpsc::Receiver<()>);

/// What the thread works with beside its file.
pub(super) struct Parts {
    pub(super) memory: Arc<Memory>,
    pub(super) queue: Arc<Queue>,
    pub(super) whole: Arc<Whole>,
    pub(super) work: Work,
    pub(super) clock: Clock,
    pub(super) rules: Rules,
}

impl Sqlite {
    /// Opens the file, or makes it. Its channels come into `memory`, when somebody needs them.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file cannot be used, with a sentence that says why.
    pub fn open(
        path: &Path,
        memory: Arc<Memory>,
        deliver: Arc<dyn Deliver>,
        clock: impl Fn() -> Now + Send + 'static,
        rules: impl Fn(&str) -> Option<Keep> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (clock, rules) = (Box::new(clock), Box::new(rules));
        let opened = files::open(path, true)?;
        Ok(Self::start(opened, deliver, |queue, work| {
            let whole = Arc::default();
            Parts { memory, queue, whole, work, clock, rules }
        }))
    }

    pub(super) fn start(
        opened: Opened,
        deliver: Arc<dyn Deliver>,
        parts: impl FnOnce(Arc<Queue>, Work) -> Parts,
    ) -> Self {
        let queue = Arc::new(Queue::new());
        let parts = parts(Arc::clone(&queue), Work::new(Arc::clone(&deliver)));
        let (alive, is_alive) = mpsc::channel();
        let of_the_end = Arc::clone(&deliver);
        let ended = Ended { queue: Arc::clone(&queue), deliver: of_the_end, _alive: alive };
        let (faulty, whole) = (Arc::clone(&queue), Arc::clone(&parts.whole));
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            let _ended = ended;
            let Opened { db, lock } = opened;
            // It may have to delete what a crash has left, on a disk that hangs.
            faulty.watchdog.step();
            match Writer::new(&db, parts) {
                Ok(mut writer) => writer.run(),
                Err(error) => {
                    tracing::error!(%error, "the store has not begun");
                    faulty.set_fault(&format!("store.path cannot be used: {error}"));
                }
            }
            if let Err((_, error)) = db.close() {
                tracing::warn!(%error, "the store was not closed; nothing of it is lost");
            }
            drop(lock);
        });
        let thread = match thread {
            Ok(thread) => Some(Thread(thread, is_alive)),
            Err(error) => {
                tracing::error!(%error, "the system refuses the store its thread");
                queue.set_fault(&format!("the system refuses the store its thread: {error}"));
                None
            }
        };
        Self { queue, whole, deliver, thread: Mutex::new(thread) }
    }

    /// Closes it. Whether it is closed in that time; if not, its thread ends when the disk answers.
    pub(super) fn close_within(&self, patience: Duration) -> bool {
        self.queue.close();
        let Some(Thread(thread, is_alive)) = self.thread.lock().take() else { return true };
        if is_alive.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            let waiting = self.queue.waiting();
            tracing::error!(
                waiting,
                "the disk of store.path has not answered for {patience:?}: {waiting} events of \
                 which nobody was told are given up"
            );
            return false;
        }
        if thread.join().is_err() {
            tracing::error!("the store's thread has panicked");
        }
        true
    }
}

/// Ends the queue with its thread, also where that has panicked: nobody waits for it any more.
struct Ended {
    queue: Arc<Queue>,
    deliver: Arc<dyn Deliver>,
    /// Whoever waits for the thread sees it gone.
    _alive: mpsc::Sender<()>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.set_fault(
                "its thread has ended by a fault of Weir's own; its last words are in the log",
            );
        }
        // It is not the disk that it has ended.
        self.queue.watchdog.rest();
        self.queue.end(Arc::clone(&self.deliver));
    }
}

impl Durable for Sqlite {
    fn publish(&self, event: NewEvent<'static>, now: Now, told: Told) -> Result<bool, StoreError> {
        self.queue.push(event, now, told)
    }

    fn load(&self, channel: &str, keep: Keep) -> Result<Loading, StoreError> {
        let (done, loading) = oneshot::channel();
        self.queue.load(Load { what: Wanted::Channel(channel.into(), keep), done })?;
        Ok(loading)
    }

    fn load_prefix(&self, prefix: &str) -> Result<Loading, StoreError> {
        let (done, loading) = oneshot::channel();
        self.queue.load(Load { what: Wanted::Prefix(prefix.into()), done })?;
        Ok(loading)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.whole.has(prefix)
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.queue.room())
    }

    fn fault(&self) -> Option<String> {
        self.queue.fault()
    }

    fn watch(&self, now: Now) {
        match self.queue.watchdog.look(now.node_ms()) {
            Some(Change::Hung) => {
                let waiting = self.queue.waiting();
                tracing::error!(
                    waiting,
                    "the disk of store.path has not answered for {} s: durable channels are \
                     unavailable until it does",
                    HANG_MS / 1_000
                );
                self.queue.refuse_all(Arc::clone(&self.deliver));
            }
            Some(Change::Answered) => tracing::info!("the disk of store.path answers again"),
            None => {}
        }
    }

    fn faulty(&self) -> u64 {
        self.queue.faulty()
    }

    fn seconds(&self) -> Histogram {
        *self.queue.seconds.lock()
    }

    fn waiting(&self) -> u64 {
        self.queue.waiting()
    }

    fn close(&self) {
        self.close_within(CLOSE);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
    }
}
