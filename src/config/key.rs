//! Every setting in one table: key, kind, range, default and meaning.

/// What a setting's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One address, or a list of them.
    Addresses,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A time between these many milliseconds.
    Duration(u64, u64),
    /// A whole number between these.
    Integer(u64, u64),
    /// A list of texts.
    List,
    /// Bytes, between these.
    Size(u64, u64),
    /// Any text.
    Text,
}

/// A setting of the configuration, in the order of the printed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below says what each one means")]
pub enum Key {
    Listen,
    AdminListen,
    Shards,
    Node,
    Drain,
    PublishTimeout,
    StrictNamespaces,
    LimitsConnections,
    LimitsConnectionsPerIp,
    LimitsConnectionsPerUser,
    LimitsConnectsPerSecondPerIp,
    LimitsCommandsPerSecond,
    LimitsHttpRequestsPerSecond,
    LimitsAuthFailuresPerSecondPerIp,
    LimitsSubscriptions,
    LimitsMessageBytes,
    LimitsQueueBytes,
    LimitsQueueEvents,
    LimitsSlowDisconnect,
    LimitsMemory,
    HttpHeaderTimeout,
    HttpHeaderBytes,
    HttpBodyBytes,
    HttpOrigins,
    HttpTrustedProxies,
    HttpPing,
    HttpPingTimeout,
    TlsCert,
    TlsKey,
    CompressionDeflate,
    CompressionThreshold,
    CompressionLevel,
    CompressionGzip,
    AuthRequired,
    AuthHmacSecretFile,
    AuthPublicKeyFile,
    AuthJwksFile,
    AuthIssuer,
    AuthAudience,
    AuthApiKeysFile,
    DefaultsSlow,
    DefaultsSlowChoice,
    DefaultsMaxKeys,
    DefaultsPatterns,
    DefaultsHistory,
    DefaultsHistoryTtl,
    DefaultsRecoveryMaxEvents,
    DefaultsKeyed,
    DefaultsPresence,
    DefaultsPresenceLinger,
    DefaultsPresenceMaxMembers,
    DefaultsSignals,
    DefaultsSubscribe,
    DefaultsPublish,
    DefaultsHistoryFor,
    DefaultsPresenceFor,
    DefaultsSignalsFor,
    DefaultsDurable,
    StoreKind,
    StorePath,
    StoreMemory,
    LogLevel,
    LogFormat,
}

/// One row of the table.
pub(super) struct Row {
    /// As in the file, with its section: `limits.connections`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As the environment would spell it.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
}

