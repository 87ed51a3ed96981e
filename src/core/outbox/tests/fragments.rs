//! Large events go out in fragments: pings and pongs pass between them, messages do not.

use proptest::prelude::*;

use super::*;

/// What came over the wire, frame by frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// A fragment, and whether it is the last of its message.
    Fragment(bool),
    /// A message in one frame.
    Message,
    Ping(u64),
}

/// The frames of a stream, in order.
fn frames(mut bytes: &[u8]) -> Vec<Wire> {
    let mut frames = Vec::new();
    while let Some((header, size)) = frame::parse_server(bytes, 1 << 20).unwrap() {
        let payload = &bytes[size..size + header.payload_len];
        frames.push(match header.opcode {
            Opcode::Ping => Wire::Ping(std::str::from_utf8(payload).unwrap().parse().unwrap()),
            Opcode::Text if header.fin => Wire::Message,
            Opcode::Text | Opcode::Continuation => Wire::Fragment(header.fin),
            Opcode::Binary | Opcode::Close | Opcode::Pong => panic!("nobody sends {header:?}"),
        });
        bytes = &bytes[size + header.payload_len..];
    }
    assert_eq!(bytes, b"", "half a frame");
    frames
}

fn answer(outbox: &mut Outbox) {
    frame::push_text(br#"{"type":"pong"}"#, outbox.control());
}

fn ping(outbox: &mut Outbox, number: u64) {
    outbox.push_control(Opcode::Ping, number.to_string().as_bytes());
}

#[test]
fn a_ping_passes_between_fragments_and_an_answer_does_not() {
    let mut outbox = Outbox::default();
    outbox.push(large(1, 1, 1_000), ROOMY).unwrap();
    let mut sink = Sink::default();
    // Some of its second fragment.
    let mut wire = write(&mut outbox, 150, &mut sink);
    answer(&mut outbox);
    ping(&mut outbox, 1);
    answer(&mut outbox);
    ping(&mut outbox, 2);
    while !outbox.is_empty() {
        wire.extend(write(&mut outbox, 1, &mut sink));
    }
    let frames = frames(&wire);
    let at = |wanted| frames.iter().position(|frame| *frame == wanted);
    let pings = (at(Wire::Ping(1)).unwrap(), at(Wire::Ping(2)).unwrap());
    assert_eq!(pings.1, pings.0 + 1, "in their order: {frames:?}");
    assert_eq!(pings.0, 2, "right behind the fragment on its way: {frames:?}");
    let end = at(Wire::Fragment(true)).unwrap();
    assert!(end > 6, "{frames:?}");
    assert_eq!(frames[end + 1..], [Wire::Message; 2], "{frames:?}");
    assert_eq!(sink.0, 1);
}

#[test]
fn many_subscribers_share_what_a_large_event_is_made_of() {
    let slice = large(1, 1, 100_000);
    let mut outboxes: Vec<Outbox> = (0..100).map(|_| Outbox::default()).collect();
    let mut bodies = BTreeSet::new();
    for outbox in &mut outboxes {
        outbox.push(slice.clone(), ROOMY).unwrap();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.gather(|| 0, &mut slices);
        assert_eq!(used, 3);
        bodies.extend(slices[..used].iter().map(|slice| slice.as_ptr().addr()));
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        assert_eq!(outbox.data_bytes(), bytes);
        assert_eq!(outbox.own_bytes(), 0);
    }
    assert_eq!(bodies.len(), 3, "pointed to, and not copied");
}

#[derive(Debug, Clone)]
enum Op {
    Answer,
    Event,
    Large(usize),
    Ping,
    Write(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Answer),
        2 => Just(Op::Event),
        2 => (100_usize..2_000).prop_map(Op::Large),
        3 => Just(Op::Ping),
        8 => (1_usize..300).prop_map(Op::Write),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_is_queued_when_the_stream_is_legal_and_whole(
        ops in prop::collection::vec(op(), 1..60),
        room in 1_usize..400,
    ) {
        let (mut outbox, mut sink, mut wire) = (Outbox::default(), Sink::default(), Vec::new());
        let (mut answers, mut pings, mut offset) = (0, 0, 0);
        // Where in the stream a ping was queued while an event was on its way.
        let mut passing = Vec::new();
        for op in ops {
            match op {
                Op::Answer => {
                    answer(&mut outbox);
                    answers += 1;
                }
                Op::Event => {
                    offset += 1;
                    outbox.push(slice(1, offset..offset + 1, 20), ROOMY).unwrap();
                }
                Op::Large(size) => {
                    offset += 1;
                    outbox.push(large(1, offset, size), ROOMY).unwrap();
                }
                Op::Ping => {
                    ping(&mut outbox, pings);
                    passing.push((pings, wire.len()));
                    pings += 1;
                }
                Op::Write(room) => wire.extend(write(&mut outbox, room, &mut sink)),
            }
        }
        while !outbox.is_empty() {
            wire.extend(write(&mut outbox, room, &mut sink));
        }
        let frames = frames(&wire);
        let count = |wanted: fn(&Wire) -> bool| frames.iter().filter(|f| wanted(f)).count();
        let events = count(|f| matches!(f, Wire::Message | Wire::Fragment(true))) - answers;
        prop_assert_eq!((events as u64, sink.0), (offset, offset));
        let read: Vec<u64> = frames.iter().filter_map(|f| match f {
            Wire::Ping(number) => Some(*number),
            Wire::Fragment(_) | Wire::Message => None,
        }).collect();
        prop_assert_eq!(read, (0..pings).collect::<Vec<_>>(), "each ping once, in order");
        // Joined, and no message inside of another: the reader panics at that.
        let messages: Vec<_> = frames.iter().filter(|f| !matches!(f, Wire::Ping(_))).collect();
        let mut within = false;
        for frame in messages {
            prop_assert!(!within || matches!(frame, Wire::Fragment(_)), "{:?}", frames);
            within = *frame == Wire::Fragment(false);
        }
        // Behind a ping no more than one fragment goes before it, and what passed with it.
        let mut at = 0;
        let mut starts = Vec::new();
        for frame in &frames {
            starts.push((at, *frame));
            at += frame::unmasked_len(&wire[at..]);
        }
        for (number, queued) in passing {
            let place = starts.iter().position(|(_, f)| *f == Wire::Ping(number)).unwrap();
            let begun = starts[..place].iter().filter(|(start, f)| {
                *start >= queued && matches!(f, Wire::Fragment(_))
            });
            prop_assert_eq!(begun.count(), 0, "ping {} at {}: {:?}", number, queued, starts);
        }
    }
}
