//! The arguments of `fanout`, which the other scenarios with one publisher take too.

use clap::{Args, ValueEnum};

use super::foreign::{ForeignArgs, PAYLOAD_MIN, Payload};
use super::times::TimesArgs;
use super::work::Work;
use super::{SAMPLE, SIZE_MIN, max_rate, namespace, positive, subscribing};
use crate::engine::publisher::Feed;
use crate::engine::wanted::Subscribing;
use crate::fault::RunError;
use crate::scenario::common::Connecting;
use crate::scenario::fanout::Times;
use crate::target::Format;
use crate::wire::command::{Policy, Wishes};
use crate::wire::telemetry;

/// Where channels are unless another is asked for.
const NAMESPACE: &str = "load";
/// Events of which `--until-last` remembers each one.
const UNTIL_LAST_MAX: f64 = 1_000_000.0;
/// Bytes of data, and events ahead, where nobody asks for others.
const SIZE: u32 = 128;
const SIZE_TELEMETRY: u32 = 64_000;
const WINDOW: u64 = 64;

/// What data is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Content {
    /// One character.
    Fill,
    /// Metrics with names, units and figures that change.
    Telemetry,
}

#[derive(Debug, Args)]
pub(super) struct FanoutArgs {
    /// Channels.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Channels that each connection subscribes to.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    per_connection: u32,
    /// Events a second over all channels; 0 as fast as subscribers take them.
    #[arg(long, default_value_t = 0.0, value_parser = positive, value_name = "R")]
    pub(super) rate: f64,
    /// With --rate 0: how many events may be ahead of the mean subscriber [default: 64].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
    /// What each event's data is filled with.
    #[arg(long, value_enum, default_value = "fill")]
    payload: Content,
    /// Bytes of each event's data [default: 128, of telemetry 64000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(SIZE_MIN..=1_000_000))]
    size: Option<u32>,
    #[command(flatten)]
    times: TimesArgs,
    /// Hold every event against the promise: in order, exactly once, or told lost.
    #[arg(long)]
    verify: bool,
    /// Without --verify: look at the due time of each nth event [default: 17].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Also how long each event takes until the last subscriber has it, for a low --rate.
    #[arg(long)]
    pub(super) until_last: bool,
    /// Each subscription asks for so many flushes a second (0.1 to 100), which needs a --rate. With
    /// --verify, events left out are then no loss, but the last one is due.
    #[arg(long, value_parser = max_rate, value_name = "HZ")]
    max_rate: Option<f64>,
    /// Each subscription asks for this slow-consumer policy. With --verify and `latest`, the newest
    /// event of each key that was missed must be shown.
    #[arg(long, value_enum, value_name = "POLICY")]
    slow: Option<Policy>,
    /// Each connection subscribes to all channels by one pattern, which the namespace must allow.
    #[arg(long)]
    pub(super) pattern: bool,
    /// The namespace of the channels, by default `load`, and none with templates; a run's number
    /// and the channel's follow.
    #[arg(long, value_parser = namespace)]
    namespace: Option<String>,
    /// Keys that a channel's events take turns with; 0 no keys.
    #[arg(long, default_value_t = 0, value_name = "K")]
    keys: u64,
    /// How events are written, by their subprotocol; with `bin` they are published so, too.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Agree on permessage-deflate, each message for itself.
    #[arg(long)]
    deflate: bool,
}

impl FanoutArgs {
    /// The same server, spoken to in the format that is asked for.
    pub(super) fn speaking(&self, connecting: Connecting) -> Connecting {
        Connecting { target: connecting.target.speaking(self.format, self.deflate), ..connecting }
    }

    /// What to subscribe to, what to publish, and for how long; in the words of `foreign` where the
    /// server is not Weir.
    pub(super) fn parts(
        self,
        foreign: ForeignArgs,
    ) -> Result<(Subscribing, Feed, Times), RunError> {
        self.check(&foreign)?;
        let per_connection = if self.pattern { self.channels } else { self.per_connection };
        let mut subscribing = subscribing(self.channels, per_connection);
        if self.pattern {
            // A pattern ends a part of a name.
            subscribing.prefix = subscribing.prefix.replace('.', "/");
            subscribing.pattern = true;
        }
        if let Some(namespace) = self.namespace(&foreign) {
            subscribing.prefix = format!("{namespace}:{}", subscribing.prefix);
        }
        subscribing.verify = self.verify;
        subscribing.sample = self.sample();
        subscribing.until_last = self.until_last;
        subscribing.wishes = Wishes { max_rate: self.max_rate.unwrap_or(0.0), slow: self.slow };
        subscribing.keys = self.keys;
        foreign.into(&mut subscribing);
        let feed = Feed {
            rate: self.rate,
            window: self.window.unwrap_or(WINDOW),
            payload_bytes: self.size() as usize,
            telemetry: self.payload == Content::Telemetry,
        };
        let times = self.times.times();
        Ok((subscribing, feed, times))
    }

