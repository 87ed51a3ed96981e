//! Compressed messages through the decoder. Every stream runs whole, cut in two, and byte by byte.

use flate2::{Compress, Compression, FlushCompress};

use super::inflater::deflated_bytes_max;
use super::*;
use crate::proto::ws::error::ProtocolError;
use crate::proto::ws::frame::{Opcode, client_frame, parse_server};
use crate::proto::ws::message::{Decoder, Message};

mod random;
#[path = "../../../../tests/support/window.rs"]
pub(in crate::proto) mod window;

const MAX: usize = 1000;
const RSV1: u8 = 0x40;

/// What came of a stream: the kind and payload of each message, and how its reading ended.
type Outcome = (Vec<(Opcode, Vec<u8>)>, Result<(), ProtocolError>);

/// A client's side of the extension.
struct Client {
    state: Compress,
    agreed: Agreed,
}

impl Client {
    fn new(offer: &str) -> Self {
        let agreed = negotiate([offer], Wish::default()).unwrap();
        let bits = agreed.client_window_bits.max(9);
        Self { state: Compress::new_with_window_bits(Compression::new(6), false, bits), agreed }
    }

    fn deflate(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.agreed.client_alone {
            self.state.reset();
        }
        let mut out = Vec::with_capacity(bytes.len() * 2 + 64);
        self.state.compress_vec(bytes, &mut out, FlushCompress::Sync).unwrap();
        // Nothing to flush since the last time: the compressor says nothing.
        let Some(len) = out.len().checked_sub(4) else { return vec![0x00] };
        out.truncate(len);
        out
    }

    fn decoder(&self) -> Decoder {
        Decoder::inflating(Inbound::new(&self.agreed))
    }
}

fn frame(first: u8, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    client_frame(opcode, payload, [0x37, 0xFA, 0x21, 0x3D], &mut out);
    out[0] = out[0] & 0x0F | first;
    out
}

/// A whole compressed message.
fn deflated(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | RSV1, opcode, payload)
}

/// A compressed message in fragments of `size` bytes.
fn fragments(opcode: Opcode, payload: &[u8], size: usize) -> Vec<u8> {
    let count = payload.len().div_ceil(size).max(1);
    let mut out = Vec::new();
    for i in 0..count {
        let part = &payload[i * size..payload.len().min((i + 1) * size)];
        let fin = if i + 1 == count { 0x80 } else { 0 };
        match i {
            0 => out.extend(frame(fin | RSV1, opcode, part)),
            _ => out.extend(frame(fin, Opcode::Continuation, part)),
        }
    }
    out
}

fn run<'a>(decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>, max: usize) -> Outcome {
    run_within(usize::MAX, decoder, pieces, max)
}

/// As [`run`], with a decoder that pauses when so many bytes have come out.
fn run_within<'a>(
    room: usize,
    mut decoder: Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    max: usize,
) -> Outcome {
    let (mut seen, mut inflaters) = (Vec::new(), Inflaters::default());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        loop {
            inflaters.allow(room);
            let before = inflaters.tally().1;
            let next = decoder.next_with(&mut input, max, &mut inflaters);
            let came = usize::try_from(inflaters.tally().1 - before).unwrap();
            // The bits that a flush was missing for may be a match or two.
            assert!(came <= room.saturating_add(2 * 258), "{came} bytes where {room} are allowed");
            match next {
                Ok(Some(Message::Text(text))) => seen.push((Opcode::Text, text.to_vec())),
                Ok(Some(Message::Binary(bytes))) => seen.push((Opcode::Binary, bytes.to_vec())),
                Ok(Some(Message::Ping(bytes))) => seen.push((Opcode::Ping, bytes.to_vec())),
                Ok(Some(Message::Pong(bytes))) => seen.push((Opcode::Pong, bytes.to_vec())),
                Ok(Some(Message::Close(_))) => seen.push((Opcode::Close, Vec::new())),
                Ok(None) => {
                    if !decoder.is_paused() {
                        break;
                    }
                    assert_eq!(came, room, "it goes on");
                }
                Err(error) => return (seen, Err(error)),
            }
        }
        assert!(input.is_empty(), "all is taken");
    }
    (seen, Ok(()))
}

