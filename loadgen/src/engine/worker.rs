//! One receiver thread: opens its share of the connections, subscribes them and reads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::io::Errno;

use crate::clock::{self, SECOND, timespec};
use crate::engine::acts::Acts;
use crate::engine::books::{Books, number};
use crate::engine::conduct::Conduct;
use crate::engine::ledger::{Arrival, Meaning};
use crate::engine::pending::Pending;
use crate::engine::secure::Secure;
use crate::engine::shared::{Phase, Shared, Tally};
use crate::engine::socket;
use crate::engine::wanted::Wanted;
use crate::fault::Fault;
use crate::machine;
use crate::plan::Plan;
use crate::process::RunQueue;
use crate::wire::inflate::Inflate;
use crate::wire::{frame, handshake};

/// One read takes at most this much.
const READ_BYTES: usize = 128 << 10;
/// Carry buffers kept for the next partial frame.
const SPARE_CARRIES_MAX: usize = 64;
/// A larger one is not kept.
const SPARE_CARRY_BYTES_MAX: usize = 64 << 10;
/// Events taken from one epoll wait.
const EVENTS_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Has left, or was cut, and will come back.
    Away,
    Waiting,
    Connecting,
    /// Hands are shaken for TLS.
    Securing,
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
pub(super) struct Conn {
    pub(super) fd: Option<OwnedFd>,
    pub(super) state: State,
    pub(super) carry: Vec<u8>,
    /// When it began to connect, or was due to.
    pub(super) born: u64,
    /// When it must be ready.
    pub(super) deadline: u64,
    /// When it was due to come back; 0 once the first event since then is here.
    pub(super) due: u64,
    /// The command of `churn` that it waits for; 0 none.
    pub(super) asked: u64,
}

const _: () = assert!(size_of::<Conn>() <= 80, "a connection must stay small");

