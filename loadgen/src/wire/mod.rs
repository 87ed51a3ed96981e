//! Bytes: frames as a client reads and writes them, the opening handshake, and the marks in a
//! frame's text.

pub(crate) mod binary;
pub(crate) mod command;
pub(crate) mod foreign;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod http;
pub(crate) mod inflate;
pub(crate) mod marks;
pub(crate) mod payload;
pub(crate) mod telemetry;
pub(crate) mod template;
pub(crate) mod tls;
