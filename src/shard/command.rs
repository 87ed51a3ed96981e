//! Carries out what a client asks.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::away::Asked;
use super::durable::{Pause, Until, counter};
use super::flush::OutOfTurn;
use super::limits::Limited;
use super::local::{Shard, Socket};
use super::signals::entries;
use crate::core::access::{Act, Target};
use crate::core::bucket::Allowance;
use crate::core::hub::{Join, Outcome, Seat, SeatId};
use crate::core::metrics::Counter;
use crate::core::policy::{Policy, PolicyRule};
use crate::core::presence::Parting;
use crate::core::session;
use crate::proto::command::{Command, Publish, Request, Subscribe};
use crate::proto::dialect::json;
use crate::proto::encoder::Frames;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::{Author, Payload};
use crate::proto::format::Subprotocol;
use crate::proto::position::Position;
use crate::proto::push::Push;
use crate::proto::ws::frame;
use crate::store::{Begun, NewEvent, Now, Published, StoreError, Wish};

/// When a client tries again whose event the store did not take, or whose token waits in vain.
pub(super) const RETRY_MS: u32 = 1_000;

/// What beginning or ending a subscription counts as beside its message, where work is counted in
/// bytes: the store, a room and tables of the shard are looked into for it.
const SUBSCRIBING_COST: usize = 512;

/// What a thing that waits for a client counts as where it is looked at when that leaves a channel.
const LOOK_COST: usize = 16;

/// Who asks, and when.
pub(super) struct Asker<'a> {
    pub(super) id: SeatId,
    pub(super) socket: &'a Socket,
    pub(super) author: &'a Arc<Author>,
    pub(super) now: Now,
    /// What its binary messages are.
    pub(super) subprotocol: Subprotocol,
    /// Work, counted in bytes of messages, until others have their chance.
    pub(super) budget: &'a Cell<usize>,
    /// It has yet to say who it is.
    pub(super) stranger: Cell<bool>,
    /// Who it is since a command of this turn.
    pub(super) became: RefCell<Option<Arc<Author>>>,
}

impl Asker<'_> {
    /// Who it is now.
    pub(super) fn author(&self) -> Arc<Author> {
        Arc::clone(self.became.borrow().as_ref().unwrap_or(self.author))
    }
}

/// Calls `act` as if a client asked, who has not.
pub(super) fn asking(shard: &Shard, (id, socket): (SeatId, &Socket), act: impl FnOnce(&Asker<'_>)) {
    let Some((author, stranger)) = shard.who(id) else { return };
    let (author, became) = (&author, RefCell::default());
    let (now, budget) = (shard.node.clock().now(), &Cell::new(usize::MAX));
    let subprotocol = Subprotocol::default();
    act(&Asker { id, socket, author, now, subprotocol, budget, stranger, became });
}

/// An event that a client publishes, on a channel of a legal name.
pub(super) struct New<'a> {
    pub(super) channel: &'a str,
    pub(super) key: Option<Box<str>>,
    /// Whether the publisher wants it too.
    pub(super) echo: bool,
    pub(super) payload: Payload,
    /// What makes a retry harmless.
    pub(super) message_id: Option<&'a str>,
    /// What was made of its frames already.
    pub(super) frames: Frames,
}

impl<'a> From<&Publish<'a>> for New<'a> {
    fn from(publish: &Publish<'a>) -> Self {
        Self {
            channel: publish.channel,
            key: publish.key.map(Box::from),
            echo: publish.echo,
            message_id: publish.message_id,
            payload: Payload::Json(Box::from(publish.data)),
            frames: Frames::default(),
        }
    }
}

