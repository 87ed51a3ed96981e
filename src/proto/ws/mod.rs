//! RFC 6455, sans-IO: frames out, messages in, the handshake's key.

mod carry;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod message;

pub use error::ProtocolError;
