//! `weir serve`: runs the gateway until a signal.

use crate::cli::args::Serve;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::{demo, files, logging, run};
use crate::config::Config;
use crate::server::Gateway;
use crate::shard::AuthOptions;
use std::net::SocketAddr;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is said of authentication where everybody needs a token.
const REQUIRED: &str = "required";

/// Runs the gateway.
pub(super) fn run(flags: &Serve) -> Result<(), Failure> {
    let (raw, mut config) = files::load(&flags.settings)?;
    config.http.echo = flags.echo;
    if flags.demo {
        config.node.policies.open_patterns(demo::NAMESPACE);
    }
    logging::start(&config.log);
    for one in &raw.foreign {
        tracing::warn!("{one}; it is left alone");
    }
    run::block_on(serve(config, flags.demo))
}

async fn serve(config: Config, with_demo: bool) -> Result<(), Failure> {
    let stop = Stop::listen()?;
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
    let gateway = Gateway::builder().config(config).build()?;
    let connections = gateway.connections_max();
    if connections < wanted {
        tracing::warn!(
            "limits.connections is {wanted}, but the limit of open files allows {connections}: \
             more shards have more, or raise it with ulimit -n or LimitNOFILE"
        );
    }
    let addresses = gateway.local_addrs();
    announce(addresses);
    for address in addresses {
        tracing::info!("listening on ws://{address}/ws and http://{address}/");
    }
    tracing::info!("shards: {shards}, store: {store}, auth: {auth}, connections: {connections}");
    let exposed = addresses.iter().filter(|one| !one.ip().to_canonical().is_loopback());
    for address in exposed.filter(|_| auth != REQUIRED) {
        tracing::warn!("auth.required is not set: whoever reaches {address} may come in");
    }
    if with_demo {
        tokio::task::spawn_local(demo::run(gateway.handle()));
    }
    gateway.run_until(stop.wait()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Says on standard output where the gateway is, for scripts that gave it port 0.
fn announce(addresses: &[SocketAddr]) {
    let mut output = Output::new();
    let lines: String =
        addresses.iter().map(|address| format!("listening on http://{address}\n")).collect();
    if output.write(&lines).and_then(|()| output.flush()).is_err() {
        tracing::debug!("nobody reads standard output");
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::System("wait for signals", error));
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
