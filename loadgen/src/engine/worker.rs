//! One receiver thread: opens its share of the connections, subscribes them and reads.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::clock::{self, SECOND, timespec};
use crate::engine::books::{Books, number};
use crate::engine::ledger::{Arrival, Ledger, Meaning};
use crate::engine::shared::{Phase, Shared, Tally, Wanted};
use crate::engine::socket;
use crate::fault::Fault;
use crate::latency::Latency;
use crate::machine;
use crate::plan::Plan;
use crate::wire::{frame, handshake};

/// One read takes at most this much.
const READ_BYTES: usize = 128 << 10;
/// Carry buffers kept for the next partial frame.
const SPARE_CARRIES_MAX: usize = 64;
/// Events taken from one epoll wait.
const EVENTS_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Connecting,
    Upgrading,
    /// Answers to subscribes are still to come.
    Subscribing {
        left: u32,
    },
    Ready,
    Gone,
}

/// One connection. `carry` holds the front of a partial frame and no memory otherwise.
#[derive(Debug)]
struct Conn {
    fd: Option<OwnedFd>,
    state: State,
    carry: Vec<u8>,
    /// When it began to connect, or was due to.
    born: u64,
}

const _: () = assert!(size_of::<Conn>() <= 64, "a connection must stay small");

/// One thread's part of a run.
#[derive(Debug)]
pub(crate) struct Worker {
    id: u32,
    wanted: Arc<Wanted>,
    shared: Arc<Shared>,
    poll: OwnedFd,
    conns: Vec<Conn>,
    buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
    /// Deadlines of those under way, oldest first.
    pending: VecDeque<(u64, usize)>,
    opening: u32,
    next: usize,
    request: Vec<u8>,
    out: Vec<u8>,
    opened_at: u64,
    reads: u64,
    bytes: u64,
    pub(crate) books: Books,
}

impl Worker {
    /// Prepares a thread's part; runs on that thread.
    pub(crate) fn new(id: u32, wanted: Arc<Wanted>, shared: Arc<Shared>) -> Result<Self, Fault> {
        if wanted.private_tables {
            machine::own_table()?;
        }
        let poll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let extra = u32::from(id < wanted.connections % wanted.threads);
        let mine = (wanted.connections / wanted.threads + extra) as usize;
        let mut conns = Vec::with_capacity(mine);
        conns.resize_with(mine, || Conn {
            fd: None,
            state: State::Waiting,
            carry: Vec::new(),
            born: 0,
        });
        let books = Books {
            ledger: Ledger::new(Arc::clone(&wanted), mine),
            handshakes: Latency::new(),
            ready: Latency::new(),
            refused: 0,
            last_ready: 0,
            id,
            threads: wanted.threads,
        };
        Ok(Self {
            id,
            poll,
            conns,
            buffer: vec![0; READ_BYTES],
            spare: Vec::new(),
            pending: VecDeque::new(),
            opening: 0,
            next: 0,
            request: wanted.target.request(),
            out: Vec::new(),
            opened_at: clock::now(),
            reads: 0,
            bytes: 0,
            books,
            wanted,
            shared,
        })
    }

