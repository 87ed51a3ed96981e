//! The header `Sec-WebSocket-Extensions`: what a client offers, what we agree to.

use std::fmt;

use super::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};

/// What we want of a client beside its own wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Ask for a window of at most this many bits, 9 to 15, where the client can be asked: it
    /// bounds what is remembered of its messages.
    pub client_window_bits: u8,
    /// Ask the client to compress each message alone.
    pub client_alone: bool,
    /// The least window of ours, in bits, of which anything comes: offers of less are taken only
    /// from a client that makes no better one.
    pub server_window_bits: u8,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            client_window_bits: WINDOW_BITS_MAX,
            client_alone: false,
            server_window_bits: WINDOW_BITS_MIN,
        }
    }
}

/// What was agreed. `Display` is the header's value in our answer.
///
/// Our own messages are always compressed alone: that lets one frame serve every subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The client compresses each message alone.
    pub client_alone: bool,
    /// The bits of the client's window, 8 to 15.
    pub client_window_bits: u8,
    /// The bits of our window, 8 to 15.
    pub server_window_bits: u8,
    /// Whether our answer names the client's window; only a client that offered it expects that.
    names_client_window: bool,
    /// Whether our answer names our window; a client that limited it must be told.
    names_server_window: bool,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permessage-deflate; server_no_context_takeover")?;
        if self.client_alone {
            f.write_str("; client_no_context_takeover")?;
        }
        if self.names_server_window {
            write!(f, "; server_max_window_bits={}", self.server_window_bits)?;
        }
        if self.names_client_window {
            write!(f, "; client_max_window_bits={}", self.client_window_bits)?;
        }
        Ok(())
    }
}

/// Chooses the first offer that is sound from the lines of `Sec-WebSocket-Extensions`, and that
/// leaves us the window that is wished for, where there is such a one.
///
/// An offer with a parameter that is unknown, doubled or out of range is declined (RFC 7692,
/// section 7.1), and what is not a list of extensions offers nothing.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>, wish: Wish) -> Option<Agreed> {
    let mut narrow = None;
    for line in lines {
        // The grammar first: half a list is no list.
        let offers = split(line, b',').unwrap_or_default();
        for agreed in offers.iter().filter_map(|offer| agree(offer, wish)) {
            if agreed.server_window_bits >= wish.server_window_bits {
                return Some(agreed);
            }
            narrow.get_or_insert(agreed);
        }
    }
    narrow
}

/// Parts of `text` between `separator`s outside of quoted strings; `None` if a quote is not ended.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(text.get(start..at)?.trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?.trim());
    (!quoted).then_some(parts)
}

/// What one offer asks for.
#[derive(Default)]
struct Offer {
    server_alone: bool,
    client_alone: bool,
    server_bits: Option<u8>,
    /// The client can be given a window; with the bits that it will not exceed anyway.
    client_bits: Option<u8>,
}

/// Our answer to one offer; `None` declines it.
fn agree(offer: &str, wish: Wish) -> Option<Agreed> {
    let parts = split(offer, b';')?;
    let (name, parameters) = parts.split_first()?;
    if !name.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut asked = Offer::default();
    for parameter in parameters {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (*parameter, None),
        };
        let fresh = match name.to_ascii_lowercase().as_str() {
            "server_no_context_takeover" if value.is_none() => {
                !std::mem::replace(&mut asked.server_alone, true)
            }
            "client_no_context_takeover" if value.is_none() => {
                !std::mem::replace(&mut asked.client_alone, true)
            }
            "server_max_window_bits" => asked.server_bits.replace(window_bits(value?)?).is_none(),
            "client_max_window_bits" => {
                let bits = value.map_or(Some(WINDOW_BITS_MAX), window_bits)?;
                asked.client_bits.replace(bits).is_none()
            }
            _ => false,
        };
        if !fresh {
            return None;
        }
    }
    let hinted = asked.client_bits.unwrap_or(WINDOW_BITS_MAX);
    // Eight bits are never asked for: the common compressor cannot do it.
    let wished = wish.client_window_bits.clamp(WINDOW_BITS_MIN + 1, WINDOW_BITS_MAX);
    Some(Agreed {
        client_alone: asked.client_alone || wish.client_alone,
        client_window_bits: match asked.client_bits {
            Some(_) => hinted.min(wished),
            None => WINDOW_BITS_MAX,
        },
        server_window_bits: asked.server_bits.unwrap_or(WINDOW_BITS_MAX),
        names_client_window: asked.client_bits.is_some() && wished < hinted,
        names_server_window: asked.server_bits.is_some(),
    })
}

