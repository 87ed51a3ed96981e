//! The arguments of the scenarios in which one publisher feeds clients that misbehave: `slow`,
//! `churn`, `recover`, `storm`, and beside others that do: `hostile`. Each also takes those of `fanout`.

use std::time::Duration;

use clap::Args;

use super::fanout::FanoutArgs;
use super::foreign::{ForeignArgs, NoForeignArgs};
use super::work::Work;
use super::{positive, seconds};
use crate::engine::conduct::{self, Cut};
use crate::engine::hostile::Hostility;
use crate::engine::publisher::Feed;
use crate::engine::wanted::Subscribing;
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::fanout::Times;
use crate::scenario::recover::{self, Storms};
use crate::scenario::{churn, hostile, slow};

/// Events a second where none are asked for: these scenarios need a publisher that does not wait
/// for clients.
const RATE: f64 = 1_000.0;

#[derive(Debug, Args)]
pub(super) struct SlowArgs {
    #[command(flatten)]
    fanout: FanoutArgs,
    /// The share of the clients that is slow.
    #[arg(long, default_value_t = 0.1, value_parser = share, value_name = "S")]
    share: f64,
    /// What each slow client reads; 0 reads nothing until the end.
    #[arg(long, default_value_t = 0, value_name = "R")]
    bytes_per_second: u64,
    /// The receive buffer of each slow client in bytes, which the kernel doubles.
    #[arg(
        long, default_value_t = 16_384,
        value_parser = clap::value_parser!(u32).range(1_024..=16_777_216)
    )]
    slow_buffer: u32,
    #[command(flatten)]
    foreign: ForeignArgs,
}

#[derive(Debug, Args)]
pub(super) struct ChurnArgs {
    #[command(flatten)]
    fanout: FanoutArgs,
    /// Acts a second over all clients.
    #[arg(long, default_value_t = 100.0, value_parser = above_zero, value_name = "R")]
    churn_rate: f64,
    /// The share of acts that are reconnects; the others subscribe or unsubscribe.
    #[arg(long, default_value_t = 0.1, value_parser = share, value_name = "S")]
    reconnect: f64,
    #[command(flatten)]
    no_foreign: NoForeignArgs,
}

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    fanout: FanoutArgs,
    /// Cuts a second over all clients.
    #[arg(long, default_value_t = 50.0, value_parser = above_zero, value_name = "R")]
    cut_rate: f64,
    #[command(flatten)]
    returning: ReturnArgs,
    #[command(flatten)]
    no_foreign: NoForeignArgs,
}

#[derive(Debug, Args)]
pub(super) struct StormArgs {
    #[command(flatten)]
    fanout: FanoutArgs,
    /// How often all clients are cut; --duration is the time after each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// The longest that clients may take until all are back and served.
    #[arg(long, default_value = "30", value_parser = seconds, value_name = "S")]
    limit: Duration,
    #[command(flatten)]
    returning: ReturnArgs,
    #[command(flatten)]
    no_foreign: NoForeignArgs,
}

#[derive(Debug, Args)]
pub(super) struct HostileArgs {
    #[command(flatten)]
    fanout: FanoutArgs,
    /// Connections that are kept half open: each brings half of a request's head, and is opened
    /// again when the server cuts it.
    #[arg(
        long, default_value_t = 1_000, value_name = "N",
        value_parser = clap::value_parser!(u32).range(0..=200_000)
    )]
    half_open: u32,
    /// How many of those are opened in a second at most [default: a quarter of them].
    #[arg(long, value_parser = above_zero, value_name = "R")]
    open_rate: Option<f64>,
    /// Connections a second that bring garbage: no HTTP, bad requests, bad handshakes, bad frames.
    #[arg(long, default_value_t = 100.0, value_parser = positive, value_name = "R")]
    garbage_rate: f64,
    #[command(flatten)]
    no_foreign: NoForeignArgs,
}

#[derive(Debug, Args)]
struct ReturnArgs {
    /// Seconds that a client stays away.
    #[arg(long, default_value = "0.1", value_parser = seconds, value_name = "S")]
    away: Duration,
    /// Seconds after a failed return until the next try.
    #[arg(long, default_value = "0.2", value_parser = seconds, value_name = "S")]
    retry: Duration,
    /// The share of the clients that is cut; with less than all, latency is that of the others.
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "S")]
    share: f64,
    /// The run is invalid when a subscription is not recovered.
    #[arg(long)]
    expect_recovered: bool,
}

/// What `fanout` takes, with a rate.
fn parts(
    mut fanout: FanoutArgs,
    foreign: ForeignArgs,
) -> Result<(Subscribing, (Feed, Times)), RunError> {
    if fanout.until_last {
        let text = "--until-last belongs to fanout: elsewhere not all clients get each event";
        return Err(RunError::Usage(text.to_owned()));
    }
    if fanout.rate == 0.0 {
        fanout.rate = RATE;
    }
    let (subscribing, feed, times) = fanout.parts(foreign)?;
    Ok((subscribing, (feed, times)))
}

