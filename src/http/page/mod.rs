//! The live page and the browser client, served as they are.

mod asset;

pub(super) use asset::{Asset, find};
