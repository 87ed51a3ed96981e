//! From a request to whoever answers it: the checks every request passes, and one match.

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Version};
use serde_json::json;

use super::address::Serves;
use super::answer::{self, Refusal, Response};
use super::connection::{Answer, Peer};
use super::keys::{Pass, Scope};
use super::listen::Busy;
use super::upgrade::Begun;
use super::{api, arrival, credentials, guard, page, query, scrape, upgrade, wire};
use crate::core::metrics::Counter;
use crate::proto::error::ErrorCode;

const ALLOW_GET: &[(HeaderName, &str)] = &[(header::ALLOW, "GET, HEAD")];
const ALLOW_POST: &[(HeaderName, &str)] = &[(header::ALLOW, "POST")];
const ALLOW_PUT: &[(HeaderName, &str)] = &[(header::ALLOW, "PUT")];

/// What a path stands for.
#[derive(Clone)]
enum Place {
    Channels,
    Disconnect,
    /// With the channel, still percent-encoded.
    Events(String),
    /// Likewise.
    History(String),
    Health,
    Metrics,
    Page(&'static page::Asset),
    /// As of [`Place::Events`].
    Presence(String),
    Publish,
    Ready,
    /// As of [`Place::Events`].
    Snapshot(String),
    Stats,
}

/// Answers one request.
pub(super) fn answer(peer: &Rc<Peer>, request: Request<Incoming>) -> Answer {
    if request.uri().path() == "/ws" && peer.source.serves.has("/ws") {
        let done = check(peer, &request).and_then(|host| upgrade::answer(peer, &request, host));
        let chunked = is_chunked(&request);
        return match done {
            Ok(Begun::Done(answer)) => Answer::Ready(Some(answer)),
            Ok(Begun::Slow(handshake, verifying)) => {
                let peer = Rc::clone(peer);
                Answer::Later(Box::pin(async move {
                    let done = handshake.verified(&peer, verifying).await;
                    done.unwrap_or_else(|refusal| no_upgrade(&peer, chunked, &refusal))
                }))
            }
            Err(refusal) => Answer::Ready(Some(no_upgrade(peer, chunked, &refusal))),
        };
    }
    if request.uri().path() == "/echo"
        && peer.doors.options().echo
        && peer.source.serves.has("/echo")
    {
        let done = check(peer, &request).and_then(|_| upgrade::echo(peer, &request));
        let chunked = is_chunked(&request);
        let answer = done.unwrap_or_else(|refusal| ended(peer, chunked, refusal.answer()));
        return Answer::Ready(Some(answer));
    }
    let found = check(peer, &request).and_then(|host| {
        if !peer.source.serves.has(request.uri().path()) {
            return Err(Refusal::not_found(peer.source.serves));
        }
        let pass = pass(peer, &request, host)?;
        let place = find(&request, peer.source.serves)?;
        pass.check(scope(&place)).map(|()| (place, pass))
    });
    match found {
        Err(refusal) => {
            peer.doors.shard.metrics().http_error(refusal.code);
            Answer::Ready(Some(ended(peer, is_chunked(&request), refusal.answer())))
        }
        Ok((place, pass)) => {
            let peer = Rc::clone(peer);
            let busy = Busy::new(&peer.doors);
            Answer::Later(Box::pin(async move {
                let chunked = is_chunked(&request);
                let done = go(&peer, &pass, place, request).await;
                let mut answer = done.unwrap_or_else(|refusal| {
                    peer.doors.shard.metrics().http_error(refusal.code);
                    refusal.answer()
                });
                let draining = peer.doors.shard.node().draining();
                if draining {
                    peer.last.set(Some(busy));
                }
                if chunked || draining {
                    close(&mut answer);
                }
                answer
            }))
        }
    }
}

/// Counts and answers a handshake that was refused.
fn no_upgrade(peer: &Peer, chunked: bool, refusal: &Refusal) -> Response {
    peer.doors.shard.metrics().add(rejected(refusal.code), 1);
    peer.doors.shard.metrics().http_error(refusal.code);
    ended(peer, chunked, refusal.answer())
}

/// The counter of handshakes that were refused with that code.
fn rejected(code: &str) -> Counter {
    match code {
        "forbidden" => Counter::RejectedForbidden,
        "limit_exceeded" => Counter::RejectedLimit,
        "method_not_allowed" => Counter::RejectedMethod,
        "overloaded" => Counter::RejectedOverloaded,
        "rate_limited" => Counter::RejectedRate,
        "token_expired" | "unauthorized" => Counter::RejectedUnauthorized,
        "unavailable" => Counter::RejectedUnavailable,
        "upgrade_required" => Counter::RejectedUpgrade,
        _ => Counter::RejectedBadRequest,
    }
}

/// Ends the connection where the request's body is not read and may have no known end, and where
/// the node is on its way out.
fn ended(peer: &Peer, chunked: bool, mut answer: Response) -> Response {
    let draining = peer.doors.shard.node().draining();
    if chunked || peer.is_doubtful() || draining {
        close(&mut answer);
    }
    answer
}

fn is_chunked(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// Heads are watched up to the first chunked body only (`wire.rs`), so that one is the last.
fn close(answer: &mut Response) {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// The checks of every request; gives its `Host`.
fn check<'a>(peer: &Peer, request: &'a Request<Incoming>) -> Result<&'a str, Refusal> {
    if peer.is_doubtful() {
        return Err(Refusal::bad(wire::DOUBTFUL));
    }
    let host = guard::single(request.headers(), header::HOST, "more than one Host header")?;
    let host = match host.map(HeaderValue::to_str) {
        Some(Ok(host)) => host,
        Some(Err(_)) => return Err(Refusal::bad("the Host header is not ASCII")),
        None if request.version() == Version::HTTP_11 => {
            return Err(Refusal::bad("HTTP/1.1 asks for a Host header"));
        }
        None => "",
    };
    if let Some(target) = request.uri().path_and_query() {
        query::check(target.as_str())?;
    }
    Ok(host)
}

/// Checks who asks, where not everybody may: for whom there are keys, or this machine. And whether
/// it asks too often; of `/metrics` there is never too much, for who is to see a flood with it.
fn pass(peer: &Peer, request: &Request<Incoming>, host: &str) -> Result<Pass, Refusal> {
    let path = request.uri().path();
    if path != "/metrics" && !path.starts_with("/api/") {
        return Ok(Pass::ALL);
    }
    let limited = |pass: Result<Pass, Refusal>| {
        if path != "/metrics" {
            let key = pass.as_ref().ok().and_then(Pass::number);
            arrival::request(peer, key)?;
        }
        pass
    };
    let options = peer.doors.options();
    let Some(keys) = &options.keys else {
        guard::check_local(peer, request.headers(), host)?;
        return limited(Ok(Pass::ALL));
    };
    let key = credentials::bearer(request.headers());
    let brought = matches!(key, Ok(Some(_)));
    let mut checked = key.and_then(|key| keys.check(key));
    if checked.is_err() {
        let shard = &peer.doors.shard;
        shard.metrics().add(Counter::AuthApiKey, 1);
        if brought {
            let failed = shard.node().failed(arrival::ip_of(peer), shard.metrics());
            checked = failed.map_err(credentials::refused).and(checked);
        }
    }
    limited(checked)
}

/// What a key must be for.
fn scope(place: &Place) -> Scope {
    match place {
        Place::Disconnect => Scope::Admin,
        Place::Events(_) | Place::Publish => Scope::Publish,
        Place::Channels
        | Place::Health
        | Place::History(_)
        | Place::Metrics
        | Place::Page(_)
        | Place::Presence(_)
        | Place::Ready
        | Place::Snapshot(_)
        | Place::Stats => Scope::Read,
    }
}

/// Finds the place of a path, and checks its method.
fn find(request: &Request<Incoming>, serves: Serves) -> Result<Place, Refusal> {
    let path = request.uri().path();
    let (allowed, place) = match path {
        "/healthz" => (ALLOW_GET, Place::Health),
        "/readyz" => (ALLOW_GET, Place::Ready),
        "/metrics" => (ALLOW_GET, Place::Metrics),
        "/api/v1/publish" => (ALLOW_POST, Place::Publish),
        "/api/v1/channels" => (ALLOW_GET, Place::Channels),
        "/api/v1/disconnect" => (ALLOW_POST, Place::Disconnect),
        "/api/v1/stats" => (ALLOW_GET, Place::Stats),
        _ => match (of_channel(path), page::find(path)) {
            (Some((channel, "events")), _) => (ALLOW_PUT, Place::Events(channel.to_owned())),
            (Some((channel, "history")), _) => (ALLOW_GET, Place::History(channel.to_owned())),
            (Some((channel, "presence")), _) => (ALLOW_GET, Place::Presence(channel.to_owned())),
            (Some((channel, "snapshot")), _) => (ALLOW_GET, Place::Snapshot(channel.to_owned())),
            (_, Some(asset)) => (ALLOW_GET, Place::Page(asset)),
            (_, None) => return Err(Refusal::not_found(serves)),
        },
    };
    let asked = match *request.method() {
        Method::GET | Method::HEAD => ALLOW_GET,
        Method::POST => ALLOW_POST,
        Method::PUT => ALLOW_PUT,
        _ => &[],
    };
    if asked == allowed { Ok(place) } else { Err(Refusal::method(allowed)) }
}

/// The channel of `/api/v1/channels/{channel}/events`, still percent-encoded, and what of it.
fn of_channel(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/api/v1/channels/")?.rsplit_once('/')
}

/// Does what was asked.
async fn go(
    peer: &Rc<Peer>,
    pass: &Pass,
    place: Place,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let status = hyper::StatusCode::OK;
    match place {
        Place::Channels => api::channels::list(node, pass, request.uri().query()).await,
        Place::Disconnect => api::clients::disconnect(peer, request).await,
        Place::Events(channel) => api::publish::raw(peer, pass, &channel, request).await,
        Place::Health => Ok(answer::json(status, &json!({"status": "ok"}))),
        Place::History(channel) => {
            api::history::history(peer, pass, &channel, request.uri().query()).await
        }
        Place::Metrics => scrape::answer(node).await,
        Place::Page(asset) => Ok(asset.answer()),
        Place::Presence(channel) => api::presence::answer(peer, pass, &channel),
        Place::Publish => api::publish::post(peer, pass, request).await,
        Place::Ready if node.draining() => {
            Err(Refusal::unavailable(ErrorCode::Unavailable, "this node is going away"))
        }
        Place::Ready if node.durable().is_some_and(|log| log.fault().is_some()) => Err(
            Refusal::unavailable(ErrorCode::Unavailable, "the store of durable channels is away"),
        ),
        Place::Ready => Ok(answer::json(status, &json!({"status": "ready"}))),
        Place::Snapshot(channel) => {
            api::history::snapshot(peer, pass, &channel, request.uri().query()).await
        }
        Place::Stats => Ok(api::stats::answer(node).await),
    }
}
