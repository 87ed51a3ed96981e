//! Who may ask: the origin rule of browsers, and the rule that keeps the API on this machine.

use std::net::Ipv4Addr;

use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};

use super::answer::Refusal;
use super::connection::Peer;
use super::proxies::{self, FORWARDED_FOR};

/// The one value of a header that may be there once.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: header::HeaderName,
    twice: &'static str,
) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Refusal::bad(twice)) } else { Ok(first) }
}

/// Refuses a browser's page from elsewhere.
///
/// Without `Origin` it is no browser. `allowed` are further origins; `*` is any.
pub(super) fn check_origin(
    headers: &HeaderMap,
    host: &str,
    allowed: &[String],
) -> Result<(), Refusal> {
    let Some(origin) = single(headers, header::ORIGIN, "more than one Origin header")? else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let listed = |one: &String| one == "*" || one.eq_ignore_ascii_case(origin);
    if is_same(origin, host) || allowed.iter().any(listed) {
        return Ok(());
    }
    Err(Refusal::forbidden(
        "the Origin header names another site, which http.origins does not list",
    ))
}

/// Whether a page of `origin` was served by `host`. Schemes are not compared: TLS may end before
/// us.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    let host = host.strip_suffix(port).unwrap_or(host);
    !host.is_empty() && authority.eq_ignore_ascii_case(host)
}

/// Refuses whoever is not a program on this machine: there are no API keys that would tell.
pub(super) fn check_local(peer: &Peer, headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
    // A client that a proxy elsewhere has seen on its own loopback is none of this machine.
    if !peer.source.from.is_loopback() || !peer.source.ip.is_loopback() {
        return Err(Refusal::forbidden("without API keys the API answers this machine alone"));
    }
    // A proxy that is believed, and says that all it knows of is this machine, is as good as that.
    let known = peer.doors.options().proxies.believes(peer.source.ip) && proxies::is_local(headers);
    for name in [FORWARDED_FOR, "x-forwarded-host", "forwarded", "x-real-ip", "via"] {
        if headers.contains_key(name) && !known {
            let message = "a proxy forwarded this request, and without API keys the API answers \
                           this machine alone";
            return Err(Refusal::forbidden(message));
        }
    }
    if !is_loopback_name(host) {
        let message = "the Host header is no name of this machine's loopback, such as localhost";
        return Err(Refusal::forbidden(message));
    }
    check_origin(headers, host, &[])
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_local() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80"]
        {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com", "127.0.0.1.nip.io", "10.0.0.1:80"]
        {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn the_same_origin_is_the_same_with_its_default_port() {
        assert!(is_same("http://localhost:8080", "localhost:8080"));
        assert!(is_same("https://Example.com", "example.com:443"));
        assert!(is_same("http://example.com", "example.com"));
        for (origin, host) in [
            ("null", "localhost"),
            ("http://example.com", "example.com:8080"),
            ("http://example.com.evil.org", "example.com"),
            ("file://", ""),
            ("http://", ""),
        ] {
            assert!(!is_same(origin, host), "{origin} {host}");
        }
    }
}
