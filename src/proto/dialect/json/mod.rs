//! The native JSON dialect: one JSON object a message, both ways.

mod encode;
mod parse;
mod plain;
mod room;
mod scan;
mod split;
mod text;
pub mod value;

pub use encode::{
    encode_event, encode_push, encode_reading, encode_signal, encode_snapshot, payload_end,
    payload_text, put_event_head,
};
pub use parse::Parser;
pub use room::encode_roster;
pub use split::{Messages, is_blank, messages};
pub use text::write_string;
