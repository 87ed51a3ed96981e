//! What goes wrong, in sentences, and the exit code of each.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::latency::ms;
use crate::wire::frame::FrameError;
use crate::wire::inflate::InflateError;
use crate::wire::tls::TlsFault;

/// What a server did to one connection that it should not have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answered in chunks.
    Chunked,
    /// It broke the framing, or sends frames that are not read here.
    BadFrame(FrameError),
    /// It sent a close frame.
    Closed { code: Option<u16>, reason: String },
    /// It answered a command with an error, or ended a subscription.
    Denied(String),
    /// It ended the connection without a close frame.
    Ended,
    /// The socket failed.
    Io(io::ErrorKind, String),
    /// It sent text that is not JSON with a `type`.
    NotJson(String),
    /// It answered something that is not HTTP.
    NotHttp,
    /// It answered a publish in HTTP/1.0, with this first line.
    OldHttp(String),
    /// It says that a channel is subscribed to which the connection has not asked for.
    OtherChannel,
    /// It answered the upgrade with another status than 101.
    Refused(String),
    /// It did not answer in time; a limit of zero is not known.
    Silent { limit: Duration },
    /// It did not take a few hundred bytes.
    Stuck,
    /// TLS with it failed.
    Tls(TlsFault),
    /// It did not send in time what `--expect` waits for.
    Unexpected { limit: Duration, heard: String },
    /// It answered for another number of events than were sent to it.
    Miscounted { asked: u64, answered: u64 },
    /// It sent binary where text was agreed on.
    Binary,
    /// It sent a binary frame that is not written as agreed.
    UnreadableBinary,
    /// It agreed to the upgrade, and not to permessage-deflate without context takeover.
    NoDeflate,
    /// It sent a compressed message that does not inflate.
    BadDeflate(InflateError),
    /// It agreed to the upgrade, and not to the subprotocol that was asked for.
    OtherFormat { asked: &'static str },
    /// It has given more epochs than this program keeps apart.
    TooManyEpochs,
    /// It answered something that nobody asked for.
    Unasked { number: u64 },
    /// It sent an event or a loss that is not written as agreed.
    Unreadable(String),
    /// It answered 101 with a `Sec-WebSocket-Accept` that does not belong to the key.
    WrongAccept,
}

impl Fault {
    /// Text that is not what it should be, shown in part.
    pub(crate) fn not_json(text: &[u8]) -> Self {
        Self::NotJson(shown(text))
    }

    /// An event or a loss that is not written as agreed, shown in part.
    pub(crate) fn unreadable(text: &[u8]) -> Self {
        Self::Unreadable(shown(text))
    }

    /// What the payload of a close frame says.
    pub(crate) fn closed(payload: &[u8]) -> Self {
        let (code, reason) = match payload.split_first_chunk::<2>() {
            Some((code, reason)) => (Some(u16::from_be_bytes(*code)), reason),
            None => (None, payload),
        };
        Self::Closed { code, reason: String::from_utf8_lossy(reason).into_owned() }
    }
}

/// The front of a text.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned()
}

/// A fault may have to pass through where only errors of I/O do.
impl std::error::Error for Fault {}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault)
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return fault.clone();
        }
        let kind = error.kind();
        if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return Self::Silent { limit: Duration::ZERO };
        }
        Self::Io(kind, error.to_string())
    }
}

const OLD_HTTP: &str =
    "this program publishes over connections that stay, which HTTP/1.0 does not have";
const NO_DEFLATE: &str = "the server does not agree to permessage-deflate in which each message \
    stands for itself (server_no_context_takeover)";
