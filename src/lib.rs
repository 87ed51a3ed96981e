//! Weir: an event gateway.
#![deny(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used)]

#[doc(hidden)]
pub mod core;
#[doc(hidden)]
pub mod proto;
#[doc(hidden)]
pub mod shard;
#[doc(hidden)]
pub mod store;

pub use proto::name::{BadName, ChannelName};
