//! The native JSON dialect.

use crate::proto::event::Event;

/// Writes the JSON text of an event.
pub fn encode_event(_event: &Event, _out: &mut Vec<u8>) {}

/// Writes the JSON text of a push.
pub fn encode_push(_push: &crate::proto::push::Push<'_>, _out: &mut Vec<u8>) {}
