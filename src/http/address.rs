//! Where a gateway listens: an address of TCP, or a socket in the file system; and what is served
//! there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// What stands before the path of a socket in the file system.
const UNIX: &str = "unix:";

/// The longest path of such a socket, in bytes: the kernel's 108 with the zero at the end.
const PATH_BYTES_MAX: usize = 107;

/// Where a gateway listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a socket: `unix:/run/weir.sock`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The address of TCP, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }

    /// Whether both are the same place, such as `127.0.0.1:1` and `[::ffff:127.0.0.1]:1`. Port 0 is
    /// another each time.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                one.port() != 0 && canonical(*one) == canonical(*other)
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            (Self::Tcp(_), Self::Unix(_)) | (Self::Unix(_), Self::Tcp(_)) => false,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    if ip.is_ipv4() { SocketAddr::new(ip, address.port()) } else { address }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    /// # Errors
    ///
    /// What would be right.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return match path.len() {
                0 => Err("must name a file behind unix:, like \"unix:/run/weir.sock\""),
                1..=PATH_BYTES_MAX if !path.contains('\0') => Ok(Self::Unix(path.into())),
                1..=PATH_BYTES_MAX => Err("must be the path of a file"),
                _ => Err("is too long: the path of a socket has at most 107 bytes"),
            };
        }
        let parsed = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}").parse(),
            None => text.parse(),
        };
        parsed.map(Self::Tcp).map_err(|_| {
            "must be an address and a port, like \"127.0.0.1:8080\" or \"[::1]:8080\", or a \
             socket, like \"unix:/run/weir.sock\""
        })
    }
}

/// What is served at an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serves {
    /// Everything but what clients connect to: where that has an address of its own.
    Admin,
    /// Everything.
    #[default]
    All,
    /// What clients connect to, and whether there is somebody: where the rest is elsewhere.
    Clients,
}

impl Serves {
    /// Whether this path is one of those that are served.
    pub(super) fn has(self, path: &str) -> bool {
        let of_clients = matches!(path, "/ws" | "/sse" | "/poll" | "/echo");
        match self {
            Self::Admin => !of_clients,
            Self::All => true,
            Self::Clients => of_clients || path == "/healthz",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/weir.sock", "unix:weir.sock"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert!(address.is_local(), "{text}");
        }
        assert!(!"0.0.0.0:1".parse::<ListenAddress>().unwrap().is_local());
        assert_eq!("localhost:1".parse::<ListenAddress>().unwrap().to_string(), "127.0.0.1:1");
        let long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        for bad in ["", "here", "127.0.0.1", "unix:", "unix:a\0b", "http://127.0.0.1:1", &long] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad:?}");
        }
        assert!(long[..long.len() - 1].parse::<ListenAddress>().is_ok());
    }

    #[test]
    fn two_addresses_are_the_same_place_or_not() {
        for (one, other, same) in [
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "[::1]:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:a", "unix:a", true),
            ("unix:a", "unix:b", false),
            ("unix:a", "127.0.0.1:1", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse::<ListenAddress>().unwrap());
            assert_eq!(one.is_same(&other), same, "{one} {other}");
            assert_eq!(other.is_same(&one), same, "{other} {one}");
        }
    }

    #[test]
    fn each_path_is_served_where_it_belongs() {
        for path in ["/ws", "/sse", "/poll"] {
            assert!(Serves::Clients.has(path) && !Serves::Admin.has(path), "{path}");
        }
        for path in ["/", "/metrics", "/readyz", "/api/v1/stats", "/weir.js", "/ws/", "/nothing"] {
            assert!(!Serves::Clients.has(path) && Serves::Admin.has(path), "{path}");
        }
        assert!(Serves::Clients.has("/healthz") && Serves::Admin.has("/healthz"));
        assert!(Serves::All.has("/ws") && Serves::All.has("/metrics"));
    }
}
