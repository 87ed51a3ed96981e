//! The decoder's rules. Every case runs whole, cut at every byte, and byte by byte.

use crate::proto::ws::frame::client_frame;

use super::*;

mod random;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const MAX: usize = 1000;

/// A message that outlives the input.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Message<'_>> for Seen {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(String::from_utf8(text.to_vec()).unwrap()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }
    }
}

/// What a stream was read as, and how its reading ended.
type Outcome = (Vec<Seen>, Result<(), ProtocolError>);

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

fn binary(bytes: &[u8]) -> Seen {
    Seen::Binary(bytes.to_vec())
}

/// A masked frame; `fin` false makes it a fragment.
fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    client_frame(opcode, payload, MASK, &mut out);
    out[0] &= if fin { 0xFF } else { 0x7F };
    out
}

fn feed(
    decoder: &mut Decoder,
    piece: &[u8],
    max: usize,
    seen: &mut Vec<Seen>,
) -> Result<(), ProtocolError> {
    let mut piece = piece.to_vec();
    let mut input = piece.as_mut_slice();
    while let Some(message) = decoder.next(&mut input, max)? {
        seen.push(message.into());
    }
    assert!(input.is_empty(), "all is taken");
    assert_eq!(decoder.is_idle(), decoder.carry.is_none(), "the carry is freed when idle");
    assert!(decoder.carried() == 0 || !decoder.is_idle());
    if let Some(carry) = &decoder.carry {
        assert!(carry.reserved() <= max, "nothing is reserved past the limit");
    }
    Ok(())
}

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max: usize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for piece in pieces {
        if let Err(error) = feed(&mut decoder, piece, max, &mut seen) {
            return (seen, Err(error));
        }
    }
    (seen, Ok(()))
}

/// Runs `input` whole, cut in two at every place, and byte by byte: one outcome.
fn each_cut(input: &[u8], max: usize) -> Outcome {
    let whole = run([input], max);
    for cut in 0..=input.len() {
        let (left, right) = input.split_at(cut);
        assert_eq!(run([left, right], max), whole, "cut at {cut}");
    }
    assert_eq!(run(input.chunks(1), max), whole, "byte by byte");
    whole
}

fn check(frames: &[Vec<u8>], expected: &[Seen]) {
    assert_eq!(each_cut(&frames.concat(), MAX), (expected.to_vec(), Ok(())));
}

fn check_fault(frames: &[Vec<u8>], before: &[Seen], error: ProtocolError) {
    assert_eq!(each_cut(&frames.concat(), MAX), (before.to_vec(), Err(error)));
}

#[test]
fn whole_messages_come_in_order() {
    check(&[], &[]);
    check(
        &[
            frame(Opcode::Text, true, b""),
            frame(Opcode::Text, true, "gr\u{FC}n \u{1F600}".as_bytes()),
            frame(Opcode::Binary, true, &[0xFF; 200]),
            frame(Opcode::Ping, true, b"p"),
            frame(Opcode::Pong, true, &[7; 125]),
            frame(Opcode::Close, true, b""),
        ],
        &[
            text(""),
            text("gr\u{FC}n \u{1F600}"),
            binary(&[0xFF; 200]),
            Seen::Ping(b"p".to_vec()),
            Seen::Pong(vec![7; 125]),
            Seen::Close(None),
        ],
    );
}

#[test]
fn whole_frames_are_lent_from_the_input() {
    let mut bytes = [frame(Opcode::Text, true, b"abc"), frame(Opcode::Ping, true, b"x")].concat();
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new();
    let mut input = bytes.as_mut_slice();
    for _ in 0..2 {
        match decoder.next(&mut input, MAX) {
            Ok(Some(Message::Text(payload))) => assert!(range.contains(&payload.as_ptr())),
            Ok(Some(Message::Ping(payload))) => assert!(range.contains(&payload.as_ptr())),
            other => panic!("{other:?}"),
        }
        assert!(decoder.carry.is_none());
    }
}

