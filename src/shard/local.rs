//! One shard as its own thread sees it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::connection::Connection;
use super::durable::Owed;
use super::limits::Place;
use super::mailbox::Mailbox;
use super::memory::Told;
use super::node::{Node, NodeOptions};
use super::room::RoomDues;
use super::secure::READ_BYTES_MIN;
use super::stream::{Apart, Stream};
use super::verify::Waiting;
use crate::core::bearer::Bearer;
use crate::core::bucket::Allowance;
use crate::core::hub::{Hub, SeatId};
use crate::core::metrics::{Counter, Metrics};
use crate::core::pace::Paces;
use crate::core::session::Session;
use crate::core::signals::Shown;
use crate::core::ticket::Ticket;
use crate::core::wheel::Wheel;
use crate::proto::close::CloseReason;
use crate::proto::dialect::json::{self, Parser};
use crate::proto::event::Author;
use crate::proto::format::Spoken;
use crate::proto::name::{ClientId, ShardId};
use crate::proto::ws::deflate::Inflaters;
use crate::proto::ws::frame;

/// Bytes read from a socket at once.
const SCRATCH_BYTES: usize = 64 * 1024;

const _: () = assert!(SCRATCH_BYTES >= READ_BYTES_MIN);

/// A connection on its way out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) reason: CloseReason,
    /// When the socket is closed whatever the peer does, node milliseconds.
    pub(super) deadline_ms: u64,
    /// What its queue has, where that is to be free soon.
    pub(super) going: usize,
}

impl Ending {
    /// Whether answers that it leaves unread may go before their time. What was queued before a
    /// shutdown goes out, and one that is cut has none.
    pub(super) fn may_hasten(self) -> bool {
        !matches!(self.reason, CloseReason::Overloaded | CloseReason::Shutdown)
    }
}

/// A socket and what belongs to it, beside its seat in the hub.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    /// What few have.
    pub(super) apart: Option<Box<Apart>>,
    pub(super) client: ClientId,
    pub(super) waker: Cell<Option<Waker>>,
    pub(super) ending: Cell<Option<Ending>>,
    pub(super) place: Cell<Option<Place>>,
    pub(super) owed: Cell<Owed>,
}

/// With the counts of its `Rc` it stays within 128 bytes: there are a hundred thousand of them.
const _: () = assert!(size_of::<Socket>() <= 112);

/// Who has just shaken hands.
#[derive(Debug)]
pub struct Guest {
    /// Its place on the node.
    pub place: Place,
    /// How it speaks.
    pub spoken: Spoken,
    /// The connection that it says it had before.
    pub was: Option<ClientId>,
    /// What its token says; `None` is the anonymous.
    pub bearer: Option<Arc<Bearer>>,
}

/// The state of one shard. Everything inside is for one thread.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) node: Arc<Node>,
    pub(super) hub: RefCell<Hub>,
    pub(super) sockets: RefCell<Vec<Option<Rc<Socket>>>>,
    scratch: Cell<Vec<u8>>,
    pub(super) parser: RefCell<Parser>,
    /// What inflates the messages of all its connections.
    pub(super) inflaters: RefCell<Inflaters>,
    pub(super) metrics: Metrics,
    pub(super) wheel: RefCell<Wheel<(u32, ClientId)>>,
    /// The seats still to be closed by a drain, and when it began.
    pub(super) drain: RefCell<Option<(Vec<SeatId>, u64, usize)>>,
    pub(super) empty: Notify,
    pub(super) told: Told,
    /// The signals that its clients show.
    pub(super) shown: RefCell<Shown>,
    /// When rooms are looked at.
    pub(super) room_dues: RoomDues,
    /// The settings of the node, as far as this shard has heard of them.
    pub(super) settings: RefCell<Rc<NodeOptions>>,
    /// How many times it is looking again at what its clients have, for other settings.
    pub(super) looking: Cell<usize>,
    /// The last of these looks, which the next one waits for.
    pub(super) last_look: Cell<Option<JoinHandle<()>>>,
    /// Tokens that are being checked beside it.
    pub(super) verifying: Waiting,
    /// How fast its clients ask, where that is limited.
    pub(super) paces: RefCell<Paces>,
}

/// The shard's scratch buffer while somebody reads into it. It goes back also when they panic:
/// without it every connection of the shard would read nothing, and take that for the end.
pub(super) struct Scratch<'a> {
    home: &'a Cell<Vec<u8>>,
    bytes: Vec<u8>,
}

impl std::ops::Deref for Scratch<'_> {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl std::ops::DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.home.set(std::mem::take(&mut self.bytes));
    }
}

/// The part of `limits.memory` that the tables of newest events may take beside it, all shards
/// together.
pub(super) const TABLES_SHARE: usize = 4;

/// A handle to the shard of this thread. Not `Send`: the compiler keeps it here.
#[derive(Clone)]
pub struct Local(pub(super) Rc<Shard>);