/// A token, or what a quoted string holds: where a number is meant, there is nothing to unescape.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits = match value.as_bytes() {
        [one] => one.wrapping_sub(b'0'),
        [b'1', one @ b'0'..=b'9'] => 10 + (one - b'0'),
        _ => return None,
    };
    (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&bits).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: &str = "permessage-deflate; server_no_context_takeover";

    fn answer(line: &str) -> Option<String> {
        negotiate([line], Wish::default()).map(|agreed| agreed.to_string())
    }

    #[test]
    fn every_sound_offer_gets_its_answer() {
        for (offer, rest) in [
            ("permessage-deflate", ""),
            ("Permessage-Deflate", ""),
            ("permessage-deflate; server_no_context_takeover", ""),
            ("permessage-deflate; client_no_context_takeover", "; client_no_context_takeover"),
            ("permessage-deflate; client_max_window_bits", ""),
            ("permessage-deflate; client_max_window_bits=8", ""),
            ("permessage-deflate;client_max_window_bits=\"10\"", ""),
            ("permessage-deflate; server_max_window_bits=8", "; server_max_window_bits=8"),
            ("permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15"),
            ("permessage-deflate ; SERVER_MAX_WINDOW_BITS = \"9\"", "; server_max_window_bits=9"),
            ("x-other; a=\"b,;c\\\"\", permessage-deflate", ""),
            ("permessage-deflate; mode=1, permessage-deflate", ""),
            (
                "permessage-deflate; server_max_window_bits=7, permessage-deflate; \
                 server_max_window_bits=11; client_no_context_takeover",
                "; client_no_context_takeover; server_max_window_bits=11",
            ),
        ] {
            assert_eq!(answer(offer), Some(format!("{ALWAYS}{rest}")), "{offer}");
        }
    }

    #[test]
    fn nonsense_is_declined() {
        for offer in [
            "",
            ",",
            "x-webkit-deflate-frame",
            "permessage-deflate-2",
            "permessage-deflate=1",
            "permessage-deflate;",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=115",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; client_max_window_bits=-1",
            "permessage-deflate; unknown",
            "permessage-deflate, \"",
        ] {
            assert_eq!(answer(offer), None, "{offer}");
        }
    }

    #[test]
    fn a_client_is_limited_only_where_it_offers_that() {
        let wish = Wish { client_window_bits: 11, client_alone: true, ..Wish::default() };
        for (offer, bits, rest) in [
            ("permessage-deflate", 15, ""),
            ("permessage-deflate; client_max_window_bits", 11, "; client_max_window_bits=11"),
            ("permessage-deflate; client_max_window_bits=12", 11, "; client_max_window_bits=11"),
            ("permessage-deflate; client_max_window_bits=10", 10, ""),
        ] {
            let agreed = negotiate([offer], wish).unwrap();
            assert_eq!(agreed.client_window_bits, bits, "{offer}");
            let expected = format!("{ALWAYS}; client_no_context_takeover{rest}");
            assert_eq!(agreed.to_string(), expected, "{offer}");
        }
        let bits = Wish { client_window_bits: 3, ..wish };
        let offer = "permessage-deflate; client_max_window_bits";
        assert_eq!(negotiate([offer], bits).unwrap().client_window_bits, 9);
    }

    #[test]
    fn the_first_sound_offer_of_several_lines_wins() {
        let lines = ["permessage-deflate; x", "permessage-deflate; server_max_window_bits=10"];
        let agreed = negotiate(lines, Wish::default()).unwrap();
        assert_eq!(agreed.server_window_bits, 10);
    }

    #[test]
    fn an_offer_that_leaves_us_a_window_goes_before_one_that_leaves_too_little() {
        let wish = Wish { server_window_bits: 12, ..Wish::default() };
        let bits = |lines: &[&str]| {
            negotiate(lines.iter().copied(), wish).map(|agreed| agreed.server_window_bits)
        };
        let ten = "permessage-deflate; server_max_window_bits=10";
        let eleven = "permessage-deflate; server_max_window_bits=11";
        assert_eq!(bits(&[&format!("{ten}, permessage-deflate")]), Some(15));
        assert_eq!(bits(&[ten, "permessage-deflate; server_max_window_bits=12"]), Some(12));
        assert_eq!(
            bits(&["permessage-deflate; server_max_window_bits=13, permessage-deflate"]),
            Some(13)
        );
        assert_eq!(bits(&[&format!("permessage-deflate; x, {ten}, {eleven}")]), Some(10));
        assert_eq!(bits(&[ten, "permessage-deflate; \""]), Some(10));
    }
}
