//! The RFC 6455 codec beside other libraries': masked frames decoded from a socket, frames encoded,
//! payloads unmasked.
//!
//! The socket is memory: a read copies what there is room for, as a system call does, and never
//! waits. Every decoder reads as it does in its own server, with a buffer of its own size.

use std::future::poll_fn;
use std::hint::black_box;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use criterion::{BenchmarkId, Criterion, Throughput};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use futures_core::Stream as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_websockets::{ServerBuilder, WebSocketStream};
use weir::proto::ws::frame::{Opcode, client_frame, push_text};
use weir::proto::ws::mask::{push_unmasked, unmask};
use weir::proto::ws::message::{Decoder, Message};

/// As the `weir` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Payloads, from a ping's to that of a snapshot.
const SIZES: [usize; 5] = [16, 128, 1_024, 16_384, 65_536];

/// Payloads at which nothing but the masking counts.
const UNMASK_SIZES: [usize; 3] = [128, 1_024, 65_536];

/// Keeps ASCII text ASCII, so that a frame unmasked in place is a good frame again.
const MASK: [u8; 4] = [0x01, 0x02, 0x03, 0x04];

/// Messages of one round, so that entering it costs next to nothing.
const ROUND: usize = 64;

/// What the peer repeats: about this many bytes of whole frames, which a cache holds.
const STREAM_BYTES: usize = 256 * 1024;

/// What each decoder gets of a read where all get the same.
const READ_BYTES: usize = 4 * 1024;

/// Bytes that a shard reads at once.
const SCRATCH_BYTES: usize = 64 * 1024;

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A socket whose peer repeats itself without end, and takes everything.
struct Endless {
    bytes: Vec<u8>,
    at: usize,
    /// The most that one read gives.
    most: usize,
}

impl Endless {
    /// A peer that sends masked texts of `size` bytes.
    fn new(size: usize) -> Self {
        let mut bytes = Vec::new();
        while bytes.len() < STREAM_BYTES {
            client_frame(Opcode::Text, &vec![b'a'; size], MASK, &mut bytes);
        }
        Self { bytes, at: 0, most: usize::MAX }
    }

    /// Copies what comes next, at most `room` bytes and never none.
    fn read(&mut self, room: usize, put: impl FnOnce(&[u8])) -> usize {
        let rest = &self.bytes[self.at..];
        let piece = &rest[..rest.len().min(room).min(self.most)];
        put(piece);
        let len = piece.len();
        self.at = (self.at + len) % self.bytes.len();
        len
    }
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.read(buf.remaining(), |piece| buf.put_slice(piece));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("memory is always ready"),
    }
}

/// Our decoder over a shard's scratch buffer.
struct Weir {
    socket: Endless,
    scratch: Vec<u8>,
    /// What of the scratch was read and not decoded.
    at: usize,
    end: usize,
    decoder: Decoder,
}

impl Weir {
    fn new(socket: Endless) -> Self {
        let scratch = vec![0; SCRATCH_BYTES];
        Self { socket, scratch, at: 0, end: 0, decoder: Decoder::new() }
    }

    /// Decodes [`ROUND`] messages. Returns the length of all.
    fn round(&mut self) -> usize {
        let (mut left, mut bytes) = (ROUND, 0);
        loop {
            let mut input = &mut self.scratch[self.at..self.end];
            while left > 0 {
                match self.decoder.next(&mut input, MESSAGE_BYTES_MAX) {
                    Ok(Some(Message::Text(text))) => bytes += black_box(text).len(),
                    Ok(None) => break,
                    other => panic!("not a text: {other:?}"),
                }
                left -= 1;
            }
            self.at = self.end - input.len();
            if left == 0 {
                return bytes;
            }
            let scratch = &mut self.scratch;
            let put = |piece: &[u8]| scratch[..piece.len()].copy_from_slice(piece);
            (self.at, self.end) = (0, self.socket.read(SCRATCH_BYTES, put));
        }
    }
}

/// As [`Weir::round`], by fastwebsockets: single frames, which it would still have to join.
async fn fast_round(socket: &mut WebSocket<Endless>) -> usize {
    let mut bytes = 0;
    for _ in 0..ROUND {
        match socket.read_frame().await {
            Ok(Frame { opcode: OpCode::Text, payload, .. }) => bytes += black_box(payload).len(),
            Ok(frame) => panic!("not a text: {:?}", frame.opcode),
            Err(error) => panic!("not a frame: {error}"),
        }
    }
    bytes
}

