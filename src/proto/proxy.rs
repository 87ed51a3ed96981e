//! The PROXY protocol, version 2: what a proxy that passes bytes on says at the front of a connection
//! about whom it carries. Knows how to read it; whether to believe it is for others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What every header begins with. No request of HTTP and no handshake of TLS does.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What a header of version 1 begins with, which is not read.
pub const SIGNATURE_1: &[u8] = b"PROXY ";

/// The fixed part of a header, in bytes.
pub const HEAD_BYTES: usize = 16;

/// The most bytes of addresses that are read of a header; what stands behind them is skipped.
pub const ADDRESSES_BYTES: usize = 36;

/// Why a header is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadProxy {
    /// Neither LOCAL nor PROXY.
    Command(u8),
    /// The client does not come over a stream.
    Protocol(u8),
    /// Its length has no room for its addresses.
    Short(u16),
    /// It does not begin with [`SIGNATURE`].
    Signature,
    /// It is of this version.
    Version(u8),
}

impl fmt::Display for BadProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "its command is {command}, not LOCAL or PROXY"),
            Self::Protocol(family) => write!(f, "its client comes by {family:#04x}, not by TCP"),
            Self::Short(bytes) => {
                write!(f, "it announces {bytes} bytes, too few for its addresses")
            }
            Self::Signature => f.write_str("it does not begin as version 2 does"),
            Self::Version(version) => write!(f, "it is of version {version}, not 2"),
        }
    }
}

impl std::error::Error for BadProxy {}

/// Whose addresses follow the fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Nobody's that matter: the proxy speaks for itself, or does not know.
    None,
    V4,
    V6,
}

/// The fixed part of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    family: Family,
    rest: u16,
}

impl Head {
    /// Reads the fixed part.
    ///
    /// # Errors
    ///
    /// [`BadProxy`] where it is not one of version 2, for a client of TCP.
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Self, BadProxy> {
        let [signature @ .., kind, family, high, low] = bytes;
        if *signature != SIGNATURE {
            return Err(BadProxy::Signature);
        }
        let (version, command) = (kind >> 4, kind & 0x0F);
        if version != 2 {
            return Err(BadProxy::Version(version));
        }
        let rest = u16::from_be_bytes([*high, *low]);
        let family = match (command, family) {
            // A proxy that asks for itself, as health checks do.
            (0, _) => Family::None,
            (1, 0x11) => Family::V4,
            (1, 0x21) => Family::V6,
            // Unspecified, or a unix socket of the proxy's machine: it stays the proxy's.
            (1, 0x00 | 0x31) => Family::None,
            (1, other) => return Err(BadProxy::Protocol(*other)),
            (other, _) => return Err(BadProxy::Command(other)),
        };
        let head = Self { family, rest };
        if head.rest() < head.addresses() { Err(BadProxy::Short(rest)) } else { Ok(head) }
    }

    /// The bytes behind the fixed part that belong to the header.
    pub fn rest(self) -> usize {
        usize::from(self.rest)
    }

    /// How many of those [`Head::source`] wants, at most [`ADDRESSES_BYTES`].
    pub fn addresses(self) -> usize {
        match self.family {
            Family::None => 0,
            Family::V4 => 12,
            Family::V6 => ADDRESSES_BYTES,
        }
    }