    /// Runs until the phase is [`Phase::Stop`].
    pub(crate) fn run(mut self) -> Books {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let mut cpu_at = 0;
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                return self.books;
            }
            let wait = self.open_more();
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&timespec(wait))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => self.shared.blame(Fault::from(std::io::Error::from(errno))),
            }
            for event in &events {
                let at = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                self.woken(at, phase);
            }
            let now = clock::now();
            self.expire(now);
            self.publish_counters();
            if now.saturating_sub(cpu_at) > SECOND / 50 {
                cpu_at = now;
                self.tally().cpu_ns.store(clock::thread_cpu(), Ordering::Relaxed);
            }
        }
    }

    fn tally(&self) -> &Tally {
        &self.shared.tallies[self.id as usize]
    }

    fn publish_counters(&self) {
        let tally = self.tally();
        tally.delivered.store(self.books.ledger.delivered, Ordering::Relaxed);
        tally.told.store(self.books.ledger.told, Ordering::Relaxed);
        tally.bytes.store(self.bytes, Ordering::Relaxed);
        tally.reads.store(self.reads, Ordering::Relaxed);
    }

    /// Opens what may be opened, and says how long to wait for events.
    fn open_more(&mut self) -> u64 {
        let rate = self.wanted.connect_rate / f64::from(self.wanted.threads);
        let plan = (rate > 0.0).then(|| Plan::new(self.opened_at, rate));
        let due = plan.map_or(u64::MAX, |plan| plan.due_by(clock::now()));
        let mut turn = 64;
        while self.next < self.conns.len()
            && (self.next as u64) < due
            && self.opening < self.wanted.inflight
            && turn > 0
        {
            let at = self.next;
            self.next += 1;
            turn -= 1;
            let born = plan.map_or_else(clock::now, |plan| plan.due(at as u64));
            if let Err(fault) = self.open(at, born) {
                self.fail(at, fault);
            }
        }
        if self.next == self.conns.len() {
            SECOND / 50
        } else if self.opening >= self.wanted.inflight || plan.is_some() {
            SECOND / 1_000
        } else {
            0
        }
    }

    fn open(&mut self, at: usize, born: u64) -> Result<(), Fault> {
        let index = number(at, self.id, self.wanted.threads);
        let conn = &mut self.conns[at];
        conn.state = State::Connecting;
        conn.born = born;
        self.opening += 1;
        self.pending.push_back((clock::now() + self.wanted.timeout_ns, at));
        let fd = socket::open(&self.wanted.target, self.wanted.sources, index)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        epoll::add(&self.poll, &fd, EventData::new_u64(at as u64), flags)
            .map_err(std::io::Error::from)?;
        conn.fd = Some(fd);
        Ok(())
    }

    fn woken(&mut self, at: usize, phase: Phase) {
        let Some(conn) = self.conns.get(at) else { return };
        let outcome = match conn.state {
            State::Connecting => self.connected(at),
            State::Upgrading | State::Subscribing { .. } | State::Ready => self.read(at, phase),
            State::Waiting | State::Gone => Ok(()),
        };
        if let Err(fault) = outcome {
            self.fail(at, fault);
        }
    }

    fn connected(&mut self, at: usize) -> Result<(), Fault> {
        let conn = &mut self.conns[at];
        let Some(fd) = &conn.fd else { return Ok(()) };
        socket::connected(fd)?;
        socket::send_all(fd, &self.request)?;
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::modify(&self.poll, fd, EventData::new_u64(at as u64), flags)
            .map_err(std::io::Error::from)?;
        conn.state = State::Upgrading;
        Ok(())
    }

    /// Reads once into the thread's buffer, behind what the connection carried over.
    fn read(&mut self, at: usize, phase: Phase) -> Result<(), Fault> {
        let conn = &mut self.conns[at];
        let Some(fd) = &conn.fd else { return Ok(()) };
        let carried = conn.carry.len();
        if self.buffer.len() < carried + READ_BYTES {
            self.buffer.resize(carried + READ_BYTES, 0);
        }
        let Some(read) = socket::read(fd, &mut self.buffer[carried..carried + READ_BYTES])? else {
            return Ok(());
        };
        self.reads += 1;
        self.bytes += read as u64;
        if carried > 0 {
            self.buffer[..carried].copy_from_slice(&conn.carry);
            let mut carry = std::mem::take(&mut conn.carry);
            if self.spare.len() < SPARE_CARRIES_MAX {
                carry.clear();
                self.spare.push(carry);
            }
        }
        let buffer = std::mem::take(&mut self.buffer);
        let input = &buffer[..carried + read];
        let taken = self.take(at, input, phase);
        if let Ok(used) = taken
            && used < input.len()
        {
            let mut carry = self.spare.pop().unwrap_or_default();
            carry.extend_from_slice(&input[used..]);
            self.conns[at].carry = carry;
        }
        self.buffer = buffer;
        taken.map(drop)
    }

    /// Takes whole frames from the front of `input` and says how many bytes they were.
    fn take(&mut self, at: usize, input: &[u8], phase: Phase) -> Result<usize, Fault> {
        let now = clock::now();
        let mut used = 0;
        if self.conns[at].state == State::Upgrading {
            let Some(len) = handshake::answer(input)? else { return Ok(0) };
            used = len;
            self.upgraded(at, now)?;
        }
        let connection = number(at, self.id, self.wanted.threads);
        let from = Arrival { at, connection, now, phase };
        while let Some((frame, len)) = frame::next(&input[used..]).map_err(Fault::BadFrame)? {
            used += len;
            match frame.opcode {
                frame::Opcode::Text => self.text(frame.payload, from)?,
                frame::Opcode::Ping => self.pong(at, frame.payload)?,
                frame::Opcode::Close => return Err(Fault::closed(frame.payload)),
                frame::Opcode::Binary | frame::Opcode::Pong => {}
            }
        }
        Ok(used)
    }

    fn text(&mut self, text: &[u8], from: Arrival) -> Result<(), Fault> {
        let (mut subscribed, mut refused, mut wrong) = (0, 0, None);
        self.books.ledger.text(text, from, &mut |meaning| match meaning {
            Meaning::Counted => {}
            Meaning::Subscribed => subscribed += 1,
            Meaning::Wrong(fault) => {
                refused += 1;
                wrong.get_or_insert(fault);
            }
        });
        if subscribed == 0 && refused == 0 {
            return Ok(());
        }
        if let State::Subscribing { left } = self.conns[from.at].state {
            if let Some(fault) = wrong {
                return Err(fault);
            }
            self.subscribed(from.at, left.saturating_sub(subscribed), from.now);
        } else if let Some(fault) = wrong {
            self.books.refused += refused;
            self.shared.blame(fault);
        }
        Ok(())
    }

    /// The handshake is done: asks for the channels, or is ready at once.
    fn upgraded(&mut self, at: usize, now: u64) -> Result<(), Fault> {
        self.books.handshakes.record(now.saturating_sub(self.conns[at].born));
        let connection = number(at, self.id, self.wanted.threads);
        self.out.clear();
        for slot in 0..self.wanted.subscriptions {
            let channel = self.wanted.channel(connection, slot);
            let text = format!(
                r#"{{"type":"subscribe","id":{},"channel":"{}{channel}"}}"#,
                slot + 1,
                self.wanted.prefix
            );
            frame::push_client(frame::Opcode::Text, text.as_bytes(), &mut self.out);
        }
        if let Some(fd) = &self.conns[at].fd
            && !self.out.is_empty()
        {
            socket::send_all(fd, &self.out)?;
        }
        self.subscribed(at, self.wanted.subscriptions, now);
        Ok(())
    }

    fn subscribed(&mut self, at: usize, left: u32, now: u64) {
        let conn = &mut self.conns[at];
        if left > 0 {
            conn.state = State::Subscribing { left };
            return;
        }
        conn.state = State::Ready;
        self.opening -= 1;
        self.books.ready.record(now.saturating_sub(conn.born));
        self.books.last_ready = now;
        add(&self.tally().ready);
    }

    fn pong(&mut self, at: usize, payload: &[u8]) -> Result<(), Fault> {
        self.out.clear();
        frame::push_client(frame::Opcode::Pong, payload, &mut self.out);
        match &self.conns[at].fd {
            Some(fd) => socket::send_all(fd, &self.out),
            None => Ok(()),
        }
    }

    /// Ends what has been under way for too long.
    fn expire(&mut self, now: u64) {
        while let Some((deadline, at)) = self.pending.front().copied() {
            let over = matches!(self.conns[at].state, State::Ready | State::Gone);
            if !over && deadline > now {
                return;
            }
            self.pending.pop_front();
            if !over {
                self.fail(at, Fault::Silent { seconds: self.wanted.timeout_ns / SECOND });
            }
        }
    }

    fn fail(&mut self, at: usize, fault: Fault) {
        let conn = &mut self.conns[at];
        let was_ready = conn.state == State::Ready;
        conn.state = State::Gone;
        conn.fd = None;
        conn.carry = Vec::new();
        if was_ready {
            add(&self.tally().lost);
        } else {
            self.opening -= 1;
            add(&self.tally().failed);
        }
        self.shared.blame(fault);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
