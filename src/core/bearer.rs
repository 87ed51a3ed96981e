//! What a token says of the one who bears it, once it was verified.

use std::fmt;
use std::sync::Arc;

use super::access::Template;
use super::identity::Identity;
use super::token::Proof;

/// The claims of a verified token, as far as the gateway reads them. Shared by all connections that
/// came with the same token.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Roles, for rules that name one.
    pub roles: Box<[Box<str>]>,
    /// Claims that are a text, a whole number, `true` or `false`, each as text; by name.
    pub claims: Box<[(Box<str>, Box<str>)]>,
    /// The channels that the token names for subscribing.
    pub channels: Box<[Template]>,
    /// The channels that the token names for publishing.
    pub publish: Box<[Template]>,
    /// When the token ends, in seconds since the Unix epoch.
    pub expires_s: u64,
    /// What its token was taken by; `None` of somebody who has none.
    pub proof: Option<Box<Proof>>,
}

impl Bearer {
    /// Somebody of whom nothing but the name is known.
    pub fn of(user: &str) -> Self {
        let identity = Identity { user: user.into(), info: None };
        Self {
            identity: Arc::new(identity),
            roles: Box::default(),
            claims: Box::default(),
            channels: Box::default(),
            publish: Box::default(),
            expires_s: u64::MAX,
            proof: None,
        }
    }

    /// Who it is.
    pub fn user(&self) -> &str {
        &self.identity.user
    }

    /// The text of a claim; never an empty one.
    pub fn claim(&self, name: &str) -> Option<&str> {
        let found = self.claims.iter().find(|(other, _)| **other == *name);
        found.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// Whether it has a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|other| **other == *role)
    }
}

/// Not what the token says: that is for nobody's log.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("expires_s", &self.expires_s).finish_non_exhaustive()
    }
}
