//! Settings that change while the node runs. Every shard gets them by its mailbox, goes by them from
//! then on, and looks again at what its clients have: whether they may, and how.
//!
//! Where settings change again before a shard has looked at all its clients, it looks a second time
//! when the first look is done. Whether a client may is by the newest settings in both, and each
//! changes what was otherwise before: so an older look never undoes a newer one, however late it is.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Barrier, oneshot};

use super::command::{Asker, asking};
use super::flush::{Flushed, OutOfTurn, wake};
use super::local::{Shard, Socket, TABLES_SHARE};
use super::mailbox::Order;
use super::node::{ANSWER, Node, NodeOptions, SIGNALS_SHARE};
use crate::core::hub::{Join, SeatId};
use crate::core::policy::{Policy, PolicyRule, RoomRule};
use crate::core::ticket::Ticket;
use crate::proto::name::{Alias, ChannelName, ClientId};

/// Connections and subscriptions that are looked at before others have their chance.
const LOOKS_A_TURN: usize = 1_024;

/// What became of those who were there when settings changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Subscriptions that ended, because they are not allowed any more.
    pub revoked: u64,
    /// Connections that have to bring a token, or another one, or else are sent away.
    pub ending: u64,
    /// Shards that have answered.
    pub shards: usize,
}

/// How often settings were to change, for metrics.
#[derive(Debug, Default)]
pub struct Reloads {
    taken: AtomicU64,
    refused: AtomicU64,
    /// When they were last taken, Unix seconds; 0 is at the start.
    last_s: AtomicU64,
}

impl Reloads {
    /// Others were taken, at `unix_s`.
    pub fn count(&self, unix_s: u64) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.last_s.store(unix_s, Ordering::Relaxed);
    }

    /// What was to be taken was faulty.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often others were taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How often they were faulty.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// When they were last taken, Unix seconds; `None` is at the start.
    pub fn last_s(&self) -> Option<u64> {
        Some(self.last_s.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }
}

impl Node {
    /// Goes by other settings from here on, with everybody who is there. Returns when every shard
    /// has looked at all its clients. One after the other: whoever calls sees to that.
    pub async fn change(&self, options: NodeOptions) -> Changed {
        let options = Arc::new(options);
        self.limits().set(&options.limits);
        self.memory().set_limit(options.memory_max);
        self.signals().set_max(options.memory_max / SIGNALS_SHARE);
        self.settings().store(Arc::clone(&options));
        self.taken.change(options.auth.verifier.clone());
        let looked = Arc::new(Barrier::new(self.shards()));
        let order = |answer| Order::Change(Arc::clone(&options), Arc::clone(&looked), answer);
        let shards = self.ask(order).await;
        let mut all = Changed { shards: shards.len(), ..Changed::default() };
        for shard in shards {
            all.revoked += shard.revoked;
            all.ending += shard.ending;
        }
        all
    }
}

/// What the settings of a shard were, and are.
struct Change {
    before: Rc<NodeOptions>,
    after: Rc<NodeOptions>,
    /// Whether those of namespaces are others.
    rules: bool,
}

/// How much was looked at since others had their chance.
#[derive(Default)]
struct Pace(usize);

impl Pace {
    /// Before so many looks more.
    async fn keep(&mut self, looks: usize) {
        self.0 += looks;
        if self.0 >= LOOKS_A_TURN {
            self.0 = looks;
            tokio::task::yield_now().await;
        }
    }
}

/// A shard is looking at its clients.
struct Looking(Rc<Shard>);

impl Looking {
    fn new(shard: &Rc<Shard>) -> Self {
        shard.looking.set(shard.looking.get() + 1);
        Self(Rc::clone(shard))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.looking.set(self.0.looking.get() - 1);
    }
}

