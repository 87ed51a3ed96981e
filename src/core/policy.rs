//! What happens to a subscriber whose queue is full, by namespace and by its own choice.

use std::collections::HashMap;

/// What happens at the bound of a subscriber's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The connection is closed with 4000.
    Disconnect,
    /// The new events go, and `lagged` tells which.
    DropNewest,
    /// The oldest queued events of the channel go, and `lagged` tells which.
    DropOldest,
    /// Everything of the channel leaves the queue; when there is room, `lagged` tells what was missed
    /// and the newest event of each key in it follows.
    Latest,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Disconnect, Self::DropNewest, Self::DropOldest, Self::Latest];

    /// The policy of that name on the wire and in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }

    /// Its name on the wire and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropNewest => "drop_newest",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
        }
    }
}

/// What a namespace says about slow consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// The policy of its channels.
    pub policy: Policy,
    /// Whether a client may ask for another one.
    pub choice: bool,
    /// Keys whose newest event is kept for those who lag under [`Policy::Latest`].
    pub keys_max: usize,
}

/// The rules of every namespace.
#[derive(Debug, Clone)]
pub struct Policies {
    default: PolicyRule,
    namespaces: HashMap<String, PolicyRule>,
    strict: bool,
}

impl Policies {
    /// `default` for every channel but those of the namespaces named.
    pub fn new(
        default: PolicyRule,
        namespaces: impl IntoIterator<Item = (String, PolicyRule)>,
    ) -> Self {
        Self { default, namespaces: namespaces.into_iter().collect(), strict: false }
    }

    /// With `true`, a channel of a namespace that is not named does not exist.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The rule for a channel; `None` where its namespace must be configured and is not.
    pub fn of(&self, channel: &str) -> Option<PolicyRule> {
        let Some(namespace) = crate::proto::name::namespace(channel) else {
            return Some(self.default);
        };
        match self.namespaces.get(namespace) {
            Some(rule) => Some(*rule),
            None if self.strict => None,
            None => Some(self.default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_node_knows_only_configured_namespaces() {
        let rule = |policy| PolicyRule { policy, choice: true, keys_max: 10 };
        let open = Policies::new(
            rule(Policy::DropOldest),
            [("logs".to_owned(), rule(Policy::Disconnect))],
        );
        assert_eq!(open.of("logs:a").map(|r| r.policy), Some(Policy::Disconnect));
        assert_eq!(open.of("other:a").map(|r| r.policy), Some(Policy::DropOldest));
        let strict = open.strict(true);
        assert_eq!(strict.of("other:a"), None);
        assert!(strict.of("plain").is_some(), "a name without ':' has the defaults");
    }

    #[test]
    fn names_survive() {
        for policy in Policy::ALL {
            assert_eq!(Policy::parse(policy.as_str()), Some(policy));
        }
        assert_eq!(Policy::parse("never"), None);
    }
}
