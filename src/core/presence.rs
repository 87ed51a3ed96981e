//! Who has one channel by name, and what the others are told of it: who joins and who leaves, or
//! how many there are. Changes come out at a [`Members::tick`], so that a client that comes and goes
//! costs the others one message a tick at most.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::identity::Identity;
use super::policy::PresenceRule;
use crate::proto::name::ClientId;

/// How far apart counts are told, in milliseconds.
pub const COUNTS_MS: u64 = 1_000;

/// How far apart joins and leaves are told, in milliseconds: a little less than the 100 after which
/// a shard looks at its rooms again, so that it does not come too early.
pub const NEWS_MS: u64 = 90;

/// Connections that ended and still count as there; of more the oldest leave at once.
pub const LINGERING_MAX: usize = 65_536;

/// Joins and leaves a second that are told of a channel however few members it may have.
const CHANGES: usize = 200;

/// A member as others know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// The connection under which it was announced.
    pub client: ClientId,
    /// Who it is; `None` for the anonymous.
    pub identity: Option<Arc<Identity>>,
    /// Since when it is there, Unix milliseconds.
    pub since_ms: u64,
}

/// How a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// It said so.
    Asked,
    /// The node goes, and everybody with it: nobody is told.
    Drained,
    /// Its connection ended: it may come back.
    Lost,
}

/// A change that the others are told of.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// This one is there; the connection that is not told so is its own.
    Join(Arc<Shown>, ClientId),
    /// This one is not there any more.
    Leave(Arc<Shown>),
}

/// What everybody is to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Who came and went.
    Changes(Vec<Change>),
    /// How many there are.
    Counts {
        /// Connections.
        clients: usize,
        /// Users that they have.
        users: usize,
        /// Whether joins and leaves are told again from here on.
        listed: bool,
    },
}

/// Who is there, for whoever asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Connections.
    pub clients: usize,
    /// Users that they have.
    pub users: usize,
    /// All of them; none where they are only counted.
    pub members: Vec<Arc<Shown>>,
}

#[derive(Debug)]
struct Member {
    shown: Arc<Shown>,
    /// When it leaves, where its connection has ended.
    until_ms: Option<u64>,
}

/// The clients of one user.
#[derive(Debug, Default)]
struct User {
    clients: usize,
    /// Those whose connections have ended, the first to leave in front.
    lingering: VecDeque<ClientId>,
}

/// What has become of a member since others were told: what they believe, and what is true.
#[derive(Debug)]
struct News {
    before: Option<Arc<Shown>>,
    after: Option<(Arc<Shown>, ClientId)>,
}

/// The members of one channel. Times are milliseconds of the node's clock, which may stand still
/// and come a little out of order.
#[derive(Debug)]
pub struct Members {
    rule: PresenceRule,
    /// By the connection that each has now.
    members: HashMap<ClientId, Member, RandomState>,
    users: HashMap<Box<str>, User, RandomState>,
    /// Who leaves when. What is not so any more is passed over.
    lingering: VecDeque<(u64, ClientId)>,
    /// By the connections under which they are known.
    news: BTreeMap<ClientId, News>,
    /// When joins and leaves were told last.
    told_ms: Option<u64>,
    /// Joins and leaves are not told.
    counting: bool,
    /// When counts were told last.
    counted_ms: Option<u64>,
    /// Counts have changed since.
    stale: bool,
    /// Joins and leaves since that time.
    changes: usize,
    changes_since_ms: u64,
}

impl Members {
    /// Nobody, under this rule.
    pub fn new(rule: PresenceRule) -> Self {
        Self {
            rule,
            members: HashMap::default(),
            users: HashMap::default(),
            lingering: VecDeque::new(),
            news: BTreeMap::new(),
            told_ms: None,
            counting: false,
            counted_ms: None,
            stale: false,
            changes: 0,
            changes_since_ms: 0,
        }
    }