    fn size(&self) -> u32 {
        let default = if self.payload == Content::Telemetry { SIZE_TELEMETRY } else { SIZE };
        self.size.unwrap_or(default)
    }

    fn namespace(&self, foreign: &ForeignArgs) -> Option<&str> {
        let default = (!foreign.is_there()).then_some(NAMESPACE);
        self.namespace.as_deref().or(default)
    }

    /// Of which events the due time is looked at: each nth.
    fn sample(&self) -> u64 {
        if self.verify || self.until_last { 1 } else { self.sample.unwrap_or(SAMPLE) }
    }

    /// What would be ignored is refused.
    fn check(&self, foreign: &ForeignArgs) -> Result<(), RunError> {
        let refuse = |text: String| Err(RunError::Usage(text));
        if self.per_connection > self.channels {
            return refuse(format!(
                "--per-connection {} needs at least as many --channels",
                self.per_connection
            ));
        }
        if self.pattern && self.per_connection > 1 {
            return refuse(
                "--per-connection: with --pattern each connection has all --channels".into(),
            );
        }
        if self.rate > 0.0 && self.window.is_some() {
            return refuse("--window bounds a run without a --rate; with one the plan does".into());
        }
        if self.sample.is_some() && (self.verify || self.until_last) {
            return refuse("--sample: --verify and --until-last look at every event".into());
        }
        let events = self.rate * self.times.times().duration.as_secs_f64();
        if self.until_last && !(events > 0.0 && events <= UNTIL_LAST_MAX) {
            return refuse(format!(
                "--until-last needs a --rate with which --duration has at most {UNTIL_LAST_MAX} \
                 events"
            ));
        }
        if self.max_rate.is_some() && (self.rate == 0.0 || self.until_last) {
            let text = "--max-rate needs a --rate, and not every event comes as --until-last asks";
            return refuse(text.into());
        }
        foreign.check_publish()?;
        if self.max_rate.is_some() && foreign.is_there() {
            return refuse("--max-rate belongs to Weir: write it into --subscribe-frame".into());
        }
        if (self.pattern || self.slow.is_some()) && foreign.is_there() {
            return refuse(
                "--pattern and --slow are Weir's: write them into --subscribe-frame".into(),
            );
        }
        if self.keys > 0 && foreign.is_there() {
            return refuse("--keys are Weir's: write them into --publish-frame".into());
        }
        if self.format != Format::Json && foreign.is_there() {
            return refuse(
                "--format is Weir's: templates say what another server's frames are".into(),
            );
        }
        let is_telemetry = self.payload == Content::Telemetry;
        if is_telemetry && self.size() < telemetry::BYTES_MIN {
            return refuse(format!(
                "--size {}: telemetry takes at least {} bytes",
                self.size(),
                telemetry::BYTES_MIN
            ));
        }
        match (foreign.payload(), self.size) {
            (Payload::None, _) if is_telemetry => {
                refuse("--payload is that of {payload}, which --publish-frame does not have".into())
            }
            (Payload::Marked, Some(size)) if size < PAYLOAD_MIN => refuse(format!(
                "--size {size}: the marks in {{payload}} take up to {PAYLOAD_MIN} bytes"
            )),
            (Payload::None, Some(_)) => {
                refuse("--size is that of {payload}, which --publish-frame does not have".into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn work(&self, foreign: &ForeignArgs, work: &mut Work) {
        work.count("keys", self.keys);
        work.count("sample", self.sample());
        if let Some(namespace) = self.namespace(foreign) {
            work.text("namespace", namespace);
        }
        if self.payload == Content::Telemetry {
            work.text("payload", "telemetry");
        }
        if self.deflate {
            work.size("deflate", 1);
        }
        if let Some(policy) = self.slow {
            work.text("slow", policy.name());
        }
        if let Some(format) = self.format.subprotocol() {
            work.text("format", format);
        }
        if foreign.payload() == Payload::None {
            work.count("payload_bytes", 0);
        }
        foreign.work(work);
    }
}
