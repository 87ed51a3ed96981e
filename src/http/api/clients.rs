//! What an operator does to connected clients.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::body;
use crate::http::answer::{Refusal, Response, json};
use crate::http::connection::Peer;
use crate::proto::name::ClientId;

#[derive(Deserialize)]
struct Wanted {
    client: String,
}

/// `POST /api/v1/disconnect`.
pub(crate) async fn disconnect(
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let bytes_max = peer.doors.options().body_bytes;
    let bytes = body::read(request, bytes_max).await?;
    let wanted: Wanted = serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad(format!("{{\"client\":ID}} is wanted: {error}")))?;
    let client: ClientId = wanted
        .client
        .parse()
        .map_err(|_| Refusal::bad("client is an id of 13 characters, as `welcome` tells it"))?;
    let disconnected = peer.doors.shard.node().disconnect(client).await;
    Ok(json(StatusCode::OK, &json!({"disconnected": disconnected})))
}
