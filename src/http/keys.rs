//! The keys of the HTTP API: who has one, and what it opens.

use std::fmt;
use std::sync::Arc;

use ring::digest;

use super::answer::Refusal;
use crate::core::access::{Act, Target, Template, Who};
use crate::shard::Node;

/// The shortest key, in bytes.
const KEY_BYTES_MIN: usize = 32;

/// Keys of one file: each request compares with all of them.
const KEYS_MAX: usize = 1_024;

/// What a key may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Ending connections.
    Admin,
    /// Publishing.
    Publish,
    /// Looking: channels, their events, statistics and metrics.
    Read,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Admin, Self::Publish, Self::Read];

    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Publish => "publish",
            Self::Read => "read",
        }
    }
}

/// One key, by its SHA-256.
struct ApiKey {
    name: Box<str>,
    hash: [u8; 32],
    scopes: Box<[Scope]>,
    /// Empty is every channel.
    channels: Box<[Template]>,
}

/// The keys of a file.
#[derive(Clone)]
pub struct ApiKeys(Vec<Arc<ApiKey>>);

/// Nothing of the keys.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.0.len()).finish()
    }
}

/// What the bearer of a key may do; without a key, on this machine, everything.
#[derive(Clone)]
pub(super) struct Pass(Option<Arc<ApiKey>>);

impl ApiKeys {
    /// Reads a file: `name:key` on each line, and behind it, where the key is not for everything,
    /// what it is for: `publish`, `read`, `admin`, and `channel:PATTERN`.
    ///
    /// # Errors
    ///
    /// The line, and what is wrong there; nothing of the key.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut keys: Vec<Arc<ApiKey>> = Vec::new();
        for (at, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line_of(line).map_err(|problem| (at, problem))?;
            if keys.iter().any(|other| other.name == key.name || other.hash == key.hash) {
                return Err((at, "has a name or a key that an earlier line has".to_owned()));
            }
            keys.push(Arc::new(key));
        }
        match keys.len() {
            0 => Err((0, "has no key: write one as name:key on a line".to_owned())),
            1..=KEYS_MAX => Ok(Self(keys)),
            _ => Err((0, format!("has more than {KEYS_MAX} keys"))),
        }
    }

    /// Who asks with that key. Takes as long for a key that is nearly right as for any other.
    fn find(&self, key: &str) -> Option<&Arc<ApiKey>> {
        let hash = hash(key);
        let mut found = None;
        for one in &self.0 {
            let differs = one.hash.iter().zip(hash).fold(0, |bits, (a, b)| bits | (a ^ b));
            if std::hint::black_box(differs) == 0 {
                found = Some(one);
            }
        }
        found
    }

    /// What whoever asks with `key` may do.
    ///
    /// # Errors
    ///
    /// 401, which does not say what is wrong with the key.
    pub(super) fn check(&self, key: Option<&str>) -> Result<Pass, Refusal> {
        let found = key.and_then(|key| self.find(key));
        found.map(|key| Pass(Some(Arc::clone(key)))).ok_or_else(|| {
            let message = "the API wants the header Authorization: Bearer with one of its keys";
            Refusal::unauthorized("unauthorized", message)
        })
    }
}

impl Pass {
    /// Everything.
    pub(super) const ALL: Self = Self(None);

    /// What stands for the key that it is of, if there is one.
    pub(super) fn number(&self) -> Option<u64> {
        let (first, _) = self.0.as_ref()?.hash.split_first_chunk()?;
        Some(u64::from_le_bytes(*first))
    }

    /// Whether it is for that.
    pub(super) fn check(&self, scope: Scope) -> Result<(), Refusal> {
        if self.0.as_ref().is_none_or(|key| key.scopes.contains(&scope)) {
            return Ok(());
        }
        Err(Refusal::forbidden(format!("this needs a key with the scope {}", scope.as_str())))
    }

    /// Whether it is for that channel.
    pub(super) fn check_channel(&self, channel: &str) -> Result<(), Refusal> {
        if self.reaches(Target::Name(channel)) {
            return Ok(());
        }
        Err(Refusal::forbidden(format!("this needs a key for the channel {channel}")))
    }

    /// Whether it is for that channel, and the rules of the channel are for the API.
    pub(super) fn check_act(&self, node: &Node, act: Act, channel: &str) -> Result<(), Refusal> {
        self.check_channel(channel)?;
        let options = node.options();
        let policies = &options.policies;
        let Some(rule) = policies.of(channel) else { return Ok(()) };
        let allowed = policies.allow(&rule, act, Who::Api, Target::Name(channel));
        allowed.map_err(Refusal::forbidden)
    }

    /// Whether it is for that.
    pub(super) fn reaches(&self, target: Target<'_>) -> bool {
        let fits = |key: &ApiKey| key.channels.iter().any(|one| one.fits(None, target));
        self.0.as_deref().is_none_or(|key| key.channels.is_empty() || fits(key))
    }
}

