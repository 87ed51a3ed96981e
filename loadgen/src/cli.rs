//! The command line. The arguments of the larger scenarios stand in files of their own.

mod echo;
mod feeding;
mod foreign;
mod publish;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::blaster::Blast;
use crate::clock;
use crate::compare::{self, Outcome};
use crate::engine::conduct::Conduct;
use crate::engine::publisher::Feed;
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::{Connecting, Subscribing};
use crate::scenario::connect::{self, Holding};
use crate::scenario::fanout::{self, Times};
use crate::scenario::self_test;
use crate::suite::run::Suite;
use crate::suite::set::Scale;
use crate::target::Target;
use foreign::ForeignArgs;

/// Where channels are unless another is asked for.
const NAMESPACE: &str = "load";
/// Events of which `--until-last` remembers each one.
const UNTIL_LAST_MAX: f64 = 1_000_000.0;
/// A prime: servers batch by powers of two, and the same place of each batch is not a sample.
const SAMPLE: u64 = 17;

const EXAMPLES: &str = "Examples:
  weir-loadgen connect -c 10000 ws://127.0.0.1:8080/ws
  weir-loadgen idle -c 100000 --server-pid $(pidof weir) --hold 10 ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 1000 --rate 500 --verify ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 10000 --channels 10 --window 64 --json out.json ws://127.0.0.1:8080/ws
  weir-loadgen fanout --window 16 --html report.html ws://127.0.0.1:8080/ws
  weir-loadgen fanout -c 1000 --rate 20 --until-last ws://127.0.0.1:8080/ws
  weir-loadgen publish -c 20 --via ndjson ws://127.0.0.1:8080/ws
  weir-loadgen slow -c 1000 --share 0.1 --rate 500 --verify ws://127.0.0.1:8080/ws
  weir-loadgen storm -c 10000 --rounds 3 --verify ws://127.0.0.1:8080/ws
  weir-loadgen fanout --publish-frame '{payload}' ws://127.0.0.1:9000/broadcast
  weir-loadgen self-test
  weir-loadgen suite --server target/release/weir --out target/suite
  weir-loadgen compare base.json head.json --max-regression 5%

Exit codes: 0 the figures hold, 1 --verify found violations or compare a regression, 2 the run is
invalid or the reports cannot be compared (the reason is printed), 3 the server cannot be measured, 4 the machine's limits do not allow it, 5 the report
cannot be written, 64 usage. Only 127.0.0.0/8 and [::1] are loaded.";

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
    /// From request to answer: latency and rate.
    Echo {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        echo: echo::EchoArgs,
    },
    /// What this generator itself can receive, from a blaster it brings along.
    #[command(name = "self-test")]
    SelfTest {
        /// Connections.
        #[arg(long, short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        connections: u32,
        /// Receiver threads.
        #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        threads: u32,
        /// Bytes of each event's data.
        #[arg(long, default_value_t = 32)]
        size: usize,
        /// Frames per write of the blaster.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        batch: u64,
        /// Seconds that are measured.
        #[arg(long, default_value = "3", value_parser = seconds, value_name = "S")]
        duration: Duration,
        /// Read every event and hold it against the promise.
        #[arg(long)]
        verify: bool,
    },
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Where the server is: ws://127.0.0.1:PORT/PATH.
    url: Target,
    /// Connections.
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Receiver threads; by default as many as the descriptor limit needs.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Source addresses, from 127.0.0.2 on; by default one per 14,000 connections, 0 for none.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=200))]
    sources: Option<u8>,
    /// Connections a second; 0 as fast as --inflight allows.
    #[arg(long, default_value_t = 0.0, value_parser = positive, value_name = "R")]
    connect_rate: f64,
    /// Handshakes under way at once, per thread.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    inflight: u32,
    /// The longest a connection may take until it is ready.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    timeout: Duration,
    /// The server's process, to report its memory and CPU.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

