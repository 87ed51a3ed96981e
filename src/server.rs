//! Wiring: builds the parts from a [`Config`], starts the shards, and stops them. The embedding
//! API of the crate, and what the `weir` program itself runs on.

mod listening;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::config::Config;
use crate::core::metrics::Snapshot;
use crate::http::{HttpOptions, ListenAddress, Listener, Serves};
use crate::proto::dialect::json::value;
use crate::proto::name::{ChannelName, ClientId, KEY_BYTES_MAX, ShardId};
use crate::proto::position::Position;
use crate::shard::{Local, Mailboxes, Node, PublishError, fdtable};
use crate::store::memory::Memory;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::Sqlite;
use crate::store::{Durable, NewEvent};

mod reload;

pub use reload::{ReloadError, Reloaded, Warning};

use listening::{Place, SocketFile};
use reload::{Fixed, Running};

/// Why a gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Which.
        address: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The file of durable channels cannot be used; says which, and why.
    #[error("{0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A shard's thread ended by a panic.
    #[error("a shard has ended unexpectedly; its last words are in the log")]
    Shard,
    /// The system refused a thread or a runtime.
    #[error("failed to start a shard: {0}")]
    Thread(#[source] io::Error),
}

/// A gateway that listens, until [`Gateway::run_until`] has ended it. Dropped before, it drains
/// without anybody who waits for the end.
///
/// ```no_run
/// # async fn example(config: weir::Config) -> Result<(), Box<dyn std::error::Error>> {
/// let gateway = weir::Gateway::builder().config(config).build()?;
/// let handle = gateway.handle();
/// gateway.run_until(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Gateway {
    node: Arc<Node>,
    running: Arc<Running>,
    places: Vec<Place>,
    addresses: Vec<SocketAddr>,
    connections_max: usize,
    /// Of the sockets that it listens on.
    files: Vec<SocketFile>,
    shards: Vec<(JoinHandle<()>, oneshot::Receiver<()>)>,
}

/// Settings of a [`Gateway`] to be.
#[derive(Default)]
pub struct Builder {
    config: Config,
}

/// A way to a running [`Gateway`] from any thread.
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    running: Arc<Running>,
}

