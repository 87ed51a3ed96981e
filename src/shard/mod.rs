//! Threads: one runtime per core, mailboxes between them, the driver of each socket, the writes,
//! private descriptor tables and the drain. The only folder that spawns or reads the clock.

mod auth;
mod away;
pub mod buckets;
pub mod clock;
mod command;
mod connection;
mod door;
mod durable;
mod echo;
pub mod fdtable;
mod flush;
mod held;
mod history;
mod inbound;
mod life;
pub mod limits;
mod local;
mod mailbox;
pub mod memory;
mod node;
mod pattern;
mod recall;
mod room;
mod secure;
mod settings;
mod signals;
mod slow;
mod stream;
pub mod tally;
mod tell;
#[cfg(test)]
mod tests;
mod tokens;
mod turn;
mod verify;
mod waits;

pub use durable::Publishing;
pub use limits::{LimitOptions, Limited, Limits, Net, Place, Requester};
pub use local::{Guest, Local};
pub use mailbox::Mailboxes;
pub use node::{Node, NodeOptions, PublishError};
pub use settings::{Changed, Reloads};
pub use slow::SlowPeer;
pub use stream::Stream;
pub use tokens::{AuthOptions, Found, NotTaken};
pub use verify::{Unchecked, Verdict, Verifying};
