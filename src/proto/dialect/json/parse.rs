//! From a client's message to a command.

use std::borrow::Cow;

use super::scan::{Fault, Field, Scanner};
use super::text::unescape;
use crate::proto::command::{
    Call, Command, HISTORY_LIMIT, HISTORY_LIMIT_MAX, History, METHOD_BYTES_MAX, Publish, Request,
    SIGNAL_NAME_BYTES_MAX, SIGNAL_TTL_MS, SIGNAL_TTL_MS_MAX, Secret, Signal, Subscribe,
};
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::name::{KEY_BYTES_MAX, MESSAGE_ID_BYTES_MAX};
use crate::proto::rate::Rate;

/// The largest `id`: 2^53 - 1, the largest integer every JSON reader keeps.
const ID_MAX: u64 = (1 << 53) - 1;

/// How much of an unknown `type` is repeated to its sender, in bytes.
const TYPE_SHOWN_BYTES: usize = 40;

/// Reads the messages of a shard's clients. Its buffer is reused, and grows to the longest
/// message.
#[derive(Debug, Default)]
pub struct Parser {
    /// Where strings with escapes are decoded.
    decoded: Vec<u8>,
}

impl Parser {
    /// A parser with nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads one JSON text as one message. `text` is valid UTF-8.
    ///
    /// # Errors
    ///
    /// `bad_request` when it is not JSON, nested too deeply or not a command; with the command's
    /// `id` where that is readable.
    pub fn parse<'a>(&'a mut self, text: &'a [u8]) -> Result<Request<'a>, CommandError> {
        let mut fields = Fields::default();
        // A decoded string is never longer than its text.
        if self.decoded.len() < text.len() {
            self.decoded.resize(text.len(), 0);
        }
        let mut room = self.decoded.as_mut_slice();
        let mut scanner = Scanner::new(text);
        if !scanner.at_object() {
            return Err(bad(None, "a message is one JSON object"));
        }
        let scanned = scanner.object(|field| fields.put(field, room)).and_then(|()| scanner.end());
        if let Err(fault) = scanned {
            return Err(not_json(fault, &fields));
        }
        let id = fields.id()?;
        let mut reader = Reader { fields: &fields, room: &mut room };
        match reader.command() {
            Ok(command) => Ok(Request { id, command }),
            Err(message) => Err(bad(id, message)),
        }
    }
}

/// A sentence for the client.
type Sentence = Cow<'static, str>;

fn bad(id: Option<u64>, message: impl Into<Sentence>) -> CommandError {
    CommandError::new(id, ErrorCode::BadRequest, message)
}

#[cold]
fn not_json(fault: Fault, fields: &Fields<'_>) -> CommandError {
    if fault.deep {
        return bad(fields.id().ok().flatten(), fault.what);
    }
    bad(None, format!("not JSON: {} (byte {})", fault.what, fault.at))
}

/// The raw texts of the fields that some command knows.
#[derive(Debug, Default)]
struct Fields<'t> {
    channel: Option<&'t [u8]>,
    data: Option<&'t [u8]>,
    echo: Option<&'t [u8]>,
    id: Option<&'t [u8]>,
    key: Option<&'t [u8]>,
    kind: Option<&'t [u8]>,
    limit: Option<&'t [u8]>,
    max_rate: Option<&'t [u8]>,
    message_id: Option<&'t [u8]>,
    method: Option<&'t [u8]>,
    name: Option<&'t [u8]>,
    reverse: Option<&'t [u8]>,
    since: Option<&'t [u8]>,
    slow: Option<&'t [u8]>,
    snapshot: Option<&'t [u8]>,
    token: Option<&'t [u8]>,
    ttl_ms: Option<&'t [u8]>,
}

impl<'t> Fields<'t> {
    /// Keeps `field` if it is known; the last of a name wins. `room` is overwritten.
    #[inline]
    fn put(&mut self, field: Field<'t>, room: &mut [u8]) {
        let mut room = room;
        let decoded = if field.escaped { unescape(field.key, &mut room) } else { None };
        let slot = match decoded.map_or(field.key, str::as_bytes) {
            b"type" => &mut self.kind,
            b"id" => &mut self.id,
            b"channel" => &mut self.channel,
            b"data" => &mut self.data,
            b"key" => &mut self.key,
            b"echo" => &mut self.echo,
            b"message_id" => &mut self.message_id,
            b"limit" => &mut self.limit,
            b"reverse" => &mut self.reverse,
            b"since" => &mut self.since,
            b"max_rate" => &mut self.max_rate,
            b"slow" => &mut self.slow,
            b"snapshot" => &mut self.snapshot,
            b"token" => &mut self.token,
            b"method" => &mut self.method,
            b"name" => &mut self.name,
            b"ttl_ms" => &mut self.ttl_ms,
            _ => return,
        };
        *slot = Some(field.value);
    }

