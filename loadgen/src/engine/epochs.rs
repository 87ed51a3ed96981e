//! The epochs of a run by number, and where each channel stood when it was first subscribed to.

use std::collections::HashMap;
use std::sync::Arc;

/// What all names of epochs may take on one thread, with what it costs to keep one. A server may
/// draw one per channel.
const BYTES_MAX: usize = 128 << 20;
/// What one epoch costs besides its name.
const ENTRY_BYTES: usize = 96;

/// Names and numbers of epochs; 0 is no epoch's number.
#[derive(Debug)]
pub(crate) struct Epochs {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// Bytes that are left.
    room: usize,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { names: Vec::new(), numbers: HashMap::new(), room: BYTES_MAX }
    }
}

impl Epochs {
    /// An epoch's number; `None` when there is no room for another.
    pub(crate) fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(known) = self.numbers.get(name) {
            return Some(*known);
        }
        let room = self.room.checked_sub(name.len() + ENTRY_BYTES)?;
        let number = u32::try_from(self.names.len() + 1).ok()?;
        let name: Arc<str> = name.into();
        self.room = room;
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        Some(number)
    }

    /// The name that has a number.
    pub(crate) fn name(&self, number: u32) -> Option<&str> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.names.get(at).map(AsRef::as_ref)
    }
}

/// Where a channel stood when it was first subscribed to, as one thread has seen it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its epoch's number; 0 before it was subscribed to.
    pub(crate) epoch: u32,
    /// The lowest and the highest offset before the first event was published.
    pub(crate) low: u64,
    pub(crate) high: u64,
    /// Another epoch came later.
    pub(crate) renewed: bool,
}

impl Base {
    /// A `subscribed` came; `early` before the first event was published.
    pub(crate) fn saw(&mut self, epoch: u32, offset: u64, early: bool) {
        if self.epoch == 0 {
            *self = Self { epoch, low: offset, high: offset, renewed: false };
        } else if self.epoch != epoch {
            self.renewed = true;
        } else if early {
            self.low = self.low.min(offset);
            self.high = self.high.max(offset);
        }
    }
}

/// Where a channel stood, as all threads have seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Start {
    epoch: Option<String>,
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) renewed: bool,
}

impl Start {
    /// Adds what one thread has seen.
    pub(crate) fn merge(&mut self, base: Base, epochs: &Epochs) {
        let Some(name) = epochs.name(base.epoch) else { return };
        match &self.epoch {
            None => {
                let epoch = Some(name.to_owned());
                *self = Self { epoch, low: base.low, high: base.high, renewed: base.renewed };
            }
            Some(known) if known == name => {
                self.low = self.low.min(base.low);
                self.high = self.high.max(base.high);
                self.renewed |= base.renewed;
            }
            Some(_) => self.renewed = true,
        }
    }

    /// Where the channel ends after `sent` events; `None` when its numbering began anew.
    pub(crate) fn head(&self, sent: u64) -> Option<u64> {
        (!self.renewed).then(|| self.low.saturating_add(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_epochs_have_different_numbers_however_many_there_are() {
        let mut epochs = Epochs::default();
        for nth in 1..=20_000 {
            assert_eq!(epochs.number(&format!("e{nth}")), Some(nth));
        }
        assert_eq!((epochs.number("e10001"), epochs.name(10_001)), (Some(10_001), Some("e10001")));
        assert_eq!((epochs.name(0), epochs.name(20_001)), (None, None));
    }

    #[test]
    fn names_take_no_more_than_their_bound() {
        let mut epochs = Epochs { room: 4 * (ENTRY_BYTES + 2), ..Epochs::default() };
        let found = ["e1", "e2", "long", "e3", "e4"].map(|name| epochs.number(name));
        assert_eq!(found, [Some(1), Some(2), Some(3), None, None]);
        assert_eq!(epochs.number("e2"), Some(2), "what is known stays");
    }

    #[test]
    fn a_channel_whose_numbering_begins_anew_has_no_known_end() {
        let (mut epochs, mut start) = (Epochs::default(), Start::default());
        let (one, two) = (epochs.number("a").expect("room"), epochs.number("b").expect("room"));
        let mut base = Base::default();
        base.saw(one, 7, true);
        base.saw(one, 90, false);
        start.merge(base, &epochs);
        assert_eq!((start.low, start.high, start.head(5)), (7, 7, Some(12)));
        base.saw(one, 9, true);
        start.merge(base, &epochs);
        assert_eq!((start.low, start.high), (7, 9), "they do not agree");
        let mut other = Base::default();
        other.saw(two, 0, false);
        start.merge(other, &epochs);
        assert_eq!(start.head(5), None);
    }
}
