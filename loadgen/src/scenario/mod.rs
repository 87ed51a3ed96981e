//! What can be measured: one file per scenario, and what they have in common.

pub(crate) mod common;
pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod publish;
pub(crate) mod self_test;
