//! `weir sub`: prints the events of channels.

use crate::cli::args::{Format, Subscribe};
use crate::cli::client::{Client, ClientError, Message};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, say};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// Prints events until there were enough, a signal, or the connection's end.
pub(super) async fn run(flags: Subscribe) -> Result<(), Failure> {
    tokio::select! {
        done = print(&flags) => done,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|error| Failure::System("wait for signals", error))
        }
    }
}

async fn print(flags: &Subscribe) -> Result<(), Failure> {
    if flags.since.is_some() && flags.channels.len() > 1 {
        return Err(Failure::Usage("--since is a place in one channel: name one channel"));
    }
    let mut client = Client::connect(&flags.to, flags.format.subprotocol()).await?;
    for (id, channel) in (1_u64..).zip(&flags.channels) {
        let mut command = json!({"type": "subscribe", "id": id, "channel": channel});
        if let Some(hz) = flags.max_rate {
            command["max_rate"] = json!(hz);
        }
        if let Some(policy) = &flags.slow {
            command["slow"] = json!(policy);
        }
        if let Some(since) = &flags.since {
            command["since"] = since.json();
        }
        client.send(command.to_string().into_bytes()).await?;
    }
    let mut output = Output::new();
    let mut left = flags.count;
    while left != Some(0) {
        if !client.is_ready() {
            output.flush()?;
        }
        let message = match client.next().await {
            Ok(message) => message,
            Err(error) => {
                output.flush()?;
                return Err(error.into());
            }
        };
        if show(&message, flags.format, &mut output)? {
            left = left.map(|left| left - 1);
        }
    }
    output.flush()?;
    Ok(client.close().await?)
}

/// Prints what `message` has for the user; whether it was an event.
fn show(message: &Message, format: Format, output: &mut Output) -> Result<bool, Failure> {
    let head = &message.head;
    match head.kind.as_str() {
        "event" => {
            output.line(body(&message.text, format))?;
            return Ok(true);
        }
        "error" => {
            output.flush()?;
            return Err(ClientError::Refusal(head.error()).into());
        }
        "subscribed" if head.recovered == Some(false) => {
            output.flush()?;
            let text = &message.text;
            say(format_args!("weir: not everything since that place is still there: {text}"));
        }
        // An answer to our own command; without `id` it tells of a change.
        "subscribed" if head.id.is_some() => {}
        "pong" | "welcome" => {}
        _ => say(&message.text),
    }
    Ok(false)
}

/// An event's data, as it came.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_b64: Option<&'a RawValue>,
}

/// The part of an event that `format` asks for.
fn body(text: &str, format: Format) -> &str {
    if format != Format::Data {
        return text;
    }
    let event: Result<Data<'_>, _> = serde_json::from_str(text);
    let data = event.ok().and_then(|event| event.data.or(event.data_b64));
    data.map_or("null", RawValue::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_alone_is_printed_as_it_came() {
        let text = r#"{"type":"event","channel":"a","offset":1,"ts":1,"data":{"n":1.50}}"#;
        assert_eq!(body(text, Format::Json), text);
        assert_eq!(body(text, Format::Data), r#"{"n":1.50}"#);
        assert_eq!(body(r#"{"type":"event","data_b64":"AA=="}"#, Format::Data), "\"AA==\"");
        assert_eq!(body(r#"{"type":"event","data":null}"#, Format::Data), "null");
    }
}
