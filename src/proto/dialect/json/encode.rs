//! From events and pushes to JSON texts: compact, `type` first, `data` last.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::room::put_room;
use super::text::write_string;
use crate::proto::close::CloseReason;
use crate::proto::error::CommandError;
use crate::proto::event::{Author, Event, Payload};
use crate::proto::name::{ChannelName, ClientId};
use crate::proto::position::Position;
use crate::proto::push::{Hole, Last, Push};

/// Writes the JSON text of an event, without line breaks.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) {
    put_event(event, false, out);
}

/// Writes the JSON text of an event that is shown as the newest of its key.
pub fn encode_snapshot(event: &Event, out: &mut Vec<u8>) {
    put_event(event, true, out);
}

#[inline]
fn put_event(event: &Event, snapshot: bool, out: &mut Vec<u8>) {
    put_event_head(event, snapshot, out);
    match &event.payload {
        Payload::Json(text) => {
            put_value(out, text);
            put(out, "}");
        }
        Payload::Opaque(bytes) => {
            put_base64(out, bytes);
            put(out, "\"}");
        }
    }
}

/// Writes the JSON text of an event up to where its payload begins: what [`payload_text`] has comes
/// next, and then [`payload_end`].
#[inline(always)]
pub fn put_event_head(event: &Event, snapshot: bool, out: &mut Vec<u8>) {
    put(out, "{\"type\":\"event\",\"channel\":\"");
    put(out, event.channel.as_str());
    put(out, "\",\"offset\":");
    put_number(out, event.offset);
    number(out, ",\"ts\":", event.ts_ms);
    if let Some(key) = &event.key {
        string(out, ",\"key\":", key);
    }
    if let Some(author) = &event.from {
        put_author(out, author);
    }
    if snapshot {
        flag(out, ",\"snapshot\":", true);
    }
    match &event.payload {
        Payload::Json(_) => put(out, ",\"data\":"),
        Payload::Opaque(_) => put(out, ",\"data_b64\":\""),
    }
}

/// A payload as it stands in the JSON text of its event.
pub fn payload_text(payload: &Payload) -> Cow<'_, [u8]> {
    match payload {
        Payload::Json(text) if memchr::memchr2(b'\n', b'\r', text).is_none() => Cow::Borrowed(text),
        Payload::Json(text) => {
            let mut out = Vec::with_capacity(text.len());
            put_value(&mut out, text);
            Cow::Owned(out)
        }
        Payload::Opaque(bytes) => {
            let mut out = Vec::new();
            put_base64(&mut out, bytes);
            Cow::Owned(out)
        }
    }
}

/// What ends the JSON text of an event, behind its payload.
pub fn payload_end(payload: &Payload) -> &'static [u8] {
    match payload {
        Payload::Json(_) => b"}",
        Payload::Opaque(_) => b"\"}",
    }
}

/// Writes the JSON text of a reading as HTTP has it: the channel, its head, and events; where these
/// are the newest of their keys, whether there are `more`.
pub fn encode_reading(
    (channel, position): (&str, Position),
    (events, more): (&[Arc<Event>], Option<bool>),
    out: &mut Vec<u8>,
) {
    string(out, "{\"channel\":", channel);
    string(out, ",\"epoch\":", position.epoch.as_str());
    number(out, ",\"offset\":", position.offset);
    if let Some(more) = more {
        put(out, if more { ",\"more\":true" } else { ",\"more\":false" });
    }
    put_events(out, events, more.is_some());
    put(out, "}");
}

fn put_events(out: &mut Vec<u8>, events: &[Arc<Event>], snapshot: bool) {
    put(out, ",\"events\":[");
    for (at, event) in events.iter().enumerate() {
        put(out, if at == 0 { "" } else { "," });
        put_event(event, snapshot, out);
    }
    put(out, "]");
}