#[test]
fn fragments_join_and_control_frames_pass_between_them() {
    check(
        &[
            frame(Opcode::Text, false, b"one "),
            frame(Opcode::Ping, true, b"now"),
            frame(Opcode::Continuation, false, b""),
            frame(Opcode::Continuation, false, b"two "),
            frame(Opcode::Pong, true, b""),
            frame(Opcode::Ping, true, b"again"),
            frame(Opcode::Continuation, true, b"three"),
            frame(Opcode::Binary, false, b""),
            frame(Opcode::Continuation, true, &[0xFF]),
            frame(Opcode::Binary, false, &[1, 2]),
            frame(Opcode::Continuation, true, b""),
            frame(Opcode::Text, false, b""),
            frame(Opcode::Continuation, true, b""),
            frame(Opcode::Text, false, b"left"),
            frame(Opcode::Close, true, b"\x03\xE8bye"),
        ],
        &[
            Seen::Ping(b"now".to_vec()),
            Seen::Pong(vec![]),
            Seen::Ping(b"again".to_vec()),
            text("one two three"),
            binary(&[0xFF]),
            binary(&[1, 2]),
            text(""),
            Seen::Close(Some((1000, "bye".to_owned()))),
        ],
    );
}

#[test]
fn a_ping_between_fragments_does_not_wait_for_the_message() {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    feed(&mut decoder, &frame(Opcode::Text, false, b"ab"), MAX, &mut seen).unwrap();
    assert_eq!((decoder.is_idle(), decoder.carried()), (false, 2));
    feed(&mut decoder, &frame(Opcode::Ping, true, b"!"), MAX, &mut seen).unwrap();
    assert_eq!(seen, [Seen::Ping(b"!".to_vec())]);
    feed(&mut decoder, &frame(Opcode::Continuation, true, b"c"), MAX, &mut seen).unwrap();
    assert_eq!(seen[1..], [text("abc")]);
    assert!(decoder.is_idle() && decoder.carried() == 0);
}

#[test]
fn frames_out_of_sequence_are_refused() {
    let start = || frame(Opcode::Text, false, b"a");
    let end = || frame(Opcode::Continuation, true, b"b");
    check_fault(&[end()], &[], ProtocolError::Continuation);
    check_fault(&[frame(Opcode::Continuation, false, b"")], &[], ProtocolError::Continuation);
    check_fault(&[start(), end(), end()], &[text("ab")], ProtocolError::Continuation);
    check_fault(&[start(), start()], &[], ProtocolError::Interleaved);
    let binary = frame(Opcode::Binary, true, b"b");
    check_fault(&[start(), binary], &[], ProtocolError::Interleaved);
}

#[test]
fn faults_of_headers_are_refused_also_inside_a_message() {
    use ProtocolError as E;
    let cases: &[(&[u8], ProtocolError)] = &[
        (&[0xC1, 0x80, 0, 0, 0, 0], E::ReservedBits),
        (&[0x83, 0x80, 0, 0, 0, 0], E::ReservedOpcode),
        (&[0x8F, 0x80, 0, 0, 0, 0], E::ReservedOpcode),
        (&[0x80, 0x01, b'a'], E::Unmasked),
        (&[0x09, 0x80, 0, 0, 0, 0], E::ControlFragmented),
        (&[0x89, 0xFE, 0, 126, 0, 0, 0, 0], E::ControlLength),
        (&[0x80, 0xFE, 0, 5, 0, 0, 0, 0], E::LongLength),
        (&[0x80, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], E::TooBig),
        (&[0x80, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0], E::TooBig),
    ];
    for (bytes, error) in cases {
        check_fault(&[frame(Opcode::Text, false, b"a"), bytes.to_vec()], &[], *error);
        let mut bytes = bytes.to_vec();
        // The same outside a message: a continuation becomes a text frame.
        bytes[0] |= u8::from(bytes[0] & 0x0F == 0);
        check_fault(&[frame(Opcode::Text, true, b"a"), bytes], &[text("a")], *error);
    }
}

