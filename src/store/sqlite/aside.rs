//! Channels that the file refuses to read or to write: set aside for a while, in which they cost
//! nothing, so that one bad channel costs only itself.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// How long a channel is set aside at first, in milliseconds.
const FIRST_MS: u64 = 1_000;

/// How long at most, where it cannot be read. It doubles with each try: one may read a million rows
/// before it fails.
pub(super) const READ_MS: u64 = 30_000;

/// The same where it cannot be written: a try costs that its batch is written again.
pub(super) const WRITE_MS: u64 = FIRST_MS;

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
}

impl Aside {
    /// Whether nothing is to be tried on a channel now.
    pub(super) fn has(&self, channel: &str, now_ms: u64) -> bool {
        !self.channels.is_empty()
            && self.channels.get(channel).is_some_and(|entry| now_ms < entry.due_ms)
    }

    /// Sets a channel aside that was refused, for `most_ms` at most. Whether it was well before.
    pub(super) fn put(&mut self, channel: &str, now_ms: u64, most_ms: u64) -> bool {
        if let Some(entry) = self.channels.get_mut(channel) {
            entry.pause_ms = (entry.pause_ms * 2).min(most_ms);
            entry.due_ms = now_ms + entry.pause_ms;
            return false;
        }
        if self.channels.len() >= MOST {
            let first = self.channels.iter().min_by_key(|(_, entry)| entry.due_ms);
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                self.channels.remove(&name);
            }
        }
        let entry = Entry { due_ms: now_ms + FIRST_MS, pause_ms: FIRST_MS };
        self.channels.insert(channel.into(), entry);
        true
    }

    /// A channel was not refused. Whether it was before.
    pub(super) fn remove(&mut self, channel: &str) -> bool {
        !self.channels.is_empty() && self.channels.remove(channel).is_some()
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
        let mut aside = Aside::default();
        assert!(!aside.has("a", 0) && !aside.remove("a"));
        assert!(aside.put("a", 0, READ_MS), "it was well");
        assert!(aside.has("a", 999) && !aside.has("a", 1_000) && !aside.has("b", 0));
        let (mut now_ms, mut pauses) = (1_000, Vec::new());
        for _ in 0..7 {
            assert!(!aside.put("a", now_ms, READ_MS), "it is said once");
            let due_ms = (now_ms..).find(|ms| !aside.has("a", *ms)).unwrap();
            pauses.push(due_ms - now_ms);
            now_ms = due_ms;
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert!(aside.remove("a") && aside.len() == 0);
        assert!(aside.put("a", now_ms, WRITE_MS), "it begins again");
        assert_eq!(aside.due(now_ms + 999).count(), 0);
        assert_eq!(aside.due(now_ms + 1_000).collect::<Vec<_>>(), ["a"]);
        assert!(!aside.put("a", now_ms, WRITE_MS) && !aside.has("a", now_ms + 1_000));
        aside.forget(now_ms + 1_000 + FORGET_MS - 1);
        assert_eq!(aside.len(), 1);
        aside.forget(now_ms + 1_000 + FORGET_MS);
        assert_eq!(aside.len(), 0);
    }

    #[test]
    fn there_is_a_bound() {
        let mut aside = Aside::default();
        for n in 0..=MOST {
            aside.put(&n.to_string(), n as u64, READ_MS);
        }
        let now_ms = MOST as u64;
        assert_eq!(aside.len(), MOST);
        assert!(aside.has(&MOST.to_string(), now_ms), "the newest is remembered");
        assert!(!aside.has("0", 0), "the oldest is not");
    }
}
