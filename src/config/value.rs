//! One value: as written, as checked, and as TOML.

use crate::config::key::{Key, Kind};
use crate::config::unit;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RawValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A list of texts.
    List(Vec<String>),
    /// What no setting is; the name of its type.
    Other(&'static str),
    /// A text, or anything from the environment or a flag.
    Text(String),
}

/// A value within its range. Durations are milliseconds, sizes bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    List(Vec<String>),
    Number(u64),
    Text(String),
}

/// What a value is to whoever knows its kind; of any other kind it is nothing.
impl Value {
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bool(_) | Self::List(_) | Self::Text(_) => 0,
        }
    }

    pub(super) fn count(self) -> usize {
        usize::try_from(self.number()).unwrap_or(usize::MAX)
    }

    pub(super) fn flag(self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bool(_) | Self::List(_) | Self::Number(_) => String::new(),
        }
    }
}

impl RawValue {
    /// Reads it as `kind`.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong and what would be right.
    pub(super) fn check(&self, kind: Kind) -> Result<Value, String> {
        let value = self.read(kind).ok_or_else(|| wanted(kind, &self.show()))?;
        let (min, max) = match kind {
            Kind::Duration(min, max) | Kind::Integer(min, max) | Kind::Size(min, max) => (min, max),
            Kind::Addresses | Kind::Bool | Kind::Choice(_) | Kind::List | Kind::Text => {
                return Ok(value);
            }
        };
        match value {
            Value::Number(number) if number < min || number > max => {
                Err(wanted(kind, &show(kind, number)))
            }
            Value::Bool(_) | Value::List(_) | Value::Number(_) | Value::Text(_) => Ok(value),
        }
    }

    /// As a message quotes it.
    fn show(&self) -> String {
        match self {
            Self::Bool(yes) => yes.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(name) => format!("a {name}"),
            Self::Text(text) => format!("{text:?}"),
        }
    }

    fn read(&self, kind: Kind) -> Option<Value> {
        match (kind, self) {
            (Kind::Bool, Self::Bool(yes)) => Some(Value::Bool(*yes)),
            (Kind::Bool, Self::Text(text)) => text.parse().ok().map(Value::Bool),
            (Kind::Choice(words), Self::Text(text)) => {
                words.contains(&text.as_str()).then(|| Value::Text(text.clone()))
            }
            (Kind::Duration(..), Self::Text(text)) => unit::parse_duration(text).map(Value::Number),
            (Kind::Duration(..), Self::Integer(0)) => Some(Value::Number(0)),
            (Kind::Integer(..) | Kind::Size(..), Self::Integer(number)) => {
                u64::try_from(*number).ok().map(Value::Number)
            }
            (Kind::Integer(..), Self::Text(text)) => text.parse().ok().map(Value::Number),
            (Kind::Size(..), Self::Text(text)) => unit::parse_size(text).map(Value::Number),
            (Kind::Addresses | Kind::List, Self::List(items)) => Some(Value::List(items.clone())),
            (Kind::Addresses | Kind::List, Self::Text(text)) => Some(Value::List(parts(text))),
            (Kind::Text, Self::Text(text)) => Some(Value::Text(text.clone())),
            _ => None,
        }
    }
}

/// The items of a comma-separated list.
fn parts(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// What stands there, and what should.
fn wanted(kind: Kind, found: &str) -> String {
    let wanted = match kind {
        Kind::Addresses => {
            "an address and a port, or a list of them, like [\"127.0.0.1:8080\"]".to_owned()
        }
        Kind::Bool => "true or false".to_owned(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Duration(min, max) => format!(
            "a duration from {} to {}, like \"250ms\", \"5s\", \"10m\" or \"1h\"",
            unit::show_duration(min),
            unit::show_duration(max)
        ),
        Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
        Kind::List => "a list of texts, like [\"https://example.org\"]".to_owned(),
        Kind::Size(min, max) => format!(
            "bytes from {} to {}, like 65536, \"64KiB\", \"16MiB\" or \"1GiB\"",
            unit::show_size(min),
            unit::show_size(max)
        ),
        Kind::Text => "a text in quotes".to_owned(),
    };
    format!("is {found}, must be {wanted}")
}

fn show(kind: Kind, number: u64) -> String {
    match kind {
        Kind::Duration(..) => unit::show_duration(number),
        Kind::Size(..) => unit::show_size(number),
        Kind::Addresses
        | Kind::Bool
        | Kind::Choice(_)
        | Kind::Integer(..)
        | Kind::List
        | Kind::Text => number.to_string(),
    }
}

impl Value {
    /// The default of `key`.
    pub(super) fn default_of(key: Key) -> Self {
        let row = key.row();
        let checked = RawValue::Text(row.default.to_owned()).check(row.kind);
        checked.unwrap_or_else(|_| Self::Text(row.default.to_owned()))
    }

    /// As the file would spell it.
    pub(super) fn toml(&self, kind: Kind) -> String {
        match self {
            Self::Bool(yes) => yes.to_string(),
            Self::List(items) => {
                if let (Kind::Addresses, [one]) = (kind, items.as_slice()) {
                    return quoted(one);
                }
                let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Number(number) => {
                let text = show(kind, *number);
                let bare = text.bytes().all(|byte| byte.is_ascii_digit());
                if bare { text } else { quoted(&text) }
            }
            Self::Text(text) => quoted(text),
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_range() {
        for key in Key::ALL {
            let row = key.row();
            let checked = RawValue::Text(row.default.to_owned()).check(row.kind);
            assert!(checked.is_ok(), "{}: {checked:?}", row.name);
        }
    }

    #[test]
    fn a_bad_value_says_what_would_be_right() {
        let text = |text: &str| RawValue::Text(text.to_owned());
        let cases = [
            (Kind::Bool, text("yes"), "is \"yes\", must be true or false"),
            (
                Kind::Integer(1, 9),
                RawValue::Integer(-1),
                "is -1, must be a whole number from 1 to 9",
            ),
            (Kind::Integer(1, 9), text("10"), "is 10, must be a whole number from 1 to 9"),
            (Kind::Choice(&["a", "b"]), text("c"), "is \"c\", must be one of a, b"),
            (Kind::Text, RawValue::Integer(5), "is 5, must be a text in quotes"),
        ];
        for (kind, value, problem) in cases {
            assert_eq!(value.check(kind), Err(problem.to_owned()));
        }
        let size = text("1.5MiB").check(Kind::Size(1024, 64 << 20));
        assert!(size.is_err_and(|problem| problem.contains("bytes from 1KiB to 64MiB")));
        let time = RawValue::Integer(5).check(Kind::Duration(0, 1000));
        assert!(time.is_err_and(|problem| problem.contains("from 0 to 1s")));
    }
}
