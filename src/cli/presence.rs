//! `weir presence`: prints who has a channel by name.

use crate::cli::args::Presence;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::proto::format::Subprotocol;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

/// The part of the answer that is printed, as over HTTP.
#[derive(Deserialize, Serialize)]
struct Answer<'a> {
    channel: String,
    clients: u64,
    users: u64,
    #[serde(borrow)]
    members: &'a RawValue,
}

/// Prints it as one line.
pub(super) async fn run(flags: Presence) -> Result<(), Failure> {
    let mut client = Client::connect(&flags.to, Subprotocol::Json).await?;
    let command = json!({"type": "presence", "id": 1, "channel": flags.channel.as_str()});
    let text = client.ask(&command, "presence").await?;
    let line = serde_json::from_str(&text)
        .and_then(|answer: Answer<'_>| serde_json::to_string(&answer))
        .map_err(|_| Failure::Answer("presence"))?;
    let mut output = Output::new();
    output.line(&line)?;
    output.flush()?;
    Ok(client.close().await?)
}
