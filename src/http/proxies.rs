//! Who speaks for others: the proxies whose word is believed, and what they say of where a client
//! comes from, in a header of the PROXY protocol or in `X-Forwarded-For`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::HeaderMap;
use ipnet::{IpNet, Ipv4Net};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::proto::proxy::{ADDRESSES_BYTES, BadProxy, HEAD_BYTES, Head, SIGNATURE, SIGNATURE_1};

/// The header that proxies of HTTP write.
pub(super) const FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies that are believed. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those of a list of addresses and networks.
    ///
    /// # Errors
    ///
    /// The first that is none.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let parse = |text: &'a str| {
            let one = text.parse().map(|ip: IpAddr| ip.into()).ok();
            let one = one.or_else(|| text.parse().ok());
            one.map(folded).ok_or(text)
        };
        texts.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether one of them is every address there is, of a kind.
    pub fn is_everybody(&self) -> bool {
        self.0.iter().any(|net| net.prefix_len() == 0)
    }

    /// Whether what `ip` says of others is believed.
    pub fn believes(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Who asks with these headers on a connection from `peer`: the last of the addresses in
    /// `X-Forwarded-For` that is not itself a proxy's, as each proxy adds whom it has seen at the
    /// end. What stands before that, anybody may have written.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        if self.0.is_empty() || !self.believes(peer) {
            return client;
        }
        for line in headers.get_all(FORWARDED_FOR).iter().rev() {
            for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
                // What is no address tells of nobody: who said it is all that is known.
                let Some(ip) = address(hop) else { return client };
                client = ip;
                if !self.believes(ip) {
                    return client;
                }
            }
        }
        client
    }
}

/// Whether a proxy says that a request is of its own machine: `X-Forwarded-For` is there, has no
/// address but of the loopback, and no other header says otherwise. `Forwarded` is not read, and may.
pub(super) fn is_local(headers: &HeaderMap) -> bool {
    let is_loopback = |hop: &[u8]| address(hop).is_some_and(|ip| ip.is_loopback());
    let all_are = |name| {
        let lines = headers.get_all(name).iter();
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).all(is_loopback)
    };
    headers.contains_key(FORWARDED_FOR)
        && all_are(FORWARDED_FOR)
        && all_are("x-real-ip")
        && !headers.contains_key("forwarded")
}

/// A network of IPv4 in the clothes of IPv6, as IPv4.
fn folded(net: IpNet) -> IpNet {
    if let IpNet::V6(six) = net
        && let Some(ip) = six.addr().to_ipv4_mapped()
        && let Some(bits) = six.prefix_len().checked_sub(96)
        && let Ok(four) = Ipv4Net::new(ip, bits)
    {
        return IpNet::V4(four);
    }
    net
}

/// One address of `X-Forwarded-For`: with or without a port, and IPv6 with or without brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

