//! The RFC 6455 codec: decoding whole masked frames, and unmasking beside `memcpy` and
//! fastwebsockets.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use weir::proto::ws::frame::{Opcode, client_frame};
use weir::proto::ws::mask::unmask;
use weir::proto::ws::message::{Decoder, Message};

const SIZES: [usize; 2] = [128, 65_536];

/// Keeps ASCII text ASCII, so that a frame unmasked in place is a good frame again and the loop
/// needs no copy.
const MASK: [u8; 4] = [0x01, 0x02, 0x03, 0x04];

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for size in SIZES {
        let mut frame = Vec::new();
        client_frame(Opcode::Text, &vec![b'a'; size], MASK, &mut frame);
        let mut decoder = Decoder::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("whole", size), |b| {
            b.iter(|| {
                let mut input = black_box(frame.as_mut_slice());
                match decoder.next(&mut input, 1 << 20) {
                    Ok(Some(Message::Text(text))) => text.len(),
                    other => panic!("not the text: {other:?}"),
                }
            });
        });
        group.bench_function(BenchmarkId::new("halves", size), |b| {
            b.iter(|| {
                let (left, right) = frame.split_at_mut(size / 2);
                let (mut left, mut right) = (black_box(left), black_box(right));
                assert_eq!(decoder.next(&mut left, 1 << 20), Ok(None));
                let len = match decoder.next(&mut right, 1 << 20) {
                    Ok(Some(Message::Text(text))) => text.len(),
                    other => panic!("not the text: {other:?}"),
                };
                assert_eq!(decoder.next(&mut right, 1 << 20), Ok(None));
                len
            });
        });
    }
    group.finish();
}

fn unmasking(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for size in SIZES {
        let source = vec![b'a'; size];
        let mut bytes = source.clone();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("weir", size), |b| {
            b.iter(|| unmask(black_box(&mut bytes), black_box(MASK)));
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |b| {
            b.iter(|| fastwebsockets::unmask(black_box(&mut bytes), black_box(MASK)));
        });
        group.bench_function(BenchmarkId::new("memcpy", size), |b| {
            b.iter(|| black_box(&mut bytes).copy_from_slice(black_box(&source)));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    unmasking(&mut criterion);
    criterion.final_summary();
}
