//! The command line. The arguments of the larger scenarios stand in files of their own.

mod echo;
mod fanout;
mod feeding;
mod foreign;
mod output;
mod publish;
mod secure;
mod self_test;
mod times;
mod work;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::clock;
use crate::compare::{self, Outcome};
use crate::engine::conduct::Conduct;
use crate::engine::wanted::Subscribing;
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::connect::{self, Holding};
use crate::scenario::fanout as fan_out;
use crate::suite::run::Suite;
use crate::suite::set::Scale;
use crate::target::{Target, Tokens};
use crate::wire::command::Wishes;
use fanout::FanoutArgs;
use foreign::ForeignArgs;
use output::{Form, Output};
use secure::SecureArgs;
use work::Work;

/// A prime: servers batch by powers of two, and the same place of each batch is not a sample.
const SAMPLE: u64 = 17;
/// The least data that holds the marks by which an event is known, in bytes: `{"ts":N,"fill":""}`
/// with up to 19 digits is 36.
const SIZE_MIN: i64 = 40;
/// Handshakes under way where nobody asks for another number.
const INFLIGHT: u32 = 256;

const EXAMPLES: &str = "Examples:
  weir-loadgen connect -c 10000 ws://127.0.0.1:8080/ws
  weir-loadgen connect -c 10000 --cacert tls.crt --resume wss://localhost:8443/ws
  weir-loadgen idle -c 100000 --server-pid $(pidof weir) --hold 10 ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 1000 --rate 500 --verify ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 10000 --channels 10 --window 64 --json out.json ws://127.0.0.1:8080/ws
  weir-loadgen fanout --window 16 --html report.html ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 1000 --rate 20 --until-last ws://127.0.0.1:8080/ws
  weir-loadgen publish -c 20 --via ndjson ws://127.0.0.1:8080/ws
  weir-loadgen slow -c 1000 --share 0.1 --rate 500 --verify ws://127.0.0.1:8080/ws
  weir-loadgen storm -c 10000 --rounds 3 --verify ws://127.0.0.1:8080/ws
  weir-loadgen hostile -c 1000 --rate 20 --half-open 20000 ws://127.0.0.1:8080/ws
  weir-loadgen fanout --publish-frame '{payload}' ws://127.0.0.1:9000/broadcast
  weir-loadgen self-test
  weir-loadgen suite --server target/release/weir --out target/suite
  weir-loadgen compare base.json head.json --max-regression 5%

Exit codes: 0 the figures hold, 1 --verify found violations or compare a regression, 2 the run is
invalid or the reports cannot be compared (the reason is printed), 3 the server cannot be measured,
4 the machine's limits do not allow it, 5 the report cannot be written, 64 usage, 130 a suite was
interrupted. Only 127.0.0.0/8 and [::1] are loaded.";

