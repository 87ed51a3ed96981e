//! What hangs on prefixes of channel names.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::proto::name;

/// Values by prefix. Finding those of a name costs a look for each separator in it that a prefix
/// of that length ends with, however many prefixes there are.
///
/// Invariant: `lengths` counts the prefixes by their length.
#[derive(Debug)]
pub struct PrefixTable<T> {
    values: HashMap<Box<str>, T, RandomState>,
    lengths: Vec<u32>,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self { values: HashMap::default(), lengths: Vec::new() }
    }
}

impl<T> PrefixTable<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of exactly that prefix.
    pub fn get(&self, prefix: &str) -> Option<&T> {
        self.values.get(prefix)
    }

    /// The value of exactly that prefix, which is made where there is none.
    pub fn get_or_insert_with(&mut self, prefix: &str, make: impl FnOnce() -> T) -> &mut T {
        if !self.values.contains_key(prefix) {
            if self.lengths.len() <= prefix.len() {
                self.lengths.resize(prefix.len() + 1, 0);
            }
            self.lengths[prefix.len()] += 1;
        }
        self.values.entry(prefix.into()).or_insert_with(make)
    }

    /// Takes a prefix away.
    pub fn remove(&mut self, prefix: &str) -> Option<T> {
        let value = self.values.remove(prefix)?;
        if let Some(count) = self.lengths.get_mut(prefix.len()) {
            *count -= 1;
        }
        if self.values.is_empty() {
            *self = Self::default();
        }
        Some(value)
    }

    /// The values of all prefixes of a channel's name, that of the longest first.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &T> {
        let there = |prefix: &&str| self.lengths.get(prefix.len()).is_some_and(|count| *count > 0);
        // Without any prefix, not even the name is read.
        let name = if self.values.is_empty() { "" } else { name };
        name::prefixes(name).filter(there).filter_map(|prefix| self.values.get(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_prefixes_and_no_others() {
        let mut table = PrefixTable::default();
        for prefix in ["a:", "a:b/", "b:", "a:b/c:d/"] {
            table.get_or_insert_with(prefix, || prefix.to_owned());
            table.get_or_insert_with(prefix, || unreachable!("it is there"));
        }
        let cases: [(&str, &[&str]); 6] = [
            ("a:b/c:d/e", &["a:b/c:d/", "a:b/", "a:"]),
            ("a:b/c", &["a:b/", "a:"]),
            ("a:bc", &["a:"]),
            ("aa:b", &[]),
            ("a", &[]),
            ("c:b", &[]),
        ];
        for (name, prefixes) in cases {
            assert_eq!(table.of(name).collect::<Vec<_>>(), prefixes, "{name}");
        }
        assert_eq!(table.remove("a:b/").as_deref(), Some("a:b/"));
        assert_eq!(table.remove("a:b/"), None);
        assert_eq!(table.of("a:b/c").collect::<Vec<_>>(), ["a:"]);
        for prefix in ["a:", "b:", "a:b/c:d/"] {
            assert!(table.get(prefix).is_some() && table.remove(prefix).is_some());
        }
        assert!(table.is_empty() && table.of("a:b").next().is_none());
    }
}
