//! Durable channels in a SQLite file: the log before the memory store, written by a thread of its own.

mod files;
mod load;
mod log;
mod queue;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod trim;
mod writer;

pub use files::OpenError;
pub use log::Sqlite;
