//! Settings as checked: [`Config`] can only hold what a gateway can run with.

use crate::config::fault::{BadSetting, Source};
use crate::config::key::{Key, Kind, SHARDS_MAX};
use crate::config::memory;
use crate::config::raw::{RawConfig, Written};
use crate::config::unit;
use crate::config::value::Value;
use crate::core::outbox::OutboxLimit;
use crate::http::{HttpOptions, ListenAddress};
use crate::proto::format::Compression;
use crate::shard::{AuthOptions, NodeOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the defaults depend on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// How many cores the process may use.
    pub cores: usize,
    /// The host's name.
    pub host: String,
    /// How much memory the process may take, in bytes.
    pub memory: u64,
}

impl Machine {
    /// The machine this process runs on.
    pub fn detect() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let host = if host.is_empty() { "weir".to_owned() } else { host };
        Self { cores, host, memory: memory::detect() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A level, or `tracing` directives such as `weir=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// Settings a gateway can run with.
pub struct Config {
    /// Where the gateway listens, for its clients at least.
    pub listen: Vec<ListenAddress>,
    /// Where it serves all but clients; empty where that is with them.
    pub admin_listen: Vec<ListenAddress>,
    /// How many threads serve connections; at least 1.
    pub shards: usize,
    /// Options of the node.
    pub node: NodeOptions,
    /// Options of the HTTP side.
    pub http: HttpOptions,
    /// Memory of all that is kept of events, in bytes.
    pub store_memory: usize,
    /// The file of durable channels, where there are some.
    pub store_path: Option<PathBuf>,
    /// Options of the log.
    pub log: LogOptions,
    /// What is no fault and should be otherwise.
    pub warnings: Vec<BadSetting>,
}

impl RawConfig {
    /// Checks everything and reports every problem at once, after those already `bad`.
    ///
    /// # Errors
    ///
    /// Every fault, with its key and where it was written: the file by its lines, then the
    /// environment, then the flags.
    pub fn check(
        &self,
        machine: &Machine,
        bad: Vec<BadSetting>,
    ) -> Result<Config, Vec<BadSetting>> {
        let mut check = Check { raw: self, bad, warnings: Vec::new() };
        // A file must be sound also where no variable stands before it.
        for (key, written) in &self.covered {
            check.value_of(written, key.name(), key.row().kind);
        }
        let shards = match check.count(Key::Shards) {
            0 => machine.cores.clamp(1, SHARDS_MAX),
            shards => shards,
        };
        let auth = check.auth();
        let listen = check.listen(auth.required);
        let http = check.http();
        let config = Config {
            admin_listen: check.admin_listen(&listen, http.keys.is_some()),
            listen,
            shards,
            node: check.node(machine, auth),
            http,
            store_memory: check.store_memory(machine),
            store_path: check.store_path(),
            log: check.log(),
            warnings: std::mem::take(&mut check.warnings),
        };
        // Stable: the faults of one line stay in the order of its values.
        check.bad.sort_by(|one, other| one.source.cmp(&other.source));
        if check.bad.is_empty() { Ok(config) } else { Err(check.bad) }
    }
}

impl Default for Config {
    /// The defaults on this machine.
    fn default() -> Self {
        let raw = RawConfig::default();
        match raw.check(&Machine::detect(), Vec::new()) {
            Ok(config) => config,
            // A test holds the defaults to be legal.
            Err(bad) => unreachable!("the defaults are illegal: {bad:?}"),
        }
    }
}

/// The walk through the settings. A faulty one counts as its default from then on.
pub(super) struct Check<'a> {
    pub(super) raw: &'a RawConfig,
    bad: Vec<BadSetting>,
    warnings: Vec<BadSetting>,
}

impl Check<'_> {
    fn node(&mut self, machine: &Machine, auth: AuthOptions) -> NodeOptions {
        let message_bytes = self.count(Key::LimitsMessageBytes);
        let outbox = OutboxLimit {
            bytes: self.count(Key::LimitsQueueBytes),
            events: self.count(Key::LimitsQueueEvents),
        };
        if outbox.bytes < message_bytes {
            let bytes = u64::try_from(message_bytes).unwrap_or(u64::MAX);
            let least = unit::show_size(bytes);
            let problem = format!("must hold one message: at least limits.message_bytes ({least})");
            self.fault(Key::LimitsQueueBytes, &problem);
        }
        let memory_max = self.memory(machine, outbox.bytes);
        let slow = self.duration(Key::LimitsSlowDisconnect);
        let (ping_interval, ping_timeout) = self.ping();
        NodeOptions {
            node_name: self.node_name(machine),
            limits: self.limits(),
            message_bytes,
            subscriptions_max: self.count(Key::LimitsSubscriptions),
            outbox,
            memory_max,
            ping_interval,
            ping_timeout,
            drain: self.duration(Key::Drain),
            publish_timeout: self.duration(Key::PublishTimeout),
            slow_disconnect: (!slow.is_zero()).then_some(slow),
            policies: self.policies(),
            compression: self.compression(),
            auth,
        }
    }

    fn compression(&mut self) -> Compression {
        Compression {
            deflate: self.flag(Key::CompressionDeflate),
            gzip: self.flag(Key::CompressionGzip),
            level: u32::try_from(self.number(Key::CompressionLevel)).unwrap_or(Compression::LEVEL),
            threshold: self.count(Key::CompressionThreshold),
        }
    }

    /// What all queues together may take; one of them has `queue_bytes`.
    fn memory(&mut self, machine: &Machine, queue_bytes: usize) -> usize {
        match self.count(Key::LimitsMemory) {
            0 => usize::try_from(machine.memory / 4).unwrap_or(usize::MAX).max(queue_bytes),
            memory => {
                if memory < queue_bytes {
                    let least = unit::show_size(u64::try_from(queue_bytes).unwrap_or(u64::MAX));
                    let problem =
                        format!("must hold one queue: 0, or at least limits.queue_bytes ({least})");
                    self.fault(Key::LimitsMemory, &problem);
                }
                memory
            }
        }
    }

    /// What is kept of events may take.
    fn store_memory(&mut self, machine: &Machine) -> usize {
        match self.count(Key::StoreMemory) {
            0 => usize::try_from(machine.memory / 4).unwrap_or(usize::MAX),
            memory => memory,
        }
    }

    /// Where durable channels are kept; `None` where nothing is.
    fn store_path(&mut self) -> Option<PathBuf> {
        let path = self.text(Key::StorePath);
        if self.text(Key::StoreKind) != "sqlite" {
            if !path.is_empty() && path != Key::StorePath.row().default {
                let problem = "names a file that is not used: it needs store.kind = \"sqlite\"";
                self.warn(Key::StorePath, problem);
            }
            return None;
        }
        if !cfg!(feature = "sqlite") {
            let problem = "is \"sqlite\", which this build does not have: build it with the feature \
                 `sqlite`";
            self.fault(Key::StoreKind, problem);
        }
        if path.is_empty() {
            self.fault(Key::StorePath, "is empty, must name a file");
        }
        Some(path.into())
    }

    /// Whether there is a store that can keep durable channels.
    pub(super) fn is_durable(&self) -> bool {
        let written = self.raw.get(Key::StoreKind).map(|written| &written.value);
        let kind = written.and_then(|value| value.check(Key::StoreKind.row().kind).ok());
        kind.is_some_and(|kind| kind.text() == "sqlite")
    }

    fn node_name(&mut self, machine: &Machine) -> String {
        let name = self.text(Key::Node);
        if name.is_empty() {
            return machine.host.clone();
        }
        if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.fault(
                Key::Node,
                &format!("is {name:?}, must be 1 to 64 visible ASCII characters"),
            );
        }
        name
    }

    fn ping(&mut self) -> (Duration, Duration) {
        let interval = self.duration(Key::HttpPing);
        let timeout = self.duration(Key::HttpPingTimeout);
        if timeout >= interval {
            // The one that somebody wrote is the one to change.
            let key = match self.raw.source(Key::HttpPingTimeout) {
                Source::Default => Key::HttpPing,
                Source::Environment(_) | Source::File(..) | Source::Flag(_) => Key::HttpPingTimeout,
            };
            self.fault(key, "http.ping_timeout must be less than http.ping");
        }
        (interval, timeout)
    }

    fn http(&mut self) -> HttpOptions {
        HttpOptions {
            header_timeout: self.duration(Key::HttpHeaderTimeout),
            header_bytes: self.count(Key::HttpHeaderBytes),
            body_bytes: self.count(Key::HttpBodyBytes),
            origins: self.origins(),
            keys: self.api_keys().map(Arc::new),
            proxies: Arc::new(self.trusted_proxies()),
            tls: self.tls(),
            echo: false,
        }
    }

    fn origins(&mut self) -> Vec<String> {
        let Value::List(origins) = self.value(Key::HttpOrigins) else { return Vec::new() };
        for origin in &origins {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            let whole = !host.is_empty()
                && origin.bytes().all(|byte| byte.is_ascii_graphic())
                && !host.contains(['/', '?', '#', '@']);
            if origin != "*" && !whole {
                let right = "\"https://example.org\", without a path, or \"*\"";
                self.fault(Key::HttpOrigins, &format!("has {origin:?}, an origin is like {right}"));
            } else if let Some(right) = as_sent(origin) {
                let problem = format!("has {origin:?}, which browsers send as {right:?}");
                self.fault(Key::HttpOrigins, &problem);
            }
        }
        origins
    }

    fn log(&mut self) -> LogOptions {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let text = self.text(Key::LogLevel);
        // What has spaces about it would be taken for the name of a target.
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        for directive in &directives {
            let (target, word) = directive.rsplit_once('=').unwrap_or(("weir", directive));
            let named = |c: char| c.is_ascii_alphanumeric() || "_-:.".contains(c);
            let legal = !target.is_empty() && target.chars().all(named);
            if !legal || !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
                let levels = LEVELS.join(", ");
                let right = format!("a level is one of {levels}; or like \"weir=debug,info\"");
                self.fault(Key::LogLevel, &format!("has {directive:?}, {right}"));
            }
        }
        let level = directives.join(",");
        let format = match self.text(Key::LogFormat).as_str() {
            "json" => LogFormat::Json,
            "text" => LogFormat::Text,
            _ => LogFormat::Auto,
        };
        LogOptions { level, format }
    }

    pub(super) fn flag(&mut self, key: Key) -> bool {
        self.value(key).flag()
    }

    pub(super) fn text(&mut self, key: Key) -> String {
        self.value(key).text()
    }

    pub(super) fn number(&mut self, key: Key) -> u64 {
        self.value(key).number()
    }

    pub(super) fn count(&mut self, key: Key) -> usize {
        self.value(key).count()
    }

    fn duration(&mut self, key: Key) -> Duration {
        Duration::from_millis(self.number(key))
    }

    pub(super) fn value(&mut self, key: Key) -> Value {
        let raw = self.raw;
        let written = raw.get(key);
        let value = written.and_then(|w| self.value_of(w, key.name(), key.row().kind));
        value.unwrap_or_else(|| Value::default_of(key))
    }

    pub(super) fn value_of(&mut self, written: &Written, name: &str, kind: Kind) -> Option<Value> {
        match written.value.check(kind) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.push(written.source.clone(), name, problem);
                None
            }
        }
    }

    pub(super) fn fault(&mut self, key: Key, problem: &str) {
        self.push(self.raw.source(key), key.name(), problem.to_owned());
    }

    /// Says that something should be otherwise, and goes on.
    pub(super) fn warn(&mut self, key: Key, problem: &str) {
        self.doubt(self.raw.source(key), key.name(), problem.to_owned());
    }

    pub(super) fn doubt(&mut self, source: Source, key: &str, problem: String) {
        self.warnings.push(BadSetting::new(source, key, problem));
    }

    /// How many there are.
    pub(super) fn faults(&self) -> usize {
        self.bad.len()
    }

    pub(super) fn push(&mut self, source: Source, key: &str, problem: String) {
        self.bad.push(BadSetting::new(source, key, problem));
    }
}

/// How browsers write an origin that stands here with the port of its scheme.
fn as_sent(origin: &str) -> Option<&str> {
    let ports = [("http://", ":80"), ("https://", ":443")];
    let port = ports.into_iter().find(|(scheme, _)| origin.starts_with(scheme));
    port.and_then(|(_, port)| origin.strip_suffix(port))
}

#[cfg(test)]
mod tests;