#[derive(Debug, Args)]
struct FanoutArgs {
    /// Channels.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Channels that each connection subscribes to.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    per_connection: u32,
    /// Events a second over all channels; 0 as fast as subscribers take them.
    #[arg(long, default_value_t = 0.0, value_parser = positive, value_name = "R")]
    rate: f64,
    /// With --rate 0: how many events may be ahead of the mean subscriber.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Bytes of each event's data.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    size: u32,
    /// Seconds that are not recorded.
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "S")]
    warmup: Duration,
    /// Seconds that are measured.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "S")]
    duration: Duration,
    /// The most that what is under way may take at the end.
    #[arg(long, default_value = "20", value_parser = seconds, value_name = "S")]
    drain: Duration,
    /// Hold every event against the promise: in order, exactly once, or told lost.
    #[arg(long)]
    verify: bool,
    /// Without --verify: look at the due time of each nth event.
    #[arg(long, default_value_t = SAMPLE, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Also how long each event takes until the last subscriber has it, for a low --rate.
    #[arg(long)]
    until_last: bool,
    /// Each subscription asks for so many flushes a second (0.1 to 100), which needs a --rate. With
    /// --verify, events left out are then no loss, but the last one is due.
    #[arg(long, value_parser = max_rate, value_name = "HZ")]
    max_rate: Option<f64>,
    /// The namespace of the channels, by default `load`, and none with templates; a run's number
    /// and the channel's follow.
    #[arg(long, value_parser = namespace)]
    namespace: Option<String>,
    /// Keys that a channel's events take turns with; 0 no keys.
    #[arg(long, default_value_t = 0, value_name = "K")]
    keys: u64,
    /// The largest p99 of the generator's own lateness, in milliseconds.
    #[arg(long, default_value_t = 10, value_name = "MS")]
    late_max: u64,
}

impl Cli {
    /// Runs the command, prints and writes its report, and says the exit code.
    pub(crate) fn run(self) -> Result<u8, RunError> {
        if !matches!(self.command, Command::Measure(_))
            && (self.json.is_some() || self.html.is_some())
        {
            return Err(RunError::Usage("--json and --html belong to a single run".to_owned()));
        }
        let report = match self.command {
            Command::Measure(scenario) => scenario.run(!self.quiet)?,
            Command::Compare { base, head, max_regression } => {
                let (text, outcomes) = compare::run(&base, &head, max_regression);
                show(&text);
                return Ok(Outcome::code(&outcomes));
            }
            Command::Suite { server, scale, out } => {
                let suite = Suite { server, scale, out, progress: !self.quiet };
                let (text, code) = suite.run()?;
                show(&text);
                return Ok(code);
            }
        };
        show(&report.to_string());
        if let Some(path) = &self.json {
            report.write(path)?;
        }
        if let Some(path) = &self.html {
            report.write_page(path)?;
        }
        Ok(report.exit_code())
    }
}

