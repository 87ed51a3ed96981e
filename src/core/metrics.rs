//! Every counter, gauge and histogram of a shard, in one list. Plain cells: a shard has one writer.

use std::cell::Cell;

use super::hub::SlowState;
use crate::proto::close::CloseReason;
use crate::proto::encoder::Made;
use crate::proto::error::ErrorCode;
use crate::proto::format::Format;

/// A family's members have its name and its help text, and tell each other apart by one label.
macro_rules! counters {
    ($($name:literal, $label:literal, $help:literal: $($variant:ident = $value:literal),+;)*) => {
        /// What a shard counts. Never decreases.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $help] $variant,)+)* }

        impl Counter {
            /// Every counter with its family's name (without `weir_` and `_total`), its label
            /// and its help text; members of one family stand together.
            pub const ALL: &[(Self, &'static str, Option<(&'static str, &'static str)>, &'static str)] =
                &[$($((Self::$variant, $name, label($label, $value), $help),)+)*];
        }
    };
}

/// One without a name is none.
const fn label(name: &'static str, value: &'static str) -> Option<(&'static str, &'static str)> {
    if name.is_empty() { None } else { Some((name, value)) }
}

counters! {
    "accept_errors", "", "Accepts that failed, by lack of descriptors for one.":
        AcceptErrors = "";
    "auth_failures", "reason", "Tokens and keys that were refused, by why.":
        AuthAudience = "audience", AuthBusy = "busy", AuthClaims = "claims", AuthEarly = "early",
        AuthExpired = "expired", AuthIssuer = "issuer", AuthKey = "key", AuthApiKey = "api_key",
        AuthLong = "long", AuthMalformed = "malformed", AuthNoKey = "no_key",
        AuthSeveral = "several", AuthSignature = "signature", AuthUser = "user";
    "bytes_received", "", "Bytes read from WebSocket clients.":
        BytesReceived = "";
    "bytes_sent", "", "Bytes written to WebSocket clients.":
        BytesSent = "";
    "commands", "type", "Commands of clients, by type.":
        CommandsPing = "ping", CommandsPublish = "publish", CommandsSubscribe = "subscribe",
        CommandsUnsubscribe = "unsubscribe", CommandsAuth = "auth", CommandsHistory = "history",
        CommandsPresence = "presence", CommandsRequest = "request", CommandsSignal = "signal";
    "compressed_bytes", "kind", "Bytes of compressed messages, and of what they stand for.":
        CompressedIn = "in", CompressedInPlain = "in_plain", CompressedOut = "out",
        CompressedOutPlain = "out_plain";
    "connections_opened", "", "WebSocket connections opened.":
        ConnectionsOpened = "";
    "event_encodings", "format", "Events encoded, once for each format.":
        EncodedBin = "bin", EncodedBinDeflate = "bin_deflate",
        EncodedBinDeflateNarrow = "bin_deflate_narrow", EncodedJson = "json",
        EncodedJsonDeflate = "json_deflate", EncodedJsonDeflateNarrow = "json_deflate_narrow",
        EncodedJsonGzip = "json_gzip";
    "events_conflated", "",
        "Events left out for newer ones of the same key, as max_rate asks, once for each subscriber.":
        EventsConflated = "";
    "events_delivered", "", "Events handed to the kernel, once for each subscriber.":
        EventsDelivered = "";
    "events_dropped", "policy", "Events dropped from queues, by policy.":
        DroppedNewest = "drop_newest", DroppedOldest = "drop_oldest", DroppedLatest = "latest",
        DroppedDisconnect = "disconnect", DroppedClosed = "closed",
        DroppedUnsubscribed = "unsubscribed";
    "events_shown", "", "Newest events of a key shown to those who had missed them.":
        EventsShown = "";
    "events_published", "door", "Events taken, by the door they came through.":
        EventsPublishedEmbed = "embed", EventsPublishedHttp = "http", EventsPublishedWs = "ws";
    "events_recovered", "", "Events delivered to subscriptions that came back and had missed them.":
        EventsRecovered = "";
    "recoveries", "whole", "Subscriptions that named a place, by whether they got all since.":
        RecoveriesWhole = "true", RecoveriesNot = "false";
    "events_duplicate", "", "Events that were published before, and not again.":
        EventsDuplicate = "";
    "flush_syscalls", "", "Writes to sockets.":
        FlushSyscalls = "";
    "http_cut", "reason",
        "HTTP connections cut for being too slow: to send a request's head, or to take an answer.":
        HttpCutHead = "head", HttpCutUntaken = "untaken";
    "panics", "", "Panics caught: each ended a connection, or left a frame uncompressed.":
        Panics = "";
    "rate_limited", "what", "Refused because somebody had, or asked for, too much, by the limit.":
        LimitedAuthFailures = "auth_failures", LimitedCommands = "commands",
        LimitedConnectionsPerIp = "connections_per_ip",
        LimitedConnectionsPerUser = "connections_per_user", LimitedConnects = "connects_per_ip",
        LimitedHttpRequests = "http_requests", LimitedStrangers = "before_auth";
    "proxy_headers_bad", "",
        "Connections of trusted proxies that were closed, for a PROXY header that was bad, old or late.":
        ProxyHeadersBad = "";
    "upgrade_rejected", "reason", "Handshakes answered with an HTTP error, by its code.":
        RejectedBadRequest = "bad_request", RejectedForbidden = "forbidden",
        RejectedLimit = "limit_exceeded", RejectedMethod = "method_not_allowed",
        RejectedOverloaded = "overloaded", RejectedRate = "rate_limited",
        RejectedUnavailable = "unavailable", RejectedUpgrade = "upgrade_required",
        RejectedUnauthorized = "unauthorized";
    "signals", "", "Values and ends of signals that channels were told of.":
        SignalsTold = "";
    "subscriptions_revoked", "",
        "Subscriptions that ended because a new token, or new rules, do not allow them.":
        SubscriptionsRevoked = "";
    "tls_handshakes", "result", "Handshakes of TLS, by how they ended.":
        TlsFailed = "failed", TlsFull = "full", TlsResumed = "resumed", TlsTimeout = "timeout";
    "tokens", "how", "Tokens that were taken: verified, or seen before.":
        TokensSeen = "seen", TokensVerified = "verified";
    "upgrades", "", "Handshakes answered with 101.":
        Upgrades = "";
}

