//! Peers that mean no good, as many and as fast as they are asked for: connections that bring half
//! of a request's head and are opened again when they are cut, and short ones that bring garbage.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net;
use rustix::process::setpriority_process;

use crate::clock::{self, SECOND, timespec};
use crate::engine::socket;
use crate::fault::{Fault, RunError};
use crate::machine::{self, Layout};
use crate::plan::Plan;
use crate::target::Target;
use crate::wire::tls::Session;

/// How long a connection with garbage may take until it is given up.
const GARBAGE_NS: u64 = 10 * SECOND;
/// After a connection that failed, the next waits.
const RETRY_NS: u64 = SECOND / 10;
const EVENTS_MAX: usize = 1_024;
/// The niceness of the last in the queue.
const LOWEST_PRIORITY: i32 = 19;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Hostility {
    pub(crate) target: Target,
    /// Connections that are kept half open.
    pub(crate) half_open: u32,
    /// Of those, how many are opened in a second at most.
    pub(crate) open_rate: f64,
    /// Connections with garbage, in a second.
    pub(crate) garbage_rate: f64,
}

/// What all of them did so far.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Half open now.
    pub(crate) open: AtomicU64,
    /// Half-open connections that the server has ended.
    pub(crate) cut: AtomicU64,
    /// Connections with garbage that were begun.
    pub(crate) garbage: AtomicU64,
    /// Of those, the ones that were answered or ended by the server.
    pub(crate) refused: AtomicU64,
    /// Of those, the ones that were neither in ten seconds.
    pub(crate) ignored: AtomicU64,
    /// Connects that failed.
    pub(crate) failed: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Running threads. Dropping them stops them.
#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) deeds: Arc<Deeds>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hostile {
    /// Starts them.
    pub(crate) fn start(wanted: Hostility) -> Result<Self, RunError> {
        let layout = machine::layout(wanted.half_open.max(1), None, None)?;
        let wanted = Arc::new(wanted);
        let mut hostile = Self { deeds: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for id in 0..layout.threads {
            let (wanted, deeds) = (Arc::clone(&wanted), Arc::clone(&hostile.deeds));
            let stop = Arc::clone(&hostile.stop);
            let thread = std::thread::Builder::new()
                .name(format!("hostile-{id}"))
                .spawn(move || {
                    // They share the machine with the server, which others like them do not.
                    // Where it is refused, what they use is taken from those that are measured.
                    setpriority_process(None, LOWEST_PRIORITY).ok();
                    if let Ok(mut peers) = Peers::new(id, layout, &wanted, &deeds) {
                        peers.run(&stop);
                    }
                })
                .map_err(|error| RunError::Machine(format!("cannot start a thread: {error}")))?;
            hostile.threads.push(thread);
        }
        Ok(hostile)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing to tell.
            thread.join().ok();
        }
    }
}

/// How a good connection begins: with its request, or with the hello of TLS.
fn opening(target: &Target) -> Result<Vec<u8>, Fault> {
    let Some(tls) = &target.tls else { return Ok(target.request(0)) };
    let mut hello = Vec::new();
    Session::begin(&tls.config, &tls.name, &mut hello)?;
    Ok(hello)
}

/// Whole requests that are bad, each another way. None is one that waits for more.
fn garbage(target: &Target) -> Vec<Vec<u8>> {
    let good = String::from_utf8_lossy(&target.request(0)).into_owned();
    let host = target.host();
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    vec![
        // A connect, and the end of this side.
        Vec::new(),
        b"\x16\x03\x01\x00\x1b\x01\x00\x00\x17\x03\x03 a hello over TLS\r\n\r\n".to_vec(),
        b"\0\0\0\0\xff\xff\r\n\r\n".to_vec(),
        good.replace("Version: 13", "Version: 7").into_bytes(),
        get("/nowhere", "").into_bytes(),
        (get("/ws", both) + "0\r\n\r\n").into_bytes(),
        get("/ws?token=a.b.c", "Upgrade: websocket\r\n").into_bytes(),
        // A handshake, and a frame without a mask.
        [good.as_bytes(), b"\x81\x02{}"].concat(),
    ]
}

/// One connection.
#[derive(Debug, Default)]
struct Peer {
    fd: Option<OwnedFd>,
    connected: bool,
    /// When it is given up; the end of time for those that are half open.
    deadline: u64,
}

/// Those of one thread.
struct Peers<'a> {
    layout: Layout,
    id: u32,
    wanted: &'a Hostility,
    deeds: &'a Deeds,
    poll: OwnedFd,
    garbage: Vec<Vec<u8>>,
    half: Vec<u8>,
    /// The half-open ones, then those with garbage.
    peers: Vec<Peer>,
    half_open: usize,
    /// Half-open ones that are to be opened, and from when on.
    closed: VecDeque<(u64, usize)>,
    next_open: u64,
    /// Places for garbage that are free.
    free: Vec<usize>,
    /// Garbage under way, by age.
    pending: VecDeque<(u64, usize)>,
    plan: Option<Plan>,
    begun: u64,
}