#[test]
fn a_message_of_the_limit_passes_and_one_byte_more_is_refused_at_its_header() {
    let limit = vec![b'a'; MAX];
    let limit_text = Seen::Text("a".repeat(MAX));
    check(&[frame(Opcode::Text, true, &limit)], std::slice::from_ref(&limit_text));
    check(
        &[
            frame(Opcode::Text, false, &limit[..600]),
            frame(Opcode::Ping, true, &[0; 125]),
            frame(Opcode::Continuation, true, &limit[600..]),
            frame(Opcode::Text, true, b"the count starts again"),
        ],
        &[Seen::Ping(vec![0; 125]), limit_text, text("the count starts again")],
    );
    let header = [0x81, 0xFE, 0x03, 0xE9].to_vec();
    check_fault(&[header], &[], ProtocolError::TooBig);
    let more_header = [0x00, 0xFE, 0x01, 0x91].to_vec();
    check_fault(
        &[
            frame(Opcode::Text, false, &limit[..600]),
            frame(Opcode::Ping, true, b"does not reset the count"),
            more_header,
        ],
        &[Seen::Ping(b"does not reset the count".to_vec())],
        ProtocolError::TooBig,
    );
}

#[test]
fn endless_small_fragments_meet_the_limit_and_cost_their_bytes_alone() {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    feed(&mut decoder, &frame(Opcode::Binary, false, b""), MAX, &mut seen).unwrap();
    for fed in 1..=MAX {
        feed(&mut decoder, &frame(Opcode::Continuation, false, b"x"), MAX, &mut seen).unwrap();
        feed(&mut decoder, &frame(Opcode::Continuation, false, b""), MAX, &mut seen).unwrap();
        assert_eq!(decoder.carried(), fed);
    }
    let over = feed(&mut decoder, &frame(Opcode::Continuation, false, b"x"), MAX, &mut seen);
    assert_eq!((over, seen), (Err(ProtocolError::TooBig), vec![]));
}

#[test]
fn what_is_announced_is_not_reserved() {
    const LIMIT: usize = 1 << 30;
    let mut decoder = Decoder::new();
    let mut start = vec![0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0];
    start.extend_from_slice(&[1; 1000]);
    assert_eq!(decoder.next(&mut start.as_mut_slice(), LIMIT), Ok(None));
    let mut more = [1; 500];
    assert_eq!(decoder.next(&mut more.as_mut_slice(), LIMIT), Ok(None));
    assert_eq!(decoder.carried(), 1500);
    assert!(decoder.carry.unwrap().reserved() <= 2 * 1500);
}

#[test]
fn the_rest_of_a_frame_is_reserved_once_most_of_it_is_there() {
    let bytes = frame(Opcode::Binary, true, &[7; 1000]);
    let mut decoder = Decoder::new();
    let mut start = 0;
    // The header has 8 bytes. Twice what arrived, until that is the whole frame.
    for (end, reserved) in [(10, 4), (408, 800), (508, 800), (1_007, 1_000)] {
        let mut piece = bytes[start..end].to_vec();
        start = end;
        assert_eq!(decoder.next(&mut piece.as_mut_slice(), MAX), Ok(None));
        assert_eq!(decoder.carry.as_ref().unwrap().reserved(), reserved, "{end} bytes arrived");
    }
}

#[test]
fn text_longer_than_a_block_is_checked_over_its_edges() {
    const MAX: usize = 40_000;
    // Three bytes do not divide a block: an edge cuts a character.
    let good = "\u{20AC}".repeat(10_000);
    for bad in [None, Some(0), Some(8_191), Some(8_192), Some(16_384), Some(29_999)] {
        let mut payload = good.clone().into_bytes();
        let expected = match bad {
            Some(at) => {
                payload[at] = 0xFF;
                (vec![], Err(ProtocolError::Utf8))
            }
            None => (vec![text(&good)], Ok(())),
        };
        let bytes = frame(Opcode::Text, true, &payload);
        for cut in [0, 1, 3, 8, 9, 4_000, 8_192, 8_200, 8_201, 16_393, 30_007] {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(run([left, right], MAX), expected, "bad at {bad:?}, cut at {cut}");
        }
        assert_eq!(run(bytes.chunks(1_001), MAX), expected, "bad at {bad:?}");
    }
}