/// The count of [`Counter`] variants.
pub const COUNTERS: usize = Counter::ALL.len();

/// The codes of errors that only HTTP has, beside those of [`ErrorCode::ALL`].
pub const HTTP_ERRORS: [&str; 4] =
    ["method_not_allowed", "not_found", "timeout", "upgrade_required"];

/// What a shard measures over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// From taking an event to handing it to the kernel, for each delivery.
    PublishToWrite,
    /// How long queued bytes waited, at their write.
    QueueAge,
    /// From taking an event to showing it to somebody who had missed it.
    ShownAge,
    /// One turn of a shard: mailbox, fan-out and the writes until it yields.
    Tick,
}

impl Timing {
    /// Every histogram with its name (without `weir_`) and help text.
    pub const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::PublishToWrite, "publish_to_write_seconds", "From taking an event to its write."),
        (Self::QueueAge, "queue_age_seconds", "How long queued bytes waited, at their write."),
        (Self::ShownAge, "shown_age_seconds", "The age of events shown to those who lag."),
        (Self::Tick, "tick_seconds", "One turn of a shard."),
    ];
}

/// The upper bounds of the time buckets, in microseconds; a last bucket has no bound.
pub const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// The upper bounds of the batch size buckets, in events.
pub const BOUNDS_BATCH: [u64; 18] = [
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536,
    131_072,
];

/// A histogram with fixed bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations by bucket (not cumulative); the last has no upper bound.
    pub buckets: [u64; 19],
    /// The sum of what was observed, in the unit of the bounds.
    pub sum: u64,
}

