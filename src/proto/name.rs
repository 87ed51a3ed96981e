//! Names that were checked once: channels, clients and shards.

use std::fmt;
use std::sync::Arc;

/// The longest channel name, in bytes.
pub const CHANNEL_BYTES_MAX: usize = 255;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// The longest `message_id`, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 64;

/// Why a text is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadName {
    /// Nothing there.
    #[error("a channel name has at least 1 byte")]
    Empty,
    /// More than [`CHANNEL_BYTES_MAX`].
    #[error("a channel name has at most 255 bytes")]
    Long,
    /// A byte outside the alphabet.
    #[error("a channel name has only the characters A-Z a-z 0-9 _ . : / -")]
    Character,
    /// An empty part before, between or after `:`.
    #[error("a channel name has no empty part around ':'")]
    EmptyPart,
    /// A pattern (`prefix:*`) where a channel is wanted.
    #[error("a pattern is not a channel: name one channel")]
    Pattern,
    /// A `*` that is not the end of a pattern.
    #[error("a pattern ends with ':*' or '/*', and has no other '*'")]
    Star,
}

/// Checks a channel name: 1 to 255 bytes of `A-Z a-z 0-9 _ . : / -`, no empty part around `:`.
///
/// # Errors
///
/// [`BadName`] says what is wrong.
pub fn check_channel(name: &str) -> Result<(), BadName> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(BadName::Empty);
    }
    if bytes.len() > CHANNEL_BYTES_MAX {
        return Err(BadName::Long);
    }
    let mut before = b':';
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'/' | b'-' => {}
            b':' if before == b':' => return Err(BadName::EmptyPart),
            b':' => {}
            b'*' => return Err(BadName::Pattern),
            _ => return Err(BadName::Character),
        }
        before = byte;
    }
    if before == b':' { Err(BadName::EmptyPart) } else { Ok(()) }
}

/// The prefix that a pattern stands for: all of `telemetry:eu/*` but its `*`. `None` for a text
/// without a `*`, which is no pattern.
///
/// # Errors
///
/// [`BadName`] says what is wrong with a pattern.
pub fn pattern_prefix(text: &str) -> Result<Option<&str>, BadName> {
    if !text.contains('*') {
        return Ok(None);
    }
    if text.len() > CHANNEL_BYTES_MAX {
        return Err(BadName::Long);
    }
    let prefix = text.strip_suffix('*').filter(|prefix| !prefix.contains('*'));
    let checked = match prefix.map(|prefix| (prefix, prefix.strip_suffix(':'))) {
        Some((_, Some(""))) => Err(BadName::EmptyPart),
        Some((_, Some(whole))) => check_channel(whole),
        Some((prefix, None)) if prefix.ends_with('/') => check_channel(prefix),
        Some((_, None)) | None => Err(BadName::Star),
    };
    checked.map(|()| prefix)
}

/// The prefixes of a checked name that a pattern may stand for, those that end with a `:` or `/`:
/// the longest first.
pub fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    let separators = name.bytes().enumerate().rev().filter(|(_, byte)| matches!(byte, b':' | b'/'));
    separators.filter_map(|(at, _)| name.get(..=at))
}

