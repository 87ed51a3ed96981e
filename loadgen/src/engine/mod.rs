//! The client engine: threads that hold many connections each, with one epoll, one read buffer and
//! one descriptor table per thread, and less than 1 KiB per connection.

mod acts;
mod alike;
mod asking;
pub(crate) mod books;
mod coded;
pub(crate) mod conduct;
pub(crate) mod crew;
pub(crate) mod epochs;
mod holes;
pub(crate) mod hostile;
pub(crate) mod ingest;
pub(crate) mod lane;
pub(crate) mod lasts;
pub(crate) mod ledger;
mod opening;
pub(crate) mod pending;
pub(crate) mod publisher;
pub(crate) mod secure;
mod sending;
pub(crate) mod shared;
pub(crate) mod socket;
mod tickets;
mod told;
pub(crate) mod wanted;
mod window;
pub(crate) mod worker;
