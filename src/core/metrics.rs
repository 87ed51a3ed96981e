//! Every counter, gauge and histogram of a shard, in one list. Plain cells: a shard has one writer.

use std::cell::Cell;

use super::hub::SlowState;
use crate::proto::close::CloseReason;
use crate::proto::encoder::Made;
use crate::proto::error::ErrorCode;
use crate::proto::format::Format;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident => ($name:literal, $labels:expr, $help:literal),)*) => {
        /// What a shard counts. Never decreases.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])* #[doc = $help] $variant,)* }

        impl Counter {
            /// Every counter with its family's name (without `weir_` and `_total`), its label
            /// and its help text; members of one family stand together.
            pub const ALL: &[(Self, &'static str, Option<(&'static str, &'static str)>, &'static str)] =
                &[$((Self::$variant, $name, $labels, $help),)*];
        }
    };
}

counters! {
    AcceptErrors => ("accept_errors", None, "Accepts that failed, by lack of descriptors for one."),
    AuthAudience => ("auth_failures", Some(("reason", "audience")), "Tokens and keys that were refused, by why."),
    AuthBusy => ("auth_failures", Some(("reason", "busy")), "Tokens and keys that were refused, by why."),
    AuthClaims => ("auth_failures", Some(("reason", "claims")), "Tokens and keys that were refused, by why."),
    AuthEarly => ("auth_failures", Some(("reason", "early")), "Tokens and keys that were refused, by why."),
    AuthExpired => ("auth_failures", Some(("reason", "expired")), "Tokens and keys that were refused, by why."),
    AuthIssuer => ("auth_failures", Some(("reason", "issuer")), "Tokens and keys that were refused, by why."),
    AuthKey => ("auth_failures", Some(("reason", "key")), "Tokens and keys that were refused, by why."),
    AuthApiKey => ("auth_failures", Some(("reason", "api_key")), "Tokens and keys that were refused, by why."),
    AuthLong => ("auth_failures", Some(("reason", "long")), "Tokens and keys that were refused, by why."),
    AuthMalformed => ("auth_failures", Some(("reason", "malformed")), "Tokens and keys that were refused, by why."),
    AuthNoKey => ("auth_failures", Some(("reason", "no_key")), "Tokens and keys that were refused, by why."),
    AuthSeveral => ("auth_failures", Some(("reason", "several")), "Tokens and keys that were refused, by why."),
    AuthSignature => ("auth_failures", Some(("reason", "signature")), "Tokens and keys that were refused, by why."),
    AuthUser => ("auth_failures", Some(("reason", "user")), "Tokens and keys that were refused, by why."),
    BytesReceived => ("bytes_received", None, "Bytes read from WebSocket clients."),
    BytesSent => ("bytes_sent", None, "Bytes written to WebSocket clients."),
    CommandsPing => ("commands", Some(("type", "ping")), "Commands of clients, by type."),
    CommandsPublish => ("commands", Some(("type", "publish")), "Commands of clients, by type."),
    CommandsSubscribe => ("commands", Some(("type", "subscribe")), "Commands of clients, by type."),
    CommandsUnsubscribe => ("commands", Some(("type", "unsubscribe")), "Commands of clients, by type."),
    CommandsAuth => ("commands", Some(("type", "auth")), "Commands of clients, by type."),
    CommandsHistory => ("commands", Some(("type", "history")), "Commands of clients, by type."),
    CommandsPresence => ("commands", Some(("type", "presence")), "Commands of clients, by type."),
    CommandsRequest => ("commands", Some(("type", "request")), "Commands of clients, by type."),
    CommandsSignal => ("commands", Some(("type", "signal")), "Commands of clients, by type."),
    CompressedIn => ("compressed_bytes", Some(("kind", "in")), "Bytes of compressed messages, and of what they stand for."),
    CompressedInPlain => ("compressed_bytes", Some(("kind", "in_plain")), "Bytes of compressed messages, and of what they stand for."),
    CompressedOut => ("compressed_bytes", Some(("kind", "out")), "Bytes of compressed messages, and of what they stand for."),
    CompressedOutPlain => ("compressed_bytes", Some(("kind", "out_plain")), "Bytes of compressed messages, and of what they stand for."),
    ConnectionsOpened => ("connections_opened", None, "WebSocket connections opened."),
    EncodedBin => ("event_encodings", Some(("format", "bin")), "Events encoded, once for each format."),
    EncodedBinDeflate => ("event_encodings", Some(("format", "bin_deflate")), "Events encoded, once for each format."),
    EncodedBinDeflateNarrow => ("event_encodings", Some(("format", "bin_deflate_narrow")), "Events encoded, once for each format."),
    EncodedJson => ("event_encodings", Some(("format", "json")), "Events encoded, once for each format."),
    EncodedJsonDeflate => ("event_encodings", Some(("format", "json_deflate")), "Events encoded, once for each format."),
    EncodedJsonDeflateNarrow => ("event_encodings", Some(("format", "json_deflate_narrow")), "Events encoded, once for each format."),
    EncodedJsonGzip => ("event_encodings", Some(("format", "json_gzip")), "Events encoded, once for each format."),
    EventsConflated => ("events_conflated", None, "Events left out for newer ones of the same key, as max_rate asks, once for each subscriber."),
    EventsDelivered => ("events_delivered", None, "Events handed to the kernel, once for each subscriber."),
    DroppedNewest => ("events_dropped", Some(("policy", "drop_newest")), "Events dropped from queues, by policy."),
    DroppedOldest => ("events_dropped", Some(("policy", "drop_oldest")), "Events dropped from queues, by policy."),
    DroppedLatest => ("events_dropped", Some(("policy", "latest")), "Events dropped from queues, by policy."),
    DroppedDisconnect => ("events_dropped", Some(("policy", "disconnect")), "Events dropped from queues, by policy."),
    DroppedClosed => ("events_dropped", Some(("policy", "closed")), "Events dropped from queues, by policy."),
    DroppedUnsubscribed => ("events_dropped", Some(("policy", "unsubscribed")), "Events dropped from queues, by policy."),
    EventsShown => ("events_shown", None, "Newest events of a key shown to those who had missed them."),
    EventsPublishedEmbed => ("events_published", Some(("door", "embed")), "Events taken, by the door they came through."),
    EventsPublishedHttp => ("events_published", Some(("door", "http")), "Events taken, by the door they came through."),
    EventsRecovered => ("events_recovered", None, "Events delivered to subscriptions that came back and had missed them."),
    RecoveriesWhole => ("recoveries", Some(("whole", "true")), "Subscriptions that named a place, by whether they got all since."),
    RecoveriesNot => ("recoveries", Some(("whole", "false")), "Subscriptions that named a place, by whether they got all since."),
    EventsDuplicate => ("events_duplicate", None, "Events that were published before, and not again."),
    EventsPublishedWs => ("events_published", Some(("door", "ws")), "Events taken, by the door they came through."),
    FlushSyscalls => ("flush_syscalls", None, "Writes to sockets."),
    HttpCutHead => ("http_cut", Some(("reason", "head")), "HTTP connections cut for being too slow: to send a request's head, or to take an answer."),
    HttpCutUntaken => ("http_cut", Some(("reason", "untaken")), "HTTP connections cut for being too slow: to send a request's head, or to take an answer."),
    Panics => ("panics", None, "Panics caught: each ended a connection, or left a frame uncompressed."),
    LimitedAuthFailures => ("rate_limited", Some(("what", "auth_failures")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedCommands => ("rate_limited", Some(("what", "commands")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedConnectionsPerIp => ("rate_limited", Some(("what", "connections_per_ip")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedConnectionsPerUser => ("rate_limited", Some(("what", "connections_per_user")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedConnects => ("rate_limited", Some(("what", "connects_per_ip")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedHttpRequests => ("rate_limited", Some(("what", "http_requests")), "Refused because somebody had, or asked for, too much, by the limit."),
    LimitedStrangers => ("rate_limited", Some(("what", "before_auth")), "Refused because somebody had, or asked for, too much, by the limit."),
    ProxyHeadersBad => ("proxy_headers_bad", None, "Connections of trusted proxies that were closed, for a PROXY header that was bad, old or late."),
    RejectedBadRequest => ("upgrade_rejected", Some(("reason", "bad_request")), "Handshakes answered with an HTTP error, by its code."),
    RejectedForbidden => ("upgrade_rejected", Some(("reason", "forbidden")), "Handshakes answered with an HTTP error, by its code."),
    RejectedLimit => ("upgrade_rejected", Some(("reason", "limit_exceeded")), "Handshakes answered with an HTTP error, by its code."),
    RejectedMethod => ("upgrade_rejected", Some(("reason", "method_not_allowed")), "Handshakes answered with an HTTP error, by its code."),
    RejectedOverloaded => ("upgrade_rejected", Some(("reason", "overloaded")), "Handshakes answered with an HTTP error, by its code."),
    RejectedRate => ("upgrade_rejected", Some(("reason", "rate_limited")), "Handshakes answered with an HTTP error, by its code."),
    RejectedUnavailable => ("upgrade_rejected", Some(("reason", "unavailable")), "Handshakes answered with an HTTP error, by its code."),
    RejectedUpgrade => ("upgrade_rejected", Some(("reason", "upgrade_required")), "Handshakes answered with an HTTP error, by its code."),
    RejectedUnauthorized => ("upgrade_rejected", Some(("reason", "unauthorized")), "Handshakes answered with an HTTP error, by its code."),
    SignalsTold => ("signals", None, "Values and ends of signals that channels were told of."),
    SubscriptionsRevoked => ("subscriptions_revoked", None, "Subscriptions that ended because a token does not allow them any more."),
    TlsFailed => ("tls_handshakes", Some(("result", "failed")), "Handshakes of TLS, by how they ended."),
    TlsFull => ("tls_handshakes", Some(("result", "full")), "Handshakes of TLS, by how they ended."),
    TlsResumed => ("tls_handshakes", Some(("result", "resumed")), "Handshakes of TLS, by how they ended."),
    TlsTimeout => ("tls_handshakes", Some(("result", "timeout")), "Handshakes of TLS, by how they ended."),
    TokensSeen => ("tokens", Some(("how", "seen")), "Tokens that were taken: verified, or seen before."),
    TokensVerified => ("tokens", Some(("how", "verified")), "Tokens that were taken: verified, or seen before."),
    Upgrades => ("upgrades", None, "Handshakes answered with 101."),
}

/// The count of [`Counter`] variants.
pub const COUNTERS: usize = Counter::ALL.len();

/// The codes of errors that only HTTP has, beside those of [`ErrorCode::ALL`].
pub const HTTP_ERRORS: [&str; 5] =
    ["forbidden", "method_not_allowed", "not_found", "timeout", "upgrade_required"];

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
