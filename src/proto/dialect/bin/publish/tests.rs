//! The reader of publishes: every flag, every fault, every cut.

use proptest::prelude::*;

use super::*;

fn fault(message: &[u8]) -> (Option<u64>, ErrorCode) {
    let error = parse_publish(message).unwrap_err();
    (error.id, error.code)
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let by_name = Publish {
        id: Some(300),
        place: Place::Name("room:1"),
        key: Some("k"),
        echo: false,
        json: true,
        gzip: false,
        payload: b"[1]",
    };
    let mut out = Vec::new();
    encode_publish(&by_name, &mut out);
    let head = [&[0x02, 0x1E, 0, 6][..], b"room:1", &[0xAC, 0x02, 1], b"k"].concat();
    assert_eq!(out, [&head[..], b"[1]"].concat());
    assert_eq!(parse_publish(&out), Ok(by_name));
    let by_alias = parse_publish(&[0x02, 0x00, 0x80, 0x01, 0xFF]).unwrap();
    assert_eq!((by_alias.place, by_alias.payload), (Place::Alias(Alias(128)), &[0xFF][..]));
    assert!(by_alias.echo && by_alias.id.is_none() && by_alias.key.is_none());
}

#[test]
fn flags_that_nobody_knows_are_refused() {
    for flags in 0..=255_u8 {
        let message = [0x02, flags, 1, 1, 1, b'k'];
        assert_eq!(parse_publish(&message).is_ok(), flags < 0x20, "{flags:#x}");
        if flags >= 0x20 {
            assert_eq!(fault(&message), (None, ErrorCode::BadRequest));
        }
    }
}

#[test]
fn each_fault_has_its_answer() {
    let none = (None, ErrorCode::BadRequest);
    let long_key = [&[0x02, ID | KEY, 1, 7, 0x80, 0x02][..], &[b'k'; 256]].concat();
    let long_name = [&[0x02, 0, 0, 0x80, 0x02][..], &[b'n'; 256]].concat();
    for (message, expected) in [
        (&[][..], none),
        (&[0x02], none),
        (&[0x01, 0, 1], none),
        (&[0x03, 0, 1], none),
        (&[0x02, 0], none),
        (&[0x02, 0, 0x80], none),
        (&[&[0x02, 0][..], &[0x80; 10], &[0]].concat(), none),
        (&[&[0x02, 0][..], &[0xFF; 9], &[2]].concat(), none),
        (&[0x02, 0, 0, 5, b'a'], none),
        (&[0x02, 0, 0, 1, 0xFF], none),
        (&[&[0x02, 0, 0][..], &[0xFF; 9], &[1]].concat(), none),
        (&long_name, none),
        (&[0x02, ID, 1, 0], none),
        (&[0x02, ID, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10], none),
        (&[0x02, ID | KEY, 1, 7], (Some(7), ErrorCode::BadRequest)),
        (&[0x02, ID | KEY, 1, 7, 2, b'k'], (Some(7), ErrorCode::BadRequest)),
        (&[0x02, ID | KEY, 1, 7, 1, 0xC3], (Some(7), ErrorCode::BadRequest)),
        (&long_key, (Some(7), ErrorCode::BadRequest)),
    ] {
        assert_eq!(fault(message), expected, "{message:x?}");
    }
}

#[test]
fn payloads_are_opened_within_their_limit() {
    let stream = gzip::compress(b"{\"a\":1}", 6);
    let open = |json, gzip, payload: &[u8], max| {
        let (id, place) = (Some(9), Place::Alias(Alias(1)));
        let publish = Publish { id, place, key: None, echo: true, json, gzip, payload };
        publish.open(max).map_err(|error| (error.id, error.code))
    };
    let json = Payload::Json((*b"{\"a\":1}").into());
    let opaque = Payload::Opaque((*b"{\"a\":1}").into());
    let bad = Err((Some(9), ErrorCode::BadRequest));
    assert_eq!(open(true, true, &stream, 7), Ok(json.clone()));
    assert_eq!(open(false, true, &stream, 7), Ok(opaque.clone()));
    assert_eq!(open(true, false, b"{\"a\":1}", 7), Ok(json));
    assert_eq!(open(false, false, b"{\"a\":1}", 7), Ok(opaque));
    assert_eq!(open(true, true, &stream, 6), Err((Some(9), ErrorCode::TooLarge)));
    assert_eq!(open(true, true, &stream[..20], 7), bad);
    assert_eq!(open(true, true, &[&stream[..], b"x"].concat(), 7), bad);
    assert_eq!(open(true, false, b"{\"a\":", 7), bad);
    assert_eq!(open(true, false, b"", 7), bad);
    assert_eq!(open(true, true, &gzip::compress(b"\xFF", 6), 7), bad);
}

proptest! {
    #[test]
    fn publishes_round_trip_and_are_refused_when_their_head_is_cut(
        name in prop::option::of(".{0,60}"),
        alias in 1..=u64::MAX,
        id in prop::option::of(1..=ID_MAX),
        key in prop::option::of(".{0,60}"),
        flags in 0..8_u8,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let publish = Publish {
            id,
            place: name.as_deref().map_or(Place::Alias(Alias(alias)), Place::Name),
            key: key.as_deref(),
            echo: flags & 1 != 0,
            json: flags & 2 != 0,
            gzip: flags & 4 != 0,
            payload: &payload,
        };
        let mut out = Vec::new();
        encode_publish(&publish, &mut out);
        prop_assert_eq!(parse_publish(&out), Ok(publish));
        for end in 0..out.len() - payload.len() {
            let error = parse_publish(&out[..end]).unwrap_err();
            prop_assert_eq!(error.code, ErrorCode::BadRequest, "cut at {}", end);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        flags in 0..0x20_u8,
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let message = [&[KIND, flags][..], &bytes].concat();
        if let Ok(publish) = parse_publish(&message) {
            let opened = publish.open(100);
            prop_assert!(opened.is_err() || opened.is_ok_and(|payload| payload.len() <= 100));
        }
    }
}