const fn row(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Row {
    Row { name, kind, default, meaning }
}

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most shards a gateway may have.
pub(super) const SHARDS_MAX: usize = 128;

/// The sections of the file, apart from `[[namespace]]`.
pub(super) const SECTIONS: [&str; 8] =
    ["limits", "http", "tls", "compression", "auth", "defaults", "store", "log"];

const ROWS: [Row; Key::ALL.len()] = [
    row(
        "listen",
        Kind::Addresses,
        "127.0.0.1:8080",
        "WebSocket and HTTP; several: [\"127.0.0.1:8080\", \"unix:/run/weir.sock\"]",
    ),
    row(
        "admin_listen",
        Kind::Addresses,
        "",
        "where all but /ws is served instead, and /healthz as well; empty = on the same",
    ),
    row("shards", Kind::Integer(0, SHARDS_MAX as u64), "0", "threads; 0 = one per usable core"),
    row("node", Kind::Text, "", "name shown to clients in `welcome`; empty = host name"),
    row("drain", Kind::Duration(0, HOUR), "10s", "how long SIGTERM spreads disconnects over"),
    row(
        "publish_timeout",
        Kind::Duration(1, HOUR),
        "5s",
        "how long the HTTP API waits for room, then 503",
    ),
    row("strict_namespaces", Kind::Bool, "false", "true: only configured namespaces exist"),
    row(
        "limits.connections",
        Kind::Integer(1, 100_000_000),
        "200000",
        "connections of the process; 503 beyond",
    ),
    row(
        "limits.connections_per_ip",
        Kind::Integer(0, 100_000_000),
        "0",
        "connections of one address, of IPv6 of one /64; 429 beyond, 0 = no limit",
    ),
    row(
        "limits.connections_per_user",
        Kind::Integer(0, 100_000_000),
        "0",
        "WebSockets of one `sub`; 429 beyond, or 4005 after a message `auth`",
    ),
    row(
        "limits.connects_per_second_per_ip",
        Kind::Integer(0, 1_000_000),
        "0",
        "new connections of one address, twice as many at once; 429 beyond",
    ),
    row(
        "limits.commands_per_second",
        Kind::Integer(0, 1_000_000),
        "0",
        "commands of one WebSocket, twice as many at once; set it where strangers connect",
    ),
    row(
        "limits.http_requests_per_second",
        Kind::Integer(0, 1_000_000),
        "0",
        "requests to the API with one key, or of one address, twice as many at once",
    ),
    row(
        "limits.auth_failures_per_second_per_ip",
        Kind::Integer(0, 1_000_000),
        "0",
        "bad tokens and API keys of one address, twice as many at once; 429 beyond",
    ),
    row(
        "limits.subscriptions_per_connection",
        Kind::Integer(1, 10_000_000),
        "256",
        "channels one connection may subscribe to",
    ),
    row("limits.message_bytes", Kind::Size(KIB, 64 * MIB), "65536", "largest message of a client"),
    row(
        "limits.queue_bytes",
        Kind::Size(KIB, 4 * GIB),
        "262144",
        "outbound queue of one connection, in bytes",
    ),
    row(
        "limits.queue_events",
        Kind::Integer(1, 10_000_000),
        "1024",
        "outbound queue of one connection, in events",
    ),
    row(
        "limits.slow_disconnect",
        Kind::Duration(0, 24 * HOUR),
        "30s",
        "queue full for this long: closed with 4000; 0 = never",
    ),
    row(
        "limits.memory",
        Kind::Size(0, 16 << 40),
        "0",
        "of all queues together; 0 = a quarter of the machine's, or of the cgroup's",
    ),
    row(
        "http.header_timeout",
        Kind::Duration(10, HOUR),
        "5s",
        "how long a request's header may take",
    ),
    row("http.header_bytes", Kind::Size(KIB, MIB), "16384", "largest header of a request"),
    row("http.body_bytes", Kind::Size(KIB, 4 * GIB), "16MiB", "largest body of a request"),
    row(
        "http.origins",
        Kind::List,
        "",
        "allowed Origin values; empty = same origin only for browsers, \"*\" = any",
    ),
    row(
        "http.trusted_proxies",
        Kind::List,
        "",
        "whose X-Forwarded-For and PROXY v2 headers are believed: addresses, and networks (10.0.0.0/8)",
    ),
    row("http.ping", Kind::Duration(10, HOUR), "25s", "silence after which a client is pinged"),
    row("http.ping_timeout", Kind::Duration(5, HOUR), "10s", "how long its answer may take"),
    row(
        "tls.cert",
        Kind::Text,
        "",
        "PEM: the certificate, and those that it was signed by; empty = no TLS",
    ),
    row("tls.key", Kind::Text, "", "PEM: its private key"),
    row("compression.deflate", Kind::Bool, "true", "permessage-deflate, for clients that offer it"),
    row(
        "compression.threshold",
        Kind::Size(0, 64 * MIB),
        "1024",
        "smaller messages are sent as they are",
    ),
    row("compression.level", Kind::Integer(1, 9), "2", "1 = fastest, 9 = smallest"),
    row("compression.gzip", Kind::Bool, "true", "weir.v1.json+gzip, and gzip in weir.v1.bin"),
    row("auth.required", Kind::Bool, "false", "every client must bear a token"),
    row(
        "auth.hmac_secret_file",
        Kind::Text,
        "",
        "the secret that tokens are signed with (HS256, HS384, HS512)",
    ),
    row(
        "auth.public_key_file",
        Kind::Text,
        "",
        "PEM: public keys that tokens are checked with (RS, PS, ES, EdDSA)",
    ),
    row("auth.jwks_file", Kind::Text, "", "keys with names, as a JWK set"),
    row("auth.issuer", Kind::Text, "", "the `iss` that tokens must have; empty = any"),
    row("auth.audience", Kind::Text, "", "what `aud` must name; empty = anything"),
    row(
        "auth.api_keys_file",
        Kind::Text,
        "",
        "keys of the HTTP API, `name:key` on each line; empty = it answers this machine alone",
    ),
    row(
        "defaults.slow",
        Kind::Choice(&["drop_oldest", "drop_newest", "latest", "disconnect"]),
        "drop_oldest",
        "what a full queue does: drop_oldest | drop_newest | latest | disconnect",
    ),
    row("defaults.slow_choice", Kind::Bool, "true", "may a client ask for another one"),
    row(
        "defaults.max_keys",
        Kind::Integer(1, 10_000_000),
        "10000",
        "keys of a channel whose newest event is kept: where it is keyed, and for slow clients",
    ),
    row("defaults.patterns", Kind::Bool, "false", "may clients subscribe to `prefix:*`"),
    row(
        "defaults.history",
        Kind::Integer(0, 10_000_000),
        "0",
        "events kept of each channel, for `history` and for those who come back",
    ),
    row(
        "defaults.history_ttl",
        Kind::Duration(1, 24 * 366 * HOUR),
        "10m",
        "events older than this are not kept",
    ),
    row(
        "defaults.recovery_max_events",
        Kind::Integer(0, 10_000_000),
        "1000",
        "whoever missed more than this gets none of them, and is told so",
    ),
    row("defaults.keyed", Kind::Bool, "false", "the newest event of each key is kept"),
    row("defaults.presence", Kind::Bool, "false", "clients see who has a channel by name"),
    row(
        "defaults.presence_linger",
        Kind::Duration(0, 60 * SECOND),
        "2s",
        "how long a connection that ended still counts as there",
    ),
    row(
        "defaults.presence_max_members",
        Kind::Integer(0, 10_000),
        "1000",
        "with more members than this they are only counted",
    ),
    row("defaults.signals", Kind::Bool, "false", "clients may show signals to each other"),
    row("defaults.subscribe", Kind::List, "anyone", "who may: any one rule suffices"),
    row("defaults.publish", Kind::List, "anyone", "likewise"),
    row(
        "defaults.history_for",
        Kind::List,
        "subscribers",
        "who may read what is kept; subscribers = whoever may subscribe",
    ),
    row("defaults.presence_for", Kind::List, "subscribers", "who may see who is there"),
    row("defaults.signals_for", Kind::List, "subscribers", "who may show signals"),
    row(
        "defaults.durable",
        Kind::Bool,
        "false",
        "events are on disk before anybody is told of them; needs store.kind = \"sqlite\"",
    ),
    row(
        "store.kind",
        Kind::Choice(&["memory", "sqlite"]),
        "memory",
        "memory | sqlite, which also keeps durable channels in a file",
    ),
    row("store.path", Kind::Text, "weir.db", "the file of durable channels"),
    row(
        "store.memory",
        Kind::Size(0, 16 << 40),
        "0",
        "of all that is kept of events; 0 = a quarter of the machine's, or of the cgroup's",
    ),
    row("log.level", Kind::Text, "info", "off | error | warn | info | debug | trace, or WEIR_LOG"),
    row(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        "auto",
        "text | json; auto = text on a terminal, else json",
    ),
];

impl Key {
    /// Every setting, in the order of the printed file.
    pub const ALL: [Self; 63] = [
        Self::Listen,
        Self::AdminListen,
        Self::Shards,
        Self::Node,
        Self::Drain,
        Self::PublishTimeout,
        Self::StrictNamespaces,
        Self::LimitsConnections,
        Self::LimitsConnectionsPerIp,
        Self::LimitsConnectionsPerUser,
        Self::LimitsConnectsPerSecondPerIp,
        Self::LimitsCommandsPerSecond,
        Self::LimitsHttpRequestsPerSecond,
        Self::LimitsAuthFailuresPerSecondPerIp,
        Self::LimitsSubscriptions,
        Self::LimitsMessageBytes,
        Self::LimitsQueueBytes,
        Self::LimitsQueueEvents,
        Self::LimitsSlowDisconnect,
        Self::LimitsMemory,
        Self::HttpHeaderTimeout,
        Self::HttpHeaderBytes,
        Self::HttpBodyBytes,
        Self::HttpOrigins,
        Self::HttpTrustedProxies,
        Self::HttpPing,
        Self::HttpPingTimeout,
        Self::TlsCert,
        Self::TlsKey,
        Self::CompressionDeflate,
        Self::CompressionThreshold,
        Self::CompressionLevel,
        Self::CompressionGzip,
        Self::AuthRequired,
        Self::AuthHmacSecretFile,
        Self::AuthPublicKeyFile,
        Self::AuthJwksFile,
        Self::AuthIssuer,
        Self::AuthAudience,
        Self::AuthApiKeysFile,
        Self::DefaultsSlow,
        Self::DefaultsSlowChoice,
        Self::DefaultsMaxKeys,
        Self::DefaultsPatterns,
        Self::DefaultsHistory,
        Self::DefaultsHistoryTtl,
        Self::DefaultsRecoveryMaxEvents,
        Self::DefaultsKeyed,
        Self::DefaultsPresence,
        Self::DefaultsPresenceLinger,
        Self::DefaultsPresenceMaxMembers,
        Self::DefaultsSignals,
        Self::DefaultsSubscribe,
        Self::DefaultsPublish,
        Self::DefaultsHistoryFor,
        Self::DefaultsPresenceFor,
        Self::DefaultsSignalsFor,
        Self::DefaultsDurable,
        Self::StoreKind,
        Self::StorePath,
        Self::StoreMemory,
        Self::LogLevel,
        Self::LogFormat,
    ];

    /// The key as in the file, with its section.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The setting of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// The variable that sets it.
    pub fn variable(self) -> String {
        format!("WEIR_{}", self.name().to_ascii_uppercase().replace('.', "__"))
    }

    /// Its name in a `[[namespace]]`, where that may have it otherwise.
    pub(super) fn in_namespace(self) -> Option<&'static str> {
        self.name().strip_prefix("defaults.")
    }

    pub(super) fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_keys() {
        for (at, key) in Key::ALL.into_iter().enumerate() {
            assert_eq!(key as usize, at);
            assert_eq!(Key::find(key.name()), Some(key));
        }
        assert_eq!(Key::LogFormat.name(), "log.format");
        assert_eq!(Key::HttpPing.variable(), "WEIR_HTTP__PING");
        assert_eq!(Key::DefaultsSlow.row().default, "drop_oldest");
    }
}