impl Builder {
    /// Runs on these settings instead of the defaults.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Starts the threads and listens.
    ///
    /// # Errors
    ///
    /// [`StartError`] when an address is taken, or the system refuses a thread.
    pub fn build(self) -> Result<Gateway, StartError> {
        let fixed = Fixed::of(&self.config);
        let Config { listen, admin_listen, shards, node, http, .. } = self.config;
        let Config { store_memory, store_path, .. } = self.config;
        let descriptors = fdtable::raise_limit();
        let wanted = node.limits.connections;
        // The reserve has room for one listener of its table.
        let further = (listen.len() + admin_listen.len()).saturating_sub(1) as u64;
        let reserve = fdtable::RESERVE + further * shards as u64;
        let separate = wanted as u64 > descriptors.saturating_sub(reserve) && separable();
        let (tables, reserve) =
            if separate { (shards as u64, fdtable::RESERVE + further) } else { (1, reserve) };
        let room = descriptors.saturating_sub(reserve.min(descriptors / 2)).saturating_mul(tables);
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
        let connections_max = wanted.min(room);

        let serves = if admin_listen.is_empty() { Serves::All } else { Serves::Clients };
        let admin = admin_listen.into_iter().map(|address| (address, Serves::Admin));
        let all = listen.into_iter().map(|address| (address, serves)).chain(admin);
        let mut files = Vec::new();
        let places = Place::take(all, &mut files)?;
        let of_clients = places.iter().filter(|place| place.serves != Serves::Admin);
        let addresses = of_clients.filter_map(|place| place.address.tcp()).collect();
        let mailboxes = Arc::new(Mailboxes::new(shards));
        let deliver = Arc::<Mailboxes>::clone(&mailboxes);
        let store = Arc::new(Memory::bounded(deliver, store_memory));
        let node = Node::new(node, Arc::<Memory>::clone(&store), Arc::clone(&mailboxes));
        // Its file is opened before the shards have descriptor tables of their own.
        let log = store_path.map(|path| keep_in(&path, &store, &mailboxes, &node));
        node.limits().bound(room);
        let node = Arc::new(match log.transpose()? {
            Some(log) => node.with_log(log),
            None => node,
        });
        let http = Arc::new(ArcSwap::from_pointee(http));
        let running = Arc::new(Running::new(fixed, store, Arc::clone(&http)));
        // Every runtime is there before the first thread leaves the shared descriptor table: a
        // wake-up from another thread then finds its descriptor under the same number everywhere.
        let engines: Result<Vec<_>, io::Error> = (0..shards).map(|_| Engine::new()).collect();
        // From here on what has begun ends with it, also where the start fails.
        let shards = Vec::new();
        let mut gateway =
            Gateway { node, running, places, addresses, connections_max, files, shards };
        for (index, engine) in engines.map_err(StartError::Thread)?.into_iter().enumerate() {
            let id = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let plan = Plan {
                id,
                places: gateway.places.clone(),
                separate,
                node: Arc::clone(&gateway.node),
                http: Arc::clone(&http),
            };
            let (ready, is_ready) = std::sync::mpsc::channel();
            let (done, is_done) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || plan.run(engine, &ready, done))
                .map_err(StartError::Thread)?;
            match is_ready.recv() {
                Ok(Ok(())) => gateway.shards.push((thread, is_done)),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(StartError::Shard),
            }
        }
        gateway.places.iter_mut().for_each(Place::hand_over);
        Ok(gateway)
    }
}

impl Gateway {
    /// Begins with the default settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The addresses of TCP that its clients connect to, in the order of the settings; with port 0
    /// there, the port it was given.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All of where it listens, with what is served there.
    pub fn listens(&self) -> impl Iterator<Item = (&ListenAddress, Serves)> {
        self.places.iter().map(|place| (&place.address, place.serves))
    }

    /// How many connections it takes: the setting, or what the descriptor limit allows.
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// A way to it from any thread.
    pub fn handle(&self) -> Handle {
        Handle { node: Arc::clone(&self.node), running: Arc::clone(&self.running) }
    }

    /// Runs until `stop` resolves, then drains: clients are told to come back elsewhere, spread
    /// over the configured time, and what was taken is delivered.
    ///
    /// # Errors
    ///
    /// [`StartError::Shard`] when a shard ended by itself.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let shards = std::mem::take(&mut self.shards);
        let (threads, mut ends): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
        let lost = std::future::poll_fn(|cx| {
            for end in &mut ends {
                if std::pin::Pin::new(end).poll(cx).is_ready() {
                    return std::task::Poll::Ready(());
                }
            }
            std::task::Poll::Pending
        });
        tokio::select! {
            () = stop => {}
            () = lost => return Err(StartError::Shard),
        }
        self.node.drain();
        for end in ends {
            end.await.map_err(|_| StartError::Shard)?;
        }
        for thread in threads {
            thread.join().map_err(|_| StartError::Shard)?;
        }
        if let Some(log) = self.node.durable() {
            log.close();
        }
        self.files.clear();
        Ok(())
    }
}

/// Begins the drain, and does not wait for its end: the threads end by themselves.
impl Drop for Gateway {
    fn drop(&mut self) {
        self.node.drain();
    }
}

