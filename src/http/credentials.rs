//! What a request brings to say who it is: the header `Authorization`, or `?token=`.

use hyper::{HeaderMap, Request, header};

use super::answer::Refusal;
use super::connection::Peer;
use super::{arrival, guard, query};
use crate::core::metrics::Counter;
use crate::shard::NotTaken;

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

/// What a handshake brings to say who it is; `None` is the anonymous.
///
/// # Errors
///
/// 400 for two tokens.
pub(super) fn token<B>(peer: &Peer, request: &Request<B>) -> Result<Option<String>, Refusal> {
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
    Ok(token)
}

/// The refusal of a token or a key that is not taken.
pub(super) fn refused(not_taken: NotTaken) -> Refusal {
    let (code, message) = (not_taken.code(), not_taken.message());
    match not_taken {
        NotTaken::Busy => Refusal::unavailable(code, message),
        NotTaken::Expired | NotTaken::Invalid | NotTaken::NoKey => {
            Refusal::unauthorized(code.as_str(), message)
        }
        NotTaken::TooOften(wait) => arrival::limited(code, message, wait),
    }
}
