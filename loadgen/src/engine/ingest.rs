//! The threads of the `publish` scenario: each drives its share of the publishers with one epoll,
//! by plan (open loop) or as fast as acknowledgements come (a window per publisher).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::clock::{self, SECOND, timespec};
use crate::engine::lane::{Heard, Lane, Style, Via};
use crate::engine::shared::{Phase, Shared};
use crate::fault::Fault;
use crate::latency::Latency;
use crate::plan::{self, Plan};
use crate::process::RunQueue;
use crate::series::Slices;
use crate::stream::Stream;
use crate::target::Target;

const READ_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 256;
/// Edges: each wake-up reads what is there and writes what was held back.
const EDGES: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// What a run wants from its publishers.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) target: Target,
    pub(crate) style: Style,
    pub(crate) publishers: u32,
    pub(crate) threads: u32,
    pub(crate) channels: u32,
    /// Events a second over all publishers; 0 as fast as windows allow.
    pub(crate) rate: f64,
    /// The longest an acknowledgement may take.
    pub(crate) timeout: Duration,
    pub(crate) verify: bool,
}

impl Job {
    /// What makes two runs the same work, for the report.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn sizes(&self) -> [(&'static str, f64); 8] {
        let via = match self.style.via {
            Via::WebSocket => 0.0,
            Via::HttpJson => 1.0,
            Via::HttpNdjson => 2.0,
        };
        let (window, batch) = self.style.bounds();
        [
            ("connections", f64::from(self.publishers)),
            ("channels", f64::from(self.channels)),
            ("rate", self.rate),
            ("via", via),
            ("window", window as f64),
            ("batch", batch as f64),
            ("payload_bytes", self.style.payload_bytes as f64),
            ("verify", f64::from(u8::from(self.verify))),
        ]
    }
}

/// What a thread brings home.
#[derive(Debug)]
pub(crate) struct Ingested {
    /// From when an event was due to its acknowledgement, while it was measured.
    pub(crate) latency: Latency,
    /// How late the generator itself was.
    pub(crate) lateness: Latency,
    pub(crate) slices: Slices,
    /// Refusals by code, over the whole run.
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) lost: u64,
    pub(crate) unanswered: u64,
    /// Events that were due while it was measured and were never written.
    pub(crate) unsent: u64,
    /// With `verify`: what was acknowledged, by channel.
    pub(crate) acknowledged: BTreeMap<u32, Acknowledged>,
}

impl Ingested {
    pub(crate) fn new() -> Self {
        Self {
            latency: Latency::new(),
            lateness: Latency::new(),
            slices: Slices::new(),
            refusals: BTreeMap::new(),
            lost: 0,
            unanswered: 0,
            unsent: 0,
            acknowledged: BTreeMap::new(),
        }
    }
}

/// What was acknowledged on one channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged {
    /// Events.
    pub(crate) count: u64,
    /// Their offsets, by epoch, in the order they came.
    pub(crate) offsets: BTreeMap<String, Vec<u64>>,
}

impl Acknowledged {
    /// Adds others.
    pub(crate) fn add(&mut self, count: u64, offsets: &BTreeMap<String, Vec<u64>>) {
        self.count += count;
        for (epoch, offsets) in offsets {
            self.offsets.entry(epoch.clone()).or_default().extend(offsets);
        }
    }
}

/// One thread's part.
#[derive(Debug)]
struct Ingest {
    id: u32,
    job: Arc<Job>,
    shared: Arc<Shared>,
    poll: std::os::fd::OwnedFd,
    lanes: Vec<Option<Lane>>,
    /// Events that became due so far.
    planned: u64,
    heard: Heard,
    chunk: Vec<u8>,
    done: Ingested,
}

