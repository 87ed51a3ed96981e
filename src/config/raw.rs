//! Settings as they were written: file, under environment, under flags.

use crate::config::fault::{BadSetting, Source};
use crate::config::key::Key;
use crate::config::value::RawValue;
use crate::config::{environment, file};
use std::path::Path;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) value: RawValue,
    pub(super) source: Source,
}

/// One `[[namespace]]`, as written.
#[derive(Debug, Clone)]
pub(super) struct RawNamespace {
    /// Where it begins.
    pub(super) source: Source,
    pub(super) name: Option<Written>,
    /// What it has otherwise than `[defaults]`, by the setting there.
    pub(super) settings: Vec<(Key, Written)>,
}

impl RawNamespace {
    pub(super) fn get(&self, key: Key) -> Option<&Written> {
        self.settings.iter().find(|(other, _)| *other == key).map(|(_, written)| written)
    }
}

/// Settings as they were written; what nobody wrote is `None`.
#[derive(Debug, Clone, Default)]
pub struct RawConfig {
    settings: Vec<(Key, Written)>,
    /// What was written first and does not count, since something later says otherwise.
    pub(super) covered: Vec<(Key, Written)>,
    pub(super) namespaces: Vec<RawNamespace>,
    /// Whether strangers may be let in without authentication.
    pub(super) insecure: bool,
    /// `WEIR_` variables that are no setting and do not look like a slip; to be warned of.
    pub foreign: Vec<BadSetting>,
}

/// Where settings come from.
#[derive(Debug, Default)]
pub struct Inputs<'a> {
    /// The configuration file, if there is one.
    pub file: Option<&'a Path>,
    /// The environment; only `WEIR_` variables matter.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line: the setting, the flag's name, its value.
    pub flags: Vec<(Key, &'static str, String)>,
    /// Whether strangers may be let in without authentication (`--insecure`).
    pub insecure: bool,
}

impl RawConfig {
    /// Reads all `inputs`; each later one wins. Faults are added to `bad`.
    pub fn load(inputs: Inputs<'_>, bad: &mut Vec<BadSetting>) -> Self {
        let mut raw = match inputs.file {
            Some(path) => file::load(path, bad),
            None => Self::default(),
        };
        raw.insecure = inputs.insecure;
        environment::read(&mut raw, inputs.environment, bad);
        for (key, flag, value) in inputs.flags {
            raw.set(key, RawValue::Text(value), Source::Flag(flag));
        }
        raw
    }

    /// Reads the text of a configuration file; `path` is for messages.
    pub fn parse(text: &str, path: &Path, bad: &mut Vec<BadSetting>) -> Self {
        file::parse(text, path, bad)
    }

    /// Where `key` was written.
    pub fn source(&self, key: Key) -> Source {
        self.get(key).map_or(Source::Default, |written| written.source.clone())
    }

    /// The text of a setting that somebody has written.
    pub fn text(&self, key: Key) -> Option<String> {
        let value = self.get(key)?.value.check(key.row().kind).ok()?;
        Some(value.text()).filter(|text| !text.is_empty())
    }

    pub(super) fn get(&self, key: Key) -> Option<&Written> {
        self.settings.iter().find(|(other, _)| *other == key).map(|(_, written)| written)
    }

    pub(super) fn set(&mut self, key: Key, value: RawValue, source: Source) {
        let before = self.settings.extract_if(.., |(other, _)| *other == key);
        self.covered.extend(before);
        self.settings.push((key, Written { value, source }));
    }
}