    /// Goes by another rule from here on. Whoever lingers does so as long as it was to.
    pub fn set_rule(&mut self, rule: PresenceRule) {
        self.rule = rule;
    }

    /// Whether nobody is there or lingers.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A client has the channel from here on. One whose user has a connection that ended, and has
    /// not left yet, takes its place, and nobody is told.
    pub fn enter(&mut self, client: ClientId, identity: Option<Arc<Identity>>, unix_ms: u64) {
        if self.members.contains_key(&client) {
            return;
        }
        let shown = match identity.as_ref().and_then(|identity| self.take_lingering(identity)) {
            Some(gone) if gone.identity == identity => gone,
            Some(gone) => {
                let (client, since_ms) = (gone.client, gone.since_ms);
                Arc::new(Shown { client, identity, since_ms })
            }
            None => {
                if let Some(identity) = &identity {
                    self.user(&identity.user).clients += 1;
                }
                let shown = Arc::new(Shown { client, identity, since_ms: unix_ms });
                let news = News { before: None, after: None };
                self.news.entry(client).or_insert(news);
                shown
            }
        };
        if let Some(news) = self.news.get_mut(&shown.client) {
            news.after = Some((Arc::clone(&shown), client));
        }
        self.members.insert(client, Member { shown, until_ms: None });
        self.check();
    }

    fn user(&mut self, user: &str) -> &mut User {
        // A name is copied only where it is not there.
        if !self.users.contains_key(user) {
            self.users.insert(user.into(), User::default());
        }
        self.users.entry(user.into()).or_default()
    }

    /// Takes out the first of the user's connections that ended.
    fn take_lingering(&mut self, identity: &Identity) -> Option<Arc<Shown>> {
        let client = self.users.get_mut(&identity.user)?.lingering.pop_front()?;
        self.members.remove(&client).map(|member| member.shown)
    }

    /// A client has the channel no longer. Of no account where it is not there.
    pub fn leave(&mut self, client: ClientId, parting: Parting, now_ms: u64) {
        let Entry::Occupied(mut found) = self.members.entry(client) else { return };
        if found.get().until_ms.is_some() {
            return;
        }
        if parting == Parting::Lost && self.rule.linger_ms > 0 {
            let until_ms = now_ms + self.rule.linger_ms;
            found.get_mut().until_ms = Some(until_ms);
            if let Some(identity) = &found.get().shown.identity
                && let Some(user) = self.users.get_mut(&identity.user)
            {
                user.lingering.push_back(client);
            }
            self.lingering.push_back((until_ms, client));
            if self.lingering.len() > LINGERING_MAX
                && let Some((until_ms, client)) = self.lingering.pop_front()
            {
                self.expire(client, until_ms);
            }
        } else {
            let shown = found.remove().shown;
            self.gone(shown, parting == Parting::Drained);
        }
        self.check();
    }

    fn expire(&mut self, client: ClientId, until_ms: u64) {
        let Entry::Occupied(found) = self.members.entry(client) else { return };
        if found.get().until_ms != Some(until_ms) {
            return;
        }
        let shown = found.remove().shown;
        if let Some(identity) = &shown.identity
            && let Some(user) = self.users.get_mut(&identity.user)
        {
            user.lingering.retain(|other| *other != client);
        }
        self.gone(shown, false);
    }

    /// A member is not there any more.
    fn gone(&mut self, shown: Arc<Shown>, silently: bool) {
        if let Some(identity) = &shown.identity
            && let Some(user) = self.users.get_mut(&identity.user)
        {
            user.clients -= 1;
            if user.clients == 0 {
                self.users.remove(&identity.user);
            }
        }
        if silently {
            self.news.remove(&shown.client);
            return;
        }
        let client = shown.client;
        let news = self.news.entry(client).or_insert(News { before: Some(shown), after: None });
        news.after = None;
    }

