//! The arguments of `echo`.

use clap::Args;

use super::foreign::ForeignArgs;
use super::times::TimesArgs;
use super::work::Work;
use super::{positive, subscribing};
use crate::engine::conduct::Echo;
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::echo;
use crate::wire::template::{Hole, Template};

#[derive(Debug, Args)]
pub(super) struct EchoArgs {
    /// Requests a second over all connections; 0 as fast as they are answered.
    #[arg(long, default_value_t = 0.0, value_parser = positive, value_name = "R")]
    rate: f64,
    /// With --rate 0: requests under way, per connection [default: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    window: Option<u32>,
    /// What is sent, with the holes {seq} (its number), {i} (the connection), {payload} and {ts}.
    #[arg(long, default_value = r#"{"type":"ping","id":{seq}}"#, value_name = "TEMPLATE")]
    request_frame: Template,
    /// What stands right before a request's number in its answer.
    #[arg(long, default_value = r#""id":"#, value_name = "TEXT")]
    answer_mark: String,
    /// Bytes that {payload} stands for, as a JSON string [default: 128].
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    size: Option<u32>,
    #[command(flatten)]
    times: TimesArgs,
    #[command(flatten)]
    foreign: ForeignArgs,
}

/// Bytes of {payload} where nobody asks for others.
const SIZE: u32 = 128;

impl EchoArgs {
    pub(super) fn work(&self, work: &mut Work) {
        work.template("request_frame", Some(&self.request_frame));
        work.text("answer_mark", &self.answer_mark);
        if self.request_frame.has(Hole::Payload) {
            work.size("payload_bytes", self.size.unwrap_or(SIZE));
        }
        self.foreign.work(work);
    }

    /// What would be ignored is refused.
    fn check(&self) -> Result<(), RunError> {
        let numbered = self.request_frame.has(Hole::Seq) || self.request_frame.has(Hole::Id);
        let text = if !numbered || self.answer_mark.is_empty() {
            "--request-frame needs {seq}, and --answer-mark what stands before it"
        } else if self.size.is_some() && !self.request_frame.has(Hole::Payload) {
            "--size is that of {payload}, which --request-frame does not have"
        } else if self.rate > 0.0 && self.window.is_some() {
            "--window bounds a run without a --rate; with one the plan does"
        } else {
            return Ok(());
        };
        Err(RunError::Usage(text.to_owned()))
    }

    pub(super) fn run(self, connecting: &Connecting) -> Result<Report, RunError> {
        self.check()?;
        self.foreign.check_quiet()?;
        let mut subscribing = subscribing(0, 0);
        self.foreign.into(&mut subscribing);
        let fill = "x".repeat(self.size.unwrap_or(SIZE) as usize - 2);
        let echo = Echo {
            rate: self.rate,
            window: self.window.unwrap_or(1),
            frame: self.request_frame,
            mark: self.answer_mark.into_bytes(),
            payload: format!("\"{fill}\"").into_bytes(),
        };
        echo::run(connecting, subscribing, echo, self.times.times())
    }
}
