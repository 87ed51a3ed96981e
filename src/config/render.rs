//! Settings as a file: the commented defaults, and what is in force.

use crate::config::check::Config;
use crate::config::key::Key;
use crate::config::raw::{RawConfig, Written};
use crate::config::value::Value;

/// A complete configuration with every default, each line saying what it means.
pub fn template() -> String {
    let mut out = String::from(
        "# Configuration of Weir. Every setting is here with its default.\n\
         # Durations are 250ms, 5s, 10m or 1h; sizes are bytes, or 64KiB, 16MiB or 1GiB.\n\
         # WEIR_LISTEN or WEIR_LIMITS__CONNECTIONS in the environment win over the file.\n\n",
    );
    for (at, key) in Key::ALL.into_iter().enumerate() {
        head(at, key, &mut out);
        let value = Value::default_of(key).toml(key.row().kind);
        line(key, &value, key.row().meaning, &mut out);
    }
    out.push_str(
        "\n# A namespace is what stands before the first ':' of a channel's name.\n\
         # What it does not say, it has from [defaults].\n\
         # [[namespace]]\n# name = \"telemetry\"\n",
    );
    for key in Key::ALL {
        if let Some(name) = key.in_namespace() {
            let value = Value::default_of(key).toml(key.row().kind);
            out.push_str(&format!("# {name} = {value}\n"));
        }
    }
    out
}

impl RawConfig {
    /// What is in force, each line saying where it was written. `config` came from `self`.
    pub fn effective(&self, config: &Config) -> String {
        let mut out = String::new();
        for (at, key) in Key::ALL.into_iter().enumerate() {
            head(at, key, &mut out);
            let kind = key.row().kind;
            let written = self.get(key).and_then(|written| written.value.check(kind).ok());
            let written = written.unwrap_or_else(|| Value::default_of(key));
            let mut comment = self.source(key).to_string();
            let value = match (key, &written) {
                (Key::LimitsMemory, Value::Number(0)) => {
                    comment.push_str(" (0, so a quarter of what there is)");
                    Value::Number(u64::try_from(config.node.memory_max).unwrap_or(u64::MAX))
                }
                (Key::Node, Value::Text(name)) if name.is_empty() => {
                    comment.push_str(" (\"\", so the host's name)");
                    Value::Text(config.node.node_name.clone())
                }
                (Key::StoreMemory, Value::Number(0)) => {
                    comment.push_str(" (0, so a quarter of what there is)");
                    Value::Number(u64::try_from(config.store_memory).unwrap_or(u64::MAX))
                }
                (Key::Shards, Value::Number(0)) => {
                    comment.push_str(" (0, so one for each core)");
                    Value::Number(u64::try_from(config.shards).unwrap_or(u64::MAX))
                }
                _ => written,
            };
            line(key, &value.toml(kind), &comment, &mut out);
        }
        for namespace in &self.namespaces {
            out.push_str("\n[[namespace]]\n");
            namespace_line("name", namespace.name.as_ref(), Key::Node, &mut out);
            for key in Key::ALL {
                let name = key.in_namespace().unwrap_or_default();
                namespace_line(name, namespace.get(key), key, &mut out);
            }
        }
        out
    }
}

fn namespace_line(name: &str, written: Option<&Written>, like: Key, out: &mut String) {
    let Some(written) = written else { return };
    let kind = like.row().kind;
    if let Ok(value) = written.value.check(kind) {
        aligned(&format!("{name} = {}", value.toml(kind)), &written.source.to_string(), out);
    }
}

/// The section's line, where `key` is its first.
fn head(at: usize, key: Key, out: &mut String) {
    let section = |key: Key| key.name().split_once('.').map(|(section, _)| section);
    let before = at.checked_sub(1).and_then(|before| section(Key::ALL[before]));
    if let Some(name) = section(key)
        && before != Some(name)
    {
        out.push_str(&format!("\n[{name}]\n"));
    }
}

