//! What is kept of a channel's events.

use std::sync::Arc;

use hyper::StatusCode;

use super::publish::check_channel;
use crate::core::access::Act;
use crate::http::answer::{Refusal, Response, text};
use crate::http::connection::Peer;
use crate::http::keys::Pass;
use crate::http::query;
use crate::proto::command::{HISTORY_LIMIT, HISTORY_LIMIT_MAX};
use crate::proto::dialect::json;
use crate::proto::error::ErrorCode;
use crate::proto::event::Event;
use crate::proto::position::Position;
use crate::shard::{Node, PublishError};
use crate::store::{Read, Reading};

/// Data of one answer, unless it is one event. Whoever wants more goes on from the last.
const ANSWER_BYTES: usize = 1 << 20;

/// `GET /api/v1/channels/{channel}/history?since=EPOCH.OFFSET&limit=&reverse=1`.
pub(crate) async fn history(
    peer: &Peer,
    pass: &Pass,
    channel: &str,
    query: Option<&str>,
) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let channel = check_channel(query::decode(channel)?)?;
    pass.check_act(node, Act::History, &channel)?;
    let rule = node.options().policies.of(&channel).ok_or(PublishError::UnknownChannel)?;
    if rule.keep.history.size == 0 {
        return Err(off(
            "nothing is kept of this channel's events: see `history` in the configuration",
        ));
    }
    let since = query::value(query, "since")?;
    let since = since.as_deref().map(place).transpose()?;
    let limit = match query::value(query, "limit")?.map(|text| text.parse()) {
        None => HISTORY_LIMIT,
        Some(Ok(limit @ 0..=HISTORY_LIMIT_MAX)) => limit,
        Some(_) => return Err(Refusal::bad("limit is a number from 0 to 1000")),
    };
    let reverse = match query::value(query, "reverse")?.as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(Refusal::bad("reverse is 0 or 1")),
    };
    let reading = Reading { since, limit, reverse, bytes: ANSWER_BYTES, keep: rule.keep };
    let read = node.read(&channel, reading).await;
    let Read { head, events } = read.map_err(PublishError::from)?;
    let Some(events) = events else {
        let message =
            format!("the channel's epoch is {} and its last offset {}", head.epoch, head.offset);
        let code = ErrorCode::UnknownPosition.as_str();
        return Err(Refusal::new(StatusCode::NOT_FOUND, code, message));
    };
    answer(node, channel.into_owned(), head, events, None).await
}

/// `GET /api/v1/channels/{channel}/snapshot?after=OFFSET&limit=`.
pub(crate) async fn snapshot(
    peer: &Peer,
    pass: &Pass,
    channel: &str,
    query: Option<&str>,
) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let channel = check_channel(query::decode(channel)?)?;
    pass.check_act(node, Act::History, &channel)?;
    let rule = node.options().policies.of(&channel).ok_or(PublishError::UnknownChannel)?;
    if rule.keep.keys == 0 {
        return Err(off("no keys are kept of this channel: see `keyed` in the configuration"));
    }
    let mut after = match query::value(query, "after")?.map(|text| text.parse()) {
        None => 0,
        Some(Ok(after)) => after,
        Some(Err(_)) => return Err(Refusal::bad("after is the offset of an event")),
    };
    let limit = match query::value(query, "limit")?.map(|text| text.parse()) {
        None => HISTORY_LIMIT_MAX,
        Some(Ok(limit @ 1..=HISTORY_LIMIT_MAX)) => limit,
        Some(_) => return Err(Refusal::bad("limit is a number from 1 to 1000")),
    };
    // A durable one is in memory from here on: it stays a while after it was read.
    let head = Reading { keep: rule.keep, ..Reading::default() };
    let mut head = node.read(&channel, head).await.map_err(PublishError::from)?.head;
    let store = node.store();
    let alias = store.find(&channel).map(|joined| joined.alias);
    let (mut events, mut bytes, mut more) = (Vec::new(), 0, false);
    // Some at a time, so that the channel is not held while all are read. A key that has a newer
    // event meanwhile comes further behind.
    'leaves: while let Some(leaf) = alias.and_then(|alias| store.leaf(&channel, alias, after)) {
        head.offset = leaf.head;
        for event in
            (leaf.chunk.after(after)..leaf.chunk.len()).filter_map(|at| leaf.chunk.event(at))
        {
            more = events.len() >= limit || bytes >= ANSWER_BYTES;
            if more {
                break 'leaves;
            }
            bytes += event.payload.len();
            events.push(event);
        }
        after = leaf.chunk.last();
    }
    answer(node, channel.into_owned(), head, events, Some(more)).await
}

/// The answer with these events. One with much in it is written on another thread.
async fn answer(
    node: &Node,
    channel: String,
    head: Position,
    events: Vec<Arc<Event>>,
    more: Option<bool>,
) -> Result<Response, Refusal> {
    let bytes = events.iter().map(|event| event.payload.len()).sum();
    let write = move || {
        let mut out = Vec::new();
        json::encode_reading((&channel, head), (&events, more), &mut out);
        out
    };
    Ok(text(node.work(bytes, write).await?))
}

fn off(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, ErrorCode::NotEnabled.as_str(), message)
}

/// Reads `EPOCH.OFFSET`.
fn place(text: &str) -> Result<(&str, u64), Refusal> {
    let parts = text.rsplit_once('.');
    let place = parts.and_then(|(epoch, offset)| Some((epoch, offset.parse().ok()?)));
    place.ok_or_else(|| Refusal::bad("since is EPOCH.OFFSET, as in since=k3Zq9TbA.57"))
}
