//! What a request brings to say who it is: the header `Authorization`, or `?token=`.

use std::sync::Arc;

use hyper::{HeaderMap, Request, header};

use super::answer::Refusal;
use super::connection::Peer;
use super::{guard, query};
use crate::core::bearer::Bearer;
use crate::core::metrics::Counter;

/// The credential of `Authorization: Bearer`. Another scheme is somebody else's, such as that of a
/// proxy.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let twice = "more than one Authorization header";
    let Some(value) = guard::single(headers, header::AUTHORIZATION, twice)? else {
        return Ok(None);
    };
    let Ok(value) = value.to_str() else {
        return Err(Refusal::bad("the Authorization header is not ASCII"));
    };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()))
}

/// Who opens a WebSocket; `None` is the anonymous.
///
/// # Errors
///
/// 400 for two tokens, 401 for one that is not taken.
pub(super) fn who<B>(peer: &Peer, request: &Request<B>) -> Result<Option<Arc<Bearer>>, Refusal> {
    let header = bearer(request.headers())?;
    let mut token = header.map(str::to_owned);
    for other in query::values(request.uri().query(), "token") {
        let other = other?;
        if token.as_ref().is_some_and(|token| *token != other) {
            peer.doors.shard.metrics().add(Counter::AuthSeveral, 1);
            return Err(Refusal::bad("two different tokens: send one"));
        }
        token = Some(other);
    }
    let Some(token) = token else { return Ok(None) };
    let shard = &peer.doors.shard;
    shard
        .node()
        .authenticate(&token, shard.metrics())
        .map(Some)
        .map_err(|not_taken| Refusal::unauthorized(not_taken.code().as_str(), not_taken.message()))
}