/// Connects all publishers, then starts the threads; they begin with [`Phase::Warm`].
pub(crate) fn start(
    job: Arc<Job>,
    shared: &Arc<Shared>,
) -> Result<Vec<JoinHandle<Ingested>>, Fault> {
    let mut threads = Vec::new();
    for id in 0..job.threads {
        let poll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let mut lanes = Vec::new();
        for number in (id..job.publishers).step_by(job.threads as usize) {
            let (stream, input) = dial(&job)?;
            stream.tcp().set_nonblocking(true)?;
            epoll::add(&poll, &stream, EventData::new_u64(lanes.len() as u64), EDGES)
                .map_err(std::io::Error::from)?;
            lanes.push(Some(Lane::new(stream, input, number % job.channels)));
        }
        let ingest = Ingest {
            id,
            job: Arc::clone(&job),
            shared: Arc::clone(shared),
            poll,
            lanes,
            planned: 0,
            heard: Heard::default(),
            chunk: vec![0; READ_BYTES],
            done: Ingested::new(),
        };
        let named = std::thread::Builder::new().name(format!("publisher-{id}"));
        threads.push(named.spawn(move || ingest.run())?);
    }
    Ok(threads)
}

fn dial(job: &Job) -> Result<(Stream, Vec<u8>), Fault> {
    if job.style.via == Via::WebSocket {
        return job.target.dial(job.timeout);
    }
    Ok((job.target.connect(job.timeout)?, Vec::new()))
}

