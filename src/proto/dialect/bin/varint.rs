//! Unsigned LEB128, at most ten bytes.

/// Why a varint was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadVarint {
    /// The bytes end inside it.
    Cut,
    /// More than ten bytes, or more than 64 bits.
    Long,
}

/// Takes a varint from the front of `bytes`. Padding with zeros is allowed within ten bytes.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, BadVarint> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // The tenth byte has room for one bit and cannot be followed.
        if at == 9 && byte > 1 {
            return Err(BadVarint::Long);
        }
        value |= u64::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = bytes.get(at + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(BadVarint::Cut)
}

/// Appends `value` in its shortest form.
#[inline]
pub(super) fn push(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push(u8::try_from(value & 0x7F).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_are_read() {
        for (bytes, expected) in [
            (&[0x00][..], Ok(0)),
            (&[0x7F], Ok(127)),
            (&[0x80, 0x01], Ok(128)),
            (&[0x80, 0x00], Ok(0)),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], Ok(u64::MAX)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Ok(0)),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], Err(BadVarint::Long)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], Err(BadVarint::Long)),
            (&[0x80; 11], Err(BadVarint::Long)),
            (&[0x80; 9], Err(BadVarint::Cut)),
            (&[], Err(BadVarint::Cut)),
        ] {
            assert_eq!(take(&mut &*bytes), expected, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_round_trips_and_is_nothing_when_cut(value: u64, shift in 0..64_u32) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            push(value, &mut bytes);
            prop_assert!(bytes.len() <= 10);
            for end in 0..bytes.len() {
                prop_assert_eq!(take(&mut &bytes[..end]), Err(BadVarint::Cut));
            }
            bytes.push(0xAA);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Ok(value));
            prop_assert_eq!(rest, &[0xAA]);
        }
    }
}
