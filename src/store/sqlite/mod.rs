//! Durable channels in a SQLite file: the log before the memory store, written by a thread of its own.

mod aside;
mod channels;
mod files;
mod load;
mod loads;
mod log;
mod queue;
mod room;
mod row;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod trim;
mod watchdog;
mod whole;
mod writer;

pub use files::OpenError;
pub use log::Sqlite;
