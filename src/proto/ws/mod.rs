//! RFC 6455, sans-IO: frames out, messages in, the handshake's key.

pub mod error;
pub mod frame;
pub mod handshake;
pub mod mask;

pub use error::ProtocolError;
