//! Publishing over HTTP: one JSON event, many by line, or raw bytes.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::body;
use crate::core::access::Act;
use crate::core::metrics::Counter;
use crate::http::answer::{Refusal, Response, json};
use crate::http::connection::Peer;
use crate::http::keys::Pass;
use crate::http::query;
use crate::proto::dialect::json::value;
use crate::proto::event::Payload;
use crate::proto::name::{self, KEY_BYTES_MAX, MESSAGE_ID_BYTES_MAX};
use crate::proto::position::Position;
use crate::shard::{PublishError, Publishing};
use crate::store::{NewEvent, Published};

/// Bytes of lines between two turns of the shard's other work.
const TURN_BYTES: usize = 64 * 1024;

/// What a line costs beside its bytes, where work is counted in bytes.
const LINE_COST: usize = 2 * 1024;

/// Durable events of one body that wait to be on disk.
const LINES_WAITING: usize = 1_024;

/// Refusals that an answer to NDJSON spells out; those beyond are counted.
const REJECTED_MAX: usize = 1000;

/// One event as it is written in a body. Other fields are ignored.
#[derive(Deserialize)]
struct Wanted<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message_id: Option<Cow<'a, str>>,
}

/// A line that was not taken.
#[derive(Serialize)]
struct Rejected {
    line: usize,
    code: &'static str,
    message: Cow<'static, str>,
}

/// Work that is left until others have their chance, in bytes.
struct Turn(usize);

impl Turn {
    fn begin() -> Self {
        Self(TURN_BYTES)
    }

    /// Counts a line of so many bytes; whether others have their chance before it.
    fn is_over(&mut self, bytes: usize) -> bool {
        let over = self.0 == 0;
        if over {
            *self = Self::begin();
        }
        self.0 = self.0.saturating_sub(bytes + LINE_COST);
        over
    }
}

/// `POST /api/v1/publish`.
pub(crate) async fn post(
    peer: &Peer,
    pass: &Pass,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let by_line = body::is_of(&request, "application/x-ndjson");
    let bytes_max = peer.doors.options().body_bytes;
    let bytes = body::read(request, bytes_max).await?;
    if by_line {
        return Ok(lines(peer, pass, &bytes).await);
    }
    let new = read(peer, bytes).await?;
    check(peer, pass, &new)?;
    publish(peer, new).await
}

/// `PUT /api/v1/channels/{channel}/events`.
pub(crate) async fn raw(
    peer: &Peer,
    pass: &Pass,
    channel: &str,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let channel = check_channel(Cow::Owned(query::decode(channel)?.into_owned()))?;
    pass.check_act(peer.doors.shard.node(), Act::Publish, &channel)?;
    let key = check_key(query::value(request.uri().query(), "key")?.as_deref())?;
    let is_json = body::is_of(&request, "application/json");
    let limit = peer.doors.options().body_bytes.min(peer.doors.shard.options().message_bytes);
    let bytes = body::read(request, limit).await?;
    let len = bytes.len();
    let payload = move || {
        if !is_json {
            return Ok(Payload::Opaque(Box::from(&*bytes)));
        }
        let text: &RawValue = serde_json::from_slice(&bytes).map_err(|error| not_json(&error))?;
        value::take(text.get().as_bytes()).map_err(Refusal::bad)
    };
    let payload = peer.doors.shard.node().work(len, payload).await??;
    publish(peer, NewEvent { key, ..NewEvent::new(channel, payload) }).await
}

/// Reads one event, on another thread where it is large.
async fn read(peer: &Peer, text: Bytes) -> Result<NewEvent<'static>, Refusal> {
    let node = peer.doors.shard.node();
    let limit = node.options().message_bytes;
    node.work(text.len(), move || Ok(parse(&text, limit)?.into_owned())).await?
}

/// Whether whoever asks may publish that.
fn check(peer: &Peer, pass: &Pass, new: &NewEvent<'_>) -> Result<(), Refusal> {
    pass.check_act(peer.doors.shard.node(), Act::Publish, &new.channel)
}

async fn publish(peer: &Peer, new: NewEvent<'_>) -> Result<Response, Refusal> {
    let channel = new.channel.clone().into_owned();
    let published = peer.doors.shard.node().publish(new).await?;
    count(peer, &published);
    let Position { epoch, offset } = published.position;
    let mut place = json!({"channel": channel, "epoch": epoch.as_str(), "offset": offset});
    if published.duplicate {
        place["duplicate"] = true.into();
    }
    Ok(json(StatusCode::OK, &place))
}

fn count(peer: &Peer, published: &Published) {
    let counter =
        if published.duplicate { Counter::EventsDuplicate } else { Counter::EventsPublishedHttp };
    peer.doors.shard.metrics().add(counter, 1);
}

/// What has come of the lines of a body so far.
#[derive(Default)]
struct Lines {
    accepted: usize,
    rejected: Vec<Rejected>,
    unlisted: usize,
    /// Once there is no room the rest is refused at once, or each line would wait for its own.
    stopped: Option<Refusal>,
}

