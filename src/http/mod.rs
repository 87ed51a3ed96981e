//! Doors: everything a stranger can reach over HTTP. The handshake of WebSockets, the API, the
//! scrape and the live page. Knows the shard only by its handle.

mod answer;
mod api;
mod arrival;
mod connection;
mod credentials;
mod guard;
mod keys;
mod listen;
mod page;
mod query;
mod route;
mod scrape;
mod settings;
mod unread;
mod upgrade;
mod wire;

pub use keys::ApiKeys;
#[doc(hidden)]
pub use listen::Doors;
pub use listen::{HttpOptions, serve};
pub use settings::HttpSettings;