/// The name of a channel. Cheap to clone; can only hold a legal name.
///
/// ```
/// use weir::ChannelName;
/// let name: ChannelName = "telemetry:host-7".parse()?;
/// assert_eq!(name.namespace(), Some("telemetry"));
/// assert!("a:".parse::<ChannelName>().is_err());
/// # Ok::<(), weir::BadName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// A name that [`check_channel`] has passed.
    pub(crate) fn from_checked(name: &str) -> Self {
        debug_assert_eq!(check_channel(name), Ok(()));
        Self(Arc::from(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `:`; `None` means the default namespace.
    pub fn namespace(&self) -> Option<&str> {
        namespace(&self.0)
    }
}

/// What stands before the first `:` of a checked name; `None` means the default namespace.
pub fn namespace(name: &str) -> Option<&str> {
    name.split_once(':').map(|(namespace, _)| namespace)
}

impl std::str::FromStr for ChannelName {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        check_channel(name)?;
        Ok(Self(Arc::from(name)))
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The node's number for a living channel: the same for every connection, never reused. With 64
/// bits it does not come round, however many channels are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alias(pub u64);

/// One thread's index, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A connection's server-made id, shown as 13 characters of `0-9 a-z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 13];
        f.write_str(base36(self.0, &mut text))
    }
}

/// Writes `value` with 13 digits of base 36, which hold any `u64`.
fn base36(mut value: u64, text: &mut [u8; 13]) -> &str {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    for slot in text.iter_mut().rev() {
        *slot = usize::try_from(value % 36).map_or(b'0', |digit| DIGITS[digit]);
        value /= 36;
    }
    std::str::from_utf8(text).unwrap_or_default()
}

/// The text is not a client id: 13 characters of `0-9 a-z`, as every client has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id is 13 characters of 0-9 a-z")]
pub struct BadClientId;

impl std::str::FromStr for ClientId {
    type Err = BadClientId;

    fn from_str(text: &str) -> Result<Self, BadClientId> {
        // Else a sign, capitals and missing zeros would be taken too.
        let exact =
            text.len() == 13 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'));
        let id = if exact { u64::from_str_radix(text, 36).ok() } else { None };
        id.map(Self).ok_or(BadClientId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_pass_and_keep_their_namespace() {
        for name in ["a", "room:1", "telemetry:eu/host-7.cpu_0", "a:b:c", &"x".repeat(255)] {
            assert_eq!(check_channel(name), Ok(()), "{name}");
        }
        assert_eq!(namespace("room:1:2"), Some("room"));
        assert_eq!(namespace("room"), None);
    }

    #[test]
    fn every_kind_of_bad_name_is_named() {
        let long = "x".repeat(256);
        let cases = [
            ("", BadName::Empty),
            (long.as_str(), BadName::Long),
            ("a b", BadName::Character),
            ("a\u{7}", BadName::Character),
            ("caf\u{e9}", BadName::Character),
            (":a", BadName::EmptyPart),
            ("a:", BadName::EmptyPart),
            ("a::b", BadName::EmptyPart),
            ("a:*", BadName::Pattern),
        ];
        for (name, fault) in cases {
            assert_eq!(check_channel(name), Err(fault), "{name}");
        }
    }

    #[test]
    fn a_pattern_is_a_prefix_that_ends_with_a_separator() {
        let long = format!("{}:*", "x".repeat(254));
        let cases = [
            ("a", Ok(None)),
            ("a:*", Ok(Some("a:"))),
            ("a:b:*", Ok(Some("a:b:"))),
            ("a:b/*", Ok(Some("a:b/"))),
            ("a/*", Ok(Some("a/"))),
            ("/*", Ok(Some("/"))),
            (&long[1..], Ok(Some(&long[1..255]))),
            (&long, Err(BadName::Long)),
            ("*", Err(BadName::Star)),
            ("a*", Err(BadName::Star)),
            ("a:b*", Err(BadName::Star)),
            ("a:*:b", Err(BadName::Star)),
            ("a:*:*", Err(BadName::Star)),
            ("a:**", Err(BadName::Star)),
            (":*", Err(BadName::EmptyPart)),
            ("a::*", Err(BadName::EmptyPart)),
            ("a b:*", Err(BadName::Character)),
        ];
        for (text, prefix) in cases {
            assert_eq!(pattern_prefix(text), prefix, "{text}");
        }
    }

    #[test]
    fn a_name_has_a_prefix_for_each_separator() {
        let of = |name| prefixes(name).collect::<Vec<_>>();
        assert_eq!(of("plain"), [""; 0]);
        assert_eq!(of("a:b/c:d"), ["a:b/c:", "a:b/", "a:"]);
        assert_eq!(of("a//"), ["a//", "a/"]);
    }

    #[test]
    fn a_client_id_survives_its_text() {
        for id in [0, 1, 35, 36, u64::MAX] {
            let text = ClientId(id).to_string();
            assert_eq!(text.len(), 13);
            assert_eq!(text.parse(), Ok(ClientId(id)));
        }
    }

    #[test]
    fn a_client_id_has_one_text() {
        let cases = [
            "",
            "z",
            "000000000000",
            "00000000000001",
            "000000000000Z",
            "+00000000000z",
            "-00000000000z",
            "000000000000 ",
            "00000000000\u{e9}",
            "zzzzzzzzzzzzz",
        ];
        for text in cases {
            assert_eq!(text.parse::<ClientId>(), Err(BadClientId), "{text}");
        }
    }
}