const STRANGE_BINARY: &str =
    "the server sent a binary frame that is no event of the format that was agreed on";

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binary => f.write_str("the server sent a binary frame where text was agreed on"),
            Self::UnreadableBinary => f.write_str(STRANGE_BINARY),
            Self::NoDeflate => f.write_str(NO_DEFLATE),
            Self::BadDeflate(error) => write!(f, "the server sent {error}"),
            Self::OtherFormat { asked } => write!(f, "the server does not speak {asked}"),
            Self::BadFrame(error) if error.is_breach() => {
                write!(f, "the server breaks RFC 6455: {error}")
            }
            Self::BadFrame(error) => {
                write!(f, "the server sends what this program does not read: {error}")
            }
            Self::Chunked => f.write_str("the server answers in chunks, which are not read here"),
            Self::Closed { code: Some(code), reason } => {
                write!(f, "the server closed the connection with code {code} ({reason})")
            }
            Self::Closed { code: None, .. } => {
                f.write_str("the server closed the connection without a code")
            }
            Self::Denied(message) => write!(f, "the server refused a command: {message}"),
            Self::Ended => f.write_str("the server ended the connection without a close frame"),
            Self::Io(io::ErrorKind::ConnectionRefused, _) => {
                f.write_str("nothing listens there (connection refused)")
            }
            Self::Io(io::ErrorKind::ConnectionReset, _) => {
                f.write_str("the server reset the connection")
            }
            Self::Io(_, error) => write!(f, "the connection failed: {error}"),
            Self::NotJson(text) => {
                write!(f, "the server sent text that is no Weir message: {text}")
            }
            Self::NotHttp => f.write_str("what answers there is no HTTP server"),
            Self::OldHttp(first) => write!(f, "the server answered {first:?}: {OLD_HTTP}"),
            Self::OtherChannel => {
                f.write_str("the server says `subscribed` of a channel that was not asked for")
            }
            Self::Refused(status) => write!(f, "the server refused the upgrade with {status}"),
            Self::Miscounted { asked, answered } => write!(
                f,
                "the server's answer accounts for {answered} of the {asked} events that were sent"
            ),
            Self::Silent { limit: Duration::ZERO } => {
                f.write_str("the server did not answer in time")
            }
            Self::Silent { limit } => {
                write!(f, "the server did not answer within {} s", limit.as_secs_f64())
            }
            Self::Tls(fault) => fault.fmt(f),
            Self::Stuck => f.write_str("the server does not take what is sent to it"),
            Self::TooManyEpochs => f.write_str("the server gives more epochs than are kept apart"),
            Self::Unreadable(text) => write!(
                f,
                "the server sent an event or a loss that is not written as this program reads it: \
                 {text}"
            ),
            Self::Unasked { number } => {
                write!(f, "the server answered what was not asked: {number}")
            }
            Self::Unexpected { limit, heard } => write!(
                f,
                "the server did not send what --expect waits for within {} s; it said last: \
                 {heard:?}",
                limit.as_secs_f64()
            ),
            Self::WrongAccept => {
                f.write_str("the server's Sec-WebSocket-Accept does not fit the key")
            }
        }
    }
}

/// Why there is no result at all.
#[derive(Debug)]
pub(crate) enum RunError {
    /// A gateway that was started here does not serve.
    Gateway(String),
    /// The user ended a suite.
    Interrupted,
    /// The machine's limits do not allow the run; the text says what to do.
    Machine(String),
    /// The report could not be written.
    Report { path: String, error: io::Error },
    /// The server cannot be measured.
    Server { url: String, fault: Fault },
    /// The command line asks for something that makes no sense.
    Usage(String),
}

impl RunError {
    /// The exit code; 1 and 2 belong to runs that took place.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Gateway(_) | Self::Server { .. } => 3,
            Self::Interrupted => 130,
            Self::Machine(_) => 4,
            Self::Report { .. } => 5,
            Self::Usage(_) => 64,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted; the server was stopped"),
            Self::Gateway(text) | Self::Machine(text) | Self::Usage(text) => f.write_str(text),
            Self::Report { path, error } => write!(f, "cannot write the report to {path}: {error}"),
            Self::Server { url, fault } => write!(f, "{url}: {fault}"),
        }
    }
}

/// What there should be none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Subscriptions that were not recovered, where they should have been.
    NotRecovered,
    /// Connections that came back and received no event.
    NotServed,
    /// Answers that came to another connection than asked, or twice.
    Strangers,
    /// Events that were accepted or refused twice, or neither.
    Unaccounted,
    /// Commands without an answer.
    Unanswered,
    /// Events that were due while it was measured and not sent.
    Unsent,
}

impl Count {
    /// The reason that `count` of these are; `None` when there are none.
    pub(crate) fn of(self, count: u64) -> Option<Invalid> {
        (count > 0).then_some(Invalid::Count { count, of: self })
    }

    /// What is said of them.
    fn text(self) -> &'static str {
        match self {
            Self::NotRecovered => {
                "subscriptions were not recovered, which --expect-recovered asks for"
            }
            Self::NotServed => "connections that came back received no event in time",
            Self::Strangers => "answers came to a connection that did not ask, or twice",
            Self::Unaccounted => "events were neither accepted nor refused, or were so twice",
            Self::Unanswered => "commands were never answered",
            Self::Unsent => {
                "events that were due while it was measured were not sent in time: the server did \
                 not take them, or use more --drain"
            }
        }
    }
}

