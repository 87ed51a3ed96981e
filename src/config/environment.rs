//! Settings from `WEIR_` variables.

use crate::config::fault::{BadSetting, Source, distance, unknown};
use crate::config::key::Key;
use crate::config::raw::RawConfig;
use crate::config::value::RawValue;

/// Variables that are not settings: the client's.
const OTHERS: [&str; 2] = ["WEIR_TOKEN", "WEIR_URL"];

/// Reads the variables over what `raw` has.
pub(super) fn read(
    raw: &mut RawConfig,
    variables: Vec<(String, String)>,
    bad: &mut Vec<BadSetting>,
) {
    let mut log = None;
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix("WEIR_") else { continue };
        if name == "WEIR_LOG" {
            log = Some(value);
            continue;
        }
        if OTHERS.contains(&name.as_str()) || of_kubernetes(rest, &value) {
            continue;
        }
        match Key::ALL.into_iter().find(|key| key.variable() == name) {
            Some(key) => raw.set(key, RawValue::Text(value), Source::Environment(name)),
            None => {
                let fault = fault(&name);
                if is_meant_for_us(rest) { bad.push(fault) } else { raw.foreign.push(fault) }
            }
        }
    }
    if let Some(value) = log.filter(|value| !value.is_empty()) {
        let source = Source::Environment("WEIR_LOG".to_owned());
        raw.set(Key::LogLevel, RawValue::Text(value), source);
    }
}

/// Kubernetes describes a service called `weir` to every pod in `WEIR_` variables of its own.
fn of_kubernetes(rest: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    rest.starts_with("SERVICE_") || rest.starts_with("PORT_") || (rest == "PORT" && address)
}

/// Whether an unknown variable is a slip: it names a section, or is a character away from a
/// setting. Others may be anybody's, like the `WEIR_VERSION` of an image or somebody's
/// `WEIR_HOME`.
fn is_meant_for_us(rest: &str) -> bool {
    let slip = |key: Key| distance(rest, &key.variable()["WEIR_".len()..]) == 1;
    rest.contains("__") || Key::ALL.into_iter().any(slip)
}

fn fault(name: &str) -> BadSetting {
    let known: Vec<String> = Key::ALL.into_iter().map(Key::variable).collect();
    let problem = unknown("setting", name, known.iter().map(String::as_str));
    BadSetting::new(Source::Environment(name.to_owned()), "", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(variables: &[(&str, &str)]) -> (RawConfig, Vec<BadSetting>) {
        let (mut raw, mut bad) = (RawConfig::default(), Vec::new());
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        read(&mut raw, variables.collect(), &mut bad);
        (raw, bad)
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let (_, bad) = read_all(&[
            ("PATH", "/bin"),
            ("WEIR_URL", "ws://h/ws"),
            ("WEIR_TOKEN", "t"),
            ("WEIR_LOG", ""),
            ("WEIR_SERVICE_HOST", "10.0.0.1"),
            ("WEIR_PORT", "tcp://10.0.0.1:80"),
            ("WEIR_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ]);
        assert_eq!(bad, []);
    }

    #[test]
    fn a_slip_is_a_fault_and_what_may_be_anybodys_is_not() {
        let (_, bad) = read_all(&[
            ("WEIR_LIMITS__CONECTIONS", "5"),
            ("WEIR_APP__URL", "c"),
            ("WEIR_SHARD", "2"),
        ]);
        let texts: Vec<String> = bad.iter().map(ToString::to_string).collect();
        let wanted = [
            "WEIR_LIMITS__CONECTIONS: no such setting; the nearest is WEIR_LIMITS__CONNECTIONS",
            "WEIR_APP__URL: no such setting in this version",
            "WEIR_SHARD: no such setting; the nearest is WEIR_SHARDS",
        ];
        assert_eq!(texts, wanted);
        let (raw, bad) = read_all(&[("WEIR_VERSION", "1"), ("WEIR_HOME", "/opt/weir")]);
        assert_eq!(bad, []);
        assert_eq!(raw.foreign.len(), 2, "they are named all the same");
    }

    #[test]
    fn weir_log_sets_the_level() {
        let (raw, bad) = read_all(&[("WEIR_LOG__LEVEL", "warn"), ("WEIR_LOG", "debug")]);
        assert_eq!(bad, []);
        let level = raw.get(Key::LogLevel).map(|written| written.value.clone());
        assert_eq!(level, Some(RawValue::Text("debug".to_owned())));
    }
}