fn line(key: Key, value: &str, comment: &str, out: &mut String) {
    let name = key.name().rsplit('.').next().unwrap_or_default();
    aligned(&format!("{name} = {value}"), comment, out);
}

fn aligned(setting: &str, comment: &str, out: &mut String) {
    out.push_str(&format!("{setting:<36} # {comment}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Source};
    use std::path::Path;

    fn parse(text: &str) -> (RawConfig, Config) {
        let machine = Machine { cores: 4, host: "h1".to_owned(), memory: 8 << 30 };
        let mut bad = Vec::new();
        let raw = RawConfig::parse(text, Path::new("w.toml"), &mut bad);
        let config = raw.check(&machine, bad).unwrap_or_else(|bad| panic!("{bad:?}"));
        (raw, config)
    }

    fn without_comments(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
    }

    #[test]
    fn the_printed_configuration_is_the_defaults() {
        let (raw, config) = parse(&template());
        for key in Key::ALL {
            assert!(matches!(raw.source(key), Source::File(..)), "{} is missing", key.name());
        }
        let (none, defaults) = parse("");
        let (printed, embedded) = (raw.effective(&config), none.effective(&defaults));
        assert_eq!(without_comments(&printed), without_comments(&embedded));
        let (settings, namespace) = template().split_once("# [[").map_or_else(
            || panic!("no namespace"),
            |(settings, rest)| (settings.to_owned(), format!("[[{}", rest.replace("# ", ""))),
        );
        let (raw, _) = parse(&format!("{settings}{namespace}"));
        assert_eq!(raw.namespaces.len(), 1);
    }

    #[test]
    fn what_is_in_force_reads_back() {
        let text = "listen = [\"127.0.0.1:1\", \"[::1]:1\"]\ndrain = \"90s\"\n[http]\norigins = [\"https://a.b\"]\n\
                    [[namespace]]\nname = \"a\"\nslow = \"disconnect\"\n";
        let (raw, config) = parse(text);
        let shown = raw.effective(&config);
        assert!(shown.contains("origins = [\"https://a.b\"]"), "{shown}");
        assert!(shown.contains("# w.toml:4"), "{shown}");
        assert!(shown.contains("listen = [\"127.0.0.1:1\", \"[::1]:1\"]"), "{shown}");
        assert!(shown.contains("node = \"h1\""), "{shown}");
        let (again, config) = parse(&shown);
        assert_eq!(without_comments(&again.effective(&config)), without_comments(&shown));
    }

    #[test]
    fn what_the_machine_gives_is_not_shown_as_written() {
        let (raw, config) = parse("node = \"\"\nshards = 0\n");
        let shown = raw.effective(&config);
        let has = |setting: &str, comment: &str| {
            let found =
                shown.lines().any(|line| line.starts_with(setting) && line.ends_with(comment));
            assert!(found, "{setting}, {comment}: {shown}");
        };
        has("node = \"h1\" ", "# w.toml:1 (\"\", so the host's name)");
        has("shards = 4 ", "# w.toml:2 (0, so one for each core)");
        let (raw, config) =
            parse("node = \"h1\"\nshards = 4\nlimits.memory = 4096000\nstore.memory = 1\n");
        let shown = raw.effective(&config);
        assert!(!shown.contains(", so "), "{shown}");
    }

    #[test]
    fn the_documentation_lists_every_setting_with_its_default() {
        let docs = include_str!("../../docs/operation.md");
        for key in Key::ALL {
            let row = key.row();
            let default = Value::default_of(key).toml(row.kind);
            let wanted = format!("| `{}` | `{default}` |", row.name);
            assert!(docs.contains(&wanted), "docs/operation.md lacks: {wanted}");
        }
        let (_, settings) = docs.split_once("## Settings").unwrap();
        let settings = settings.split("\n## ").next().unwrap();
        for row in settings.lines().filter(|line| line.starts_with("| `")) {
            let name = row.split('`').nth(1).unwrap();
            assert!(Key::find(name).is_some(), "docs/operation.md invents {name}");
        }
    }
}
