//! Masking, RFC 6455, section 5.3: the payload XOR a key of four bytes, over and over. And whether
//! ASCII came out, which costs nothing while the bytes are at hand: then nobody need check the text.

/// Unmasks `bytes` in place, or masks them: it is the same.
///
/// The first byte meets `mask[0]`; for a payload that arrives in pieces, rotate the mask.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    unmask_ascii(bytes, mask);
}

/// As [`unmask`]; whether nothing but ASCII came out.
#[inline]
pub fn unmask_ascii(bytes: &mut [u8], mask: [u8; 4]) -> bool {
    if bytes.len() >= WIDE_BYTES_MIN
        && let Some(ascii) = wide::unmask(bytes, mask)
    {
        return ascii;
    }
    unmask_plainly(bytes, mask)
}

/// Appends `bytes` to `out` and unmasks them on the way: one pass over both, where a copy that is
/// unmasked takes two. Whether nothing but ASCII was appended.
pub fn push_unmasked(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) -> bool {
    if bytes.len() >= WIDE_BYTES_MIN
        && let Some(ascii) = wide::push(bytes, mask, out)
    {
        return ascii;
    }
    push_plainly(bytes, mask, out)
}

/// Fewer bytes are not worth asking what the processor has.
const WIDE_BYTES_MIN: usize = 512;

/// The bits that no character of ASCII has.
const BEYOND_ASCII: u64 = 0x8080_8080_8080_8080;

// The compiler turns the loops below into vectors of what the target has.

#[inline(always)]
fn unmask_plainly(bytes: &mut [u8], mask: [u8; 4]) -> bool {
    let word_mask = u32::from_ne_bytes(mask);
    let long_mask = u64::from(word_mask) << 32 | u64::from(word_mask);
    let mut seen = 0;
    // Loads need no alignment.
    let (longs, tail) = bytes.as_chunks_mut::<8>();
    for long in longs {
        let plain = u64::from_ne_bytes(*long) ^ long_mask;
        seen |= plain;
        *long = plain.to_ne_bytes();
    }
    let (words, tail) = tail.as_chunks_mut::<4>();
    for word in words {
        let plain = u32::from_ne_bytes(*word) ^ word_mask;
        seen |= u64::from(plain);
        *word = plain.to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask) {
        *byte ^= mask;
        seen |= u64::from(*byte);
    }
    seen & BEYOND_ASCII == 0
}

/// What [`push_plainly`] moves at once: a store follows the other without a look at the length.
const PUSH_BYTES: usize = 512;

#[inline(always)]
fn push_plainly(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) -> bool {
    let (chunks, tail) = bytes.as_chunks::<PUSH_BYTES>();
    let mut seen = 0_u8;
    if !chunks.is_empty() {
        let key = [mask; PUSH_BYTES / 4];
        for chunk in chunks {
            let pairs = chunk.iter().zip(key.as_flattened());
            out.extend(pairs.map(|(byte, key)| {
                let plain = byte ^ key;
                seen |= plain;
                plain
            }));
        }
    }
    let start = out.len();
    out.extend_from_slice(tail);
    let ascii = unmask_plainly(out.get_mut(start..).unwrap_or_default(), mask);
    ascii && seen.is_ascii()
}

/// The same loops, compiled for vectors of 32 bytes, where the processor has those. Without them a
/// text of 64 KiB takes a fifth longer to decode.
#[cfg(target_arch = "x86_64")]
mod wide {
    #![expect(unsafe_code, reason = "only the caller knows what the processor has")]

    /// `None` where there are no such vectors, and nothing was done.
    pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> Option<bool> {
        // SAFETY: the function is safe but for what it asks of the processor, which has it.
        is_x86_feature_detected!("avx2").then(|| unsafe { unmask_avx2(bytes, mask) })
    }

    /// As [`unmask`].
    pub(super) fn push(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) -> Option<bool> {
        // SAFETY: as above.
        is_x86_feature_detected!("avx2").then(|| unsafe { push_avx2(bytes, mask, out) })
    }

    #[target_feature(enable = "avx2")]
    fn unmask_avx2(bytes: &mut [u8], mask: [u8; 4]) -> bool {
        super::unmask_plainly(bytes, mask)
    }

    #[target_feature(enable = "avx2")]
    fn push_avx2(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) -> bool {
        super::push_plainly(bytes, mask, out)
    }
}

