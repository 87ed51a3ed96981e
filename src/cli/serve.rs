//! `weir serve`: runs the gateway until a signal.

use crate::cli::args::Serve;
use crate::cli::failure::Failure;
use crate::cli::logging::Log;
use crate::cli::output::Output;
use crate::cli::{demo, files, run};
use crate::config::{BadSetting, Config};
use crate::http::{ListenAddress, Serves};
use crate::server::{Gateway, Handle, ReloadError, Reloaded};
use crate::shard::AuthOptions;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is said of authentication where everybody needs a token.
const REQUIRED: &str = "required";

/// Runs the gateway.
pub(super) fn run(flags: &Serve) -> Result<(), Failure> {
    run::block_on(async {
        // Before anything that takes time: a signal is never lost, and SIGHUP never ends it.
        let signals = (Stop::listen()?, on(SignalKind::hangup())?);
        let (config, foreign) = load(flags)?;
        let log = Log::start(&config.log);
        warn_of(&config, &foreign);
        serve(config, flags, (signals, log)).await
    })
}

/// Says what is no fault of the settings and should be otherwise, or is none of ours.
fn warn_of(config: &Config, foreign: &[BadSetting]) {
    for one in foreign {
        tracing::warn!("{one}; it is left alone");
    }
    for one in &config.warnings {
        tracing::warn!("{one}");
    }
}

/// Reads the settings, as these flags want them, and what is to be warned of.
fn load(flags: &Serve) -> Result<(Config, Vec<BadSetting>), Failure> {
    let (raw, mut config) = files::load(&flags.settings)?;
    config.http.echo = flags.echo;
    if flags.demo {
        config.node.policies.open_patterns(demo::NAMESPACE);
    }
    Ok((config, raw.foreign))
}

