//! The command line: one file per command, and the client that `pub` and `sub` share.

pub mod args;
mod check;
mod client;
pub mod demo;
mod failure;
mod files;
mod history;
mod logging;
mod output;
mod presence;
mod proc;
mod publish;
pub mod run;
mod serve;
mod subscribe;
mod token;
