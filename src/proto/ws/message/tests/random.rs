//! Random streams: what was sent comes back in any cut, and nothing panics.

use proptest::prelude::*;

use super::*;

/// One message as sent: its kind, its fragments, and the pings between them.
#[derive(Debug, Clone)]
struct Sent {
    is_text: bool,
    fragments: Vec<Vec<u8>>,
    ping: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (any::<bool>(), ".{0,80}", prop::collection::vec(any::<u8>(), 0..300), cuts, any::<bool>())
        .prop_map(|(is_text, text, bytes, cuts, ping)| {
            let payload = if is_text { text.into_bytes() } else { bytes };
            Sent { is_text, fragments: cut(&payload, &cuts), ping }
        })
}

fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut ends = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect::<Vec<_>>();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| bytes[std::mem::replace(&mut start, end)..end].to_vec()).collect()
}

fn write(message: &Sent, mask: [u8; 4], out: &mut Vec<u8>, expected: &mut Vec<Seen>) {
    let first = if message.is_text { Opcode::Text } else { Opcode::Binary };
    for (i, fragment) in message.fragments.iter().enumerate() {
        if message.ping {
            client_frame(Opcode::Ping, b"between", mask, out);
            expected.push(Seen::Ping(b"between".to_vec()));
        }
        let start = out.len();
        client_frame(if i == 0 { first } else { Opcode::Continuation }, fragment, mask, out);
        if i + 1 < message.fragments.len() {
            out[start] &= 0x7F;
        }
    }
    let payload = message.fragments.concat();
    expected.push(if message.is_text {
        Seen::Text(String::from_utf8(payload).unwrap())
    } else {
        Seen::Binary(payload)
    });
}

proptest! {
    #[test]
    fn messages_round_trip_in_any_cut(
        messages in prop::collection::vec(sent(), 0..6),
        mask: [u8; 4],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for message in &messages {
            write(message, mask, &mut bytes, &mut expected);
        }
        let pieces = cut(&bytes, &cuts);
        prop_assert_eq!(run(pieces.iter().map(Vec::as_slice), MAX), (expected, Ok(())));
    }

    #[test]
    fn random_bytes_never_panic_and_mean_the_same_in_any_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        max in 0..MAX,
    ) {
        let _outcome = each_cut(&bytes, max);
    }

    #[test]
    fn damaged_streams_never_panic_and_mean_the_same_in_any_cut(
        messages in prop::collection::vec(sent(), 1..3),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            write(message, MASK, &mut bytes, &mut Vec::new());
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _outcome = each_cut(&bytes, MAX);
    }

    #[test]
    fn text_fails_at_the_byte_where_no_text_can_follow(
        payload in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(0xE2), Just(0x82), Just(0xF0), Just(0x9F), Just(b'a')],
            1..12,
        ),
    ) {
        let bytes = frame(Opcode::Text, true, &payload);
        let header = bytes.len() - payload.len();
        for end in 0..payload.len() {
            let prefix = std::str::from_utf8(&payload[..end]);
            let hopeless = prefix.is_err_and(|error| error.error_len().is_some());
            let expected = if hopeless { Err(ProtocolError::Utf8) } else { Ok(()) };
            let (_, outcome) = run([&bytes[..header + end]], MAX);
            prop_assert_eq!(outcome, expected);
            let (_, outcome) = run(bytes[..header + end].chunks(1), MAX);
            prop_assert_eq!(outcome, expected);
        }
        let expected = std::str::from_utf8(&payload).map(drop).map_err(|_| ProtocolError::Utf8);
        prop_assert_eq!(each_cut(&bytes, MAX).1, expected);
    }
}
