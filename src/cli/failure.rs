//! Why a command ended without having done its work, and the exit code of that.

use crate::cli::client::ClientError;
use crate::config::BadSetting;
use crate::server::StartError;
use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The gateway answers otherwise than the protocol has it.
    #[error("the gateway's answer to {0} is not what it should be")]
    Answer(&'static str),
    /// The connection to the gateway.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// DATA is not JSON.
    #[error(
        "DATA is not JSON: {0}\na text needs quotes of its own, as in: weir pub {1} '\"hello\"'"
    )]
    Data(serde_json::Error, String),
    /// A file that is to be published.
    #[error("failed to read {0}: {1}")]
    File(String, #[source] io::Error),
    /// `--key` is not a key.
    #[error("--key must be at most {} bytes", crate::proto::name::KEY_BYTES_MAX)]
    Key,
    /// What was said on standard error already.
    #[error("not everything was done")]
    Partly,
    /// The reader of our output is gone: nothing failed.
    #[error("nobody reads the output")]
    PipeClosed,
    /// The settings.
    #[error("{}", list(.0))]
    Settings(Vec<BadSetting>),
    /// The gateway did not start or did not end well.
    #[error("failed to run the gateway: {0}")]
    Start(#[from] StartError),
    /// The operating system.
    #[error("failed to {0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// Flags that do not go together.
    #[error("{0}")]
    Usage(&'static str),
}

impl Failure {
    /// The process's exit code: 0 done, 1 failed at work, 2 wrong usage.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Answer(_)
            | Self::Client(_)
            | Self::File(..)
            | Self::Partly
            | Self::Settings(_)
            | Self::Start(_)
            | Self::System(..) => 1,
            Self::Data(..) | Self::Key | Self::Usage(_) => 2,
        }
    }
}

fn list(bad: &[BadSetting]) -> String {
    let mut text = match bad.len() {
        1 => "1 fault in the settings".to_owned(),
        count => format!("{count} faults in the settings"),
    };
    for one in bad {
        text.push_str(&format!("\n  {one}"));
    }
    text
}
