//! Which backend of flate2 compresses events: zlib-rs, which Weir builds on, beside miniz_oxide, at
//! the levels that a gateway would take. The size of what comes out stands in a case's name.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};
use weir::proto::ws::deflate::{Deflater, Inbound, Inflaters, Wish, negotiate};
use weir::proto::ws::frame::{Opcode, client_frame};
use weir::proto::ws::message::Decoder;

#[path = "shared/snapshot.rs"]
mod snapshot;

/// The frame's first bytes, of which the rival has none.
const HEADER: usize = 4;

/// The levels that are compared; beyond six nothing more comes of telemetry.
const LEVELS: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// Telemetry as JSON, of at least `len` bytes.
fn telemetry(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    let mut text = String::from("{\"host\":\"h1\",\"samples\":[");
    while text.len() < len {
        let (core, load) = (random.u8(..64), random.f64() * 100.0);
        let ts = 1_732_153_200_000_u64 + random.u64(..1000);
        let sample =
            format!("{{\"key\":\"cpu{core}\",\"ts\":{ts},\"load\":{load:.2},\"ok\":true}},");
        text.push_str(&sample);
    }
    text.pop();
    write!(text, "]}}").unwrap();
    text.into_bytes()
}

/// What miniz_oxide makes of a message, without the end of its flush.
fn rival(compressor: &mut CompressorOxide, bytes: &[u8], out: &mut [u8]) -> usize {
    compressor.reset();
    deflate(compressor, bytes, out, MZFlush::Sync).bytes_written - 4
}

fn rival_compressor(level: i32) -> CompressorOxide {
    CompressorOxide::new(create_comp_flags_from_zip_params(level, -15, 0))
}

fn deflates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate");
    let messages =
        [("", telemetry(1024)), ("", telemetry(65_536)), ("snapshot, ", snapshot::snapshot())];
    for (what, bytes) in messages {
        let len = bytes.len();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for level in LEVELS {
            let mut deflater = Deflater::new(u32::from(level), 0);
            let mut out = Vec::with_capacity(2 * len + 100);
            assert!(deflater.frame(Opcode::Text, &bytes, 15, &mut out));
            let name = format!("{what}zlib-rs, level {level}, {len} to {}", out.len() - HEADER);
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    deflater.frame(Opcode::Text, black_box(&bytes), 15, &mut out)
                });
            });
            let mut compressor = rival_compressor(i32::from(level));
            let mut room = vec![0; 2 * len + 100];
            let size = rival(&mut compressor, &bytes, &mut room);
            let name = format!("{what}miniz_oxide, level {level}, {len} to {size}");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| rival(&mut compressor, black_box(&bytes), &mut room));
            });
        }
    }
    group.finish();
}

fn inflates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inflate");
    for len in [128, 1024, 65_536] {
        let bytes = telemetry(len);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut body = vec![0; 2 * len + 100];
        let size = rival(&mut rival_compressor(6), &bytes, &mut body);
        body.truncate(size);
        let mut frame = Vec::new();
        client_frame(Opcode::Text, &body, [0; 4], &mut frame);
        frame[0] |= 0x40;
        // The whole way of a message: frame, inflate, UTF-8.
        for offer in ["permessage-deflate", "permessage-deflate; client_no_context_takeover"] {
            let agreed = negotiate([offer], Wish::default()).unwrap();
            let mut decoder = Decoder::inflating(Inbound::new(&agreed));
            let mut inflaters = Inflaters::default();
            let alone = if agreed.client_alone { "alone" } else { "together" };
            group.bench_function(BenchmarkId::new(format!("decoder, {alone}"), len), |bencher| {
                bencher.iter(|| {
                    let mut input = frame.as_mut_slice();
                    let message = decoder.next_with(&mut input, 1 << 20, &mut inflaters);
                    assert!(message.is_ok_and(|message| message.is_some()));
                    assert!(decoder.next_with(&mut input, 1 << 20, &mut inflaters).is_ok());
                });
            });
        }
        let mut state = InflateState::new_boxed(DataFormat::Raw);
        let mut out = vec![0; bytes.len() + 1];
        group.bench_function(BenchmarkId::new("miniz_oxide alone", len), |bencher| {
            bencher.iter(|| {
                state.reset(DataFormat::Raw);
                let done = inflate(&mut state, black_box(&body), &mut out, MZFlush::None);
                assert_eq!(done.bytes_written, bytes.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, deflates, inflates);
criterion_main!(benches);