/// Finds out what a WebSocket event gateway does on this machine.
#[derive(Debug, Parser)]
#[command(name = "weir-loadgen", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Also write the report to this file, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<String>,
    /// Also write a page with plots to this file.
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<String>,
    /// Show no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Measure(Box<Scenario>),
    /// Two reports, or two folders of them, side by side; fails on a regression.
    Compare {
        /// What was, as JSON.
        base: PathBuf,
        /// What is, as JSON.
        head: PathBuf,
        /// How much worse a figure may be.
        #[arg(long, default_value = "5%", value_parser = compare::share, value_name = "P")]
        max_regression: f64,
        /// Do not fail where the machine made a run invalid, or where it is base that does not
        /// hold, as long as any run could be compared.
        #[arg(long)]
        lenient: bool,
    },
    /// Starts a gateway, runs the standard set against it, and stops it.
    Suite {
        /// The gateway's program; it is started as `PATH serve --listen ADDRESS --shards N`.
        #[arg(long, value_name = "PATH")]
        server: PathBuf,
        /// How much is run.
        #[arg(long, value_enum, default_value = "small")]
        scale: Scale,
        /// The folder for reports, pages, logs and their index.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Handshakes a second, and how long each takes.
    Connect {
        #[command(flatten)]
        server: ServerArgs,
        /// Over TLS, take up sessions again: all of a thread share the tickets that came so far, so
        /// that every handshake but the first ones is a resumed one.
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        foreign: ForeignArgs,
    },
    /// Memory and CPU of connections that are only held.
    Idle {
        #[command(flatten)]
        server: ServerArgs,
        /// Seconds before memory is looked at.
        #[arg(long, default_value = "2", value_parser = seconds, value_name = "S")]
        settle: Duration,
        /// Seconds during which CPU is counted.
        #[arg(long, default_value = "5", value_parser = seconds, value_name = "S")]
        hold: Duration,
        /// Subscribe each connection to one of this many channels; 0 subscribes to none.
        #[arg(long, default_value_t = 0, value_name = "C")]
        channels: u32,
        #[command(flatten)]
        foreign: ForeignArgs,
    },
    /// One publisher, many subscribers: throughput, latency, and whether all arrives.
    Fanout {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        fanout: FanoutArgs,
        #[command(flatten)]
        foreign: ForeignArgs,
    },
    /// Ingest: many publishers, over WebSocket or HTTP, each event acknowledged.
    Publish {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        publish: publish::PublishArgs,
    },
    /// A share of the clients stalls or reads a trickle while the others are measured.
    Slow {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        slow: feeding::SlowArgs,
    },
    /// Clients subscribe, unsubscribe and reconnect at a rate while events flow.
    Churn {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        churn: feeding::ChurnArgs,
    },
    /// Clients are cut at random and come back with `since`.
    Recover {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        recover: feeding::RecoverArgs,
    },
    /// All clients are cut at once and come back with `since`.
    Storm {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        storm: feeding::StormArgs,
    },
    /// A fan-out beside half-open connections and garbage, and without them.
    Hostile {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        hostile: feeding::HostileArgs,
    },
    /// From request to answer: latency and rate.
    Echo {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        echo: echo::EchoArgs,
    },
    /// What this generator itself can receive, from a blaster it brings along.
    #[command(name = "self-test")]
    SelfTest(self_test::SelfTestArgs),
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Where the server is: ws://127.0.0.1:PORT/PATH, or wss:// over TLS.
    url: Target,
    /// Connections.
    #[arg(
        long, short, default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    connections: u32,
    /// Receiver threads, by default as many as the descriptor limit needs; in `publish` threads
    /// that publish, by default one.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Source addresses, from 127.0.0.2 on; by default one per 14,000 connections, 0 for none.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=200))]
    sources: Option<u8>,
    /// Connections a second [default: as fast as --inflight allows].
    #[arg(long, value_parser = positive, value_name = "R")]
    connect_rate: Option<f64>,
    /// Handshakes under way at once, per thread [default: 256].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    inflight: Option<u32>,
    /// The longest a connection may take until it is ready.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    timeout: Duration,
    /// A token for every WebSocket; @FILE has one on each line, for one after the other.
    #[arg(long, value_name = "TOKEN")]
    token: Option<Tokens>,
    /// The server's process, to report its memory and CPU.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    #[command(flatten)]
    secure: SecureArgs,
}

impl Cli {
    /// Runs the command, prints and writes its report, and says the exit code.
    pub(crate) fn run(self) -> Result<u8, RunError> {
        if !matches!(self.command, Command::Measure(_))
            && (self.json.is_some() || self.html.is_some())
        {
            return Err(RunError::Usage("--json and --html belong to a single run".to_owned()));
        }
        let scenario = match self.command {
            Command::Measure(scenario) => scenario,
            Command::Compare { base, head, max_regression, lenient } => {
                let (text, outcomes) = compare::run(&base, &head, max_regression);
                show(&text);
                return Ok(Outcome::code(&outcomes, lenient));
            }
            Command::Suite { server, scale, out } => {
                let suite = Suite { server, scale, out, progress: !self.quiet };
                let (text, code) = suite.run()?;
                show(&text);
                return Ok(code);
            }
        };
        let files = [(Form::Json, self.json), (Form::Html, self.html)];
        let files = files.into_iter().filter_map(|(form, path)| Some(Output::open(form, path?)));
        let outputs = files.collect::<Result<Vec<_>, _>>()?;
        let report = match scenario.run(!self.quiet) {
            Ok(report) => report,
            Err(why) => {
                outputs.into_iter().for_each(|output| output.discard(&why));
                return Err(why);
            }
        };
        show(&report.to_string());
        let mut code = report.exit_code();
        for error in outputs.into_iter().filter_map(|output| output.write(&report).err()) {
            eprintln!("weir-loadgen: {error}");
            // What the run found outweighs where it could not be written.
            code = if code == 0 { error.exit_code() } else { code };
        }
        Ok(code)
    }
}

