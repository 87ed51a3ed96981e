//! What a run wants from its receivers: how they connect, and what they subscribe to.

use std::collections::BTreeMap;

use crate::engine::conduct::Conduct;
use crate::engine::secure::Secure;
use crate::target::{Format, Target};
use crate::wire::command::{Policy, Wishes};
use crate::wire::foreign::Foreign;
use crate::wire::template::Values;

/// Which channels the connections subscribe to, and how closely they look.
#[derive(Debug, Clone)]
pub(crate) struct Subscribing {
    /// How many channels exist.
    pub(crate) channels: u32,
    /// How many of them each connection subscribes to; 0 none. By pattern it is all.
    pub(crate) subscriptions: u32,
    /// What a channel's name begins with; its number follows.
    pub(crate) prefix: String,
    /// Whether every event is read and held against the promise.
    pub(crate) verify: bool,
    /// Without `verify`, the due time of each nth event is read.
    pub(crate) sample: u64,
    /// Whether the last receiver of each event is looked for.
    pub(crate) until_last: bool,
    /// What each subscription asks for.
    pub(crate) wishes: Wishes,
    /// Whether a connection subscribes to all channels by one pattern.
    pub(crate) pattern: bool,
    /// Keys that a channel's events take turns with; 0 no keys.
    pub(crate) keys: u64,
    /// What connections do besides reading.
    pub(crate) conduct: Conduct,
    /// The server's own protocol, where it is not Weir.
    pub(crate) foreign: Option<Foreign>,
}

/// What a run wants from its receivers.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) target: Target,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    pub(crate) private_tables: bool,
    pub(crate) sources: u8,
    /// Connections a second over all threads; 0 as fast as `inflight` allows.
    pub(crate) connect_rate: f64,
    /// Handshakes under way at once, per thread.
    pub(crate) inflight: u32,
    /// The longest a connection may take until it is ready.
    pub(crate) timeout_ns: u64,
    /// What they subscribe to.
    pub(crate) subscribing: Subscribing,
}

impl Subscribing {
    /// Whether what `latest` shows is held against what it owes.
    pub(crate) fn shows_latest(&self) -> bool {
        self.verify && self.wishes.slow == Some(Policy::Latest)
    }
}

impl Wanted {
    /// TLS of a thread's connections, where the server speaks it.
    pub(super) fn secure(&self, connections: usize) -> Option<Secure> {
        let tls = self.target.tls.as_ref()?;
        Some(Secure::new(tls, connections, self.subscribing.conduct.is_moving()))
    }

    /// Subscriptions over all connections that are not slow on purpose.
    pub(crate) fn seats(&self) -> u64 {
        u64::from(self.connections - self.slow()) * u64::from(self.subscribing.subscriptions)
    }

    /// Connections that are slow on purpose.
    pub(crate) fn slow(&self) -> u32 {
        let slow = (0..self.connections)
            .filter(|connection| self.subscribing.conduct.is_slow(*connection));
        u32::try_from(slow.count()).unwrap_or(u32::MAX)
    }

    /// Whether an event says no more than that it came and when it was due, or its offset where that
    /// is followed: then most need no more than a glance.
    pub(crate) fn skims(&self) -> bool {
        let is_text = self.target.format == Format::Json && !self.target.is_batched();
        is_text
            && self.subscribing.foreign.is_none()
            && !self.subscribing.until_last
            && !matches!(self.subscribing.conduct, Conduct::Echo(_))
    }

    /// Whether subscriptions ask for fewer events: what is left out is then no loss.
    pub(crate) fn is_throttled(&self) -> bool {
        self.subscribing.wishes.max_rate > 0.0
    }

    /// What the templates of a connection's nth subscription are filled with.
    pub(crate) fn values<'a>(&self, connection: u32, slot: u32, channel: &'a str) -> Values<'a> {
        // The hello is the first command.
        Values { channel, connection, id: u64::from(slot) + 2, ..Values::default() }
    }

    /// The name of a connection's nth channel.
    pub(crate) fn channel_name(&self, connection: u32, slot: u32) -> String {
        format!("{}{}", self.subscribing.prefix, self.channel(connection, slot))
    }

    /// How many commands subscribe a connection.
    pub(crate) fn commands(&self) -> u32 {
        if self.subscribing.pattern { 1 } else { self.subscribing.subscriptions }
    }

    /// What a connection's nth command subscribes to.
    pub(crate) fn name(&self, connection: u32, slot: u32) -> String {
        if self.subscribing.pattern {
            return format!("{}*", self.subscribing.prefix);
        }
        self.channel_name(connection, slot)
    }

    /// How many of `made` events are a channel's, which are dealt in turn; `None` when nobody counts.
    pub(crate) fn made(&self, channel: u32, made: u64) -> Option<u64> {
        let channels = u64::from(self.subscribing.channels);
        let extra = u64::from(u64::from(channel) < made % channels);
        (made < u64::MAX).then(|| made / channels + extra)
    }

    /// What makes two runs the same work, for the report.
    pub(crate) fn sizes(&self) -> BTreeMap<&'static str, f64> {
        let mut sizes = BTreeMap::from([
            ("connections", f64::from(self.connections)),
            ("connect_rate", self.connect_rate),
            ("channels", f64::from(self.subscribing.channels)),
            ("subscriptions", f64::from(self.subscribing.subscriptions)),
            ("verify", f64::from(u8::from(self.subscribing.verify))),
        ]);
        if self.subscribing.until_last {
            sizes.insert("until_last", 1.0);
        }
        if self.subscribing.pattern {
            sizes.insert("pattern", 1.0);
        }
        if self.is_throttled() {
            sizes.insert("max_rate", self.subscribing.wishes.max_rate);
        }
        sizes
    }

    /// The channel of a connection's nth subscription.
    pub(crate) fn channel(&self, connection: u32, slot: u32) -> u32 {
        (connection % self.subscribing.channels + slot) % self.subscribing.channels
    }

    /// Which subscription of the connection a channel is; `None` when it has not asked for it.
    pub(crate) fn slot(&self, connection: u32, channel: u32) -> Option<u32> {
        if channel >= self.subscribing.channels {
            return None;
        }
        let slot = (channel + self.subscribing.channels - connection % self.subscribing.channels)
            % self.subscribing.channels;
        (slot < self.subscribing.subscriptions).then_some(slot)
    }
}
