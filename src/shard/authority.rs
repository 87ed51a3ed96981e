//! Who may come in: what checks tokens on this node, and what it has checked already.

use std::sync::Arc;

use parking_lot::Mutex;

use super::node::Node;
use crate::core::bearer::Bearer;
use crate::core::metrics::{Counter, Metrics};
use crate::core::token::{BadToken, Cache, Seen, Verifier};
use crate::proto::error::ErrorCode;

/// Tokens that are remembered: 16 MiB where each is of 500 bytes.
const TOKENS_MAX: usize = 32_768;

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct AuthOptions {
    /// Whether a client must bear a token.
    pub required: bool,
    /// What tokens are checked with; `None` takes none.
    pub verifier: Option<Arc<Verifier>>,
}

/// The tokens that a node has taken.
#[derive(Debug)]
pub(super) struct Taken(Mutex<Cache>);

impl Default for Taken {
    fn default() -> Self {
        Self(Mutex::new(Cache::new(TOKENS_MAX)))
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It was good, and has ended.
    Expired,
    /// Anything else. Whoever brought it is not told what.
    Invalid,
    /// No token is good here.
    NoKey,
}

impl NotTaken {
    /// The code of what its bearer is told.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::TokenExpired,
            Self::Invalid | Self::NoKey => ErrorCode::Unauthorized,
        }
    }

    /// What its bearer is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::Expired => "the token has expired: get another one",
            Self::Invalid => "the token is not valid here",
            Self::NoKey => "this node has no key to check a token",
        }
    }
}

impl Node {
    /// Finds out who bears a token, and counts that.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] is what may be told; the counter has the reason.
    pub fn authenticate(&self, token: &str, metrics: &Metrics) -> Result<Arc<Bearer>, NotTaken> {
        let Some(verifier) = &self.options().auth.verifier else {
            metrics.add(Counter::AuthNoKey, 1);
            return Err(NotTaken::NoKey);
        };
        let now_s = self.clock().token_ms() / 1_000;
        let seen = Seen::of(token);
        if let Some(bearer) = self.taken.0.lock().find(seen, now_s) {
            metrics.add(Counter::TokensSeen, 1);
            return Ok(bearer);
        }
        match verifier.verify(token, now_s) {
            Ok(bearer) => {
                let bearer = Arc::new(bearer);
                self.taken.0.lock().keep(seen, Arc::clone(&bearer));
                metrics.add(Counter::TokensVerified, 1);
                Ok(bearer)
            }
            Err(bad) => {
                metrics.add(counter(bad), 1);
                Err(if bad == BadToken::Expired { NotTaken::Expired } else { NotTaken::Invalid })
            }
        }
    }
}

fn counter(bad: BadToken) -> Counter {
    match bad {
        BadToken::Audience => Counter::AuthAudience,
        BadToken::Claims => Counter::AuthClaims,
        BadToken::Early => Counter::AuthEarly,
        BadToken::Expired => Counter::AuthExpired,
        BadToken::Issuer => Counter::AuthIssuer,
        BadToken::Key => Counter::AuthKey,
        BadToken::Long => Counter::AuthLong,
        BadToken::Malformed => Counter::AuthMalformed,
        BadToken::Signature => Counter::AuthSignature,
    }
}
