//! Masking, RFC 6455, section 5.3: the payload XOR a key of four bytes, over and over.

/// Unmasks `bytes` in place, or masks them: it is the same.
///
/// The first byte meets `mask[0]`; for a payload that arrives in pieces, rotate the mask.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let word_mask = u32::from_ne_bytes(mask);
    let long_mask = u64::from(word_mask) << 32 | u64::from(word_mask);
    // The compiler turns this loop into vectors of what the target has. Loads need no alignment.
    let (longs, tail) = bytes.as_chunks_mut::<8>();
    for long in longs {
        *long = (u64::from_ne_bytes(*long) ^ long_mask).to_ne_bytes();
    }
    let (words, tail) = tail.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// What [`push_unmasked`] moves at once: a store follows the other without a look at the length.
const PUSH_BYTES: usize = 512;

/// Appends `bytes` to `out` and unmasks them on the way: one pass over both, where a copy that is
/// unmasked takes two.
pub fn push_unmasked(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let (chunks, tail) = bytes.as_chunks::<PUSH_BYTES>();
    if !chunks.is_empty() {
        let key = [mask; PUSH_BYTES / 4];
        for chunk in chunks {
            out.extend(chunk.iter().zip(key.as_flattened()).map(|(byte, key)| byte ^ key));
        }
    }
    let start = out.len();
    out.extend_from_slice(tail);
    unmask(out.get_mut(start..).unwrap_or_default(), mask);
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
}