/// One thread's part of a run.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(super) id: u32,
    pub(super) wanted: Arc<Wanted>,
    pub(super) shared: Arc<Shared>,
    pub(super) poll: OwnedFd,
    pub(super) conns: Vec<Conn>,
    pub(super) buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
    /// Where the server speaks TLS.
    pub(super) secure: Option<Secure>,
    /// Deadlines of those under way, oldest first.
    pub(super) pending: VecDeque<(u64, usize)>,
    /// Those that come back, and when.
    pub(super) returns: BinaryHeap<Reverse<(u64, usize)>>,
    pub(super) opening: u32,
    pub(super) next: usize,
    pub(super) request: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) text: Vec<u8>,
    /// What sockets have not taken yet, by connection.
    pub(super) rests: HashMap<usize, Vec<u8>>,
    /// The slots whose `--expect` has come, of connections that are not ready.
    pub(super) answered: HashMap<usize, u128>,
    /// What a server that is not Weir said last instead of what was expected.
    pub(super) heard: String,
    pub(super) opened_at: u64,
    pub(super) acts: Acts,
    /// Commands and requests that wait for their answers.
    pub(super) asked: Pending,
    pub(super) asking: bool,
    pub(super) ask_plan: Option<Plan>,
    /// Requests that became due so far.
    pub(super) planned: u64,
    /// Whether nothing that was due while it was measured is left to ask, and whether that is said.
    pub(super) is_settled: bool,
    said_settled: bool,
    /// Whether it has said that nobody leaves any more.
    is_calm: bool,
    /// When handshakes under way last left no room for another.
    pub(super) full_at: u64,
    /// Where permessage-deflate was agreed on.
    inflate: Option<Inflate>,
    /// Whether events that are like the last one may take the cheap way.
    skims: bool,
    pub(super) reads: u64,
    pub(super) bytes: u64,
    /// What was read is larger than it was on the wire, where it is inflated, or, over TLS, smaller.
    pub(super) grown: i64,
    queue: RunQueue,
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
            deadline: 0,
            due: 0,
            asked: 0,
        });
        let books = Books::new(&wanted, id, mine);
        Ok(Self {
            id,
            poll,
            conns,
            buffer: vec![0; READ_BYTES],
            spare: Vec::new(),
            secure: wanted.secure(mine),
            pending: VecDeque::new(),
            returns: BinaryHeap::new(),
            opening: 0,
            next: 0,
            request: wanted.target.request(0),
            out: Vec::new(),
            text: Vec::new(),
            rests: HashMap::new(),
            answered: HashMap::new(),
            heard: String::new(),
            acts: Acts::new(id),
            asked: Pending::new(),
            asking: false,
            ask_plan: None,
            planned: 0,
            is_settled: false,
            said_settled: false,
            is_calm: false,
            full_at: 0,
            opened_at: clock::now(),
            skims: wanted.skims(),
            inflate: wanted.target.deflate.then(Inflate::new),
            reads: 0,
            bytes: 0,
            grown: 0,
            queue: RunQueue::own(),
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
                self.books.unanswered = self.asked.open();
                self.books.unsent = self.unasked();
                self.count_skipped();
                self.books.ledger.record();
                return self.books;
            }
            // Acts first: who leaves by them may be due to come back at once.
            let next_act = self.act(phase);
            if phase >= Phase::Calm && !std::mem::replace(&mut self.is_calm, true) {
                self.shared.grow_calm();
            }
            let wait = self.open_more().min(next_act);
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&timespec(wait))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => self.shared.blame(Fault::from(std::io::Error::from(errno))),
            }
            for event in &events {
                let at = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                let flags = event.flags;
                if flags.contains(EventFlags::OUT)
                    && self.rests.contains_key(&at)
                    && let Err(fault) = self.send_rest(at)
                {
                    self.fail(at, fault);
                    continue;
                }
                self.woken(at, phase);
            }
            let now = clock::now();
            self.expire(now);
            self.publish_counters();
            if now.saturating_sub(cpu_at) > SECOND / 50 {
                cpu_at = now;
                self.tally().book_cpu(&self.queue);
            }
        }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tallies[self.id as usize]
    }

    fn publish_counters(&mut self) {
        let tally = self.tally();
        let (all, slow) = (self.books.ledger.all, self.books.ledger.slow);
        tally.delivered.store(all.delivered, Ordering::Relaxed);
        tally.told.store(all.told, Ordering::Relaxed);
        tally.slow_delivered.store(slow.delivered, Ordering::Relaxed);
        tally.slow_told.store(slow.told, Ordering::Relaxed);
        tally.shown.store(all.shown, Ordering::Relaxed);
        tally.slow_shown.store(slow.shown, Ordering::Relaxed);
        tally.unshown.store(self.books.ledger.unshown(), Ordering::Relaxed);
        tally.bytes.store(self.bytes, Ordering::Relaxed);
        let unpacked = self.bytes.saturating_add_signed(self.grown);
        tally.unpacked.store(unpacked, Ordering::Relaxed);
        tally.reads.store(self.reads, Ordering::Relaxed);
        tally.open.store(self.asked.open(), Ordering::Relaxed);
        if self.is_settled
            && !self.said_settled
            && matches!(self.wanted.subscribing.conduct, Conduct::Echo(_))
        {
            self.said_settled = true;
            self.shared.settle();
        }
    }

    fn woken(&mut self, at: usize, phase: Phase) {
        let Some(conn) = self.conns.get(at) else { return };
        let outcome = match conn.state {
            State::Connecting => self.connected(at),
            State::Ready if phase < Phase::Drain && self.is_slow(at) => {
                // It reads at its own pace; this says that the server has let go of it.
                add(&self.tally().slow_hung);
                Ok(())
            }
            State::Securing | State::Upgrading | State::Subscribing { .. } | State::Ready => {
                self.read(at, READ_BYTES).map(drop)
            }
            State::Away | State::Waiting | State::Gone => Ok(()),
        };
        if let Err(fault) = outcome {
            self.fail(at, fault);
        }
    }

    fn is_slow(&self, at: usize) -> bool {
        self.wanted.subscribing.conduct.is_slow(number(at, self.id, self.wanted.threads))
    }

    /// Reads once into the thread's buffer, behind what the connection carried over.
    ///
    /// At most `most` bytes are taken, and no more than [`READ_BYTES`]; says how many.
    pub(super) fn read(&mut self, at: usize, most: usize) -> Result<usize, Fault> {
        let most = most.min(READ_BYTES);
        if self.secure.is_some() {
            return self.read_secure(at, most);
        }
        let conn = &mut self.conns[at];
        let Some(fd) = &conn.fd else { return Ok(0) };
        let carried = conn.carry.len();
        if self.buffer.len() < carried + READ_BYTES {
            self.buffer.resize(carried + READ_BYTES, 0);
        }
        let Some(read) = socket::read(fd, &mut self.buffer[carried..carried + most])? else {
            return Ok(0);
        };
        self.reads += 1;
        self.bytes += read as u64;
        if carried > 0 {
            self.buffer[..carried].copy_from_slice(&conn.carry);
            let carry = std::mem::take(&mut conn.carry);
            self.spare(carry);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let taken = self.digest(at, &mut buffer[..carried + read]);
        self.buffer = buffer;
        taken.map(|()| read)
    }

    /// Keeps the memory of what was carried for others.
    pub(super) fn spare(&mut self, mut carry: Vec<u8>) {
        if self.spare.len() < SPARE_CARRIES_MAX && carry.capacity() <= SPARE_CARRY_BYTES_MAX {
            carry.clear();
            self.spare.push(carry);
        }
    }

    /// Takes whole frames from the front of `input`; the connection carries what is left.
    pub(super) fn digest(&mut self, at: usize, input: &mut [u8]) -> Result<(), Fault> {
        let used = self.take(at, input)?;
        if used < input.len() {
            let mut carry = self.spare.pop().unwrap_or_default();
            carry.extend_from_slice(&input[used..]);
            self.conns[at].carry = carry;
        }
        Ok(())
    }

    /// Takes whole frames from the front of `input` and says how many bytes they were.
    fn take(&mut self, at: usize, input: &mut [u8]) -> Result<usize, Fault> {
        let now = clock::now();
        let mut used = 0;
        if self.conns[at].state == State::Upgrading {
            let Some(len) = handshake::answer(input, self.wanted.target.offer())? else {
                return Ok(0);
            };
            used = len;
            self.upgraded(at, now)?;
        }
        let connection = number(at, self.id, self.wanted.threads);
        let conduct = &self.wanted.subscribing.conduct;
        let (slow, apart) = (conduct.is_slow(connection), conduct.is_apart(connection));
        // Both as they are behind the read: a thread that was held up has read what came meanwhile.
        let (made, phase) = (self.shared.made.load(Ordering::Acquire), self.shared.phase());
        let from =
            Arrival { at, connection, slow, apart, now, phase, measured: self.shared.span(), made };
        let before = self.books.ledger.all.delivered;
        let mut joined = Vec::new();
        loop {
            if self.skims {
                used += self.books.ledger.alike(&input[used..], from);
            }
            let rest = &mut input[used..];
            let found = match self.inflate {
                None => frame::next(rest, &mut joined),
                Some(_) => frame::next_deflated(rest, &mut joined),
            };
            let found = found.map_err(Fault::BadFrame)?;
            let Some((frame, len)) = found else { break };
            match frame.opcode {
                opcode if frame.is_deflated => self.deflated(opcode, frame.payload, from)?,
                frame::Opcode::Text => {
                    self.text(frame.payload, from)?;
                    if self.skims {
                        self.books.ledger.learn(&input[used..used + len]);
                    }
                }
                frame::Opcode::Ping => self.pong(at, frame.payload)?,
                frame::Opcode::Close => return Err(Fault::closed(frame.payload)),
                frame::Opcode::Binary => self.binary(frame.payload, from)?,
                frame::Opcode::Pong => {}
            }
            used += len;
        }
        let conn = &self.conns[at];
        if conn.due > 0
            && conn.state == State::Ready
            && self.books.ledger.all.delivered > before
            && self.books.ledger.caught_up(at)
        {
            self.served(at, now);
        }
        Ok(used)
    }

    /// Takes a compressed message.
    #[cold]
    fn deflated(
        &mut self,
        opcode: frame::Opcode,
        packed: &[u8],
        from: Arrival,
    ) -> Result<(), Fault> {
        // Set apart while it is read from.
        let Some(mut inflate) = self.inflate.take() else { return Ok(()) };
        let outcome = match inflate.text(packed) {
            Ok(text) => {
                self.grown += size(text) - size(packed);
                // No control frame is compressed.
                let is_binary = opcode == frame::Opcode::Binary;
                if is_binary { self.binary(text, from) } else { self.text(text, from) }
            }
            Err(error) => Err(Fault::BadDeflate(error)),
        };
        self.inflate = Some(inflate);
        outcome
    }

    fn binary(&mut self, payload: &[u8], from: Arrival) -> Result<(), Fault> {
        if self.wanted.subscribing.foreign.is_some() {
            return self.text(payload, from);
        }
        match self.books.ledger.binary(payload, from) {
            Meaning::Wrong(fault) => Err(fault),
            Meaning::Counted | Meaning::Subscribed { .. } | Meaning::Unsubscribed { .. } => Ok(()),
        }
    }

    fn text(&mut self, text: &[u8], from: Arrival) -> Result<(), Fault> {
        if matches!(self.wanted.subscribing.conduct, Conduct::Echo(_))
            && self.echoed(from.at, text, from.phase)
        {
            return Ok(());
        }
        if self.wanted.subscribing.foreign.is_some() {
            return self.foreign(text, from);
        }
        let (mut subscribed, mut refused, mut wrong) = (0, 0, None);
        let mut answer = None;
        self.books.ledger.text(text, from, &mut |meaning| match meaning {
            Meaning::Counted => {}
            Meaning::Subscribed { id } => {
                subscribed += 1;
                answer = Some(id);
            }
            Meaning::Unsubscribed { id } => answer = Some(id),
            Meaning::Wrong(fault) => {
                refused += 1;
                wrong.get_or_insert(fault);
            }
        });
        if answer.is_none() && refused == 0 {
            return Ok(());
        }
        if let State::Subscribing { left } = self.conns[from.at].state {
            if let Some(fault) = wrong {
                return Err(fault);
            }
            return self.subscribed(from.at, left.saturating_sub(subscribed), from.now);
        }
        if let Some(id) = answer {
            self.answered(from.at, id, from.now);
        }
        if let Some(fault) = wrong {
            self.books.refused += refused;
            self.shared.blame(fault);
        }
        Ok(())
    }
}

pub(super) fn size(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
