//! A large event says the same in every form as a small one, in fragments that any client joins.

use proptest::prelude::*;

use super::*;
use crate::proto::encoder::Frames;
use crate::proto::gzip;
use crate::proto::ws::deflate::tests::window;
use crate::proto::ws::frame::parse_server;

const KINDS: [Kind; 2] = [Kind::Event, Kind::Snapshot];

fn event(payload: Payload, formats: &[Format], fragment: usize) -> Event {
    let compression = Compression { threshold: 0, ..Compression::default() };
    let frames = Frames::from(Bodies::new(&payload, formats, compression, fragment));
    Event::sample(payload, frames)
}

/// A payload of so many numbers, which compress, with line breaks between them.
fn numbers(count: usize) -> Payload {
    let numbers: Vec<_> = (0..count).map(|n| (n * 7 % 500).to_string()).collect();
    Payload::Json(format!("[{}]", numbers.join(",\n")).into_bytes().into())
}

/// One that does not compress.
fn noise(bytes: usize) -> Payload {
    let mut rng = fastrand::Rng::with_seed(7);
    Payload::Opaque((0..bytes).map(|_| rng.u8(..)).collect())
}

fn large(event: &Event, kind: Kind, format: Format) -> Option<Arc<Large>> {
    let mut encoder = Encoder::default();
    match kind {
        Kind::Event => event.large(format, &mut encoder),
        Kind::Snapshot => event.large_snapshot(format, &mut encoder),
    }
}

fn wire(large: &Large) -> Vec<u8> {
    large.slices(0, large.len()).concat()
}

/// Joins fragments as a client does: opcode, whether it is compressed, and the message.
fn join(mut bytes: &[u8], fragment: usize) -> (Opcode, bool, Vec<u8>) {
    let mut joined: Option<(Opcode, bool, Vec<u8>)> = None;
    loop {
        let deflated = bytes[0] & 0x40 != 0;
        let plain = [&[bytes[0] & !0x40], &bytes[1..bytes.len().min(14)]].concat();
        let (header, size) = parse_server(&plain, 1 << 30).unwrap().unwrap();
        let payload = &bytes[size..size + header.payload_len];
        match &mut joined {
            None => joined = Some((header.opcode, deflated, payload.to_vec())),
            Some((.., message)) => {
                assert_eq!((header.opcode, deflated), (Opcode::Continuation, false));
                assert!(size + payload.len() <= fragment, "{} bytes", payload.len());
                message.extend_from_slice(payload);
            }
        }
        bytes = &bytes[size + header.payload_len..];
        if header.fin {
            assert!(bytes.is_empty());
            return joined.unwrap();
        }
    }
}

/// The message that a client reads in it.
fn read(large: &Large, format: Format, fragment: usize) -> (Opcode, Vec<u8>) {
    let (opcode, deflated, message) = join(&wire(large), fragment);
    let message = if deflated {
        let bits = format.window_bits().expect("compressed within a window");
        window::inflate(&message, bits).expect("it points no further back than its window")
    } else if opcode == Opcode::Binary && format == Format::JsonGzip {
        gzip::decompress(&message, 8 << 20).unwrap()
    } else {
        message
    };
    (opcode, message)
}

#[test]
fn every_form_says_what_a_whole_frame_says() {
    for payload in [numbers(40_000), noise(100_000), Payload::Opaque(vec![7; 70_000].into())] {
        let event = event(payload, &Format::ALL, FRAGMENT_BYTES);
        for (format, kind) in Format::ALL.into_iter().flat_map(|f| KINDS.map(|kind| (f, kind))) {
            let large = large(&event, kind, format).unwrap();
            let (opcode, message) = read(&large, format, FRAGMENT_BYTES);
            let mut wanted = Vec::new();
            if format.base() == Format::Bin {
                assert_eq!(opcode, Opcode::Binary);
                let read = bin::parse_event(&message).unwrap();
                bin::encode_event(&event, kind, read.gzip.then_some(read.payload), &mut wanted);
                let (Payload::Json(bytes) | Payload::Opaque(bytes)) = &event.payload;
                let opened = gzip::decompress(read.payload, 8 << 20);
                assert_eq!(opened.as_deref().unwrap_or(read.payload), &**bytes, "{format:?}");
            } else if kind == Kind::Event {
                json::encode_event(&event, &mut wanted);
            } else {
                json::encode_snapshot(&event, &mut wanted);
            }
            assert!(message == wanted, "{format:?} {kind:?}");
        }
    }
}

#[test]
fn what_is_compressed_is_smaller_and_made_once_for_all_that_share_it() {
    let event = event(numbers(40_000), &Format::ALL, FRAGMENT_BYTES);
    let mut encoder = Encoder::default();
    for format in Format::ALL {
        let first = event.large(format, &mut encoder).unwrap();
        assert!(Arc::ptr_eq(&first, &event.large(format, &mut encoder).unwrap()));
        let packed = format != Format::Json;
        assert_eq!(packed, first.len() < event.payload.len() / 2, "{format:?}");
    }
    let made = encoder.take_made();
    assert_eq!(made.encodings, [1; Format::ALL.len()]);
    assert!(made.plain > 5 * made.compressed, "{made:?}");
    // Two texts, for the line breaks: as it is, and in two windows; binary frames have no plain one.
    let distinct = event.frames.bytes();
    let each: usize =
        Format::ALL.iter().map(|f| large(&event, Kind::Event, *f).unwrap().len()).sum();
    assert!(distinct < each, "{distinct} of {each} bytes");
}

#[test]
fn what_does_not_shrink_is_the_plain_form_and_counts_as_that() {
    let event = event(noise(100_000), &[Format::BinDeflate, Format::Bin], FRAGMENT_BYTES);
    let mut encoder = Encoder::default();
    let plain = event.large(Format::Bin, &mut encoder).unwrap();
    assert!(Arc::ptr_eq(&plain, &event.large(Format::BinDeflate, &mut encoder).unwrap()));
    assert_eq!(encoder.take_made().encodings.iter().sum::<u64>(), 1);
    assert!(event.large(Format::Json, &mut encoder).is_none(), "not asked for");
}

#[test]
fn boundaries_are_where_a_frame_ends() {
    let event = event(numbers(300), &[Format::Json], 200);
    let large = large(&event, Kind::Event, Format::Json).unwrap();
    let bytes = wire(&large);
    let (mut at, mut ends) = (0, Vec::new());
    while at < bytes.len() {
        at += frame::unmasked_len(&bytes[at..]);
        ends.push(at);
    }
    assert!(ends.len() > 5);
    for at in 1..=bytes.len() {
        let next = ends.iter().find(|end| **end >= at).unwrap();
        assert_eq!(large.boundary(at), *next, "at {at}");
        assert_eq!(large.slices(at / 2, at).concat(), bytes[at / 2..at]);
    }
}

proptest! {
    #[test]
    fn any_payload_in_fragments_of_any_size(
        payload in prop::collection::vec(any::<u8>(), 0..3_000),
        fragment in 0_usize..2_000,
    ) {
        let event = event(Payload::Opaque(payload.into()), &Format::ALL, fragment);
        let fragment = fragment.clamp(130, FRAGMENT_BYTES);
        for format in Format::ALL {
            let Some(large) = large(&event, Kind::Event, format) else { continue };
            let (_, message) = read(&large, format, fragment);
            let mut wanted = Vec::new();
            if format.base() == Format::Json {
                json::encode_event(&event, &mut wanted);
                prop_assert_eq!(message, wanted);
            }
        }
    }
}
