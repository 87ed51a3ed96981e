//! Weir is an event gateway: producers publish events on channels, and Weir fans each out to
//! every subscriber over WebSocket, from one process, without letting a slow reader harm the
//! others.
//!
//! ```text
//! producer --frame--> shard A: decode in the shard's scratch buffer --> Command::Publish
//!    --> store: offset, and the event into the mailbox of every shard with subscribers
//! shard B, once a batch: --> the batch's frames, laid end to end once for each channel
//!    --> one reference to them into each subscriber's bounded queue
//!    --> one write for each connection
//! ```
//!
//! The `weir` program is this crate's [`Gateway`] behind a command line. A program that embeds it
//! builds a [`Config`], then a [`Gateway`], and publishes through its [`Handle`].
#![deny(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used)]

// The README's program is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod core;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod proto;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod shard;
#[doc(hidden)]
pub mod store;

pub use config::Config;
pub use http::{ListenAddress, Serves};
pub use proto::name::{BadClientId, BadName, ChannelName, ClientId};
pub use proto::position::{Epoch, Position};
pub use server::{Builder, Gateway, Handle, ReloadError, Reloaded, StartError, Warning};
pub use shard::PublishError;
