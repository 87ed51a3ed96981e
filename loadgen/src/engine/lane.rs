//! One publisher of the `publish` scenario: a connection, what waits to be written, and the events
//! that wait for their acknowledgement. WebSocket publishes carry ids; HTTP has one request under
//! way at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};

use serde::Deserialize;

use crate::engine::pending::Pending;
use crate::fault::Fault;
use crate::stream::Stream;
use crate::wire::marks::{self, Push};
use crate::wire::{frame, http, payload};

/// Reads in a turn: a server that never stops must not keep a thread from everything else.
const READS_MAX: u32 = 16;
/// What was sent is kept no longer than until it is so much, and more than what is left.
const SENT_BYTES_MAX: usize = 1 << 20;
/// Answers to pings that may wait for a server that does not read.
const PONG_BYTES_MAX: usize = 1 << 20;
/// Refusals of different names that are told apart; the rest counts as `other`.
const NAMES_MAX: usize = 32;

/// How events reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// One event per POST.
    HttpJson,
    /// Many events per POST, one a line.
    HttpNdjson,
    WebSocket,
}

/// What all publishers do alike.
#[derive(Debug, Clone)]
pub(crate) struct Style {
    pub(crate) via: Via,
    pub(crate) host: String,
    /// Where HTTP publishes go.
    pub(crate) path: String,
    /// What a channel's name begins with; its number follows.
    pub(crate) prefix: String,
    pub(crate) payload_bytes: usize,
    /// Events that may wait for their acknowledgement, per publisher.
    pub(crate) window: u64,
    /// Events in one request, with [`Via::HttpNdjson`].
    pub(crate) batch: u64,
}

impl Style {
    /// Events that may be under way per publisher, and in one request.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        match self.via {
            Via::WebSocket => (self.window, 1),
            Via::HttpJson => (1, 1),
            Via::HttpNdjson => (self.batch, self.batch),
        }
    }
}

/// What an answer says about events.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// When each acknowledged event was due.
    pub(crate) accepted: Vec<u64>,
    /// The offset of each, where the answer says it, by epoch.
    pub(crate) offsets: BTreeMap<String, Vec<u64>>,
    pub(crate) refused: u64,
    /// Refusals by code.
    pub(crate) names: BTreeMap<String, u64>,
    /// Bytes read.
    pub(crate) bytes: u64,
}

impl Heard {
    /// An acknowledgement says where an event stands.
    fn place(&mut self, epoch: &str, offset: u64) {
        if let Some(known) = self.offsets.get_mut(epoch) {
            known.push(offset);
        } else {
            self.offsets.insert(epoch.to_owned(), vec![offset]);
        }
    }

    fn refuse(&mut self, name: &str, count: u64) {
        self.refused += count;
        let known = self.names.contains_key(name) || self.names.len() < NAMES_MAX;
        *self.names.entry(if known { name } else { "other" }.to_owned()).or_default() += count;
    }
}

/// One publisher.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) stream: Stream,
    pub(crate) channel: u32,
    pub(crate) pending: Pending,
    /// Events that are due and not yet written.
    pub(crate) owed: u64,
    /// Events written so far.
    pub(crate) made: u64,
    /// When an answer came last, or the first of those that wait was written.
    pub(crate) moved_at: u64,
    input: Vec<u8>,
    out: Vec<u8>,
    /// How much of `out` has been sent.
    gone: usize,
    /// Bytes of pongs since all was sent last.
    pongs: usize,
    body: Vec<u8>,
}

/// The refusals of an NDJSON answer, and of any HTTP refusal.
#[derive(Deserialize)]
struct Told<'a> {
    accepted: Option<u64>,
    #[serde(borrow, default)]
    rejected: Vec<Rejected<'a>>,
    #[serde(default)]
    rejected_unlisted: u64,
    offset: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Rejected<'a>>,
}

#[derive(Deserialize)]
struct Rejected<'a> {
    code: &'a str,
}