/// As [`Weir::round`], by tokio-websockets.
async fn tokio_round(socket: &mut WebSocketStream<Endless>) -> usize {
    let mut bytes = 0;
    for _ in 0..ROUND {
        match poll_fn(|cx| Pin::new(&mut *socket).poll_next(cx)).await {
            Some(Ok(message)) => bytes += black_box(message.as_text()).map_or(0, str::len),
            other => panic!("not a message: {other:?}"),
        }
    }
    bytes
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for size in SIZES {
        let expected = ROUND * size;
        group.throughput(Throughput::Bytes(expected as u64));
        // As much as each asks for; and the same for all.
        for (most, what) in [(usize::MAX, ""), (READ_BYTES, ", 4 KiB a read")] {
            let socket = || Endless { most, ..Endless::new(size) };
            let mut weir = Weir::new(socket());
            group.bench_function(BenchmarkId::new(format!("weir{what}"), size), |b| {
                b.iter(|| assert_eq!(weir.round(), expected));
            });
            let mut fast = WebSocket::after_handshake(socket(), Role::Server);
            group.bench_function(BenchmarkId::new(format!("fastwebsockets{what}"), size), |b| {
                b.iter(|| assert_eq!(at_once(fast_round(&mut fast)), expected));
            });
            let mut tokio = ServerBuilder::new().serve(socket());
            group.bench_function(BenchmarkId::new(format!("tokio-websockets{what}"), size), |b| {
                b.iter(|| assert_eq!(at_once(tokio_round(&mut tokio)), expected));
            });
        }
    }
    group.finish();
}

/// What the way a frame arrives costs: nobody else's decoder takes bytes without a socket.
fn decode_pieces(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode pieces");
    for size in SIZES {
        let mut frame = Vec::new();
        client_frame(Opcode::Text, &vec![b'a'; size], MASK, &mut frame);
        let mut decoder = Decoder::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("whole", size), |b| {
            b.iter(|| {
                let mut input = black_box(frame.as_mut_slice());
                match decoder.next(&mut input, MESSAGE_BYTES_MAX) {
                    Ok(Some(Message::Text(text))) => text.len(),
                    other => panic!("not the text: {other:?}"),
                }
            });
        });
        group.bench_function(BenchmarkId::new("halves", size), |b| {
            b.iter(|| {
                let (left, right) = frame.split_at_mut(size / 2);
                let (mut left, mut right) = (black_box(left), black_box(right));
                assert_eq!(decoder.next(&mut left, MESSAGE_BYTES_MAX), Ok(None));
                let len = match decoder.next(&mut right, MESSAGE_BYTES_MAX) {
                    Ok(Some(Message::Text(text))) => text.len(),
                    other => panic!("not the text: {other:?}"),
                };
                assert_eq!(decoder.next(&mut right, MESSAGE_BYTES_MAX), Ok(None));
                len
            });
        });
    }
    group.finish();
}

/// A server's text frame into a buffer that is used again.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in SIZES {
        let text = vec![b'a'; size];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        push_text(&text, &mut ours);
        let frame = Frame::text(Payload::Borrowed(&text)).write(&mut theirs).to_vec();
        assert_eq!(ours, frame, "the same bytes");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("weir", size), |b| {
            b.iter(|| {
                ours.clear();
                push_text(black_box(&text), &mut ours);
                black_box(ours.as_slice()).len()
            });
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |b| {
            b.iter(|| {
                let mut frame = Frame::text(Payload::Borrowed(black_box(&text)));
                black_box(frame.write(&mut theirs)).len()
            });
        });
        let mut copy = vec![0; size];
        group.bench_function(BenchmarkId::new("memcpy", size), |b| {
            b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&text)));
        });
    }
    group.finish();
}

fn unmasking(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for size in UNMASK_SIZES {
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
        // As a large payload is unmasked on its way out of the scratch buffer: two buffers, as
        // memcpy has.
        let mut carried = Vec::with_capacity(size);
        group.bench_function(BenchmarkId::new("weir, into another buffer", size), |b| {
            b.iter(|| {
                carried.clear();
                push_unmasked(black_box(&source), black_box(MASK), &mut carried);
                black_box(carried.as_slice()).len()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    decode_pieces(&mut criterion);
    encode(&mut criterion);
    unmasking(&mut criterion);
    criterion.final_summary();
}
