//! Who may come in: what checks tokens on this node, and which it has checked already; how a client
//! says who it is, or brings another token; and what it may do from then on.

use std::cell::Cell;
use std::sync::Arc;

use parking_lot::Mutex;

use super::command::{Asker, RETRY_MS};
use super::durable::Pause;
use super::limits::Limited;
use super::local::Shard;
use super::node::{Node, NodeOptions};
use super::verify::Unchecked;
use crate::core::access::{Act, Target, Who};
use crate::core::bearer::Bearer;
use crate::core::hub::SeatId;
use crate::core::identity::Identity;
use crate::core::metrics::{Counter, Metrics};
use crate::core::policy::PolicyRule;
use crate::core::presence::Parting;
use crate::core::ticket::{GRACE_MS, STRANGER_BYTES_MAX, Ticket};
use crate::core::token::{BadToken, Cache, Seen, Verifier};
use crate::proto::close::CloseReason;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::Author;
use crate::proto::push::{Last, Push};

/// Why a subscription has ended that its client has not ended.
const REVOKED: &str = "permission revoked";

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

impl AuthOptions {
    /// The ticket of somebody whose token was verified. Where keys have changed meanwhile, so that
    /// it would not be any more, it ends soon: at a moment of its own, for there may be many.
    pub(super) fn ticket(&self, bearer: Arc<Bearer>, unix_ms: u64, now_ms: u64) -> Ticket {
        let takes = self.takes(&bearer);
        let ticket = Ticket::known(bearer, unix_ms, now_ms);
        if takes { ticket } else { ticket.ended_by(now_ms + fastrand::u64(0..=GRACE_MS)) }
    }

    /// Whether somebody who has come with a token could come with it.
    pub fn takes(&self, bearer: &Bearer) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.takes(bearer))
    }
}

/// The tokens that a node has taken, and by what: under one lock, so that none is remembered that
/// keys of before have let in.
#[derive(Debug)]
pub(super) struct Taken(Mutex<Known>);

#[derive(Debug)]
struct Known {
    verifier: Option<Arc<Verifier>>,
    cache: Cache,
}

impl Taken {
    /// None yet.
    pub(super) fn by(verifier: Option<Arc<Verifier>>) -> Self {
        Self(Mutex::new(Known { verifier, cache: Cache::new(TOKENS_MAX) }))
    }

    /// Who bears a token that was taken before, and what takes those that were not.
    fn find(&self, seen: Seen, now_s: u64) -> (Option<Arc<Bearer>>, Option<Arc<Verifier>>) {
        let mut known = self.0.lock();
        (known.cache.find(seen, now_s), known.verifier.clone())
    }

    /// Remembers who bears a token that `by` has taken, unless that is not what takes them now.
    fn keep(&self, seen: Seen, bearer: &Arc<Bearer>, by: &Arc<Verifier>) {
        let mut known = self.0.lock();
        if known.verifier.as_ref().is_some_and(|verifier| Arc::ptr_eq(verifier, by)) {
            known.cache.keep(seen, Arc::clone(bearer));
        }
    }

    /// Takes tokens by that from here on, and forgets those that it would not take.
    pub(super) fn change(&self, verifier: Option<Arc<Verifier>>) {
        let mut known = self.0.lock();
        known.cache.retain(|bearer| verifier.as_ref().is_some_and(|it| it.takes(bearer)));
        known.verifier = verifier;
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Too many wait to be checked.
    Busy,
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
            Self::Busy => ErrorCode::Overloaded,
            Self::Expired => ErrorCode::TokenExpired,
            Self::Invalid | Self::NoKey => ErrorCode::Unauthorized,
        }
    }

    /// What its bearer is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::Busy => "too many tokens wait to be checked",
            Self::Expired => "the token has expired: get another one",
            Self::Invalid => "the token is not valid here",
            Self::NoKey => "this node has no key to check a token",
        }
    }
}

/// What is known of a token.
pub enum Found {
    /// Who bears it, or why it is not taken.
    Known(Result<Arc<Bearer>, NotTaken>),
    /// It takes long to check it: not on a shard's thread.
    Slow(Unchecked),
}

impl Node {
    /// Finds out who bears a token, where that takes no time, and counts that.
    pub fn authenticate(&self, token: &str, metrics: &Metrics) -> Found {
        let now_s = self.clock().token_ms() / 1_000;
        let seen = Seen::of(token);
        let (found, verifier) = self.taken.find(seen, now_s);
        let Some(verifier) = verifier else {
            metrics.add(Counter::AuthNoKey, 1);
            return Found::Known(Err(NotTaken::NoKey));
        };
        if let Some(bearer) = found {
            metrics.add(Counter::TokensSeen, 1);
            return Found::Known(Ok(bearer));
        }
        if verifier.is_slow(token) {
            return Found::Slow(Unchecked { token: token.into(), seen, verifier, now_s });
        }
        let result = verifier.verify(token, now_s);
        Found::Known(self.checked((seen, &verifier), result, metrics))
    }

