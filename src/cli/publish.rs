//! `weir pub`: publishes one event, or one per line of standard input, or the bytes of a file.

use crate::cli::args::{Publish, Sent};
use crate::cli::client::{Client, ClientError, Message};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, say};
use crate::proto::dialect::bin;
use crate::proto::dialect::json::value;
use crate::proto::format::Subprotocol;
use crate::proto::gzip;
use crate::proto::name::KEY_BYTES_MAX;
use crate::proto::ws::deflate::Deflater;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

/// Events on their way without an answer.
const UNANSWERED_MAX: usize = 256;

/// How much is spent on gzip; the middle.
const LEVEL: u32 = 6;

/// Data of fewer bytes goes as it is.
const GZIP_BYTES_MIN: usize = 1024;

/// How long the gateway may take for an answer when there is nothing else to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Publishes and prints each position.
pub(super) async fn run(mut flags: Publish) -> Result<(), Failure> {
    if flags.key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
        return Err(Failure::Key);
    }
    if let Some(data) = &flags.data {
        serde_json::from_str::<&RawValue>(data)
            .map_err(|error| Failure::Data(error, flags.channel.to_string()))?;
    }
    let raw = flags.raw.as_deref().map(bytes_of).transpose()?;
    if raw.is_some() {
        flags.format = flags.format.raw();
    }
    let client = Client::connect(&flags.to, flags.format.subprotocol()).await?;
    let mut publisher = Publisher {
        client,
        flags,
        output: Output::new(),
        unanswered: BTreeMap::new(),
        id: 0,
        failed: false,
    };
    let done = publisher.all(raw).await;
    publisher.output.flush()?;
    done?;
    publisher.client.close().await?;
    if publisher.failed { Err(Failure::Partly) } else { Ok(()) }
}

/// What a file holds, or standard input.
fn bytes_of(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::File(path.display().to_string(), error))?;
    Ok(bytes)
}

/// The `publish` command.
#[derive(Serialize)]
struct Command<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: u64,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    data: &'a RawValue,
}

/// What `pub` prints of an event.
#[derive(Serialize)]
struct Published<'a> {
    channel: Option<&'a str>,
    epoch: Option<&'a str>,
    offset: Option<u64>,
}

struct Publisher {
    client: Client,
    flags: Publish,
    output: Output,
    /// The line of each event without an answer, by the command's id.
    unanswered: BTreeMap<u64, Option<u64>>,
    id: u64,
    /// Whether any event was refused.
    failed: bool,
}

impl Publisher {
    async fn all(&mut self, raw: Option<Vec<u8>>) -> Result<(), Failure> {
        match (raw, self.flags.data.take()) {
            (Some(bytes), _) => self.publish_bytes(&bytes).await?,
            (None, Some(data)) => self.publish(&data, None).await?,
            (None, None) => self.lines().await?,
        }
        while !self.unanswered.is_empty() {
            let silent = |_| ClientError::Closed(": no answer for 30 s".to_owned());
            let message = timeout(ANSWER_TIMEOUT, self.client.next()).await.map_err(silent)??;
            self.answered(&message)?;
        }
        Ok(())
    }

    async fn lines(&mut self) -> Result<(), Failure> {
        let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
        let mut line = 0;
        loop {
            let room = self.unanswered.len() < UNANSWERED_MAX;
            tokio::select! {
                message = self.client.next() => self.answered(&message?)?,
                next = lines.next_segment(), if room => {
                    let failed = |error: io::Error| Failure::System("read standard input", error);
                    let Some(bytes) = next.map_err(failed)? else { return Ok(()) };
                    line += 1;
                    self.line(&bytes, line).await?;
                }
            }
        }
    }

    async fn line(&mut self, bytes: &[u8], line: u64) -> Result<(), Failure> {
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(data) => self.publish(data.get(), Some(line)).await,
            Err(error) => {
                self.fail(Some(line), &format!("not JSON: {error}"));
                Ok(())
            }
        }
    }

    /// Sends one event. `data` is JSON. What the gateway would refuse as senseless or too large is
    /// not sent: it closes the connection over one or some of them, and the events behind would be
    /// lost with it.
    async fn publish(&mut self, data: &str, line: Option<u64>) -> Result<(), Failure> {
        if let Err(problem) = value::take(data.as_bytes()) {
            self.fail(line, problem);
            return Ok(());
        }
        self.id += 1;
        let channel = self.flags.channel.as_str();
        let key = self.flags.key.as_deref();
        let message = if self.flags.format.subprotocol() == Subprotocol::Bin {
            self.binary(data.as_bytes(), true)
        } else {
            let text = serde_json::from_str(data).and_then(|data| {
                serde_json::to_string(&Command { kind: "publish", id: self.id, channel, key, data })
            });
            text.map_err(|error| Failure::Data(error, channel.to_owned()))?.into_bytes()
        };
        if !self.fits(message.len().max(data.len()), line) {
            return Ok(());
        }
        self.unanswered.insert(self.id, line);
        match self.flags.format {
            Sent::Bin | Sent::BinGzip => self.client.send_bytes(message).await?,
            Sent::Gzip => self.client.send_bytes(gzip::compress(&message, LEVEL)).await?,
            Sent::Json => self.client.send(message).await?,
        }
        Ok(())
    }

    /// Sends one event of bytes that are only bytes.
    async fn publish_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.id += 1;
        let message = self.binary(bytes, false);
        if self.fits(message.len().max(bytes.len()), None) {
            self.unanswered.insert(self.id, None);
            self.client.send_bytes(message).await?;
        }
        Ok(())
    }

    /// A publish as a binary message; its payload in gzip where that was asked for and pays.
    fn binary(&self, data: &[u8], json: bool) -> Vec<u8> {
        let mut stream = Vec::new();
        let asked = self.flags.format == Sent::BinGzip && data.len() >= GZIP_BYTES_MIN;
        let gzip = asked && Deflater::new(LEVEL, 0).gzip(data, &mut stream);
        let publish = bin::publish::Publish {
            id: Some(self.id),
            place: bin::Place::Name(self.flags.channel.as_str()),
            key: self.flags.key.as_deref(),
            echo: true,
            json,
            gzip,
            payload: if gzip { &stream } else { data },
        };
        let mut message = Vec::new();
        bin::encode_publish(&publish, &mut message);
        message
    }

    /// Whether the gateway takes a message of so many bytes; it says where it does not.
    fn fits(&mut self, len: usize, line: Option<u64>) -> bool {
        let most = self.client.max_message;
        if len > most {
            self.fail(line, &format!("too large: a message of {len} bytes, at most {most} here"));
        }
        len <= most
    }

    fn answered(&mut self, message: &Message) -> Result<(), Failure> {
        let head = &message.head;
        let line = head.id.and_then(|id| self.unanswered.remove(&id));
        match (head.kind.as_str(), line) {
            ("published", Some(_)) => {
                let published = Published {
                    channel: head.channel.as_deref(),
                    epoch: head.epoch.as_deref(),
                    offset: head.offset,
                };
                let text = serde_json::to_string(&published);
                self.output.line(&text.map_err(|e| Failure::System("print", e.into()))?)?;
            }
            ("error", line) => self.fail(line.flatten(), &head.error()),
            ("disconnect", _) => say(&message.text),
            _ => {}
        }
        if self.client.is_ready() { Ok(()) } else { self.output.flush() }
    }

    fn fail(&mut self, line: Option<u64>, problem: &str) {
        self.failed = true;
        match line {
            Some(line) => say(format_args!("weir: line {line}: {problem}")),
            None => say(format_args!("weir: {problem}")),
        }
    }
}