impl<'a> Peers<'a> {
    fn new(
        id: u32,
        layout: Layout,
        wanted: &'a Hostility,
        deeds: &'a Deeds,
    ) -> Result<Self, Fault> {
        if layout.private_tables {
            machine::own_table()?;
        }
        let poll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let extra = u32::from(id < wanted.half_open % layout.threads);
        let half_open = (wanted.half_open / layout.threads + extra) as usize;
        let request = opening(&wanted.target)?;
        let rate = wanted.garbage_rate / f64::from(layout.threads);
        Ok(Self {
            layout,
            id,
            wanted,
            deeds,
            poll,
            garbage: garbage(&wanted.target),
            half: request[..request.len() / 2].to_vec(),
            peers: (0..half_open).map(|_| Peer::default()).collect(),
            half_open,
            closed: (0..half_open).map(|at| (0, at)).collect(),
            next_open: clock::now(),
            free: Vec::new(),
            pending: VecDeque::new(),
            plan: (rate > 0.0).then(|| Plan::new(clock::now(), rate)),
            begun: 0,
        })
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        while !stop.load(Ordering::Acquire) {
            self.open_half();
            self.open_garbage();
            self.give_up();
            events.clear();
            let wait = timespec(SECOND / 1_000);
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let at = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                self.woken(at, event.flags);
            }
        }
        let open = self.peers.iter().take(self.half_open).filter(|peer| peer.connected).count();
        self.deeds.open.fetch_sub(open as u64, Ordering::Relaxed);
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "nanoseconds between two connects"
    )]
    fn open_half(&mut self) {
        let each = f64::from(self.layout.threads) * SECOND as f64 / self.wanted.open_rate.max(1.0);
        let now = clock::now();
        // What was missed in a moment is made up for, and no more.
        self.next_open = self.next_open.max(now.saturating_sub(SECOND / 100));
        while self.next_open <= now {
            let Some((_, at)) = self.closed.front().copied().filter(|(from, _)| *from <= now)
            else {
                return;
            };
            self.closed.pop_front();
            self.next_open += each as u64;
            self.open(at, u64::MAX);
        }
    }

    fn open_garbage(&mut self) {
        let now = clock::now();
        let due = self.plan.map_or(0, |plan| plan.due_by(now));
        while self.begun < due {
            self.begun += 1;
            add(&self.deeds.garbage);
            let at = self.free.pop().unwrap_or_else(|| {
                self.peers.push(Peer::default());
                self.peers.len() - 1
            });
            self.pending.push_back((now + GARBAGE_NS, at));
            self.open(at, now + GARBAGE_NS);
        }
    }

    fn open(&mut self, at: usize, deadline: u64) {
        let index = u32::try_from(at).unwrap_or(0).wrapping_mul(self.layout.threads) + self.id;
        let opened = socket::open(&self.wanted.target, self.layout.sources.max(1), index, None);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        let opened = opened.ok().filter(|fd| {
            // None of them leaves a port behind that is not used for a minute.
            socket::reset_on_close(fd);
            epoll::add(&self.poll, fd, EventData::new_u64(at as u64), flags).is_ok()
        });
        if opened.is_none() {
            add(&self.deeds.failed);
        }
        let is_open = opened.is_some();
        self.peers[at] = Peer { fd: opened, connected: false, deadline };
        if !is_open {
            self.gone(at, RETRY_NS);
        }
    }

    /// A connection is over: one that is half open is opened again.
    fn gone(&mut self, at: usize, wait: u64) {
        let peer = std::mem::take(&mut self.peers[at]);
        if at >= self.half_open {
            self.free.push(at);
            return;
        }
        if peer.connected {
            self.deeds.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.closed.push_back((clock::now() + wait, at));
    }

    fn woken(&mut self, at: usize, flags: EventFlags) {
        let Some(peer) = self.peers.get(at) else { return };
        let Some(fd) = &peer.fd else { return };
        if peer.connected {
            let mut scratch = [0; 1_024];
            let over = !matches!(socket::read(fd, &mut scratch), Ok(None));
            if over {
                add(if at < self.half_open { &self.deeds.cut } else { &self.deeds.refused });
                self.gone(at, 0);
            }
            return;
        }
        if flags.contains(EventFlags::OUT) && self.connected(at).is_some() {
            return;
        }
        add(&self.deeds.failed);
        self.gone(at, RETRY_NS);
    }

    /// Says what it has to say; `None` where it cannot.
    fn connected(&mut self, at: usize) -> Option<()> {
        let is_half = at < self.half_open;
        let kind = usize::try_from(self.begun).unwrap_or(0).wrapping_add(at) % self.garbage.len();
        let text = if is_half { &self.half } else { &self.garbage[kind] };
        let peer = self.peers.get_mut(at)?;
        let fd = peer.fd.as_ref()?;
        socket::connected(fd).ok()?;
        if text.is_empty() {
            // It counts when the server ends its own.
            net::shutdown(fd, net::Shutdown::Write).ok()?;
        } else {
            socket::send_all(fd, text).ok()?;
        }
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::modify(&self.poll, fd, EventData::new_u64(at as u64), flags).ok()?;
        peer.connected = true;
        if is_half {
            add(&self.deeds.open);
        }
        Some(())
    }

    /// Ends garbage that was neither answered nor refused in its time.
    fn give_up(&mut self) {
        let now = clock::now();
        while let Some((deadline, at)) =
            self.pending.front().copied().filter(|(due, _)| *due <= now)
        {
            self.pending.pop_front();
            // Its place may have another one by now.
            if self.peers[at].deadline == deadline && self.peers[at].fd.is_some() {
                add(&self.deeds.ignored);
                self.gone(at, 0);
            }
        }
    }
}
