//! How many connections there may be, and how often somebody may come or ask: what is set, and what
//! is counted. Shared by all shards; nothing here is touched on the way of an event.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::buckets::Buckets;
use super::tally::{Counted, Tally};
use crate::core::bucket::Allowance;
use crate::core::metrics::Counter;

/// Of all connections, those that have yet to say who they are may be one in so many.
const STRANGERS_SHARE: usize = 4;

/// A log line about one limit at most so often, in nanoseconds.
const LOG_EVERY_NS: u64 = 1_000_000_000;

/// What the configuration says about connections, and how often somebody may come or ask. 0 is
/// without a limit, but for [`LimitOptions::connections`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitOptions {
    /// WebSockets of the process; more are refused with 503.
    pub connections: usize,
    /// Connections of one address, whatever they speak.
    pub connections_per_ip: u32,
    /// WebSockets of one user.
    pub connections_per_user: u32,
    /// New connections of one address in a second.
    pub connects_per_second_per_ip: u32,
    /// Commands of one WebSocket in a second.
    pub commands_per_second: u32,
    /// Requests to the HTTP API of one key in a second; of one address, where there are no keys.
    pub http_requests_per_second: u32,
    /// Bad tokens and keys of one address in a second.
    pub auth_failures_per_second_per_ip: u32,
}

impl Default for LimitOptions {
    /// As the configuration has it where nobody has written anything.
    fn default() -> Self {
        Self {
            connections: 200_000,
            connections_per_ip: 0,
            connections_per_user: 0,
            connects_per_second_per_ip: 0,
            commands_per_second: 0,
            http_requests_per_second: 0,
            auth_failures_per_second_per_ip: 0,
        }
    }
}

/// An address, as limits see it: whoever has one of IPv6 has all with the same first 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Net {
    /// One address of IPv4.
    V4(u32),
    /// The first 64 bits of addresses of IPv6.
    V6(u64),
}

impl From<IpAddr> for Net {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments().map(u64::from);
                Self::V6(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

/// Who asks the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requester {
    /// Whoever has that key, by what stands for it.
    Key(u64),
    /// Somebody without one; of this machine, where there is no address.
    Net(Option<Net>),
}

/// What somebody may have too much of: the values of the label `what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Bad tokens and keys of one address.
    AuthFailures,
    /// Commands of one WebSocket.
    Commands,
    /// Connections of one address.
    ConnectionsPerIp,
    /// WebSockets of one user.
    ConnectionsPerUser,
    /// New connections of one address.
    Connects,
    /// Requests to the HTTP API.
    HttpRequests,
    /// WebSockets that have yet to say who they are.
    Strangers,
}

impl Limited {
    /// Its counter.
    pub fn counter(self) -> Counter {
        match self {
            Self::AuthFailures => Counter::LimitedAuthFailures,
            Self::Commands => Counter::LimitedCommands,
            Self::ConnectionsPerIp => Counter::LimitedConnectionsPerIp,
            Self::ConnectionsPerUser => Counter::LimitedConnectionsPerUser,
            Self::Connects => Counter::LimitedConnects,
            Self::HttpRequests => Counter::LimitedHttpRequests,
            Self::Strangers => Counter::LimitedStrangers,
        }
    }

    /// The setting that it is about.
    fn setting(self) -> &'static str {
        match self {
            Self::AuthFailures => "limits.auth_failures_per_second_per_ip",
            Self::Commands => "limits.commands_per_second",
            Self::ConnectionsPerIp => "limits.connections_per_ip",
            Self::ConnectionsPerUser => "limits.connections_per_user",
            Self::Connects => "limits.connects_per_second_per_ip",
            Self::HttpRequests => "limits.http_requests_per_second",
            Self::Strangers => "limits.connections (a quarter of it, before a token)",
        }
    }
}

/// What is counted. Apart from the settings, so that a place need not hold these.
#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    strangers: AtomicUsize,
    /// The same by address; this machine, which has none, is one.
    strangers_of: Arc<Tally<Option<Net>>>,
    nets: Arc<Tally<Net>>,
    users: Arc<Tally<Arc<str>>>,
}