impl Shard {
    /// Goes by other settings from here on, and looks at everybody who is there, some at a time.
    pub(super) fn change(
        self: &Rc<Self>,
        options: &NodeOptions,
        looked: Arc<Barrier>,
        done: oneshot::Sender<Changed>,
    ) {
        let after = Rc::new(options.clone());
        let before = self.settings.replace(Rc::clone(&after));
        let clients = {
            let mut hub = self.hub.borrow_mut();
            hub.reset(after.outbox, after.compression);
            hub.bound_tables(after.memory_max / TABLES_SHARE / self.node.shards().max(1));
            let ids = hub.seat_ids();
            let client = |id| Some((id, hub.seat(id)?.author.client));
            ids.into_iter().filter_map(client).collect::<Vec<_>>()
        };
        let rules = before.policies != after.policies;
        let change = Change { before, after, rules };
        let looking = Looking::new(self);
        let earlier = self.last_look.take();
        let look = tokio::task::spawn_local(async move {
            if let Some(earlier) = earlier
                && let Err(error) = earlier.await
            {
                tracing::error!(%error, "a look at clients has come to nothing");
            }
            let shard = &looking.0;
            let mut changed = Changed::default();
            let mut pace = Pace::default();
            for who in &clients {
                let looks = 1 + shard.hub.borrow().subscriptions_of(who.0);
                pace.keep(looks).await;
                shard.look_again(*who, &change, &mut changed);
            }
            if change.rules {
                // Those who are told by a room hear the ends of all signals before it may close. A
                // shard that has ended never comes.
                if tokio::time::timeout(ANSWER, looked.wait()).await.is_err() {
                    tracing::warn!("a shard has not looked at its clients within {ANSWER:?}");
                }
                for who in &clients {
                    let looks = 1 + shard.hub.borrow().subscriptions_of(who.0);
                    pace.keep(looks).await;
                    shard.change_rooms(*who, &change);
                }
            }
            drop(looking);
            if done.send(changed).is_err() {
                tracing::debug!("whoever has changed the settings has gone");
            }
        });
        self.last_look.set(Some(look));
    }

    /// The socket of a client, unless it has gone or is on its way.
    fn present(&self, (id, client): (SeatId, ClientId)) -> Option<Rc<Socket>> {
        let socket = self.socket(id)?;
        (socket.client == client && socket.ending.get().is_none()).then_some(socket)
    }

    /// Looks at one client: its ticket, its subscriptions and its timer.
    fn look_again(&self, who: (SeatId, ClientId), change: &Change, changed: &mut Changed) {
        let Some(socket) = self.present(who) else { return };
        let newest = self.options();
        changed.ending += u64::from(self.look_at_ticket((who.0, &socket), &newest));
        if change.rules {
            asking(self, (who.0, &socket), |asker| {
                changed.revoked += self.recheck(asker);
                self.change_subscriptions(asker, change);
            });
        }
        if let Some(seat) = self.hub.borrow_mut().seat(who.0) {
            let wake_at = seat.wake_at(newest.heartbeat());
            self.arm(who, &mut seat.session, wake_at);
        }
        if self.flush(who.0) == Flushed::Broken {
            wake(&socket);
        }
    }

    /// Whether it has to bring a token, or another one.
    fn look_at_ticket(&self, (id, socket): (SeatId, &Socket), options: &NodeOptions) -> bool {
        let (unix_ms, now_ms) = (self.node.clock().token_ms(), self.node.clock().node_ms());
        let mut hub = self.hub.borrow_mut();
        let Some(seat) = hub.seat(id) else { return false };
        match seat.ticket().cloned() {
            Some(Ticket::Known { bearer, until_ms }) if !options.auth.takes(&bearer) => {
                let ticket = options.auth.ticket(bearer, unix_ms, now_ms);
                seat.set_ticket(ticket.ended_by(until_ms));
                true
            }
            Some(Ticket::Stranger { .. }) if !options.auth.required => {
                seat.forget_ticket();
                if let Some(mut place) = socket.place.take() {
                    place.forgive();
                    socket.place.set(Some(place));
                }
                false
            }
            None if options.auth.required => {
                seat.set_ticket(Ticket::stranger(now_ms));
                if let Some(mut place) = socket.place.take() {
                    place.become_stranger();
                    socket.place.set(Some(place));
                }
                true
            }
            Some(_) | None => false,
        }
    }