impl Histogram {
    /// Counts an observation, in a histogram with these bounds.
    pub fn record(&mut self, value: u64, bounds: &[u64; 18]) {
        self.buckets[bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum = self.sum.wrapping_add(value);
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// One shard's counters. Not shared: a scrape asks the shard for a [`Snapshot`].
#[derive(Debug)]
pub struct Metrics {
    counters: [Cell<u64>; COUNTERS],
    closed: [Cell<u64>; CloseReason::CODES.len()],
    errors: [Cell<u64>; ErrorCode::ALL.len()],
    http_errors: [Cell<u64>; HTTP_ERRORS.len()],
    timings: [Live; Timing::ALL.len()],
    batch: Live,
}

/// A histogram that is being counted.
#[derive(Debug, Default)]
struct Live {
    buckets: [Cell<u64>; 19],
    sum: Cell<u64>,
}

impl Live {
    fn record(&self, value: u64, times: u64, bounds: &[u64; 18]) {
        let bucket = &self.buckets[bounds.partition_point(|bound| *bound < value)];
        bucket.set(bucket.get().wrapping_add(times));
        self.sum.set(self.sum.get().wrapping_add(value.wrapping_mul(times)));
    }

    fn copy(&self) -> Histogram {
        Histogram { buckets: std::array::from_fn(|i| self.buckets[i].get()), sum: self.sum.get() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| Cell::new(0)),
            closed: std::array::from_fn(|_| Cell::new(0)),
            errors: std::array::from_fn(|_| Cell::new(0)),
            http_errors: std::array::from_fn(|_| Cell::new(0)),
            timings: std::array::from_fn(|_| Live::default()),
            batch: Live::default(),
        }
    }
}

impl Metrics {
    /// Adds `n` to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get().wrapping_add(n));
    }

    /// Counts what an encoder has made.
    pub fn made(&self, made: &Made) {
        const COUNTERS: [Counter; Format::ALL.len()] = [
            Counter::EncodedBin,
            Counter::EncodedBinDeflate,
            Counter::EncodedBinDeflateNarrow,
            Counter::EncodedJson,
            Counter::EncodedJsonDeflate,
            Counter::EncodedJsonDeflateNarrow,
            Counter::EncodedJsonGzip,
        ];
        for (counter, encodings) in COUNTERS.into_iter().zip(made.encodings) {
            self.add(counter, encodings);
        }
        self.add(Counter::Panics, made.panics);
        self.add(Counter::CompressedOut, made.compressed);
        self.add(Counter::CompressedOutPlain, made.plain);
    }

    /// Counts the end of a connection.
    pub fn closed(&self, reason: CloseReason) {
        let cell = &self.closed[reason.index()];
        cell.set(cell.get() + 1);
    }

    /// Counts an error told to a client.
    pub fn error(&self, code: ErrorCode) {
        let cell = &self.errors[code.index()];
        cell.set(cell.get() + 1);
    }

    /// Counts an error answered over HTTP, by the code it was answered with.
    pub fn http_error(&self, code: &str) {
        if let Some(error) = ErrorCode::ALL.into_iter().find(|error| error.as_str() == code) {
            self.error(error);
        } else if let Some(at) = HTTP_ERRORS.iter().position(|known| *known == code) {
            self.http_errors[at].set(self.http_errors[at].get() + 1);
        }
    }

    /// Counts `times` observations of a duration.
    pub fn time(&self, timing: Timing, microseconds: u64, times: u64) {
        self.timings[timing as usize].record(microseconds, times, &BOUNDS_US);
    }

    /// Counts the events of one mailbox turn.
    pub fn batch(&self, events: u64) {
        self.batch.record(events, 1, &BOUNDS_BATCH);
    }

    /// A copy of everything, with the gauges given.
    pub fn snapshot(&self, gauges: Gauges) -> Snapshot {
        Snapshot {
            counters: std::array::from_fn(|i| self.counters[i].get()),
            closed: std::array::from_fn(|i| self.closed[i].get()),
            errors: std::array::from_fn(|i| self.errors[i].get()),
            http_errors: std::array::from_fn(|i| self.http_errors[i].get()),
            timings: std::array::from_fn(|i| self.timings[i].copy()),
            batch: self.batch.copy(),
            gauges,
        }
    }
}

/// What a shard holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open WebSocket connections.
    pub connections: u64,
    /// Subscriptions of them all.
    pub subscriptions: u64,
    /// Bytes waiting in outbound queues, shared bytes counted once for each queue.
    pub queue_bytes: u64,
    /// Memory of outbound queues; what they share counts once.
    pub queue_memory: u64,
    /// Memory of the newest events that are kept for `latest` and `max_rate`.
    pub latest_bytes: u64,
    /// Connections that are slow, by [`SlowState`].
    pub slow_consumers: [u64; SlowState::ALL.len()],
    /// Events waiting in the mailbox.
    pub mailbox_depth: u64,
}

/// One shard's counters at one moment; may cross threads and be added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By [`Counter`].
    pub counters: [u64; COUNTERS],
    /// Ended connections, by the codes of [`CloseReason::CODES`].
    pub closed: [u64; CloseReason::CODES.len()],
    /// Errors told, by [`ErrorCode::ALL`].
    pub errors: [u64; ErrorCode::ALL.len()],
    /// Errors told, by [`HTTP_ERRORS`].
    pub http_errors: [u64; HTTP_ERRORS.len()],
    /// By [`Timing`].
    pub timings: [Histogram; Timing::ALL.len()],
    /// Events by mailbox turn.
    pub batch: Histogram,
    /// What is held.
    pub gauges: Gauges,
}

impl Snapshot {
    /// One counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Errors told, by their codes.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let errors = ErrorCode::ALL.iter().map(|code| code.as_str()).zip(self.errors);
        errors.chain(HTTP_ERRORS.into_iter().zip(self.http_errors))
    }

    /// Adds another shard's figures.
    pub fn add(&mut self, other: &Self) {
        fn sum<const N: usize>(mine: &mut [u64; N], theirs: &[u64; N]) {
            for (a, b) in mine.iter_mut().zip(theirs) {
                *a += b;
            }
        }
        sum(&mut self.counters, &other.counters);
        sum(&mut self.closed, &other.closed);
        sum(&mut self.errors, &other.errors);
        sum(&mut self.http_errors, &other.http_errors);
        for (mine, theirs) in self.timings.iter_mut().zip(&other.timings) {
            mine.add(theirs);
        }
        self.batch.add(&other.batch);
        self.gauges.connections += other.gauges.connections;
        self.gauges.subscriptions += other.gauges.subscriptions;
        self.gauges.queue_bytes += other.gauges.queue_bytes;
        self.gauges.queue_memory += other.gauges.queue_memory;
        self.gauges.latest_bytes += other.gauges.latest_bytes;
        sum(&mut self.gauges.slow_consumers, &other.gauges.slow_consumers);
        self.gauges.mailbox_depth += other.gauges.mailbox_depth;
    }
}
