//! The handshake of a WebSocket: every way to ask wrongly has its own sentence, and only what is
//! right in all parts gets a 101.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};

use super::answer::{Refusal, Response};
use super::connection::Peer;
use super::{arrival, credentials, guard, query};
use crate::core::bearer::Bearer;
use crate::core::metrics::Counter;
use crate::proto::error::ErrorCode;
use crate::proto::format::{Compression, NARROW_BITS, Spoken, Subprotocol};
use crate::proto::name::ClientId;
use crate::proto::ws::deflate::{Agreed, WINDOW_BITS_MAX, Wish, negotiate};
use crate::proto::ws::handshake::accept_key;
use crate::shard::{Found, Guest, Net, Place, Verifying};

/// What is asked of clients that compress: each message alone. Then nothing is kept of a message
/// once it was read, where it would be up to 32 KiB for each client that ever sent one. It costs
/// clients little: commands are small, and seldom like each other. Of several offers one that lets
/// us compress anything is better.
const WISH: Wish = Wish {
    client_window_bits: WINDOW_BITS_MAX,
    client_alone: true,
    server_window_bits: NARROW_BITS,
};

const ALLOW_GET: &[(HeaderName, &str)] = &[(header::ALLOW, "GET")];
const VERSION_13: &[(HeaderName, &str)] = &[
    (header::SEC_WEBSOCKET_VERSION, "13"),
    (header::UPGRADE, "websocket"),
    (header::CONNECTION, "Upgrade"),
];

/// A handshake that is right in all parts, but for who brings it. It has its place on the node.
pub(super) struct Handshake {
    accept: HeaderValue,
    subprotocol: Option<Subprotocol>,
    spoken: Spoken,
    was: Option<ClientId>,
    place: Place,
    ip: Option<IpAddr>,
}

/// What becomes of a handshake.
pub(super) enum Begun {
    /// It is answered with 101.
    Done(Response),
    /// That depends on its token, which takes long to check.
    Slow(Box<Handshake>, Verifying),
}

/// Checks a handshake and answers it with 101.
///
/// # Errors
///
/// [`Refusal`] says what was wrong with it, or why there is no room.
pub(super) fn answer(
    peer: &Peer,
    request: &Request<Incoming>,
    host: &str,
) -> Result<Begun, Refusal> {
    let handshake = begin(peer, request, host)?;
    let shard = &peer.doors.shard;
    let bearer = match credentials::token(peer, request)? {
        None => None,
        Some(token) => match shard.node().authenticate(&token, handshake.ip, shard.metrics()) {
            Found::Known(result) => Some(result.map_err(credentials::refused)?),
            Found::Slow(unchecked) => {
                let verifying = shard.verify(unchecked).map_err(credentials::refused)?;
                return Ok(Begun::Slow(Box::new(handshake), verifying));
            }
        },
    };
    handshake.finish(peer, bearer).map(Begun::Done)
}

/// Checks all of a handshake but its token, which costs the most.
fn begin(peer: &Peer, request: &Request<Incoming>, host: &str) -> Result<Handshake, Refusal> {
    check_request(request)?;
    let headers = request.headers();
    check_upgrade(headers)?;
    let accept = check_key(headers)?;
    let node = peer.doors.shard.node();
    let compression = peer.doors.shard.options().compression;
    let subprotocol = choose_subprotocol(headers, compression.gzip)?;
    let query = request.uri().query();
    let batch = batch(query, subprotocol.unwrap_or_default())?;
    guard::check_origin(headers, host, &peer.doors.options().origins)?;
    let net = arrival::handshake(peer)?;
    if node.draining() {
        return Err(Refusal::unavailable(ErrorCode::Unavailable, "this node is going away"));
    }
    if node.memory().is_over() {
        let message = "what waits for slow clients takes too much memory";
        return Err(Refusal::unavailable(ErrorCode::Overloaded, message));
    }
    let Some(mut place) = node.limits().admit() else {
        return Err(Refusal::unavailable(ErrorCode::Overloaded, "this node is full"));
    };
    if let Some(net) = net {
        place.count_net(net);
    }
    let deflate = agree(headers, compression, WISH);
    let spoken = Spoken { subprotocol: subprotocol.unwrap_or_default(), deflate, batch };
    let (was, ip) = (was(query), arrival::ip_of(peer));
    Ok(Handshake { accept, subprotocol, spoken, was, place, ip })
}

impl Handshake {
    /// Answers it with 101, if its token is good.
    pub(super) async fn verified(
        self,
        peer: &Peer,
        verifying: Verifying,
    ) -> Result<Response, Refusal> {
        let result = peer.doors.shard.verified(verifying.await);
        self.finish(peer, Some(result.map_err(credentials::refused)?))
    }

    /// Answers it with 101, unless there are enough of whoever brings it.
    fn finish(mut self, peer: &Peer, bearer: Option<Arc<Bearer>>) -> Result<Response, Refusal> {
        let node = peer.doors.shard.node();
        match &bearer {
            Some(bearer) if !self.place.count_user(node.limits(), bearer.user()) => {
                return Err(arrival::too_many_of_user(&peer.doors, self.ip));
            }
            None if node.options().auth.required => {
                if !self.place.count_stranger(node.limits(), self.ip.map(Net::from)) {
                    return Err(arrival::too_many_strangers(&peer.doors, self.ip));
                }
            }
            Some(_) | None => {}
        }
        let Self { accept, subprotocol, spoken, was, place, ip: _ } = self;
        peer.guest.set(Some(Guest { place, spoken, was, bearer }));
        peer.doors.shard.metrics().add(Counter::Upgrades, 1);
        Ok(switching(accept, subprotocol, spoken.deflate))
    }
}

