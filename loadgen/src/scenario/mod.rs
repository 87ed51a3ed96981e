//! What can be measured: one file per scenario, and what they have in common.

pub(crate) mod churn;
pub(crate) mod common;
pub(crate) mod connect;
pub(crate) mod drain;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod hostile;
pub(crate) mod moment;
pub(crate) mod publish;
pub(crate) mod recover;
pub(crate) mod self_test;
pub(crate) mod slow;
