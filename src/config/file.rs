//! Settings from the TOML file, each with its line.

use crate::config::fault::{BadSetting, Source, unknown};
use crate::config::key::{Key, SECTIONS};
use crate::config::raw::{RawConfig, RawNamespace, Written};
use crate::config::unit;
use crate::config::value::RawValue;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file beyond this is no configuration.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads the file at `path`.
pub(super) fn load(path: &Path, bad: &mut Vec<BadSetting>) -> RawConfig {
    let text = read(path, FILE_BYTES_MAX).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| "is not text: it must be UTF-8".to_owned())
    });
    match text {
        Ok(text) => parse(&text, path, bad),
        Err(problem) => {
            let source = Source::File(path.to_owned(), 0);
            bad.push(BadSetting::new(source, "", problem));
            RawConfig::default()
        }
    }
}

/// What is in a file of at most `most` bytes. A device says nothing of its size, so the bytes are
/// counted as they come.
///
/// # Errors
///
/// Why it cannot be used, as what follows its name in a sentence.
pub(super) fn read(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limited = File::open(path).map(|file| file.take(most.saturating_add(1)));
    let read = limited.and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= most) {
        Ok(bytes)
    } else {
        Err(format!("is larger than {}", unit::show_size(most)))
    }
}

/// Reads `text`; `path` is for messages.
pub(super) fn parse(text: &str, path: &Path, bad: &mut Vec<BadSetting>) -> RawConfig {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut reader = Reader { lines, path, bad, raw: RawConfig::default() };
    if errors.is_empty() {
        reader.file(table.get_ref());
    }
    for error in errors {
        let source = reader.source(&error.span().unwrap_or_default());
        let problem = format!("is not TOML: {}", error.message());
        reader.bad.push(BadSetting::new(source, "", problem));
    }
    reader.raw
}

/// The walk through one file.
struct Reader<'a> {
    /// Where lines end.
    lines: Vec<usize>,
    path: &'a Path,
    bad: &'a mut Vec<BadSetting>,
    raw: RawConfig,
}

impl Reader<'_> {
    fn file(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let key: &str = name.get_ref();
            let source = self.source(&name.span());
            let value = value.get_ref();
            if key == "namespace" {
                self.namespaces(source, value);
            } else if !SECTIONS.contains(&key) {
                self.setting(key, source, value);
            } else if let Some(section) = value.as_table() {
                self.section(key, section);
            } else {
                self.fault(source, key, &format!("is a section, written [{key}]"));
            }
        }
    }

    fn namespaces(&mut self, source: Source, value: &DeValue<'_>) {
        match value.as_array() {
            Some(tables) => tables.iter().for_each(|one| self.namespace(one)),
            None => self.fault(source, "namespace", "is written [[namespace]]"),
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{section}.{}", name.get_ref());
            self.setting(&key, self.source(&name.span()), value.get_ref());
        }
    }

    fn setting(&mut self, name: &str, source: Source, value: &DeValue<'_>) {
        if let Some(key) = Key::find(name) {
            return self.raw.set(key, raw_value(value), source);
        }
        let problem = if matches!(value, DeValue::Table(_)) && !name.contains('.') {
            unknown("section", name, SECTIONS.into_iter().chain(["namespace"]))
        } else {
            unknown("setting", name, Key::ALL.into_iter().map(Key::name))
        };
        self.fault(source, name, &problem);
    }

    fn namespace(&mut self, value: &Spanned<DeValue<'_>>) {
        let source = self.source(&value.span());
        let DeValue::Table(table) = value.get_ref() else {
            return self.fault(source, "namespace", "is written [[namespace]]");
        };
        let mut namespace = RawNamespace { source, name: None, settings: Vec::new() };
        for (name, value) in table {
            let source = self.source(&name.span());
            let written = Written { value: raw_value(value.get_ref()), source: source.clone() };
            let name: &str = name.get_ref();
            if name == "name" {
                namespace.name = Some(written);
            } else if let Some(key) = Key::find(&format!("defaults.{name}")) {
                namespace.settings.push((key, written));
            } else {
                let name = format!("namespace.{name}");
                let of_defaults = Key::ALL.into_iter().filter_map(Key::in_namespace);
                let known: Vec<String> =
                    of_defaults.chain(["name"]).map(|name| format!("namespace.{name}")).collect();
                let problem = unknown("setting", &name, known.iter().map(String::as_str));
                self.fault(source, &name, &problem);
            }
        }
        self.raw.namespaces.push(namespace);
    }

    fn fault(&mut self, source: Source, key: &str, problem: &str) {
        self.bad.push(BadSetting::new(source, key, problem));
    }

    /// The line in which `span` begins.
    fn source(&self, span: &Range<usize>) -> Source {
        let before = self.lines.partition_point(|end| *end < span.start);
        Source::File(self.path.to_owned(), before + 1)
    }
}