    /// Where the client comes from; `None` where that is the proxy itself. IPv4 in the clothes of
    /// IPv6 is IPv4.
    pub fn source(self, addresses: &[u8]) -> Option<IpAddr> {
        let ip = match self.family {
            Family::None => return None,
            Family::V4 => IpAddr::V4(Ipv4Addr::from(*addresses.first_chunk::<4>()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(*addresses.first_chunk::<16>()?)),
        };
        Some(ip.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header as a proxy writes it.
    fn header(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap();
        [&SIGNATURE[..], &[kind, family], &length.to_be_bytes(), rest].concat()
    }

    fn parse(bytes: &[u8]) -> Result<Option<IpAddr>, BadProxy> {
        let head = Head::parse(bytes.first_chunk().unwrap())?;
        let rest = &bytes[HEAD_BYTES..];
        assert_eq!(rest.len(), head.rest());
        Ok(head.source(&rest[..head.addresses()]))
    }

    #[test]
    fn the_client_of_every_family_is_read() {
        let four = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xBB];
        let client = IpAddr::from([203, 0, 113, 7]);
        assert_eq!(parse(&header(0x21, 0x11, &four)), Ok(Some(client)));
        let extended = [&four[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        assert_eq!(parse(&header(0x21, 0x11, &extended)), Ok(Some(client)), "TLVs are skipped");
        let six: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let rest = [&six.octets()[..], &[0; 20]].concat();
        assert_eq!(parse(&header(0x21, 0x21, &rest)), Ok(Some(IpAddr::V6(six))));
        let mapped = Ipv4Addr::new(203, 0, 113, 7).to_ipv6_mapped();
        let rest = [&mapped.octets()[..], &[0; 20]].concat();
        assert_eq!(parse(&header(0x21, 0x21, &rest)), Ok(Some(client)));
        for itself in [
            header(0x20, 0x00, &[]),
            header(0x20, 0x11, &four),
            header(0x20, 0x77, &[1]),
            header(0x21, 0x00, &[9; 40]),
            header(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(parse(&itself), Ok(None), "{itself:?}");
        }
    }

    #[test]
    fn what_is_no_header_of_version_2_is_refused() {
        for (bad, why) in [
            (header(0x11, 0x11, &[0; 12]), BadProxy::Version(1)),
            (header(0x31, 0x11, &[0; 12]), BadProxy::Version(3)),
            (header(0x22, 0x11, &[0; 12]), BadProxy::Command(2)),
            (header(0x21, 0x12, &[0; 12]), BadProxy::Protocol(0x12)),
            (header(0x21, 0x41, &[0; 12]), BadProxy::Protocol(0x41)),
            (header(0x21, 0x11, &[0; 11]), BadProxy::Short(11)),
            (header(0x21, 0x21, &[0; 35]), BadProxy::Short(35)),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), BadProxy::Signature),
            (b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\x0C".to_vec(), BadProxy::Signature),
        ] {
            assert_eq!(Head::parse(bad.first_chunk().unwrap()), Err(why), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever comes: no panic, the same answer for the same bytes in front, and never an
        /// address that does not stand there.
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), HEAD_BYTES..HEAD_BYTES + 64),
            signed in any::<bool>(),
        ) {
            if signed {
                bytes[..SIGNATURE.len()].copy_from_slice(&SIGNATURE);
                bytes[12] = 0x20 | bytes[12] & 1;
            }
            if let Ok(head) = Head::parse(bytes.first_chunk().unwrap()) {
                prop_assert!(bytes.starts_with(&SIGNATURE));
                prop_assert!(head.addresses() <= head.rest().min(ADDRESSES_BYTES));
                let rest = &bytes[HEAD_BYTES..];
                if let Some(ip) = rest.get(..head.addresses()).and_then(|some| head.source(some)) {
                    let octets = match (ip, head.addresses()) {
                        (IpAddr::V4(ip), 12) => ip.octets().to_vec(),
                        (IpAddr::V4(ip), _) => ip.to_ipv6_mapped().octets().to_vec(),
                        (IpAddr::V6(ip), _) => ip.octets().to_vec(),
                    };
                    prop_assert!(rest.starts_with(&octets));
                }
            }
        }

        /// What a proxy writes is what is read.
        #[test]
        fn an_address_comes_back(ip in any::<IpAddr>(), tlvs in 0_usize..500) {
            let (family, octets, after) = match ip {
                IpAddr::V4(ip) => (0x11, ip.octets().to_vec(), 8),
                IpAddr::V6(ip) => (0x21, ip.octets().to_vec(), 20),
            };
            let rest = [octets, vec![0; after + tlvs]].concat();
            prop_assert_eq!(parse(&header(0x21, family, &rest)), Ok(Some(ip.to_canonical())));
        }
    }
}
