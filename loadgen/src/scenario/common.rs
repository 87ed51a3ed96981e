//! What every scenario does: meet the server, open the connections, watch the server's process.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::SECOND;
use crate::engine::crew::{Crew, Result as CrewResult};
use crate::engine::shared::Shared;
use crate::engine::wanted::{Subscribing, Wanted};
use crate::fault::{Fault, Invalid, RunError};
use crate::host::Host;
use crate::machine;
use crate::process::{self, Sample};
use crate::progress::Progress;
use crate::report::{Client, Connect, Report, SCHEMA};
use crate::scenario::drain;
use crate::scenario::moment::{Moment, Stretch, ratio};
use crate::sections::{Sections, Tls};
use crate::series::Series;
use crate::target::Target;

/// Accounts that are kept: so many take a gigabyte.
const SEATS_MAX: u64 = 40_000_000;

/// How to connect, as the command line says.
#[derive(Debug, Clone)]
pub(crate) struct Connecting {
    pub(crate) target: Target,
    pub(crate) connections: u32,
    pub(crate) threads: Option<u32>,
    pub(crate) sources: Option<u8>,
    pub(crate) rate: f64,
    pub(crate) inflight: u32,
    pub(crate) timeout: Duration,
    pub(crate) server_pid: Option<u32>,
    /// Whether progress is shown while connections open.
    pub(crate) progress: bool,
}