async fn serve(
    config: Config,
    flags: &Serve,
    ((stop, hangup), log): ((Stop, Signal), Log),
) -> Result<(), Failure> {
    let (shards, wanted) = (config.shards, config.node.limits.connections);
    let auth = match &config.node.auth {
        AuthOptions { required: true, .. } => REQUIRED,
        AuthOptions { verifier: Some(_), .. } => "for those who bring a token",
        AuthOptions { verifier: None, .. } => "off",
    };
    let store = match &config.store_path {
        Some(path) => format!("sqlite in {}", path.display()),
        None => "memory".to_owned(),
    };
    let secure = config.http.tls.is_some();
    let gateway = Gateway::builder().config(config).build()?;
    let connections = gateway.connections_max();
    if connections < wanted {
        tracing::warn!(
            "limits.connections is {wanted}, but the limit of open files allows {connections}: \
             more shards have more, or raise it with ulimit -n or LimitNOFILE"
        );
    }
    let places: Vec<_> = gateway.listens().map(|place| Place::of(place, secure)).collect();
    announce(&places);
    for place in &places {
        tracing::info!("listening on {}", place.told());
    }
    tracing::info!("shards: {shards}, store: {store}, auth: {auth}, connections: {connections}");
    let exposed = places.iter().filter(|place| place.serves != Serves::Admin);
    let exposed = exposed.map(|place| place.address).filter(|address| !address.is_local());
    for address in exposed.filter(|_| auth != REQUIRED) {
        tracing::warn!("auth.required is not set: whoever reaches {address} may come in");
    }
    tokio::task::spawn_local(reload(hangup, flags.clone(), gateway.handle(), log));
    if flags.demo {
        tokio::task::spawn_local(demo::run(gateway.handle()));
    }
    gateway.run_until(stop.wait()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Where the gateway listens.
struct Place<'a> {
    address: &'a ListenAddress,
    serves: Serves,
    /// Whether TLS is spoken there.
    secure: bool,
}

impl<'a> Place<'a> {
    fn of((address, serves): (&'a ListenAddress, Serves), secure: bool) -> Self {
        Self { address, serves, secure: secure && address.tcp().is_some() }
    }

    /// The address under this scheme, or that of the same with TLS.
    fn url(&self, scheme: &str) -> String {
        let s = if self.secure { "s" } else { "" };
        match self.address {
            ListenAddress::Tcp(address) => format!("{scheme}{s}://{address}"),
            ListenAddress::Unix(_) => self.address.to_string(),
        }
    }

    /// What is where.
    fn told(&self) -> String {
        let [ws, http] = ["ws", "http"].map(|scheme| self.url(scheme));
        match (self.address, self.serves) {
            (ListenAddress::Unix(_), Serves::Admin) => format!("{http}, for all but /ws"),
            (ListenAddress::Unix(_), Serves::All | Serves::Clients) => http,
            (_, Serves::Admin) => format!("{http}/, for all but /ws"),
            (_, Serves::All) => format!("{ws}/ws and {http}/"),
            (_, Serves::Clients) => format!("{ws}/ws"),
        }
    }
}

/// Reads the settings again at each SIGHUP, to the end of the process. Those that came meanwhile
/// are one.
async fn reload(mut hangup: Signal, flags: Serve, gateway: Handle, log: Log) {
    while hangup.recv().await.is_some() {
        tracing::info!("SIGHUP: reading the settings again");
        let flags = flags.clone();
        // A file may be slow to read, and SIGTERM is not to wait for it.
        let loaded = tokio::task::spawn_blocking(move || load(&flags)).await;
        match loaded {
            Ok(Ok((config, foreign))) => {
                warn_of(&config, &foreign);
                change(config, &gateway, &log).await;
            }
            Ok(Err(failure)) => refuse(&failure, &gateway),
            Err(error) => {
                gateway.count_refused_reload();
                tracing::error!(%error, "reading the settings has failed: the old ones stay");
            }
        }
    }
}

async fn change(config: Config, gateway: &Handle, log: &Log) {
    let options = config.log.clone();
    match gateway.reload(config).await {
        Ok(reloaded) => {
            for warning in &reloaded.warnings {
                tracing::warn!("{warning}");
            }
            let Reloaded { revoked, ending, .. } = reloaded;
            tracing::info!(
                "the settings are in force; subscriptions that ended: {revoked}, clients that \
                 need a token, or another one: {ending}"
            );
            // Behind what is said of it: who silences the log sees that it was heard.
            log.change(&options);
        }
        Err(error) => {
            tracing::error!("{error}");
            if error == ReloadError::Draining {
                gateway.count_refused_reload();
            } else {
                // They are in force, but for a shard that is late.
                log.change(&options);
            }
        }
    }
}

/// Logs everything that is wrong with settings, each on a line.
fn refuse(failure: &Failure, gateway: &Handle) {
    gateway.count_refused_reload();
    let count = if let Failure::Settings(faults) = failure {
        for fault in faults {
            tracing::error!("{fault}");
        }
        faults.len()
    } else {
        tracing::error!("{failure}");
        1
    };
    let (s, verb) = if count == 1 { ("", "is") } else { ("s", "are") };
    tracing::error!(
        "there {verb} {count} fault{s} in the settings: nothing of them is taken, the old ones stay"
    );
}

/// Says on standard output where the gateway is, for scripts that gave it port 0.
fn announce(places: &[Place<'_>]) {
    let mut output = Output::new();
    let lines: String =
        places.iter().map(|place| format!("listening on {}\n", place.url("http"))).collect();
    if output.write(&lines).and_then(|()| output.flush()).is_err() {
        tracing::debug!("nobody reads standard output");
    }
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::System("wait for signals", error))
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the first signal; the second ends the process.
    async fn wait(mut self) {
        let name = self.next().await;
        tracing::info!("{name}: draining; a second signal ends at once");
        tokio::task::spawn_local(async move {
            let name = self.next().await;
            tracing::warn!("{name} again: ending without draining");
            std::process::exit(1);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