#[test]
fn text_is_checked_across_fragments_and_refused_at_the_first_bad_byte() {
    let good = "\u{3BA}\u{1F600}\u{20AC}z";
    for cut in 0..=good.len() {
        let (left, right) = good.as_bytes().split_at(cut);
        let fragments =
            [frame(Opcode::Text, false, left), frame(Opcode::Continuation, true, right)];
        check(&fragments, &[text(good)]);
        if !good.is_char_boundary(cut) {
            check_fault(&[frame(Opcode::Text, true, left)], &[], ProtocolError::Utf8);
            check_fault(
                &[frame(Opcode::Text, false, left), frame(Opcode::Continuation, true, b"")],
                &[],
                ProtocolError::Utf8,
            );
        }
    }
    check_fault(&[frame(Opcode::Text, false, b"a\xFF")], &[], ProtocolError::Utf8);
    check(
        &[frame(Opcode::Binary, false, b"\xFF"), frame(Opcode::Continuation, true, b"\xC0")],
        &[binary(&[0xFF, 0xC0])],
    );
}

#[test]
fn a_bad_byte_of_a_text_frame_is_an_error_when_it_arrives() {
    // A code point above U+10FFFF shows in its second byte, a surrogate too: Autobahn 6.4.
    for (payload, bad) in [
        (&b"\xCE\xBA\xE1\xBD\xB9\xF4\x90\x80\x80edited"[..], 6),
        (b"ab\xED\xA0\x80cd", 3),
        (b"\xC0\x80......", 0),
        (b"abc\x80...", 3),
        (b"\xE2\x82z...", 2),
    ] {
        let bytes = frame(Opcode::Text, true, payload);
        let before = bytes.len() - payload.len() + bad;
        assert_eq!(run(bytes[..before].chunks(1), MAX), (vec![], Ok(())));
        assert_eq!(run([&bytes[..before]], MAX), (vec![], Ok(())));
        let at = &bytes[..=before];
        assert_eq!(run(at.chunks(1), MAX), (vec![], Err(ProtocolError::Utf8)));
        assert_eq!(run([at], MAX), (vec![], Err(ProtocolError::Utf8)));
        check_fault(&[bytes], &[], ProtocolError::Utf8);
    }
}

#[test]
fn close_payloads_follow_the_rules() {
    let payload = |code: u16, reason: &[u8]| [&code.to_be_bytes(), reason].concat();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
        .into_iter()
        .chain([3000, 3999, 4000, 4999])
    {
        let bytes = payload(code, "gr\u{FC}n".as_bytes());
        let seen = Seen::Close(Some((code, "gr\u{FC}n".to_owned())));
        check(&[frame(Opcode::Close, true, &bytes)], &[seen]);
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let bytes = payload(code, b"");
        check_fault(&[frame(Opcode::Close, true, &bytes)], &[], ProtocolError::CloseCode);
    }
    check_fault(&[frame(Opcode::Close, true, b"\x03")], &[], ProtocolError::CloseLength);
    for reason in [&b"\xFF"[..], b"a\xC3", b"\xED\xA0\x80"] {
        let bytes = payload(1000, reason);
        check_fault(&[frame(Opcode::Close, true, &bytes)], &[], ProtocolError::CloseReason);
    }
    let longest = payload(1000, &[b'r'; 123]);
    let seen = Seen::Close(Some((1000, "r".repeat(123))));
    check(&[frame(Opcode::Close, true, &longest)], &[seen]);
}
