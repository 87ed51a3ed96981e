//! RFC 6455 and RFC 7692, sans-IO: frames out, messages in, the handshake's key.

mod carry;
pub mod deflate;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod message;

pub use error::ProtocolError;