/// Writes the JSON text of a signal, or of its end where there is no `data`. Returns where its
/// `"from"` begins: from there on it is an entry of the list in `subscribed`.
pub fn encode_signal(
    channel: &ChannelName,
    (author, name): (&Author, &str),
    data: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> usize {
    answer(out, "signal", None);
    string(out, ",\"channel\":", channel.as_str());
    let from = out.len() + 1;
    put_author(out, author);
    string(out, ",\"name\":", name);
    put(out, ",\"data\":");
    put_value(out, data.unwrap_or(b"null"));
    put(out, "}");
    from
}

fn put_error(out: &mut Vec<u8>, error: &CommandError) {
    answer(out, "error", error.id);
    string(out, ",\"code\":", error.code.as_str());
    string(out, ",\"message\":", &error.message);
    if let Some(retry_after_ms) = error.retry_after_ms {
        number(out, ",\"retry_after_ms\":", retry_after_ms.into());
    }
}

/// Writes the JSON text of everything else.
pub fn encode_push(push: &Push<'_>, out: &mut Vec<u8>) {
    match *push {
        Push::Disconnect { reason, retry_after_ms } => disconnect(out, reason, retry_after_ms),
        Push::Error(error) => put_error(out, error),
        Push::Room(ref push) => put_room(push, out),
        Push::Lagged { channel, hole, age_ms } => lagged(out, channel, hole, age_ms),
        Push::Ok { id } => answer(out, "ok", Some(id)),
        Push::Pong { id } => answer(out, "pong", id),
        Push::History { id, channel, position, events } => {
            answer(out, "history", id);
            place(out, channel, position);
            put_events(out, events, false);
        }
        Push::Published { id, channel, position, duplicate } => {
            answer(out, "published", Some(id));
            place(out, channel, position);
            if duplicate {
                flag(out, ",\"duplicate\":", true);
            }
        }
        Push::Subscribed { id, channel, position, alias, recovered, updated, signals } => {
            answer(out, "subscribed", id);
            place(out, channel, position);
            if let Some(recovered) = recovered {
                flag(out, ",\"recovered\":", recovered);
            }
            number(out, ",\"alias\":", alias);
            if updated {
                flag(out, ",\"updated\":", true);
            }
            if let Some(signals) = signals {
                put_signals(out, signals);
            }
        }
        Push::SubscribedPattern { id, pattern, updated } => {
            answer(out, "subscribed", id);
            string(out, ",\"channel\":", pattern);
            flag(out, ",\"pattern\":", true);
            if updated {
                flag(out, ",\"updated\":", true);
            }
        }
        Push::Unsubscribed { id, channel, why } => {
            answer(out, "unsubscribed", id);
            string(out, ",\"channel\":", channel);
            if let Some((code, reason)) = why {
                string(out, ",\"code\":", code.as_str());
                string(out, ",\"reason\":", reason);
            }
        }
        Push::Welcome { id, client, user, node, ping_ms, message_bytes, last } => {
            welcome(out, (id, client, user), node, (ping_ms, message_bytes));
            if let Some(last) = last {
                put_last(out, last);
            }
        }
    }
    put(out, "}");
}

fn lagged(out: &mut Vec<u8>, channel: &str, hole: Hole, age_ms: u64) {
    answer(out, "lagged", None);
    string(out, ",\"channel\":", channel);
    number(out, ",\"dropped\":", hole.dropped);
    number(out, ",\"from\":", hole.from);
    number(out, ",\"to\":", hole.to);
    number(out, ",\"age_ms\":", age_ms);
}

fn put_signals(out: &mut Vec<u8>, signals: &[&[u8]]) {
    put(out, ",\"signals\":[");
    for (at, signal) in signals.iter().enumerate() {
        put(out, if at == 0 { "{" } else { ",{" });
        out.extend_from_slice(signal);
    }
    put(out, "]");
}

fn welcome(
    out: &mut Vec<u8>,
    (id, client, user): (Option<u64>, ClientId, Option<&str>),
    node: &str,
    (ping_ms, message_bytes): (u64, usize),
) {
    answer(out, "welcome", id);
    put(out, ",\"client\":\"");
    put_client(out, client);
    match user {
        Some(user) => string(out, "\",\"user\":", user),
        None => put(out, "\",\"user\":null"),
    }
    string(out, ",\"node\":", node);
    string(out, ",\"version\":", env!("CARGO_PKG_VERSION"));
    number(out, ",\"ping_ms\":", ping_ms);
    number(out, ",\"max_message\":", u64::try_from(message_bytes).unwrap_or(u64::MAX));
}

fn put_last(out: &mut Vec<u8>, Last { reason, dropped }: Last) {
    number(out, ",\"last\":{\"code\":", u64::from(reason.code().unwrap_or(1006)));
    string(out, ",\"reason\":", reason.text());
    number(out, ",\"dropped\":", dropped);
    put(out, "}");
}

fn disconnect(out: &mut Vec<u8>, reason: CloseReason, retry_after_ms: Option<u64>) {
    answer(out, "disconnect", None);
    // 1006 is RFC 6455's number for a connection that ended without a close frame.
    number(out, ",\"code\":", u64::from(reason.code().unwrap_or(1006)));
    string(out, ",\"reason\":", reason.text());
    flag(out, ",\"reconnect\":", reason.reconnect());
    if let Some(retry_after_ms) = retry_after_ms {
        number(out, ",\"retry_after_ms\":", retry_after_ms);
    }
}

/// The beginning of a message, up to its `id`.
pub(super) fn answer(out: &mut Vec<u8>, kind: &str, id: Option<u64>) {
    put(out, "{\"type\":\"");
    put(out, kind);
    put(out, "\"");
    if let Some(id) = id {
        number(out, ",\"id\":", id);
    }
}

fn place(out: &mut Vec<u8>, channel: &str, position: Position) {
    string(out, ",\"channel\":", channel);
    string(out, ",\"epoch\":", position.epoch.as_str());
    number(out, ",\"offset\":", position.offset);
}

fn put_author(out: &mut Vec<u8>, author: &Author) {
    put(out, ",\"from\":{\"client\":\"");
    put_client(out, author.client);
    match &author.user {
        Some(user) => string(out, "\",\"user\":", user),
        None => put(out, "\",\"user\":null"),
    }
    put(out, "}");
}

/// Writes a JSON value on one line: line breaks between tokens go. In a string a raw line break
/// cannot be.
// Every event passes here once.
#[inline(always)]
pub(super) fn put_value(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let room = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    out.resize(start + room, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// The 13 digits of base 36 that `ClientId` shows.
pub(super) fn put_client(out: &mut Vec<u8>, client: ClientId) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = [b'0'; 13];
    let mut value = client.0;
    for slot in text.iter_mut().rev() {
        *slot = usize::try_from(value % 36).map_or(b'0', |digit| DIGITS[digit]);
        value /= 36;
    }
    out.extend_from_slice(&text);
}

pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn put_number(out: &mut Vec<u8>, value: u64) {
    put(out, itoa::Buffer::new().format(value));
}

pub(super) fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    put(out, name);
    put_number(out, value);
}

pub(super) fn string(out: &mut Vec<u8>, name: &str, text: &str) {
    put(out, name);
    write_string(text, out);
}

pub(super) fn flag(out: &mut Vec<u8>, name: &str, value: bool) {
    put(out, name);
    put(out, if value { "true" } else { "false" });
}

#[cfg(test)]
mod tests;