/// Elsewhere the compiler already uses what every processor of the kind has.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    pub(super) fn unmask(_: &mut [u8], _: [u8; 4]) -> Option<bool> {
        None
    }

    pub(super) fn push(_: &[u8], _: [u8; 4], _: &mut Vec<u8>) -> Option<bool> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    fn naive(bytes: &mut [u8], mask: [u8; 4]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
    }

    #[test]
    fn agrees_with_the_naive_loop_at_every_alignment_and_length() {
        let mut bytes = (0..=255).cycle().take(400).collect::<Vec<u8>>();
        let mut expected = bytes.clone();
        for start in 0..32 {
            for len in 0..=300 {
                unmask(&mut bytes[start..start + len], MASK);
                naive(&mut expected[start..start + len], MASK);
                assert_eq!(bytes, expected, "start {start}, length {len}");
            }
        }
    }

    #[test]
    fn pushing_agrees_with_unmasking_in_place() {
        let bytes = (0..=255).cycle().take(1_600).collect::<Vec<u8>>();
        for len in 0..=bytes.len() {
            let mut expected = [b"front", &bytes[..len]].concat();
            naive(&mut expected[5..], MASK);
            let mut out = b"front".to_vec();
            push_unmasked(&bytes[..len], MASK, &mut out);
            assert_eq!(out, expected, "length {len}");
        }
    }

    #[test]
    fn a_rotated_mask_goes_on_where_a_cut_was() {
        let mut whole = (0..100).collect::<Vec<u8>>();
        unmask(&mut whole, MASK);
        for cut in 0..=100 {
            let mut pieces = (0..100).collect::<Vec<u8>>();
            let (left, right) = pieces.split_at_mut(cut);
            let mut mask = MASK;
            unmask(left, mask);
            mask.rotate_left(cut % 4);
            unmask(right, mask);
            assert_eq!(pieces, whole, "cut {cut}");
        }
    }

    /// Bytes in memory of their own, which ends where they do: a load or a store beyond them is
    /// beyond the allocation, which Miri and valgrind see at each length and alignment.
    fn alone(bytes: &[u8]) -> Box<[u8]> {
        Box::from(bytes)
    }

    /// Below what the wide loops are asked for, too: where they begin is a matter of speed.
    #[test]
    fn every_loop_agrees_with_the_naive_one_at_each_length_and_alignment_up_to_the_end_of_memory() {
        let mut rng = fastrand::Rng::with_seed(9);
        let step = if cfg!(miri) { 37 } else { 1 };
        let lens = (0..=300).chain([511, 512, 513, 575, 1_023, 1_024, 1_056, 1_535, 1_599]);
        for (nth, len) in lens.enumerate() {
            for start in (nth % step..64).step_by(step) {
                let mask = [(); 4].map(|()| rng.u8(..));
                // Where the byte that is no ASCII stands is another place each time.
                let mut text: Vec<u8> =
                    std::iter::repeat_with(|| rng.u8(..128)).take(len).collect();
                let ascii = len == 0 || rng.bool();
                if !ascii {
                    text[rng.usize(..len)] |= 0x80;
                }
                let mut masked = [vec![7; start], text.clone()].concat();
                naive(&mut masked[start..], mask);
                let whole = [vec![7; start], text].concat();
                let check = |found: Option<bool>, bytes: &[u8], loops| {
                    let Some(found) = found else { return };
                    assert_eq!(found, ascii, "{loops}: {len} bytes from {start} on");
                    assert!(bytes == whole, "{loops}: {len} bytes from {start} on");
                };
                type Unmask = fn(&mut [u8], [u8; 4]) -> Option<bool>;
                let in_place: [(&str, Unmask); 3] = [
                    ("wide", wide::unmask),
                    ("plain", |bytes, mask| Some(unmask_plainly(bytes, mask))),
                    ("either", |bytes, mask| Some(unmask_ascii(bytes, mask))),
                ];
                for (loops, unmask) in in_place {
                    let mut bytes = alone(&masked);
                    check(unmask(&mut bytes[start..], mask), &bytes, loops);
                }
                type Push = fn(&[u8], [u8; 4], &mut Vec<u8>) -> Option<bool>;
                let pushing: [(&str, Push); 3] = [
                    ("wide", wide::push),
                    ("plain", |bytes, mask, out| Some(push_plainly(bytes, mask, out))),
                    ("either", |bytes, mask, out| Some(push_unmasked(bytes, mask, out))),
                ];
                for (loops, push) in pushing {
                    let bytes = alone(&masked);
                    // Room for just as much: what is written beyond is seen as well.
                    let mut out = Vec::with_capacity(whole.len());
                    out.extend_from_slice(&bytes[..start]);
                    check(push(&bytes[start..], mask, &mut out), &out, loops);
                }
            }
        }
    }

    #[test]
    fn wide_vectors_do_what_the_plain_loops_do_and_both_see_what_is_not_ascii() {
        let mut rng = fastrand::Rng::with_seed(5);
        for round in 0..3_000 {
            let (start, len) = (rng.usize(..64), rng.usize(..3_000));
            let mask = [(); 4].map(|()| rng.u8(..));
            let mut text: Vec<u8> =
                std::iter::repeat_with(|| rng.u8(..128)).take(start + len).collect();
            let ascii = len == 0 || round % 2 == 0;
            if !ascii {
                text[start + rng.usize(..len)] |= 0x80;
            }
            let mut masked = text.clone();
            naive(&mut masked[start..], mask);
            for unmask in [unmask_ascii, unmask_plainly] {
                let mut bytes = masked.clone();
                assert_eq!(unmask(&mut bytes[start..], mask), ascii, "{len} bytes");
                assert!(bytes == text, "{len} bytes");
            }
            for push in [push_unmasked, push_plainly] {
                let mut out = text[..start].to_vec();
                assert_eq!(push(&masked[start..], mask, &mut out), ascii, "{len} bytes");
                assert!(out == text, "{len} bytes");
            }
        }
    }
}