fn each_cut(decoder: impl Fn() -> Decoder, input: &[u8], max: usize) -> Outcome {
    let whole = run(decoder(), [input], max);
    for cut in 0..=input.len() {
        let (left, right) = input.split_at(cut);
        assert_eq!(run(decoder(), [left, right], max), whole, "cut at {cut}");
    }
    assert_eq!(run(decoder(), input.chunks(1), max), whole, "byte by byte");
    for room in [1, 2, 7, 100] {
        assert_eq!(run_within(room, decoder(), [input], max), whole, "{room} bytes at once");
        assert_eq!(run_within(room, decoder(), input.chunks(3), max), whole, "{room}, in pieces");
    }
    whole
}

fn plain_offer() -> Client {
    Client::new("permessage-deflate")
}

/// What a binary message with this compressed payload is read as.
fn read(payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let bytes = deflated(Opcode::Binary, payload);
    let (mut seen, end) = each_cut(|| plain_offer().decoder(), &bytes, MAX);
    end.map(|()| seen.remove(0).1)
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    for payload in [
        &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00][..],
        &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00],
        // A last block in the middle.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
        &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
    ] {
        assert_eq!(read(payload), Ok(b"Hello".to_vec()), "{payload:x?}");
    }
    let first = deflated(Opcode::Text, &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
    let second = deflated(Opcode::Text, &[0xF2, 0x00, 0x11, 0x00, 0x00]);
    let stream = [first, second].concat();
    let hello = (Opcode::Text, b"Hello".to_vec());
    let (seen, end) = each_cut(|| plain_offer().decoder(), &stream, MAX);
    assert_eq!((seen, end), (vec![hello.clone(), hello.clone()], Ok(())));
    // Whoever promised to compress each message alone cannot point back.
    let alone = || Client::new("permessage-deflate; client_no_context_takeover").decoder();
    assert_eq!(each_cut(alone, &stream, MAX), (vec![hello], Err(ProtocolError::Deflate)));
}

#[test]
fn an_empty_message_may_have_an_empty_block_or_nothing() {
    for payload in [&[0x00][..], &[]] {
        assert_eq!(read(payload), Ok(Vec::new()));
    }
}

#[test]
fn rsv1_stands_only_on_the_first_frame_of_a_message_and_only_where_negotiated() {
    let body = plain_offer().deflate(b"hello");
    let begun = frame(RSV1, Opcode::Binary, &body);
    let refused = [
        frame(0x80 | RSV1, Opcode::Ping, b"p"),
        frame(0x80 | RSV1, Opcode::Close, b""),
        [begun, frame(0x80 | RSV1, Opcode::Continuation, b"")].concat(),
        [frame(0, Opcode::Text, b"a"), frame(RSV1, Opcode::Continuation, b"")].concat(),
        frame(0x80 | RSV1 | 0x20, Opcode::Text, &body),
        frame(0x80 | 0x10, Opcode::Text, b"a"),
    ];
    for bytes in refused {
        let outcome = each_cut(|| plain_offer().decoder(), &bytes, MAX);
        assert_eq!(outcome, (Vec::new(), Err(ProtocolError::ReservedBits)), "{bytes:x?}");
    }
    let bytes = deflated(Opcode::Text, &body);
    let outcome = each_cut(Decoder::new, &bytes, MAX);
    assert_eq!(outcome, (Vec::new(), Err(ProtocolError::ReservedBits)));
}

