//! `weir history`: prints the kept events of a channel.

use crate::cli::args::{History, Place};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::proto::command::HISTORY_LIMIT;
use crate::proto::format::Subprotocol;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// What is wanted of an answer.
#[derive(Deserialize)]
struct Answer<'a> {
    epoch: &'a str,
    /// The head.
    offset: u64,
    /// What is printed.
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// What is wanted of an event.
#[derive(Deserialize)]
struct Event {
    offset: u64,
}

/// Prints them as they came, one line each.
pub(super) async fn run(flags: History) -> Result<(), Failure> {
    let mut client = Client::connect(&flags.to, Subprotocol::Json).await?;
    let mut output = Output::new();
    let mut left = flags.limit.unwrap_or(HISTORY_LIMIT as u64);
    let mut since = flags.since.clone();
    loop {
        let text = ask(&mut client, &flags, (since.as_ref(), left)).await?;
        let answer: Answer<'_> = serde_json::from_str(&text).map_err(|_| UNREADABLE)?;
        for event in &answer.events {
            output.line(event.get())?;
        }
        left = left.saturating_sub(answer.events.len() as u64);
        // An answer has a bound in bytes, and there is no going on from where a reversed one ends.
        let last = answer.events.last().filter(|_| left > 0 && !flags.reverse);
        let Some(last) = last else { break };
        let Event { offset } = serde_json::from_str(last.get()).map_err(|_| UNREADABLE)?;
        if offset >= answer.offset {
            break;
        }
        since = Some(Place { epoch: answer.epoch.to_owned(), offset });
    }
    output.flush()?;
    Ok(client.close().await?)
}

const UNREADABLE: Failure = Failure::Answer("history");

/// Asks for at most `limit` events, and gives the text of the answer.
async fn ask(
    client: &mut Client,
    flags: &History,
    (since, limit): (Option<&Place>, u64),
) -> Result<String, Failure> {
    let channel = flags.channel.as_str();
    let mut command = json!({"type": "history", "id": 1, "channel": channel, "limit": limit});
    command["reverse"] = flags.reverse.into();
    if let Some(since) = since {
        command["since"] = since.json();
    }
    Ok(client.ask(&command, "history").await?)
}