impl Handle {
    /// Publishes a JSON value and returns its place. Waits while the node is overloaded, for as
    /// long as `publish_timeout`; needs a tokio runtime with a timer. No rule of a namespace is
    /// asked: whoever embeds the gateway is its operator.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; data that is not JSON is [`PublishError::Data`], and a key that no client
    /// may send [`PublishError::Key`].
    pub async fn publish(
        &self,
        channel: &ChannelName,
        key: Option<&str>,
        data: Vec<u8>,
    ) -> Result<Position, PublishError> {
        if key.is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(PublishError::Key);
        }
        let payload = value::check(&data).map_err(PublishError::Data)?;
        let channel = Cow::Borrowed(channel.as_str());
        let event = NewEvent { key: key.map(Box::from), ..NewEvent::new(channel, payload) };
        let published = self.node.publish(event).await?;
        self.node.count_embedded();
        Ok(published.position)
    }

    /// Closes a client's connection with 4503. Returns whether there was one.
    pub async fn disconnect(&self, client: ClientId) -> bool {
        self.node.disconnect(client).await > 0
    }

    /// The counters of every shard.
    pub async fn stats(&self) -> Vec<Snapshot> {
        self.node.stats().await
    }
}

/// Opens the file of durable channels, and starts who writes it.
#[cfg(feature = "sqlite")]
fn keep_in(
    path: &Path,
    store: &Arc<Memory>,
    mailboxes: &Arc<Mailboxes>,
    node: &Node,
) -> Result<Arc<dyn Durable>, StartError> {
    let (clock, settings) = (node.clock(), Arc::clone(node.settings()));
    let (store, deliver) = (Arc::clone(store), Arc::<Mailboxes>::clone(mailboxes));
    let rules = move |name: &str| settings.load().policies.of(name).map(|rule| rule.keep);
    let log = Sqlite::open(path, store, deliver, move || clock.now(), rules);
    let log = log.map_err(|error| StartError::Store(Box::new(error)))?;
    Ok(Arc::new(log))
}

/// A checked configuration does not ask for it.
#[cfg(not(feature = "sqlite"))]
fn keep_in(
    _: &Path,
    _: &Arc<Memory>,
    _: &Arc<Mailboxes>,
    _: &Node,
) -> Result<Arc<dyn Durable>, StartError> {
    Err(StartError::Store("this build has no store for durable channels".into()))
}

/// What one shard's thread is to do.
struct Plan {
    id: ShardId,
    places: Vec<Place>,
    separate: bool,
    node: Arc<Node>,
    http: Arc<ArcSwap<HttpOptions>>,
}

impl Plan {
    fn run(
        mut self,
        engine: Engine,
        ready: &std::sync::mpsc::Sender<Result<(), StartError>>,
        done: oneshot::Sender<()>,
    ) {
        let shard = async {
            let listeners = match self.listen() {
                Ok(listeners) => listeners,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // What is left of a socket after a drain would take connections that nobody answers.
            self.places.clear();
            let local = Local::new(self.id, self.node);
            drop(ready.send(Ok(())));
            let doors = crate::http::serve(listeners, local.clone(), self.http);
            local.run(doors).await;
        };
        if let Some(runtime) = &engine.0 {
            LocalSet::new().block_on(runtime, shard);
        }
        if done.send(()).is_err() {
            tracing::debug!("nobody waits for the end of this shard");
        }
    }

    fn listen(&self) -> Result<Vec<Listener>, StartError> {
        if self.separate {
            fdtable::separate().map_err(StartError::Thread)?;
        }
        self.places.iter().map(Place::listen).collect()
    }
}

/// A shard's runtime. Its end waits for nothing, so that a start may fail inside of another
/// runtime, where waiting is a panic.
struct Engine(Option<Runtime>);

impl Engine {
    fn new() -> io::Result<Self> {
        // Large messages are worked on beside the shard: one at a time, so that those who send them
        // take no more than a core from the others.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(1).build().map(Some).map(Self)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether shards may have descriptor tables of their own; says so where they may not.
fn separable() -> bool {
    let tried = fdtable::try_separate();
    if let Err(error) = &tried {
        tracing::warn!(
            "the system refuses shards their own descriptor tables (unshare: {error}): they share \
             the process's limit of open files"
        );
    }
    tried.is_ok()
}
