//! Durable channels in a SQLite file: the log before the memory store, written by a thread of its own.

mod channels;
mod files;
mod load;
mod loads;
mod log;
mod queue;
mod room;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod trim;
mod whole;
mod writer;

pub use files::OpenError;
pub use log::Sqlite;
