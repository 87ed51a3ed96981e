//! Which channels live.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use crate::core::access::Target;
use crate::http::answer::{Refusal, Response, json};
use crate::http::keys::Pass;
use crate::http::query;
use crate::shard::Node;

/// What a look at a channel counts as, in bytes of a request.
const LOOK_BYTES: usize = 64;

/// Channels of one answer where the request does not say, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// `GET /api/v1/channels?prefix=&limit=&after=`: sorted by name; `next` is the `after` of the
/// next page.
pub(crate) async fn list(
    node: &Arc<Node>,
    pass: &Pass,
    query: Option<&str>,
) -> Result<Response, Refusal> {
    let prefix = query::value(query, "prefix")?.unwrap_or_default();
    if !pass.reaches(Target::Prefix(&prefix)) {
        let message = "this key is not for all channels of that prefix: ask with another prefix";
        return Err(Refusal::forbidden(message));
    }
    let after = query::value(query, "after")?;
    let limit = match query::value(query, "limit")? {
        None => LIMIT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => limit,
            Ok(_) | Err(_) => return Err(Refusal::bad("limit is a number from 1 to 1000")),
        },
    };
    // All of them are looked at, and there may be a million.
    let looks = usize::try_from(node.channel_count()).unwrap_or(usize::MAX);
    let store = Arc::clone(node);
    let look = move || store.channels(&prefix, after.as_deref(), limit + 1);
    let mut found = node.work(looks.saturating_mul(LOOK_BYTES), look).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.channel.as_str());
    let channels: Vec<_> = found
        .iter()
        .map(|one| {
            let channel = one.channel.as_str();
            json!({"channel": channel, "subscribers": one.subscribers, "offset": one.offset})
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({"channels": channels, "next": next})))
}