/// What a connection counts as, beside one of all.
struct Standing {
    counts: Arc<Counts>,
    net: Option<Arc<Counted<Net>>>,
    user: Option<Counted<Arc<str>>>,
    stranger: bool,
    /// Counts it by its address, while it is a stranger; not one that was there before.
    stranger_of: Option<Counted<Option<Net>>>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        if self.stranger {
            self.counts.strangers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection's place among those that the node may have; given back, with all that it counts as,
/// when it is dropped. One word: what counts as nothing else shares its standing with all of those.
pub struct Place(Arc<Standing>);

/// Not who has it.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Changes what it counts as.
    fn change(&mut self, change: impl FnOnce(&mut Standing)) {
        if let Some(own) = Arc::get_mut(&mut self.0) {
            return change(own);
        }
        let mut own = Standing::plain(&self.0.counts);
        change(&mut own);
        self.0 = Arc::new(own);
    }

    /// It counts as one of this address.
    pub fn count_net(&mut self, net: Arc<Counted<Net>>) {
        self.change(|own| own.net = Some(net));
    }

    /// It is of this user from here on, and no stranger. Whether there may be one more of them;
    /// where not, nothing has changed.
    pub fn count_user(&mut self, limits: &Limits, user: &str) -> bool {
        let max = limits.connections_per_user.load(Ordering::Relaxed);
        if max == 0 {
            if self.0.stranger {
                self.change(Standing::be_known);
            }
            return true;
        }
        let Some(counted) = self.0.counts.users.count(user.into(), max) else { return false };
        self.change(|own| {
            own.be_known();
            own.user = Some(counted);
        });
        true
    }

    /// It is of somebody who has to say nothing any more.
    pub fn forgive(&mut self) {
        if self.0.stranger {
            self.change(Standing::be_known);
        }
    }

    /// It is of somebody of an address who has yet to say who it is. Whether there may be one more
    /// of them. Of one address there may be no more than could be beside them: one that floods has
    /// half, two have a third each, and there is room for the next as soon as any of theirs is done.
    pub fn count_stranger(&mut self, limits: &Limits, net: Option<Net>) -> bool {
        let counts = Arc::clone(&self.0.counts);
        let max = limits.connections.load(Ordering::Relaxed).div_ceil(STRANGERS_SHARE);
        let free = max.saturating_sub(counts.strangers.load(Ordering::Relaxed));
        if free == 0 {
            return false;
        }
        let most = u32::try_from(free).unwrap_or(u32::MAX);
        let Some(counted) = counts.strangers_of.count(net, most) else { return false };
        let fits = add_below(&counts.strangers, max);
        if fits {
            self.change(|own| {
                own.be_stranger();
                own.stranger_of = Some(counted);
            });
        }
        fits
    }

    /// The same of somebody who is there already: of those there may be too many.
    pub fn become_stranger(&mut self) {
        self.0.counts.strangers.fetch_add(1, Ordering::Relaxed);
        self.change(Standing::be_stranger);
    }
}

impl Standing {
    /// It counts as nothing else.
    fn plain(counts: &Arc<Counts>) -> Self {
        let counts = Arc::clone(counts);
        Self { counts, net: None, user: None, stranger: false, stranger_of: None }
    }

    /// It was counted as one of them before.
    fn be_stranger(&mut self) {
        self.be_known();
        self.stranger = true;
    }

