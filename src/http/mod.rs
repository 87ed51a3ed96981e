//! Doors: everything a stranger can reach over HTTP. The handshake of WebSockets, the API, the
//! scrape and the live page. Knows the shard only by its handle.

mod answer;
mod api;
mod connection;
mod guard;
mod listen;
mod page;
mod query;
mod route;
mod scrape;
mod upgrade;
mod wire;

#[doc(hidden)]
pub use listen::Doors;
pub use listen::{HttpOptions, serve};
