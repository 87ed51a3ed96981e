//! Between bytes and commands, and between pushes and bytes.

pub mod json;