/// Reasons to throw a run away. A number without these checks is not a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Connections did not stay.
    ConnectionsLost { lost: u64, why: Option<Fault> },
    /// The generator sent events later than they were due, by its own fault.
    GeneratorLate { p99_ns: u64, max_ns: u64 },
    /// The busiest thread had no CPU in reserve in an open-loop run.
    GeneratorSaturated { percent: u64, waited: u64 },
    /// Less arrived or was told than was published.
    Missing { deliveries: u64 },
    /// Connections did not open; of the others some may be lost.
    NotOpened { missing: u64, lost: u64, why: Option<Fault> },
    /// More arrived or was told than was published.
    Surplus { deliveries: u64 },
    /// So many of something, which should be none.
    Count { count: u64, of: Count },
    /// Acts that were due found no connection in time.
    ActsMissed { missed: u64, due: u64 },
    /// Connections were not begun at the rate that was asked for.
    ConnectRateNotReached { wanted: u64, got: u64 },
    /// Fewer half-open connections stood than were asked for.
    HalfOpenNotReached { wanted: u64, got: u64 },
    /// No request was answered while it was measured.
    NothingAnswered,
    /// No event was acknowledged.
    NothingAccepted,
    /// Connections that left did not come back.
    NotBack { away: u64, why: Option<Fault> },
    /// Nothing was received while it was measured.
    Nothing,
    /// The server refused publishes.
    PublishRefused { errors: u64, first: String },
    /// The publisher lost its connection.
    PublisherLost(Fault),
    /// Receiver threads ended by a fault of this program.
    Panicked { threads: u64 },
    /// What was under way still arrived when its time was up.
    StillArriving,
    /// The time was up before it was known whether all had arrived.
    DrainTooShort,
    /// Fewer events a second were sent than the plan asked for.
    RateNotReached { wanted: u64, got: u64 },
    /// The server's process has ended.
    ServerGone { pid: u32 },
    /// Commands were answered with errors, or messages were not what they should be.
    Refused { errors: u64, why: Option<Fault> },
}

/// Said of [`Invalid::HalfOpenNotReached`].
const CUT_SOONER: &str =
    ": the server cuts them sooner than --open-rate opens them, or takes no more";

/// Said of [`Invalid::DrainTooShort`].
const TOO_SHORT: &str =
    "the time was up before it was known whether all had arrived; use more --drain";

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionsLost { lost, why: Some(why) } => {
                write!(f, "{lost} connections were lost; the first: {why}")
            }
            Self::ConnectionsLost { lost, why: None } => write!(f, "{lost} connections were lost"),
            Self::NotOpened { missing, lost, why } => {
                write!(f, "{missing} connections did not open")?;
                if *lost > 0 {
                    write!(f, " and {lost} were lost")?;
                }
                why.as_ref().map_or(Ok(()), |why| write!(f, "; the first fault: {why}"))
            }
            Self::GeneratorLate { p99_ns, max_ns } => write!(
                f,
                "the generator was late: p99 {} ms, at most {} ms are allowed",
                ms(*p99_ns),
                ms(*max_ns)
            ),
            Self::GeneratorSaturated { percent, waited } => write!(
                f,
                "the busiest thread ran or waited for a CPU {percent} % of the time (waited \
                 {waited} %): use more --threads, or a quieter machine"
            ),
            Self::Missing { deliveries } => {
                write!(f, "deliveries do not add up: {deliveries} neither came nor were told")
            }
            Self::Surplus { deliveries } => {
                write!(f, "deliveries do not add up: {deliveries} more came than were published")
            }
            Self::Count { count, of } => write!(f, "{count} {}", of.text()),
            Self::ActsMissed { missed, due } => write!(
                f,
                "{missed} of {due} acts were not done in time: no connection was free, so use more \
                 connections or a lower rate"
            ),
            Self::ConnectRateNotReached { wanted, got } => write!(
                f,
                "the rate was not reached: {got} of {wanted} connections a second; --inflight \
                 handshakes were not answered in time"
            ),
            Self::HalfOpenNotReached { wanted, got } => {
                write!(f, "of {wanted} half-open connections {got} stood on average{CUT_SOONER}")
            }
            Self::NotBack { away, why } => {
                write!(f, "{away} connections did not come back in time")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, "; the first fault: {why}"))
            }
            Self::PublishRefused { errors, first } => {
                write!(f, "{errors} publishes were refused; the first: {first}")
            }
            Self::PublisherLost(fault) => write!(f, "the publisher lost its connection: {fault}"),
            Self::Panicked { threads } => {
                write!(f, "{threads} receiver threads panicked; please report it")
            }
            Self::DrainTooShort => f.write_str(TOO_SHORT),
            Self::Nothing => f.write_str("nothing was received while it was measured"),
            Self::NothingAccepted => f.write_str("no event was accepted"),
            Self::NothingAnswered => f.write_str("no request was answered while it was measured"),
            Self::StillArriving => f.write_str("events still arrived at the end; use more --drain"),
            Self::RateNotReached { wanted, got } => {
                write!(f, "the rate was not reached: {got} of {wanted} events a second")
            }
            Self::ServerGone { pid } => write!(f, "the server's process {pid} has ended"),
            Self::Refused { errors, why: Some(why) } => {
                write!(f, "{errors} refusals or bad messages to subscribers; the first: {why}")
            }
            Self::Refused { errors, why: None } => {
                write!(f, "{errors} refusals or bad messages to subscribers")
            }
        }
    }
}
