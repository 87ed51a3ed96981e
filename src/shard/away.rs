//! Work on large messages that leaves the shard's thread, so that small ones of others do not wait
//! for it: gunzipping them, reading them, and compressing what they publish. The client is not read meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use super::door::{LARGE_BYTES, Wanted};
use super::inbound::Text;
use super::verify::Verdict;
use crate::proto::command::{Call, Command, History, Request, Secret, Signal, Subscribe};
use crate::proto::dialect::bin;
use crate::proto::dialect::json::{self, Parser};
use crate::proto::encoder::Frames;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::event::Payload;
use crate::proto::gzip::{self, GzipError};
use crate::proto::rate::Rate;

/// What is to be done, with all that it takes.
#[derive(Debug)]
pub(super) enum Job {
    /// Read a binary publish, to a channel that was found.
    Bin { message: Vec<u8>, channel: Box<str> },
    /// Gunzip a message, then read it as text.
    Gzip(Vec<u8>),
    /// Read the next message of a JSON text.
    Text(Text),
}

/// What has come of it.
#[derive(Debug)]
pub(super) enum Done {
    /// A message that cannot be carried out.
    Bad(CommandError),
    /// A request that was begun, and is to be carried out now.
    Again(Asked),
    /// Nothing yet: the next message is a small one.
    Nothing,
    /// A publish.
    Publish(Large),
    /// Another request.
    Request(Asked),
    /// More came out than a message may have.
    TooBig,
    /// A token was checked that came with this `id`.
    Verified(Option<u64>, Box<Verdict>),
}

/// What has come of a job, and what it inflated.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) done: Done,
    /// Bytes taken and bytes that came out.
    pub(super) inflated: (usize, usize),
    /// What follows in its text frame.
    pub(super) rest: Option<Text>,
}

impl From<Done> for Worked {
    fn from(done: Done) -> Self {
        Self { done, inflated: (0, 0), rest: None }
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
    pub(super) message_id: Option<Box<str>>,
    /// What was made of its frames already.
    pub(super) frames: Frames,
}

/// A request other than a publish, with what it borrows of its message.
#[derive(Debug)]
pub(super) struct Asked {
    id: Option<u64>,
    what: What,
}

#[derive(Debug)]
enum What {
    Plain(Command<'static>),
    Subscribe {
        channel: Box<str>,
        since: Option<(Box<str>, u64)>,
        slow: Option<Box<str>>,
        max_rate: Option<Rate>,
        snapshot: bool,
    },
    History {
        channel: Box<str>,
        since: Option<(Box<str>, u64)>,
        limit: usize,
        reverse: bool,
    },
    Presence(Box<str>),
    Call {
        method: Box<str>,
        data: Option<Box<[u8]>>,
    },
    Signal {
        channel: Box<str>,
        name: Box<str>,
        data: Option<Box<[u8]>>,
        ttl_ms: u64,
    },
    Unsubscribe(Box<str>),
    Auth(Hidden),
}

/// A token that was read.
struct Hidden(Box<str>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

impl Asked {
    /// A request, to be carried out later; `None` of a publish, which is never put off.
    pub(super) fn of(request: &Request<'_>) -> Option<Self> {
        let what = match &request.command {
            Command::Publish(_) => return None,
            Command::Subscribe(Subscribe { channel, since, slow, max_rate, snapshot }) => {
                What::Subscribe {
                    channel: (*channel).into(),
                    since: since.map(|(epoch, offset)| (epoch.into(), offset)),
                    slow: slow.map(Box::from),
                    max_rate: *max_rate,
                    snapshot: *snapshot,
                }
            }
            Command::History(History { channel, since, limit, reverse }) => What::History {
                channel: (*channel).into(),
                since: since.map(|(epoch, offset)| (epoch.into(), offset)),
                limit: *limit,
                reverse: *reverse,
            },
            Command::Unsubscribe { channel } => What::Unsubscribe((*channel).into()),
            Command::Auth { token } => What::Auth(Hidden(token.0.into())),
            Command::Ping => What::Plain(Command::Ping),
            Command::Presence { channel } => What::Presence((*channel).into()),
            Command::Request(Call { method, data }) => {
                What::Call { method: (*method).into(), data: data.map(Box::from) }
            }
            Command::Signal(Signal { channel, name, data, ttl_ms }) => What::Signal {
                channel: (*channel).into(),
                name: (*name).into(),
                data: data.map(Box::from),
                ttl_ms: *ttl_ms,
            },
        };
        Some(Self { id: request.id, what })
    }

    /// The `id` of the command.
    pub(super) fn id(&self) -> Option<u64> {
        self.id
    }

    /// Memory that it takes.
    pub(super) fn footprint(&self) -> usize {
        let place =
            |since: &Option<(Box<str>, u64)>| since.as_ref().map_or(0, |(epoch, _)| epoch.len());
        let value = |data: &Option<Box<[u8]>>| data.as_ref().map_or(0, |data| data.len());
        let text = match &self.what {
            What::Plain(_) => 0,
            What::Subscribe { channel, since, slow, .. } => {
                channel.len() + place(since) + slow.as_ref().map_or(0, |slow| slow.len())
            }
            What::History { channel, since, .. } => channel.len() + place(since),
            What::Presence(name) | What::Unsubscribe(name) => name.len(),
            What::Call { method, data } => method.len() + value(data),
            What::Signal { channel, name, data, .. } => channel.len() + name.len() + value(data),
            What::Auth(token) => token.0.len(),
        };
        size_of::<Self>() + text
    }

    /// As it was read.
    pub(super) fn request(&self) -> Request<'_> {
        let command = match &self.what {
            What::Plain(command) => command.clone(),
            What::Subscribe { channel, since, slow, max_rate, snapshot } => {
                Command::Subscribe(Subscribe {
                    channel,
                    since: borrowed(since.as_ref()),
                    slow: slow.as_deref(),
                    max_rate: *max_rate,
                    snapshot: *snapshot,
                })
            }
            What::History { channel, since, limit, reverse } => Command::History(History {
                channel,
                since: borrowed(since.as_ref()),
                limit: *limit,
                reverse: *reverse,
            }),
            What::Presence(channel) => Command::Presence { channel },
            What::Call { method, data } => Command::Request(Call { method, data: data.as_deref() }),
            What::Signal { channel, name, data, ttl_ms } => {
                Command::Signal(Signal { channel, name, data: data.as_deref(), ttl_ms: *ttl_ms })
            }
            What::Unsubscribe(channel) => Command::Unsubscribe { channel },
            What::Auth(token) => Command::Auth { token: Secret(&token.0) },
        };
        Request { id: self.id, command }
    }
}

fn borrowed(since: Option<&(Box<str>, u64)>) -> Option<(&str, u64)> {
    since.map(|(epoch, offset)| (&**epoch, *offset))
}

/// A job under way. Resolves to what has come of it; to nothing where it has panicked.
#[derive(Debug)]
pub(super) struct Away(JoinHandle<Worked>, usize);

impl Away {
    /// Begins a job; messages have at most `bytes_max`.
    pub(super) fn new(job: Job, bytes_max: usize, wanted: Wanted) -> Self {
        let bytes = job.bytes();
        let work = move || {
            let mut worked = job.run(bytes_max);
            if let Done::Publish(large) = &mut worked.done {
                large.frames = wanted.make(&large.payload);
            }
            worked
        };
        Self(tokio::task::spawn_blocking(work), bytes)
    }

