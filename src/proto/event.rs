//! An event: what a producer published, with its place in its channel.

use std::sync::{Arc, OnceLock};

use super::encoder::Frames;
use super::name::{Alias, ChannelName, ClientId};

/// Who published an event over a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Author {
    /// The connection.
    pub client: ClientId,
    /// The identity in its token; `None` for the anonymous.
    pub user: Option<Box<str>>,
}

/// One published event. Shared by every shard that has subscribers, never copied.
#[derive(Debug)]
pub struct Event {
    /// Where it was published.
    pub channel: ChannelName,
    /// The node's number for that channel.
    pub alias: Alias,
    /// Its number in the channel, from 1.
    pub offset: u64,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
    /// When it was taken, in nanoseconds of the node's monotonic clock.
    pub taken_ns: u64,
    /// Its label inside the channel.
    pub key: Option<Box<str>>,
    /// Who published it; `None` for the HTTP API.
    pub from: Option<Arc<Author>>,
    /// The one client that asked not to see it.
    pub hidden_from: Option<ClientId>,
    /// What was published.
    pub payload: Payload,
    /// The WebSocket frame of the JSON dialect, made by whoever needs it first.
    pub json_frame: OnceLock<Box<[u8]>>,
    /// Its frames in every other form.
    pub frames: Frames,
}

/// What an event carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A JSON value, as its publisher wrote it.
    Json(Box<[u8]>),
    /// Bytes without meaning to Weir.
    Opaque(Box<[u8]>),
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(bytes) | Self::Opaque(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Event {
    /// Memory of what it carries, and of what was made of that before it had its place.
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.frames.bytes()
    }

    /// One for tests, with nothing made of it but `frames`.
    #[cfg(test)]
    pub(in crate::proto) fn sample(payload: Payload, frames: Frames) -> Self {
        Self {
            channel: "telemetry:h1".parse().expect("a good name"),
            alias: Alias(12),
            offset: 300,
            ts_ms: 1_732_153_200_123,
            taken_ns: 0,
            key: Some("cpu0".into()),
            from: None,
            hidden_from: None,
            payload,
            json_frame: OnceLock::new(),
            frames,
        }
    }

    /// Keeps what [`Event::append_frame`] has appended of plain JSON, for those who ask again.
    pub fn keep_json_frame(&self, frame: &[u8]) {
        self.json_frame.get_or_init(|| Box::from(frame));
    }
}