impl SlowArgs {
    pub(super) fn work(&self, work: &mut Work) {
        self.fanout.work(&self.foreign, work);
    }

    pub(super) fn run(self, connecting: Connecting) -> Result<Report, RunError> {
        let slow = conduct::Slow {
            share: self.share,
            bytes_per_second: self.bytes_per_second,
            buffer_bytes: self.slow_buffer,
        };
        let connecting = self.fanout.speaking(connecting);
        let (subscribing, run) = parts(self.fanout, self.foreign)?;
        slow::run(&connecting, subscribing, slow, run)
    }
}

impl ChurnArgs {
    pub(super) fn work(&self, work: &mut Work) {
        self.fanout.work(&ForeignArgs::default(), work);
    }

    pub(super) fn run(self, connecting: Connecting) -> Result<Report, RunError> {
        self.no_foreign
            .refuse("templates say neither how to unsubscribe nor where events go on")?;
        let churn = conduct::Churn { rate: self.churn_rate, reconnect: self.reconnect };
        let connecting = self.fanout.speaking(connecting);
        let (subscribing, run) = parts(self.fanout, ForeignArgs::default())?;
        churn::run(&connecting, subscribing, churn, run)
    }
}

/// Why there are no cuts with templates.
const NO_SINCE: &str = "templates have no hole for `since`, the place to come back to";

/// Runs with cuts, at a rate or in storms. What is not there to be recovered is not waited for.
fn come_back(
    connecting: Connecting,
    (fanout, returning): (FanoutArgs, ReturnArgs),
    rate: f64,
    storms: Option<Storms>,
) -> Result<Report, RunError> {
    if fanout.pattern && returning.expect_recovered {
        let text =
            "--expect-recovered: a pattern has no place to come back to, and recovers nothing";
        return Err(RunError::Usage(text.to_owned()));
    }
    let connecting = fanout.speaking(connecting);
    let (subscribing, run) = parts(fanout, ForeignArgs::default())?;
    recover::run(&connecting, subscribing, (returning.cut(rate), storms), run)
}

impl RecoverArgs {
    pub(super) fn work(&self, work: &mut Work) {
        self.fanout.work(&ForeignArgs::default(), work);
        self.returning.work(work);
    }

    pub(super) fn run(self, connecting: Connecting) -> Result<Report, RunError> {
        self.no_foreign.refuse(NO_SINCE)?;
        come_back(connecting, (self.fanout, self.returning), self.cut_rate, None)
    }
}

impl StormArgs {
    pub(super) fn work(&self, work: &mut Work) {
        self.fanout.work(&ForeignArgs::default(), work);
        self.returning.work(work);
    }

    pub(super) fn run(self, connecting: Connecting) -> Result<Report, RunError> {
        self.no_foreign.refuse(NO_SINCE)?;
        let storms = Storms { rounds: self.rounds, limit: self.limit };
        come_back(connecting, (self.fanout, self.returning), 0.0, Some(storms))
    }
}

impl HostileArgs {
    pub(super) fn work(&self, work: &mut Work) {
        self.fanout.work(&ForeignArgs::default(), work);
        work.size("open_rate", self.open_rate());
    }

    fn open_rate(&self) -> f64 {
        self.open_rate.unwrap_or(f64::from(self.half_open) / 4.0)
    }

    pub(super) fn run(self, connecting: Connecting) -> Result<Report, RunError> {
        self.no_foreign.refuse("what is garbage to another server is not known")?;
        let connecting = self.fanout.speaking(connecting);
        let hostility = Hostility {
            target: connecting.target.clone(),
            half_open: self.half_open,
            open_rate: self.open_rate(),
            garbage_rate: self.garbage_rate,
        };
        let (subscribing, run) = parts(self.fanout, ForeignArgs::default())?;
        hostile::run(&connecting, subscribing, hostility, run)
    }
}

impl ReturnArgs {
    fn work(&self, work: &mut Work) {
        work.size("away_seconds", self.away.as_secs_f64());
        work.size("retry_seconds", self.retry.as_secs_f64());
    }

    fn cut(&self, rate: f64) -> Cut {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        Cut {
            rate,
            away_ns: nanos(self.away),
            retry_ns: nanos(self.retry),
            expects_recovered: self.expect_recovered,
            share: self.share,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = positive(text)?;
    if share <= 1.0 { Ok(share) } else { Err("must be a number from 0 to 1".into()) }
}

fn above_zero(text: &str) -> Result<f64, String> {
    let rate = positive(text)?;
    if rate > 0.0 { Ok(rate) } else { Err("must be above 0".into()) }
}
