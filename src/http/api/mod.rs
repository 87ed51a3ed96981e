//! The HTTP API: one function for each route under `/api/v1`.

pub(super) mod body;
pub(super) mod channels;
pub(super) mod clients;
pub(super) mod history;
pub(super) mod presence;
pub(super) mod publish;
pub(super) mod stats;
