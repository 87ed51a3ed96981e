//! Work on large messages that leaves the shard's thread, so that small ones of others do not wait
//! for it: gunzipping them, reading them, and compressing what they publish. The client is not read meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use super::door::Wanted;
use crate::proto::command::{Command, Request};
use crate::proto::dialect::bin;
use crate::proto::dialect::json::{self, Parser};
use crate::proto::encoder::Frames;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::Payload;
use crate::proto::gzip::{self, GzipError};

/// What is to be done, with all that it takes.
#[derive(Debug)]
pub(super) enum Job {
    /// Read a binary publish, to a channel that was found.
    Bin { message: Vec<u8>, channel: Box<str> },
    /// Gunzip a message, then read it as text.
    Gzip(Vec<u8>),
    /// Read JSON text.
    Text(Vec<u8>),
}

/// What has come of it.
#[derive(Debug)]
pub(super) enum Done {
    /// A message that cannot be carried out.
    Bad(CommandError),
    /// A publish.
    Publish(Large),
    /// Messages to be read as they come; valid UTF-8.
    Text(Vec<u8>),
    /// More came out than a message may have.
    TooBig,
}

/// What has come of a job, and what it inflated.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) done: Done,
    /// Bytes taken and bytes that came out.
    pub(super) inflated: (usize, usize),
}

impl From<Done> for Worked {
    fn from(done: Done) -> Self {
        Self { done, inflated: (0, 0) }
    }
}

/// A publish that was read. Its channel is as the client wrote it.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) id: Option<u64>,
    pub(super) channel: Box<str>,
    pub(super) key: Option<Box<str>>,
    pub(super) echo: bool,
    pub(super) payload: Payload,
    pub(super) frames: Frames,
}

/// A job under way. Resolves to what has come of it; to nothing where it has panicked.
#[derive(Debug)]
pub(super) struct Away(JoinHandle<Worked>);

impl Away {
    /// Begins a job; messages have at most `bytes_max`.
    pub(super) fn new(job: Job, bytes_max: usize, wanted: Wanted) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let mut worked = job.run(bytes_max);
            if let Done::Publish(large) = &mut worked.done {
                large.frames = wanted.make(&large.payload);
            }
            worked
        }))
    }
}

impl Future for Away {
    type Output = Option<Worked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Worked>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl Job {
    /// Does it.
    pub(super) fn run(self, bytes_max: usize) -> Worked {
        match self {
            Self::Bin { message, channel } => open(&message, channel, bytes_max),
            Self::Gzip(stream) => {
                let Worked { mut done, inflated } = gunzip(&stream, bytes_max);
                if let Done::Text(text) = done {
                    done = read(text);
                }
                Worked { done, inflated }
            }
            Self::Text(text) => read(text).into(),
        }
    }
}

/// The text that a gzip stream holds.
pub(super) fn gunzip(stream: &[u8], bytes_max: usize) -> Worked {
    let bad = |message| Done::Bad(CommandError::new(None, ErrorCode::BadRequest, message));
    match gzip::decompress(stream, bytes_max) {
        Ok(text) => {
            let inflated = (stream.len(), text.len());
            let is_text = simdutf8::basic::from_utf8(&text).is_ok();
            let done =
                if is_text { Done::Text(text) } else { bad("the gzip stream holds no UTF-8") };
            Worked { done, inflated }
        }
        Err(GzipError::Corrupt) => {
            bad("a binary frame is one whole gzip member of JSON text").into()
        }
        Err(GzipError::TooBig) => Done::TooBig.into(),
    }
}

/// Reads a text that is one publish; leaves any other as it is.
fn read(text: Vec<u8>) -> Done {
    let mut messages = json::messages(&text);
    let (Some(one), None) = (messages.next(), messages.next()) else { return Done::Text(text) };
    match Parser::new().parse(one) {
        Ok(Request { id, command: Command::Publish(publish) }) => Done::Publish(Large {
            id,
            channel: publish.channel.into(),
            key: publish.key.map(Box::from),
            echo: publish.echo,
            payload: Payload::Json(publish.data.into()),
            frames: Frames::default(),
        }),
        Ok(_) => Done::Text(text),
        Err(error) => Done::Bad(error),
    }
}

/// Reads a binary publish whole.
fn open(message: &[u8], channel: Box<str>, bytes_max: usize) -> Worked {
    let read = bin::parse_publish(message).and_then(|publish| {
        let payload = publish.open(bytes_max)?;
        let inflated = if publish.gzip { (publish.payload.len(), payload.len()) } else { (0, 0) };
        let (id, key, echo) = (publish.id, publish.key.map(Box::from), publish.echo);
        let frames = Frames::default();
        let done = Done::Publish(Large { id, channel, key, echo, payload, frames });
        Ok(Worked { done, inflated })
    });
    read.unwrap_or_else(|error| Done::Bad(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_text_is_read_where_it_is_one_publish() {
        let text = br#"{"type":"publish","id":7,"channel":"a","key":"k","data":[1, 2]}"#;
        let Done::Publish(large) = Job::Text(text.to_vec()).run(1_000).done else {
            panic!("it is a publish")
        };
        assert_eq!((large.id, &*large.channel, large.echo), (Some(7), "a", true));
        assert_eq!(large.payload, Payload::Json((*b"[1, 2]").into()));
        let lines = [&text[..], b"\n", text].concat();
        for other in [&lines[..], br#"{"type":"ping"}"#, b""] {
            let done = Job::Text(other.to_vec()).run(1_000).done;
            assert!(matches!(&done, Done::Text(text) if text == other), "{done:?}");
        }
        let done = Job::Text(b"{".to_vec()).run(1_000).done;
        assert!(matches!(done, Done::Bad(error) if error.code == ErrorCode::BadRequest));
    }

    #[test]
    fn what_is_gunzipped_is_bounded_and_is_text() {
        let run = |bytes: &[u8], max| Job::Gzip(gzip::compress(bytes, 1)).run(max).done;
        assert!(matches!(run(&[b' '; 100], 100), Done::Text(text) if text.len() == 100));
        assert!(matches!(run(&[b' '; 101], 100), Done::TooBig));
        assert!(matches!(run(b"\xFF", 100), Done::Bad(_)));
        assert!(matches!(Job::Gzip(b"{}".to_vec()).run(100).done, Done::Bad(_)));
    }
}