#[test]
fn control_frames_pass_between_compressed_fragments() {
    let mut client = plain_offer();
    let body = client.deflate(b"hello hello hello");
    let (left, right) = body.split_at(4);
    let stream = [
        frame(RSV1, Opcode::Text, left),
        frame(0x80, Opcode::Ping, b"p"),
        frame(0x80, Opcode::Continuation, right),
        frame(0x80, Opcode::Text, b"plain"),
    ];
    let expected = vec![
        (Opcode::Ping, b"p".to_vec()),
        (Opcode::Text, b"hello hello hello".to_vec()),
        (Opcode::Text, b"plain".to_vec()),
    ];
    let outcome = each_cut(|| plain_offer().decoder(), &stream.concat(), MAX);
    assert_eq!(outcome, (expected, Ok(())));
}

#[test]
fn what_is_cut_off_or_goes_on_is_corrupt() {
    let text: Vec<u8> = (0..300_usize).map(|i| b"abcdefgh"[i * i % 7]).collect();
    for level in [1, 6, 9] {
        let mut client = plain_offer();
        client.state = Compress::new(Compression::new(level), false);
        let body = client.deflate(&text);
        assert_eq!(read(&body), Ok(text.clone()));
        for end in 1..body.len() {
            assert_eq!(read(&body[..end]), Err(ProtocolError::Deflate), "level {level}, {end}");
        }
        for tail in [&[0xFF][..], &[0x06], &[0x00, 0x00, 0xFF, 0xFE], b"more"] {
            assert_eq!(read(&[&body, tail].concat()), Err(ProtocolError::Deflate), "{tail:x?}");
        }
    }
    for garbage in [&[0xFF; 20][..], b"not deflate", &[0x07]] {
        assert_eq!(read(garbage), Err(ProtocolError::Deflate), "{garbage:x?}");
    }
}

#[test]
fn text_is_checked_after_inflating() {
    for bad in [&b"\xFF"[..], b"abc\xC3", b"\xED\xA0\x80"] {
        let bytes = deflated(Opcode::Text, &plain_offer().deflate(bad));
        let outcome = each_cut(|| plain_offer().decoder(), &bytes, MAX);
        assert_eq!(outcome, (Vec::new(), Err(ProtocolError::Utf8)), "{bad:x?}");
    }
}