    /// Memory that waits for it.
    pub(super) fn bytes(&self) -> usize {
        self.1
    }
}

/// One that has not begun is not begun.
impl Drop for Away {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for Away {
    type Output = Option<Worked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Worked>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl Job {
    /// The same with this message.
    pub(super) fn of(mut self, message: Vec<u8>) -> Self {
        match &mut self {
            Self::Bin { message: bytes, .. } | Self::Gzip(bytes) => *bytes = message,
            Self::Text(text) => *text = Text::new(message),
        }
        self
    }

    /// Memory that it holds.
    fn bytes(&self) -> usize {
        match self {
            Self::Bin { message: bytes, .. } | Self::Gzip(bytes) => bytes.capacity(),
            Self::Text(text) => text.footprint(),
        }
    }

    /// Does it.
    pub(super) fn run(self, bytes_max: usize) -> Worked {
        match self {
            Self::Bin { message, channel } => open(&message, channel, bytes_max),
            Self::Gzip(stream) => {
                let worked = gunzip(&stream, bytes_max);
                match worked.rest {
                    Some(text) => Worked { inflated: worked.inflated, ..read(text) },
                    None => worked,
                }
            }
            Self::Text(text) => read(text),
        }
    }
}

/// The text that a gzip stream holds.
pub(super) fn gunzip(stream: &[u8], bytes_max: usize) -> Worked {
    let bad = |message| Done::Bad(CommandError::new(None, ErrorCode::BadRequest, message));
    match gzip::decompress(stream, bytes_max) {
        Ok(text) => {
            let inflated = (stream.len(), text.len());
            if simdutf8::basic::from_utf8(&text).is_err() {
                return Worked { inflated, ..bad("the gzip stream holds no UTF-8").into() };
            }
            Worked { done: Done::Nothing, inflated, rest: Some(Text::new(text)) }
        }
        Err(GzipError::Corrupt) => {
            bad("a binary frame is one whole gzip member of JSON text").into()
        }
        Err(GzipError::TooBig) => Done::TooBig.into(),
    }
}

/// Finds the next message of a text, and reads it where it is large, or all there is.
fn read(mut text: Text) -> Worked {
    let mut messages = text.messages();
    let had = messages.rest().len();
    let next = loop {
        let before = messages.clone();
        match messages.line() {
            Some(line) if json::is_blank(line) => {}
            Some(line) if messages.is_whole() || line.len() > LARGE_BYTES => break Ok(line),
            Some(_) | None => break Err(before.rest().len()),
        }
    };
    match next {
        Ok(message) => {
            let done = parsed(message);
            let left = messages.rest().len();
            Worked { rest: text.shorten(had, left).then_some(text), ..done.into() }
        }
        Err(left) => {
            Worked { rest: text.shorten(had, left).then_some(text), ..Done::Nothing.into() }
        }
    }
}

fn parsed(message: &[u8]) -> Done {
    let mut parser = Parser::new();
    let request = match parser.parse(message) {
        Ok(request) => request,
        Err(error) => return Done::Bad(error),
    };
    match (&request.command, Asked::of(&request)) {
        (Command::Publish(publish), _) => Done::Publish(Large {
            id: request.id,
            channel: publish.channel.into(),
            key: publish.key.map(Box::from),
            echo: publish.echo,
            payload: Payload::Json(publish.data.into()),
            message_id: publish.message_id.map(Box::from),
            frames: Frames::default(),
        }),
        (_, Some(asked)) => Done::Request(asked),
        (_, None) => Done::Nothing,
    }
}

/// Reads a binary publish whole.
fn open(message: &[u8], channel: Box<str>, bytes_max: usize) -> Worked {
    let read = bin::parse_publish(message).and_then(|publish| {
        let payload = publish.open(bytes_max)?;
        let inflated = if publish.gzip { (publish.payload.len(), payload.len()) } else { (0, 0) };
        let (id, key, echo) = (publish.id, publish.key.map(Box::from), publish.echo);
        let (message_id, frames) = (None, Frames::default());
        let done = Done::Publish(Large { id, channel, key, echo, payload, message_id, frames });
        Ok(Worked { done, inflated, rest: None })
    });
    read.unwrap_or_else(|error| Done::Bad(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &[u8]) -> Worked {
        Job::Text(Text::new(text.to_vec())).run(1_000)
    }

    #[test]
    fn one_message_is_read_and_of_a_batch_the_next_where_it_is_large() {
        let publish = br#"{"type":"publish","id":7,"channel":"a","key":"k","data":[1, 2]}"#;
        let Worked { done: Done::Publish(large), rest: None, .. } = run(publish) else {
            panic!("it is a publish")
        };
        assert_eq!((large.id, &*large.channel, large.echo), (Some(7), "a", true));
        assert_eq!(large.payload, Payload::Json((*b"[1, 2]").into()));
        let worked = run(b"{\"type\":\"ping\",\n\"id\":7}");
        let Worked { done: Done::Request(asked), rest: None, .. } = worked else {
            panic!("it is a ping")
        };
        assert_eq!(asked.request(), Request { id: Some(7), command: Command::Ping });
        assert!(matches!(run(b"{").done, Done::Bad(error) if error.code == ErrorCode::BadRequest));
        assert!(matches!(run(b" "), Worked { done: Done::Nothing, rest: None, .. }));

        let lines = [b"\n \n", &publish[..], b"\n{\n}"].concat();
        let Worked { done: Done::Nothing, rest: Some(rest), .. } = run(&lines) else {
            panic!("it is lines, the first of them small")
        };
        assert_eq!(rest.messages().collect::<Vec<_>>(), [&publish[..], b"{", b"}"]);
        let large = [&publish[..], &[b' '; LARGE_BYTES]].concat();
        let Worked { done: Done::Publish(_), rest: Some(rest), .. } =
            run(&[&large[..], b"\n{\n}"].concat())
        else {
            panic!("the first line is large")
        };
        assert_eq!(rest.messages().collect::<Vec<_>>(), [b"{", b"}"], "still lines");
    }

    #[test]
    fn whatever_is_asked_stays_what_it_was() {
        for text in [
            r#"{"type":"ping","id":1}"#,
            r#"{"type":"subscribe","channel":"a\u0062","id":2,"slow":"latest","max_rate":2.5}"#,
            r#"{"type":"subscribe","channel":"a","since":{"epoch":"e","offset":9}}"#,
            r#"{"type":"unsubscribe","channel":"room:*","id":3}"#,
            r#"{"type":"auth","token":"a\u0062.c"}"#,
            r#"{"type":"history","id":4,"channel":"a","since":{"epoch":"k","offset":7},"limit":9,"reverse":true}"#,
            r#"{"type":"presence","channel":"room:1"}"#,
            r#"{"type":"request","id":5,"method":"m","data":[1]}"#,
            r#"{"type":"request","method":"m"}"#,
            r#"{"type":"signal","channel":"a","name":"n\u0061","data":{"x":1},"ttl_ms":7}"#,
            r#"{"type":"signal","channel":"a","name":"n","data":null}"#,
        ] {
            let Done::Request(asked) = run(text.as_bytes()).done else { panic!("{text}") };
            assert_eq!(asked.request(), Parser::new().parse(text.as_bytes()).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_gunzipped_is_bounded_and_is_text() {
        let run = |bytes: &[u8], max| Job::Gzip(gzip::compress(bytes, 1)).run(max);
        assert!(matches!(run(b"{", 100).done, Done::Bad(_)), "it is read");
        assert_eq!(run(&[b' '; 100], 100).inflated.1, 100);
        assert!(matches!(run(&[b' '; 101], 100).done, Done::TooBig));
        assert!(matches!(run(b"\xFF", 100).done, Done::Bad(_)));
        assert!(matches!(Job::Gzip(b"{}".to_vec()).run(100).done, Done::Bad(_)));
    }
}
