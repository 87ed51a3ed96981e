//! What is kept of a channel's events.

use hyper::StatusCode;

use super::publish::check_channel;
use crate::http::answer::{Refusal, Response, text};
use crate::http::connection::Peer;
use crate::http::query;
use crate::proto::command::{HISTORY_LIMIT, HISTORY_LIMIT_MAX};
use crate::proto::dialect::json;
use crate::proto::error::ErrorCode;
use crate::shard::PublishError;
use crate::store::{Read, Reading};

/// `GET /api/v1/channels/{channel}/history?since=EPOCH.OFFSET&limit=&reverse=1`.
pub(crate) async fn history(
    peer: &Peer,
    channel: &str,
    query: Option<&str>,
) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let channel = check_channel(query::decode(channel)?)?;
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
    let bytes = peer.doors.options.body_bytes;
    let reading = Reading { since, limit, reverse, bytes, keep: rule.keep };
    let read = node.read(&channel, reading).await;
    let Read { head, events } = read.map_err(PublishError::from)?;
    let Some(events) = events else {
        let message =
            format!("the channel's epoch is {} and its last offset {}", head.epoch, head.offset);
        let code = ErrorCode::UnknownPosition.as_str();
        return Err(Refusal::new(StatusCode::NOT_FOUND, code, message));
    };
    let mut out = Vec::new();
    json::encode_reading((&channel, head), (&events, false), &mut out);
    Ok(text(out))
}

/// `GET /api/v1/channels/{channel}/snapshot`.
pub(crate) async fn snapshot(peer: &Peer, channel: &str) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let channel = check_channel(query::decode(channel)?)?;
    let rule = node.options().policies.of(&channel).ok_or(PublishError::UnknownChannel)?;
    if rule.keep.keys == 0 {
        return Err(off("no keys are kept of this channel: see `keyed` in the configuration"));
    }
    let read = node.snapshot(&channel, rule.keep).await.map_err(PublishError::from)?;
    let mut out = Vec::new();
    let events = read.events.unwrap_or_default();
    json::encode_reading((&channel, read.head), (&events, true), &mut out);
    Ok(text(out))
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