impl Ingest {
    fn run(mut self) -> Ingested {
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).ok();
        while self.shared.phase() == Phase::Open {
            clock::sleep(SECOND / 1_000);
        }
        let rate = self.job.rate / f64::from(self.job.threads);
        let plan =
            (rate > 0.0).then(|| Plan::new(self.shared.begun_at.load(Ordering::Relaxed), rate));
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let mut looked_at = clock::now();
        let queue = RunQueue::own();
        let mut settled = false;
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                break;
            }
            // In the drain, what was due while it was measured is still made.
            let drains = phase >= Phase::Drain;
            let until = if drains { self.shared.span().until } else { u64::MAX };
            if !drains || plan.is_some() {
                self.make(plan, until);
            }
            if drains && !settled && plan.is_none_or(|plan| self.owes(plan, until) == 0) {
                settled = true;
                self.shared.settle();
            }
            events.clear();
            // A wait that was cut short is as good as one that timed out.
            let wait = timespec(self.pause(plan));
            epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)).ok();
            for event in &events {
                let at = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                self.woken(at, plan, phase);
            }
            let now = clock::now();
            if now.saturating_sub(looked_at) > SECOND / 50 {
                looked_at = now;
                self.expire(now);
                self.tally().book_cpu(&queue);
            }
        }
        self.done.unsent = plan.map_or(0, |plan| self.owes(plan, self.shared.span().until));
        let lanes = self.lanes.iter().flatten();
        self.done.unanswered += lanes.map(|lane| lane.pending.open()).sum::<u64>();
        self.done
    }

    fn tally(&self) -> &crate::engine::shared::Tally {
        &self.shared.tallies[self.id as usize]
    }

    /// Until the next event is due, at most as long as a phase may go unseen.
    fn pause(&self, plan: Option<Plan>) -> u64 {
        let next = plan.map_or(u64::MAX, |plan| plan.due(self.planned));
        next.saturating_sub(clock::now()).min(SECOND / 100)
    }

    /// Events that were due before `until` and are not written.
    fn owes(&self, plan: Plan, until: u64) -> u64 {
        let lanes = self.lanes.iter().flatten();
        let dealt = lanes.map(|lane| lane.owed).sum::<u64>();
        plan.due_before(until, clock::now()).saturating_sub(self.planned) + dealt
    }

    /// Deals what is due to the publishers in turn, and writes what their windows allow.
    fn make(&mut self, plan: Option<Plan>, until: u64) {
        let (now, span) = (clock::now(), self.shared.span());
        let lanes = self.lanes.len() as u64;
        let Some(plan) = plan else {
            for at in 0..self.lanes.len() {
                self.fill(at, now, None);
            }
            return;
        };
        let due = plan.due_before(until, now);
        // Far behind, a turn makes a part, so that answers are read in between.
        let end = due.min(self.planned + 1_024);
        while self.planned < end {
            let at = usize::try_from(self.planned % lanes).unwrap_or(0);
            let due = plan.due(self.planned);
            if let Some(Some(lane)) = self.lanes.get_mut(at) {
                lane.owed += 1;
            }
            // Dealing waits for nobody, so this is the generator's own lateness.
            if span.has(due) {
                self.done.lateness.record(now.saturating_sub(due));
            }
            self.planned += 1;
            self.fill(at, now, Some(plan));
        }
    }

    /// Writes what one publisher may write.
    fn fill(&mut self, at: usize, now: u64, plan: Option<Plan>) {
        let (job, lanes) = (&self.job, self.lanes.len() as u64);
        let Some(Some(lane)) = self.lanes.get_mut(at) else { return };
        if plan.is_none() {
            lane.owed = u64::MAX / 2;
        }
        let room = lane.room(&job.style);
        if room == 0 {
            return;
        }
        if lane.pending.open() == 0 {
            lane.moved_at = now;
        }
        lane.make(room, &job.style, |made| plan.map_or(now, |p| p.due(at as u64 + made * lanes)));
        self.shared.published.fetch_add(room, Ordering::Relaxed);
        if let Err(fault) = lane.flush() {
            // It may have said why before it went.
            let heard = lane.listen(&job.style, &mut self.chunk, &mut self.heard);
            self.book(at);
            self.lose(at, heard.err().unwrap_or(fault));
        }
    }

    fn woken(&mut self, at: usize, plan: Option<Plan>, phase: Phase) {
        let Some(Some(lane)) = self.lanes.get_mut(at) else { return };
        let outcome = lane
            .listen(&self.job.style, &mut self.chunk, &mut self.heard)
            .and_then(|is_more| lane.flush().map(|()| is_more));
        self.book(at);
        match outcome {
            Ok(is_more) => {
                if phase < Phase::Drain || plan.is_some() {
                    self.fill(at, clock::now(), plan);
                }
                if is_more {
                    self.look_again(at);
                }
            }
            Err(fault) => self.lose(at, fault),
        }
    }

    /// There may be more to read, of which no edge tells.
    fn look_again(&mut self, at: usize) {
        let Some(Some(lane)) = self.lanes.get(at) else { return };
        let data = EventData::new_u64(at as u64);
        if let Err(errno) = epoll::modify(&self.poll, &lane.stream, data, EDGES) {
            self.lose(at, Fault::from(std::io::Error::from(errno)));
        }
    }

    /// Books what an answer said.
    fn book(&mut self, at: usize) {
        let now = clock::now();
        let heard = std::mem::take(&mut self.heard);
        let told = heard.accepted.len() as u64 + heard.refused > 0;
        if let Some(Some(lane)) = self.lanes.get_mut(at).filter(|_| told) {
            lane.moved_at = now;
        }
        let span = self.shared.span();
        for due in &heard.accepted {
            if span.has(*due) {
                let latency = plan::latency(*due, now);
                self.done.latency.record(latency);
                self.done.slices.record(now, latency);
            }
        }
        if self.job.verify
            && let Some(Some(lane)) = self.lanes.get(at)
        {
            let known = self.done.acknowledged.entry(lane.channel).or_default();
            known.add(heard.accepted.len() as u64, &heard.offsets);
        }
        for (name, count) in heard.names {
            *self.done.refusals.entry(name).or_default() += count;
        }
        let tally = self.tally();
        tally.delivered.fetch_add(heard.accepted.len() as u64, Ordering::Relaxed);
        tally.told.fetch_add(heard.refused, Ordering::Relaxed);
        tally.bytes.fetch_add(heard.bytes, Ordering::Relaxed);
        tally.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up publishers whose answers take too long.
    fn expire(&mut self, now: u64) {
        let limit = u64::try_from(self.job.timeout.as_nanos()).unwrap_or(u64::MAX);
        for at in 0..self.lanes.len() {
            let waits = self.lanes[at].as_ref().filter(|lane| lane.pending.open() > 0);
            if waits.is_some_and(|lane| now.saturating_sub(lane.moved_at) > limit) {
                self.lose(at, Fault::Silent { limit: self.job.timeout });
            }
        }
    }

    fn lose(&mut self, at: usize, fault: Fault) {
        if let Some(lane) = self.lanes[at].take() {
            self.done.unanswered += lane.pending.open();
            self.done.lost += 1;
            self.tally().lost.fetch_add(1, Ordering::Relaxed);
            self.shared.blame(fault);
        }
    }
}
