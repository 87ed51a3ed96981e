//! The publisher: one thread with one connection, which sends events by plan (open loop) or as
//! fast as subscribers take them (a window over the mean of what was delivered).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::engine::shared::{Phase, Shared};
use crate::engine::wanted::Wanted;
use crate::engine::window::{PAUSE_MAX, Window};
use crate::fault::Fault;
use crate::latency::Latency;
use crate::plan::Plan;
use crate::stream::Stream;
use crate::target::Format;
use crate::wire::marks::Push;
use crate::wire::telemetry::Telemetry;
use crate::wire::template::Values;
use crate::wire::{binary, frame, payload};

/// Bytes that may wait for the server; beyond it the server holds the publisher back.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Beyond it pings are not answered any more, of a server that sends them and does not read.
const PONG_BYTES_MAX: usize = 16 << 20;
/// Reads in a turn: a server that sends everything to everybody must not wait for its publisher.
const READS_MAX: u32 = 64;
/// One read takes at most this much.
const READ_BYTES: usize = 32 << 10;
/// Events made between two looks at the clock.
const BATCH: u64 = 64;

/// What is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed {
    /// Events a second over all channels; 0 as fast as the window allows.
    pub(crate) rate: f64,
    /// With rate 0: events that may be ahead of the mean subscriber.
    pub(crate) window: u64,
    /// Size of `data` in bytes.
    pub(crate) payload_bytes: usize,
    /// Whether it is telemetry, and not filled with one character.
    pub(crate) telemetry: bool,
}

impl Feed {
    /// What makes two feeds the same work, for the report.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn sizes(self) -> [(&'static str, f64); 3] {
        let window = if self.rate > 0.0 { 0 } else { self.window };
        let bytes = self.payload_bytes as f64;
        [("rate", self.rate), ("window", window as f64), ("payload_bytes", bytes)]
    }
}

/// What a publisher brings home.
#[derive(Debug)]
pub(crate) struct Published {
    /// Events per channel whose last byte was handed to the kernel.
    pub(crate) sent: Vec<u64>,
    /// How late the generator itself was with what its plan had due while it was measured.
    pub(crate) lateness: Latency,
    /// Events that were due while it was measured and were never handed over.
    pub(crate) unsent: u64,
    /// Answers with an error, and the first of them.
    pub(crate) errors: u64,
    pub(crate) first_error: String,
    /// Times that the server did not take what was due.
    pub(crate) held_back: u64,
    /// Times that a window was given up because nothing came for a second.
    pub(crate) stalls: u64,
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug)]
struct Publisher {
    wanted: Arc<Wanted>,
    shared: Arc<Shared>,
    feed: Feed,
    stream: Stream,
    input: Vec<u8>,
    /// Where a read goes: cleared once, and not at each of ten thousand looks a second.
    chunk: Box<[u8]>,
    out: Vec<u8>,
    /// How much of `out` has been sent.
    gone: usize,
    text: Vec<u8>,
    telemetry: Option<Telemetry>,
    total: u64,
    /// Events made per channel.
    made: Vec<u64>,
    /// Frames that were not handed over whole: where each ends in the stream, and its channel.
    under_way: VecDeque<(u64, u32)>,
    /// Bytes handed over before the front of `out`.
    passed: u64,
    flushed: u64,
    /// When the server last held it back.
    free_at: u64,
    seats: u64,
    window: Window,
    /// Whether it has told that nothing is left to send.
    settled: bool,
    done: Published,
}

