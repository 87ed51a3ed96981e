//! Whether a client has said who it is, and for how long that holds.

use std::sync::Arc;

use super::bearer::Bearer;
use crate::proto::close::CloseReason;

/// How long a client may take to say who it is, in milliseconds.
pub const AUTH_MS: u64 = 5_000;

/// How long it may take to bring another token behind the end of the one it has, in milliseconds.
pub const GRACE_MS: u64 = 30_000;

/// The longest message of a client that has yet to say who it is, in bytes: a token fits.
pub const STRANGER_BYTES_MAX: usize = super::token::TOKEN_BYTES_MAX + 512;

/// Messages of a client that has yet to say who it is; one more sends it away.
pub const STRANGER_MESSAGES_MAX: u8 = 32;

/// One client. Times are milliseconds of the node's clock: a wall clock that is set by an hour
/// sends nobody away. Whoever is anonymous, where that is allowed, has no ticket at all.
#[derive(Debug, Clone)]
pub enum Ticket {
    /// It bears a token.
    Known {
        /// Who it is.
        bearer: Arc<Bearer>,
        /// When it is sent away, unless it brings another one.
        until_ms: u64,
    },
    /// It must say who it is, by then.
    Stranger {
        /// When it is sent away.
        until_ms: u64,
        /// Messages that it has sent.
        sent: u8,
    },
}

impl Ticket {
    /// Somebody who came without a token, at `now_ms`, where one is required.
    pub fn stranger(now_ms: u64) -> Self {
        Self::Stranger { until_ms: now_ms + AUTH_MS, sent: 0 }
    }

    /// Somebody whose token was verified at `now_ms`, which was `unix_ms` by the wall clock.
    pub fn known(bearer: Arc<Bearer>, unix_ms: u64, now_ms: u64) -> Self {
        let left_ms = bearer.expires_s.saturating_mul(1_000).saturating_sub(unix_ms);
        let until_ms = now_ms.saturating_add(left_ms).saturating_add(GRACE_MS);
        Self::Known { bearer, until_ms }
    }

    /// It ends by then, if it would not before.
    #[must_use]
    pub fn ended_by(mut self, by_ms: u64) -> Self {
        match &mut self {
            Self::Known { until_ms, .. } | Self::Stranger { until_ms, .. } => {
                *until_ms = by_ms.min(*until_ms);
            }
        }
        self
    }

    /// Who it is.
    pub fn bearer(&self) -> Option<&Arc<Bearer>> {
        match self {
            Self::Known { bearer, .. } => Some(bearer),
            Self::Stranger { .. } => None,
        }
    }

    /// Whether it may send one more message, where it has yet to say who it is.
    pub fn send(&mut self) -> bool {
        let Self::Stranger { sent, .. } = self else { return true };
        *sent = sent.saturating_add(1);
        *sent <= STRANGER_MESSAGES_MAX
    }

    /// When [`Ticket::over`] is next to be asked.
    pub fn wake_at(&self) -> u64 {
        match self {
            Self::Known { until_ms, .. } | Self::Stranger { until_ms, .. } => *until_ms,
        }
    }

    /// Why it is sent away at `now_ms`, if it is.
    pub fn over(&self, now_ms: u64) -> Option<CloseReason> {
        match self {
            _ if now_ms < self.wake_at() => None,
            Self::Known { .. } => Some(CloseReason::TokenExpired),
            Self::Stranger { .. } => Some(CloseReason::AuthTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_five_seconds() {
        let stranger = Ticket::stranger(1_000);
        assert_eq!(stranger.wake_at(), 6_000);
        assert_eq!(stranger.over(5_999), None);
        assert_eq!(stranger.over(6_000), Some(CloseReason::AuthTimeout));
    }

    #[test]
    fn a_stranger_has_few_messages_and_who_is_known_any_number() {
        let mut stranger = Ticket::stranger(0);
        let mut known = Ticket::known(Arc::new(Bearer::of("u1")), 0, 0);
        for _ in 0..STRANGER_MESSAGES_MAX {
            assert!(stranger.send() && known.send());
        }
        for _ in 0..300 {
            assert!(!stranger.send() && known.send());
        }
    }

    #[test]
    fn a_token_has_thirty_seconds_behind_its_end() {
        let until = |expires_s, unix_ms, now_ms| {
            let bearer = Arc::new(Bearer { expires_s, ..Bearer::of("u1") });
            let known = Ticket::known(bearer, unix_ms, now_ms);
            assert_eq!(known.over(known.wake_at() - 1), None);
            let over = known.over(known.wake_at());
            assert_eq!(over, Some(CloseReason::TokenExpired));
            known.wake_at()
        };
        assert_eq!(until(1_000, 990_500, 7), 7 + 9_500 + 30_000);
        // Taken in the leeway behind its end.
        assert_eq!(until(1_000, 1_003_000, 7), 7 + 30_000);
        assert_eq!(until(u64::MAX, 0, 7), u64::MAX);
    }
}
