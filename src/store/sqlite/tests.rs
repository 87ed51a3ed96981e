//! Tests of durable channels: the contract of a store, what a restart keeps, and files that are none.

mod adapter;
mod bad;
mod files;
mod hang;
mod prefix;
mod queue;
mod restart;
mod unreadable;