impl Shard {
    /// Carries out one request and queues its answer. Returns what the client waits for before it
    /// is read again.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn execute(
        &self,
        asker: &Asker<'_>,
        request: &Request<'_>,
    ) -> Result<Option<Pause>, CommandError> {
        self.metrics.add(kind(&request.command), 1);
        self.check_pace(asker, request.id)?;
        session::check(request)?;
        self.carry_out(asker, request)
    }

    /// Counts a command, and whether there are too many of them in a second.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn check_pace(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
    ) -> Result<(), CommandError> {
        let most = self.node.limits().commands_per_second();
        let Some(allowance) = Allowance::per_second(most) else { return Ok(()) };
        let asked = self.paces.borrow_mut().ask(asker.id, allowance, asker.now.node_ns);
        asked.map_err(|wait_ms| self.too_fast(asker, id, (most, wait_ms)))
    }

    #[cold]
    fn too_fast(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        (most, wait_ms): (u32, u32),
    ) -> CommandError {
        self.metrics.add(Limited::Commands.counter(), 1);
        self.node.limits().tell(Limited::Commands, || asker.socket.ip(), asker.now.node_ns);
        let message = format!("more than {most} commands in a second");
        let error = CommandError::new(id, ErrorCode::RateLimited, message);
        CommandError { retry_after_ms: Some(wait_ms), ..error }
    }

    /// As [`Shard::execute`], of a request that was checked and counted.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn carry_out(
        &self,
        asker: &Asker<'_>,
        request: &Request<'_>,
    ) -> Result<Option<Pause>, CommandError> {
        let id = request.id;
        if !matches!(request.command, Command::Auth { .. } | Command::Ping) {
            asker.check_known(id)?;
        }
        let mut until = None;
        match &request.command {
            Command::Ping => self.answer(asker.id, &Push::Pong { id }),
            Command::Publish(publish) => return self.publish(asker, id, publish.into()),
            Command::Subscribe(subscribe) => match subscribe.channel.strip_suffix('*') {
                Some(prefix) => until = self.subscribe_pattern(asker, id, (prefix, subscribe))?,
                None => until = self.subscribe(asker, id, subscribe)?,
            },
            Command::Unsubscribe { channel } => match channel.strip_suffix('*') {
                Some(prefix) => self.unsubscribe_pattern(asker, id, (prefix, channel))?,
                None => self.unsubscribe(asker, id, channel)?,
            },
            Command::History(history) => until = self.history(asker, id, history)?,
            Command::Presence { channel } => self.presence(asker, id, channel)?,
            Command::Signal(signal) => {
                return Ok(self.signal(asker, id, signal)?.map(Pause::Mailbox));
            }
            Command::Auth { token } => return self.auth(asker, id, token.0),
            // `session::check` has refused these.
            Command::Request(_) => {}
        }
        let asked = until.as_ref().and_then(|_| Asked::of(request));
        Ok(asked.zip(until).map(|(asked, until)| Pause::Again(Box::new(asked), until)))
    }

    /// Queues a message on the control lane.
    pub(super) fn answer(&self, id: SeatId, push: &Push<'_>) {
        if let Some(seat) = self.hub.borrow_mut().seat(id) {
            let mut text = Vec::with_capacity(192);
            json::encode_push(push, &mut text);
            frame::push_text(&text, seat.outbox.control());
        }
    }

    /// Queues an error and counts it.
    pub(super) fn answer_error(&self, id: SeatId, error: &CommandError) {
        self.metrics.error(error.code);
        self.answer(id, &Push::Error(error));
    }

    /// Publishes an event. Returns what the client waits for before it is read again.
    ///
    /// # Errors
    ///
    /// The answer for the client, not yet queued.
    pub(super) fn publish(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        new: New<'_>,
    ) -> Result<Option<Pause>, CommandError> {
        let New { channel, key, echo, payload, message_id, frames } = new;
        asker.check_known(id)?;
        let rule = self.policy(id, channel)?;
        self.allow(asker.id, id, &rule, (Act::Publish, Target::Name(channel)))?;
        let event = NewEvent {
            channel: Cow::Borrowed(channel),
            key,
            payload,
            from: Some(asker.author()),
            hidden_from: (!echo).then_some(asker.author.client),
            message_id: message_id.map(Cow::Borrowed),
            keep: rule.keep,
            frames,
        };
        if rule.keep.durable {
            return self.publish_durable(asker, id, event);
        }
        let taken = self.node.store().publish(event, asker.now);
        let published = taken.map_err(|away| unavailable(id, away))?;
        self.metrics.add(counter(&published, Counter::EventsPublishedWs), 1);
        if let Some(id) = id {
            let Published { position, duplicate, .. } = published;
            self.answer(asker.id, &Push::Published { id, channel, position, duplicate });
        }
        Ok(published.crowded.map(Pause::Mailbox))
    }

    fn subscribe(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        subscribe: &Subscribe<'_>,
    ) -> Result<Option<Until>, CommandError> {
        asker.spend(SUBSCRIBING_COST);
        let channel = subscribe.channel;
        let rule = self.policy(id, channel)?;
        self.allow(asker.id, id, &rule, (Act::Subscribe, Target::Name(channel)))?;
        if let Some(until) = self.unsettled(asker, rule.keep.durable) {
            return Ok(Some(until));
        }
        let policy = chosen(id, rule, subscribe.slow)?;
        let (keys_max, max_rate) = (rule.keys_max, subscribe.max_rate);
        let join = |head: Position| Join { policy, position: head.offset, keys_max, max_rate };
        if let Some(have) = self.node.store().find(channel)
            && self.hub.borrow().is_subscribed(asker.id, have.alias)
        {
            let (position, alias) = (have.head, have.alias.0);
            let join = join(position);
            let which = (asker.id, have.alias);
            let now_ms = asker.now.node_ms();
            let mut writer = OutOfTurn(self);
            let outcome = self.hub.borrow_mut().update(which, join, &mut writer, now_ms);
            let recovered = recovered(subscribe, position);
            let (updated, signals) = (true, None);
            let push =
                Push::Subscribed { id, channel, position, alias, recovered, updated, signals };
            self.answer(asker.id, &push);
            // A close comes behind the answer.
            self.settle(outcome);
            return Ok(None);
        }
        self.count_subscription(asker, id)?;
        // What it has by pattern it must not get again, and out of its order.
        let by_pattern = self.hub.borrow().has_by_pattern(asker.id, channel);
        let wish = Wish {
            since: subscribe.since,
            snapshot: subscribe.snapshot && !by_pattern,
            recovery_max: if by_pattern { 0 } else { rule.recovery_max },
            keep: rule.keep,
        };
        let begun = self.node.store().subscribe(channel, self.id, wish, asker.now);
        let Begun { joined, recovered, past } = match begun {
            Ok(begun) => begun,
            Err(error) => return self.load(id, (channel, rule.keep), error).map(Some),
        };
        let (alias, position) = (joined.alias, joined.head);
        let (which, mut writer) = ((asker.id, alias), OutOfTurn(self));
        let now_ms = asker.now.node_ms();
        let outcome = {
            let mut hub = self.hub.borrow_mut();
            let outcome = hub.settle_channel(which, &mut writer, now_ms);
            let to = (&joined.channel, alias);
            hub.subscribe(asker.id, to, join(position));
            if let Some(past) = past {
                hub.recall(asker.id, to, past);
            }
            outcome
        };
        let signals = self.enter_room(asker, (&joined.channel, alias));
        if let Some(whole) = recovered {
            let counter = if whole { Counter::RecoveriesWhole } else { Counter::RecoveriesNot };
            self.metrics.add(counter, 1);
        }
        let alias = alias.0;
        let (updated, signals) = (false, signals.as_deref().map(entries));
        let signals = signals.as_deref();
        let push = Push::Subscribed { id, channel, position, alias, recovered, updated, signals };
        self.answer(asker.id, &push);
        // A close comes behind the answer.
        self.settle(outcome);
        Ok(None)
    }

    fn unsubscribe(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        channel: &str,
    ) -> Result<(), CommandError> {
        asker.spend(SUBSCRIBING_COST);
        let seen = |seat: &mut Seat| seat.outbox.looks_of_purge();
        asker.spend(self.hub.borrow_mut().seat(asker.id).map_or(0, seen) * LOOK_COST);
        let outcome = self.end_subscription(asker, id, channel)?;
        self.answer(asker.id, &Push::Unsubscribed { id, channel, why: None });
        // A close comes behind the answer.
        self.settle(outcome);
        Ok(())
    }

    /// Ends a subscription, and tells nobody yet.
    pub(super) fn end_subscription(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
        channel: &str,
    ) -> Result<Outcome, CommandError> {
        let have = self.node.store().find(channel);
        let have_alias = have.as_ref().map(|have| have.alias);
        let now_ms = asker.now.node_ms();
        let ended = have.and_then(|have| {
            let (which, mut writer) = ((asker.id, have.alias), OutOfTurn(self));
            self.hub.borrow_mut().unsubscribe(which, &mut writer, now_ms)
        });
        let (last, outcome) = ended.ok_or_else(|| not_subscribed(id))?;
        if let Some(have) = have_alias {
            self.end_signals_on(asker.author.client, have);
        }
        self.node.store().unsubscribe(channel, self.id, last, asker.now);
        self.leave_room(asker.author.client, channel, (Parting::Asked, last), asker.now);
        Ok(outcome)
    }

    /// Whether the connection may have one more subscription.
    pub(super) fn count_subscription(
        &self,
        asker: &Asker<'_>,
        id: Option<u64>,
    ) -> Result<(), CommandError> {
        let max = self.options().subscriptions_max;
        if self.hub.borrow().subscriptions_of(asker.id) < max {
            return Ok(());
        }
        let message = format!("a connection may have {max} subscriptions");
        Err(CommandError::new(id, ErrorCode::LimitExceeded, message))
    }

    pub(super) fn policy(
        &self,
        id: Option<u64>,
        channel: &str,
    ) -> Result<PolicyRule, CommandError> {
        self.options().policies.of(channel).ok_or_else(|| {
            let message =
                "the channel's namespace is not configured, and only configured ones exist";
            CommandError::new(id, ErrorCode::UnknownChannel, message)
        })
    }
}

