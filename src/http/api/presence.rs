//! Who has a channel by name.

use hyper::StatusCode;

use super::publish::check_channel;
use crate::core::access::Act;
use crate::http::answer::{Refusal, Response, text};
use crate::http::connection::Peer;
use crate::http::keys::Pass;
use crate::http::query;
use crate::proto::dialect::json;
use crate::proto::error::ErrorCode;
use crate::shard::PublishError;

/// `GET /api/v1/channels/{channel}/presence`.
pub(crate) fn answer(peer: &Peer, pass: &Pass, channel: &str) -> Result<Response, Refusal> {
    let node = peer.doors.shard.node();
    let channel = check_channel(query::decode(channel)?)?;
    pass.check_act(node, Act::Presence, &channel)?;
    let rule = node.options().policies.of(&channel).ok_or(PublishError::UnknownChannel)?;
    if rule.room.presence.is_none() {
        let message =
            "presence is off for this channel: see `presence` in the configuration".to_owned();
        let code = ErrorCode::NotEnabled.as_str();
        return Err(Refusal::new(StatusCode::CONFLICT, code, message));
    }
    let roster = node.rooms().presence(&channel);
    let mut out = Vec::new();
    json::encode_roster(&channel, (roster.clients, roster.users), &roster.told(), &mut out);
    Ok(text(out))
}
