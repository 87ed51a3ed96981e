//! permessage-deflate, RFC 7692: what is agreed in the handshake, messages inflated within a bound,
//! messages deflated alone so that one frame serves every reader.

pub mod deflater;
pub mod inflater;
pub mod offer;

pub use deflater::Deflater;
pub use inflater::{Inbound, Inflaters};
pub use offer::{Agreed, Wish, negotiate};

/// The bits of the largest window, and of the one where none is named.
pub const WINDOW_BITS_MAX: u8 = 15;

/// The bits of the smallest window that may be named.
pub const WINDOW_BITS_MIN: u8 = 8;

#[cfg(test)]
pub(in crate::proto) mod tests;
