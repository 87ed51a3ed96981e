//! Binary frames of `weir.v1.bin`, from the client's side: reads events, writes publishes. And gzip,
//! of which only the front is read: what is looked for stands there.

use flate2::{Decompress, FlushDecompress};

const EVENT: u8 = 0x01;
const PUBLISH: u8 = 0x02;
const SNAPSHOT: u8 = 0x03;

const GZIP: u8 = 0x01;
const JSON: u8 = 0x02;
const KEYED: u8 = 0x04;

/// An event or a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// A latest value shown again, not a live event.
    pub(crate) is_snapshot: bool,
    /// What `subscribed` called its channel.
    pub(crate) alias: u64,
    pub(crate) offset: u64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) is_gzip: bool,
    pub(crate) payload: &'a [u8],
}

/// The event in a frame; `None` when it is something else.
pub(crate) fn event(frame: &[u8]) -> Option<Event<'_>> {
    let [kind @ (EVENT | SNAPSHOT), flags, rest @ ..] = frame else { return None };
    if flags & !(GZIP | JSON | KEYED) != 0 {
        return None;
    }
    let (alias, rest) = varint(rest)?;
    let (offset, rest) = varint(rest)?;
    let (_, rest) = varint(rest)?;
    let (key, payload) = if flags & KEYED == 0 {
        (None, rest)
    } else {
        let (len, rest) = varint(rest)?;
        let (key, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        (Some(key), rest)
    };
    let (is_snapshot, is_gzip) = (*kind == SNAPSHOT, flags & GZIP != 0);
    Some(Event { is_snapshot, alias, offset, key, is_gzip, payload })
}

/// Appends what publishes JSON to a channel by its name; the payload is to follow.
pub(crate) fn push_publish(channel: &str, key: Option<&str>, out: &mut Vec<u8>) {
    let flags = if key.is_some() { JSON | KEYED } else { JSON };
    out.extend_from_slice(&[PUBLISH, flags, 0]);
    for text in [Some(channel), key].into_iter().flatten() {
        push_varint(text.len() as u64, out);
        out.extend_from_slice(text.as_bytes());
    }
}

/// An unsigned LEB128 of at most 10 bytes, and what follows it.
#[inline]
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7F);
        // The tenth has room for one bit.
        if at == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7F);
        }
        out.push(low | 0x80);
    }
}

/// So much of a gzip stream's text is read: an event's head with the longest key, and its marks.
const FRONT_BYTES: usize = 4 << 10;
/// A gzip header without any of its optional fields, as servers write it.
const PLAIN_HEADER: [u8; 4] = [0x1F, 0x8B, 8, 0];
const HEADER_BYTES: usize = 10;

/// Reads the fronts of gzip streams. Its state is kept, for it is 40 KiB.
#[derive(Debug)]
pub(crate) struct Gunzip {
    inflate: Decompress,
    front: Vec<u8>,
}

impl Gunzip {
    pub(crate) fn new() -> Self {
        Self { inflate: Decompress::new(false), front: Vec::with_capacity(FRONT_BYTES) }
    }

    /// The front of the text; `None` where it is no gzip, or one with fields that nobody writes.
    pub(crate) fn front(&mut self, stream: &[u8]) -> Option<&[u8]> {
        let deflated = stream.get(HEADER_BYTES..)?;
        if !stream.starts_with(&PLAIN_HEADER) {
            return None;
        }
        self.inflate.reset(false);
        self.front.clear();
        self.inflate.decompress_vec(deflated, &mut self.front, FlushDecompress::None).ok()?;
        Some(&self.front)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_event_is_read_and_a_cut_one_is_none() {
        let frame = b"\x01\x06\xAC\x02\x3A\x80\x80\x01\x02k1{\"ts\":42}";
        let found = event(frame).expect("an event");
        let keyed = Event {
            is_snapshot: false,
            alias: 300,
            offset: 58,
            key: Some(b"k1"),
            is_gzip: false,
            payload: b"{\"ts\":42}",
        };
        assert_eq!(found, keyed);
        // Only the payload's end is nobody's business here.
        for cut in 0..frame.len() - keyed.payload.len() {
            assert_eq!(event(&frame[..cut]), None, "cut at {cut}");
        }
        assert!(event(b"\x03\x03\x01\x01\x01x").is_some_and(|found| found.is_snapshot));
        for strange in [b"\x02\x00\x01\x01\x01".as_slice(), b"\x01\x08\x01\x01\x01", b"{}", b""] {
            assert_eq!(event(strange), None, "{strange:02x?}");
        }
    }

    #[test]
    fn numbers_come_back_and_none_is_longer_than_64_bits() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(value, &mut bytes);
            bytes.push(7);
            assert_eq!(varint(&bytes), Some((value, [7].as_slice())));
        }
        assert_eq!(varint(&[0xFF; 11]), None);
        assert_eq!(varint(b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02"), None);
        assert_eq!(varint(b"\x80"), None);
    }

    #[test]
    fn the_front_of_a_gzip_stream_is_read_again_and_again() {
        let text = format!("{{\"ts\":42,\"fill\":\"{}\"}}", "x".repeat(1 << 20));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory");
        let stream = encoder.finish().expect("memory");
        let mut gunzip = Gunzip::new();
        for _ in 0..3 {
            let front = gunzip.front(&stream).expect("gzip");
            assert!(front.len() <= FRONT_BYTES && text.as_bytes().starts_with(front));
            assert!(front.len() > 256, "{} bytes", front.len());
        }
        for strange in [b"".as_slice(), b"{\"no\":\"gzip\"}", b"\x1F\x8B\x08\x00"] {
            assert_eq!(gunzip.front(strange), None, "{strange:02x?}");
        }
        assert_eq!(gunzip.front(b"\x1F\x8B\x08\x00\0\0\0\0\0\0\xFF\xFF"), None, "no deflate");
    }
}
