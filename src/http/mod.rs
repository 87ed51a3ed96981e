//! Doors: everything a stranger can reach over HTTP. The handshake of WebSockets, the API, the
//! scrape and the live page. Knows the shard only by its handle.

mod address;
mod answer;
mod api;
mod arrival;
mod connection;
mod credentials;
mod guard;
mod head;
mod keys;
mod listen;
mod page;
mod proxies;
mod query;
mod route;
mod scrape;
mod stall;
mod tls;
mod unread;
mod upgrade;
mod wire;

pub use address::{ListenAddress, Serves};
pub use keys::ApiKeys;
#[doc(hidden)]
pub use listen::Doors;
pub use listen::{HttpOptions, Listener, Listening, serve};
pub use proxies::Proxies;
pub use tls::{BadTls, TlsKeys};