    /// Who bears a token that was checked, with what it was checked by, and counts that.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] is what may be told; the counter has the reason.
    pub(super) fn checked(
        &self,
        (seen, verifier): (Seen, &Arc<Verifier>),
        result: Result<Bearer, BadToken>,
        metrics: &Metrics,
    ) -> Result<Arc<Bearer>, NotTaken> {
        match result {
            Ok(bearer) => {
                let bearer = Arc::new(bearer);
                self.taken.keep(seen, &bearer, verifier);
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

impl Asker<'_> {
    /// Whether it has said who it is, where that is required.
    ///
    /// # Errors
    ///
    /// The answer for the client.
    pub(super) fn check_known(&self, id: Option<u64>) -> Result<(), CommandError> {
        if !self.stranger.get() {
            return Ok(());
        }
        let message = "this node wants a token first: send auth";
        Err(CommandError::new(id, ErrorCode::Unauthorized, message))
    }

    /// The longest message that it may send.
    pub(super) fn message_max(&self, max: usize) -> usize {
        if self.stranger.get() { max.min(STRANGER_BYTES_MAX) } else { max }
    }
}

impl Shard {
    /// Takes a token. Returns what the client waits for, where it takes long to check it.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn auth(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        token: &str,
    ) -> Result<Option<Pause>, CommandError> {
        let result = match self.node.authenticate(token, &self.metrics) {
            Found::Known(result) => result,
            Found::Slow(unchecked) => match self.verify(unchecked) {
                Ok(verifying) => return Ok(Some(Pause::Verified(id, Box::new(verifying)))),
                Err(busy) => Err(busy),
            },
        };
        self.authenticated(asker, id, result).map(|()| None)
    }

    /// A token was checked. A bad one sends away who has nothing better, where a token is required.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn authenticated(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        result: Result<Arc<Bearer>, NotTaken>,
    ) -> Result<(), CommandError> {
        let bearer = match result {
            Ok(bearer) => bearer,
            Err(not_taken) => {
                let error = CommandError::new(id, not_taken.code(), not_taken.message());
                if not_taken == NotTaken::Busy {
                    return Err(CommandError { retry_after_ms: Some(RETRY_MS), ..error });
                }
                if !asker.stranger.get() {
                    return Err(error);
                }
                self.answer_error(asker.id, &error);
                // Behind the answer.
                self.begin_close(asker.id, CloseReason::Unauthorized);
                return Ok(());
            }
        };
        let before = asker.author();
        if before.user.as_deref().is_some_and(|user| user != bearer.user()) {
            self.metrics.add(Counter::AuthUser, 1);
            let message = "another token must have the same sub: connect again as another user";
            return Err(CommandError::new(id, ErrorCode::Forbidden, message));
        }
        if before.user.is_none() && !self.count_user(asker, bearer.user()) {
            let message = "this user has as many connections as it may";
            let error = CommandError::new(id, ErrorCode::LimitExceeded, message);
            self.answer_error(asker.id, &error);
            self.begin_close(asker.id, CloseReason::ConnectionLimit);
            return Ok(());
        }
        self.stand(asker, &before, bearer);
        self.answer(asker.id, &Self::welcome(&self.options(), id, &asker.author(), None));
        self.recheck(asker);
        Ok(())
    }

    /// Counts a connection as one of a user, if there may be one more of them.
    fn count_user(&self, asker: &Asker<'_>, user: &str) -> bool {
        let Some(mut place) = asker.socket.place.take() else { return true };
        let limits = self.node.limits();
        let fits = place.count_user(limits, user);
        asker.socket.place.set(Some(place));
        if !fits {
            let limited = Limited::ConnectionsPerUser;
            self.metrics.add(limited.counter(), 1);
            limits.tell(limited, || asker.socket.ip(), asker.now.node_ns);
        }
        fits
    }

    /// Gives a client the ticket of a token.
    fn stand(&self, asker: &Asker<'_>, before: &Arc<Author>, bearer: Arc<Bearer>) {
        let Some(socket) = self.socket(asker.id) else { return };
        let now_ms = asker.now.node_ns / 1_000_000;
        let is_new = before.user.is_none();
        let author = if is_new {
            Arc::new(Author { client: before.client, user: Some(bearer.user().into()) })
        } else {
            Arc::clone(before)
        };
        // Keys may have changed while its token was looked at; this shard may not have heard of it.
        let unix_ms = self.node.clock().token_ms();
        let ticket = self.node.options().auth.ticket(bearer, unix_ms, now_ms);
        if let Some(seat) = self.hub.borrow_mut().seat(asker.id) {
            seat.author = Arc::clone(&author);
            self.arm((asker.id, socket.client), &mut seat.session, ticket.wake_at());
            seat.set_ticket(ticket);
        }
        asker.stranger.set(false);
        asker.became.replace(Some(author));
        if is_new {
            // What it has shown was shown by somebody else, and others are to see who it is.
            self.end_signals(before.client);
            let channels = self.hub.borrow().channels_of(asker.id);
            for (channel, alias) in channels {
                let parting = (Parting::Asked, false);
                self.leave_room(before.client, channel.as_str(), parting, asker.now);
                self.enter_room(asker, (&channel, alias));
            }
        }
    }

    /// Who a connection is, as its events say, and whether it has yet to say so.
    pub(super) fn who(&self, id: SeatId) -> Option<(Arc<Author>, Cell<bool>)> {
        let mut hub = self.hub.borrow_mut();
        let seat = hub.seat(id)?;
        let stranger = matches!(seat.ticket(), Some(Ticket::Stranger { .. }));
        Some((Arc::clone(&seat.author), Cell::new(stranger)))
    }

    /// Who a connection is, as others are shown.
    pub(super) fn identity(&self, id: SeatId) -> Option<Arc<Identity>> {
        let mut hub = self.hub.borrow_mut();
        let ticket = hub.seat(id)?.ticket()?;
        ticket.bearer().map(|bearer| Arc::clone(&bearer.identity))
    }

    /// The first message to a client, and the answer to `auth`.
    pub(super) fn welcome<'a>(
        options: &'a NodeOptions,
        id: Option<u64>,
        author: &'a Author,
        last: Option<Last>,
    ) -> Push<'a> {
        Push::Welcome {
            id,
            client: author.client,
            user: author.user.as_deref(),
            node: &options.node_name,
            ping_ms: u64::try_from(options.ping_interval.as_millis()).unwrap_or(u64::MAX),
            message_bytes: options.message_bytes,
            last,
        }
    }

    /// Ends what the client has and may not have any more. Returns how many subscriptions.
    pub(super) fn recheck(&self, asker: &Asker<'_>) -> u64 {
        let (channels, prefixes) = {
            let hub = self.hub.borrow();
            (hub.channels_of(asker.id), hub.prefixes_of(asker.id))
        };
        let mut revoked = 0;
        for (channel, alias) in channels {
            self.show_presence(asker, (&channel, alias));
            let name = channel.as_str();
            let why = self.may_have(asker.id, self.policy(None, name), Target::Name(name)).err();
            revoked += u64::from(why.is_some_and(|why| self.revoke(asker, name, &why)));
        }
        for prefix in prefixes {
            let rule = self.pattern_rule(None, &prefix);
            let why = self.may_have(asker.id, rule, Target::Prefix(&prefix)).err();
            revoked += u64::from(why.is_some_and(|why| self.revoke_pattern(asker, &prefix, &why)));
        }
        revoked
    }

    /// Whether a connection may have a subscription that it has.
    ///
    /// # Errors
    ///
    /// What it is told.
    fn may_have(
        &self,
        id: SeatId,
        rule: Result<PolicyRule, CommandError>,
        target: Target<'_>,
    ) -> Result<(), CommandError> {
        let allowed = self.allow(id, None, &rule?, (Act::Subscribe, target));
        allowed.map_err(|_| CommandError::new(None, ErrorCode::Forbidden, REVOKED))
    }

    fn revoke(&self, asker: &Asker<'_>, channel: &str, why: &CommandError) -> bool {
        let ended = self.end_subscription(asker, None, channel);
        ended.is_ok_and(|outcome| {
            self.tell_revoked(asker, channel, why);
            self.settle(outcome);
            true
        })
    }

    fn revoke_pattern(&self, asker: &Asker<'_>, prefix: &str, why: &CommandError) -> bool {
        let ended = self.end_pattern(asker, None, prefix);
        ended.is_ok_and(|outcome| {
            self.tell_revoked(asker, &format!("{prefix}*"), why);
            self.settle(outcome);
            true
        })
    }

    fn tell_revoked(&self, asker: &Asker<'_>, channel: &str, why: &CommandError) {
        self.metrics.add(Counter::SubscriptionsRevoked, 1);
        let why = Some((why.code, &*why.message));
        self.answer(asker.id, &Push::Unsubscribed { id: None, channel, why });
    }

    /// Whether a connection may do that on a channel of this rule, or on all of a prefix.
    ///
    /// # Errors
    ///
    /// The answer for the client.
    pub(super) fn allow(
        &self,
        seat: SeatId,
        id: Option<u64>,
        rule: &PolicyRule,
        (act, target): (Act, Target<'_>),
    ) -> Result<(), CommandError> {
        if rule.access.is_open(act) {
            return Ok(());
        }
        let mut hub = self.hub.borrow_mut();
        let ticket = hub.seat(seat).and_then(|seat| seat.ticket());
        let who = Who::Client(ticket.and_then(Ticket::bearer).map(|bearer| &**bearer));
        let allowed = self.options().policies.allow(rule, act, who, target);
        allowed.map_err(|message| CommandError::new(id, ErrorCode::Forbidden, message))
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