/// The connection that the client says it had before. What is none of ours is nobody's: a stale
/// bookmark keeps no client out.
fn was(query: Option<&str>) -> Option<ClientId> {
    query::value(query, "was").ok().flatten()?.parse().ok()
}

/// Whether the client takes several events in one text frame.
fn batch(query: Option<&str>, subprotocol: Subprotocol) -> Result<bool, Refusal> {
    match query::value(query, "batch")?.as_deref() {
        None | Some("0") => Ok(false),
        Some("1") if subprotocol == Subprotocol::Bin => {
            Err(Refusal::bad("batch=1 is for text: a frame of weir.v1.bin has one event"))
        }
        Some("1") => Ok(true),
        Some(_) => Err(Refusal::bad("batch is 1, for several events in a text frame, or 0")),
    }
}

/// As [`answer`], for the echo: speaks no subprotocol and takes anybody.
///
/// Compression is agreed on as there, but that clients may compress their messages together, so
/// that a conformance suite sees that too; `?alone=1` asks them not to, as `/ws` does.
pub(super) fn echo(peer: &Peer, request: &Request<Incoming>) -> Result<Response, Refusal> {
    check_request(request)?;
    let headers = request.headers();
    check_upgrade(headers)?;
    let accept = check_key(headers)?;
    let client_alone = query::value(request.uri().query(), "alone")?.as_deref() == Some("1");
    let compression = peer.doors.shard.options().compression;
    let agreed = agree(headers, compression, Wish { client_alone, ..WISH });
    peer.echo.set(Some(agreed));
    Ok(switching(accept, None, agreed))
}

/// What is agreed about permessage-deflate.
fn agree(headers: &HeaderMap, compression: Compression, wish: Wish) -> Option<Agreed> {
    if !compression.deflate {
        return None;
    }
    let lines = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    negotiate(lines.iter().filter_map(|line| line.to_str().ok()), wish)
}

fn switching(
    accept: HeaderValue,
    subprotocol: Option<Subprotocol>,
    deflate: Option<Agreed>,
) -> Response {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        let name = HeaderValue::from_static(subprotocol.name());
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    if let Some(value) = deflate.and_then(|it| HeaderValue::from_str(&it.to_string()).ok()) {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    answer
}

/// RFC 6455, section 4.2.1: a GET of HTTP/1.1 without a body.
fn check_request(request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.method() != Method::GET {
        return Err(Refusal::method(ALLOW_GET));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::bad("a WebSocket begins with HTTP/1.1"));
    }
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    if chunked || !request.body().is_end_stream() {
        return Err(Refusal::bad("a WebSocket handshake has no body"));
    }
    Ok(())
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), Refusal> {
    if !has_token(headers, header::UPGRADE, "websocket") {
        let message = "this is a WebSocket: ask with the header Upgrade: websocket";
        let status = StatusCode::UPGRADE_REQUIRED;
        return Err(Refusal::new(status, "upgrade_required", message).with(VERSION_13));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Refusal::bad("the Connection header does not name upgrade"));
    }
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version == "13" => Ok(()),
        _ => {
            let message = "Sec-WebSocket-Version must be 13";
            let status = StatusCode::UPGRADE_REQUIRED;
            Err(Refusal::new(status, "upgrade_required", message).with(VERSION_13))
        }
    }
}

fn check_key(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let name = header::SEC_WEBSOCKET_KEY;
    let Some(key) = guard::single(headers, name, "more than one Sec-WebSocket-Key header")? else {
        return Err(Refusal::bad("the header Sec-WebSocket-Key is missing"));
    };
    accept_key(key.as_bytes())
        .and_then(|accept| HeaderValue::from_bytes(&accept).ok())
        .ok_or_else(|| Refusal::bad("Sec-WebSocket-Key is not the base64 of 16 bytes"))
}

/// The subprotocol to name in the answer, the first offered that is spoken; `None` where none was
/// offered.
fn choose_subprotocol(headers: &HeaderMap, gzip: bool) -> Result<Option<Subprotocol>, Refusal> {
    let mut offered = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let is_spoken = |one: &Subprotocol| gzip || *one != Subprotocol::JsonGzip;
    if let Some(one) = offered.filter_map(Subprotocol::find).find(is_spoken) {
        return Ok(Some(one));
    }
    Err(Refusal::bad(if gzip {
        "of the subprotocols, weir.v1.json, weir.v1.json+gzip and weir.v1.bin are spoken here"
    } else {
        "of the subprotocols, weir.v1.json and weir.v1.bin are spoken here"
    }))
}

/// Whether a header that is a list has this token. Mostly it is all of the first line.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let first = headers.get(&name);
    first.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(token.as_bytes()))
        || tokens(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

/// The tokens of a header that is a list, over all its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}