/// Prints; a closed pipe must not change the exit code.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Scenario {
    fn run(self, progress: bool) -> Result<Report, RunError> {
        let work = self.work();
        let mut report = self.measure(progress)?;
        work.book(&mut report);
        Ok(report)
    }

    /// What makes two runs the same, beyond what each scenario reports by itself.
    fn work(&self) -> Work {
        let mut work = Work::default();
        match self {
            Self::Connect { server, resume, foreign } => {
                server.work(&mut work);
                foreign.work(&mut work);
                if *resume {
                    work.size("resume", 1);
                }
            }
            Self::Idle { server, foreign, .. } => {
                server.work(&mut work);
                foreign.work(&mut work);
            }
            Self::Fanout { server, fanout, foreign } => {
                server.work(&mut work);
                fanout.work(foreign, &mut work);
            }
            Self::Publish { server, publish } => {
                server.work(&mut work);
                publish.work(&mut work);
            }
            Self::Slow { server, slow } => {
                server.work(&mut work);
                slow.work(&mut work);
            }
            Self::Churn { server, churn } => {
                server.work(&mut work);
                churn.work(&mut work);
            }
            Self::Recover { server, recover } => {
                server.work(&mut work);
                recover.work(&mut work);
            }
            Self::Storm { server, storm } => {
                server.work(&mut work);
                storm.work(&mut work);
            }
            Self::Hostile { server, hostile } => {
                server.work(&mut work);
                hostile.work(&mut work);
            }
            Self::Echo { server, echo } => {
                server.work(&mut work);
                echo.work(&mut work);
            }
            Self::SelfTest(_) => {}
        }
        work
    }

    fn measure(self, progress: bool) -> Result<Report, RunError> {
        match self {
            Self::Connect { server, resume, foreign } => {
                foreign.check_quiet()?;
                let mut subscribing = subscribing(0, 0);
                foreign.into(&mut subscribing);
                connect::run(&server.opening(progress, resume)?, subscribing, None)
            }
            Self::Idle { server, settle, hold, channels, foreign } => {
                foreign.check_quiet()?;
                let holding = Holding { settle, hold };
                let mut subscribing = subscribing(channels, u32::from(channels > 0));
                foreign.into(&mut subscribing);
                connect::run(&server.connecting(progress)?, subscribing, Some(holding))
            }
            Self::Fanout { server, fanout, foreign } => {
                let connecting = fanout.speaking(server.connecting(progress)?);
                let (subscribing, feed, times) = fanout.parts(foreign)?;
                fan_out::run(&connecting, subscribing, feed, times)
            }
            Self::Publish { server, publish } => {
                server.check_publish()?;
                publish.run(&server.connecting(progress)?)
            }
            Self::Slow { server, slow } => slow.run(server.connecting(progress)?),
            Self::Churn { server, churn } => churn.run(server.connecting(progress)?),
            Self::Recover { server, recover } => recover.run(server.connecting(progress)?),
            Self::Storm { server, storm } => storm.run(server.connecting(progress)?),
            Self::Hostile { server, hostile } => hostile.run(server.connecting(progress)?),
            Self::Echo { server, echo } => echo.run(&server.connecting(progress)?),
            Self::SelfTest(arguments) => arguments.run(progress),
        }
    }
}

impl ServerArgs {
    fn work(&self, work: &mut Work) {
        work.size("inflight", self.inflight.unwrap_or(INFLIGHT));
        work.size("batched", u8::from(self.url.is_batched()));
        self.secure.work(&self.url, work);
        if let Some(tokens) = &self.token {
            work.count("tokens", tokens.len() as u64);
        }
    }

    /// Publishers open one after the other, from the address that the kernel gives them.
    fn check_publish(&self) -> Result<(), RunError> {
        let given = [
            ("--sources", self.sources.is_some()),
            ("--connect-rate", self.connect_rate.is_some()),
            ("--inflight", self.inflight.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(RunError::Usage(format!(
                "{flag} does not belong to publish: it opens its publishers one after the other, \
                 before the run"
            ))),
            None => Ok(()),
        }
    }

    fn connecting(self, progress: bool) -> Result<Connecting, RunError> {
        self.opening(progress, false)
    }

    /// As [`Self::connecting`], where connections may share the tickets of TLS.
    fn opening(self, progress: bool, shares_tickets: bool) -> Result<Connecting, RunError> {
        let target = self.secure.into(self.url, shares_tickets)?;
        Ok(Connecting {
            target: target.bearing(self.token.unwrap_or_default()),
            connections: self.connections,
            threads: self.threads,
            sources: self.sources,
            rate: self.connect_rate.unwrap_or(0.0),
            inflight: self.inflight.unwrap_or(INFLIGHT),
            timeout: self.timeout,
            server_pid: self.server_pid,
            progress,
        })
    }
}

/// Channels whose names no earlier run has used.
fn subscribing(channels: u32, per_connection: u32) -> Subscribing {
    Subscribing {
        channels: channels.max(1),
        subscriptions: per_connection,
        prefix: format!("r{:x}.", clock::now()),
        verify: false,
        sample: SAMPLE,
        until_last: false,
        wishes: Wishes::default(),
        pattern: false,
        keys: 0,
        conduct: Conduct::Steady,
        foreign: None,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = positive(text)?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && (0.0..=1e9).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err("must be a number from 0 to 1,000,000,000".into()),
    }
}

fn max_rate(text: &str) -> Result<f64, String> {
    let hz = text.parse().ok().filter(|hz| (0.1..=100.0).contains(hz));
    hz.ok_or_else(|| "must be a number from 0.1 to 100".into())
}

/// A channel's name is restricted, so its front is.
fn namespace(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 of A-Z a-z 0-9 _ . -".into())
    }
}
