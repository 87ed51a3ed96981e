//! Between bytes and commands, and between pushes and bytes.

pub mod bin;
pub mod json;
