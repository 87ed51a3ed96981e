//! The arguments with which `connect`, `idle`, `fanout`, `slow` and `echo` drive a server that is not Weir,
//! and their refusal where templates cannot say what a scenario needs.

use clap::Args;

use super::work::Work;
use crate::engine::wanted::Subscribing;
use crate::fault::RunError;
use crate::wire::foreign::Foreign;
use crate::wire::template::{Hole, Template};

/// The least `{payload}` that holds the marks `ts`, `seq` and `ch` of up to 19, 12 and 7 digits, in
/// bytes.
pub(super) const PAYLOAD_MIN: u32 = 72;

/// Templates have holes: {channel} {i} {id} {payload} {bytes} {seq} {ts}; `\r` and `\n` are line
/// ends.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Any server (templates with the holes {channel}, {i} the \
    connection, {id}, {payload}, {bytes} the payload's length, {seq}, {ts})")]
pub(super) struct ForeignArgs {
    /// Sent first on every connection.
    #[arg(long, value_name = "TEMPLATE")]
    hello_frame: Option<Template>,
    /// Sent for every subscription.
    #[arg(long, value_name = "TEMPLATE")]
    subscribe_frame: Option<Template>,
    /// What the answer to a subscribe holds (or to the hello, where nothing is subscribed to).
    #[arg(long, value_name = "TEMPLATE")]
    expect: Option<Template>,
    /// Sent for every event; needs {payload}, or both {ts} and {seq} as fields of these names.
    #[arg(long, value_name = "TEMPLATE")]
    publish_frame: Option<Template>,
    /// A message that is exactly this is answered with --pong-frame.
    #[arg(long, value_name = "TEXT", requires = "pong_frame")]
    ping_text: Option<String>,
    /// The answer to --ping-text.
    #[arg(long, value_name = "TEMPLATE", requires = "ping_text")]
    pong_frame: Option<Template>,
    /// Send the templates as binary frames.
    #[arg(long)]
    binary_frames: bool,
}

/// What the publish template has of an event's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// `{payload}`, which begins with the marks.
    Marked,
    /// Nothing: the template has marks of its own.
    None,
    /// The server is Weir.
    Weir,
}

/// The same arguments for scenarios that cannot take them.
#[derive(Debug, Args)]
pub(super) struct NoForeignArgs {
    #[arg(long, hide = true)]
    hello_frame: Option<String>,
    #[arg(long, hide = true)]
    subscribe_frame: Option<String>,
    #[arg(long, hide = true)]
    expect: Option<String>,
    #[arg(long, hide = true)]
    publish_frame: Option<String>,
}

impl NoForeignArgs {
    /// Refuses templates, and says why.
    pub(super) fn refuse(&self, why: &str) -> Result<(), RunError> {
        let given = [&self.hello_frame, &self.subscribe_frame, &self.expect, &self.publish_frame];
        if given.iter().all(|template| template.is_none()) {
            return Ok(());
        }
        Err(RunError::Usage(format!("this scenario speaks only Weir's protocol: {why}")))
    }
}

impl ForeignArgs {
    pub(super) fn payload(&self) -> Payload {
        match &self.publish_frame {
            _ if !self.is_there() => Payload::Weir,
            Some(frame) if frame.has(Hole::Payload) => Payload::Marked,
            Some(_) | None => Payload::None,
        }
    }

    pub(super) fn work(&self, work: &mut Work) {
        work.template("hello_frame", self.hello_frame.as_ref());
        work.template("subscribe_frame", self.subscribe_frame.as_ref());
        work.template("expect", self.expect.as_ref());
        work.template("publish_frame", self.publish_frame.as_ref());
        work.template("pong_frame", self.pong_frame.as_ref());
        if self.binary_frames {
            work.size("binary_frames", 1);
        }
    }

    /// Whether the server is not Weir.
    pub(super) fn is_there(&self) -> bool {
        self.hello_frame.is_some()
            || self.subscribe_frame.is_some()
            || self.expect.is_some()
            || self.publish_frame.is_some()
            || self.ping_text.is_some()
            || self.binary_frames
    }

    /// Puts the templates in the place of Weir's protocol, if there are any.
    pub(super) fn into(self, subscribing: &mut Subscribing) {
        if !self.is_there() {
            return;
        }
        if self.subscribe_frame.is_some() && subscribing.subscriptions == 0 {
            subscribing.subscriptions = 1;
        }
        subscribing.foreign = Some(Foreign {
            hello: self.hello_frame,
            subscribe: self.subscribe_frame,
            expect: self.expect,
            publish: self.publish_frame,
            ping: self.ping_text,
            pong: self.pong_frame,
            binary: self.binary_frames,
        });
    }

    /// Scenarios without a publisher take no template for it.
    pub(super) fn check_quiet(&self) -> Result<(), RunError> {
        if self.publish_frame.is_none() {
            return Ok(());
        }
        let text = "--publish-frame: this scenario has no events; `fanout` and `slow` have, and \
            `echo` sends --request-frame";
        Err(RunError::Usage(text.to_owned()))
    }

    /// A fan-out needs events whose marks can be found.
    pub(super) fn check_publish(&self) -> Result<(), RunError> {
        if !self.is_there() {
            return Ok(());
        }
        let marked = self.publish_frame.as_ref().is_some_and(|frame| {
            frame.has(Hole::Payload) || (frame.has(Hole::Ts) && frame.has(Hole::Seq))
        });
        if marked {
            return Ok(());
        }
        let text = "another server needs --publish-frame with {payload}, or with \
            \"ts\":{ts},\"seq\":{seq}";
        Err(RunError::Usage(text.to_owned()))
    }
}
