//! The native binary dialect, `weir.v1.bin`: events to the client and publishes from it. All else
//! is JSON text on such a connection too.

pub mod event;
pub mod publish;
mod varint;

pub use event::{Kind, encode_event, parse_event, put_event_head};
pub use publish::{Place, encode_publish, parse_publish};

/// The payload is a gzip stream.
const GZIP: u8 = 0x01;
/// The payload is JSON text; otherwise bytes without meaning to Weir.
const JSON: u8 = 0x02;
/// A key stands before the payload.
const KEY: u8 = 0x04;
/// An id asks for an answer. Publishes only.
const ID: u8 = 0x08;
/// The publisher does not want its own event back. Publishes only.
const NO_ECHO: u8 = 0x10;