#[test]
fn the_limit_counts_what_comes_out() {
    for (len, fits) in [(MAX - 1, true), (MAX, true), (MAX + 1, false), (50 * MAX, false)] {
        let bytes = vec![b'z'; len];
        let stream = fragments(Opcode::Binary, &plain_offer().deflate(&bytes), 7);
        let expected = if fits {
            (vec![(Opcode::Binary, bytes)], Ok(()))
        } else {
            (Vec::new(), Err(ProtocolError::TooBig))
        };
        assert_eq!(each_cut(|| plain_offer().decoder(), &stream, MAX), expected, "{len}");
    }
    // And what comes in, which could otherwise go on for ever without anything coming out.
    let nothing = [0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(deflated_bytes_max(MAX) / 5 + 1);
    let stream = fragments(Opcode::Binary, &nothing, 100);
    let outcome = run(plain_offer().decoder(), [stream.as_slice()], MAX);
    assert_eq!(outcome, (Vec::new(), Err(ProtocolError::TooBig)));
}

#[test]
fn a_gibibyte_of_zeros_is_refused_at_64_kibibytes() {
    const LIMIT: usize = 64 * 1024;
    let mut state = Compress::new(Compression::new(9), false);
    let zeros = vec![0; 1 << 20];
    let mut mebibyte = Vec::with_capacity(1 << 16);
    state.compress_vec(&zeros, &mut mebibyte, FlushCompress::Full).unwrap();
    // Blocks after a full flush stand for themselves: 1,024 of them are a gibibyte.
    let bomb = mebibyte.repeat(1024);
    assert!(bomb.len() < 1_200_000);
    for stream in [
        deflated(Opcode::Binary, &bomb),
        fragments(Opcode::Binary, &bomb, 1000),
        fragments(Opcode::Text, &bomb, 60_000),
    ] {
        let mut decoder = plain_offer().decoder();
        let (mut inflaters, mut most) = (Inflaters::default(), 0);
        let end = stream.chunks(4096).find_map(|piece| {
            let mut piece = piece.to_vec();
            let mut input = piece.as_mut_slice();
            let end = decoder.next_with(&mut input, LIMIT, &mut inflaters).map(drop).err();
            most = most.max(decoder.carried());
            end
        });
        assert_eq!(end, Some(ProtocolError::TooBig));
        assert!(most <= LIMIT + 32 * 1024, "{most}");
    }
}

#[test]
fn last_blocks_cost_a_window_each_and_are_counted() {
    // Ten bits each: 13,000 of them fit into 16 KiB.
    let blocks = [0x03, 0x00].repeat(257);
    assert_eq!(read(&blocks), Err(ProtocolError::Deflate));
    assert_eq!(read(&[[0x03, 0x00].repeat(200), vec![0x00]].concat()), Ok(Vec::new()));
}

#[test]
fn a_client_is_remembered_by_what_it_has_sent_and_never_past_its_window() {
    let mut client = Client::new("permessage-deflate; client_max_window_bits=9");
    let (mut decoder, mut inflaters) = (client.decoder(), Inflaters::default());
    assert_eq!(decoder.kept(), 0);
    let mut sent = 0;
    for round in 0..40_usize {
        let text = format!("{{\"type\":\"ping\",\"id\":{round}}}");
        sent += text.len();
        let mut bytes = deflated(Opcode::Text, &client.deflate(text.as_bytes()));
        let mut input = bytes.as_mut_slice();
        let message = decoder.next_with(&mut input, MAX, &mut inflaters).unwrap();
        assert_eq!(message, Some(Message::Text(text.into_bytes().as_mut_slice())));
        assert_eq!(decoder.next_with(&mut input, MAX, &mut inflaters), Ok(None));
        assert_eq!(decoder.kept(), sent.min(512));
        assert!(decoder.is_idle());
    }
}

#[test]
fn what_is_small_or_does_not_shrink_goes_out_as_it_is() {
    let noise: Vec<u8> = (0..2000).map(|_| fastrand::u8(..)).collect();
    let text = b"0123456789".repeat(100);
    for (payload, bits, compressed) in [
        (&text[..], 15, true),
        (&text[..99], 15, false),
        (&text[..100], 15, true),
        (&text, 10, true),
        // Might point back further than 512 bytes.
        (&text, 9, false),
        (&text[..256], 8, true),
        (&text[..257], 8, false),
        (&noise, 15, false),
    ] {
        let mut out = Vec::new();
        assert_eq!(
            Deflater::new(1, 100).frame(Opcode::Text, payload, bits, &mut out),
            compressed,
            "{} bytes, {bits} bits",
            payload.len()
        );
        assert_eq!(out[0], if compressed { 0xC1 } else { 0x81 });
        if !compressed {
            let (header, size) = parse_server(&out, usize::MAX).unwrap().unwrap();
            assert_eq!((&out[size..], header.payload_len), (payload, payload.len()));
        }
    }
}

/// Inflates a frame of ours with a window of so many bits.
fn inflate_ours(frame: &[u8], bits: u8) -> Option<Vec<u8>> {
    assert_eq!(frame[0] & RSV1, RSV1);
    let plain = [&[frame[0] & !RSV1], &frame[1..]].concat();
    let (_, size) = parse_server(&plain, usize::MAX).unwrap().unwrap();
    window::inflate(&frame[size..], bits).ok()
}

#[test]
fn every_level_and_window_is_read_by_a_window_of_that_size() {
    let text: Vec<u8> = (0..40_000_u32).map(|i| b"{\"sensor\":123.5},"[i as usize % 17]).collect();
    for level in 0..=9 {
        let mut deflater = Deflater::new(level, 0);
        for bits in 8..=15 {
            let payload = if bits == 15 { &text[..] } else { &text[..1 << bits] };
            let mut out = Vec::new();
            let compressed = deflater.frame(Opcode::Binary, payload, bits, &mut out);
            assert_eq!(compressed, level > 0, "level {level}, {bits} bits");
            if compressed {
                let read = inflate_ours(&out, bits);
                assert_eq!(read.as_deref(), Some(payload), "level {level}, {bits} bits");
            }
        }
        if level > 0 {
            let whole = deflater::compress(Opcode::Text, &text, level);
            assert_eq!(inflate_ours(&whole, 15).as_deref(), Some(&text[..]));
        }
    }
}

#[test]
fn what_repeats_itself_further_back_than_a_window_is_read_by_it() {
    let cases = window::DISTANCES.into_iter().flat_map(|d| (1..=9).map(move |l| (d, l)));
    for (distance, level) in cases {
        let mut rng = fastrand::Rng::with_seed(distance as u64);
        let text = window::twins(&mut rng, b"0123456789abcdef", distance).into_bytes();
        let case = |bits| format!("{distance} bytes back, level {level}, {bits} bits");
        for bits in 9..=15 {
            let mut out = Vec::new();
            let mut deflater = Deflater::with_window(level, 0, bits);
            assert!(deflater.frame(Opcode::Binary, &text, bits, &mut out), "{}", case(bits));
            assert_eq!(inflate_ours(&out, bits).as_ref(), Some(&text), "{}", case(bits));
        }
        // A reader that could read anything would show nothing.
        let wide = deflater::compress(Opcode::Text, &text, level);
        for bits in 9..=15 {
            let read = inflate_ours(&wide, bits);
            assert_eq!(read.as_ref() == Some(&text), distance <= 1 << bits, "{}", case(bits));
        }
    }
}

#[test]
fn compression_pays_from_an_eighth_on() {
    for level in 1..=9 {
        for bits in [12, 15] {
            let mut deflater = Deflater::with_window(level, 0, bits);
            for (zeros, compressed) in [(100, false), (400, false), (1_200, true)] {
                // Of noise nothing is saved, of zeros nearly all.
                let mut random = fastrand::Rng::with_seed(1);
                let noise = std::iter::repeat_with(|| random.u8(..)).take(4_000 - zeros);
                let payload: Vec<u8> = noise.chain(vec![0; zeros]).collect();
                let what = format!("{zeros} zeros, level {level}, {bits} bits");
                let mut out = Vec::new();
                let framed = deflater.frame(Opcode::Binary, &payload, bits, &mut out);
                assert_eq!(framed, compressed, "{what}");
                assert_eq!(out.len() < 4_000 * 7 / 8 + 5, compressed, "{what}");
                out.clear();
                assert_eq!(deflater.gzip(&payload, &mut out), compressed, "{what}");
                assert_eq!(out.is_empty(), !compressed, "{what}");
            }
        }
    }
}

#[test]
fn a_message_that_did_not_shrink_leaves_nothing_behind_for_the_next() {
    let mut random = fastrand::Rng::with_seed(1);
    for len in [256, 1024, 4096, 35_000] {
        let mut deflater = Deflater::new(1, 0);
        for _ in 0..1000 {
            let payload: Vec<u8> = (0..len).map(|_| random.u8(100..)).collect();
            let mut out = Vec::new();
            if !deflater.frame(Opcode::Binary, &payload, 15, &mut out) {
                assert!(out.ends_with(&payload));
            }
        }
    }
}

#[test]
fn a_panic_of_the_compressor_costs_nothing_but_its_frame() {
    let text = b"0123456789".repeat(100);
    let mut deflater = Deflater::new(1, 0);
    let mut out = Vec::new();
    assert!(deflater.frame(Opcode::Text, &text, 15, &mut out));
    assert!(!deflater.caught(|_| panic!("as zlib-rs 0.6.8 did")));
    let mut again = Vec::new();
    assert!(deflater.frame(Opcode::Text, &text, 15, &mut again));
    assert!(again == out && deflater.gzip(&text, &mut again));
    assert_eq!((deflater.take_panics(), deflater.take_panics()), (1, 0));
}
