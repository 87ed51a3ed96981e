//! Settings: what the file, the environment and the flags say, checked once into [`Config`].

mod access;
mod auth;
mod check;
mod environment;
mod fault;
mod file;
mod key;
mod limits;
mod listen;
mod memory;
mod namespaces;
mod raw;
mod render;
mod unit;
mod value;

pub use check::{Config, LogFormat, LogOptions, Machine};
pub use fault::{BadSetting, Source};
pub use key::Key;
pub use raw::{Inputs, RawConfig};
pub use render::template;
pub use unit::parse_duration;