/// Nothing is kept of a channel's past: whoever missed nothing has recovered.
fn recovered(subscribe: &Subscribe<'_>, head: Position) -> Option<bool> {
    subscribe.since.map(|(epoch, offset)| head.missed_since(epoch, offset) == Some(0))
}

/// The policy that a subscription asks for, where it may.
pub(super) fn chosen(
    id: Option<u64>,
    rule: PolicyRule,
    slow: Option<&str>,
) -> Result<Policy, CommandError> {
    let Some(name) = slow else { return Ok(rule.policy) };
    let message = match Policy::parse(name) {
        Some(policy) if policy == rule.policy || rule.choice => return Ok(policy),
        Some(_) => {
            let only = rule.policy.as_str();
            format!("this channel's slow-consumer policy is {only} for all")
        }
        None => {
            let known = Policy::ALL.map(Policy::as_str).join(", ");
            format!("`slow` must be one of {known}")
        }
    };
    Err(CommandError::new(id, ErrorCode::BadRequest, message))
}

pub(super) fn not_subscribed(id: Option<u64>) -> CommandError {
    let message = "this connection has no subscription to that channel";
    CommandError::new(id, ErrorCode::NotSubscribed, message)
}

pub(super) fn unavailable(id: Option<u64>, away: StoreError) -> CommandError {
    let code = match away {
        StoreError::Away | StoreError::Faulty | StoreError::Unloaded => ErrorCode::Unavailable,
        StoreError::Crowded => ErrorCode::Overloaded,
        StoreError::Full => ErrorCode::LimitExceeded,
    };
    let retry_after_ms = (code != ErrorCode::LimitExceeded).then_some(RETRY_MS);
    CommandError { retry_after_ms, ..CommandError::new(id, code, away.to_string()) }
}

fn kind(command: &Command<'_>) -> Counter {
    match command {
        Command::Ping => Counter::CommandsPing,
        Command::Publish(_) => Counter::CommandsPublish,
        Command::Subscribe(_) => Counter::CommandsSubscribe,
        Command::Unsubscribe { .. } => Counter::CommandsUnsubscribe,
        Command::Auth { .. } => Counter::CommandsAuth,
        Command::History(_) => Counter::CommandsHistory,
        Command::Presence { .. } => Counter::CommandsPresence,
        Command::Request(_) => Counter::CommandsRequest,
        Command::Signal(_) => Counter::CommandsSignal,
    }
}