fn raw_value(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::Boolean(yes) => RawValue::Bool(*yes),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(RawValue::Other("number beyond 64 bits"), RawValue::Integer),
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map_or(RawValue::Other("mixed list"), RawValue::List)
        }
        DeValue::Datetime(_) | DeValue::Float(_) | DeValue::Table(_) => {
            RawValue::Other(value.type_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut bad = Vec::new();
        parse(text, Path::new("w.toml"), &mut bad);
        bad.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_names_come_with_their_line_and_what_may_be_meant() {
        let text = "lisen = \"a\"\n[limits]\nqueue_byte = 5\n[app]\nurl = \"c\"\n\
                    [limit]\na = 1\n[[namespace]]\nname = \"a\"\ntokens = 5\nslw = 1\n";
        let found = faults(text);
        let wanted = [
            "w.toml:1: lisen: no such setting; the nearest is listen",
            "w.toml:3: limits.queue_byte: no such setting; the nearest is limits.queue_bytes",
            "w.toml:4: app: no such section in this version",
            "w.toml:6: limit: no such section; the nearest is limits",
            "w.toml:10: namespace.tokens: no such setting in this version",
            "w.toml:11: namespace.slw: no such setting; the nearest is namespace.slow",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for text in wanted {
            assert!(found.iter().any(|line| line == text), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_broken_file_names_its_line() {
        let found = faults("shards = 1\ndrain = = 5\n");
        assert!(found[0].starts_with("w.toml:2: is not TOML: "), "{found:?}");
    }

    #[test]
    fn sections_must_be_sections() {
        assert_eq!(faults("limits = 5\n"), ["w.toml:1: limits: is a section, written [limits]"]);
        assert_eq!(faults("[namespace]\n"), ["w.toml:1: namespace: is written [[namespace]]"]);
    }

    #[test]
    fn a_missing_file_is_a_fault() {
        let mut bad = Vec::new();
        load(Path::new("/no/such/weir.toml"), &mut bad);
        let text = bad.first().map(ToString::to_string).unwrap_or_default();
        assert!(text.starts_with("/no/such/weir.toml: cannot be read"), "{text}");
    }

    #[test]
    fn a_file_is_read_to_its_bound_and_no_further() {
        assert_eq!(read("/dev/zero", 1 << 20), Err("is larger than 1MiB".to_owned()));
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("rustfmt.toml");
        let len = std::fs::metadata(&here).unwrap().len();
        assert!(read(&here, len).is_ok_and(|bytes| bytes.len() as u64 == len));
        assert!(read(&here, len - 1).is_err_and(|problem| problem.contains("is larger than")));
    }

    #[test]
    fn a_file_that_is_no_text_is_a_fault() {
        let path = std::env::temp_dir().join(format!("weir-bytes-{}.toml", std::process::id()));
        std::fs::write(&path, [0xFF, 0xFE]).unwrap();
        let mut bad = Vec::new();
        load(&path, &mut bad);
        std::fs::remove_file(&path).unwrap();
        let text = bad.first().map(ToString::to_string).unwrap_or_default();
        assert!(text.ends_with(": is not text: it must be UTF-8"), "{text}");
    }
}