impl Lines {
    fn take(&mut self, peer: &Peer, line: usize, done: Result<Published, Refusal>) {
        match done {
            Ok(published) => {
                count(peer, &published);
                self.accepted += 1;
            }
            Err(refusal) if self.rejected.len() < REJECTED_MAX => {
                let Refusal { code, message, .. } = refusal;
                self.rejected.push(Rejected { line, code, message });
            }
            Err(_) => self.unlisted += 1,
        }
    }

    /// A refusal for a reason that holds for every line stops the rest.
    fn refuse(&mut self, error: PublishError) -> Refusal {
        let of_the_node = matches!(error, PublishError::Overloaded | PublishError::Unavailable);
        let refusal = Refusal::from(error);
        if of_the_node {
            self.stopped = Some(refusal.clone());
        }
        refusal
    }
}

/// Publishes a body of lines. A bad line rejects itself alone.
async fn lines(peer: &Peer, pass: &Pass, text: &Bytes) -> Response {
    let node = peer.doors.shard.node();
    let mut lines = Lines::default();
    // Durable events that are on their way to the disk, which takes them together.
    let mut waiting: VecDeque<(usize, Publishing)> = VecDeque::new();
    let mut turn = Turn::begin();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if turn.is_over(line.len()) {
            tokio::task::yield_now().await;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = read(peer, text.slice_ref(line)).await;
        let read = read.and_then(|new| check(peer, pass, &new).map(|()| new));
        let submitted = match (&lines.stopped, read) {
            (_, Err(refusal)) => Err(refusal),
            (Some(refusal), Ok(_)) => Err(refusal.clone()),
            (None, Ok(new)) => node.submit(new).await.map_err(|error| lines.refuse(error)),
        };
        match submitted {
            Ok(Publishing::Done(published)) => lines.take(peer, index + 1, Ok(published)),
            Ok(publishing) => waiting.push_back((index + 1, publishing)),
            Err(refusal) => lines.take(peer, index + 1, Err(refusal)),
        }
        if waiting.len() >= LINES_WAITING
            && let Some((line, publishing)) = waiting.pop_front()
        {
            let done = publishing.done().await.map_err(|error| lines.refuse(error));
            lines.take(peer, line, done);
        }
    }
    for (line, publishing) in waiting {
        let done = publishing.done().await.map_err(|error| lines.refuse(error));
        lines.take(peer, line, done);
    }
    let Lines { accepted, mut rejected, unlisted, .. } = lines;
    rejected.sort_by_key(|rejected| rejected.line);
    let mut answer = json!({"accepted": accepted, "rejected": rejected});
    if unlisted > 0 {
        answer["rejected_unlisted"] = unlisted.into();
    }
    json(StatusCode::OK, &answer)
}

/// Reads one event, whose data may have `limit` bytes.
fn parse(text: &[u8], limit: usize) -> Result<NewEvent<'_>, Refusal> {
    let wanted: Wanted<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    let channel = check_channel(wanted.channel)?;
    let key = check_key(wanted.key.as_deref())?;
    if wanted.data.get().len() > limit {
        return Err(Refusal::too_large(format!("an event has at most {limit} bytes")));
    }
    let payload = value::take(wanted.data.get().as_bytes()).map_err(Refusal::bad)?;
    let message_id = wanted.message_id;
    if message_id.as_ref().is_some_and(|id| id.len() > MESSAGE_ID_BYTES_MAX) {
        return Err(Refusal::bad("a message_id has at most 64 bytes"));
    }
    Ok(NewEvent { key, message_id, ..NewEvent::new(channel, payload) })
}

fn not_json(error: &serde_json::Error) -> Refusal {
    Refusal::bad(format!("the body is not the JSON that is wanted: {error}"))
}

pub(super) fn check_channel(name: Cow<'_, str>) -> Result<Cow<'_, str>, Refusal> {
    match name::check_channel(&name) {
        Ok(()) => Ok(name),
        Err(fault) => Err(Refusal::bad(fault.to_string())),
    }
}

fn check_key(key: Option<&str>) -> Result<Option<Box<str>>, Refusal> {
    match key {
        Some(key) if key.len() > KEY_BYTES_MAX => Err(Refusal::bad("a key has at most 255 bytes")),
        Some(key) => Ok(Some(Box::from(key))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_their_chance_after_so_many_lines_or_so_much_of_them() {
        for (bytes, lines) in [(0, 32), (100, 31), (6 * 1024, 8), (63 * 1024, 1), (1 << 30, 1)] {
            let mut turn = Turn::begin();
            for _ in 0..3 {
                let whole = (0..lines).all(|_| !turn.is_over(bytes));
                assert!(whole, "{bytes}");
                assert!(turn.is_over(bytes), "{bytes}: after {lines} lines");
                turn = Turn::begin();
            }
        }
    }
}
