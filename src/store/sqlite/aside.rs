//! Channels that the file refuses to read or to write: set aside for a while, in which they cost
//! nothing, so that one bad channel costs only itself.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::whole::Whole;

/// How long a channel is set aside at first, in milliseconds.
const FIRST_MS: u64 = 1_000;

/// How long at most, where it cannot be read. It doubles with each try: one may read a million rows
/// before it fails.
const READ_MS: u64 = 30_000;

/// The same where it cannot be written: a try costs that its batch is written again.
const WRITE_MS: u64 = FIRST_MS;

/// What has refused a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its rows cannot be read.
    Read,
    /// Nothing can be read, for now: it may be no fault of its own.
    File,
    /// Its rows cannot be written.
    Written,
}

impl Refused {
    fn most_ms(self) -> u64 {
        match self {
            Self::Read => READ_MS,
            Self::File | Self::Written => WRITE_MS,
        }
    }
}

/// A channel that nobody has asked for so long after its time is forgotten, in milliseconds.
const FORGET_MS: u64 = 60_000;

/// Channels that are remembered; beyond, the one goes that is due first. Some 5 MiB at the most.
const MOST: usize = 16_384;

/// The channels that are set aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    channels: HashMap<Box<str>, Entry, RandomState>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// When it is tried again, node milliseconds.
    due_ms: u64,
    /// How long it was set aside for.
    pause_ms: u64,
    /// What was refused last.
    refused: Refused,
}

impl Aside {
    /// Whether nothing is to be tried on a channel now.
    pub(super) fn has(&self, channel: &str, now_ms: u64) -> bool {
        !self.channels.is_empty()
            && self.channels.get(channel).is_some_and(|entry| now_ms < entry.due_ms)
    }

    /// Sets a channel aside that was refused. Whether it was well before. Where there are too many,
    /// one is not remembered any more: the prefixes that are [whole](Whole) without it are not.
    pub(super) fn put(
        &mut self,
        channel: &str,
        now_ms: u64,
        refused: Refused,
        whole: &Whole,
    ) -> bool {
        if let Some(entry) = self.channels.get_mut(channel) {
            entry.pause_ms = (entry.pause_ms * 2).min(refused.most_ms());
            entry.due_ms = now_ms + entry.pause_ms;
            entry.refused = refused;
            return false;
        }
        if self.channels.len() >= MOST {
            let first = self.channels.iter().min_by_key(|(_, entry)| entry.due_ms);
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                self.channels.remove(&name);
                whole.forget(&name);
            }
        }
        let entry = Entry { due_ms: now_ms + FIRST_MS, pause_ms: FIRST_MS, refused };
        self.channels.insert(channel.into(), entry);
        true
    }

    /// A channel was `done`, read or written. Whether that was refused before. One that could not
    /// be written is not well for being read.
    pub(super) fn remove(&mut self, channel: &str, done: Refused) -> bool {
        if self.channels.is_empty() {
            return false;
        }
        let well = |entry: &Entry| done == Refused::Written || entry.refused != Refused::Written;
        self.channels.get(channel).is_some_and(well) && self.channels.remove(channel).is_some()
    }

    /// Those that are to be tried again, when somebody asks for them.
    pub(super) fn due(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let due = self.channels.iter().filter(move |(_, entry)| now_ms >= entry.due_ms);
        due.map(|(channel, _)| &**channel)
    }

    /// Forgets those that nobody asks for any more.
    pub(super) fn forget(&mut self, now_ms: u64) {
        self.channels.retain(|_, entry| now_ms < entry.due_ms + FORGET_MS);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_tried_less_and_less_often_until_it_is_well() {
        let (mut aside, whole) = (Aside::default(), Whole::default());
        assert!(!aside.has("a", 0) && !aside.remove("a", Refused::Read));
        assert!(aside.put("a", 0, Refused::Read, &whole), "it was well");
        assert!(aside.has("a", 999) && !aside.has("a", 1_000) && !aside.has("b", 0));
        let (mut now_ms, mut pauses) = (1_000, Vec::new());
        for _ in 0..7 {
            assert!(!aside.put("a", now_ms, Refused::Read, &whole), "it is said once");
            let due_ms = (now_ms..).find(|ms| !aside.has("a", *ms)).unwrap();
            pauses.push(due_ms - now_ms);
            now_ms = due_ms;
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert!(aside.remove("a", Refused::Read) && aside.len() == 0);
        assert!(aside.put("a", now_ms, Refused::Written, &whole), "it begins again");
        assert_eq!(aside.due(now_ms + 999).count(), 0);
        assert_eq!(aside.due(now_ms + 1_000).collect::<Vec<_>>(), ["a"]);
        assert!(!aside.put("a", now_ms, Refused::Written, &whole));
        assert!(!aside.has("a", now_ms + 1_000));
        aside.forget(now_ms + 1_000 + FORGET_MS - 1);
        assert_eq!(aside.len(), 1);
        aside.forget(now_ms + 1_000 + FORGET_MS);
        assert_eq!(aside.len(), 0);
    }

    #[test]
    fn each_thing_is_well_when_it_is_done() {
        let (mut aside, whole) = (Aside::default(), Whole::default());
        for refused in [Refused::Read, Refused::File, Refused::Written] {
            for done in [Refused::Read, Refused::Written] {
                assert!(aside.put("a", 0, refused, &whole));
                let well = done == Refused::Written || refused != Refused::Written;
                assert_eq!(aside.remove("a", done), well, "{refused:?} {done:?}");
                assert_eq!(aside.remove("a", Refused::Written), !well);
            }
        }
        // A fault of the whole file may be over sooner than one of rows.
        for _ in 0..9 {
            aside.put("a", 0, Refused::File, &whole);
        }
        assert!(aside.has("a", FIRST_MS - 1) && !aside.has("a", FIRST_MS));
    }

    #[test]
    fn there_is_a_bound() {
        let (mut aside, whole) = (Aside::default(), Whole::default());
        whole.put("0");
        whole.put("1");
        for n in 0..=MOST {
            assert!(whole.has("0"), "{n}");
            aside.put(&n.to_string(), n as u64, Refused::Read, &whole);
        }
        assert!(!whole.has("0"), "who asks for it finds what is not remembered");
        assert!(whole.has("1"));
        let now_ms = MOST as u64;
        assert_eq!(aside.len(), MOST);
        assert!(aside.has(&MOST.to_string(), now_ms), "the newest is remembered");
        assert!(!aside.has("0", 0), "the oldest is not");
    }
}