fn hash(key: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    hash.as_ref().try_into().unwrap_or_default()
}

fn line_of(line: &str) -> Result<ApiKey, String> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().and_then(|first| first.split_once(':'));
    let Some((name, key)) = first.filter(|(name, _)| !name.is_empty()) else {
        return Err("must begin with name:key".to_owned());
    };
    if key.len() < KEY_BYTES_MIN || !key.is_ascii() {
        return Err(format!(
            "has a key of less than {KEY_BYTES_MIN} characters, or of others than \
             ASCII: `openssl rand -hex 32` makes one"
        ));
    }
    let (mut scopes, mut channels) = (Vec::new(), Vec::new());
    for word in words {
        // What is as long as a key may be one, in the wrong place.
        let short = word.len() < KEY_BYTES_MIN;
        let shown = || if short { format!("{word:?}") } else { "a long word".to_owned() };
        if let Some(pattern) = word.strip_prefix("channel:") {
            let template = Template::parse(pattern);
            channels.push(template.map_err(|bad| format!("has {}: {bad}", shown()))?);
        } else if let Some(scope) = Scope::ALL.into_iter().find(|scope| scope.as_str() == word) {
            scopes.push(scope);
        } else {
            let wanted = "a key is for publish, read, admin or channel:PATTERN";
            return Err(format!("has {}: {wanted}", shown()));
        }
    }
    if scopes.is_empty() {
        scopes.extend(Scope::ALL);
    }
    let (scopes, channels) = (scopes.into(), channels.into());
    Ok(ApiKey { name: name.into(), hash: hash(key), scopes, channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "11111111111111111111111111111111";
    const TWO: &str = "22222222222222222222222222222222";

    #[test]
    fn a_key_opens_what_its_line_says() {
        let text =
            format!("# keys\n\nops:{ONE}\nfeed:{TWO} publish channel:news:** channel:room:*\n");
        let keys = ApiKeys::parse(&text).unwrap();
        let all = keys.check(Some(ONE)).ok().unwrap();
        let feed = keys.check(Some(TWO)).ok().unwrap();
        for scope in Scope::ALL {
            assert!(all.check(scope).is_ok() && Pass::ALL.check(scope).is_ok());
            assert_eq!(feed.check(scope).is_ok(), scope == Scope::Publish, "{scope:?}");
        }
        for (channel, wanted) in [("news:a:b", true), ("room:1", true), ("room:1:2", false)] {
            assert!(all.check_channel(channel).is_ok() && Pass::ALL.check_channel(channel).is_ok());
            assert_eq!(feed.check_channel(channel).is_ok(), wanted, "{channel}");
        }
        for bad in [None, Some(""), Some("1"), Some(&*format!("{ONE}1")), Some("feed")] {
            assert_eq!(keys.check(bad).err().map(|bad| bad.status.as_u16()), Some(401), "{bad:?}");
        }
        assert!(!format!("{keys:?}").contains("1111"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

        /// Words as they may stand in such a file, in any order: a key is never shown.
        #[test]
        fn no_fault_of_a_file_shows_a_key(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "a:", "b:", ONE, TWO, " ", "\n", ":", "publish", "channel:", "*", "#", "x",
                ]),
                0..12,
            ),
        ) {
            let text = words.concat();
            if let Err((line, told)) = ApiKeys::parse(&text) {
                proptest::prop_assert!(line <= text.lines().count(), "{}: {}", line, text);
                let shown = told.contains(ONE) || told.contains(TWO);
                proptest::prop_assert!(!shown, "{}", told);
            }
        }
    }

    #[test]
    fn a_bad_line_is_named_and_not_its_key() {
        let cases = [
            ("", 0, "has no key"),
            ("# nothing\n", 0, "has no key"),
            (ONE, 1, "must begin with name:key"),
            (":11111111111111111111111111111111", 1, "must begin with name:key"),
            ("\na:short", 2, "of less than 32"),
            ("a:11111111111111111111111111111111 write", 1, "\"write\""),
            (
                "a:22222222222222222222222222222222 11111111111111111111111111111111",
                1,
                "a long word",
            ),
            ("a:11111111111111111111111111111111 channel:a*", 1, "a whole part"),
        ];
        for (text, line, problem) in cases {
            let (at, told) = ApiKeys::parse(text).err().unwrap();
            assert!(at == line && told.contains(problem), "{text:?}: {at} {told}");
            assert!(!told.contains("1111") && !told.contains("short"), "{told}");
        }
        for twice in [format!("a:{ONE}\na:{TWO}"), format!("a:{ONE}\nb:{ONE}")] {
            assert_eq!(ApiKeys::parse(&twice).err().map(|(at, _)| at), Some(2));
        }
    }
}