/// Connects and starts the thread; it begins with [`Phase::Warm`].
pub(crate) fn start(
    wanted: Arc<Wanted>,
    shared: Arc<Shared>,
    feed: Feed,
) -> Result<JoinHandle<Published>, Fault> {
    let limit = Duration::from_nanos(wanted.timeout_ns);
    // Its answers are few: they need no compression.
    let target = wanted.target.clone();
    let format = target.format;
    let (stream, input) = target.speaking(format, false).dial(limit)?;
    stream.tcp().set_nonblocking(true)?;
    let mut out = Vec::with_capacity(OUT_BYTES_MAX);
    if let Some(foreign) = &wanted.subscribing.foreign
        && let Some(hello) = &foreign.hello
    {
        // No receiver has this number.
        let values = Values { connection: wanted.connections, id: 1, ..Values::default() };
        foreign.push(hello, &values, &mut out);
    }
    let done = Published {
        sent: vec![0; wanted.subscribing.channels as usize],
        lateness: Latency::new(),
        unsent: 0,
        errors: 0,
        first_error: String::new(),
        held_back: 0,
        stalls: 0,
        fault: None,
    };
    shared.made.store(0, Ordering::Release);
    shared.expect_senders(1);
    let publisher = Publisher {
        out,
        gone: 0,
        text: Vec::new(),
        telemetry: feed.telemetry.then(|| Telemetry::new(feed.payload_bytes)),
        total: 0,
        made: vec![0; wanted.subscribing.channels as usize],
        under_way: VecDeque::new(),
        passed: 0,
        flushed: 0,
        free_at: 0,
        seats: wanted.seats(),
        window: Window::new(),
        settled: false,
        wanted,
        shared,
        feed,
        stream,
        input,
        chunk: vec![0; READ_BYTES].into_boxed_slice(),
        done,
    };
    Ok(std::thread::Builder::new().name("publisher".into()).spawn(move || publisher.run())?)
}

