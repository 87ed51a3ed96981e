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

/// One row of the table.
pub(super) struct Row {
    /// As in the file, with its section: `limits.connections`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As the environment would spell it.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
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

/// Names, ranges, defaults and meanings are said once: what is known of a setting is made of its
/// entry here.
macro_rules! settings {
    ($($variant:ident: $name:literal, $kind:expr, $default:literal, $meaning:literal;)*) => {
        /// A setting of the configuration, in the order of the printed file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Key { $(#[doc = $meaning] $variant,)* }

        /// By [`Key`].
        const ROWS: &[Row] =
            &[$(Row { name: $name, kind: $kind, default: $default, meaning: $meaning },)*];

        impl Key {
            /// Every setting, in the order of the printed file.
            pub const ALL: [Self; ROWS.len()] = [$(Self::$variant,)*];
        }
    };
}

settings! {
    Listen: "listen", Kind::Addresses, "127.0.0.1:8080",
        "WebSocket and HTTP; several: [\"127.0.0.1:8080\", \"unix:/run/weir.sock\"]";
    AdminListen: "admin_listen", Kind::Addresses, "",
        "where all but /ws is served instead, and /healthz as well; empty = on the same";
    Shards: "shards", Kind::Integer(0, SHARDS_MAX as u64), "0",
        "threads; 0 = one per usable core";
    Node: "node", Kind::Text, "",
        "name shown to clients in `welcome`; empty = host name";
    Drain: "drain", Kind::Duration(0, HOUR), "10s",
        "how long SIGTERM spreads disconnects over";
    PublishTimeout: "publish_timeout", Kind::Duration(1, HOUR), "5s",
        "how long the HTTP API waits for room, then 503";
    StrictNamespaces: "strict_namespaces", Kind::Bool, "false",
        "true: only configured namespaces exist";
    LimitsConnections: "limits.connections", Kind::Integer(1, 100_000_000), "200000",
        "connections of the process; 503 beyond";
    LimitsConnectionsPerIp: "limits.connections_per_ip", Kind::Integer(0, 100_000_000), "0",
        "connections of one address, of IPv6 of one /64; 429 beyond, 0 = no limit";
    LimitsConnectionsPerUser: "limits.connections_per_user", Kind::Integer(0, 100_000_000), "0",
        "WebSockets of one `sub`; 429 beyond, or 4005 after a message `auth`";
    LimitsConnectsPerSecondPerIp: "limits.connects_per_second_per_ip",
        Kind::Integer(0, 1_000_000), "0",
        "new connections of one address, twice as many at once; 429 beyond";
    LimitsCommandsPerSecond: "limits.commands_per_second", Kind::Integer(0, 1_000_000), "0",
        "commands of one WebSocket, twice as many at once; set it where strangers connect";
    LimitsHttpRequestsPerSecond: "limits.http_requests_per_second",
        Kind::Integer(0, 1_000_000), "0",
        "requests to the API with one key, or of one address, twice as many at once";
    LimitsAuthFailuresPerSecondPerIp: "limits.auth_failures_per_second_per_ip",
        Kind::Integer(0, 1_000_000), "0",
        "bad tokens and API keys of one address, twice as many at once; 429 beyond";
    LimitsSubscriptions: "limits.subscriptions_per_connection", Kind::Integer(1, 10_000_000), "256",
        "channels one connection may subscribe to";
    LimitsMessageBytes: "limits.message_bytes", Kind::Size(KIB, 64 * MIB), "65536",
        "largest message of a client";
    LimitsQueueBytes: "limits.queue_bytes", Kind::Size(KIB, 4 * GIB), "262144",
        "outbound queue of one connection, in bytes";
    LimitsQueueEvents: "limits.queue_events", Kind::Integer(1, 10_000_000), "1024",
        "outbound queue of one connection, in events";
    LimitsSlowDisconnect: "limits.slow_disconnect", Kind::Duration(0, 24 * HOUR), "30s",
        "queue full for this long: closed with 4000; 0 = never";
    LimitsMemory: "limits.memory", Kind::Size(0, 16 << 40), "0",
        "of all queues together; 0 = a quarter of the machine's, or of the cgroup's";
    HttpHeaderTimeout: "http.header_timeout", Kind::Duration(10, HOUR), "5s",
        "how long a request's header may take";
    HttpHeaderBytes: "http.header_bytes", Kind::Size(KIB, MIB), "16384",
        "largest header of a request";
    HttpBodyBytes: "http.body_bytes", Kind::Size(KIB, 4 * GIB), "16MiB",
        "largest body of a request";
    HttpOrigins: "http.origins", Kind::List, "",
        "allowed Origin values; empty = same origin only for browsers, \"*\" = any";
    HttpTrustedProxies: "http.trusted_proxies", Kind::List, "",
        "whose X-Forwarded-For and PROXY v2 headers are believed: addresses, networks (10.0.0.0/8)";
    HttpPing: "http.ping", Kind::Duration(10, HOUR), "25s",
        "silence after which a client is pinged";
    HttpPingTimeout: "http.ping_timeout", Kind::Duration(5, HOUR), "10s",
        "how long its answer may take";
    TlsCert: "tls.cert", Kind::Text, "",
        "PEM: the certificate, and those that it was signed by; empty = no TLS";
    TlsKey: "tls.key", Kind::Text, "",
        "PEM: its private key";
    CompressionDeflate: "compression.deflate", Kind::Bool, "true",
        "permessage-deflate, for clients that offer it";
    CompressionThreshold: "compression.threshold", Kind::Size(0, 64 * MIB), "1024",
        "smaller messages are sent as they are";
    CompressionLevel: "compression.level", Kind::Integer(1, 9), "2",
        "1 = fastest, 9 = smallest";
    CompressionGzip: "compression.gzip", Kind::Bool, "true",
        "weir.v1.json+gzip, and gzip in weir.v1.bin";
    AuthRequired: "auth.required", Kind::Bool, "false",
        "every client must bear a token";
    AuthHmacSecretFile: "auth.hmac_secret_file", Kind::Text, "",
        "the secret that tokens are signed with (HS256, HS384, HS512)";
    AuthPublicKeyFile: "auth.public_key_file", Kind::Text, "",
        "PEM: public keys that tokens are checked with (RS, PS, ES, EdDSA)";
    AuthJwksFile: "auth.jwks_file", Kind::Text, "",
        "keys with names, as a JWK set";
    AuthIssuer: "auth.issuer", Kind::Text, "",
        "the `iss` that tokens must have; empty = any";
    AuthAudience: "auth.audience", Kind::Text, "",
        "what `aud` must name; empty = anything";
    AuthApiKeysFile: "auth.api_keys_file", Kind::Text, "",
        "keys of the HTTP API, `name:key` on each line; empty = it answers this machine alone";
    DefaultsSlow: "defaults.slow",
        Kind::Choice(&["drop_oldest", "drop_newest", "latest", "disconnect"]), "drop_oldest",
        "what a full queue does: drop_oldest | drop_newest | latest | disconnect";
    DefaultsSlowChoice: "defaults.slow_choice", Kind::Bool, "true",
        "may a client ask for another one";
    DefaultsMaxKeys: "defaults.max_keys", Kind::Integer(1, 10_000_000), "10000",
        "keys of a channel whose newest event is kept: where it is keyed, and for slow clients";
    DefaultsPatterns: "defaults.patterns", Kind::Bool, "false",
        "may clients subscribe to `prefix:*`";
    DefaultsHistory: "defaults.history", Kind::Integer(0, 10_000_000), "0",
        "events kept of each channel, for `history` and for those who come back";
    DefaultsHistoryTtl: "defaults.history_ttl", Kind::Duration(1, 24 * 366 * HOUR), "10m",
        "events older than this are not kept";
    DefaultsRecoveryMaxEvents: "defaults.recovery_max_events", Kind::Integer(0, 10_000_000), "1000",
        "whoever missed more than this gets none of them, and is told so";
    DefaultsKeyed: "defaults.keyed", Kind::Bool, "false",
        "the newest event of each key is kept";
    DefaultsPresence: "defaults.presence", Kind::Bool, "false",
        "clients see who has a channel by name";
    DefaultsPresenceLinger: "defaults.presence_linger", Kind::Duration(0, 60 * SECOND), "2s",
        "how long a connection that ended still counts as there";
    DefaultsPresenceMaxMembers: "defaults.presence_max_members", Kind::Integer(0, 10_000), "1000",
        "with more members than this they are only counted";
    DefaultsSignals: "defaults.signals", Kind::Bool, "false",
        "clients may show signals to each other";
    DefaultsSubscribe: "defaults.subscribe", Kind::List, "anyone",
        "who may: any one rule suffices";
    DefaultsPublish: "defaults.publish", Kind::List, "anyone",
        "likewise";
    DefaultsHistoryFor: "defaults.history_for", Kind::List, "subscribers",
        "who may read what is kept; subscribers = whoever may subscribe";
    DefaultsPresenceFor: "defaults.presence_for", Kind::List, "subscribers",
        "who may see who is there";
    DefaultsSignalsFor: "defaults.signals_for", Kind::List, "subscribers",
        "who may show signals";
    DefaultsDurable: "defaults.durable", Kind::Bool, "false",
        "events are on disk before anybody is told of them; needs store.kind = \"sqlite\"";
    StoreKind: "store.kind", Kind::Choice(&["memory", "sqlite"]), "memory",
        "memory | sqlite, which also keeps durable channels in a file";
    StorePath: "store.path", Kind::Text, "weir.db",
        "the file of durable channels";
    StoreMemory: "store.memory", Kind::Size(0, 16 << 40), "0",
        "of all that is kept of events; 0 = a quarter of the machine's, or of the cgroup's";
    LogLevel: "log.level", Kind::Text, "info",
        "off | error | warn | info | debug | trace, or WEIR_LOG";
    LogFormat: "log.format", Kind::Choice(&["auto", "text", "json"]), "auto",
        "text | json; auto = text on a terminal, else json";
}

impl Key {
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