/// Prints; a closed pipe must not change the exit code.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Scenario {
    fn run(self, progress: bool) -> Result<Report, RunError> {
        match self {
            Self::Connect { server, foreign } => {
                let mut subscribing = subscribing(0, 0);
                foreign.into(&mut subscribing);
                connect::run(&server.connecting(progress), subscribing, None)
            }
            Self::Idle { server, settle, hold, channels, foreign } => {
                let holding = Holding { settle, hold };
                let mut subscribing = subscribing(channels, u32::from(channels > 0));
                foreign.into(&mut subscribing);
                connect::run(&server.connecting(progress), subscribing, Some(holding))
            }
            Self::Fanout { server, mut fanout, foreign } => {
                foreign.check_publish()?;
                if foreign.is_there() && fanout.max_rate.is_some() {
                    let text = "--max-rate belongs to Weir: write it into --subscribe-frame";
                    return Err(RunError::Usage(text.to_owned()));
                }
                if !foreign.is_there() {
                    fanout.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
                }
                let (mut subscribing, feed, times) = fanout.parts()?;
                foreign.into(&mut subscribing);
                fanout::run(&server.connecting(progress), subscribing, feed, times)
            }
            Self::Publish { server, publish } => publish.run(&server.connecting(progress)),
            Self::Slow { server, slow } => slow.run(&server.connecting(progress)),
            Self::Churn { server, churn } => churn.run(&server.connecting(progress)),
            Self::Recover { server, recover } => recover.run(&server.connecting(progress)),
            Self::Storm { server, storm } => storm.run(&server.connecting(progress)),
            Self::Echo { server, echo } => echo.run(&server.connecting(progress)),
            Self::SelfTest { connections, threads, size, batch, duration, verify } => {
                let mut subscribing = subscribing(1, 1);
                subscribing.verify = verify;
                subscribing.sample = if verify { 1 } else { SAMPLE };
                let channel = format!("{}0", subscribing.prefix);
                let blast = Blast { channel, payload_bytes: size, batch };
                let connecting = Connecting {
                    target: Target::local(([127, 0, 0, 1], 0).into()),
                    connections,
                    threads: Some(threads),
                    sources: None,
                    rate: 0.0,
                    inflight: 256,
                    timeout: Duration::from_secs(10),
                    server_pid: None,
                    progress,
                };
                let times = (Duration::from_millis(500), duration);
                self_test::run(connecting, subscribing, blast, times)
            }
        }
    }
}

impl ServerArgs {
    fn connecting(self, progress: bool) -> Connecting {
        Connecting {
            target: self.url,
            connections: self.connections,
            threads: self.threads,
            sources: self.sources,
            rate: self.connect_rate,
            inflight: self.inflight,
            timeout: self.timeout,
            server_pid: self.server_pid,
            progress,
        }
    }
}

impl FanoutArgs {
    /// What to subscribe to, what to publish, and for how long.
    fn parts(self) -> Result<(Subscribing, Feed, Times), RunError> {
        if self.per_connection > self.channels {
            return Err(RunError::Usage(format!(
                "--per-connection {} needs at least as many --channels",
                self.per_connection
            )));
        }
        let mut subscribing = subscribing(self.channels, self.per_connection);
        if let Some(namespace) = self.namespace {
            subscribing.prefix = format!("{namespace}:{}", subscribing.prefix);
        }
        subscribing.verify = self.verify;
        subscribing.sample = if self.verify || self.until_last { 1 } else { self.sample };
        let events = self.rate * self.duration.as_secs_f64();
        if self.until_last && !(events > 0.0 && events <= UNTIL_LAST_MAX) {
            return Err(RunError::Usage(format!(
                "--until-last needs a --rate with which --duration has at most {UNTIL_LAST_MAX} \
                 events"
            )));
        }
        subscribing.until_last = self.until_last;
        if self.max_rate.is_some() && (self.rate == 0.0 || self.until_last) {
            let text = "--max-rate needs a --rate, and not every event comes as --until-last asks";
            return Err(RunError::Usage(text.to_owned()));
        }
        subscribing.max_rate = self.max_rate.unwrap_or(0.0);
        let feed = Feed {
            rate: self.rate,
            window: self.window,
            payload_bytes: self.size as usize,
            keys: self.keys,
        };
        let times = Times {
            warmup: self.warmup,
            duration: self.duration,
            drain: self.drain,
            late_max: Duration::from_millis(self.late_max),
        };
        Ok((subscribing, feed, times))
    }
}

/// Channels whose names no earlier run has used.
fn subscribing(channels: u32, per_connection: u32) -> Subscribing {
    Subscribing {
        channels: channels.max(1),
        per_connection,
        prefix: format!("r{:x}.", clock::now()),
        verify: false,
        sample: SAMPLE,
        until_last: false,
        max_rate: 0.0,
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