impl Lane {
    /// A publisher over `stream`, which is non-blocking; `input` is what was read already.
    pub(crate) fn new(stream: Stream, input: Vec<u8>, channel: u32) -> Self {
        Self {
            stream,
            channel,
            pending: Pending::new(),
            owed: 0,
            made: 0,
            moved_at: 0,
            input,
            out: Vec::new(),
            gone: 0,
            pongs: 0,
            body: Vec::new(),
        }
    }

    /// How many of the owed events may be written now.
    pub(crate) fn room(&self, style: &Style) -> u64 {
        let (window, _) = style.bounds();
        let open = self.pending.open();
        // HTTP has one request under way.
        let is_busy = style.via != Via::WebSocket && open > 0;
        if is_busy { 0 } else { self.owed.min(window.saturating_sub(open)) }
    }

    /// Writes `count` of the owed events, each due when `due` says of its number.
    pub(crate) fn make(&mut self, count: u64, style: &Style, due: impl Fn(u64) -> u64) {
        self.body.clear();
        for _ in 0..count {
            let at = due(self.made);
            let id = self.pending.push(at, 0);
            match style.via {
                Via::WebSocket => {
                    self.body.clear();
                    self.body.extend_from_slice(br#"{"type":"publish","id":"#);
                    self.body.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
                    self.body.push(b',');
                    self.event(at, style);
                    frame::push_client(frame::Opcode::Text, &self.body, &mut self.out);
                }
                Via::HttpJson | Via::HttpNdjson => {
                    self.body.push(b'{');
                    self.event(at, style);
                    self.body.push(b'\n');
                }
            }
            self.made += 1;
        }
        self.owed -= count;
        let content_type = match style.via {
            Via::WebSocket => return,
            Via::HttpJson => "application/json",
            Via::HttpNdjson => "application/x-ndjson",
        };
        let place = (style.host.as_str(), style.path.as_str());
        http::push_post(place, content_type, &self.body, &mut self.out);
    }

    /// The rest of an event's object, from `channel` on.
    fn event(&mut self, at: u64, style: &Style) {
        let mut digits = itoa::Buffer::new();
        self.body.extend_from_slice(br#""channel":""#);
        self.body.extend_from_slice(style.prefix.as_bytes());
        self.body.extend_from_slice(digits.format(self.channel).as_bytes());
        self.body.extend_from_slice(br#"","data":"#);
        payload::push(&[("ts", at)], style.payload_bytes, &mut self.body);
        self.body.push(b'}');
    }

    /// Writes what the server takes.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        while self.gone < self.out.len() {
            match self.stream.write(&self.out[self.gone..]) {
                Ok(0) => return Err(Fault::Ended),
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // With a wide window `out` may never be empty.
                    if self.gone > SENT_BYTES_MAX.max(self.out.len() / 2) {
                        self.out.drain(..self.gone);
                        self.gone = 0;
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        (self.gone, self.pongs) = (0, 0);
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reads what is there into `heard`, also what came before a fault; true when there may be more.
    pub(crate) fn listen(
        &mut self,
        style: &Style,
        chunk: &mut [u8],
        heard: &mut Heard,
    ) -> Result<bool, Fault> {
        for _ in 0..READS_MAX {
            match self.stream.read(chunk) {
                Ok(0) => return Err(Fault::Ended),
                Ok(read) => {
                    heard.bytes += read as u64;
                    self.input.extend_from_slice(&chunk[..read]);
                    self.answers(style, heard)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn answers(&mut self, style: &Style, heard: &mut Heard) -> Result<(), Fault> {
        let mut input = std::mem::take(&mut self.input);
        let mut used = 0;
        while used < input.len() {
            let len = match style.via {
                Via::WebSocket => self.frame(&mut input[used..], heard)?,
                Via::HttpJson | Via::HttpNdjson => self.response(&input[used..], heard)?,
            };
            if len == 0 {
                break;
            }
            used += len;
        }
        self.input = input;
        self.input.drain(..used);
        Ok(())
    }

    fn frame(&mut self, input: &mut [u8], heard: &mut Heard) -> Result<usize, Fault> {
        let mut joined = Vec::new();
        let next = frame::next(input, &mut joined).map_err(Fault::BadFrame)?;
        let Some((frame, len)) = next else { return Ok(0) };
        match frame.opcode {
            frame::Opcode::Ping => {
                let before = self.out.len();
                frame::push_client(frame::Opcode::Pong, frame.payload, &mut self.out);
                self.pongs += self.out.len() - before;
                if self.pongs > PONG_BYTES_MAX {
                    return Err(Fault::Stuck);
                }
            }
            frame::Opcode::Close => return Err(Fault::closed(frame.payload)),
            frame::Opcode::Text => {
                for line in frame.payload.split(|byte| *byte == b'\n') {
                    self.message(line, heard)?;
                }
            }
            frame::Opcode::Binary => return Err(Fault::Binary),
            frame::Opcode::Pong => {}
        }
        Ok(len)
    }

    fn message(&mut self, text: &[u8], heard: &mut Heard) -> Result<(), Fault> {
        if let Some((id, epoch, offset)) = marks::published(text) {
            let due = self.pending.take(id).ok_or(Fault::Unasked { number: id })?;
            heard.accepted.push(due);
            heard.place(epoch, offset);
            return Ok(());
        }
        let Ok(push) = serde_json::from_slice::<Push<'_>>(text) else {
            return Err(Fault::not_json(text));
        };
        if push.kind == "error" {
            let code = push.code.as_ref().and_then(serde_json::Value::as_str);
            if let Some(id) = push.id {
                self.pending.take(id).ok_or(Fault::Unasked { number: id })?;
            }
            heard.refuse(code.unwrap_or("error"), 1);
        }
        Ok(())
    }

    fn response(&mut self, input: &[u8], heard: &mut Heard) -> Result<usize, Fault> {
        let Some((answer, len)) = http::answer(input)? else { return Ok(0) };
        let asked = self.pending.open();
        if asked == 0 {
            return Err(Fault::Unasked { number: u64::from(answer.status) });
        }
        let told = serde_json::from_slice::<Told<'_>>(answer.body).ok();
        if answer.status == 200 && told.is_none() {
            return Err(Fault::not_json(answer.body));
        }
        let mut accepted = 0;
        match told {
            Some(told) if answer.status == 200 => {
                let listed = told.rejected.len() as u64;
                // The answer to one event does not count.
                accepted = told.accepted.unwrap_or(1);
                let answered =
                    accepted.saturating_add(listed).saturating_add(told.rejected_unlisted);
                if answered != asked {
                    return Err(Fault::Miscounted { asked, answered });
                }
                for rejected in &told.rejected {
                    heard.refuse(rejected.code, 1);
                }
                if told.rejected_unlisted > 0 {
                    heard.refuse("unlisted", told.rejected_unlisted);
                }
                if let Some(offset) = told.offset {
                    heard.place(&told.epoch.unwrap_or_default(), offset);
                }
            }
            told => {
                let status = answer.status.to_string();
                let code = told.and_then(|told| told.error).map(|error| error.code);
                heard.refuse(code.unwrap_or(&status), asked);
            }
        }
        // Which lines were taken is not told one by one; the first ones stand for them.
        for nth in 0..asked {
            let first = self.pending.next() - asked;
            let due = self.pending.take(first + nth);
            heard.accepted.extend(due.filter(|_| nth < accepted));
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_sent_is_not_kept_while_more_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        let (mut server, _) = listener.accept().expect("a client");
        let mut lane = Lane::new(Stream::Plain(stream), Vec::new(), 0);
        lane.owed = u64::MAX;
        let style = Style {
            via: Via::WebSocket,
            host: String::new(),
            path: String::new(),
            prefix: "load:".to_owned(),
            payload_bytes: 60_000,
            window: u64::MAX,
            batch: 1,
        };
        let (mut read, mut chunk) = (0, vec![0; 1 << 20]);
        while read < 64 << 20 {
            // There is always more than the server takes.
            while lane.out.len() - lane.gone < 8 << 20 {
                lane.make(1, &style, |_| 1);
            }
            lane.flush().expect("the server is there");
            assert!(lane.out.len() < 24 << 20, "{} bytes are kept", lane.out.len());
            read += server.read(&mut chunk).expect("something was sent");
        }
    }
}
