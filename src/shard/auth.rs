//! How a client says who it is, or brings another token; and what it may do from then on.

use std::cell::Cell;
use std::sync::Arc;

use super::command::Asker;
use super::durable::Pause;
use super::limits::Limited;
use super::local::Shard;
use super::node::NodeOptions;
use super::tokens::{Found, NotTaken};
use crate::core::access::{Act, Target, Who};
use crate::core::bearer::Bearer;
use crate::core::hub::SeatId;
use crate::core::identity::Identity;
use crate::core::metrics::Counter;
use crate::core::policy::PolicyRule;
use crate::core::presence::Parting;
use crate::core::ticket::{STRANGER_BYTES_MAX, Ticket};
use crate::proto::close::CloseReason;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::Author;
use crate::proto::push::{Last, Push};

/// Why a subscription has ended that its client has not ended.
const REVOKED: &str = "permission revoked";

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
    /// Takes a token, if there is still somebody to be told of it. Returns what the client waits for,
    /// where it takes long to check it.
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
        // Who brings a token and is gone would bring it in the name of this machine, for nothing.
        let Ok(from) = asker.socket.from() else { return Ok(None) };
        let found = self.node.authenticate(token, from, &self.metrics);
        let result = match found {
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
                let error = CommandError { retry_after_ms: not_taken.retry_ms(), ..error };
                let close = match not_taken {
                    NotTaken::Busy => return Err(error),
                    _ if !asker.stranger.get() => return Err(error),
                    NotTaken::TooOften(_) => CloseReason::RateLimited,
                    NotTaken::Expired | NotTaken::Invalid | NotTaken::NoKey => {
                        CloseReason::Unauthorized
                    }
                };
                self.answer_error(asker.id, &error);
                // Behind the answer.
                self.begin_close(asker.id, close);
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
        let now_ms = asker.now.node_ms();
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