    /// How many linger, and entries of those who did and came back.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// When [`Members::tick`] is next due; 0 is at once.
    pub fn wake_at(&self) -> Option<u64> {
        let news = (!self.news.is_empty()).then(|| self.news_at());
        let lingering = self.lingering.front().map(|(until_ms, _)| *until_ms);
        let counts = self.counting && (self.stale || self.may_list());
        let counts = counts.then(|| self.counts_at());
        [news, lingering, counts].into_iter().flatten().min()
    }

    /// Time has passed. What everybody is to be told of it.
    pub fn tick(&mut self, now_ms: u64) -> Option<Told> {
        while let Some(&(until_ms, client)) = self.lingering.front()
            && until_ms <= now_ms
        {
            self.lingering.pop_front();
            self.expire(client, until_ms);
        }
        if now_ms >= self.news_at() {
            self.tell_news(now_ms)
        } else if self.counting {
            self.counts(now_ms)
        } else {
            None
        }
    }

    fn news_at(&self) -> u64 {
        self.told_ms.map_or(0, |told_ms| told_ms + NEWS_MS)
    }

    fn tell_news(&mut self, now_ms: u64) -> Option<Told> {
        let mut changes = Vec::new();
        for news in std::mem::take(&mut self.news).into_values() {
            match (news.before, news.after) {
                (None, Some((shown, client))) => changes.push(Change::Join(shown, client)),
                (Some(shown), None) => changes.push(Change::Leave(shown)),
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        if !changes.is_empty() {
            self.told_ms = Some(now_ms);
        }
        self.check();
        self.count(changes.len(), now_ms);
        let changes_max = 2 * self.rule.members_max.max(CHANGES / 2);
        if self.counting || self.is_crowded() || self.changes > changes_max {
            self.stale |= !self.counting || !changes.is_empty();
            self.counting = true;
            return self.counts(now_ms);
        }
        (!changes.is_empty()).then_some(Told::Changes(changes))
    }

    /// Counts changes: of the last second, or since counts were told.
    fn count(&mut self, changes: usize, now_ms: u64) {
        if !self.counting && now_ms >= self.changes_since_ms + COUNTS_MS {
            self.changes_since_ms = now_ms;
            self.changes = 0;
        }
        self.changes += changes;
    }

    fn is_crowded(&self) -> bool {
        self.members.len() > self.rule.members_max
    }

    /// Whether there are so few that they may be listed again: not at the bound, where every other
    /// one who comes would change that.
    fn may_list(&self) -> bool {
        let max = self.rule.members_max;
        self.members.len() <= max - max.div_ceil(10)
    }

    fn counts_at(&self) -> u64 {
        self.counted_ms.map_or(0, |counted_ms| counted_ms + COUNTS_MS)
    }

    fn counts(&mut self, now_ms: u64) -> Option<Told> {
        if now_ms < self.counts_at() {
            return None;
        }
        let calm = self.changes <= self.rule.members_max.max(CHANGES / 2);
        let listed = self.counted_ms.is_some() && self.may_list() && calm;
        (self.changes, self.changes_since_ms) = (0, now_ms);
        if !self.stale && !listed {
            // Looked at again in a second.
            self.counted_ms = Some(now_ms);
            return None;
        }
        self.counting = !listed;
        self.stale = false;
        self.counted_ms = Some(now_ms);
        Some(Told::Counts { clients: self.members.len(), users: self.users.len(), listed })
    }

    /// Nobody is there to be told anything: what they would have been is forgotten.
    pub fn forget_news(&mut self) {
        self.news.clear();
        self.stale = false;
    }

    /// Who is there.
    pub fn roster(&self) -> Roster {
        let (clients, users) = (self.members.len(), self.users.len());
        let members = if self.is_crowded() {
            Vec::new()
        } else {
            self.members.values().map(|member| Arc::clone(&member.shown)).collect()
        };
        Roster { clients, users, members }
    }

    fn check(&self) {
        debug_assert!(
            self.users
                .values()
                .all(|user| user.clients > 0 && user.lingering.len() <= user.clients),
            "a user has clients"
        );
    }
}

#[cfg(test)]
mod tests;
