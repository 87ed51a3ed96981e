//! What a WebSocket speaks: the dialect of its subprotocol, the compression of it, and the form in
//! which its events therefore come.

use super::ws::deflate::{Agreed, WINDOW_BITS_MAX};

/// A dialect, by the name under which a handshake offers it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Subprotocol {
    /// `weir.v1.bin`: events and publishes are binary frames, all else is JSON text.
    Bin,
    /// `weir.v1.json`, also where nothing is offered: every message is JSON text.
    #[default]
    Json,
    /// `weir.v1.json+gzip`: a binary frame is a gzip stream of JSON text.
    JsonGzip,
}

impl Subprotocol {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Bin, Self::Json, Self::JsonGzip];

    /// Its name in the handshake.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bin => "weir.v1.bin",
            Self::Json => "weir.v1.json",
            Self::JsonGzip => "weir.v1.json+gzip",
        }
    }

    /// The one of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// What may be compressed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// permessage-deflate may be negotiated.
    pub deflate: bool,
    /// gzip is sent and taken.
    pub gzip: bool,
    /// 1, the fastest, to 9.
    pub level: u32,
    /// Smaller messages are sent as they are, in bytes.
    pub threshold: usize,
}

impl Compression {
    /// The level where nobody asks for another: the first at which telemetry with all the digits of
    /// its numbers shrinks to a quarter (benches/deflate.rs).
    pub const LEVEL: u32 = 2;
}

impl Default for Compression {
    fn default() -> Self {
        Self { deflate: true, gzip: true, level: Self::LEVEL, threshold: 1024 }
    }
}

/// What a handshake has agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spoken {
    /// The dialect.
    pub subprotocol: Subprotocol,
    /// The terms of permessage-deflate; `None` where it was not negotiated.
    pub deflate: Option<Agreed>,
    /// The client takes several messages in one text frame.
    pub batch: bool,
}

impl Spoken {
    /// The form in which events are sent to such a client.
    ///
    /// There are two windows, so that two compressions serve every client: the largest, and
    /// [`NARROW_BITS`] for those that allow less. A client that allows even less than that gets
    /// its messages as they are, which the extension leaves to us message by message; what it
    /// sends may come compressed all the same.
    pub fn format(&self) -> Format {
        let window = self.deflate.map(|agreed| agreed.server_window_bits);
        match (self.subprotocol, window) {
            (Subprotocol::JsonGzip, _) => Format::JsonGzip,
            (Subprotocol::Json, Some(WINDOW_BITS_MAX..)) => Format::JsonDeflate,
            (Subprotocol::Json, Some(NARROW_BITS..)) => Format::JsonDeflateNarrow,
            (Subprotocol::Json, Some(_) | None) => Format::Json,
            (Subprotocol::Bin, Some(WINDOW_BITS_MAX..)) => Format::BinDeflate,
            (Subprotocol::Bin, Some(NARROW_BITS..)) => Format::BinDeflateNarrow,
            (Subprotocol::Bin, Some(_) | None) => Format::Bin,
        }
    }
}

/// The bits of the window for clients that do not allow the largest.
///
/// It serves those that allow 12 to 14.
pub const NARROW_BITS: u8 = 12;

/// The form of an event on the wire: everyone of the same form gets the same bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// A binary frame, whose payload is a gzip stream where that pays.
    Bin,
    /// A binary frame in permessage-deflate, with the payload as it is.
    BinDeflate,
    /// As [`Self::BinDeflate`], within a window of [`NARROW_BITS`].
    BinDeflateNarrow,
    /// JSON text.
    #[default]
    Json,
    /// JSON text in permessage-deflate.
    JsonDeflate,
    /// As [`Self::JsonDeflate`], within a window of [`NARROW_BITS`].
    JsonDeflateNarrow,
    /// A gzip stream of the JSON text in a binary frame; the text itself where that is small.
    JsonGzip,
}

impl Format {
    /// Every form, in the order of [`Self::index`].
    pub const ALL: [Self; 7] = [
        Self::Bin,
        Self::BinDeflate,
        Self::BinDeflateNarrow,
        Self::Json,
        Self::JsonDeflate,
        Self::JsonDeflateNarrow,
        Self::JsonGzip,
    ];

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The form for events of a channel whose alias the client does not know: of binary frames the
    /// JSON text that the same connection may have.
    pub fn without_alias(self) -> Self {
        match self {
            Self::Bin => Self::Json,
            Self::BinDeflate => Self::JsonDeflate,
            Self::BinDeflateNarrow => Self::JsonDeflateNarrow,
            Self::Json | Self::JsonDeflate | Self::JsonDeflateNarrow | Self::JsonGzip => self,
        }
    }

    /// The form that stands in where compression does not pay.
    pub fn base(self) -> Self {
        match self {
            Self::Bin | Self::BinDeflate | Self::BinDeflateNarrow => Self::Bin,
            Self::Json | Self::JsonDeflate | Self::JsonDeflateNarrow | Self::JsonGzip => Self::Json,
        }
    }

    /// The bits of the window that it is compressed within by permessage-deflate; `None` where it is
    /// not.
    pub fn window_bits(self) -> Option<u8> {
        match self {
            Self::BinDeflate | Self::JsonDeflate => Some(WINDOW_BITS_MAX),
            Self::BinDeflateNarrow | Self::JsonDeflateNarrow => Some(NARROW_BITS),
            Self::Bin | Self::Json | Self::JsonGzip => None,
        }
    }

    /// Whether it is compressed where that pays.
    pub fn is_compressed(self) -> bool {
        self != Self::Json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ws::deflate::{Wish, negotiate};

    fn format(subprotocol: Subprotocol, offer: &str) -> Format {
        let deflate = negotiate([offer], Wish::default());
        Spoken { subprotocol, deflate, batch: false }.format()
    }

    #[test]
    fn forms_stand_at_their_places_and_names_are_found() {
        for (at, format) in Format::ALL.into_iter().enumerate() {
            assert_eq!(format.index(), at);
        }
        for one in Subprotocol::ALL {
            assert_eq!(Subprotocol::find(one.name()), Some(one));
        }
        assert_eq!(Subprotocol::find("weir.v1.JSON"), None);
    }

    #[test]
    fn the_window_that_a_client_allows_decides_its_form() {
        let bits = |bits: u8| format!("permessage-deflate; server_max_window_bits={bits}");
        for (subprotocol, plain, narrow, wide) in [
            (Subprotocol::Bin, Format::Bin, Format::BinDeflateNarrow, Format::BinDeflate),
            (Subprotocol::Json, Format::Json, Format::JsonDeflateNarrow, Format::JsonDeflate),
            (Subprotocol::JsonGzip, Format::JsonGzip, Format::JsonGzip, Format::JsonGzip),
        ] {
            assert_eq!(format(subprotocol, "x-other"), plain);
            assert_eq!(format(subprotocol, "permessage-deflate"), wide);
            for found in 8..=15 {
                let wanted = match found {
                    8..=11 => plain,
                    12..=14 => narrow,
                    _ => wide,
                };
                assert_eq!(format(subprotocol, &bits(found)), wanted, "{found} bits");
            }
        }
    }
}
