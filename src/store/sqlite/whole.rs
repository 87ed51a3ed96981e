//! Prefixes of which every keyed channel in the file is in memory: what a pattern is shown first.

use parking_lot::Mutex;

/// Prefixes that are remembered; beyond, all are forgotten and loaded again where that is asked for.
const MOST: usize = 4_096;

/// The prefixes. A channel that leaves memory takes those away that it begins with.
#[derive(Debug, Default)]
pub(super) struct Whole(Mutex<Vec<Box<str>>>);

impl Whole {
    /// Whether all of a prefix is there.
    pub(super) fn has(&self, prefix: &str) -> bool {
        self.0.lock().iter().any(|one| prefix.starts_with(&**one))
    }

    /// All of a prefix is there.
    pub(super) fn put(&self, prefix: &str) {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.retain(|one| !one.starts_with(prefix));
        all.push(prefix.into());
    }

    /// A channel is about to leave.
    pub(super) fn forget(&self, channel: &str) {
        self.0.lock().retain(|one| !channel.starts_with(&**one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_whole_until_one_of_its_channels_leaves() {
        let whole = Whole::default();
        assert!(!whole.has("a:"));
        whole.put("a:eu/");
        whole.put("b:");
        assert!(whole.has("a:eu/") && whole.has("a:eu/x/") && !whole.has("a:") && whole.has("b:"));
        whole.put("a:");
        assert_eq!(whole.0.lock().len(), 2, "the longer is in it");
        whole.forget("c:1");
        assert!(whole.has("a:eu/"));
        whole.forget("a:1");
        assert!(!whole.has("a:eu/") && whole.has("b:"));
        for n in 0..=MOST {
            whole.put(&format!("{n}:"));
        }
        assert!(whole.0.lock().len() <= MOST && whole.has(&format!("{MOST}:")));
    }
}
