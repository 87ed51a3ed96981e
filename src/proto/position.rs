//! A place in a channel's numbering, and the one comparison it allows.

use std::fmt;

/// One life of a channel's numbering: 8 characters of `0-9 A-Z a-z`, random at its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 8]);

impl Epoch {
    /// The epoch that `seed` stands for; different seeds below 62^8 give different epochs.
    pub fn from_seed(mut seed: u64) -> Self {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = [b'0'; 8];
        for slot in text.iter_mut().rev() {
            *slot = usize::try_from(seed % 62).map_or(b'0', |digit| DIGITS[digit]);
            seed /= 62;
        }
        Self(text)
    }

    /// The epoch of that text; `None` where it cannot be one.
    pub fn from_text(text: &str) -> Option<Self> {
        let digits: [u8; 8] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_alphanumeric).then_some(Self(digits))
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether `text`, as a client sent it, names this epoch.
    pub fn is(&self, text: &str) -> bool {
        self.0 == *text.as_bytes()
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a channel. `offset` counts events in this epoch, from 1; 0 is before the first.
///
/// It has no `Ord`: offsets of different lives do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// The number of the last event.
    pub offset: u64,
}

impl Position {
    /// How many events lie between a client's place and this head.
    ///
    /// `None` when the two cannot be compared: another epoch, or a client ahead of us.
    pub fn missed_since(&self, epoch: &str, offset: u64) -> Option<u64> {
        if self.epoch.is(epoch) { self.offset.checked_sub(offset) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_back() {
        let epoch = Epoch::from_seed(123_456);
        assert_eq!(Epoch::from_text(epoch.as_str()), Some(epoch));
        for text in ["", "0000000", "000000000", "0000000-", "0000000\u{e9}"] {
            assert_eq!(Epoch::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_same_life_compares() {
        let head = Position { epoch: Epoch::from_seed(7), offset: 10 };
        assert_eq!(head.missed_since("00000007", 4), Some(6));
        assert_eq!(head.missed_since("00000007", 10), Some(0));
        assert_eq!(head.missed_since("00000007", 11), None, "a client from the future");
        assert_eq!(head.missed_since("00000008", 4), None, "another life");
        assert_eq!(head.missed_since("", 4), None);
    }
}