    /// Gives the subscriptions of a client the policies that they would have. Its signals end where
    /// there are none any more.
    fn change_subscriptions(&self, asker: &Asker<'_>, change: &Change) {
        let (before, after) = (&change.before, &change.after);
        let (channels, prefixes) = {
            let hub = self.hub.borrow();
            (hub.channels_of(asker.id), hub.prefixes_of(asker.id))
        };
        let now_ms = asker.now.node_ms();
        for (channel, alias) in channels {
            let name = channel.as_str();
            let signals = |options: &NodeOptions| {
                options.policies.room(name).is_some_and(|room| room.signals)
            };
            if signals(before) && !signals(after) {
                self.end_signals_on(asker.author.client, alias);
            }
            let Some(rule) = after.policies.of(name) else { continue };
            let made = self.hub.borrow().made(asker.id, alias);
            let Some((made, policy)) = made
                .and_then(|made| Some((made, other(made.policy, before.policies.of(name), rule)?)))
            else {
                continue;
            };
            let (keys_max, max_rate) = (rule.keys_max, made.max_rate);
            let join = Join { policy, position: 0, keys_max, max_rate };
            let (which, mut writer) = ((asker.id, alias), OutOfTurn(self));
            let outcome = self.hub.borrow_mut().update(which, join, &mut writer, now_ms);
            self.settle(outcome);
        }
        for prefix in prefixes {
            let Ok(rule) = after.policies.of_prefix(&prefix) else { continue };
            let made = self.hub.borrow().pattern_made(asker.id, &prefix);
            let Some((made, policy)) = made.and_then(|made| {
                Some((made, other(made.policy, before.policies.of_prefix(&prefix).ok(), rule)?))
            }) else {
                continue;
            };
            let (keys_max, max_rate) = (rule.keys_max, made.max_rate);
            let join = Join { policy, position: 0, keys_max, max_rate };
            let (which, mut writer) = ((asker.id, &*prefix), OutOfTurn(self));
            let outcome = self.hub.borrow_mut().subscribe_pattern(which, join, &mut writer, now_ms);
            self.settle(outcome);
        }
    }

    /// Gives the channels of a client the rooms that they would have.
    fn change_rooms(&self, who: (SeatId, ClientId), change: &Change) {
        let (before, after) = (&change.before, &change.after);
        let Some(socket) = self.present(who) else { return };
        let channels = self.hub.borrow().channels_of(who.0);
        for (channel, alias) in channels {
            let name = channel.as_str();
            let rule = after.policies.room(name);
            if before.policies.room(name) != rule {
                self.change_room((who.0, &socket), (&channel, alias), rule);
            }
        }
    }

    fn change_room(
        &self,
        who: (SeatId, &Socket),
        to: (&ChannelName, Alias),
        rule: Option<RoomRule>,
    ) {
        match rule {
            Some(rule) => {
                self.node.rooms().set_rule(to.0.as_str(), rule);
                asking(self, who, |asker| drop(self.enter_room(asker, to)));
            }
            None => self.node.rooms().close(to.0.as_str(), self.id),
        }
    }
}

/// The policy that a subscription with `had` gets for a rule that was another one before; `None`
/// where it keeps it: what a client has chosen stays, where it may choose.
fn other(had: Policy, before: Option<PolicyRule>, rule: PolicyRule) -> Option<Policy> {
    let default = before.is_some_and(|before| before.policy == had);
    let policy = if default || !rule.choice { rule.policy } else { had };
    (policy != had).then_some(policy)
}
