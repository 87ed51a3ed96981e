//! Random streams: what was compressed comes back in any cut, and nothing panics.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A payload that shrinks, somewhat, or one that does not.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"abc {}\"0"[..]), 0..MAX),
        prop::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..=MAX).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn offer() -> impl Strategy<Value = String> {
    (prop::option::of(9..=15_u8), any::<bool>()).prop_map(|(bits, alone)| {
        let bits = bits.map_or(String::new(), |bits| format!("; client_max_window_bits={bits}"));
        let alone = if alone { "; client_no_context_takeover" } else { "" };
        format!("permessage-deflate{bits}{alone}")
    })
}

fn stream(client: &mut Client, messages: &[(Vec<u8>, bool, usize)]) -> Vec<u8> {
    let one = |(payload, compressed, size): &(Vec<u8>, bool, usize)| {
        if *compressed {
            fragments(Opcode::Binary, &client.deflate(payload), *size)
        } else {
            frame(0x80, Opcode::Binary, payload)
        }
    };
    messages.iter().flat_map(one).collect()
}

fn messages() -> impl Strategy<Value = Vec<(Vec<u8>, bool, usize)>> {
    prop::collection::vec((payload(), any::<bool>(), 1..400_usize), 1..5)
}

proptest! {
    #[test]
    fn messages_round_trip_in_any_cut(
        offer in offer(),
        messages in messages(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let bytes = stream(&mut Client::new(&offer), &messages);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        let pieces = ends.into_iter().map(|end| &bytes[std::mem::replace(&mut start, end)..end]);
        let decoder = Client::new(&offer).decoder();
        let (seen, end) = run(decoder, pieces, MAX);
        prop_assert_eq!(end, Ok(()));
        let sent: Vec<_> = messages.into_iter().map(|one| (Opcode::Binary, one.0)).collect();
        prop_assert_eq!(seen, sent);
    }

    #[test]
    fn damaged_streams_never_panic_and_mean_the_same_in_any_cut(
        messages in prop::collection::vec((payload(), Just(true), 1..400_usize), 1..3),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        text: bool,
        max in 0..MAX,
    ) {
        let mut bytes = stream(&mut plain_offer(), &messages);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if text {
            bytes[0] = bytes[0] & 0xF0 | Opcode::Text as u8;
        }
        // Every cut is too many for a kilobyte and two hundred cases.
        let whole = run(plain_offer().decoder(), [bytes.as_slice()], max);
        for size in [1, 2, 3, 50, 333] {
            let outcome = run(plain_offer().decoder(), bytes.chunks(size), max);
            prop_assert_eq!(&outcome, &whole, "pieces of {}", size);
            let outcome = run_within(size, plain_offer().decoder(), bytes.chunks(100), max);
            prop_assert_eq!(&outcome, &whole, "{} bytes at once", size);
        }
    }

    #[test]
    fn random_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = deflated(Opcode::Binary, &payload);
        let whole = run(plain_offer().decoder(), [bytes.as_slice()], MAX);
        prop_assert!(whole.0.iter().all(|(_, message)| message.len() <= MAX));
        prop_assert_eq!(run(plain_offer().decoder(), bytes.chunks(1), MAX), whole);
    }

    #[test]
    fn large_messages_are_inflated_as_they_arrive(
        seed in any::<u64>(),
        len in 20_000..200_000_usize,
        size in 500..70_000_usize,
        piece in 100..70_000_usize,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let payload: Vec<u8> = (0..len).map(|_| random.u8(b'a'..=b'p')).collect();
        let bytes = fragments(Opcode::Text, &plain_offer().deflate(&payload), size);
        let outcome = run(plain_offer().decoder(), bytes.chunks(piece), len);
        prop_assert_eq!(&outcome, &(vec![(Opcode::Text, payload)], Ok(())));
        let within = run_within(size, plain_offer().decoder(), bytes.chunks(piece), len);
        prop_assert_eq!(&within, &outcome);
        let (seen, end) = run(plain_offer().decoder(), bytes.chunks(piece), len - 1);
        prop_assert_eq!((seen.len(), end), (0, Err(ProtocolError::TooBig)));
    }

    #[test]
    fn one_deflater_serves_message_after_message(seed: u64, level in 1..=9_u32) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut deflater = Deflater::new(level, 0);
        // What does not shrink, and grows most, comes before what does.
        for lowest in [144, 144, b'a', 0, 144] {
            let len = random.usize(..80_000) >> random.u8(..8);
            let highest = if lowest == b'a' { b'd' } else { 255 };
            let payload: Vec<u8> = (0..len).map(|_| random.u8(lowest..=highest)).collect();
            let mut out = Vec::new();
            if deflater.frame(Opcode::Binary, &payload, 15, &mut out) {
                prop_assert!(inflate_ours(&out, 15) == Some(payload));
            } else {
                prop_assert!(out.ends_with(&payload));
            }
        }
    }

    #[test]
    fn what_we_send_is_what_they_read(payload in payload(), level in 0..=9_u32) {
        let frame = deflater::compress(Opcode::Binary, &payload, level);
        if frame[0] & RSV1 != 0 {
            prop_assert!(frame.len() <= payload.len() - payload.len() / 8 + 10);
            prop_assert_eq!(inflate_ours(&frame, 15), Some(payload));
        } else {
            prop_assert!(frame.ends_with(&payload));
        }
    }
}