impl Local {
    /// The shard `id` of `node`.
    pub fn new(id: ShardId, node: Arc<Node>) -> Self {
        let options = NodeOptions::clone(&node.options());
        let now_ms = node.clock().node_ms();
        let mut hub = Hub::compressing(options.outbox, options.compression);
        hub.bound_tables(options.memory_max / TABLES_SHARE / node.shards().max(1));
        Self(Rc::new(Shard {
            id,
            hub: RefCell::new(hub),
            sockets: RefCell::default(),
            scratch: Cell::new(vec![0; SCRATCH_BYTES]),
            parser: RefCell::new(Parser::new()),
            inflaters: RefCell::default(),
            metrics: Metrics::default(),
            wheel: RefCell::new(Wheel::new(now_ms)),
            drain: RefCell::new(None),
            empty: Notify::new(),
            told: Told::default(),
            shown: RefCell::default(),
            room_dues: RoomDues::default(),
            settings: RefCell::new(Rc::new(options)),
            looking: Cell::new(0),
            last_look: Cell::new(None),
            paces: RefCell::default(),
            verifying: Waiting::default(),
            node,
        }))
    }

    /// The node it belongs to.
    pub fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// Its index.
    pub fn id(&self) -> ShardId {
        self.0.id
    }

    /// The settings that it goes by.
    pub fn options(&self) -> Rc<NodeOptions> {
        self.0.options()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Runs `future` on this thread.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(future);
    }

    /// Takes a WebSocket whose 101 has been written; `early` is what came behind the request.
    pub fn adopt(&self, stream: impl Into<Stream>, early: Vec<u8>, guest: Guest) {
        let Stream { tcp: stream, apart } = stream.into();
        let Guest { place, spoken, was, bearer } = guest;
        let shard = &self.0;
        let clock = shard.node.clock();
        let client = ClientId(fastrand::u64(..));
        let user = bearer.as_deref().map(|bearer| bearer.user().into());
        let author = Arc::new(Author { client, user });
        let options = shard.options();
        let last = was.and_then(|was| shard.node.recall(was));
        let (unix_ms, now_ms) = (clock.token_ms(), clock.node_ms());
        let ticket = match bearer {
            // By the newest keys: this shard may not have heard of them yet.
            Some(bearer) => Some(shard.node.options().auth.ticket(bearer, unix_ms, now_ms)),
            None => options.auth.required.then(|| Ticket::stranger(now_ms)),
        };
        let id = {
            let mut hub = shard.hub.borrow_mut();
            let id = hub.open_in(spoken.format(), Arc::clone(&author), now_ms);
            if let Some(seat) = hub.seat(id) {
                seat.session.batch = spoken.batch;
                if let Some(ticket) = ticket {
                    seat.set_ticket(ticket);
                }
                let mut text = Vec::with_capacity(160);
                json::encode_push(&Shard::welcome(&options, None, &author, last), &mut text);
                frame::push_text(&text, seat.outbox.control());
                let wake_at = seat.wake_at(options.heartbeat());
                shard.arm((id, client), &mut seat.session, wake_at);
            }
            id
        };
        let allowance = Allowance::per_second(shard.node.limits().commands_per_second());
        shard.paces.borrow_mut().begin(id, allowance);
        let socket = Socket {
            stream,
            apart,
            client,
            waker: Cell::new(None),
            ending: Cell::new(None),
            place: Cell::new(Some(place)),
            owed: Cell::default(),
        };
        {
            let mut sockets = shard.sockets.borrow_mut();
            if sockets.len() <= id {
                sockets.resize_with(id + 1, || None);
            }
            if let Some(slot) = sockets.get_mut(id) {
                *slot = Some(Rc::new(socket));
            }
        }
        shard.node.speakers.came(spoken.format());
        shard.metrics.add(Counter::ConnectionsOpened, 1);
        self.spawn(Connection::new(self.clone(), id, early, spoken));
        if shard.node.draining() {
            // Its handshake was answered just before the drain began.
            shard.begin_close(id, CloseReason::Shutdown);
        }
    }

    /// Resolves when a drain has closed the last connection of the node: until then HTTP goes on.
    pub async fn drained(&self) {
        self.0.empty.notified().await;
    }
}

impl Shard {
    /// The settings that it goes by. Its own, so that a look costs nothing that threads share.
    pub(super) fn options(&self) -> Rc<NodeOptions> {
        Rc::clone(&self.settings.borrow())
    }

    pub(super) fn mailbox(&self) -> Option<&Mailbox> {
        self.node.mailboxes().of(self.id)
    }

    /// The buffer to read into, one reader at a time.
    pub(super) fn scratch(&self) -> Scratch<'_> {
        Scratch { home: &self.scratch, bytes: self.scratch.take() }
    }

    pub(super) fn socket(&self, id: SeatId) -> Option<Rc<Socket>> {
        self.sockets.borrow().get(id)?.clone()
    }

    /// Looks at the connection again by `at_ms`. There is one entry in the wheel for each
    /// connection, but for one that an earlier one has made void and that is yet to fire.
    pub(super) fn arm(&self, (id, client): (SeatId, ClientId), session: &mut Session, at_ms: u64) {
        if session.arm(at_ms) {
            let seat = u32::try_from(id).unwrap_or(u32::MAX);
            self.wheel.borrow_mut().insert(at_ms, (seat, client));
        }
    }
}
