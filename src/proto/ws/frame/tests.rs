//! Headers both ways: round trips, each fault, and every place to cut.

use super::*;

const MAX: usize = 1 << 40;
const LENGTHS: [usize; 8] = [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 33];

type Parsed = Result<Option<(Header, usize)>, ProtocolError>;
type Parse = fn(&[u8], usize) -> Parsed;

/// Parses every prefix of `input`: "more" up to a point, and from there on one answer.
fn each_prefix(parse: Parse, input: &[u8], max: usize) -> Parsed {
    let whole = parse(input, max);
    let mut answered = false;
    for end in 0..=input.len() {
        let prefix = parse(&input[..end], max);
        answered |= prefix != Ok(None);
        assert_eq!(prefix, if answered { whole } else { Ok(None) }, "{input:x?} cut at {end}");
    }
    whole
}

#[test]
fn server_headers_round_trip_at_every_length_form() {
    for len in LENGTHS {
        for (opcode, fin) in
            [(Opcode::Text, true), (Opcode::Binary, false), (Opcode::Continuation, true)]
        {
            let mut bytes = Vec::new();
            header(opcode, fin, len, &mut bytes);
            let expected = Header { fin, opcode, deflated: false, mask: [0; 4], payload_len: len };
            assert_eq!(each_prefix(parse_server, &bytes, MAX), Ok(Some((expected, bytes.len()))));
            assert_eq!(parse_client(&bytes, MAX), Err(ProtocolError::Unmasked));
        }
    }
}

#[test]
fn client_headers_round_trip_at_every_length_form() {
    for len in LENGTHS {
        let mut bytes = Vec::new();
        push_header(0x82, 0x80, len, &mut bytes);
        bytes.extend_from_slice(&[9, 8, 7, 6]);
        let expected = Header {
            fin: true,
            opcode: Opcode::Binary,
            deflated: false,
            mask: [9, 8, 7, 6],
            payload_len: len,
        };
        assert_eq!(each_prefix(parse_client, &bytes, MAX), Ok(Some((expected, bytes.len()))));
        assert_eq!(parse_server(&bytes, MAX), Err(ProtocolError::Masked));
    }
}

#[test]
fn each_fault_of_a_header_has_its_error() {
    use ProtocolError as E;
    let cases: &[(&[u8], ProtocolError)] = &[
        (&[0xC1, 0x80], E::ReservedBits),
        (&[0xA1, 0x80], E::ReservedBits),
        (&[0x91, 0x80], E::ReservedBits),
        (&[0x83, 0x80], E::ReservedOpcode),
        (&[0x87, 0x80], E::ReservedOpcode),
        (&[0x8B, 0x80], E::ReservedOpcode),
        (&[0x8F, 0x80], E::ReservedOpcode),
        (&[0x81, 0x00], E::Unmasked),
        (&[0x09, 0x80], E::ControlFragmented),
        (&[0x89, 0xFE], E::ControlLength),
        (&[0x88, 0xFF], E::ControlLength),
        (&[0x8A, 0xFE, 0, 126], E::ControlLength),
        (&[0x81, 0xFE, 0, 125], E::LongLength),
        (&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], E::LongLength),
        (&[0x81, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0], E::TooBig),
        (&[0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], E::TooBig),
        (&[0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], E::TooBig),
    ];
    for (input, error) in cases {
        let mut input = input.to_vec();
        assert_eq!(parse_client(&input, MAX), Err(*error), "the least that shows it");
        input.extend_from_slice(&[0; 16]);
        assert_eq!(each_prefix(parse_client, &input, MAX), Err(*error));
    }
    let all_ones = [0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(parse_client(&all_ones, usize::MAX), Err(E::TooBig), "top bit without a limit");
}

#[test]
fn the_limit_is_for_data_frames_alone() {
    let mut data = Vec::new();
    client_frame(Opcode::Text, &[b'a'; 11], [1; 4], &mut data);
    assert_eq!(parse_client(&data, 10), Err(ProtocolError::TooBig));
    assert!(parse_client(&data, 11).is_ok());
    let mut ping = Vec::new();
    client_frame(Opcode::Ping, &[b'a'; 11], [1; 4], &mut ping);
    assert!(matches!(parse_client(&ping, 0), Ok(Some(_))));
}

#[test]
fn a_text_frame_allocates_exactly_its_size() {
    for len in [0, 125, 126, 65_535, 65_536] {
        let frame = text(&vec![b'a'; len]);
        assert_eq!(frame.capacity(), frame.len());
        let (header, size) = parse_server(&frame, MAX).unwrap().unwrap();
        assert_eq!((header.payload_len, size + len), (len, frame.len()));
    }
}

#[test]
fn a_close_reason_is_cut_between_characters() {
    let mut out = Vec::new();
    close(1000, &"\u{20AC}".repeat(50), &mut out);
    let (header, size) = parse_server(&out, 0).unwrap().unwrap();
    assert_eq!(header.payload_len, 2 + 123);
    assert_eq!(out[size..size + 2], [0x03, 0xE8]);
    let mut out = Vec::new();
    close(4000, &format!("a{}", "\u{20AC}".repeat(50)), &mut out);
    assert_eq!(out[1], 2 + 121, "41 would not fit");
    assert_eq!(std::str::from_utf8(&out[4..]).unwrap().chars().count(), 41);
}

#[test]
fn a_client_frame_is_masked() {
    let mut out = vec![0xAA];
    client_frame(Opcode::Text, b"Hello", [0x37, 0xFA, 0x21, 0x3D], &mut out);
    let rfc = [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
    assert_eq!(out[1..], rfc, "RFC 6455, section 5.7");
}
