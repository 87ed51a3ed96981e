//! Other settings for a running gateway: what of them it takes, and what needs another start.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::Handle;
use crate::config::Config;
use crate::http::{HttpOptions, ListenAddress};
use crate::store::memory::Memory;

/// What cannot change while a gateway runs.
pub(super) struct Fixed {
    listen: Vec<ListenAddress>,
    admin_listen: Vec<ListenAddress>,
    shards: usize,
    store_path: Option<PathBuf>,
    /// Whether TLS is spoken.
    tls: bool,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        let Config { listen, admin_listen, shards, store_path, http, .. } = config;
        Self {
            listen: listen.clone(),
            admin_listen: admin_listen.clone(),
            shards: *shards,
            store_path: store_path.clone(),
            tls: http.tls.is_some(),
        }
    }

    /// What of it is otherwise in `config`.
    fn differences(&self, config: &Config) -> Vec<Warning> {
        let kinds = (self.store_path.is_some(), config.store_path.is_some());
        let all = [
            ("listen", self.listen != config.listen),
            ("admin_listen", self.admin_listen != config.admin_listen),
            ("tls.cert", self.tls != config.http.tls.is_some()),
            ("shards", self.shards != config.shards),
            ("store.kind", kinds.0 != kinds.1),
            ("store.path", kinds == (true, true) && self.store_path != config.store_path),
        ];
        let others = all.into_iter().filter(|(_, differs)| *differs);
        others.map(|(key, _)| Warning { setting: key.to_owned() }).collect()
    }
}

/// The parts of a running gateway that a reload changes, beside its node.
pub(super) struct Running {
    fixed: Fixed,
    store: Arc<Memory>,
    http: Arc<ArcSwap<HttpOptions>>,
    /// One reload after the other.
    turn: Mutex<()>,
}

impl Running {
    pub(super) fn new(fixed: Fixed, store: Arc<Memory>, http: Arc<ArcSwap<HttpOptions>>) -> Self {
        Self { fixed, store, http, turn: Mutex::const_new(()) }
    }
}

/// A setting that a reload would have changed, and that only another start does: the value from
/// before stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    setting: String,
}

impl Warning {
    /// Its key, such as `shards`.
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = &self.setting;
        write!(f, "{setting} is another one, which needs a restart: the old value stays")
    }
}

/// What a reload has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// What stays as it was, though the settings have it otherwise.
    pub warnings: Vec<Warning>,
    /// Subscriptions that ended, because the rules do not allow them any more.
    pub revoked: u64,
    /// Connections that have to bring a token, or another one, or else are sent away.
    pub ending: u64,
}

/// Why a gateway does not take other settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It is on its way out, and goes there by the settings that it has.
    #[error("the gateway is draining: it takes no other settings")]
    Draining,
    /// A shard has ended, or has not answered within five seconds. The others go by the settings.
    #[error("a shard has not answered: it may go by the settings from before")]
    Shard,
}

impl Handle {
    /// Goes by other settings from here on. All of them change but where it listens, how many
    /// shards it has, where durable channels are kept, and which channels are durable: those stay,
    /// with a warning. Who is connected stays so; their subscriptions are held against the rules
    /// again. Needs a tokio runtime with a timer, which carries it out to its end also where whoever
    /// calls gives up.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; after [`ReloadError::Draining`] nothing has changed.
    pub async fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        // Half of it would be settings that nobody has written.
        let own = self.clone();
        #[expect(clippy::disallowed_methods, reason = "of the caller's runtime, and of no shard")]
        let done = tokio::spawn(async move { own.carry_out(config).await });
        match done.await.map_err(JoinError::try_into_panic) {
            Ok(reloaded) => reloaded,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(Err(_)) => Err(ReloadError::Shard),
        }
    }

    async fn carry_out(&self, config: Config) -> Result<Reloaded, ReloadError> {
        let Running { fixed, store, http, turn } = &*self.running;
        let _turn = turn.lock().await;
        if self.node.draining() {
            return Err(ReloadError::Draining);
        }
        let mut warnings = fixed.differences(&config);
        let Config { mut node, http: mut doors, store_memory, .. } = config;
        let before = self.node.options().policies.clone();
        let durable = node.policies.keep_durable(&before, self.node.durable().is_some());
        let named = |name: String| match &*name {
            "" => "defaults.durable".to_owned(),
            name => format!("durable of the namespace {name}"),
        };
        warnings.extend(durable.into_iter().map(|name| Warning { setting: named(name) }));
        let now = http.load_full();
        doors.echo = now.echo;
        // Another certificate, and not other keys of tickets: who is resumed stays so.
        if let (Some(tls), Some(fresh)) = (&now.tls, &doors.tls) {
            tls.replace(fresh);
        }
        doors.tls.clone_from(&now.tls);
        http.store(Arc::new(doors));
        store.bound(store_memory);
        let changed = self.node.change(node).await;
        // Behind the last event that was kept by the rules from before.
        let options = self.node.settings().load_full();
        store.set_rules(|name| options.policies.of(name).map(|rule| rule.keep));
        self.node.reloads.count(self.node.unix_ms() / 1_000);
        if changed.shards < self.node.shards() {
            return Err(ReloadError::Shard);
        }
        Ok(Reloaded { warnings, revoked: changed.revoked, ending: changed.ending })
    }

    /// Counts settings that were to be taken, and were so faulty that no [`Config`] came of them.
    pub fn count_refused_reload(&self) {
        self.node.reloads.count_refused();
    }
}
