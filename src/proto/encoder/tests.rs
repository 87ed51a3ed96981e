//! Every form says the same, and is made once.

use proptest::prelude::*;

use super::*;
use crate::proto::dialect::bin::parse_event;
use crate::proto::gzip;
use crate::proto::ws::deflate::tests::window;

fn event(payload: Payload) -> Arc<Event> {
    Arc::new(Event::sample(payload, Frames::default()))
}

fn numbers(bytes: usize) -> Payload {
    let mut text = String::from("[0");
    for n in 1.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!(",{}", n * 7 % 100));
    }
    Payload::Json(format!("{text}]").into_bytes().into())
}

fn encoder(threshold: usize) -> Encoder {
    Encoder::new(Compression { threshold, ..Compression::default() })
}

/// What a client that knows nothing of us reads in a frame: its opcode and its message. `bits` is
/// the window that it has.
fn read(frame: &[u8], bits: u8) -> (u8, Vec<u8>) {
    let first = frame[0];
    let payload = &frame[frame::unmasked_head_len(frame)..];
    if first & 0x40 == 0 {
        return (first & 0xF, payload.to_vec());
    }
    (
        first & 0xF,
        window::inflate(payload, bits).expect("it points no further back than its window"),
    )
}

/// The data that a frame carries, and whether it is a snapshot.
fn data(frame: &[u8], format: Format) -> (Payload, bool) {
    let (opcode, mut message) = read(frame, format.window_bits().unwrap_or(WINDOW_BITS_MAX));
    if format.base() == Format::Bin {
        assert_eq!(opcode, 2);
        let event = parse_event(&message).unwrap();
        let carry = if event.json { Payload::Json } else { Payload::Opaque };
        let bytes = match event.gzip {
            true => gzip::decompress(event.payload, 1 << 24).unwrap(),
            false => event.payload.to_vec(),
        };
        return (carry(bytes.into()), event.kind == Kind::Snapshot);
    }
    if opcode == 2 {
        assert_eq!(format, Format::JsonGzip);
        message = gzip::decompress(&message, 1 << 24).unwrap();
    }
    let value: serde_json::Value = serde_json::from_slice(&message).unwrap();
    let payload = match value["data_b64"].as_str() {
        Some(text) => {
            use base64::Engine as _;
            Payload::Opaque(base64::prelude::BASE64_STANDARD.decode(text).unwrap().into())
        }
        None => Payload::Json(value["data"].to_string().into_bytes().into()),
    };
    (payload, value["snapshot"] == true)
}

#[test]
fn every_form_says_the_same() {
    for payload in [
        numbers(20),
        numbers(1_500),
        numbers(300_000),
        Payload::Opaque(vec![7; 5_000].into()),
        Payload::Opaque((0..=255).collect()),
    ] {
        let mut encoder = encoder(1_024);
        let event = event(payload.clone());
        for format in Format::ALL {
            let frame = event.frame(format, &mut encoder).to_vec();
            assert_eq!(data(&frame, format), (payload.clone(), false), "{format:?}");
            let shown = event.snapshot_frame(format, &mut encoder);
            assert_eq!(data(&shown, format), (payload.clone(), true), "{format:?}");
            let smaller = format.is_compressed() && payload.len() > 1_024;
            assert!(
                !smaller || frame.len() < event.frame(Format::Json, &mut encoder).len(),
                "{format:?}"
            );
            let mut out = vec![9];
            event.append_frame(format, &mut encoder, &mut out);
            assert_eq!(out[1..], frame, "{format:?}");
        }
    }
}

#[test]
fn no_form_points_past_the_window_of_its_reader() {
    let cases = window::DISTANCES.into_iter().flat_map(|d| (1..=9).map(move |l| (d, l)));
    for (distance, level) in cases {
        let mut rng = fastrand::Rng::with_seed(distance as u64);
        let text = window::twins(&mut rng, b"0123456789abcdef", distance);
        let payload = Payload::Json(format!("\"{text}\"").into_bytes().into());
        let mut encoder = Encoder::new(Compression { level, ..Compression::default() });
        let event = event(payload.clone());
        for format in Format::ALL {
            let what = format!("{format:?}, level {level}, {distance} bytes back");
            let frame = event.frame(format, &mut encoder);
            assert_eq!(frame[0] & 0x40 != 0, format.window_bits().is_some(), "{what}");
            assert_eq!(data(frame, format), (payload.clone(), false), "{what}");
            let shown = event.snapshot_frame(format, &mut encoder);
            assert_eq!(data(&shown, format), (payload.clone(), true), "{what}");
        }
    }
}

#[test]
fn what_is_small_or_does_not_shrink_stays_as_it_is() {
    let mut encoder = encoder(1_024);
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(4_000).collect();
    let small = event(numbers(700));
    let noisy = event(Payload::Opaque(noise.into()));
    for format in Format::ALL {
        let plain = small.frame(format.base(), &mut encoder).to_vec();
        assert_eq!(small.frame(format, &mut encoder), plain, "{format:?}");
        assert_eq!(plain[0] & 0x40, 0);
    }
    for format in [Format::BinDeflate, Format::BinDeflateNarrow] {
        let plain = noisy.frame(Format::Bin, &mut encoder).to_vec();
        assert_eq!(noisy.frame(format, &mut encoder), plain, "{format:?}");
    }
    let Made { encodings, .. } = encoder.take_made();
    assert_eq!(encodings[Format::Json.index()], 1, "of the small one");
    assert_eq!(encodings[Format::Bin.index()], 2);
    assert_eq!(encodings.iter().sum::<u64>(), 3, "{encodings:?}");
    assert_eq!(encoder.take_made(), Made::default());
}

#[test]
fn an_event_is_encoded_once_in_each_form_whoever_asks() {
    let event = event(numbers(60_000));
    let shards: Vec<_> = (0..4)
        .map(|_| {
            let event = Arc::clone(&event);
            std::thread::spawn(move || {
                let mut encoder = encoder(1_024);
                for format in Format::ALL.into_iter().cycle().take(700) {
                    event.frame(format, &mut encoder);
                }
                encoder.take_made().encodings
            })
        })
        .collect();
    let mut total = [0; Format::ALL.len()];
    for shard in shards {
        for (sum, made) in total.iter_mut().zip(shard.join().unwrap()) {
            *sum += made;
        }
    }
    assert_eq!(total, [1; Format::ALL.len()]);
}

proptest! {
    #[test]
    fn any_bytes_come_back_in_every_form(
        bytes in prop::collection::vec(0..8_u8, 0..6_000),
        threshold in 0..2_000_usize,
        level in 1..=9_u32,
    ) {
        let payload = Payload::Opaque(bytes.into());
        let event = event(payload.clone());
        let mut encoder =
            Encoder::new(Compression { threshold, level, ..Compression::default() });
        for format in Format::ALL {
            let frame = event.frame(format, &mut encoder);
            prop_assert_eq!(data(frame, format), (payload.clone(), false));
        }
    }
}
