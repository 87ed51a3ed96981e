//! `weir history`: prints the kept events of a channel.

use crate::cli::args::History;
use crate::cli::client::{Client, ClientError};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::proto::format::Subprotocol;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// The part of the answer that is printed.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// Prints them as they came, one line each.
pub(super) async fn run(flags: History) -> Result<(), Failure> {
    let mut client = Client::connect(&flags.url, flags.token.as_ref(), Subprotocol::Json).await?;
    let mut command = json!({"type": "history", "id": 1, "channel": flags.channel.as_str()});
    command["reverse"] = flags.reverse.into();
    if let Some(limit) = flags.limit {
        command["limit"] = limit.into();
    }
    if let Some(since) = &flags.since {
        command["since"] = since.json();
    }
    client.send(command.to_string().into_bytes()).await?;
    let message = loop {
        let message = client.next().await?;
        match message.head.kind.as_str() {
            "error" => return Err(ClientError::Refusal(message.head.error()).into()),
            "history" => break message,
            _ => {}
        }
    };
    let answer: Answer<'_> =
        serde_json::from_str(&message.text).map_err(|_| Failure::Answer("history"))?;
    let mut output = Output::new();
    for event in answer.events {
        output.line(event.get())?;
    }
    output.flush()?;
    Ok(client.close().await?)
}