    fn be_known(&mut self) {
        self.stranger_of = None;
        if std::mem::take(&mut self.stranger) {
            self.counts.strangers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The limits of a node, and what is counted against them.
///
/// They may be replaced while it runs, by [`Limits::set`] from any thread: each setting is a number
/// of its own that is read where it is needed, and what is counted does not depend on it. Whoever
/// came under a limit of 0 by address or user is not counted by one that is set later; whoever is
/// beyond a new limit stays, and nobody comes beside until there is room. Rates hold from the next
/// time on, for what is left in a bucket is a time and not a number.
pub struct Limits {
    connections: AtomicUsize,
    /// What the process's descriptors allow, whatever is set.
    connections_most: AtomicUsize,
    connections_per_ip: AtomicU32,
    connections_per_user: AtomicU32,
    connects_per_second_per_ip: AtomicU32,
    commands_per_second: AtomicU32,
    http_requests_per_second: AtomicU32,
    auth_failures_per_second_per_ip: AtomicU32,
    counts: Arc<Counts>,
    /// Shared by all places that count as nothing else.
    plain: Arc<Standing>,
    connects: Buckets<Net>,
    requests: Buckets<Requester>,
    failures: Buckets<Net>,
    /// When there was a log line about each, by [`Limited`].
    told_ns: [AtomicU64; 7],
}

impl Limits {
    /// Limits as set.
    pub fn new(options: &LimitOptions) -> Self {
        let counts = Arc::<Counts>::default();
        let limits = Self {
            connections: AtomicUsize::new(0),
            connections_most: AtomicUsize::new(usize::MAX),
            connections_per_ip: AtomicU32::new(0),
            connections_per_user: AtomicU32::new(0),
            connects_per_second_per_ip: AtomicU32::new(0),
            commands_per_second: AtomicU32::new(0),
            http_requests_per_second: AtomicU32::new(0),
            auth_failures_per_second_per_ip: AtomicU32::new(0),
            plain: Arc::new(Standing::plain(&counts)),
            counts,
            connects: Buckets::default(),
            requests: Buckets::default(),
            failures: Buckets::default(),
            told_ns: Default::default(),
        };
        limits.set(options);
        limits
    }

    /// Replaces all that is set.
    pub fn set(&self, options: &LimitOptions) {
        let &LimitOptions {
            connections,
            connections_per_ip,
            connections_per_user,
            connects_per_second_per_ip,
            commands_per_second,
            http_requests_per_second,
            auth_failures_per_second_per_ip,
        } = options;
        let most = self.connections_most.load(Ordering::Relaxed);
        self.connections.store(connections.min(most), Ordering::Relaxed);
        self.connections_per_ip.store(connections_per_ip, Ordering::Relaxed);
        self.connections_per_user.store(connections_per_user, Ordering::Relaxed);
        self.connects_per_second_per_ip.store(connects_per_second_per_ip, Ordering::Relaxed);
        self.commands_per_second.store(commands_per_second, Ordering::Relaxed);
        self.http_requests_per_second.store(http_requests_per_second, Ordering::Relaxed);
        self.auth_failures_per_second_per_ip
            .store(auth_failures_per_second_per_ip, Ordering::Relaxed);
    }

    /// Whatever is set, from here on there are at most so many connections: those that the
    /// process's descriptors allow.
    pub fn bound(&self, most: usize) {
        self.connections_most.store(most, Ordering::Relaxed);
        self.connections.fetch_min(most, Ordering::Relaxed);
    }

    /// How many connections there may be.
    pub fn connections_max(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many there are, with those that shake hands.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Of these, how many have yet to say who they are, where that is required.
    pub fn strangers(&self) -> usize {
        self.counts.strangers.load(Ordering::Relaxed)
    }

    /// A place for one more connection; `None` when there are as many as there may be. Taken
    /// before the handshake is answered, so that no two shards give the last one away.
    pub fn admit(&self) -> Option<Place> {
        let admitted = add_below(&self.counts.open, self.connections_max());
        admitted.then(|| Place(Arc::clone(&self.plain)))
    }

    /// Counts one more connection of an address, where that is limited.
    ///
    /// # Errors
    ///
    /// [`Limited::ConnectionsPerIp`] where there are as many as there may be.
    pub fn count_net(&self, net: Net) -> Result<Option<Arc<Counted<Net>>>, Limited> {
        let max = self.connections_per_ip.load(Ordering::Relaxed);
        if max == 0 {
            return Ok(None);
        }
        let counted = self.counts.nets.count(net, max).ok_or(Limited::ConnectionsPerIp)?;
        Ok(Some(Arc::new(counted)))
    }

    /// Somebody comes from an address.
    ///
    /// # Errors
    ///
    /// When it may come again, where it comes too often.
    pub fn connect(&self, net: Net, now_ns: u64) -> Result<(), Duration> {
        let rate = Allowance::per_second(self.connects_per_second_per_ip.load(Ordering::Relaxed));
        rate.map_or(Ok(()), |rate| self.connects.take(net, rate, now_ns))
    }

    /// Somebody asks the HTTP API.
    ///
    /// # Errors
    ///
    /// When it may ask again, where it asks too often.
    pub fn request(&self, requester: Requester, now_ns: u64) -> Result<(), Duration> {
        let rate = Allowance::per_second(self.http_requests_per_second.load(Ordering::Relaxed));
        rate.map_or(Ok(()), |rate| self.requests.take(requester, rate, now_ns))
    }

    /// Somebody has brought a bad token or key from an address.
    ///
    /// # Errors
    ///
    /// When it may try again, where there were too many of them.
    pub fn fail(&self, net: Net, now_ns: u64) -> Result<(), Duration> {
        self.failure_rate().map_or(Ok(()), |rate| self.failures.take(net, rate, now_ns))
    }

    /// The same of a token that took long to check. Many of an address may be let in together before
    /// the first of them is found to be bad: all of them count, and none is let in until they are
    /// paid for.
    ///
    /// # Errors
    ///
    /// As of [`Limits::fail`].
    pub fn fail_late(&self, net: Net, now_ns: u64) -> Result<(), Duration> {
        self.failure_rate().map_or(Ok(()), |rate| self.failures.owe(net, rate, now_ns))
    }

    /// Whether something of an address may be looked at that may be bad.
    ///
    /// # Errors
    ///
    /// As of [`Limits::fail`].
    pub fn may_fail(&self, net: Net, now_ns: u64) -> Result<(), Duration> {
        self.failure_rate().map_or(Ok(()), |rate| self.failures.look(&net, rate, now_ns))
    }

    fn failure_rate(&self) -> Option<Allowance> {
        let times = self.auth_failures_per_second_per_ip.load(Ordering::Relaxed);
        Allowance::per_second(times)
    }

    /// How many commands a WebSocket may send in a second; 0 is without a limit.
    pub fn commands_per_second(&self) -> u32 {
        self.commands_per_second.load(Ordering::Relaxed)
    }

    /// The connections that are counted by their address, and the addresses.
    pub fn nets(&self) -> Crowd {
        let nets = &self.counts.nets;
        let max = self.connections_per_ip.load(Ordering::Relaxed);
        Crowd { all: nets.all(), distinct: nets.distinct(), max }
    }

    /// The WebSockets that are counted by their user, and the users.
    pub fn users(&self) -> Crowd {
        let users = &self.counts.users;
        let max = self.connections_per_user.load(Ordering::Relaxed);
        Crowd { all: users.all(), distinct: users.distinct(), max }
    }

    /// Says in the log that somebody was refused: about each limit once a second at most. Who it
    /// is is for an operator who asks for more: an address, and never a user.
    pub fn tell(&self, limited: Limited, ip: impl FnOnce() -> Option<IpAddr>, now_ns: u64) {
        let Some(told) = self.told_ns.get(limited as usize) else { return };
        let last = told.load(Ordering::Relaxed);
        let due = last == 0 || now_ns.saturating_sub(last) >= LOG_EVERY_NS;
        // Of several shards one says so.
        let order = Ordering::Relaxed;
        if due && told.compare_exchange(last, now_ns.max(1), order, order).is_ok() {
            let address = ip().map(|ip| ip.to_canonical().to_string());
            let address = address.as_deref().unwrap_or("unknown");
            tracing::warn!(limit = limited.setting(), address, "somebody was refused by a limit");
        }
    }
}

/// How many are counted, by whom they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// All of them.
    pub all: usize,
    /// Whom they belong to.
    pub distinct: usize,
    /// How many each may have; 0 is without a limit.
    pub max: u32,
}

/// Adds one where there are fewer than `max`. Whether there were.
fn add_below(count: &AtomicUsize, max: usize) -> bool {
    let more = |open: usize| (open < max).then_some(open + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests;
