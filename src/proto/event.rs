//! An event: what a producer published, with its place in its channel.

use std::sync::{Arc, OnceLock};

use super::dialect::json;
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
    /// The whole WebSocket frame (header and JSON text) for subscribers of the JSON dialect.
    ///
    /// Encoded once for the whole process, however many shards and subscribers ask.
    pub fn json_frame(&self) -> &[u8] {
        self.json_frame.get_or_init(|| {
            let mut text = Vec::with_capacity(self.payload.len() + 192);
            json::encode_event(self, &mut text);
            super::ws::frame::text(&text).into_boxed_slice()
        })
    }

    /// Appends the frame of [`Event::json_frame`] to `out`; `scratch` is overwritten.
    ///
    /// The last holder of an event encodes it straight into `out`: nobody else will ask.
    pub fn append_json_frame(self: &Arc<Self>, out: &mut Vec<u8>, scratch: &mut Vec<u8>) {
        if self.json_frame.get().is_none() && Arc::strong_count(self) == 1 {
            scratch.clear();
            json::encode_event(self, scratch);
            super::ws::frame::push_text(scratch, out);
        } else {
            out.extend_from_slice(self.json_frame());
        }
    }

    /// Keeps what [`Event::append_json_frame`] has appended, for those who ask again.
    pub fn keep_json_frame(&self, frame: &[u8]) {
        self.json_frame.get_or_init(|| Box::from(frame));
    }
}
