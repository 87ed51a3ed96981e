//! The arguments of `self-test`.

use std::time::Duration;

use clap::Args;

use super::{SAMPLE, SIZE_MIN, seconds, subscribing};
use crate::blaster::Blast;
use crate::fault::RunError;
use crate::report::Report;
use crate::scenario::common::Connecting;
use crate::scenario::self_test;
use crate::target::Target;

/// The most that the blaster hands over in one write.
const WRITE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct SelfTestArgs {
    /// Connections.
    #[arg(
        long, short, default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    connections: u32,
    /// Receiver threads.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Bytes of each event's data.
    #[arg(
        long, default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(SIZE_MIN..=1_000_000)
    )]
    size: u32,
    /// Frames per write of the blaster.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Seconds that are measured.
    #[arg(long, default_value = "3", value_parser = seconds, value_name = "S")]
    duration: Duration,
    /// Read every event and hold it against the promise.
    #[arg(long)]
    verify: bool,
}

impl SelfTestArgs {
    pub(super) fn run(self, progress: bool) -> Result<Report, RunError> {
        let bytes = self.batch * u64::from(self.size);
        if bytes > WRITE_BYTES_MAX {
            return Err(RunError::Usage(format!(
                "--batch {} of --size {} are {} MiB in one write: at most {} MiB are sensible",
                self.batch,
                self.size,
                bytes >> 20,
                WRITE_BYTES_MAX >> 20
            )));
        }
        let mut subscribing = subscribing(1, 1);
        subscribing.verify = self.verify;
        subscribing.sample = if self.verify { 1 } else { SAMPLE };
        let channel = format!("{}0", subscribing.prefix);
        let blast = Blast { channel, payload_bytes: self.size as usize, batch: self.batch };
        let connecting = Connecting {
            target: Target::local(([127, 0, 0, 1], 0).into()),
            connections: self.connections,
            threads: Some(self.threads),
            sources: None,
            rate: 0.0,
            inflight: 256,
            timeout: Duration::from_secs(10),
            server_pid: None,
            progress,
        };
        let times = (Duration::from_millis(500), self.duration);
        self_test::run(connecting, subscribing, blast, times)
    }
}