impl Connecting {
    /// Checks the machine and meets the server, then opens all connections.
    pub(crate) fn open(&self, subscribing: Subscribing) -> Result<Crew, RunError> {
        // IPv6 has one loopback address.
        let sources = if self.target.address.is_ipv4() { self.sources } else { Some(0) };
        let layout = machine::layout(self.connections, self.threads, sources)?;
        self.check_pid()?;
        let seats = u64::from(self.connections) * u64::from(subscribing.subscriptions);
        if seats > SEATS_MAX {
            return Err(RunError::Usage(format!(
                "{} connections with {} channels each are {seats} accounts, and at most {SEATS_MAX} \
                 are kept",
                self.connections, subscribing.subscriptions
            )));
        }
        self.target.dial(self.timeout).map_err(|fault| self.server_error(fault))?;
        let mut crew = Crew::start(Wanted {
            target: self.target.clone(),
            connections: self.connections,
            threads: layout.threads,
            private_tables: layout.private_tables,
            sources: layout.sources,
            connect_rate: self.rate,
            inflight: self.inflight,
            timeout_ns: u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX),
            subscribing,
        })?;
        crew.watch(self.server_pid);
        let mut progress = self.progress.then(|| Progress::new(self.connections));
        let opened = crew.opened(|total| progress.iter_mut().for_each(|bar| bar.show(total)));
        drop(progress);
        match crew.fault() {
            Some(fault) if opened.ready == 0 => Err(self.server_error(fault)),
            Some(_) | None => Ok(crew),
        }
    }

    /// A process that is to be watched must be there.
    pub(crate) fn check_pid(&self) -> Result<(), RunError> {
        match self.server_pid.filter(|pid| process::sample(*pid).is_none()) {
            Some(pid) => {
                Err(RunError::Usage(format!("--server-pid {pid}: there is no such process")))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn server_error(&self, fault: Fault) -> RunError {
        RunError::Server { url: self.target.url(), fault }
    }

    /// Where things stand.
    pub(crate) fn moment(&self, shared: &Shared) -> Moment {
        Moment::now(shared, self.server_pid.and_then(process::sample))
    }

    /// Books the server's process; `before` is its state before any connection. One that has died
    /// makes the run invalid.
    pub(crate) fn book_server(
        &self,
        stretch: &Stretch,
        before: Option<Sample>,
        report: &mut Report,
    ) {
        report.server = stretch.server(self.server_pid, before);
        let gone = self.server_pid.filter(|pid| process::sample(*pid).is_none());
        report.invalidate(gone.map(|pid| Invalid::ServerGone { pid }));
    }

    /// How hands were shaken, where the server speaks TLS.
    fn tls(&self, done: &CrewResult) -> Option<Tls> {
        self.target.tls.as_ref()?;
        let mut tls = Tls::default();
        for book in &done.books {
            let shaken = &book.shaken;
            tls.full += shaken.full;
            tls.resumed += shaken.resumed;
            if tls.version.is_empty() {
                (tls.version, tls.cipher_suite) = shaken.spoken.clone();
            }
        }
        Some(tls)
    }

    /// A report that tells nothing yet.
    pub(crate) fn blank(&self, scenario: &'static str, threads: u32) -> Report {
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            scenario,
            url: without_token(self.target.url()),
            command: without_tokens(std::env::args()),
            host: Host::this(),
            sizes: BTreeMap::new(),
            texts: BTreeMap::new(),
            connections: self.connections,
            threads,
            invalid: Vec::new(),
            notes: Vec::new(),
            connect: Connect::default(),
            idle: None,
            fanout: None,
            sections: Sections::default(),
            server: None,
            client: Client { rss_bytes: process::own().rss_bytes, ..Client::default() },
            distributions: Vec::new(),
            series: Series::default(),
            verdict: None,
        }
    }

    /// A report with what all scenarios tell.
    pub(crate) fn report(&self, scenario: &'static str, threads: u32, done: &CrewResult) -> Report {
        let ready = done.books.iter().map(|book| book.ready_count()).sum();
        let mut report = Report {
            sizes: done.wanted.sizes(),
            connect: Connect {
                ready,
                seconds: ratio(done.opening_ns, SECOND),
                per_second: ratio(ready * SECOND, done.opening_ns),
                handshake: done.handshakes.summary(),
                until_ready: done.ready.summary(),
                ..Connect::default()
            },
            distributions: [
                done.latency.distribution("latency"),
                done.handshakes.distribution("handshake"),
                done.ready.distribution("until_ready"),
            ]
            .into_iter()
            .flatten()
            .collect(),
            series: done.series.clone(),
            sections: Sections { tls: self.tls(done), ..Sections::default() },
            ..self.blank(scenario, threads)
        };
        let panicked = (done.panicked > 0).then_some(Invalid::Panicked { threads: done.panicked });
        report.invalidate(panicked);
        if done.refused > 0 {
            report.invalidate(Some(Invalid::Refused {
                errors: done.refused,
                why: done.fault.clone(),
            }));
        }
        report
    }
}

/// Holds for a duration; false when connections were lost meanwhile.
pub(crate) fn hold(crew: &Crew, time: Duration) -> bool {
    drain::hold(time, || crew.broken().is_none())
}

/// A command line without the tokens in it: reports are passed on. Files of tokens are named.
fn without_tokens(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let is_secret = |token: &str| !token.starts_with('@');
    let mut before = String::new();
    let hide = |argument: String| {
        let flag = std::mem::replace(&mut before, argument.clone());
        if flag == "--token" && is_secret(&argument) {
            return "...".to_owned();
        }
        match argument.strip_prefix("--token=") {
            Some(token) if is_secret(token) => "--token=...".to_owned(),
            Some(_) | None => without_token(argument),
        }
    };
    arguments.map(hide).collect()
}

/// An address without the token in its query.
fn without_token(address: String) -> String {
    let Some((before, query)) = address.split_once('?') else { return address };
    let hide = |part| if str::starts_with(part, "token=") { "token=..." } else { part };
    format!("{before}?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_no_token_of_its_command_line() {
        for (arguments, wanted) in [
            ("idle --token eyJ.a.b ws://h/ws", "idle --token ... ws://h/ws"),
            ("idle --token=eyJ.a.b ws://h/ws", "idle --token=... ws://h/ws"),
            ("idle --token @tokens ws://h/ws", "idle --token @tokens ws://h/ws"),
            (
                "idle ws://h/ws?batch=1&token=eyJ.a.b&was=c",
                "idle ws://h/ws?batch=1&token=...&was=c",
            ),
            ("fanout --token --publish-frame {a?b} ws://h/", "fanout --token ... {a?b} ws://h/"),
        ] {
            let told = without_tokens(arguments.split(' ').map(str::to_owned));
            assert_eq!(told.join(" "), wanted);
        }
    }
}