/// Why a connection from a proxy is not gone on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    /// What it began with is no header.
    #[error("its PROXY header cannot be read: {0}")]
    Bad(#[from] BadProxy),
    /// It ended first.
    #[error("it ended before its PROXY header did: {0}")]
    Ended(#[from] io::Error),
    /// It did not come in time.
    #[error("its PROXY header did not come in time")]
    Late,
    /// It is one of version 1.
    #[error("it sends version 1 of the PROXY protocol, and only version 2 is read")]
    Old,
}

/// Reads the header of the PROXY protocol that a connection from a believed proxy may begin with;
/// whom it names. Takes nothing of what is none.
pub(super) async fn read_header(
    socket: &mut TcpStream,
    limit: Duration,
) -> Result<Option<IpAddr>, NoHeader> {
    tokio::time::timeout(limit, read(socket)).await.unwrap_or(Err(NoHeader::Late))
}

async fn read(socket: &mut TcpStream) -> Result<Option<IpAddr>, NoHeader> {
    let mut first = [0; SIGNATURE_1.len()];
    let seen = socket.peek(&mut first).await?;
    if first == SIGNATURE_1 {
        return Err(NoHeader::Old);
    }
    if seen == 0 || first[0] != SIGNATURE[0] {
        return Ok(None);
    }
    let mut head = [0; HEAD_BYTES];
    socket.read_exact(&mut head).await?;
    let head = Head::parse(&head)?;
    let mut addresses = [0; ADDRESSES_BYTES];
    let addresses = &mut addresses[..head.addresses()];
    socket.read_exact(addresses).await?;
    // What else a proxy tells of a connection is nobody's concern here.
    let mut left = head.rest() - head.addresses();
    let mut skipped = [0; 256];
    while left > 0 {
        let some = left.min(skipped.len());
        socket.read_exact(&mut skipped[..some]).await?;
        left -= some;
    }
    Ok(head.source(addresses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn proxies(texts: &[&str]) -> Proxies {
        Proxies::parse(texts.iter().copied()).unwrap()
    }

    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        proxies(trusted).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn addresses_and_networks_are_believed() {
        let all = proxies(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::ffff:198.51.100.0/120"]);
        for ip in ["10.1.2.3", "192.0.2.7", "fd12::1", "198.51.100.9"] {
            assert!(all.believes(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["11.0.0.1", "192.0.2.8", "fe80::1", "198.51.101.1", "::1"] {
            assert!(!all.believes(ip.parse().unwrap()), "{ip}");
        }
        assert!(!Proxies::default().believes("127.0.0.1".parse().unwrap()));
        for bad in ["10.0.0.0/33", "proxy", "", "10.0.0.1:80", "10.0.0"] {
            assert_eq!(Proxies::parse(["10.0.0.1", bad]), Err(bad));
        }
    }

    #[test]
    fn only_a_proxy_says_who_it_speaks_for() {
        let forged = ["1.1.1.1"];
        assert_eq!(client(&[], "10.0.0.1", &forged), "10.0.0.1");
        assert_eq!(client(&["10.0.0.2"], "10.0.0.1", &forged), "10.0.0.1");
        assert_eq!(client(&["10.0.0.1"], "10.0.0.1", &forged), "1.1.1.1");
        assert_eq!(client(&["10.0.0.1"], "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_client_is_the_last_that_no_proxy_is() {
        let inner = ["10.0.0.0/8"];
        for (lines, wanted) in [
            (&["6.6.6.6, 1.1.1.1"][..], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1, 10.0.0.9"], "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1,10.0.0.9"], "1.1.1.1"),
            (&["1.1.1.1", "10.0.0.9 , 10.0.0.8"], "1.1.1.1"),
            (&["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
            (&["1.1.1.1:4711"], "1.1.1.1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:1.1.1.1"], "1.1.1.1"),
            // Whoever wrote what cannot be read is as far as it goes.
            (&["1.1.1.1, unknown"], "10.0.0.1"),
            (&["1.1.1.1, unknown, 10.0.0.9"], "10.0.0.9"),
            (&["1.1.1.1,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
        ] {
            assert_eq!(client(&inner, "10.0.0.1", lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn only_the_loopback_all_the_way_is_this_machine() {
        for (lines, wanted) in [
            (&["127.0.0.1"][..], true),
            (&["127.0.0.1, ::1", "127.9.9.9"], true),
            (&[], false),
            (&["127.0.0.1", "1.1.1.1"], false),
            (&["1.1.1.1, 127.0.0.1"], false),
            (&["127.0.0.1, unknown"], false),
            (&["unix:"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(is_local(&headers), wanted, "{lines:?}");
        }
    }

    proptest! {
        /// What a client writes itself never shows, whatever it is: its proxy adds behind it.
        #[test]
        fn nothing_that_a_client_writes_is_believed(forged in "[ -~]{0,80}") {
            let line = format!("{forged}, 203.0.113.7");
            prop_assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&line]), "203.0.113.7");
            prop_assert_eq!(
                client(&["10.0.0.0/8"], "10.0.0.1", &[&forged, "203.0.113.7"]),
                "203.0.113.7"
            );
        }
    }
}
