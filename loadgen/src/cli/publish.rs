//! The arguments of `publish`.

use clap::{Args, ValueEnum};

use super::foreign::NoForeignArgs;
use super::times::TimesArgs;
use super::work::Work;
use super::{SIZE_MIN, namespace, positive};
use crate::clock;
use crate::engine::ingest::Job;
use crate::engine::lane::{Style, Via};
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::publish;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// One message per event, acknowledged by `published`.
    Ws,
    /// One POST per event, on connections that stay.
    Http,
    /// Many events per POST, one a line.
    Ndjson,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// How events reach the server.
    #[arg(long, value_enum, default_value = "ws")]
    via: Way,
    /// Where HTTP publishes go, on the host of the URL [default: /api/v1/publish].
    #[arg(long, value_parser = path, value_name = "PATH")]
    http_path: Option<String>,
    /// Channels; each publisher has one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Events a second over all publishers; 0 as fast as they are acknowledged.
    #[arg(long, default_value_t = 0.0, value_parser = positive, value_name = "R")]
    rate: f64,
    /// Events that may wait for their acknowledgement, per WebSocket [default: 64].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    window: Option<u64>,
    /// Events in one POST, with --via ndjson [default: 100].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: Option<u64>,
    /// Bytes of each event's data.
    #[arg(
        long, default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(SIZE_MIN..=1_000_000)
    )]
    size: u32,
    #[command(flatten)]
    times: TimesArgs,
    /// Check that the acknowledged offsets of a channel are given once each, without holes.
    #[arg(long)]
    verify: bool,
    /// The namespace of the channels; a run's number and the channel's follow.
    #[arg(long, default_value = "load", value_parser = namespace)]
    namespace: String,
    #[command(flatten)]
    no_foreign: NoForeignArgs,
}

impl PublishArgs {
    pub(super) fn work(&self, work: &mut Work) {
        work.text("namespace", &self.namespace);
    }

    /// What would be ignored is refused.
    fn check(&self, via: Via) -> Result<(), RunError> {
        self.no_foreign.refuse(
            "templates do not say which event an answer acknowledges; `echo` with a publish as its \
             --request-frame, numbered by {seq}, and the --answer-mark before that number does",
        )?;
        let text = if self.verify && via == Via::HttpNdjson {
            "--verify needs offsets, which the answer to NDJSON does not tell"
        } else if self.window.is_some() && via != Via::WebSocket {
            "--window belongs to --via ws: over HTTP a publisher has one request under way"
        } else if self.batch.is_some() && via != Via::HttpNdjson {
            "--batch belongs to --via ndjson"
        } else if self.http_path.is_some() && via == Via::WebSocket {
            "--http-path belongs to --via http and --via ndjson"
        } else {
            return Ok(());
        };
        Err(RunError::Usage(text.to_owned()))
    }

    pub(super) fn run(self, connecting: &Connecting) -> Result<Report, RunError> {
        let via = match self.via {
            Way::Ws => Via::WebSocket,
            Way::Http => Via::HttpJson,
            Way::Ndjson => Via::HttpNdjson,
        };
        self.check(via)?;
        let job = Job {
            target: connecting.target.clone(),
            style: Style {
                via,
                host: connecting.target.host().to_owned(),
                path: self.http_path.unwrap_or_else(|| "/api/v1/publish".to_owned()),
                prefix: format!("{}:r{:x}.", self.namespace, clock::now()),
                payload_bytes: self.size as usize,
                window: self.window.unwrap_or(64),
                batch: self.batch.unwrap_or(100),
            },
            publishers: connecting.connections,
            threads: connecting.threads.unwrap_or(1).min(connecting.connections),
            channels: self.channels.min(connecting.connections),
            rate: self.rate,
            timeout: connecting.timeout,
            verify: self.verify,
        };
        publish::run(connecting, job, self.times.times())
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("must start with / and hold no spaces".into())
    }
}
