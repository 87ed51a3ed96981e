//! Events on the wire, and how a client reads them.

use super::varint;
use super::{GZIP, JSON, KEY};
use crate::proto::event::{Event, Payload};

/// Which kind of event a frame brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One that was just published, or is recovered.
    Event = 0x01,
    /// The latest of its key, on subscribe or after a lag.
    Snapshot = 0x03,
}

/// Appends the message for `event`; `gzipped` is its payload as a gzip stream, to send that.
pub fn encode_event(event: &Event, kind: Kind, gzipped: Option<&[u8]>, out: &mut Vec<u8>) {
    let (Payload::Json(plain) | Payload::Opaque(plain)) = &event.payload;
    let payload = gzipped.unwrap_or(plain);
    out.reserve(payload.len() + event.key.as_ref().map_or(0, |key| key.len() + 2) + 32);
    put_event_head(event, kind, gzipped.is_some(), out);
    out.extend_from_slice(payload);
}

/// Appends the message for `event` up to its payload; `gzipped` says that this is a gzip stream.
pub fn put_event_head(event: &Event, kind: Kind, gzipped: bool, out: &mut Vec<u8>) {
    let json = match &event.payload {
        Payload::Json(_) => JSON,
        Payload::Opaque(_) => 0,
    };
    let flags = json | if gzipped { GZIP } else { 0 } | if event.key.is_some() { KEY } else { 0 };
    out.extend_from_slice(&[kind as u8, flags]);
    varint::push(event.alias.0, out);
    varint::push(event.offset, out);
    varint::push(event.ts_ms, out);
    if let Some(key) = &event.key {
        varint::push(key.len() as u64, out);
        out.extend_from_slice(key.as_bytes());
    }
}

/// An event as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<'a> {
    /// Event or snapshot.
    pub kind: Kind,
    /// The number of the channel, from `subscribed`.
    pub alias: u64,
    /// Its number in the channel.
    pub offset: u64,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
    /// Its label inside the channel.
    pub key: Option<&'a str>,
    /// Whether the payload is JSON text, after gunzipping.
    pub json: bool,
    /// Whether the payload is a gzip stream.
    pub gzip: bool,
    /// The rest of the message.
    pub payload: &'a [u8],
}

/// Reads an event; `None` if it is not one.
pub fn parse_event(message: &[u8]) -> Option<Received<'_>> {
    let [kind, flags, rest @ ..] = message else { return None };
    let kind = match kind {
        0x01 => Kind::Event,
        0x03 => Kind::Snapshot,
        _ => return None,
    };
    if flags & !(GZIP | JSON | KEY) != 0 {
        return None;
    }
    let mut rest = rest;
    let alias = varint::take(&mut rest).ok()?;
    let offset = varint::take(&mut rest).ok()?;
    let ts_ms = varint::take(&mut rest).ok()?;
    let mut key = None;
    if flags & KEY != 0 {
        let len = usize::try_from(varint::take(&mut rest).ok()?).ok()?;
        let (front, behind) = rest.split_at_checked(len)?;
        key = Some(std::str::from_utf8(front).ok()?);
        rest = behind;
    }
    let (json, gzip) = (flags & JSON != 0, flags & GZIP != 0);
    Some(Received { kind, alias, offset, ts_ms, key, json, gzip, payload: rest })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::encoder::Frames;
    use crate::proto::gzip;
    use crate::proto::name::Alias;

    fn event(alias: u64, offset: u64, key: Option<&str>, payload: Payload) -> Event {
        let (alias, key) = (Alias(alias), key.map(Box::from));
        Event { alias, offset, key, ..Event::sample(payload, Frames::default()) }
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let json = event(12, 300, Some("cpu0"), Payload::Json((*b"[1]").into()));
        let mut out = Vec::new();
        encode_event(&json, Kind::Event, None, &mut out);
        let ts = [0xFB, 0x9B, 0x81, 0xE3, 0xB4, 0x32];
        let head = [&[0x01, 0x06, 12, 0xAC, 0x02][..], &ts].concat();
        assert_eq!(out, [&head[..], &[4], b"cpu0", b"[1]"].concat());
        let opaque = event(1, 1, None, Payload::Opaque((*b"\0\xFF").into()));
        out.clear();
        encode_event(&opaque, Kind::Snapshot, None, &mut out);
        assert_eq!(out, [&[0x03, 0x00, 1, 1][..], &ts, b"\0\xFF"].concat());
    }

    #[test]
    fn what_is_no_event_is_not_read() {
        for flags in 0..=255_u8 {
            let message = [0x01, flags, 1, 1, 1, 0];
            let read = parse_event(&message);
            assert_eq!(read.is_some(), flags < 8, "{flags:#x}");
        }
        assert_eq!(parse_event(&[0x02, 0, 1, 1, 1]), None);
        assert_eq!(parse_event(&[0x01, KEY, 1, 1, 1, 2, b'a']), None);
        assert_eq!(parse_event(&[0x01, KEY, 1, 1, 1, 1, 0xFF]), None);
    }

    proptest! {
        #[test]
        fn events_round_trip_and_are_nothing_when_their_head_is_cut(
            alias: u64,
            offset: u64,
            key in prop::option::of(".{0,60}"),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            is_json: bool,
            is_gzip: bool,
            snapshot: bool,
        ) {
            let carried = if is_json { Payload::Json } else { Payload::Opaque };
            let event = event(alias, offset, key.as_deref(), carried(payload.clone().into()));
            let kind = if snapshot { Kind::Snapshot } else { Kind::Event };
            let stream = gzip::compress(&payload, 1);
            let mut out = Vec::new();
            encode_event(&event, kind, is_gzip.then_some(stream.as_slice()), &mut out);
            let sent = if is_gzip { &stream } else { &payload };
            let read = parse_event(&out);
            prop_assert_eq!(&read, &Some(Received {
                kind,
                alias,
                offset,
                ts_ms: event.ts_ms,
                key: key.as_deref(),
                json: is_json,
                gzip: is_gzip,
                payload: sent,
            }));
            let head = out.len() - sent.len();
            for end in 0..head {
                prop_assert_eq!(parse_event(&out[..end]), None, "cut at {}", end);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let read = parse_event(&bytes);
            prop_assert!(read.is_none_or(|event| event.payload.len() < bytes.len()));
        }
    }
}
