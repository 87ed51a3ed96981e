//! Who comes, and whether it may: what a connection counts as by its address, before anything of it
//! is read; and what is answered to whoever comes, or asks, too often or too much.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::answer::{RETRY, Refusal};
use super::connection::Peer;
use super::listen::Doors;
use crate::core::metrics::Counter;
use crate::proto::error::ErrorCode;
use crate::shard::tally::Counted;
use crate::shard::{Limited, Net, Requester};

/// What is answered to a connection of an address that has as many as it may.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n\
content-type: application/json\r\ncontent-length: 106\r\nconnection: close\r\n\r\n\
{\"error\":{\"code\":\"limit_exceeded\",\"message\":\"too many connections of one address\",\
\"retry_after_ms\":1000}}\n";

/// The same where they come too often.
const TOO_OFTEN: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n\
content-type: application/json\r\ncontent-length: 117\r\nconnection: close\r\n\r\n\
{\"error\":{\"code\":\"rate_limited\",\"message\":\"too many new connections of one address a second\",\
\"retry_after_ms\":1000}}\n";

/// What a connection counts as by its address. Nothing yet, where somebody else is to say whose it
/// is.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// One of the connections of its address, while it speaks HTTP or is a WebSocket.
    counted: Option<Arc<Counted<Net>>>,
    /// It was counted among the new connections of its address, and the first handshake need not be.
    paid: Cell<bool>,
}

impl Arrival {
    /// A connection from `ip`; without one it is from this machine, and not counted.
    ///
    /// # Errors
    ///
    /// The whole answer to a connection that may not be here.
    pub(super) fn of(doors: &Doors, ip: Option<IpAddr>) -> Result<Self, &'static [u8]> {
        let Some(ip) = ip else { return Ok(Self { counted: None, paid: Cell::new(true) }) };
        let node = doors.shard.node();
        let turn_away = |limited, rejected, code, answer| {
            doors.shard.metrics().add(rejected, 1);
            doors.shard.metrics().error(code);
            count(doors, limited, Some(ip));
            answer
        };
        let net = Net::from(ip);
        node.limits().connect(net, node.clock().node_ns()).map_err(|_| {
            let (limited, code) = (Limited::Connects, ErrorCode::RateLimited);
            turn_away(limited, Counter::RejectedRate, code, TOO_OFTEN)
        })?;
        let counted = node.limits().count_net(net).map_err(|limited| {
            let code = ErrorCode::LimitExceeded;
            turn_away(limited, Counter::RejectedLimit, code, TOO_MANY)
        })?;
        Ok(Self { counted, paid: Cell::new(true) })
    }
}

/// Where a request comes from; `None` is this machine. The one place that limits know it from.
pub(super) fn ip_of(peer: &Peer) -> Option<IpAddr> {
    let client = peer.client.get();
    (peer.source.tcp || client != peer.source.from).then_some(client)
}

/// Counts a handshake by the address it comes from, as far as its connection was not.
pub(super) fn handshake(peer: &Peer) -> Result<Option<Arc<Counted<Net>>>, Refusal> {
    let Some(ip) = ip_of(peer) else { return Ok(None) };
    let node = peer.doors.shard.node();
    if !peer.arrival.paid.take() {
        let wait = node.limits().connect(ip.into(), node.clock().node_ns());
        let message = "too many new connections of this address in a second";
        wait.map_err(|wait| {
            count(&peer.doors, Limited::Connects, Some(ip));
            limited(ErrorCode::RateLimited, message, wait)
        })?;
    }
    if let Some(counted) = &peer.arrival.counted {
        return Ok(Some(Arc::clone(counted)));
    }
    let counted = node.limits().count_net(ip.into());
    counted.map_err(|what| {
        count(&peer.doors, what, Some(ip));
        limited(ErrorCode::LimitExceeded, "this address has as many connections as it may", RETRY)
    })
}

/// Counts a request to the API by its key, or where it has none by the address it comes from.
pub(super) fn request(peer: &Peer, key: Option<u64>) -> Result<(), Refusal> {
    let ip = ip_of(peer);
    let requester = key.map_or(Requester::Net(ip.map(Net::from)), Requester::Key);
    let node = peer.doors.shard.node();
    let wait = node.limits().request(requester, node.clock().node_ns());
    wait.map_err(|wait| {
        count(&peer.doors, Limited::HttpRequests, ip);
        limited(ErrorCode::RateLimited, "too many requests in a second", wait)
    })
}

/// The refusal of one more connection of a user.
pub(super) fn too_many_of_user(doors: &Doors, ip: Option<IpAddr>) -> Refusal {
    count(doors, Limited::ConnectionsPerUser, ip);
    limited(ErrorCode::LimitExceeded, "this user has as many connections as it may", RETRY)
}

/// The refusal of one more client that has yet to say who it is.
pub(super) fn too_many_strangers(doors: &Doors, ip: Option<IpAddr>) -> Refusal {
    count(doors, Limited::Strangers, ip);
    let message = "as many clients as may be here have yet to bring a token: come with one";
    Refusal::unavailable(ErrorCode::Overloaded, message)
}

/// The refusal of what is too much for now.
pub(super) fn limited(code: ErrorCode, message: &'static str, wait: Duration) -> Refusal {
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, code.as_str(), message);
    Refusal { retry: Some(wait), ..refusal }
}

fn count(doors: &Doors, limited: Limited, ip: Option<IpAddr>) {
    let node = doors.shard.node();
    doors.shard.metrics().add(limited.counter(), 1);
    node.limits().tell(limited, || ip, node.clock().node_ns());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_are_as_long_as_they_say() {
        for answer in [TOO_MANY, TOO_OFTEN] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["retry_after_ms"], 1000);
        }
    }
}
