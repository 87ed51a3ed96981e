//! Bytes: names, positions, commands, events and pushes, and the dialects and codec between
//! them and the wire. Pure functions and values; knows nothing else in Weir.

pub mod close;
pub mod command;
pub mod dialect;
pub mod encoder;
pub mod error;
pub mod event;
pub mod format;
pub mod gzip;
pub mod large;
pub mod name;
pub mod position;
pub mod proxy;
pub mod push;
pub mod rate;
pub mod room;
pub mod ws;