impl Publisher {
    fn run(mut self) -> Published {
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).ok();
        if let Err(fault) = self.publish() {
            self.done.fault = Some(fault);
            // Nothing more will be sent: what is under way is not waited for any longer than else.
            self.settle();
        }
        self.done
    }

    fn publish(&mut self) -> Result<(), Fault> {
        while self.shared.phase() == Phase::Open {
            self.flush()?;
            self.listen()?;
            clock::sleep(SECOND / 1_000);
        }
        let plan = (self.feed.rate > 0.0)
            .then(|| Plan::new(self.shared.begun_at.load(Ordering::Relaxed), self.feed.rate));
        self.window.moved_at = clock::now();
        let mut cpu_at = 0;
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                break;
            }
            // In the drain, what was due while it was measured is still made.
            let drains = phase >= Phase::Drain;
            let until = if drains { self.shared.span().until } else { u64::MAX };
            let made = if drains && plan.is_none() { 0 } else { self.make(plan, until) };
            if clock::now().saturating_sub(cpu_at) > SECOND / 50 {
                cpu_at = clock::now();
                self.shared.publisher_ns.store(clock::thread_cpu(), Ordering::Relaxed);
            }
            self.shared.made.store(self.total, Ordering::Release);
            let flushed = self.flush();
            if flushed.is_err() {
                // It may have said why before it went.
                self.listen()?;
            }
            let blocked = !flushed?;
            if drains && plan.is_none_or(|plan| self.owes(plan, until) == 0) {
                self.settle();
            }
            self.listen()?;
            if self.settled {
                clock::sleep(if blocked { SECOND / 5_000 } else { SECOND / 200 });
            } else if made == 0 || blocked {
                clock::sleep(self.pause(plan));
            }
        }
        self.done.unsent = plan.map_or(0, |plan| self.owes(plan, self.shared.span().until));
        Ok(())
    }

    /// Tells once that nothing is left to send.
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.shared.settle();
        }
    }

    /// Events that were due before `until` and are not handed over.
    fn owes(&self, plan: Plan, until: u64) -> u64 {
        plan.due_before(until, clock::now()).saturating_sub(self.flushed)
    }

    /// Until the next event is due, or until there may be room again; at most 1 ms.
    fn pause(&mut self, plan: Option<Plan>) -> u64 {
        let now = clock::now();
        let Some(plan) = plan else { return self.window.rest() };
        plan.due(self.total).saturating_sub(now).clamp(SECOND / 50_000, PAUSE_MAX)
    }

    /// Makes the events that are due before `until` and allowed, and says how many.
    fn make(&mut self, plan: Option<Plan>, until: u64) -> u64 {
        let (now, span) = (clock::now(), self.shared.span());
        let due = match plan {
            Some(plan) => plan.due_before(until, now).saturating_sub(self.total),
            None => self.room(now),
        };
        let batch = due.min(BATCH);
        for made in 0..batch {
            if self.out.len() - self.gone > OUT_BYTES_MAX {
                self.done.held_back += 1;
                self.free_at = now;
                return made;
            }
            let at = plan.map_or(now, |plan| plan.due(self.total));
            // While the server took nothing more, it was late and not the generator.
            if plan.is_some() && span.has(at) {
                self.done.lateness.record(now.saturating_sub(at.max(self.free_at)));
            }
            let channel = self.event(at);
            let end = self.passed + self.out.len() as u64;
            self.under_way.push_back((end, u32::try_from(channel).unwrap_or(u32::MAX)));
        }
        batch
    }

    /// How many events the window allows.
    fn room(&mut self, now: u64) -> u64 {
        let total = self.shared.total();
        let taken = total.delivered.saturating_add(total.told);
        if taken != self.window.taken {
            self.window.taken = taken;
            self.window.moved_at = now;
        }
        let channels = u128::from(self.wanted.subscribing.channels);
        let mean = u128::from(taken) * channels / u128::from(self.seats.max(1));
        let mean = u64::try_from(mean).unwrap_or(u64::MAX).saturating_add(self.window.forgiven);
        let ahead = self.total.saturating_sub(mean);
        if ahead >= self.feed.window && now.saturating_sub(self.window.moved_at) > SECOND {
            self.window.forgiven += ahead;
            self.window.moved_at = now;
            self.done.stalls += 1;
            return self.feed.window;
        }
        let room = self.feed.window.saturating_sub(ahead);
        self.window.adapt(room, self.feed.window);
        room
    }

    /// Appends one event that is due at `at`, and says its channel.
    fn event(&mut self, at: u64) -> u64 {
        let channels = u64::from(self.wanted.subscribing.channels);
        let channel = self.total % channels;
        if self.wanted.subscribing.foreign.is_some() {
            self.foreign(at, channel);
            return channel;
        }
        if self.wanted.target.format == Format::Bin {
            self.binary(at, channel);
            return channel;
        }
        let mut digits = itoa::Buffer::new();
        self.text.clear();
        self.text.extend_from_slice(br#"{"type":"publish","channel":""#);
        self.text.extend_from_slice(self.wanted.subscribing.prefix.as_bytes());
        self.text.extend_from_slice(digits.format(channel).as_bytes());
        if let Some(key) = self.key() {
            self.text.extend_from_slice(br#"","key":"k"#);
            self.text.extend_from_slice(digits.format(key).as_bytes());
        }
        self.text.extend_from_slice(br#"","data":"#);
        self.data(&[("ts", at)]);
        self.text.push(b'}');
        frame::push_client(frame::Opcode::Text, &self.text, &mut self.out);
        self.count(channel);
        channel
    }

    /// Appends an event's data.
    fn data(&mut self, marks: &[(&str, u64)]) {
        let bytes = self.feed.payload_bytes;
        match &mut self.telemetry {
            Some(telemetry) => telemetry.push(marks, bytes, &mut self.text),
            None => payload::push(marks, bytes, &mut self.text),
        }
    }

    /// The number of the next event's key, if events have keys.
    fn key(&self) -> Option<u64> {
        (self.total / u64::from(self.wanted.subscribing.channels))
            .checked_rem(self.wanted.subscribing.keys)
    }

    /// Appends one event as a binary frame.
    fn binary(&mut self, at: u64, channel: u64) {
        self.text.clear();
        let name = format!("{}{channel}", self.wanted.subscribing.prefix);
        let key = self.key().map(|key| format!("k{key}"));
        binary::push_publish(&name, key.as_deref(), &mut self.text);
        self.data(&[("ts", at)]);
        frame::push_client(frame::Opcode::Binary, &self.text, &mut self.out);
        self.count(channel);
    }

    /// Counts one event of a channel and says its number there.
    fn count(&mut self, channel: u64) -> u64 {
        self.total += 1;
        let made = usize::try_from(channel).ok().and_then(|at| self.made.get_mut(at));
        made.map_or(0, |made| {
            *made += 1;
            *made
        })
    }

    /// Appends one event as the server's own template says it, with marks in its payload.
    fn foreign(&mut self, at: u64, channel: u64) {
        let seq = self.count(channel);
        let wanted = Arc::clone(&self.wanted);
        let Some(foreign) = &wanted.subscribing.foreign else { return };
        let Some(publish) = &foreign.publish else { return };
        self.text.clear();
        self.data(&[("ts", at), ("seq", seq), ("ch", channel)]);
        let name = format!("{}{channel}", wanted.subscribing.prefix);
        let values = Values {
            channel: &name,
            payload: &self.text,
            connection: wanted.connections,
            id: self.total + 1,
            seq,
            ts: at,
        };
        foreign.push(publish, &values, &mut self.out);
    }

    /// Writes what the server takes; true when nothing is left. An event counts as published when
    /// the last byte of its frame is gone.
    fn flush(&mut self) -> Result<bool, Fault> {
        let outcome = self.write();
        let gone = self.passed + self.gone as u64;
        while let Some((_, channel)) = self.under_way.front().filter(|(end, _)| *end <= gone) {
            if let Some(sent) = self.done.sent.get_mut(*channel as usize) {
                *sent += 1;
            }
            self.flushed += 1;
            self.under_way.pop_front();
        }
        self.shared.published.store(self.flushed, Ordering::Relaxed);
        outcome
    }

    fn write(&mut self) -> Result<bool, Fault> {
        while self.gone < self.out.len() {
            match self.stream.write(&self.out[self.gone..]) {
                Ok(0) => return Err(Fault::Ended),
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.gone > OUT_BYTES_MAX / 2 {
                        self.passed += self.gone as u64;
                        self.out.drain(..self.gone);
                        self.gone = 0;
                    }
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.passed += self.out.len() as u64;
        self.out.clear();
        self.gone = 0;
        match self.stream.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads answers: errors are counted, pings answered.
    fn listen(&mut self) -> Result<(), Fault> {
        for _ in 0..READS_MAX {
            if !self.hear()? {
                break;
            }
        }
        Ok(())
    }

    /// Reads once; false when nothing is there.
    fn hear(&mut self) -> Result<bool, Fault> {
        match self.stream.read(&mut self.chunk) {
            Ok(0) => return Err(Fault::Ended),
            Ok(read) => self.input.extend_from_slice(&self.chunk[..read]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        let (mut used, mut joined) = (0, Vec::new());
        while let Some((frame, len)) =
            frame::next(&mut self.input[used..], &mut joined).map_err(Fault::BadFrame)?
        {
            used += len;
            match frame.opcode {
                frame::Opcode::Ping => {
                    if self.out.len() > PONG_BYTES_MAX {
                        return Err(Fault::Stuck);
                    }
                    frame::push_client(frame::Opcode::Pong, frame.payload, &mut self.out);
                }
                frame::Opcode::Close => return Err(Fault::closed(frame.payload)),
                frame::Opcode::Text | frame::Opcode::Binary => {
                    match &self.wanted.subscribing.foreign {
                        None => answer(frame.payload, &mut self.done),
                        Some(foreign) if foreign.is_ping(frame.payload) => {
                            if let Some(pong) = &foreign.pong {
                                foreign.push(pong, &Values::default(), &mut self.out);
                            }
                        }
                        Some(_) => {}
                    }
                }
                frame::Opcode::Pong => {}
            }
        }
        self.input.drain(..used);
        Ok(true)
    }
}

fn answer(text: &[u8], done: &mut Published) {
    for line in text.split(|byte| *byte == b'\n') {
        if let Ok(push) = serde_json::from_slice::<Push<'_>>(line)
            && push.kind == "error"
        {
            done.errors += 1;
            if done.first_error.is_empty() {
                done.first_error = push.message.unwrap_or_default().into_owned();
            }
        }
    }
}
