//! A client that inflates with a window of its own, and messages that tell whether somebody pointed
//! past it. In `tests/it` and in `tests/sim`.

use fastrand::Rng;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// How far apart the twins of a message stand: less than 12 bits hold, just more, and far more.
pub(crate) const DISTANCES: [usize; 4] = [3_900, 4_097, 8_000, 20_000];

/// How long each twin is.
const TWIN: usize = 300;

/// Random bytes out of `letters` that end as they begin, `distance` behind, and others that shrink.
pub(crate) fn twins(rng: &mut Rng, letters: &[u8], distance: usize) -> String {
    let mut random = |count| -> Vec<u8> {
        std::iter::repeat_with(|| letters[rng.usize(..letters.len())]).take(count).collect()
    };
    let twin = random(TWIN);
    let between = random(distance - TWIN);
    let shrinks = vec![letters[0]; distance / 4];
    String::from_utf8([&twin[..], &between, &twin, &shrinks].concat()).unwrap()
}

/// A whole message out of permessage-deflate, by a client that has a window of so many bits and no
/// byte more. Not by zlib-rs, whose window is the largest whatever it is told.
pub(crate) fn inflate(message: &[u8], bits: u8) -> Result<Vec<u8>, String> {
    let body = [message, &[0, 0, 0xFF, 0xFF]].concat();
    let mut state = DecompressorOxide::new();
    let mut ring = vec![0; 1 << bits];
    let (mut out, mut taken, mut at) = (Vec::new(), 0, 0);
    loop {
        let more = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
        let (status, input, output) = decompress(&mut state, &body[taken..], &mut ring, at, more);
        taken += input;
        out.extend_from_slice(&ring[at..at + output]);
        at = (at + output) % ring.len();
        if status != TINFLStatus::HasMoreOutput {
            let whole = status == TINFLStatus::NeedsMoreInput && taken == body.len();
            let wrong = || format!("{status:?} after {taken} of {} bytes", body.len());
            return if whole { Ok(out) } else { Err(wrong()) };
        }
    }
}

/// Goal: a client with a small window cannot read what was made for a large one, else no test that
/// reads by it could fail.
#[test]
fn a_small_window_forgets_what_is_further_back() {
    use flate2::{Compress, Compression, FlushCompress};
    let mut rng = Rng::with_seed(1);
    for distance in DISTANCES {
        let text = twins(&mut rng, b"0123456789abcdef", distance);
        let deflated = |bits| {
            let mut out = Vec::with_capacity(2 * text.len());
            let mut state = Compress::new_with_window_bits(Compression::new(6), false, bits);
            state.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).unwrap();
            out.truncate(out.len() - 4);
            out
        };
        assert_eq!(inflate(&deflated(15), 15).as_deref(), Ok(text.as_bytes()));
        assert_eq!(inflate(&deflated(12), 12).as_deref(), Ok(text.as_bytes()));
        let read = inflate(&deflated(15), 12);
        assert_eq!(read.as_deref() == Ok(text.as_bytes()), distance < 1 << 12, "{distance}");
    }
}
