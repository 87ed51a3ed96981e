//! Publishes on the wire: how they are read, and how a client writes them.

use std::borrow::Cow;

use super::varint::{self, BadVarint};
use super::{GZIP, ID, JSON, KEY, NO_ECHO};
use crate::proto::dialect::json::value;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::Payload;
use crate::proto::gzip::{self, GzipError};
use crate::proto::name::{Alias, CHANNEL_BYTES_MAX, KEY_BYTES_MAX};

/// The first byte of a publish.
const KIND: u8 = 0x02;

/// The largest id, as in JSON.
const ID_MAX: u64 = (1 << 53) - 1;

/// Where a publish goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// A channel that the client subscribes to, by its number.
    Alias(Alias),
    /// A channel by its name, unchecked.
    Name(&'a str),
}

/// A publish. Its payload is as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Repeated in the answer; without it a success is not answered.
    pub id: Option<u64>,
    /// Where to.
    pub place: Place<'a>,
    /// The label whose latest event is remembered.
    pub key: Option<&'a str>,
    /// Whether the publisher wants its own event back.
    pub echo: bool,
    /// Whether the payload is JSON text, after gunzipping.
    pub json: bool,
    /// Whether the payload is a gzip stream.
    pub gzip: bool,
    /// The rest of the message.
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// What the event will carry: gunzipped to at most `bytes_max`, and JSON if it says so.
    ///
    /// # Errors
    ///
    /// `bad_request` or `too_large`, with the id.
    pub fn open(&self, bytes_max: usize) -> Result<Payload, CommandError> {
        let bytes = if self.gzip {
            Cow::Owned(gzip::decompress(self.payload, bytes_max).map_err(|error| {
                let (code, message) = match error {
                    GzipError::Corrupt => {
                        (ErrorCode::BadRequest, "the payload is not one whole gzip member")
                    }
                    GzipError::TooBig => {
                        (ErrorCode::TooLarge, "the payload is larger than max_message")
                    }
                };
                CommandError::new(self.id, code, message)
            })?)
        } else {
            Cow::Borrowed(self.payload)
        };
        if self.json {
            let refuse = |why| CommandError::new(self.id, ErrorCode::BadRequest, why);
            return value::check(&bytes).map_err(refuse);
        }
        Ok(Payload::Opaque(bytes.into_owned().into()))
    }
}

/// Reads a binary message of a client.
///
/// # Errors
///
/// `bad_request`, with the id once it was read.
pub fn parse_publish(message: &[u8]) -> Result<Publish<'_>, CommandError> {
    let bad = |message| CommandError::new(None, ErrorCode::BadRequest, message);
    let [kind, flags, rest @ ..] = message else {
        return Err(bad("a binary message begins with its kind and its flags"));
    };
    if *kind != KIND {
        return Err(bad("the kind of a binary message is 2, publish"));
    }
    if flags & !(GZIP | JSON | KEY | ID | NO_ECHO) != 0 {
        return Err(bad("a flag of the binary message is reserved"));
    }
    let mut rest = rest;
    let alias = number(&mut rest).map_err(bad)?;
    let name = match alias {
        0 => Some(text(&mut rest, CHANNEL_BYTES_MAX).map_err(bad)?),
        _ => None,
    };
    let mut id = None;
    if flags & ID != 0 {
        id = match number(&mut rest).map_err(bad)? {
            number @ 1..=ID_MAX => Some(number),
            _ => return Err(bad("id must be an integer from 1 to 9007199254740991")),
        };
    }
    let bad = |message| CommandError::new(id, ErrorCode::BadRequest, message);
    let mut key = None;
    if flags & KEY != 0 {
        key = Some(text(&mut rest, KEY_BYTES_MAX).map_err(bad)?);
    }
    Ok(Publish {
        id,
        place: name.map_or(Place::Alias(Alias(alias)), Place::Name),
        key,
        echo: flags & NO_ECHO == 0,
        json: flags & JSON != 0,
        gzip: flags & GZIP != 0,
        payload: rest,
    })
}

fn number(rest: &mut &[u8]) -> Result<u64, &'static str> {
    varint::take(rest).map_err(|error| match error {
        BadVarint::Cut => "the binary message ends inside its head",
        BadVarint::Long => "a varint has at most 10 bytes and 64 bits",
    })
}

/// A length and as many bytes of UTF-8.
fn text<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Result<&'a str, &'static str> {
    let len = usize::try_from(number(rest)?).unwrap_or(usize::MAX);
    if len > bytes_max {
        return Err("channel names and keys have at most 255 bytes");
    }
    let Some((front, behind)) = rest.split_at_checked(len) else {
        return Err("the binary message ends inside its head");
    };
    *rest = behind;
    std::str::from_utf8(front).map_err(|_| "channel names and keys are UTF-8")
}

/// Appends the message of a publish, as a client sends it.
pub fn encode_publish(publish: &Publish<'_>, out: &mut Vec<u8>) {
    let mut flags = 0;
    for (flag, given) in [
        (GZIP, publish.gzip),
        (JSON, publish.json),
        (KEY, publish.key.is_some()),
        (ID, publish.id.is_some()),
        (NO_ECHO, !publish.echo),
    ] {
        flags |= if given { flag } else { 0 };
    }
    out.extend_from_slice(&[KIND, flags]);
    match publish.place {
        Place::Alias(alias) => varint::push(alias.0, out),
        Place::Name(name) => {
            out.push(0);
            push_text(name, out);
        }
    }
    if let Some(id) = publish.id {
        varint::push(id, out);
    }
    if let Some(key) = publish.key {
        push_text(key, out);
    }
    out.extend_from_slice(publish.payload);
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    varint::push(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