    fn id(&self) -> Result<Option<u64>, CommandError> {
        let Some(raw) = self.id else { return Ok(None) };
        match integer(raw) {
            Some(id @ 1..=ID_MAX) => Ok(Some(id)),
            _ => Err(bad(None, "id must be an integer from 1 to 9007199254740991")),
        }
    }
}

/// A number text without sign, fraction or exponent.
fn integer(raw: &[u8]) -> Option<u64> {
    // A checked number begins with a digit or `-`, never with `+`.
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Reads fields into a command. Strings with escapes take their room off the front of `room`.
struct Reader<'f, 'a> {
    fields: &'f Fields<'a>,
    room: &'f mut &'a mut [u8],
}

impl<'a> Reader<'_, 'a> {
    fn command(&mut self) -> Result<Command<'a>, Sentence> {
        let Some(kind) = self.fields.kind else {
            return Err("type is missing: name the command, as in \"type\":\"publish\"".into());
        };
        let Some(kind) = self.string(kind) else {
            return Err("type must be a string that names the command".into());
        };
        match kind {
            "publish" => self.publish(),
            "ping" => Ok(Command::Ping),
            "subscribe" => self.subscribe(),
            "unsubscribe" => Ok(Command::Unsubscribe { channel: self.channel()? }),
            "auth" => self.auth(),
            "history" => self.history(),
            "presence" => Ok(Command::Presence { channel: self.channel()? }),
            "request" => self.request(),
            "signal" => self.signal(),
            unknown => Err(unknown_type(unknown)),
        }
    }

    fn auth(&mut self) -> Result<Command<'a>, Sentence> {
        let Some(token) = self.fields.token else {
            return Err("token is missing: auth brings a JWT, as in \"token\":\"...\"".into());
        };
        let token = self.string(token).ok_or(Cow::Borrowed("token must be a string"))?;
        Ok(Command::Auth { token: Secret(token) })
    }

    fn publish(&mut self) -> Result<Command<'a>, Sentence> {
        let channel = self.channel()?;
        let Some(data) = self.fields.data else {
            return Err("data is missing: publish needs a JSON value, which may be null".into());
        };
        let key = self.optional_string(self.fields.key, "key must be a string or null")?;
        if key.is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err("key must have at most 255 bytes".into());
        }
        let message_id =
            self.optional_string(self.fields.message_id, "message_id must be a string")?;
        if message_id.is_some_and(|id| id.len() > MESSAGE_ID_BYTES_MAX) {
            return Err("message_id must have at most 64 bytes".into());
        }
        let echo = flag(self.fields.echo, "echo must be true or false")?.unwrap_or(true);
        Ok(Command::Publish(Publish { channel, data, key, echo, message_id }))
    }

    fn subscribe(&mut self) -> Result<Command<'a>, Sentence> {
        let channel = self.channel()?;
        let since = self.optional_since()?;
        let slow = self.optional_string(self.fields.slow, "slow must be a string")?;
        let snapshot = flag(self.fields.snapshot, "snapshot must be true or false")?;
        let max_rate = match present(self.fields.max_rate) {
            Some(raw) => Some(rate(raw)?),
            None => None,
        };
        let snapshot = snapshot.unwrap_or(true);
        Ok(Command::Subscribe(Subscribe { channel, since, slow, max_rate, snapshot }))
    }

    fn history(&mut self) -> Result<Command<'a>, Sentence> {
        let channel = self.channel()?;
        let since = self.optional_since()?;
        let limit = match present(self.fields.limit).map(integer) {
            None => Some(HISTORY_LIMIT),
            Some(limit) => limit.and_then(|limit| usize::try_from(limit).ok()),
        };
        let Some(limit @ 0..=HISTORY_LIMIT_MAX) = limit else {
            return Err("limit must be an integer from 0 to 1000".into());
        };
        let reverse = flag(self.fields.reverse, "reverse must be true or false")?;
        let reverse = reverse.unwrap_or(false);
        Ok(Command::History(History { channel, since, limit, reverse }))
    }

    fn signal(&mut self) -> Result<Command<'a>, Sentence> {
        let channel = self.channel()?;
        let Some(name) = self.fields.name else {
            return Err("name is missing: name the signal, as in \"name\":\"typing\"".into());
        };
        let name =
            self.string(name).filter(|name| (1..=SIGNAL_NAME_BYTES_MAX).contains(&name.len()));
        let Some(name) = name else {
            return Err("name must be a string of 1 to 64 bytes".into());
        };
        let Some(data) = self.fields.data else {
            return Err("data is missing: a signal has a JSON value, and null ends it".into());
        };
        let ttl_ms = match present(self.fields.ttl_ms).map(integer) {
            None => SIGNAL_TTL_MS,
            Some(Some(ttl_ms @ 1..)) => ttl_ms.min(SIGNAL_TTL_MS_MAX),
            Some(_) => return Err("ttl_ms must be an integer of at least 1".into()),
        };
        Ok(Command::Signal(Signal { channel, name, data: present(Some(data)), ttl_ms }))
    }

    fn request(&mut self) -> Result<Command<'a>, Sentence> {
        let Some(method) = self.fields.method else {
            return Err("method is missing: name what the application is asked".into());
        };
        let method = self.string(method);
        let Some(method) = method.filter(|m| (1..=METHOD_BYTES_MAX).contains(&m.len())) else {
            return Err("method must be a string of 1 to 255 bytes".into());
        };
        Ok(Command::Request(Call { method, data: self.fields.data }))
    }

    fn optional_since(&mut self) -> Result<Option<(&'a str, u64)>, Sentence> {
        present(self.fields.since).map(|raw| self.since(raw)).transpose()
    }

    fn since(&mut self, raw: &'a [u8]) -> Result<(&'a str, u64), Sentence> {
        let (mut epoch, mut offset) = (None, None);
        let room = &mut **self.room;
        let walked = Scanner::new(raw).object(|field: Field<'a>| {
            let mut room = &mut *room;
            let decoded = if field.escaped { unescape(field.key, &mut room) } else { None };
            match decoded.map_or(field.key, str::as_bytes) {
                b"epoch" => epoch = Some(field.value),
                b"offset" => offset = Some(field.value),
                _ => {}
            }
        });
        if walked.is_err() {
            return Err("since must be an object with epoch and offset".into());
        }
        let Some(epoch) = epoch.and_then(|raw| self.string(raw)) else {
            return Err("since.epoch must be a string".into());
        };
        let Some(offset) = offset.and_then(integer) else {
            return Err("since.offset must be an integer of at least 0".into());
        };
        Ok((epoch, offset))
    }

    fn channel(&mut self) -> Result<&'a str, Sentence> {
        let Some(raw) = self.fields.channel else {
            return Err("channel is missing: name a channel, as in \"channel\":\"room:1\"".into());
        };
        self.string(raw).ok_or(Cow::Borrowed("channel must be a string"))
    }

    /// The text of a string; `None` when `raw` is another kind of value.
    fn string(&mut self, raw: &'a [u8]) -> Option<&'a str> {
        let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if memchr::memchr(b'\\', inner).is_some() {
            unescape(inner, self.room)
        } else {
            std::str::from_utf8(inner).ok()
        }
    }

    fn optional_string(
        &mut self,
        raw: Option<&'a [u8]>,
        otherwise: &'static str,
    ) -> Result<Option<&'a str>, Sentence> {
        match present(raw) {
            Some(raw) => self.string(raw).map(Some).ok_or(Cow::Borrowed(otherwise)),
            None => Ok(None),
        }
    }
}

/// Takes an optional field's `null` for its absence.
fn present(raw: Option<&[u8]>) -> Option<&[u8]> {
    raw.filter(|&raw| raw != b"null")
}

fn flag(raw: Option<&[u8]>, otherwise: &'static str) -> Result<Option<bool>, Sentence> {
    match present(raw) {
        None => Ok(None),
        Some(b"true") => Ok(Some(true)),
        Some(b"false") => Ok(Some(false)),
        Some(_) => Err(otherwise.into()),
    }
}

fn rate(raw: &[u8]) -> Result<Rate, Sentence> {
    let number = std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok());
    let otherwise = "max_rate must be a number from 0.1 to 100: flushes a second";
    number.and_then(Rate::new).ok_or(Cow::Borrowed(otherwise))
}

#[cold]
fn unknown_type(kind: &str) -> Sentence {
    const KNOWN: &str =
        "auth, history, ping, presence, publish, request, signal, subscribe and unsubscribe";
    let shown = &kind[..kind.floor_char_boundary(TYPE_SHOWN_BYTES)];
    let more = if shown.len() < kind.len() { "..." } else { "" };
    format!("unknown type \"{shown}{more}\": there are {KNOWN}").into()
}

#[cfg(test)]
mod tests;
